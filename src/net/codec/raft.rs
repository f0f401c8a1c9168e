//! Consensus between two members, and the entries that an append carries. An append's metadata is not on the wire:
//! it is read off the entries themselves, each proven whole by its own checksums, so that what consensus decides on
//! and what the log stores can't differ.

use bytes::BufMut;

use super::entries;
use crate::net::fields::{DecodeError, Fields, PutFields};
use crate::net::frame::FrameBuilder;
use crate::net::message::RaftMessage;
use crate::raft::message::{Body, Message};
use crate::types::{LogPosition, Nanos, Term, Times};
use crate::wal::entry::{Entry, LogIdentity};

const PRE_VOTE_REQUEST: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const VOTE_REQUEST: u8 = 3;
const VOTE_REPLY: u8 = 4;
const APPEND: u8 = 5;
const APPEND_ACCEPTED: u8 = 6;
const APPEND_REJECTED: u8 = 7;
const TIMEOUT_NOW: u8 = 8;

pub fn encode(raft: &RaftMessage, frame: &mut FrameBuilder) {
    let fields = frame.fields();
    fields.put_u8(kind(&raft.message.body));
    fields.put_u64_le(raft.message.term.0);
    fields.put_u64_le(raft.times.lease.0);
    fields.put_u64_le(raft.times.wall.0);
    fields.put_bool(raft.room);
    fields.put_u64_le(raft.durable.0);
    match &raft.message.body {
        Body::PreVoteRequest { last } => fields.put_position(*last),
        Body::PreVoteReply { granted } | Body::VoteReply { granted } => fields.put_bool(*granted),
        Body::VoteRequest { last, transfer } => {
            fields.put_position(*last);
            fields.put_bool(*transfer);
        }
        Body::Append { prev, entries, commit, round } => {
            assert!(
                entries.iter().eq(raft.entries.iter().map(|entry| &entry.meta)),
                "the shard attaches the very entries that consensus named"
            );
            fields.put_position(*prev);
            fields.put_u64_le(commit.0);
            fields.put_u64_le(*round);
            entries::encode(&raft.entries, frame);
        }
        Body::AppendAccepted { matched, round } => {
            fields.put_u64_le(matched.0);
            fields.put_u64_le(*round);
        }
        Body::AppendRejected { prev, hint, round } => {
            fields.put_position(*prev);
            fields.put_position(*hint);
            fields.put_u64_le(*round);
        }
        Body::TimeoutNow => {}
    }
}

pub fn decode(fields: &mut Fields, log: &LogIdentity) -> Result<RaftMessage, DecodeError> {
    let kind = fields.u8()?;
    let term = fields.term()?;
    let times = Times { lease: Nanos(fields.u64()?), wall: Nanos(fields.u64()?) };
    let (room, durable) = (fields.bool()?, fields.index()?);
    let mut entries = Vec::new();
    let body = match kind {
        PRE_VOTE_REQUEST => Body::PreVoteRequest { last: fields.position()? },
        PRE_VOTE_REPLY => Body::PreVoteReply { granted: fields.bool()? },
        VOTE_REQUEST => Body::VoteRequest { last: fields.position()?, transfer: fields.bool()? },
        VOTE_REPLY => Body::VoteReply { granted: fields.bool()? },
        APPEND => {
            let prev = fields.position()?;
            let commit = fields.index()?;
            let round = fields.u64()?;
            entries = decode_entries(fields, term, prev, log)?;
            Body::Append { prev, entries: entries.iter().map(|entry| entry.meta).collect(), commit, round }
        }
        APPEND_ACCEPTED => Body::AppendAccepted { matched: fields.index()?, round: fields.u64()? },
        APPEND_REJECTED => {
            Body::AppendRejected { prev: fields.position()?, hint: fields.position()?, round: fields.u64()? }
        }
        TIMEOUT_NOW => Body::TimeoutNow,
        other => return Err(DecodeError::Unknown { what: "kind of Raft message", value: other.into() }),
    };
    Ok(RaftMessage { message: Message { term, body }, entries, times, room, durable })
}

fn kind(body: &Body) -> u8 {
    match body {
        Body::PreVoteRequest { .. } => PRE_VOTE_REQUEST,
        Body::PreVoteReply { .. } => PRE_VOTE_REPLY,
        Body::VoteRequest { .. } => VOTE_REQUEST,
        Body::VoteReply { .. } => VOTE_REPLY,
        Body::Append { .. } => APPEND,
        Body::AppendAccepted { .. } => APPEND_ACCEPTED,
        Body::AppendRejected { .. } => APPEND_REJECTED,
        Body::TimeoutNow => TIMEOUT_NOW,
    }
}

/// They follow `prev`, and are of no later term than the message. That the first one links to `prev` is for the receiver to check, who has the hash
/// of its own entry there.
fn decode_entries(
    fields: &mut Fields,
    term: Term,
    prev: LogPosition,
    log: &LogIdentity,
) -> Result<Vec<Entry>, DecodeError> {
    let entries = entries::decode(fields, log)?;
    if let Some(first) = entries.first() {
        entries::check_follows(first.meta.position, prev)?;
    }
    match entries.iter().map(|entry| entry.meta.position).find(|position| position.term > term) {
        Some(position) => Err(DecodeError::TermAhead { term, position }),
        None => Ok(entries),
    }
}
