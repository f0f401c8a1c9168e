//! Entries of the log as messages carry them: how many, how long each is, then their shared parts as they are in the log. Those that decode
//! are whole, contiguous and chained.

use bytes::Buf;

use crate::net::fields::{DecodeError, Fields, PutFields};
use crate::net::frame::FrameBuilder;
use crate::types::{Index, LogPosition};
use crate::wal::entry::{Entry, LogIdentity};

/// A length in the table before the entries.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Behind all other fields: what is attached to a frame follows them.
pub fn encode(entries: &[Entry], frame: &mut FrameBuilder) {
    let fields = frame.fields();
    fields.put_length(entries.len());
    for entry in entries {
        fields.put_length(entry.shared.len());
    }
    for entry in entries {
        frame.attach(entry.shared.clone());
    }
}

pub fn decode(fields: &mut Fields, log: &LogIdentity) -> Result<Vec<Entry>, DecodeError> {
    let count = fields.count("entries", LENGTH_BYTES)?;
    let mut lengths = fields.bytes(count * LENGTH_BYTES)?;
    // Not sized by `count`: only entries that are there take memory.
    let mut entries: Vec<Entry> = Vec::new();
    for number in 0..count {
        let shared = fields.bytes(lengths.try_get_u32_le()? as usize)?;
        let entry = Entry::decode(shared, log).map_err(|error| DecodeError::Entry { number, error })?;
        if let Some(before) = entries.last() {
            check_follows(entry.meta.position, before.meta.position)?;
            if before.meta.chain != entry.prev_chain {
                return Err(DecodeError::ChainBroken { position: entry.meta.position });
            }
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Indices have no gap, and terms never fall.
pub fn check_follows(position: LogPosition, before: LogPosition) -> Result<(), DecodeError> {
    if before.index.0.checked_add(1) != Some(position.index.0) {
        let expected = Index(before.index.0.saturating_add(1));
        return Err(DecodeError::NotContiguous { expected, found: position });
    }
    if position.term < before.term {
        return Err(DecodeError::TermBackwards { position, before: before.term });
    }
    Ok(())
}
