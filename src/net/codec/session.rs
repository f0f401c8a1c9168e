//! What a node says to the leader for its sessions: commands, waits, references to tubes. The commands' own format is
//! that of `job::codec`, which the receiver decodes; here they are byte strings.

use bytes::{Buf, BufMut, Bytes};

use crate::net::fields::{DecodeError, Fields, PutFields, TUBE_NAME_BYTES_MAX};
use crate::net::frame::FrameBuilder;
use crate::net::message::{PeerMessage, ReferenceDelta, ReferencePart};
use crate::types::{SessionId, Term};

const PART_CHANGES: u8 = 0;
const PART_WHOLE: u8 = 1;
const PART_BEGIN: u8 = 2;
const PART_MIDDLE: u8 = 3;
const PART_END: u8 = 4;
const PART_LEFT: u8 = 5;

/// A length in the table before attached byte strings.
const LENGTH_BYTES: usize = size_of::<u32>();

/// The shortest name with its length byte, and two deltas.
const REFERENCE_BYTES_MIN: usize = 2 + 2 * size_of::<i64>();

pub fn encode_commands(term: Term, commands: &[Bytes], frame: &mut FrameBuilder) {
    let fields = frame.fields();
    fields.put_u64_le(term.0);
    fields.put_length(commands.len());
    for command in commands {
        assert!(!command.is_empty(), "an encoded command has a kind at least");
        fields.put_length(command.len());
    }
    for command in commands {
        frame.attach(command.clone());
    }
}

pub fn decode_commands(fields: &mut Fields) -> Result<PeerMessage, DecodeError> {
    let term = fields.term()?;
    let count = fields.count("commands", LENGTH_BYTES)?;
    let mut lengths = fields.bytes(count * LENGTH_BYTES)?;
    // Not sized by `count`: only commands that are there take memory.
    let mut commands = Vec::new();
    for _ in 0..count {
        let command = fields.bytes(lengths.try_get_u32_le()? as usize)?;
        if command.is_empty() {
            return Err(DecodeError::EmptyCommand);
        }
        commands.push(command);
    }
    Ok(PeerMessage::Commands { term, commands })
}

/// What all that is said of a wait begins with.
pub fn encode_numbered(term: Term, session: SessionId, seq: u64, registration: u64, fields: &mut Vec<u8>) {
    fields.put_u64_le(term.0);
    fields.put_session(session);
    fields.put_u64_le(seq);
    fields.put_u64_le(registration);
}

/// What a wait's registration adds.
pub fn encode_wait(poll: bool, tubes: &Bytes, fields: &mut Vec<u8>) {
    fields.put_bool(poll);
    fields.put_length(tubes.len());
    fields.put_slice(tubes);
}

pub fn decode_wait(fields: &mut Fields) -> Result<PeerMessage, DecodeError> {
    let term = fields.term()?;
    let session = fields.session()?;
    let seq = fields.u64()?;
    let registration = fields.u64()?;
    let poll = fields.bool()?;
    let length = fields.u32()? as usize;
    let tubes = fields.bytes(length)?;
    check_tube_list(&tubes)?;
    Ok(PeerMessage::Wait { term, session, seq, registration, poll, tubes })
}

/// A list as `job::command::TubeList` has it: for each name a byte of length, then the name.
fn check_tube_list(mut list: &[u8]) -> Result<(), DecodeError> {
    while let Some((&length, rest)) = list.split_first() {
        let bytes = usize::from(length);
        if !(1..=TUBE_NAME_BYTES_MAX).contains(&bytes) {
            return Err(DecodeError::TubeName { bytes });
        }
        list = rest.get(bytes..).ok_or(DecodeError::Short { needed: bytes, left: rest.len() })?;
    }
    Ok(())
}

pub fn encode_references(term: Term, part: ReferencePart, changes: &[ReferenceDelta], fields: &mut Vec<u8>) {
    fields.put_u64_le(term.0);
    fields.put_u8(match part {
        ReferencePart::Changes => PART_CHANGES,
        ReferencePart::Whole => PART_WHOLE,
        ReferencePart::Begin => PART_BEGIN,
        ReferencePart::Middle => PART_MIDDLE,
        ReferencePart::End => PART_END,
        ReferencePart::Left => PART_LEFT,
    });
    fields.put_length(changes.len());
    for change in changes {
        fields.put_tube_name(&change.tube);
        fields.put_i64_le(change.using);
        fields.put_i64_le(change.watching);
    }
}

pub fn decode_references(fields: &mut Fields) -> Result<PeerMessage, DecodeError> {
    let term = fields.term()?;
    let part = match fields.u8()? {
        PART_CHANGES => ReferencePart::Changes,
        PART_WHOLE => ReferencePart::Whole,
        PART_BEGIN => ReferencePart::Begin,
        PART_MIDDLE => ReferencePart::Middle,
        PART_END => ReferencePart::End,
        PART_LEFT => ReferencePart::Left,
        other => return Err(DecodeError::Unknown { what: "part of a report", value: other.into() }),
    };
    let count = fields.count("references", REFERENCE_BYTES_MIN)?;
    let changes = (0..count)
        .map(|_| {
            Ok(ReferenceDelta {
                // A copy: a name is kept as long as its tube, and must not keep the whole frame alive.
                tube: Bytes::copy_from_slice(&fields.tube_name()?),
                using: fields.i64()?,
                watching: fields.i64()?,
            })
        })
        .collect::<Result<_, DecodeError>>()?;
    Ok(PeerMessage::References { term, part, changes })
}
