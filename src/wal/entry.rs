//! An entry's shared part: the bytes that are the same on every node, on the wire and on disk. What decodes is
//! proven whole and of this log; nothing here may panic on bytes, or take memory for a length that was not proven.
//!
//! ```text
//!    0        4         5      6       8         24      32     40      48     56          64
//!    | magic  | version | kind | shard | cluster | index | term | lease | wall | first job | ...
//!   64          68              72           88             104    108   112
//!    | job count | payload bytes | prev chain | payload hash | zero | crc | payload ...
//! ```
//!
//! Little endian. `crc` is the CRC32C of the header with the field itself zero. The payload hash is an XXH3-128 of the
//! payload, the entry's *chain hash* one of the whole header, which holds the chain hash of the entry before: it names
//! this entry and all that precede it. Both are seeded from the log's identity, so an entry of another log never passes.

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::raft::message::EntryMeta;
use crate::types::{ChainHash, ClusterId, Index, JobId, LogPosition, Nanos, ShardId, Term, Times};

/// Length of the header in front of the payload.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// The largest payload: a body of 16 MiB, and room for the commands that go with it.
pub const PAYLOAD_BYTES_MAX: usize = 17 << 20;

/// The largest shared part.
pub const ENTRY_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

/// Indexes, terms and job ids stay below this, as clients are promised of the ids that they see. So counting on from one
/// that was read cannot overflow.
const NUMBER_MAX: u64 = 1 << 53;

const MAGIC: u32 = u32::from_le_bytes(*b"BvEn");
const VERSION: u8 = 1;

/// Keep the hashes of one log's parts, and those of other things, apart.
const CHAIN_DOMAIN: u64 = u64::from_le_bytes(*b"beaverCH");
const PAYLOAD_DOMAIN: u64 = u64::from_le_bytes(*b"beaverPL");

const _: () = assert!(HEADER_BYTES == 112);
const _: () = assert!(ENTRY_BYTES_MAX < u32::MAX as usize);

/// Which log an entry belongs to; seeds its hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    pub cluster: ClusterId,
    pub shard: ShardId,
}

impl LogIdentity {
    fn seed(&self, domain: u64) -> u64 {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&self.cluster.0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.shard.0.to_le_bytes());
        xxh3_64_with_seed(&bytes, domain)
    }

    fn payload_hash(&self, payload: &[u8]) -> u128 {
        xxh3_128_with_seed(payload, self.seed(PAYLOAD_DOMAIN))
    }

    fn chain(&self, header: &Header) -> ChainHash {
        ChainHash(xxh3_128_with_seed(header.as_bytes(), self.seed(CHAIN_DOMAIN)))
    }
}

/// The chain hash before the first entry of a log.
#[must_use]
pub fn origin_chain(identity: &LogIdentity) -> ChainHash {
    ChainHash(xxh3_128_with_seed(b"the place before the first entry", identity.seed(CHAIN_DOMAIN)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A batch of commands (`job::codec`).
    Commands,
    /// A membership (`raft::membership`), encoded.
    Membership,
    /// The first entry of a term.
    NoOp,
    /// Every node snapshots the state at this index.
    Marker,
}

impl EntryKind {
    fn code(self) -> u8 {
        match self {
            EntryKind::Commands => 1,
            EntryKind::Membership => 2,
            EntryKind::NoOp => 3,
            EntryKind::Marker => 4,
        }
    }

    fn from_code(code: u8) -> Option<EntryKind> {
        Some(match code {
            1 => EntryKind::Commands,
            2 => EntryKind::Membership,
            3 => EntryKind::NoOp,
            4 => EntryKind::Marker,
            _ => return None,
        })
    }
}

/// What a leader decides before an entry becomes bytes.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    pub position: LogPosition,
    pub prev_chain: ChainHash,
    pub kind: EntryKind,
    pub times: Times,
    /// The id of the first ENQ in it, or the next free one where there is none.
    pub first_job: JobId,
    pub job_count: u32,
    pub payload: &'a [u8],
}

/// An encoded entry whose every length and checksum was proven.
#[derive(Debug, Clone)]
pub struct Entry {
    pub meta: EntryMeta,
    pub prev_chain: ChainHash,
    pub kind: EntryKind,
    pub times: Times,
    pub first_job: JobId,
    pub job_count: u32,
    pub shared: Bytes,
}

/// Why bytes are not an entry of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    #[error("{present} bytes are too few for an entry's header of {HEADER_BYTES}")]
    Short { present: usize },
    #[error("no entry begins here")]
    Magic,
    #[error("the checksum of its header is wrong")]
    HeaderChecksum,
    #[error("its format version is {version}, this program knows {VERSION}: written by a newer version?")]
    Version { version: u8 },
    #[error("its kind {kind} is unknown: written by a newer version of the program?")]
    Kind { kind: u8 },
    #[error("it belongs to shard {shard} of cluster {cluster}")]
    Foreign { cluster: ClusterId, shard: ShardId },
    #[error("it states index 0, which no entry has")]
    IndexZero,
    #[error("it states an index, a term or a job id of 2^53 or more, which nothing has")]
    NumberTooLarge,
    #[error("bytes that have no meaning are not zero")]
    NotZero,
    #[error("it states a payload of {stated} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")]
    TooLong { stated: usize },
    #[error("it states a payload of {stated} bytes, {present} are there")]
    Length { stated: usize, present: usize },
    #[error("the hash of its payload is wrong")]
    PayloadHash,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: U32,
    version: u8,
    kind: u8,
    shard: U16,
    cluster: U128,
    index: U64,
    term: U64,
    lease: U64,
    wall: U64,
    first_job: U64,
    job_count: U32,
    payload_bytes: U32,
    prev_chain: U128,
    payload_hash: U128,
    zero: U32,
    crc: U32,
}

impl Header {
    fn checksum(mut self) -> u32 {
        self.crc = U32::ZERO;
        crc32c::crc32c(self.as_bytes())
    }

    /// Everything that can be known without the payload.
    fn check(&self, identity: &LogIdentity) -> Result<EntryKind, EntryError> {
        if self.magic.get() != MAGIC {
            return Err(EntryError::Magic);
        }
        if self.crc.get() != self.checksum() {
            return Err(EntryError::HeaderChecksum);
        }
        if self.version != VERSION {
            return Err(EntryError::Version { version: self.version });
        }
        let (cluster, shard) = (ClusterId(self.cluster.get()), ShardId(self.shard.get()));
        if (cluster, shard) != (identity.cluster, identity.shard) {
            return Err(EntryError::Foreign { cluster, shard });
        }
        if self.index.get() == 0 {
            return Err(EntryError::IndexZero);
        }
        let next_job = self.first_job.get().saturating_add(u64::from(self.job_count.get()));
        if self.index.get().max(self.term.get()).max(next_job) >= NUMBER_MAX {
            return Err(EntryError::NumberTooLarge);
        }
        if self.zero != U32::ZERO {
            return Err(EntryError::NotZero);
        }
        let stated = self.payload_bytes.get() as usize;
        if stated > PAYLOAD_BYTES_MAX {
            return Err(EntryError::TooLong { stated });
        }
        EntryKind::from_code(self.kind).ok_or(EntryError::Kind { kind: self.kind })
    }

    fn meta(&self, kind: EntryKind, identity: &LogIdentity) -> EntryMeta {
        EntryMeta {
            position: LogPosition::new(Term(self.term.get()), Index(self.index.get())),
            chain: identity.chain(self),
            bytes: HEADER_BYTES as u32 + self.payload_bytes.get(),
            membership: kind == EntryKind::Membership,
        }
    }

    fn entry(&self, kind: EntryKind, identity: &LogIdentity, shared: Bytes) -> Entry {
        Entry {
            meta: self.meta(kind, identity),
            prev_chain: ChainHash(self.prev_chain.get()),
            kind,
            times: Times { lease: Nanos(self.lease.get()), wall: Nanos(self.wall.get()) },
            first_job: JobId(self.first_job.get()),
            job_count: self.job_count.get(),
            shared,
        }
    }
}

impl Entry {
    /// Makes the bytes of an entry.
    ///
    /// # Panics
    /// If the payload is longer than [`PAYLOAD_BYTES_MAX`], or the index is 0: no leader makes such a draft.
    #[must_use]
    pub fn encode(draft: Draft<'_>, identity: &LogIdentity) -> Entry {
        assert!(draft.payload.len() <= PAYLOAD_BYTES_MAX, "an entry's payload has a bound");
        assert!(draft.position.index > Index::ZERO, "the first entry has index 1");
        let payload_bytes = u32::try_from(draft.payload.len()).expect("bounded above");
        let mut header = Header {
            magic: U32::new(MAGIC),
            version: VERSION,
            kind: draft.kind.code(),
            shard: U16::new(identity.shard.0),
            cluster: U128::new(identity.cluster.0),
            index: U64::new(draft.position.index.0),
            term: U64::new(draft.position.term.0),
            lease: U64::new(draft.times.lease.0),
            wall: U64::new(draft.times.wall.0),
            first_job: U64::new(draft.first_job.0),
            job_count: U32::new(draft.job_count),
            payload_bytes: U32::new(payload_bytes),
            prev_chain: U128::new(draft.prev_chain.0),
            payload_hash: U128::new(identity.payload_hash(draft.payload)),
            zero: U32::ZERO,
            crc: U32::ZERO,
        };
        header.crc = U32::new(header.checksum());
        let mut shared = Vec::with_capacity(HEADER_BYTES + draft.payload.len());
        shared.extend_from_slice(header.as_bytes());
        shared.extend_from_slice(draft.payload);
        header.entry(draft.kind, identity, Bytes::from(shared))
    }

    /// Proves that these bytes, all of them, are one entry of this log.
    ///
    /// # Errors
    /// If anything about them is wrong.
    pub fn decode(shared: Bytes, identity: &LogIdentity) -> Result<Entry, EntryError> {
        let (header, payload) =
            Header::ref_from_prefix(&shared).map_err(|_| EntryError::Short { present: shared.len() })?;
        let header = *header;
        let kind = header.check(identity)?;
        let stated = header.payload_bytes.get() as usize;
        if stated != payload.len() {
            return Err(EntryError::Length { stated, present: payload.len() });
        }
        if identity.payload_hash(payload) != header.payload_hash.get() {
            return Err(EntryError::PayloadHash);
        }
        Ok(header.entry(kind, identity, shared))
    }

    /// The identity of an entry of this log whose header is whole, whatever became of its payload: a damaged entry
    /// keeps its name, so that it can be fetched from a peer.
    ///
    /// # Errors
    /// If the header is not whole, or not of this log.
    pub fn identify(shared: &[u8], identity: &LogIdentity) -> Result<Identified, EntryError> {
        let (header, _) = Header::ref_from_prefix(shared).map_err(|_| EntryError::Short { present: shared.len() })?;
        let kind = header.check(identity)?;
        Ok(Identified { meta: header.meta(kind, identity), prev_chain: ChainHash(header.prev_chain.get()) })
    }

    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.shared[HEADER_BYTES..]
    }

    /// The payload, sharing the entry's memory.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.shared.slice(HEADER_BYTES..)
    }
}

/// Which entry a whole header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identified {
    pub meta: EntryMeta,
    pub prev_chain: ChainHash,
}

#[cfg(test)]
mod tests;
