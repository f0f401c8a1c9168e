//! What each disk durably holds of the log, at any moment: kept up to date from what settles on the medium, and read anew
//! after a crash. Never from what a node says.
//!
//! So that every commit can be held against the disks at the moment at which it happens: a node that acknowledges what
//! it has yet to write is right a millisecond later, and would never be caught by looking now and then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::medium::MediumLog;
use crate::sim::disk::{Settled, SettledWrite, SimDisk};
use crate::types::{ChainHash, Index, ShardId};
use crate::wal::directory::segments_dir;
use crate::wal::entry::{Entry, LogIdentity};
use crate::wal::format::{
    BLOCK, FirstBlock, PLACEMENT_HEADER_BYTES, Place, Record, RecordKind, SegmentHeader, record_bytes,
};
use crate::wal::index::SegmentNumber;
use crate::wal::segment::parse_file_name;

/// The durable log of one shard on one disk. Clones of the disk's handle, over all its lives, are one disk.
#[derive(Debug)]
pub struct DurableLog {
    dir: PathBuf,
    identity: LogIdentity,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is at or below it is covered by snapshots.
    floor: Index,
    chains: BTreeMap<Index, ChainHash>,
    /// The last entry, damaged or not: what is written next follows it.
    last: Index,
    /// Damaged since they were durable, perhaps: they are no witness against anybody.
    damaged_from: Option<Index>,
    segments: BTreeMap<PathBuf, SegmentHeader>,
}

/// What a disk says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    Holds,
    Lacks,
    /// It was there, and is damaged.
    Damaged,
}

impl DurableLog {
    #[must_use]
    pub fn new(data: &Path, identity: LogIdentity, shard: ShardId) -> DurableLog {
        DurableLog { dir: segments_dir(data, shard), identity, state: RefCell::default() }
    }

    /// Whether the entry with this chain hash is durable. `read` reads the whole log where keeping up was not possible.
    pub fn holding<E>(
        &self,
        disk: &SimDisk,
        index: Index,
        chain: ChainHash,
        read: impl FnOnce() -> Result<MediumLog, E>,
    ) -> Result<Holding, E> {
        self.keep_up(disk, read)?;
        let state = self.state.borrow();
        Ok(match state.chains.get(&index) {
            _ if index <= state.floor => Holding::Holds,
            Some(held) if *held == chain => Holding::Holds,
            _ if state.damaged_from.is_some_and(|from| from <= index) => Holding::Damaged,
            _ => Holding::Lacks,
        })
    }

    /// Every entry that is durable; to be compared with a log that was read as a whole.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn chains<E>(
        &self,
        disk: &SimDisk,
        read: impl FnOnce() -> Result<MediumLog, E>,
    ) -> Result<BTreeMap<Index, ChainHash>, E> {
        self.keep_up(disk, read)?;
        Ok(self.state.borrow().chains.clone())
    }

    fn keep_up<E>(&self, disk: &SimDisk, read: impl FnOnce() -> Result<MediumLog, E>) -> Result<(), E> {
        let settled = disk.take_settled(|path| path.parent() == Some(&self.dir) && segment_of(path).is_some());
        let kept_up = match settled {
            Settled::Writes(writes) => writes.iter().all(|write| self.take(disk, write)),
            Settled::Upheaval => false,
        };
        if !kept_up {
            let log = read()?;
            let chains = log.entries.iter().map(|entry| (entry.meta.position.index, entry.meta.chain)).collect();
            let (floor, last, damaged_from) = (log.floor, log.last(), log.faulty.first().copied());
            *self.state.borrow_mut() = State { floor, chains, last, damaged_from, segments: BTreeMap::new() };
        }
        Ok(())
    }

    /// Takes in what a write brought. False where it does not follow from what is known.
    fn take(&self, disk: &SimDisk, write: &SettledWrite) -> bool {
        let Some(number) = segment_of(&write.path) else { return true };
        let state = &mut *self.state.borrow_mut();
        let mut at = 0;
        if write.offset == 0 {
            let FirstBlock::Header(header) = FirstBlock::read(&write.bytes[..BLOCK as usize], &self.identity) else {
                return false;
            };
            state.chains.split_off(&header.base.next());
            state.last = header.base;
            state.segments.insert(write.path.clone(), header);
            at = BLOCK as usize;
        }
        let Some(header) = state.header_of(disk, &write.path, &self.identity) else { return false };
        while at < write.bytes.len() {
            let place = Place { segment: number, epoch: header.epoch, offset: write.offset + at as u64 };
            let record = &write.bytes[at..];
            let Some(Record { kind, .. }) = Record::read(&record[..BLOCK as usize], place) else { return false };
            let RecordKind::Entry { shared_bytes } = kind else {
                at += BLOCK as usize;
                continue;
            };
            let Ok(entry) = Entry::identify(&record[PLACEMENT_HEADER_BYTES..], &self.identity) else { return false };
            let index = entry.meta.position.index;
            if state.last.next() != index {
                return false;
            }
            state.last = index;
            state.chains.insert(index, entry.meta.chain);
            at += record_bytes(shared_bytes) as usize;
        }
        true
    }
}

fn segment_of(path: &Path) -> Option<SegmentNumber> {
    path.file_name()?.to_str().and_then(parse_file_name)
}

impl State {
    fn header_of(&mut self, disk: &SimDisk, path: &Path, identity: &LogIdentity) -> Option<SegmentHeader> {
        if let Some(header) = self.segments.get(path) {
            return Some(*header);
        }
        match FirstBlock::read(&disk.peek_medium(path, 0, BLOCK as usize)?, identity) {
            FirstBlock::Header(header) => {
                self.segments.insert(path.to_owned(), header);
                Some(header)
            }
            _ => None,
        }
    }
}
