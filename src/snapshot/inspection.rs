//! A shard's snapshots looked at from outside, while no node runs on them. It must never change a byte, nor believe one that was
//! not verified.

use std::path::Path;

use serde::Serialize;

use super::frame::Kind;
use super::reading::{OpenError, open};
use super::{Snapshot, shelf};
use crate::io::Disk;
use crate::job::view::Counts;
use crate::types::Nanos;
use crate::wal::entry::LogIdentity;
use crate::wal::inspection::{Fault, Living, Standing};

/// A snapshot whose chunks are all what they were written as, and the state in it.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotFound {
    pub name: String,
    pub bytes: u64,
    /// The last entry whose effect is in it.
    pub index: u64,
    pub term: u64,
    /// Whether the bodies of jobs are in it.
    pub is_full: bool,
    /// All of them verified.
    pub chunks: u64,
    pub ready: u64,
    pub reserved: u64,
    pub delayed: u64,
    pub buried: u64,
    pub tubes: u64,
    pub sessions: u64,
    /// Jobs were put up to here.
    pub last_job: u64,
    /// Of the state: the same on every node at the same entry.
    pub fingerprint: String,
    /// The cluster's wall clock at its entry, in milliseconds since 1970.
    pub wall_ms: u64,
    /// All jobs were counted again, one by one, and they are what the fingerprint says.
    pub is_recounted: bool,
}

/// A shard's snapshots.
#[derive(Debug, Default)]
pub struct SnapshotsFound {
    /// Those that can be used, newest first.
    pub snapshots: Vec<SnapshotFound>,
    /// Where each of them stands in the log.
    pub standing: Vec<Standing>,
    /// Which jobs lived in the newest.
    pub living: Option<Living>,
    pub faults: Vec<Fault>,
}

/// Looks at all snapshots in a directory: their chunks are verified, and the state is restored from each. `recounted`: every
/// job is counted, too.
pub async fn inspect<D: Disk>(disk: &D, dir: &Path, identity: &LogIdentity, recounted: bool) -> SnapshotsFound {
    let mut found = SnapshotsFound::default();
    // Made when a node first starts.
    for (index, path) in shelf::list(disk, dir).await.unwrap_or_default() {
        let opened = open(disk, &path, identity).await.and_then(|snapshot| {
            let found = snapshot.frame().position.index;
            if found == index { Ok(snapshot) } else { Err(OpenError::Misnamed { path: path.clone(), found }) }
        });
        let looked_at = opened.and_then(|snapshot| look(&snapshot, recounted, &mut found));
        if let Err(error) = looked_at {
            found.faults.push(fault(&path, &error));
        }
    }
    found
}

fn look<Map: AsRef<[u8]>>(
    snapshot: &Snapshot<Map>,
    recounted: bool,
    found: &mut SnapshotsFound,
) -> Result<(), OpenError> {
    let machine = snapshot.restore()?;
    let (header, frame) = (&snapshot.header, snapshot.frame());
    if recounted && let Err(error) = snapshot.recount() {
        found.faults.push(Fault::new(&snapshot.path, None, error));
        return Ok(());
    }
    let Counts { ready, reserved, delayed, buried, tubes, sessions, .. } = machine.counts();
    found.standing.push(Standing { position: frame.position, chain: frame.chain });
    if found.living.is_none() {
        let is_newest = found.faults.is_empty();
        found.living = Some(Living { jobs: machine.capture().live(), next_job: frame.next_job, is_newest });
    }
    found.snapshots.push(SnapshotFound {
        name: shelf::file_name(frame.position.index),
        bytes: header.file_bytes(),
        index: frame.position.index.0,
        term: frame.position.term.0,
        is_full: frame.kind == Kind::Full,
        chunks: header.chunks(),
        ready,
        reserved,
        delayed,
        buried,
        tubes,
        sessions,
        last_job: frame.next_job.0.saturating_sub(1),
        fingerprint: format!("{:032x}", frame.digest),
        wall_ms: frame.times.wall.0 / Nanos::from_millis(1).0,
        is_recounted: recounted,
    });
    Ok(())
}

fn fault(path: &Path, error: &OpenError) -> Fault {
    match error {
        OpenError::Invalid { why, .. } => Fault::new(path, why.offset(), why),
        OpenError::NoArchive { why, .. } => Fault::new(path, None, why),
        OpenError::NotRestored { why, .. } => Fault::new(path, None, why),
        OpenError::Misnamed { found, .. } => {
            Fault::new(path, None, format!("it is of entry {found}, which its name does not say"))
        }
    }
}
