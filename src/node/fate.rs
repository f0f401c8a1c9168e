//! How the node ends: once, for one reason, which every task of the core thread can see.

use std::cell::{Cell, RefCell};
use std::path::Path;

use tokio::sync::Notify;

use crate::config::EMBEDDED_CLUSTER;
use crate::fatal::Fatal;
use crate::io::startup::StartupError;
use crate::wal::directory::{DirectoryError, NodeIdentity};
use crate::wal::keeper::KeepError;
use crate::wal::recovery::RecoveryError;
use crate::wal::rewrite::RewriteError;
use crate::wal::vote::VoteError;
use crate::wal::writer::WriteError;

/// Invariant: the first reason stays; later ones are only logged.
#[derive(Debug, Default)]
pub struct Fate {
    end: RefCell<Option<Result<(), Fatal>>>,
    is_sealed: Cell<bool>,
    sealed: Notify,
}

impl Fate {
    /// The node must stop, because it can't be trusted any more.
    pub fn seal(&self, why: Fatal) {
        self.end_with(Err(why));
    }

    /// The node ends as it was asked to.
    pub fn finish(&self) {
        self.end_with(Ok(()));
    }

    fn end_with(&self, end: Result<(), Fatal>) {
        if !self.is_sealed.replace(true) {
            *self.end.borrow_mut() = Some(end);
        } else if let Err(later) = end {
            tracing::error!("while stopping: {later}");
        }
        self.sealed.notify_waiters();
    }

    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.is_sealed.get()
    }

    /// Returns once the node's end is decided.
    pub async fn wait(&self) {
        let sealed = self.sealed.notified();
        if !self.is_sealed() {
            sealed.await;
        }
    }

    /// # Errors
    /// The reason, if it was not a clean end.
    pub fn take(&self) -> Result<(), Fatal> {
        self.end.borrow_mut().take().unwrap_or(Ok(()))
    }
}

impl From<WriteError> for Fatal {
    fn from(error: WriteError) -> Fatal {
        Fatal::WriteFailed { path: error.path().to_path_buf(), why: error.to_string() }
    }
}

impl From<RewriteError> for Fatal {
    fn from(error: RewriteError) -> Fatal {
        let why = error.to_string();
        match error {
            RewriteError::Read(error) => Fatal::ReadFailed { path: error.path, why },
            RewriteError::Write { path, .. } => Fatal::WriteFailed { path, why },
        }
    }
}

impl From<StartupError> for Fatal {
    fn from(error: StartupError) -> Fatal {
        let why = error.to_string();
        match error {
            StartupError::NoUring { .. }
            | StartupError::UringDisabled(_)
            | StartupError::UringNotPermitted(_)
            | StartupError::UringBroken(_) => Fatal::NoIoUring { why },
            StartupError::TooLittleLockedMemory { .. } => Fatal::MemlockTooLow { why },
            StartupError::TooFewFiles { .. } | StartupError::Limits(_) => {
                Fatal::System { what: "the limits that a node needs".to_owned(), why }
            }
            StartupError::InMemory(path) | StartupError::NoDirectIo(path) => Fatal::NoDirectIo { path, why },
            StartupError::NotWritable { path, error } => Fatal::DirectoryNotWritable { path, why: error.to_string() },
        }
    }
}

impl From<VoteError> for Fatal {
    fn from(error: VoteError) -> Fatal {
        let why = error.to_string();
        match error {
            VoteError::Write { path, .. } | VoteError::AfterFailure { path } => Fatal::WriteFailed { path, why },
            VoteError::Open { path, .. } => Fatal::ReadFailed { path, why },
            VoteError::Foreign { .. } | VoteError::OtherIncarnation { .. } | VoteError::UnknownFormat { .. } => {
                Fatal::WrongIdentity { why }
            }
            VoteError::Unreadable { .. } => Fatal::VoteUnreadable(why),
        }
    }
}

/// Whose a directory is that another was expected to have; and what starts it, where that is a matter of flags.
fn whose(path: &Path, identity: &NodeIdentity, found: &str, expected: &str) -> String {
    let (path, node, cluster) = (path.display(), identity.node, &identity.cluster);
    let is_single = |cluster: &str| cluster == EMBEDDED_CLUSTER;
    if is_single(cluster) && found.starts_with("cluster ") {
        return format!(
            "{path} belongs to a single node; start it with --data {path}, without a cluster's configuration"
        );
    }
    if is_single(expected) {
        return format!("{path} belongs to member {node} of cluster {cluster}; start it with --config");
    }
    format!("{path} belongs to {found}, the configuration says {expected}")
}

impl From<DirectoryError> for Fatal {
    fn from(error: DirectoryError) -> Fatal {
        let why = error.to_string();
        match error {
            DirectoryError::NotPrepared { path } => Fatal::NotPrepared { path },
            DirectoryError::NotEmpty { path, found } => Fatal::NotEmpty { path, why: found },
            DirectoryError::Another { path, identity, found, expected } => {
                Fatal::WrongIdentity { why: whose(&path, &identity, &found, &expected) }
            }
            DirectoryError::UnknownFormat { .. } | DirectoryError::Damaged { .. } => Fatal::WrongIdentity { why },
            DirectoryError::PartialRestore { path, .. } => Fatal::PartialRestore { path, why },
            DirectoryError::Io { path, source } => Fatal::DirectoryNotWritable { path, why: source.to_string() },
            DirectoryError::Vote(error) => error.into(),
        }
    }
}

impl From<KeepError> for Fatal {
    fn from(error: KeepError) -> Fatal {
        let why = error.to_string();
        match error {
            KeepError::Read { path, .. } => Fatal::ReadFailed { path, why },
            KeepError::Change { path, .. } => Fatal::WriteFailed { path, why },
            KeepError::Manifest(error) => error.into(),
            KeepError::Rows { .. }
            | KeepError::Missing { .. }
            | KeepError::Damaged(_)
            | KeepError::Segment { .. }
            | KeepError::Unknown { .. } => Fatal::FaultyLog(why),
        }
    }
}

impl From<RecoveryError> for Fatal {
    fn from(error: RecoveryError) -> Fatal {
        let why = error.to_string();
        match error {
            // Of a disk that fails while it is looked at, nothing is known about the log on it.
            RecoveryError::Read { path, .. } => Fatal::ReadFailed { path, why },
            RecoveryError::Sync { path, .. } | RecoveryError::Remove { path, .. } => Fatal::WriteFailed { path, why },
            _ => Fatal::FaultyLog(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::types::Index;

    fn path() -> PathBuf {
        PathBuf::from("/data/shard-0/00000001.seg")
    }

    fn failed() -> io::Error {
        io::Error::other("the device says no")
    }

    #[test]
    fn a_disk_that_fails_in_recovery_is_not_told_as_a_damaged_log() {
        let status = |error: RecoveryError| Fatal::from(error).exit_status();
        assert_eq!(status(RecoveryError::Read { path: path(), source: failed() }), 33);
        assert_eq!(status(RecoveryError::Sync { path: path(), source: failed() }), 32);
        assert_eq!(status(RecoveryError::Remove { path: path(), source: failed() }), 32);
        // What was read, and is wrong, is.
        assert_eq!(status(RecoveryError::HeaderUnreadable { path: path() }), 30);
        assert_eq!(status(RecoveryError::NothingAboveFloor { dir: path(), floor: Index(7) }), 30);
    }

    #[test]
    fn a_vote_that_cannot_be_written_is_a_failed_write_and_one_that_cannot_be_opened_a_failed_read() {
        let status = |error: VoteError| Fatal::from(error).exit_status();
        assert_eq!(status(VoteError::Write { path: path(), offset: 0, source: failed() }), 32);
        assert_eq!(status(VoteError::AfterFailure { path: path() }), 32);
        assert_eq!(status(VoteError::Open { path: path(), source: failed() }), 33);
    }

    #[test]
    fn a_keeper_that_cannot_write_is_a_failed_write_and_one_that_cannot_read_a_failed_read() {
        let status = |error: KeepError| Fatal::from(error).exit_status();
        assert_eq!(status(KeepError::Read { what: "open", path: path(), source: failed() }), 33);
        assert_eq!(status(KeepError::Change { what: "sync", path: path(), source: failed() }), 32);
        assert_eq!(status(KeepError::Missing { path: path() }), 30);
    }

    #[test]
    fn the_first_reason_stays() {
        let fate = Fate::default();
        fate.seal(Fatal::ReadFailed { path: path(), why: String::new() });
        fate.seal(Fatal::WriteFailed { path: path(), why: String::new() });
        fate.finish();
        assert!(fate.is_sealed());
        assert_eq!(fate.take().map_err(|fatal| fatal.exit_status()), Err(33));
    }
}
