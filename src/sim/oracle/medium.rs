//! What a disk truly holds: the log as a node would recover it if the power went now.

use std::path::Path;

use crate::sim::disk::SimDisk;
use crate::sim::disk::block_on::block_on;
use crate::types::{ChainHash, Index, ShardId};
use crate::wal::directory::segments_dir;
use crate::wal::entry::{Entry, LogIdentity};
use crate::wal::recovery::{LogPlace, RecoveryError, recover};
use crate::wal::segment::SegmentSizes;

/// The durable log of one shard on one disk.
#[derive(Debug, Default)]
pub struct MediumLog {
    pub entries: Vec<Entry>,
    /// Entries that were durable and are damaged.
    pub faulty: usize,
    /// How often each row of the recovery table held.
    pub rows: Vec<u64>,
}

impl MediumLog {
    #[must_use]
    pub fn chain_at(&self, index: Index) -> Option<ChainHash> {
        let place = usize::try_from(index.0.checked_sub(1)?).ok()?;
        self.entries.get(place).map(|entry| entry.meta.chain)
    }
}

/// Reads what is durable, leaving the disk as it is.
///
/// # Errors
/// As a node that starts on it would be told.
pub fn read_log(
    disk: &SimDisk,
    data: &Path,
    shard: ShardId,
    identity: LogIdentity,
    sizes: SegmentSizes,
) -> Result<MediumLog, RecoveryError> {
    let image = disk.durable_image();
    let place = LogPlace::whole(segments_dir(data, shard), identity, sizes);
    let mut entries = Vec::new();
    let recovered = block_on(recover(&image, &place, |entry, _| entries.push(entry.clone())))?;
    Ok(MediumLog { entries, faulty: recovered.faulty.len(), rows: recovered.rows.to_vec() })
}
