//! Reads: which index must be applied here, and what the leader softly knows.

use bytes::BufMut;

use crate::net::fields::{DecodeError, Fields, PutFields};
use crate::net::message::{NAMES_PER_PAGE_MAX, PeerMessage, ReadAbout, Soft};
use crate::types::{Index, Term};

const ABOUT_STATE: u8 = 0;
const ABOUT_TUBE: u8 = 1;
const ABOUT_TUBE_COUNT: u8 = 2;
const ABOUT_BARE_TUBES: u8 = 3;

const SOFT_NOTHING: u8 = 0;
const SOFT_TUBE: u8 = 1;
const SOFT_TUBE_COUNT: u8 = 2;
const SOFT_BARE_TUBES: u8 = 3;

/// The shortest name and its length byte.
const NAME_BYTES_MIN: usize = 2;

pub fn encode_read(term: Term, read: u64, about: &ReadAbout, fields: &mut Vec<u8>) {
    fields.put_u64_le(term.0);
    fields.put_u64_le(read);
    match about {
        ReadAbout::State => fields.put_u8(ABOUT_STATE),
        ReadAbout::Tube(name) => {
            fields.put_u8(ABOUT_TUBE);
            fields.put_tube_name(name);
        }
        ReadAbout::TubeCount => fields.put_u8(ABOUT_TUBE_COUNT),
        ReadAbout::BareTubes { after } => {
            fields.put_u8(ABOUT_BARE_TUBES);
            fields.put_bool(after.is_some());
            if let Some(name) = after {
                fields.put_tube_name(name);
            }
        }
    }
}

pub fn decode_read(fields: &mut Fields) -> Result<PeerMessage, DecodeError> {
    let term = fields.term()?;
    let read = fields.u64()?;
    let about = match fields.u8()? {
        ABOUT_STATE => ReadAbout::State,
        ABOUT_TUBE => ReadAbout::Tube(fields.tube_name()?),
        ABOUT_TUBE_COUNT => ReadAbout::TubeCount,
        ABOUT_BARE_TUBES => {
            let has_after = fields.bool()?;
            ReadAbout::BareTubes { after: has_after.then(|| fields.tube_name()).transpose()? }
        }
        other => return Err(DecodeError::Unknown { what: "subject of a read", value: other.into() }),
    };
    Ok(PeerMessage::Read { term, read, about })
}

pub fn encode_answer(term: Term, read: u64, index: Index, soft: &Soft, fields: &mut Vec<u8>) {
    fields.put_u64_le(term.0);
    fields.put_u64_le(read);
    fields.put_u64_le(index.0);
    match soft {
        Soft::Nothing => fields.put_u8(SOFT_NOTHING),
        Soft::Tube { using, watching, waiting } => {
            fields.put_u8(SOFT_TUBE);
            fields.put_u64_le(*using);
            fields.put_u64_le(*watching);
            fields.put_u64_le(*waiting);
        }
        Soft::TubeCount(tubes) => {
            fields.put_u8(SOFT_TUBE_COUNT);
            fields.put_u64_le(*tubes);
        }
        Soft::BareTubes { names, is_more } => {
            fields.put_u8(SOFT_BARE_TUBES);
            fields.put_bool(*is_more);
            fields.put_length(names.len());
            for name in names {
                fields.put_tube_name(name);
            }
        }
    }
}

pub fn decode_answer(fields: &mut Fields) -> Result<PeerMessage, DecodeError> {
    let term = fields.term()?;
    let read = fields.u64()?;
    let index = fields.index()?;
    let soft = match fields.u8()? {
        SOFT_NOTHING => Soft::Nothing,
        SOFT_TUBE => Soft::Tube { using: fields.u64()?, watching: fields.u64()?, waiting: fields.u64()? },
        SOFT_TUBE_COUNT => Soft::TubeCount(fields.u64()?),
        SOFT_BARE_TUBES => {
            let is_more = fields.bool()?;
            let count = fields.count("tube names", NAME_BYTES_MIN)?;
            if count > NAMES_PER_PAGE_MAX {
                return Err(DecodeError::Unknown { what: "length of a page", value: count as u64 });
            }
            let names = (0..count).map(|_| fields.tube_name()).collect::<Result<_, _>>()?;
            Soft::BareTubes { names, is_more }
        }
        other => return Err(DecodeError::Unknown { what: "kind of soft state", value: other.into() }),
    };
    Ok(PeerMessage::ReadAnswer { term, read, index, soft })
}
