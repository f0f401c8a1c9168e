//! What of a shard's log stands below its floor: from where on the log counts, and which files hold the jobs that live from
//! before. Replaced as a whole, so each change of files is one step: what it names is durable before, what it no longer names
//! is removed after.
//!
//! It must never name a file that is not there, nor a floor that no snapshot covers.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::{DirectoryError, Hex, damaged, read, write};
use super::entry::{LogIdentity, origin_chain};
use super::format::FORMAT;
use super::index::SegmentNumber;
use crate::io::Disk;
use crate::types::{ChainHash, Index, JobId, LogPosition, Term};

/// The end of a segment at or below which everything is committed, and covered by the snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    pub position: LogPosition,
    pub chain: ChainHash,
    /// The first job above it.
    pub next_job: JobId,
    /// Segments that came into use before the one with this ordinal lie below it.
    pub ordinal: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub floor: Floor,
    /// Segments of the log below the floor, each with the last of its entries that count, ascending.
    pub segments: Vec<(SegmentNumber, Index)>,
    /// Store segments, ascending.
    pub stores: Vec<SegmentNumber>,
    /// Above the number of every store segment that there ever was.
    pub next_store: SegmentNumber,
}

impl Manifest {
    /// Of a log that counts from its very beginning.
    #[must_use]
    pub fn of_whole_log(identity: &LogIdentity) -> Manifest {
        Manifest {
            floor: Floor {
                position: LogPosition::ORIGIN,
                chain: origin_chain(identity),
                next_job: JobId(1),
                ordinal: 0,
            },
            segments: Vec::new(),
            stores: Vec::new(),
            next_store: SegmentNumber(1),
        }
    }

    /// # Errors
    /// If it is damaged, another log's, or cannot be read. One that was never written is that of a whole log.
    pub async fn load<D: Disk>(disk: &D, path: &Path, identity: &LogIdentity) -> Result<Manifest, DirectoryError> {
        let Some(stored) = read::<D, Stored>(disk, path).await? else { return Ok(Manifest::of_whole_log(identity)) };
        if stored.format != FORMAT {
            return Err(DirectoryError::UnknownFormat { path: path.to_owned(), format: stored.format });
        }
        if (stored.cluster.0, stored.shard) != (identity.cluster.0, identity.shard.0) {
            return Err(damaged(path, "it is another log's"));
        }
        Ok(Manifest {
            floor: Floor {
                position: LogPosition::new(Term(stored.term), Index(stored.index)),
                chain: ChainHash(stored.chain.0),
                next_job: JobId(stored.next_job),
                ordinal: stored.ordinal,
            },
            segments: stored.segments.into_iter().map(|(number, last)| (SegmentNumber(number), Index(last))).collect(),
            stores: stored.stores.into_iter().map(SegmentNumber).collect(),
            next_store: SegmentNumber(stored.next_store),
        })
    }

    /// Replaces the one before, durably.
    ///
    /// # Errors
    /// If the disk is full or fails; then it may be either.
    pub async fn save<D: Disk>(&self, disk: &D, path: &Path, identity: &LogIdentity) -> Result<(), DirectoryError> {
        let stored = Stored {
            format: FORMAT,
            cluster: Hex(identity.cluster.0),
            shard: identity.shard.0,
            index: self.floor.position.index.0,
            term: self.floor.position.term.0,
            chain: Hex(self.floor.chain.0),
            next_job: self.floor.next_job.0,
            ordinal: self.floor.ordinal,
            segments: self.segments.iter().map(|(number, last)| (number.0, last.0)).collect(),
            stores: self.stores.iter().map(|number| number.0).collect(),
            next_store: self.next_store.0,
        };
        write(disk, path, &stored).await
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u16,
    cluster: Hex,
    shard: u16,
    index: u64,
    term: u64,
    chain: Hex,
    next_job: u64,
    ordinal: u32,
    segments: Vec<(u32, u64)>,
    stores: Vec<u32>,
    next_store: u32,
}
