//! Appends to the log: one group commit is one write, durable when it returns. A failed write ends the writer: what the
//! medium holds is then unknown, and only a recovery in another life may look. That a new segment finds no room is no
//! failed write: no byte of the log was attempted, and the append goes on once there is room.
//!
//! It must never write a byte twice, never write into a file of an earlier life, and never let `durable_upto` name an
//! entry that a cut has killed.
//!
//! ```text
//!  append(after 7, [8', 9'])   the durable mark is lowered to 7 first (faults R1); then one write begins a new segment:
//!
//!  segment 3   | header, base 4 | 5 | 6 | 7 | 8 | 9 | 0000
//!                                             `---`- dead, by the header below
//!  segment 4   | header, base 7, durable 7 | 8' durable 7 | 9' durable 7 | 0000
//! ```

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::entry::{Entry, LogIdentity};
use super::format::{
    BLOCK, PLACEMENT_HEADER_BYTES, Place, Record, RecordKind, SegmentEpoch, SegmentHeader, Testimony, record_bytes,
};
use super::index::{Placement, SegmentNumber};
use super::segment::{SegmentSizes, SpareWanted, Spares};
use crate::io::{AlignedBuf, Disk, File, OpenMode};
use crate::types::{ChainHash, Index};

/// A larger buffer than this is not kept for the next write.
const KEPT_BUFFER_BYTES_MAX: usize = 4 << 20;

/// An append that could not be done. What was attempted is never tried again: the node stops. Only where there was no room
/// to attempt anything ([`WriteError::is_lack_of_room`]) the append may go on later.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error("cannot make the log segment {path} of {bytes} bytes: {source}", path = path.display())]
    Make { path: PathBuf, bytes: u64, source: io::Error },
    #[error("cannot open {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("a write of {bytes} bytes to {path} at offset {offset} failed: {source}", path = path.display())]
    Write { path: PathBuf, offset: u64, bytes: u64, source: io::Error },
    #[error("nothing is written to {path} after a write there has failed", path = path.display())]
    AfterFailure { path: PathBuf },
}

impl WriteError {
    /// Only room for a new segment is missing; what the log holds is as certain as before.
    #[must_use]
    pub fn is_lack_of_room(&self) -> bool {
        self.room_needed().is_some()
    }

    /// Bytes of the segment for which room is missing, where that is all.
    #[must_use]
    pub fn room_needed(&self) -> Option<u64> {
        match self {
            WriteError::Make { bytes, source, .. } if crate::io::is_full(source) => Some(*bytes),
            _ => None,
        }
    }

    /// The file that can no longer be trusted.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            WriteError::Make { path, .. }
            | WriteError::Open { path, .. }
            | WriteError::Write { path, .. }
            | WriteError::AfterFailure { path } => path,
        }
    }
}

/// Where a log stands when its writer takes over: what recovery found.
#[derive(Debug, Clone)]
pub struct WriterStart {
    /// The directory of the segments.
    pub dir: PathBuf,
    pub identity: LogIdentity,
    pub sizes: SegmentSizes,
    /// The last entry, durable, and its chain hash.
    pub last: Index,
    pub last_chain: ChainHash,
    /// How many segments this log ever had.
    pub segments_begun: u32,
    /// Above the number of every file there.
    pub next_number: SegmentNumber,
}

/// The segment that is being filled.
struct Active<F> {
    file: F,
    number: SegmentNumber,
    epoch: SegmentEpoch,
    bytes: u64,
    /// Where the next record goes; 0 until the header is written, which goes with the first record.
    end: u64,
}

/// Invariant between calls: everything up to `last` is durable, unless a write failed.
pub struct Writer<D: Disk> {
    disk: D,
    identity: LogIdentity,
    dir: PathBuf,
    spares: Spares,
    /// None: the next append begins a segment.
    active: Option<Active<D::File>>,
    last: Index,
    last_chain: ChainHash,
    /// Everything up to here is durable; lowered before a cut.
    durable: Index,
    /// Entries were written since the last seal.
    unsealed: bool,
    segments_begun: u32,
    failed: bool,
    /// Of the last write, for the next one.
    buffer: Option<AlignedBuf>,
}

impl<D: Disk> Writer<D> {
    #[must_use]
    pub fn new(disk: D, start: WriterStart) -> Writer<D> {
        Writer {
            disk,
            identity: start.identity,
            spares: Spares::new(start.dir.clone(), start.sizes, start.next_number),
            dir: start.dir,
            active: None,
            last: start.last,
            last_chain: start.last_chain,
            durable: start.last,
            unsealed: false,
            segments_begun: start.segments_begun,
            failed: false,
            buffer: None,
        }
    }

    /// The last entry, and all before it: durable.
    #[must_use]
    pub fn last(&self) -> Index {
        self.last
    }

    /// What is above this index was never acknowledged to anybody who counts: the next append begins a segment that cuts it
    /// off, as it does with a torn end.
    ///
    /// # Panics
    /// If something was appended.
    pub fn give_up_after(&mut self, last: Index, chain: ChainHash) {
        assert!(self.active.is_none() && last <= self.last, "only what recovery found is given up");
        self.cut(last, chain);
    }

    /// Writes entries behind the log's end, or behind `truncate_after`, where everything above that is dead from now on.
    /// When this returns, they are durable, and `placements` says where each lies. `commit` is the highest index known to
    /// be committed.
    ///
    /// `placements` is empty at first. Where room is missing it holds those that are durable so far, and the same call
    /// made again goes on behind them.
    ///
    /// # Errors
    /// Room is missing ([`WriteError::is_lack_of_room`]); or nothing is known of what is durable, and the node must stop.
    ///
    /// # Panics
    /// If the entries do not follow each other and the entry before them, or there are none to replace what is cut.
    pub async fn append(
        &mut self,
        truncate_after: Option<Index>,
        entries: &[Entry],
        commit: Index,
        placements: &mut Vec<Placement>,
    ) -> Result<(), WriteError> {
        self.refuse_after_failure()?;
        if let Some(after) = truncate_after.filter(|after| *after < self.last && placements.is_empty()) {
            let first = entries.first().expect("entries come with a cut: they are its reason");
            self.cut(after, first.prev_chain);
        }
        self.check_that_they_follow(&entries[placements.len()..]);
        while placements.len() < entries.len() {
            let written = self.append_some(&entries[placements.len()..], commit).await;
            placements.extend(written.inspect_err(|error| self.failed = !error.is_lack_of_room())?);
        }
        Ok(())
    }

    fn cut(&mut self, after: Index, chain: ChainHash) {
        self.durable = self.durable.min(after);
        self.last = after;
        self.last_chain = chain;
        self.active = None;
        // There is no segment to seal until the next one is begun, and what was written is no longer the log's end.
        self.unsealed = false;
    }

    fn check_that_they_follow(&self, entries: &[Entry]) {
        let mut before = (self.last, self.last_chain);
        for entry in entries {
            let (index, chain) = before;
            assert_eq!(entry.meta.position.index, index.next(), "entries are appended in order");
            assert_eq!(entry.prev_chain, chain, "an entry names the one before it");
            before = (entry.meta.position.index, entry.meta.chain);
        }
    }

    /// Writes as many of the entries as the segment takes, in one write; where they lie.
    async fn append_some(&mut self, entries: &[Entry], commit: Index) -> Result<Vec<Placement>, WriteError> {
        let first_bytes = entries.first().map_or(0, |entry| record_bytes(entry.meta.bytes));
        let mut active = match self.active.take() {
            Some(active) if active.has_room_for(first_bytes) => active,
            full => match self.begin_segment(first_bytes).await {
                Ok(begun) => begun,
                Err(error) => {
                    // Its seal may still be due.
                    self.active = full;
                    return Err(error);
                }
            },
        };
        let start = active.end;
        let header_bytes = if start == 0 { BLOCK } else { 0 };
        let mut end = start + header_bytes;
        let fits = |entry: &&Entry| {
            let fits = end + record_bytes(entry.meta.bytes) + BLOCK <= active.bytes;
            end += if fits { record_bytes(entry.meta.bytes) } else { 0 };
            fits
        };
        let entries = &entries[..entries.iter().take_while(fits).count()];
        let buf = self.take_buffer(end - start);
        let (buf, placements) = self.lay_out(&active, entries, buf, commit);
        self.write(&active, buf, start).await?;

        active.end = end;
        self.active = Some(active);
        let last = entries.last().expect("a segment was begun in which the first entry has room");
        self.last = last.meta.position.index;
        self.last_chain = last.meta.chain;
        self.durable = self.last;
        self.unsealed = true;
        Ok(placements)
    }

    /// The bytes of one write: the segment's header where it begins one, then records; and where these lie.
    fn lay_out(
        &self,
        active: &Active<D::File>,
        entries: &[Entry],
        mut buf: AlignedBuf,
        commit: Index,
    ) -> (AlignedBuf, Vec<Placement>) {
        let mut placements = Vec::with_capacity(entries.len());
        let testimony = Testimony { durable_upto: self.durable, commit };
        let mut at = 0;
        if active.end == 0 {
            self.header(active, testimony).encode(&self.identity, &mut buf);
            at = BLOCK as usize;
        }
        for entry in entries {
            let offset = active.end + at as u64;
            let place = active.place(offset);
            let kind = RecordKind::Entry { shared_bytes: entry.meta.bytes };
            Record { kind, testimony }.encode(place, &mut buf[at..]);
            let shared = at + PLACEMENT_HEADER_BYTES;
            buf[shared..shared + entry.shared.len()].copy_from_slice(&entry.shared);
            placements.push(Placement { segment: active.number, offset, bytes: entry.meta.bytes });
            at += record_bytes(entry.meta.bytes) as usize;
        }
        (buf, placements)
    }

    fn header(&self, active: &Active<D::File>, testimony: Testimony) -> SegmentHeader {
        SegmentHeader {
            number: active.number,
            epoch: active.epoch,
            bytes: active.bytes,
            base: self.last,
            base_chain: self.last_chain,
            durable_upto: testimony.durable_upto,
            commit: testimony.commit,
        }
    }

    /// Takes a spare into use, in which a record of this length has room, or makes a file where no spare is ready.
    async fn begin_segment(&mut self, record_bytes: u64) -> Result<Active<D::File>, WriteError> {
        let bytes_min = BLOCK + record_bytes + BLOCK;
        let (number, bytes) = match self.spares.take(bytes_min) {
            Some(spare) => spare,
            None => {
                let SpareWanted { number, path, bytes } = self.spares.emergency(bytes_min);
                let made = self.disk.make_allocated(&path, bytes).await;
                made.map_err(|source| WriteError::Make { path, bytes, source })?;
                (number, bytes)
            }
        };
        let path = self.spares.path(number);
        let file = self.disk.open(&path, OpenMode::Write).await.map_err(|source| WriteError::Open { path, source })?;
        let epoch = SegmentEpoch::new(self.segments_begun, self.last_chain);
        self.segments_begun += 1;
        Ok(Active { file, number, epoch, bytes, end: 0 })
    }

    /// Whether entries were written since the last seal. Once the log has been idle for some milliseconds, the driver
    /// should call [`Writer::seal_tail`].
    #[must_use]
    pub fn seal_is_due(&self) -> bool {
        self.unsealed && !self.failed
    }

    /// Writes the witness of the last entry's durability, once per idle period; nothing where none is due.
    ///
    /// # Errors
    /// As for [`Writer::append`].
    pub async fn seal_tail(&mut self, commit: Index) -> Result<(), WriteError> {
        self.refuse_after_failure()?;
        if !self.unsealed {
            return Ok(());
        }
        let mut active = self.active.take().expect("entries were written, so a segment is being filled");
        assert!(active.end + BLOCK <= active.bytes, "the last block is kept for a seal");
        let testimony = Testimony { durable_upto: self.durable, commit };
        let mut buf = self.take_buffer(BLOCK);
        Record { kind: RecordKind::Seal { last_chain: Some(self.last_chain) }, testimony }
            .encode(active.place(active.end), &mut buf);
        self.write(&active, buf, active.end).await.inspect_err(|_| self.failed = true)?;
        active.end += BLOCK;
        self.active = Some(active);
        self.unsealed = false;
        Ok(())
    }

    /// Zeros for the next write.
    fn take_buffer(&mut self, bytes: u64) -> AlignedBuf {
        let bytes = usize::try_from(bytes).expect("a segment fits in memory");
        match self.buffer.take() {
            Some(buffer) => buffer.zeroed_again(bytes),
            None => AlignedBuf::zeroed(bytes),
        }
    }

    async fn write(&mut self, active: &Active<D::File>, buf: AlignedBuf, offset: u64) -> Result<(), WriteError> {
        assert!(offset >= active.end, "no byte is written twice");
        let bytes = buf.len() as u64;
        assert!(offset + bytes <= active.bytes, "a write stays inside its segment");
        let (result, buf) = active.file.write_at(buf, offset).await;
        self.buffer = Some(buf).filter(|buf| buf.capacity() <= KEPT_BUFFER_BYTES_MAX);
        let path = || self.spares.path(active.number);
        result.map_err(|source| WriteError::Write { path: path(), offset, bytes, source })
    }

    fn refuse_after_failure(&self) -> Result<(), WriteError> {
        if self.failed { Err(WriteError::AfterFailure { path: self.dir.clone() }) } else { Ok(()) }
    }

    /// Spares that a background task should begin to make now, with `Disk::make_zeroed`; each is named once. Ask
    /// again after each append.
    pub fn spares_wanted(&mut self) -> Vec<SpareWanted> {
        self.spares.wanted()
    }

    pub fn spare_ready(&mut self, number: SegmentNumber) {
        self.spares.handle_ready(number);
    }

    /// It could not be made, as on a full disk; it will be wanted again.
    pub fn spare_failed(&mut self, number: SegmentNumber) {
        self.spares.handle_failed(number);
    }
}

impl<F> Active<F> {
    fn has_room_for(&self, record_bytes: u64) -> bool {
        self.end + record_bytes + BLOCK <= self.bytes
    }

    fn place(&self, offset: u64) -> Place {
        Place { segment: self.number, epoch: self.epoch, offset }
    }
}
