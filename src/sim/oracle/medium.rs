//! What a disk truly holds: the log as a node would recover it if the power went now.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cli::inspect::look_at;
use crate::fatal::Fatal;
use crate::io::Disk;
use crate::sim::disk::SimDisk;
use crate::sim::disk::block_on::block_on;
use crate::snapshot::completion::complete;
use crate::snapshot::install::InstallPlace;
use crate::types::{ChainHash, Index, ShardId};
use crate::wal::directory::{identify, manifest_path, segments_dir};
use crate::wal::entry::{Entry, LogIdentity};
use crate::wal::index::{Placement, SegmentNumber};
use crate::wal::inspection::Fault;
use crate::wal::inventory::{Inventory, Slot};
use crate::wal::manifest::Manifest;
use crate::wal::recovery::{LogPlace, recover};
use crate::wal::segment::SegmentSizes;

/// The durable log of one shard on one disk.
#[derive(Debug, Default)]
pub struct MediumLog {
    /// The log's floor: what is below is committed, and covered by snapshots.
    pub floor: Index,
    pub floor_chain: ChainHash,
    /// Those above it.
    pub entries: Vec<Entry>,
    /// Entries that were durable and are damaged.
    pub faulty: Vec<Index>,
    /// What there is of the log, damaged entries included.
    inventory: Option<Inventory>,
    /// An incomplete end was dropped.
    pub was_cut: bool,
    /// Segments that hold live entries.
    pub segments: usize,
    /// A snapshot of another node was decided on, and some of its files were not yet in their places.
    pub had_decided_install: bool,
    /// There is a part of one.
    pub has_pulled: bool,
    /// Segments below the floor that hold jobs.
    pub kept: Vec<SegmentNumber>,
    /// How often each row of the recovery table held.
    pub rows: Vec<u64>,
}

impl MediumLog {
    #[must_use]
    pub fn chain_at(&self, index: Index) -> Option<ChainHash> {
        if index == self.floor {
            return Some(self.floor_chain);
        }
        let place = usize::try_from(index.0.checked_sub(self.floor.0 + 1)?).ok()?;
        self.entries.get(place).map(|entry| entry.meta.chain)
    }

    /// Whether this entry was durable here, and by what it still says of itself may be counted on: damaged ones come back from a
    /// peer and are never voted away.
    #[must_use]
    pub fn holds(&self, index: Index, chain: ChainHash) -> bool {
        let Some(inventory) = &self.inventory else { return false };
        inventory.get(index).is_some() && inventory.chain(index).is_none_or(|own| own == chain)
    }

    /// The last entry, damaged ones included.
    #[must_use]
    pub fn last(&self) -> Index {
        self.inventory.as_ref().map_or(Index::ZERO, Inventory::last)
    }

    /// Where an entry lies, if it is whole.
    #[must_use]
    pub fn place_of(&self, index: Index) -> Option<Placement> {
        match self.inventory.as_ref()?.get(index)? {
            Slot::Whole { placement, .. } => Some(*placement),
            Slot::Faulty { .. } => None,
        }
    }
}

/// Reads the log on a disk that nobody else uses, as a node does that starts on it. What is durable on a disk in use
/// is on its `durable_image`.
///
/// # Errors
/// As that node would be told.
pub fn read_log(
    image: &SimDisk,
    data: &Path,
    shard: ShardId,
    identity: LogIdentity,
    sizes: SegmentSizes,
) -> Result<MediumLog, Fatal> {
    // As a start does before all else: of a snapshot that was decided on, only some files may be in their places.
    let install = InstallPlace::new(data, identity, u64::MAX);
    let failed = |error| Fatal::WriteFailed { path: install.dir.clone(), why: format!("{error}") };
    let had_decided_install = block_on(complete(image, &install)).map_err(failed)?;
    let pulled = block_on(image.list(&install.dir)).unwrap_or_default();
    let manifest = block_on(Manifest::load(image, &manifest_path(data, shard), &identity))?;
    let place = LogPlace::above(segments_dir(data, shard), identity, sizes, &manifest);
    let mut entries = Vec::new();
    let mut segments = BTreeSet::new();
    let on_entry = |entry: &Entry, placement: Placement| {
        entries.push(entry.clone());
        segments.insert(placement.segment);
    };
    let recovered = block_on(recover(image, &place, on_entry))?;
    let segments = segments.len();
    Ok(MediumLog {
        floor: place.base.index,
        floor_chain: place.base_chain,
        entries,
        faulty: recovered.faulty.iter().map(|faulty| faulty.index).collect(),
        inventory: Some(recovered.inventory()),
        was_cut: recovered.cut.is_some(),
        segments,
        had_decided_install,
        has_pulled: pulled.iter().any(|file| file.bytes > 0),
        kept: manifest.segments.iter().map(|(number, _)| *number).collect(),
        rows: recovered.rows.to_vec(),
    })
}

/// What `beaver-raft inspect --verify` finds damaged on a disk that nobody uses.
///
/// # Errors
/// If it cannot even begin.
pub fn faults_of(image: &SimDisk, data: &Path, shard: ShardId) -> Result<Vec<Fault>, Fatal> {
    let node = block_on(identify(image, data))?;
    Ok(block_on(look_at(image, data, &node, shard, true))?.log.faults)
}
