//! The first step of a recovery: the machine comes from the newest snapshot that can be used, or begins anew.
//!
//! It must never let a node serve from a state that its log contradicts.

use std::path::Path;
use std::rc::Rc;

use super::host::Host;
use crate::fatal::Fatal;
use crate::io::{Disk, Runtime};
use crate::job::Machine;
use crate::snapshot::shelf::{self, Found};
use crate::snapshot::{Frame, Snapshot};
use crate::types::{ChainHash, Index, LogPosition};
use crate::wal::entry::LogIdentity;

/// What a shard starts from.
pub struct Restored<Map> {
    pub machine: Machine,
    /// None: from the beginning of the log.
    pub snapshot: Option<Snapshot<Map>>,
    /// No newer one is here, which could not be used.
    pub is_newest: bool,
}

/// # Errors
/// The directory of the snapshots cannot be made or read. Not for a snapshot that cannot be used: that is told, and an older
/// one is used, or the log from its beginning.
pub async fn restore<R: Runtime>(rt: &R, dir: &Path, identity: &LogIdentity) -> Result<Restored<MapOf<R>>, Fatal> {
    let shard = identity.shard;
    let begun = rt.now();
    let failed = |error: std::io::Error| Fatal::ReadFailed { path: dir.to_path_buf(), why: error.to_string() };
    rt.disk().create_dir(dir).await.map_err(failed)?;
    let Found { newest, refused } = shelf::restore_newest(rt.disk(), dir, identity).await.map_err(failed)?;
    let is_newest = refused.is_empty();
    for error in refused {
        tracing::warn!(%shard, "{error}; going back to an older state, and replaying more of the log");
    }
    let Some((snapshot, machine)) = newest else {
        return Ok(Restored { machine: Machine::new(), snapshot: None, is_newest });
    };
    let counts = machine.counts();
    let took_ms = rt.now().saturating_sub(begun).0 / 1_000_000;
    let (index, bytes) = (snapshot.frame().position.index, snapshot.header.file_bytes());
    let jobs = counts.ready + counts.reserved + counts.delayed + counts.buried;
    tracing::info!(%shard, index = index.0, bytes, jobs, took_ms, "restored a snapshot");
    Ok(Restored { machine, snapshot: Some(snapshot), is_newest })
}

pub type MapOf<R> = <<R as Runtime>::Disk as Disk>::Map;

/// Whether the log holds the entry that a snapshot is of, and holds it as it was then.
///
/// # Errors
/// It does not: the two do not belong together, or what was durable is gone.
pub fn check(frame: &Frame, last: Index, in_log: Option<(LogPosition, ChainHash)>) -> Result<(), Fatal> {
    let Frame { identity, position, chain, .. } = frame;
    let shard = identity.shard;
    match in_log {
        Some(found) if found != (*position, *chain) => Err(Fatal::FaultyLog(format!(
            "shard {shard}: the snapshot of entry {position} (index@term) was taken in another history than the log has; \
             files of two nodes or two times were mixed: replace this node's data directory"
        ))),
        Some(_) => Ok(()),
        None => Err(Fatal::FaultyLog(format!(
            "shard {shard}: the log ends at entry {last}, and there is a snapshot of entry {position} (index@term): what \
             was durable is gone; replace this node's data directory"
        ))),
    }
}

/// Counts all jobs of the snapshot afresh, behind a node that serves already; a difference stops it.
pub async fn recount<R: Runtime>(host: Rc<Host<R>>, snapshot: Snapshot<MapOf<R>>) {
    let (path, shard) = (snapshot.path.clone(), snapshot.frame().identity.shard);
    let begun = host.rt.now();
    match host.rt.beside(move || snapshot.recount()).await {
        Ok(jobs) => {
            let took_ms = host.rt.now().saturating_sub(begun).0 / 1_000_000;
            tracing::info!(%shard, jobs, took_ms, "counted all jobs of the snapshot: they are what they should be");
        }
        Err(error) => host.fate.seal(Fatal::StateDiffers(format!(
            "shard {shard}, {path}: {error}; keep the file for a report, and replace this node's data directory",
            path = path.display()
        ))),
    }
}
