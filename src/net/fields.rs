//! Fields off a payload, in order: little endian, every length and count compared with what is left before it is
//! believed. Reading past the end, or leaving bytes behind, is an error and never a panic.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{Buf, BufMut, Bytes, TryGetError};

pub use crate::job::codec::TUBE_NAME_BYTES_MAX;
use crate::types::{BootEpoch, Index, LogPosition, NodeId, SessionId, Term};
use crate::wal::entry::EntryError;

/// No shard gets so far in terms or indices; a message that says so is wrong, and what reads it may count on.
const NUMBER_MAX: u64 = 1 << 53;

/// Why a payload with a good checksum is not a message. Either side has a bug, or they speak different protocols.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the message ends where {needed} more bytes must follow, {left} are left")]
    Short { needed: usize, left: usize },
    #[error("{bytes} bytes follow the end of the message")]
    Trailing { bytes: usize },
    #[error("{value} is no {what}")]
    Unknown { what: &'static str, value: u64 },
    #[error("a count of {count} {what}, but only {left} bytes are left")]
    Count { what: &'static str, count: usize, left: usize },
    #[error("a tube name of {bytes} bytes; 1 to {TUBE_NAME_BYTES_MAX} are allowed")]
    TubeName { bytes: usize },
    #[error("an empty command")]
    EmptyCommand,
    #[error("entry {number} of an append: {error}")]
    Entry { number: usize, error: EntryError },
    #[error("an append has entry {found} where {expected} must follow")]
    NotContiguous { expected: Index, found: LogPosition },
    #[error("entry {position} of an append is of an earlier term than the entry before it, {before}")]
    TermBackwards { position: LogPosition, before: Term },
    #[error("an append of term {term} has an entry of a later one, {position}")]
    TermAhead { term: Term, position: LogPosition },
    #[error("entry {position} of an append does not name the entry sent before it as its predecessor")]
    ChainBroken { position: LogPosition },
}

impl From<TryGetError> for DecodeError {
    fn from(error: TryGetError) -> DecodeError {
        DecodeError::Short { needed: error.requested, left: error.available }
    }
}

/// Reads a payload from front to back.
#[derive(Debug)]
pub struct Fields {
    rest: Bytes,
}

impl Fields {
    #[must_use]
    pub fn new(payload: Bytes) -> Fields {
        Fields { rest: payload }
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.rest.try_get_u8()?)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(self.rest.try_get_u16_le()?)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.rest.try_get_u32_le()?)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(self.rest.try_get_u64_le()?)
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(self.rest.try_get_i64_le()?)
    }

    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(self.rest.try_get_u128_le()?)
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Unknown { what: "truth value", value: other.into() }),
        }
    }

    /// A view of the next bytes; it shares the payload's memory.
    pub fn bytes(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.rest.len() {
            return Err(DecodeError::Short { needed: length, left: self.rest.len() });
        }
        Ok(self.rest.split_to(length))
    }

    /// A count of things that take at least `bytes_min` bytes each: proven to fit what is left.
    pub fn count(&mut self, what: &'static str, bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        let left = self.rest.len();
        if count.checked_mul(bytes_min).is_none_or(|bytes| bytes > left) {
            return Err(DecodeError::Count { what, count, left });
        }
        Ok(count)
    }

    pub fn term(&mut self) -> Result<Term, DecodeError> {
        self.below_max("term").map(Term)
    }

    pub fn index(&mut self) -> Result<Index, DecodeError> {
        self.below_max("index").map(Index)
    }

    fn below_max(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.u64()? {
            value if value < NUMBER_MAX => Ok(value),
            value => Err(DecodeError::Unknown { what, value }),
        }
    }

    pub fn position(&mut self) -> Result<LogPosition, DecodeError> {
        Ok(LogPosition { term: self.term()?, index: self.index()? })
    }

    pub fn node(&mut self) -> Result<NodeId, DecodeError> {
        match self.u8()? {
            0 => Err(DecodeError::Unknown { what: "node id", value: 0 }),
            id => Ok(NodeId(id)),
        }
    }

    pub fn session(&mut self) -> Result<SessionId, DecodeError> {
        Ok(SessionId { node: self.node()?, boot: BootEpoch(self.u64()?), number: self.u64()? })
    }

    pub fn tube_name(&mut self) -> Result<Bytes, DecodeError> {
        let bytes = usize::from(self.u8()?);
        if !(1..=TUBE_NAME_BYTES_MAX).contains(&bytes) {
            return Err(DecodeError::TubeName { bytes });
        }
        self.bytes(bytes)
    }

    /// Nothing may follow.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }
}

/// Writes what [`Fields`] reads, for the types both sides know.
pub trait PutFields: BufMut {
    fn put_bool(&mut self, value: bool) {
        self.put_u8(value.into());
    }

    /// The length of something in memory that is sent.
    fn put_length(&mut self, length: usize) {
        self.put_u32_le(u32::try_from(length).expect("nothing that is sent is as long as 4 GiB"));
    }

    fn put_position(&mut self, position: LogPosition) {
        self.put_u64_le(position.term.0);
        self.put_u64_le(position.index.0);
    }

    fn put_session(&mut self, session: SessionId) {
        self.put_u8(session.node.0);
        self.put_u64_le(session.boot.0);
        self.put_u64_le(session.number);
    }

    fn put_tube_name(&mut self, name: &[u8]) {
        assert!((1..=TUBE_NAME_BYTES_MAX).contains(&name.len()), "names of tubes are checked at the front door");
        self.put_u8(u8::try_from(name.len()).expect("at most 200"));
        self.put_slice(name);
    }
}

impl PutFields for Vec<u8> {}
