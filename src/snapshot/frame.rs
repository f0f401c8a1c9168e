//! What a snapshot is of, and the header that says so. It must never hold anything that differs between nodes.

use std::io;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128_with_seed;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::io::BLOCK_BYTES;
use crate::job::Capture;
use crate::raft::Membership;
use crate::types::{ChainHash, ClusterId, Index, JobId, LogPosition, Nanos, ShardId, SnapshotName, Term, Times};
use crate::wal::entry::LogIdentity;

/// Of this layout and of the image's.
pub const FORMAT: u16 = 1;

/// The body is verified, and can be fetched from another node, in chunks of this length; the last may be shorter.
pub const CHUNK_BYTES: usize = 64 * 1024;

const MAGIC: [u8; 8] = *b"beavSNAP";
/// Keeps these hashes apart from all others.
const HASH_DOMAIN: u64 = u64::from_le_bytes(*b"beaverSN");
/// One byte of version, and four parts of a length and at most 255 nodes.
const MEMBERSHIP_BYTES_MAX: usize = 1 + 4 * 256;

/// Whether the bodies are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Partial,
    Full,
}

/// Which state a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub identity: LogIdentity,
    /// The last entry whose effect is in it, and that entry's chain hash.
    pub position: LogPosition,
    pub chain: ChainHash,
    pub times: Times,
    /// The id that the first ENQ above `position` has.
    pub next_job: JobId,
    pub membership: Membership,
    /// Of the state: `Machine::digest`.
    pub digest: u128,
}

impl Frame {
    #[must_use]
    pub fn partial(capture: &Capture, identity: LogIdentity, chain: ChainHash, membership: Membership) -> Frame {
        Frame {
            kind: Kind::Partial,
            identity,
            position: capture.position(),
            chain,
            times: capture.times(),
            next_job: capture.next_job(),
            membership,
            digest: capture.digest(),
        }
    }
}

/// Why bytes are not a snapshot that can be used.
#[derive(Debug, Error)]
pub enum Invalid {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not begin as a snapshot does")]
    Magic,
    #[error("it is of format {format}, this program knows {FORMAT}")]
    Format { format: u16 },
    #[error("its header is damaged")]
    Header,
    #[error("it belongs to shard {shard} of cluster {cluster}")]
    Foreign { cluster: ClusterId, shard: ShardId },
    #[error("it is {found} bytes long and was written with {expected}")]
    Length { expected: u64, found: u64 },
    #[error("its table of chunks is damaged")]
    Table,
    #[error("chunk {chunk}, at offset {offset}, is damaged")]
    Chunk { chunk: usize, offset: u64 },
}

impl Invalid {
    /// Where in the file, if it is one place.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self {
            Invalid::Magic | Invalid::Format { .. } | Invalid::Header | Invalid::Foreign { .. } => Some(0),
            Invalid::Table => Some(BLOCK_BYTES as u64),
            Invalid::Chunk { offset, .. } => Some(*offset),
            Invalid::Io(_) | Invalid::Length { .. } => None,
        }
    }
}

/// Frame and lengths: all that is needed to verify the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub frame: Frame,
    /// Of the archive, without the zeros that fill its last block.
    pub body_bytes: u64,
    pub table_hash: u128,
}

impl Header {
    /// Of the body with the zeros behind it.
    #[must_use]
    pub fn padded_body_bytes(&self) -> u64 {
        self.body_bytes.next_multiple_of(BLOCK_BYTES as u64)
    }

    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.padded_body_bytes().div_ceil(CHUNK_BYTES as u64)
    }

    /// Of the table with the zeros behind it.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        (self.chunks() * HASH_BYTES as u64).next_multiple_of(BLOCK_BYTES as u64)
    }

    #[must_use]
    pub fn body_offset(&self) -> u64 {
        BLOCK_BYTES as u64 + self.table_bytes()
    }

    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.body_offset() + self.padded_body_bytes()
    }

    /// What the snapshot is called between nodes.
    #[must_use]
    pub fn name(&self) -> SnapshotName {
        let hash = self.encode().first_chunk().map_or(0, |hash| u128::from_le_bytes(*hash));
        SnapshotName { position: self.frame.position, hash, bytes: self.file_bytes() }
    }

    /// One block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Frame { kind, identity, position, chain, times, next_job, membership, digest } = &self.frame;
        let encoded = membership.encode();
        let mut members = [0; MEMBERSHIP_BYTES_MAX];
        members[..encoded.len()].copy_from_slice(&encoded);
        let mut bytes = HeaderBytes {
            hash: U128::ZERO,
            magic: MAGIC,
            format: FORMAT.into(),
            shard: identity.shard.0.into(),
            kind: match kind {
                Kind::Partial => 1,
                Kind::Full => 2,
            },
            reserved: [0; 3],
            cluster: identity.cluster.0.into(),
            term: position.term.0.into(),
            index: position.index.0.into(),
            chain: chain.0.into(),
            lease: times.lease.0.into(),
            wall: times.wall.0.into(),
            next_job: next_job.0.into(),
            digest: (*digest).into(),
            body_bytes: self.body_bytes.into(),
            chunk_bytes: U32::new(CHUNK_BYTES as u32),
            table_hash: self.table_hash.into(),
            membership_bytes: U16::new(encoded.len() as u16),
            membership: members,
        };
        bytes.hash = bytes.own_hash().into();
        let mut block = bytes.as_bytes().to_vec();
        block.resize(BLOCK_BYTES, 0);
        block
    }

    /// # Errors
    /// The block is no header of this log's snapshots.
    pub fn decode(block: &[u8], identity: &LogIdentity) -> Result<Header, Invalid> {
        let (bytes, rest) = HeaderBytes::ref_from_prefix(block).map_err(|_| Invalid::Header)?;
        if bytes.magic != MAGIC {
            return Err(Invalid::Magic);
        }
        let format = bytes.format.get();
        if format != FORMAT {
            return Err(Invalid::Format { format });
        }
        if bytes.hash.get() != bytes.own_hash() || !crate::wal::format::is_zero(rest) {
            return Err(Invalid::Header);
        }
        let found = LogIdentity { cluster: ClusterId(bytes.cluster.get()), shard: ShardId(bytes.shard.get()) };
        if found != *identity {
            return Err(Invalid::Foreign { cluster: found.cluster, shard: found.shard });
        }
        let kind = match bytes.kind {
            1 => Kind::Partial,
            2 => Kind::Full,
            _ => return Err(Invalid::Header),
        };
        let members = bytes.membership.get(..bytes.membership_bytes.get().into()).ok_or(Invalid::Header)?;
        // A length near the end of what 64 bits count is none of a file.
        if bytes.chunk_bytes.get() as usize != CHUNK_BYTES || bytes.body_bytes.get() >= 1 << 48 {
            return Err(Invalid::Header);
        }
        let frame = Frame {
            kind,
            identity: found,
            position: LogPosition::new(Term(bytes.term.get()), Index(bytes.index.get())),
            chain: ChainHash(bytes.chain.get()),
            times: Times { lease: Nanos(bytes.lease.get()), wall: Nanos(bytes.wall.get()) },
            next_job: JobId(bytes.next_job.get()),
            membership: Membership::decode(members).map_err(|_| Invalid::Header)?,
            digest: bytes.digest.get(),
        };
        Ok(Header { frame, body_bytes: bytes.body_bytes.get(), table_hash: bytes.table_hash.get() })
    }
}

pub(super) const HASH_BYTES: usize = 16;

/// Of a chunk, or of the table.
#[must_use]
pub fn hash(bytes: &[u8]) -> u128 {
    xxh3_128_with_seed(bytes, HASH_DOMAIN)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
struct HeaderBytes {
    /// Over all that follows it.
    hash: U128,
    magic: [u8; 8],
    format: U16,
    shard: U16,
    kind: u8,
    reserved: [u8; 3],
    cluster: U128,
    term: U64,
    index: U64,
    chain: U128,
    lease: U64,
    wall: U64,
    next_job: U64,
    digest: U128,
    body_bytes: U64,
    chunk_bytes: U32,
    table_hash: U128,
    membership_bytes: U16,
    membership: [u8; MEMBERSHIP_BYTES_MAX],
}

const _: () = assert!(size_of::<HeaderBytes>() <= BLOCK_BYTES);

impl HeaderBytes {
    fn own_hash(&self) -> u128 {
        hash(&self.as_bytes()[HASH_BYTES..])
    }
}
