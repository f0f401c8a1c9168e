//! Messages between nodes as payloads of frames. Entries, commands and other long byte strings are attached on the way
//! out and sliced on the way in, never copied. What decodes is a message that the rest of the house may believe in form:
//! entries are whole, contiguous and chained, lengths sum up, nothing is left over.
//!
//! A payload is a byte that names the kind, then the kind's fields; whatever is attached lies at the end.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod entries;
mod install;
mod raft;
mod read;
mod repair;
mod session;

use bytes::{BufMut, Bytes};

use super::fields::{DecodeError, Fields};
use super::frame::FrameBuilder;
use super::message::PeerMessage;
use crate::wal::entry::LogIdentity;

const RAFT: u8 = 1;
const COMMANDS: u8 = 2;
const WAIT: u8 = 3;
const WITHDRAW: u8 = 4;
const WAIT_ENDED: u8 = 5;
const READ: u8 = 6;
const READ_ANSWER: u8 = 7;
const REFERENCES: u8 = 8;
const FETCH: u8 = 9;
const FETCHED: u8 = 10;
const MARKER_DIGEST: u8 = 11;
const OFFER: u8 = 12;
const PULL: u8 = 13;
const PULLED: u8 = 14;
const LEFT_TAKEN: u8 = 15;

/// Writes a message into a frame.
pub fn encode(message: &PeerMessage, frame: &mut FrameBuilder) {
    match message {
        PeerMessage::Raft(message) => {
            frame.fields().put_u8(RAFT);
            raft::encode(message, frame);
        }
        PeerMessage::Commands { term, commands } => {
            frame.fields().put_u8(COMMANDS);
            session::encode_commands(*term, commands, frame);
        }
        PeerMessage::Wait { term, session, seq, registration, poll, tubes } => {
            let fields = frame.fields();
            fields.put_u8(WAIT);
            session::encode_numbered(*term, *session, *seq, *registration, fields);
            session::encode_wait(*poll, tubes, fields);
        }
        PeerMessage::Withdraw { term, session, seq, registration, at_once } => {
            let fields = frame.fields();
            fields.put_u8(WITHDRAW);
            session::encode_numbered(*term, *session, *seq, *registration, fields);
            fields.put_u8((*at_once).into());
        }
        PeerMessage::WaitEnded { term, session, seq, registration, applied } => {
            let fields = frame.fields();
            fields.put_u8(WAIT_ENDED);
            session::encode_numbered(*term, *session, *seq, *registration, fields);
            fields.put_u64_le(applied.0);
        }
        PeerMessage::Read { term, read, about } => {
            let fields = frame.fields();
            fields.put_u8(READ);
            read::encode_read(*term, *read, about, fields);
        }
        PeerMessage::ReadAnswer { term, read, index, soft } => {
            let fields = frame.fields();
            fields.put_u8(READ_ANSWER);
            read::encode_answer(*term, *read, *index, soft, fields);
        }
        PeerMessage::MarkerDigest { term, marker, digest } => {
            let fields = frame.fields();
            fields.put_u8(MARKER_DIGEST);
            fields.put_u64_le(term.0);
            fields.put_u64_le(marker.0);
            fields.put_u128_le(*digest);
        }
        PeerMessage::References { term, part, changes } => {
            let fields = frame.fields();
            fields.put_u8(REFERENCES);
            session::encode_references(*term, *part, changes, fields);
        }
        PeerMessage::LeftTaken { term } => {
            let fields = frame.fields();
            fields.put_u8(LEFT_TAKEN);
            fields.put_u64_le(term.0);
        }
        PeerMessage::Fetch(fetch) => {
            let fields = frame.fields();
            fields.put_u8(FETCH);
            repair::encode_fetch(fetch, fields);
        }
        PeerMessage::Fetched(fetched) => {
            frame.fields().put_u8(FETCHED);
            repair::encode_fetched(fetched, frame);
        }
        PeerMessage::Offer { term, snapshot } => {
            let fields = frame.fields();
            fields.put_u8(OFFER);
            fields.put_u64_le(term.0);
            install::encode_name(snapshot, fields);
        }
        PeerMessage::Pull(pull) => {
            let fields = frame.fields();
            fields.put_u8(PULL);
            install::encode_pull(pull, fields);
        }
        PeerMessage::Pulled(pulled) => {
            frame.fields().put_u8(PULLED);
            install::encode_pulled(pulled, frame);
        }
    }
}

/// Reads the message that fills this payload. `log` is the log that the connection carries; an entry of another one is
/// an error. What the message holds shares the payload's memory.
pub fn decode(payload: Bytes, log: &LogIdentity) -> Result<PeerMessage, DecodeError> {
    let mut fields = Fields::new(payload);
    let message = match fields.u8()? {
        RAFT => PeerMessage::Raft(raft::decode(&mut fields, log)?),
        COMMANDS => session::decode_commands(&mut fields)?,
        WAIT => session::decode_wait(&mut fields)?,
        WITHDRAW => PeerMessage::Withdraw {
            term: fields.term()?,
            session: fields.session()?,
            seq: fields.u64()?,
            registration: fields.u64()?,
            at_once: fields.bool()?,
        },
        WAIT_ENDED => PeerMessage::WaitEnded {
            term: fields.term()?,
            session: fields.session()?,
            seq: fields.u64()?,
            registration: fields.u64()?,
            applied: fields.index()?,
        },
        READ => read::decode_read(&mut fields)?,
        READ_ANSWER => read::decode_answer(&mut fields)?,
        REFERENCES => session::decode_references(&mut fields)?,
        FETCH => PeerMessage::Fetch(repair::decode_fetch(&mut fields)?),
        FETCHED => PeerMessage::Fetched(repair::decode_fetched(&mut fields, log)?),
        MARKER_DIGEST => {
            PeerMessage::MarkerDigest { term: fields.term()?, marker: fields.index()?, digest: fields.u128()? }
        }
        LEFT_TAKEN => PeerMessage::LeftTaken { term: fields.term()? },
        OFFER => PeerMessage::Offer { term: fields.term()?, snapshot: install::decode_name(&mut fields)? },
        PULL => PeerMessage::Pull(install::decode_pull(&mut fields)?),
        PULLED => PeerMessage::Pulled(install::decode_pulled(&mut fields)?),
        other => return Err(DecodeError::Unknown { what: "kind of message", value: other.into() }),
    };
    fields.end()?;
    Ok(message)
}

#[cfg(test)]
mod tests;
