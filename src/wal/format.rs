//! The log's format on disk: headers of segments and of the records in them, as typed views over blocks. What is read
//! here is proven by its checksum and nothing more; what it means, `recovery` decides. Nothing may panic on bytes.
//!
//! ```text
//!  a segment, in blocks of 4096 bytes; no byte of it is written twice
//!  +----------------+--------------------------------------+------+-----------+------+------ - -
//!  | segment header | entry                                | seal | entry     | seal | zeros ...
//!  +----------------+--------------------------------------+------+-----------+------+------ - -
//!
//!  an entry, padded with zeros to whole blocks           a seal, one block
//!  +------------------+---------------------+-------+    +------------------+-------+
//!  | placement header | shared part (entry) | zeros |    | placement header | zeros |
//!  +------------------+---------------------+-------+    +------------------+-------+
//!  64 bytes             as every node has it
//! ```
//!
//! The **segment header** names the log and the entry that comes right before the segment's first: its index and chain
//! hash (the term is in the chain). Where that entry is not the last of the older segments, the header **is the CUT
//! record**: whatever the older segments hold above it is dead.
//!
//! The **placement header** is this node's own. It says which place it was written for (segment, epoch and offset, which also
//! seed its checksum), how long the shared part is, what this node knew to be durable in this log when it wrote it
//! (`durable_upto`, never above a cut that followed), and up to where it knew the log committed. A **seal** is a placement
//! header without a shared part, written when the log falls idle, so that the last entry has a witness too: of its
//! durability, and, with its chain hash, of which entry it was.
//!
//! A segment is written by one life of the process only: after a restart the next append begins a new file. So a write
//! that hung in a dying device cannot land on what was written later.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{ENTRY_BYTES_MAX, LogIdentity};
use super::index::SegmentNumber;
use crate::io::BLOCK_BYTES;
use crate::types::{ChainHash, ClusterId, Index, ShardId};

/// Length of the header in front of an entry's shared part; receive buffers leave this much room for it.
pub const PLACEMENT_HEADER_BYTES: usize = size_of::<PlacementBytes>();

/// Length of the segment header, and of a seal: one block.
pub const BLOCK: u64 = BLOCK_BYTES as u64;

/// The version of everything in a data directory.
pub const FORMAT: u16 = 1;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"BvrSegmt");
const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"BvPl");
const SEAL_MAGIC: u32 = u32::from_le_bytes(*b"BvSl");

const _: () = assert!(PLACEMENT_HEADER_BYTES == 64);
const _: () = assert!(size_of::<SegmentBytes>() <= BLOCK_BYTES);

/// What an entry takes on disk, padding included.
#[must_use]
pub fn record_bytes(shared_bytes: u32) -> u64 {
    (PLACEMENT_HEADER_BYTES as u64 + u64::from(shared_bytes)).next_multiple_of(BLOCK)
}

/// Orders the segments of a log by when they came into use. The upper half is the segment's ordinal, from 0 without gaps, so
/// that a missing one shows. The lower half is taken from the chain hash before the segment, which no client can know:
/// nobody can put into a job's body what would pass for a record here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentEpoch(pub u64);

impl SegmentEpoch {
    #[must_use]
    pub fn new(ordinal: u32, base_chain: ChainHash) -> SegmentEpoch {
        SegmentEpoch(u64::from(ordinal) << 32 | base_chain.0 as u64 & u64::from(u32::MAX))
    }

    #[must_use]
    pub fn ordinal(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What the first block of a segment in use says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub number: SegmentNumber,
    pub epoch: SegmentEpoch,
    /// Length of the file.
    pub bytes: u64,
    /// The entry right before the segment's first.
    pub base: Index,
    pub base_chain: ChainHash,
    /// At most `base`.
    pub durable_upto: Index,
    pub commit: Index,
}

/// What a first block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBlock {
    /// All zero: the segment is a spare (or its activation never reached the disk).
    Zero,
    Header(SegmentHeader),
    /// Whole, but of another log.
    Foreign {
        cluster: ClusterId,
        shard: ShardId,
    },
    /// Whole, but of a format that this program does not know.
    UnknownFormat {
        format: u16,
    },
    Unreadable,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SegmentBytes {
    magic: U64,
    format: U16,
    shard: U16,
    number: U32,
    cluster: U128,
    epoch: U64,
    bytes: U64,
    base: U64,
    durable_upto: U64,
    commit: U64,
    base_chain: U128,
    zero: U32,
    crc: U32,
}

impl SegmentBytes {
    fn checksum(mut self) -> u32 {
        self.crc = U32::ZERO;
        crc32c::crc32c(self.as_bytes())
    }
}

impl SegmentHeader {
    /// Writes the header into a zeroed block.
    ///
    /// # Panics
    /// If the block is shorter than a block.
    pub fn encode(&self, identity: &LogIdentity, block: &mut [u8]) {
        let mut bytes = SegmentBytes {
            magic: U64::new(SEGMENT_MAGIC),
            format: U16::new(FORMAT),
            shard: U16::new(identity.shard.0),
            number: U32::new(self.number.0),
            cluster: U128::new(identity.cluster.0),
            epoch: U64::new(self.epoch.0),
            bytes: U64::new(self.bytes),
            base: U64::new(self.base.0),
            durable_upto: U64::new(self.durable_upto.0),
            commit: U64::new(self.commit.0),
            base_chain: U128::new(self.base_chain.0),
            zero: U32::ZERO,
            crc: U32::ZERO,
        };
        bytes.crc = U32::new(bytes.checksum());
        block[..size_of::<SegmentBytes>()].copy_from_slice(bytes.as_bytes());
    }
}

impl FirstBlock {
    /// What the first block of a segment's file is to this log.
    #[must_use]
    pub fn read(block: &[u8], identity: &LogIdentity) -> FirstBlock {
        if is_zero(block) {
            return FirstBlock::Zero;
        }
        let Ok((bytes, padding)) = SegmentBytes::ref_from_prefix(block) else { return FirstBlock::Unreadable };
        if bytes.magic.get() != SEGMENT_MAGIC || bytes.crc.get() != bytes.checksum() {
            return FirstBlock::Unreadable;
        }
        if bytes.format.get() != FORMAT {
            return FirstBlock::UnknownFormat { format: bytes.format.get() };
        }
        let (cluster, shard) = (ClusterId(bytes.cluster.get()), ShardId(bytes.shard.get()));
        if (cluster, shard) != (identity.cluster, identity.shard) {
            return FirstBlock::Foreign { cluster, shard };
        }
        // Counting on from what was read must not overflow.
        let ordinal = SegmentEpoch(bytes.epoch.get()).ordinal();
        if !is_zero(padding) || bytes.zero != U32::ZERO || ordinal == u32::MAX {
            return FirstBlock::Unreadable;
        }
        FirstBlock::Header(SegmentHeader {
            number: SegmentNumber(bytes.number.get()),
            epoch: SegmentEpoch(bytes.epoch.get()),
            bytes: bytes.bytes.get(),
            base: Index(bytes.base.get()),
            base_chain: ChainHash(bytes.base_chain.get()),
            durable_upto: Index(bytes.durable_upto.get()),
            commit: Index(bytes.commit.get()),
        })
    }
}

/// The place for which a record is written. Seeds the checksum of its header: elsewhere it is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub segment: SegmentNumber,
    pub epoch: SegmentEpoch,
    /// From the start of the file; whole blocks.
    pub offset: u64,
}

/// What this node says about its own log with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Testimony {
    /// Every entry up to here was durable in this log when the record was written.
    pub durable_upto: Index,
    /// The highest index known to be committed.
    pub commit: Index,
}

/// What a record's placement header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    pub testimony: Testimony,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    Entry {
        /// Proven to be at most [`ENTRY_BYTES_MAX`].
        shared_bytes: u32,
    },
    Seal {
        /// The chain hash of the entry at `durable_upto`.
        last_chain: Option<ChainHash>,
    },
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct PlacementBytes {
    magic: U32,
    segment: U32,
    epoch: U64,
    offset: U64,
    durable_upto: U64,
    commit: U64,
    shared_bytes: U32,
    /// Of a seal; else, and where it is not known, zero.
    last_chain: U128,
    crc: U32,
}

impl PlacementBytes {
    /// Seeded with epoch and offset although the header also states them: a reader that asks for one place must not be
    /// convinced by a record that merely is whole.
    fn checksum(mut self, place: Place) -> u32 {
        self.crc = U32::ZERO;
        let seed = crc32c::crc32c(&place.epoch.0.to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &place.offset.to_le_bytes());
        crc32c::crc32c_append(seed, self.as_bytes())
    }
}

impl Record {
    /// Writes the placement header to the start of `block`.
    ///
    /// # Panics
    /// If `block` is shorter than the header.
    pub fn encode(&self, place: Place, block: &mut [u8]) {
        let (magic, shared_bytes, last_chain) = match self.kind {
            RecordKind::Entry { shared_bytes } => (ENTRY_MAGIC, shared_bytes, 0),
            RecordKind::Seal { last_chain } => (SEAL_MAGIC, 0, last_chain.unwrap_or_default().0),
        };
        let mut bytes = PlacementBytes {
            magic: U32::new(magic),
            segment: U32::new(place.segment.0),
            epoch: U64::new(place.epoch.0),
            offset: U64::new(place.offset),
            durable_upto: U64::new(self.testimony.durable_upto.0),
            commit: U64::new(self.testimony.commit.0),
            shared_bytes: U32::new(shared_bytes),
            last_chain: U128::new(last_chain),
            crc: U32::ZERO,
        };
        bytes.crc = U32::new(bytes.checksum(place));
        block[..PLACEMENT_HEADER_BYTES].copy_from_slice(bytes.as_bytes());
    }

    /// The record whose header was written for this very place and is whole; of a seal, the whole block.
    #[must_use]
    pub fn read(block: &[u8], place: Place) -> Option<Record> {
        let (bytes, rest) = PlacementBytes::ref_from_prefix(block).ok()?;
        let last_chain = Some(ChainHash(bytes.last_chain.get())).filter(|chain| *chain != ChainHash::default());
        let kind = match bytes.magic.get() {
            ENTRY_MAGIC => RecordKind::Entry { shared_bytes: bytes.shared_bytes.get() },
            SEAL_MAGIC => RecordKind::Seal { last_chain },
            _ => return None,
        };
        let stated = Place {
            segment: SegmentNumber(bytes.segment.get()),
            epoch: SegmentEpoch(bytes.epoch.get()),
            offset: bytes.offset.get(),
        };
        if stated != place || bytes.crc.get() != bytes.checksum(place) {
            return None;
        }
        match kind {
            RecordKind::Entry { shared_bytes } if shared_bytes as usize > ENTRY_BYTES_MAX || last_chain.is_some() => {
                return None;
            }
            RecordKind::Seal { .. } if bytes.shared_bytes != U32::ZERO || !is_zero(rest) => return None,
            _ => {}
        }
        let testimony = Testimony { durable_upto: Index(bytes.durable_upto.get()), commit: Index(bytes.commit.get()) };
        Some(Record { kind, testimony })
    }

    /// The epoch for which a record at this place claims to be written, where it is whole in that case. Tells a segment
    /// that was in use from garbage when its own header is unreadable.
    #[must_use]
    pub fn read_of_any_epoch(block: &[u8], segment: SegmentNumber, offset: u64) -> Option<(SegmentEpoch, Record)> {
        let (bytes, _) = PlacementBytes::ref_from_prefix(block).ok()?;
        let epoch = SegmentEpoch(bytes.epoch.get());
        Record::read(block, Place { segment, epoch, offset }).map(|record| (epoch, record))
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Compared by chunks, which compiles to wide instructions: recovery looks at every block of a segment's rest.
    let mut chunks = bytes.chunks_exact(64);
    chunks.all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
        && chunks.remainder().iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests;
