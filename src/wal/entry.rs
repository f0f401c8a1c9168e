//! An entry's shared part: the bytes that are the same on every node, on the wire and on disk.

use bytes::Bytes;

use crate::raft::message::EntryMeta;
use crate::types::{ChainHash, ClusterId, JobId, LogPosition, ShardId, Times};

/// Which log an entry belongs to; seeds its hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    pub cluster: ClusterId,
    pub shard: ShardId,
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
