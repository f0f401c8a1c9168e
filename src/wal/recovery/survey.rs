//! The first look at a log's directory: which files are segments in use, in which order, and which are left over from an
//! earlier life and are to be deleted. Reads first blocks; believes no header that does not fit its file.

use std::path::{Path, PathBuf};

use super::{LogPlace, RecoveryError};
use crate::io::{AlignedBuf, Disk, File, OpenMode};
use crate::types::Index;
use crate::wal::entry::{Entry, LogIdentity};
use crate::wal::format::{BLOCK, FirstBlock, PLACEMENT_HEADER_BYTES, Record, SegmentHeader, is_zero};
use crate::wal::index::SegmentNumber;
use crate::wal::rewrite::UNFINISHED;
use crate::wal::segment::{file_name, parse_file_name};

#[derive(Debug, Default)]
pub(in crate::wal) struct Survey {
    /// In the order in which they came into use; their ordinals have no gap.
    pub in_use: Vec<SegmentHeader>,
    /// Spares, and segments whose first write was never completed.
    pub left_over: Vec<PathBuf>,
    /// Above the number of every file there.
    pub next_number: u32,
}

/// # Errors
/// If a file is not of this log, is not what its header says, or one is missing between two others.
pub(in crate::wal) async fn survey<D: Disk>(disk: &D, place: &LogPlace) -> Result<Survey, RecoveryError> {
    let dir = &place.dir;
    let files = disk.list(dir).await.map_err(|source| RecoveryError::Read { path: dir.to_owned(), source })?;
    let mut survey = Survey { next_number: 1, ..Survey::default() };
    let mut unnamed = Unnamed::default();
    for file in files {
        let path = dir.join(&file.name);
        if file.name.strip_suffix(UNFINISHED).and_then(parse_file_name).is_some() {
            // A repair that did not come to its end.
            survey.left_over.push(path);
            continue;
        }
        let Some(number) = parse_file_name(&file.name) else { continue };
        survey.next_number = survey.next_number.max(number.0 + 1);
        if place.kept.contains(&number) {
            continue;
        }
        match first_look(disk, &path, number, &place.identity).await? {
            Look::InUse(header) if header.number != number => {
                return Err(RecoveryError::Misnamed { path, number: header.number });
            }
            Look::InUse(header) if header.bytes != file.bytes => {
                return Err(RecoveryError::Length { path, stated: header.bytes, found: file.bytes });
            }
            Look::InUse(header) if header.epoch.ordinal() < place.first_ordinal => survey.left_over.push(path),
            Look::InUse(header) => survey.in_use.push(header),
            Look::LeftOver => survey.left_over.push(path),
            Look::Written => unnamed.written.push(path),
            Look::Durable { ordinal } => unnamed.durable.push((ordinal, path)),
        }
    }
    survey.in_use.sort_by_key(|header| header.epoch);
    // What came into use before the segment that begins at the floor lies below that, or was cut off: nothing in it counts.
    let begins = survey.in_use.first().filter(|first| is_at_floor(place, first));
    let first_that_counts = begins.map_or(place.first_ordinal, |first| first.epoch.ordinal());
    let dead = unnamed.durable.extract_if(.., |(ordinal, _)| *ordinal < first_that_counts);
    survey.left_over.extend(dead.map(|(_, path)| path));
    check_order(place, &survey.in_use, &unnamed)?;
    if let Some((_, path)) = unnamed.durable.into_iter().next() {
        return Err(RecoveryError::HeaderUnreadable { path });
    }
    survey.left_over.append(&mut unnamed.written);
    Ok(survey)
}

/// Files with something in them, but no header.
#[derive(Debug, Default)]
struct Unnamed {
    /// By what is in them, the first write may have been torn.
    written: Vec<PathBuf>,
    /// By what is in them, it was completed; with the ordinal of the segment, as its records say.
    durable: Vec<(u32, PathBuf)>,
}

impl Unnamed {
    /// The file that was in use, where the others show that one is lacking.
    fn suspect(&self) -> Option<PathBuf> {
        self.durable.first().map(|(_, path)| path).or(self.written.first()).cloned()
    }
}

fn is_at_floor(place: &LogPlace, segment: &SegmentHeader) -> bool {
    (segment.base, segment.base_chain) == (place.base.index, place.base_chain)
}

fn check_order(place: &LogPlace, in_use: &[SegmentHeader], unnamed: &Unnamed) -> Result<(), RecoveryError> {
    let dir = &place.dir;
    if let (Some(first), Some(path)) = (in_use.first(), unnamed.suspect())
        && first.base > place.base.index
    {
        return Err(RecoveryError::HeaderUnreadable { path });
    }
    // The first segment may be lost where the next begins at the floor, too: then nothing in it counts. (A log that was installed begins
    // with one that stays empty.)
    let begins_at_floor =
        in_use.first().is_some_and(|first| first.epoch.ordinal() == place.first_ordinal || is_at_floor(place, first));
    if place.first_ordinal > 0 && !begins_at_floor {
        return Err(RecoveryError::NothingAboveFloor { dir: dir.clone(), floor: place.base.index });
    }
    for pair in in_use.windows(2) {
        let [before, after] = pair else { continue };
        let path = |header: &SegmentHeader| dir.join(file_name(header.number));
        let (expected, found) = (u64::from(before.epoch.ordinal()) + 1, u64::from(after.epoch.ordinal()));
        if found < expected {
            return Err(RecoveryError::SameOrdinal { first: path(before), second: path(after) });
        }
        if found > expected {
            return Err(match unnamed.suspect() {
                Some(path) => RecoveryError::HeaderUnreadable { path },
                None => RecoveryError::Missing { before: path(before), after: path(after), count: found - expected },
            });
        }
    }
    Ok(())
}

enum Look {
    InUse(SegmentHeader),
    /// Never written, but with zeros.
    LeftOver,
    /// Without a header, and nothing shows that there ever was one.
    Written,
    /// Without a header, and what follows shows that there was one.
    Durable {
        ordinal: u32,
    },
}

async fn first_look<D: Disk>(
    disk: &D,
    path: &Path,
    number: SegmentNumber,
    identity: &LogIdentity,
) -> Result<Look, RecoveryError> {
    let unreadable = |source| RecoveryError::Read { path: path.to_owned(), source };
    let file = disk.open(path, OpenMode::Read).await.map_err(unreadable)?;
    if file.bytes() < BLOCK {
        // Made, and not even grown to its length.
        return Ok(Look::LeftOver);
    }
    let first = match file.read_at(AlignedBuf::zeroed(BLOCK as usize), 0).await {
        (Ok(()), block) => FirstBlock::read(&block, identity),
        (Err(_), _) => FirstBlock::Unreadable,
    };
    match first {
        FirstBlock::Header(header) => Ok(Look::InUse(header)),
        FirstBlock::Foreign { cluster, shard } => Err(RecoveryError::Foreign { path: path.to_owned(), cluster, shard }),
        FirstBlock::UnknownFormat { format } => Err(RecoveryError::UnknownFormat { path: path.to_owned(), format }),
        FirstBlock::Zero if second_block_is_zero(&file).await => Ok(Look::LeftOver),
        // The header goes with the first records in one write: if that was completed, a record that was written later
        // says so. A write that was torn left no such record.
        FirstBlock::Zero | FirstBlock::Unreadable => Ok(match durable_ordinal(&file, number, identity).await {
            Some(ordinal) => Look::Durable { ordinal },
            None => Look::Written,
        }),
    }
}

async fn second_block_is_zero<F: File>(file: &F) -> bool {
    if file.bytes() < 2 * BLOCK {
        return true;
    }
    let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK as usize), BLOCK).await;
    result.is_ok() && is_zero(&block)
}

/// The ordinal of a segment, by its records, where one of them testifies that another one of this file was durable.
async fn durable_ordinal<F: File>(file: &F, number: SegmentNumber, identity: &LogIdentity) -> Option<u32> {
    let mut ordinal = None;
    let mut first_entry: Option<Index> = None;
    let mut durable_upto = Index::ZERO;
    let mut offset = BLOCK;
    while offset + BLOCK <= file.bytes() {
        if let (Ok(()), block) = file.read_at(AlignedBuf::zeroed(BLOCK as usize), offset).await
            && let Some((epoch, record)) = Record::read_of_any_epoch(&block, number, offset)
        {
            ordinal = ordinal.max(Some(epoch.ordinal()));
            durable_upto = durable_upto.max(record.testimony.durable_upto);
            if let Ok(entry) = Entry::identify(&block[PLACEMENT_HEADER_BYTES..], identity) {
                let index = entry.meta.position.index;
                first_entry = Some(first_entry.map_or(index, |first| first.min(index)));
            }
        }
        offset += BLOCK;
    }
    if first_entry? <= durable_upto { ordinal } else { None }
}
