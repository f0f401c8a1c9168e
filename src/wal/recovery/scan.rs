//! Looks at one segment's file, through a window of bounded size: what is in a place, and what later records testify.
//! What the device cannot read counts as damaged.

use bytes::Bytes;

use super::FaultReason;
use crate::io::{AlignedBuf, File};
use crate::types::{ChainHash, Index};
use crate::wal::entry::{Entry, Identified, LogIdentity};
use crate::wal::format::{
    BLOCK, PLACEMENT_HEADER_BYTES, Place, Record, RecordKind, SegmentHeader, Testimony, is_zero, record_bytes,
};

/// Read at once, where no entry is longer.
const WINDOW_BYTES: u64 = 1 << 20;

pub(in crate::wal) struct Scan<F> {
    file: F,
    header: SegmentHeader,
    identity: LogIdentity,
    /// From which offset, and what; never past the end of the file.
    window: Option<(u64, AlignedBuf)>,
}

/// What is in one place.
#[derive(Debug)]
pub(in crate::wal) enum Seen {
    Nothing,
    Seal {
        testimony: Testimony,
        last_chain: Option<ChainHash>,
    },
    Entry {
        entry: Box<Entry>,
        testimony: Testimony,
    },
    /// The record's own header is whole.
    Damaged {
        reason: FaultReason,
        identified: Option<Identified>,
        record_bytes: Option<u64>,
    },
    Unreadable,
}

/// What the records of a stretch of a segment say.
#[derive(Debug, Default)]
pub(in crate::wal) struct Testimonies {
    /// By offset, ascending.
    pub durable_upto: Vec<(u64, Index)>,
    /// Something is there that is not zero.
    pub is_written: bool,
}

impl Testimonies {
    /// The highest index that a record above this offset calls durable.
    pub(in crate::wal) fn above(&self, offset: u64) -> Index {
        let later = self.durable_upto.iter().rev().take_while(|(at, _)| *at > offset);
        later.map(|(_, index)| *index).max().unwrap_or(Index::ZERO)
    }
}

impl<F: File> Scan<F> {
    pub(in crate::wal) fn new(file: F, header: SegmentHeader, identity: LogIdentity) -> Scan<F> {
        Scan { file, header, identity, window: None }
    }

    pub(in crate::wal) fn end(&self) -> u64 {
        self.header.bytes
    }

    fn place(&self, offset: u64) -> Place {
        Place { segment: self.header.number, epoch: self.header.epoch, offset }
    }

    /// These bytes, whole blocks inside the file; none if the device cannot read them.
    async fn bytes(&mut self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let holds =
            |(start, window): &(u64, AlignedBuf)| *start <= offset && offset + bytes <= start + window.len() as u64;
        if !self.window.as_ref().is_some_and(holds) {
            self.window = None;
            let ahead = WINDOW_BYTES.max(bytes).min(self.end() - offset);
            // A bad sector in the rest of the window is no reason to give up on what was asked for.
            for length in [ahead, bytes] {
                let buf = AlignedBuf::zeroed(length as usize);
                if let (Ok(()), buf) = self.file.read_at(buf, offset).await {
                    self.window = Some((offset, buf));
                    break;
                }
            }
        }
        let (start, window) = self.window.as_ref()?;
        let from = (offset - start) as usize;
        Some(&window[from..from + bytes as usize])
    }

    /// What is in a place.
    pub(in crate::wal) async fn see(&mut self, offset: u64) -> Seen {
        if offset >= self.end() {
            return Seen::Nothing;
        }
        let (end, place, identity) = (self.end(), self.place(offset), self.identity);
        let Some(block) = self.bytes(offset, BLOCK).await else { return Seen::Unreadable };
        if is_zero(block) {
            return Seen::Nothing;
        }
        let Some(Record { kind, testimony }) = Record::read(block, place) else { return Seen::Unreadable };
        let shared_bytes = match kind {
            RecordKind::Entry { shared_bytes } => shared_bytes,
            RecordKind::Seal { last_chain } => return Seen::Seal { testimony, last_chain },
        };
        let identified = Entry::identify(&block[PLACEMENT_HEADER_BYTES..], &identity).ok();
        let bytes = record_bytes(shared_bytes);
        if offset + bytes > end {
            return Seen::Damaged { reason: FaultReason::PastEnd, identified, record_bytes: None };
        }
        let damaged = |reason| Seen::Damaged { reason, identified, record_bytes: Some(bytes) };
        let Some(record) = self.bytes(offset, bytes).await else { return damaged(FaultReason::CannotRead) };
        let (shared, padding) = record[PLACEMENT_HEADER_BYTES..].split_at(shared_bytes as usize);
        if !is_zero(padding) {
            return damaged(FaultReason::Padding);
        }
        match Entry::decode(Bytes::copy_from_slice(shared), &identity) {
            Ok(entry) => Seen::Entry { entry: Box::new(entry), testimony },
            Err(error) => damaged(FaultReason::Entry(error)),
        }
    }

    /// The record whose header is in this block, if one is; whether the block holds anything at all; and for an entry
    /// what its own header says it is.
    async fn glance(&mut self, offset: u64) -> (Option<(Record, Option<Identified>)>, bool) {
        let (place, identity) = (self.place(offset), self.identity);
        let Some(block) = self.bytes(offset, BLOCK).await else { return (None, true) };
        let identified = || Entry::identify(&block[PLACEMENT_HEADER_BYTES..], &identity).ok();
        (Record::read(block, place).map(|record| (record, identified())), !is_zero(block))
    }

    /// What all records from this place to the end of the file say.
    pub(in crate::wal) async fn testimonies(&mut self, from: u64) -> Testimonies {
        let mut found = Testimonies::default();
        let mut offset = from;
        while offset < self.end() {
            let (record, is_written) = self.glance(offset).await;
            found.is_written |= is_written;
            if let Some((record, _)) = record {
                found.durable_upto.push((offset, record.testimony.durable_upto));
            }
            offset += BLOCK;
        }
        found
    }

    /// The next place from `from` on with a record that tells where in the log it stands, and the last index before it.
    pub(in crate::wal) async fn next_record(&mut self, from: u64, expected: Index) -> Option<(u64, Index)> {
        let mut offset = from;
        while offset < self.end() {
            if let (Some((record, identified)), _) = self.glance(offset).await {
                let before = match record.kind {
                    RecordKind::Seal { .. } => Some(record.testimony.durable_upto),
                    RecordKind::Entry { .. } => identified.and_then(|entry| entry.meta.position.index.prev()),
                };
                // No more entries can have been lost than there are blocks between.
                let lost_max = expected.0.saturating_add((offset - from) / BLOCK);
                if let Some(before) = before.filter(|before| expected <= *before && before.0 <= lost_max) {
                    return Some((offset, before));
                }
            }
            offset += BLOCK;
        }
        None
    }
}
