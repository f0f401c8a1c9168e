//! Reads entries and parts of them back from the log while it is being written. What comes out was proven: whole
//! entries by their checksums, hashes and chain; a part of a payload only to lie in a record of its place, so whoever asks for one
//! checks its hash.
//!
//! It must never hand out bytes of another place than the one that was asked for.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use thiserror::Error;

use super::entry::{ENTRY_BYTES_MAX, Entry, EntryError, HEADER_BYTES, LogIdentity};
use super::format::{
    BLOCK, FirstBlock, PLACEMENT_HEADER_BYTES, Place, Record, RecordKind, SegmentEpoch, is_zero, record_bytes,
};
use super::index::{Placement, SegmentNumber};
use super::open_files::OpenFiles;
use super::segment::file_name;
use crate::io::{AlignedBuf, Disk, File, OpenMode};

/// Neighbouring entries are read together up to this length.
const READ_BYTES_MAX: u64 = 1 << 20;

/// A part of an entry that ends within so many bytes of its beginning is read in one go with it.
pub const READ_THROUGH_BYTES: u64 = 32 << 10;

/// Why something could not be read back. The log was whole when it was recovered or written, so the node stops.
#[derive(Debug, Error)]
#[error("{path}, offset {offset}: {reason}", path = path.display())]
pub struct ReadError {
    pub path: PathBuf,
    pub offset: u64,
    pub reason: ReadFailure,
}

#[derive(Debug, Error)]
pub enum ReadFailure {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the segment's header is damaged")]
    Header,
    #[error("there is no record of this place and length")]
    Record,
    #[error("bytes behind the entry are not zero")]
    Padding,
    #[error("{0}")]
    Entry(#[from] EntryError),
    #[error("entry {0} does not follow the one before it")]
    Chain(crate::types::LogPosition),
    #[error("bytes {from} to {to} are asked for, the payload has {payload}")]
    Range { from: u64, to: u64, payload: u64 },
}

/// Reads of one log. Shared by the tasks of one thread.
pub struct LogReader<D: Disk> {
    disk: D,
    dir: PathBuf,
    identity: LogIdentity,
    /// Each with the epoch that its header states.
    open: OpenFiles<(SegmentEpoch, D::File)>,
}

/// Lends a buffer to `Bytes`, so that nothing is copied on the way from the disk to a client.
pub(super) struct Lent(pub(super) AlignedBuf);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<D: Disk> LogReader<D> {
    /// `dir`: the directory of the segments.
    #[must_use]
    pub fn new(disk: D, dir: PathBuf, identity: LogIdentity) -> LogReader<D> {
        LogReader { disk, dir, identity, open: OpenFiles::new() }
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// Another file has taken the segment's name: the next read opens it.
    pub fn forget(&self, number: SegmentNumber) {
        self.open.forget(number);
    }

    /// Other files have taken the place of all there were.
    pub fn forget_all(&self) {
        self.open.forget_all();
    }

    /// Reads entries, in the order of their places. Where two follow each other in the log, they are proven to.
    ///
    /// # Errors
    /// If one cannot be read, or is not whole.
    pub async fn read_entries(&self, placements: &[Placement]) -> Result<Vec<Entry>, ReadError> {
        let mut entries: Vec<Entry> = Vec::with_capacity(placements.len());
        let mut rest = placements;
        while let Some(first) = rest.first() {
            let together = neighbours(rest);
            let (group, others) = rest.split_at(together);
            rest = others;
            let last = group.last().unwrap_or(first);
            let bytes = last.offset + record_bytes(last.bytes) - first.offset;
            let (epoch, records) = self.read(first, first.offset, bytes).await?;
            for placement in group {
                let from = (placement.offset - first.offset) as usize;
                let record = records.slice(from..from + record_bytes(placement.bytes) as usize);
                let entry = self.check(placement, epoch, &record, entries.last());
                entries.push(entry.map_err(|reason| self.failure(placement, reason))?);
            }
        }
        Ok(entries)
    }

    /// Reads a part of an entry's payload: `bytes` from `offset` on. Reads the blocks that it touches and the entry's first; also what
    /// is in between, where that is little. Keeps no more memory than twice what is returned.
    ///
    /// # Errors
    /// If it cannot be read, or the place holds no such entry. The part itself is not proven: its reader checks it.
    pub async fn read_payload(&self, placement: &Placement, offset: u32, bytes: u32) -> Result<Bytes, ReadError> {
        let payload = u64::from(placement.bytes).saturating_sub(HEADER_BYTES as u64);
        let (from, to) = (u64::from(offset), u64::from(offset) + u64::from(bytes));
        if to > payload {
            return Err(self.failure(placement, ReadFailure::Range { from, to, payload }));
        }
        // From the start of the record; and where its blocks begin and end.
        let payload_at = (PLACEMENT_HEADER_BYTES + HEADER_BYTES) as u64;
        let (from, to) = (payload_at + from, payload_at + to);
        let end = to.next_multiple_of(BLOCK);
        // The first block tells whether the record is the right one; a part that begins near it is read with it.
        let start = if from < READ_THROUGH_BYTES { 0 } else { from / BLOCK * BLOCK };
        if start > 0 {
            let (epoch, first) = self.read(placement, placement.offset, BLOCK).await?;
            check_record(placement, epoch, &first).map_err(|reason| self.failure(placement, reason))?;
        }
        let (epoch, blocks) = self.read(placement, placement.offset + start, end - start).await?;
        if start == 0 {
            check_record(placement, epoch, &blocks).map_err(|reason| self.failure(placement, reason))?;
        }
        let part = blocks.slice((from - start) as usize..(to - start) as usize);
        Ok(if part.len() * 2 < blocks.len() { Bytes::copy_from_slice(&part) } else { part })
    }

    fn check(
        &self,
        placement: &Placement,
        epoch: SegmentEpoch,
        record: &Bytes,
        before: Option<&Entry>,
    ) -> Result<Entry, ReadFailure> {
        check_record(placement, epoch, record)?;
        let end = PLACEMENT_HEADER_BYTES + placement.bytes as usize;
        if !is_zero(&record[end..]) {
            return Err(ReadFailure::Padding);
        }
        let entry = Entry::decode(record.slice(PLACEMENT_HEADER_BYTES..end), &self.identity)?;
        let is_next = |before: &&Entry| before.meta.position.index.next() == entry.meta.position.index;
        match before.filter(is_next) {
            Some(before) if before.meta.chain != entry.prev_chain => Err(ReadFailure::Chain(entry.meta.position)),
            _ => Ok(entry),
        }
    }

    async fn read(&self, placement: &Placement, offset: u64, bytes: u64) -> Result<(SegmentEpoch, Bytes), ReadError> {
        if placement.bytes as usize > ENTRY_BYTES_MAX {
            return Err(self.failure(placement, ReadFailure::Record));
        }
        let (epoch, file) = self.file(placement).await?;
        let buf = AlignedBuf::zeroed(usize::try_from(bytes).expect("bounded by the largest entry"));
        let (result, buf) = file.read_at(buf, offset).await;
        result.map_err(|error| self.failure(placement, error.into()))?;
        Ok((epoch, Bytes::from_owner(Lent(buf))))
    }

    /// The file, open, and the epoch that its header states.
    async fn file(&self, placement: &Placement) -> Result<(SegmentEpoch, D::File), ReadError> {
        if let Some(known) = self.open.find(placement.segment) {
            return Ok(known);
        }
        let since = self.open.since();
        let path = self.dir.join(file_name(placement.segment));
        let failure = |reason| self.failure(placement, reason);
        let file = self.disk.open(&path, OpenMode::Read).await.map_err(|error| failure(error.into()))?;
        let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK as usize), 0).await;
        result.map_err(|error| failure(error.into()))?;
        let FirstBlock::Header(header) = FirstBlock::read(&block, &self.identity) else {
            return Err(failure(ReadFailure::Header));
        };
        self.open.keep(since, placement.segment, (header.epoch, file.clone()));
        Ok((header.epoch, file))
    }

    fn failure(&self, placement: &Placement, reason: ReadFailure) -> ReadError {
        ReadError { path: self.dir.join(file_name(placement.segment)), offset: placement.offset, reason }
    }
}

/// The entry that was read last, for whoever takes one job of it after the other.
#[derive(Default)]
pub struct LastEntry(Option<(Placement, Entry)>);

impl LastEntry {
    /// # Errors
    /// As [`LogReader::read_entries`].
    pub async fn entry<D: Disk>(&mut self, reader: &LogReader<D>, placement: Placement) -> Result<&Entry, ReadError> {
        if self.0.as_ref().is_none_or(|(at, _)| *at != placement) {
            let entry = reader.read_entries(&[placement]).await?.swap_remove(0);
            self.0 = Some((placement, entry));
        }
        Ok(&self.0.as_ref().expect("just read").1)
    }
}

fn check_record(placement: &Placement, epoch: SegmentEpoch, record: &[u8]) -> Result<(), ReadFailure> {
    let place = Place { segment: placement.segment, epoch, offset: placement.offset };
    match Record::read(record, place) {
        Some(Record { kind: RecordKind::Entry { shared_bytes }, .. }) if shared_bytes == placement.bytes => Ok(()),
        _ => Err(ReadFailure::Record),
    }
}

/// How many of the first places lie end to end in one file, and are worth one read.
fn neighbours(placements: &[Placement]) -> usize {
    let Some(first) = placements.first() else { return 0 };
    let mut end = first.offset;
    let is_next = |placement: &&Placement| {
        let follows = placement.segment == first.segment && placement.offset == end;
        end = placement.offset + record_bytes(placement.bytes);
        // The first goes in any case, however long.
        follows && (placement.offset == first.offset || end - first.offset <= READ_BYTES_MAX)
    };
    placements.iter().take_while(is_next).count()
}

#[cfg(test)]
mod tests;
