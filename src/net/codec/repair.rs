//! Copies of damaged entries: asked for by index and chain hash, and given. Entries that decode are whole, contiguous and
//! chained, and the last of them is the one that was asked for.

use bytes::BufMut;

use super::{entries, install};
use crate::net::fields::{DecodeError, Fields, PutFields};
use crate::net::frame::FrameBuilder;
use crate::net::message::{Fetch, Fetched, Held};
use crate::types::{ChainHash, Index};
use crate::wal::entry::{Entry, LogIdentity};

const ENTRIES: u8 = 1;
const FAULTY: u8 = 2;
const ABSENT: u8 = 3;
const UNKNOWN: u8 = 4;
const BELOW: u8 = 5;

fn put_chain(chain: Option<ChainHash>, fields: &mut Vec<u8>) {
    fields.put_bool(chain.is_some());
    if let Some(chain) = chain {
        fields.put_u128_le(chain.0);
    }
}

fn chain(fields: &mut Fields) -> Result<Option<ChainHash>, DecodeError> {
    Ok(if fields.bool()? { Some(ChainHash(fields.u128()?)) } else { None })
}

pub fn encode_fetch(fetch: &Fetch, fields: &mut Vec<u8>) {
    fields.put_u64_le(fetch.first.0);
    fields.put_u64_le(fetch.last.0);
    put_chain(fetch.chain, fields);
}

pub fn decode_fetch(fields: &mut Fields) -> Result<Fetch, DecodeError> {
    let fetch = Fetch { first: fields.index()?, last: fields.index()?, chain: chain(fields)? };
    let Fetch { first, last, .. } = fetch;
    if fetch != Fetch::SNAPSHOT && (first == Index::ZERO || first > last) {
        return Err(DecodeError::Unknown {
            what: "first of the entries up to the one that is fetched",
            value: first.0,
        });
    }
    Ok(fetch)
}

pub fn encode_fetched(fetched: &Fetched, frame: &mut FrameBuilder) {
    let fields = frame.fields();
    fields.put_u64_le(fetched.last.0);
    put_chain(fetched.chain, fields);
    fields.put_bool(fetched.leads.is_some());
    if let Some(term) = fetched.leads {
        fields.put_u64_le(term.0);
    }
    match &fetched.held {
        Held::Entries(entries) => {
            fields.put_u8(ENTRIES);
            entries::encode(entries, frame);
        }
        Held::Faulty => fields.put_u8(FAULTY),
        Held::Absent => fields.put_u8(ABSENT),
        Held::Unknown => fields.put_u8(UNKNOWN),
        Held::Below(snapshot) => {
            fields.put_u8(BELOW);
            install::encode_name(snapshot, fields);
        }
    }
}

pub fn decode_fetched(fields: &mut Fields, log: &LogIdentity) -> Result<Fetched, DecodeError> {
    let last = fields.index()?;
    let chain = chain(fields)?;
    let leads = if fields.bool()? { Some(fields.term()?) } else { None };
    let held = match fields.u8()? {
        ENTRIES => Held::Entries(decode_entries(fields, log, last, chain)?),
        FAULTY => Held::Faulty,
        ABSENT => Held::Absent,
        UNKNOWN => Held::Unknown,
        BELOW => Held::Below(install::decode_name(fields)?),
        other => return Err(DecodeError::Unknown { what: "answer to a fetch", value: other.into() }),
    };
    Ok(Fetched { last, chain, leads, held })
}

/// The last of them is the one that was asked for.
fn decode_entries(
    fields: &mut Fields,
    log: &LogIdentity,
    last: Index,
    chain: Option<ChainHash>,
) -> Result<Vec<Entry>, DecodeError> {
    let entries = entries::decode(fields, log)?;
    match entries.last() {
        Some(entry) if entry.meta.position.index == last && chain.is_none_or(|chain| chain == entry.meta.chain) => {
            Ok(entries)
        }
        Some(entry) => Err(DecodeError::NotContiguous { expected: last, found: entry.meta.position }),
        None => Err(DecodeError::Unknown { what: "count of fetched entries", value: 0 }),
    }
}
