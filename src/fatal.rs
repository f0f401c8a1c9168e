//! Why a node stops: one reason, one sentence for the operator, one exit status each. Scripts and systemd units rely on
//! the statuses: they never change their meaning.

use std::path::PathBuf;

use thiserror::Error;

use crate::config::ConfigError;

/// A reason to stop. The text says what happened, where, and what to do.
#[derive(Debug, Error)]
pub enum Fatal {
    #[error("{0}")]
    Config(#[from] ConfigError),

    #[error("cannot listen on {address} for {purpose}: {why}")]
    PortTaken { address: String, purpose: &'static str, why: String },
    #[error("the data directory {path} is not writable: {why}", path = path.display())]
    DirectoryNotWritable { path: PathBuf, why: String },
    #[error("cannot make {path}: {why}", path = path.display())]
    CannotMake { path: PathBuf, why: String },
    #[error("{path} is a file, not a directory", path = path.display())]
    NotADirectory { path: PathBuf },
    #[error("the data directory {path} is in use by {holder}: one process at a time", path = path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("{path} is not a prepared data directory; prepare it once with `beaver-raft init --config FILE`", path = path.display())]
    NotPrepared { path: PathBuf },
    #[error("{path} {why}", path = path.display())]
    NoData { path: PathBuf, why: &'static str },
    #[error("{path} is not a new directory: {why}; init never overwrites", path = path.display())]
    NotEmpty { path: PathBuf, why: String },
    #[error("{path} is neither empty nor a Beaver-Raft directory (it holds: {holds}); choose another", path = path.display())]
    Foreign { path: PathBuf, holds: String },
    #[error(
        "{path} holds the binlog of a beanstalkd ({file}), which is not read here: choose an empty directory; to move the jobs, \
         start that beanstalkd on another port (beanstalkd -b {path} -p PORT), and let a client reserve each job there, put it \
         here, and then delete it there",
        path = path.display()
    )]
    Binlog { path: PathBuf, file: String },
    /// `why` names the directory, whose it is, and what would start it.
    #[error("{why}")]
    WrongIdentity { why: String },
    #[error("peers refuse this node: {why}")]
    Refused { why: String },
    /// A backup of a part of it was put in its place.
    #[error("{why}")]
    PartialRestore { path: PathBuf, why: String },

    #[error("io_uring cannot be used: {why}")]
    NoIoUring { why: String },
    #[error("the limit on locked memory is too low: {why}")]
    MemlockTooLow { why: String },
    #[error("the data directory {path} must be on a disk with direct I/O: {why}", path = path.display())]
    NoDirectIo { path: PathBuf, why: String },
    #[error("the system refused {what}: {why}")]
    System { what: String, why: String },
    /// One of its own threads was waited for in vain, at start or at stop.
    #[error("{what}; the host is overloaded, or this is a bug: a restart may help")]
    ThreadLate { what: String },

    /// An entry that was durable can't be read any more.
    #[error("the log is damaged: {0}")]
    FaultyLog(String),
    #[error("the vote cannot be read, so this node may not vote: {0}")]
    VoteUnreadable(String),
    #[error("a write to {path} failed, so this disk is no longer trusted: {why}", path = path.display())]
    WriteFailed { path: PathBuf, why: String },
    #[error("reading {path} failed: {why}", path = path.display())]
    ReadFailed { path: PathBuf, why: String },
    /// `away_ms` counts against nobody.
    #[error(
        "the disk of {path} has not completed a write for {waited_ms} ms in which this node's thread was there to hear \
         of it (it was busy or stopped for another {away_ms} ms)",
        path = path.display()
    )]
    Stalled { path: PathBuf, waited_ms: u64, away_ms: u64 },

    /// The start would not find it: it is below the log's floor.
    #[error("a job is lost: {0}")]
    JobLost(String),

    /// Two entries of one index and term, or a leader that would overwrite what is committed here.
    #[error("logs of two members contradict each other: {0}; do not delete anything, compare the nodes' logs first")]
    ChainConflict(String),
    #[error("this node's state differs from that of the majority: {0}")]
    StateDiffers(String),

    #[error("internal error: {0}; this is a bug, please report it with the log")]
    Internal(String),
}

/// Exit statuses with the names that documentation gives them. 0 is a clean end, 1 what a client command could not do.
pub const EXIT_STATUSES: &[(u8, &str)] = &[
    (2, "usage or configuration"),
    (10, "an address is taken or cannot be bound"),
    (11, "the data directory cannot be made or written"),
    (12, "the data directory is locked by another process"),
    (13, "the data directory is not prepared"),
    (14, "a directory that is not empty where a new one is wanted"),
    (15, "the data directory belongs to another cluster, node or format"),
    (16, "peers refuse this node"),
    (17, "the data directory holds files of different times: a part of it was restored"),
    (20, "no io_uring"),
    (21, "too little memory may be locked"),
    (22, "no direct I/O on this file system"),
    (23, "another refusal of the operating system"),
    (24, "a thread of the node did not begin or end in time"),
    (30, "a damaged log"),
    (31, "an unreadable vote"),
    (32, "a failed write"),
    (33, "a failed read"),
    (34, "a stalled disk"),
    (35, "a job that lives and of which no copy can be read"),
    (40, "contradicting logs"),
    (41, "a state that differs from the majority's"),
    (50, "a bug"),
];

impl Fatal {
    /// The status with which the process exits.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Fatal::Config(_) => 2,
            Fatal::PortTaken { .. } => 10,
            Fatal::DirectoryNotWritable { .. } | Fatal::CannotMake { .. } | Fatal::NotADirectory { .. } => 11,
            Fatal::Locked { .. } => 12,
            Fatal::NotPrepared { .. } | Fatal::NoData { .. } => 13,
            Fatal::NotEmpty { .. } | Fatal::Foreign { .. } | Fatal::Binlog { .. } => 14,
            Fatal::WrongIdentity { .. } => 15,
            Fatal::Refused { .. } => 16,
            Fatal::PartialRestore { .. } => 17,
            Fatal::NoIoUring { .. } => 20,
            Fatal::MemlockTooLow { .. } => 21,
            Fatal::NoDirectIo { .. } => 22,
            Fatal::System { .. } => 23,
            Fatal::ThreadLate { .. } => 24,
            Fatal::FaultyLog(_) => 30,
            Fatal::VoteUnreadable(_) => 31,
            Fatal::WriteFailed { .. } => 32,
            Fatal::ReadFailed { .. } => 33,
            Fatal::Stalled { .. } => 34,
            Fatal::JobLost(_) => 35,
            Fatal::ChainConflict(_) => 40,
            Fatal::StateDiffers(_) => 41,
            Fatal::Internal(_) => 50,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_status_is_named_once() {
        let mut statuses: Vec<u8> = EXIT_STATUSES.iter().map(|(status, _)| *status).collect();
        statuses.dedup();
        assert_eq!(statuses.len(), EXIT_STATUSES.len());
        let named = |fatal: Fatal| EXIT_STATUSES.iter().any(|(status, _)| *status == fatal.exit_status());
        assert!(named(Fatal::Internal(String::new())));
        assert!(named(Fatal::Config(ConfigError::Missing { file: None, keys: vec!["node"] })));
        assert!(named(Fatal::ThreadLate { what: String::new() }));
        assert!(named(Fatal::Stalled { path: PathBuf::new(), waited_ms: 1, away_ms: 0 }));
    }
}
