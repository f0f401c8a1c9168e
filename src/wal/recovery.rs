//! What a log holds after a crash: which files are in use, which entries are live, what of them is faulty, where the next
//! append goes. Decides by the table in `decision`, never by code of its own, and writes nothing but what makes true what it says:
//! it syncs what was read, and deletes files that no life will use again.
//!
//! ```text
//!  survey   first blocks: segments in use, in order; leftovers              survey.rs
//!  walk     entries in order, evidence where one is not whole               walk.rs, scan.rs
//!  sync     what was read is durable before anybody hears of it
//!  delete   spares and torn activations of earlier lives, if all is whole
//! ```
//!
//! Each place at which an earlier life may still have a write hanging in the device is left alone from now on: the next
//! append begins a new file. So a torn tail is cut by the next segment's header, which names the last live entry.
//!
//! The risk that remains: rot in the very last entry, acknowledged but not yet sealed, found after a crash, looks like a torn
//! write and is cut.

pub(super) mod scan;
mod survey;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::decision::TABLE;
use super::entry::{Entry, EntryError, LogIdentity};
use super::format::{BLOCK, FORMAT, SegmentHeader, is_zero};
use super::index::{LogIndex, Placement, SegmentNumber};
use super::inventory::{Inventory, Slot};
use super::manifest::{Floor, Manifest};
use super::segment::{SegmentSizes, parse_file_name};
use super::writer::{Writer, WriterStart};
use crate::io::{AlignedBuf, Disk, File, OpenMode};
use crate::raft::message::EntryMeta;
use crate::types::{ChainHash, ClusterId, Index, JobId, LogPosition, ShardId, Term};
pub(super) use survey::{Survey, survey};
use walk::{Walk, Walked};

const SPARE_READ_BYTES: u64 = 1 << 20;

/// Which log to recover, and from where on.
#[derive(Debug, Clone)]
pub struct LogPlace {
    /// The directory of the segments.
    pub dir: PathBuf,
    pub identity: LogIdentity,
    pub sizes: SegmentSizes,
    /// The entry right below the log's first: the origin, or what a snapshot stands for.
    pub base: LogPosition,
    pub base_chain: ChainHash,
    /// The id that the first ENQ above the base has.
    pub next_job: JobId,
    /// Segments that came into use earlier than this are below the base, and not looked at: `kept` are needed there, others
    /// are left over.
    pub first_ordinal: u32,
    pub kept: Vec<SegmentNumber>,
}

impl LogPlace {
    /// A log from its very beginning.
    #[must_use]
    pub fn whole(dir: PathBuf, identity: LogIdentity, sizes: SegmentSizes) -> LogPlace {
        LogPlace::above(dir, identity, sizes, &Manifest::of_whole_log(&identity))
    }

    /// A log from the floor on that its manifest states.
    #[must_use]
    pub fn above(dir: PathBuf, identity: LogIdentity, sizes: SegmentSizes, manifest: &Manifest) -> LogPlace {
        let Floor { position, chain, next_job, ordinal } = manifest.floor;
        let kept = manifest.segments.iter().map(|(number, _)| *number).collect();
        LogPlace { dir, identity, sizes, base: position, base_chain: chain, next_job, first_ordinal: ordinal, kept }
    }
}

/// What recovery found.
pub struct Recovered<D: Disk> {
    pub shard: ShardId,
    pub writer: Writer<D>,
    base_chain: ChainHash,
    /// Where each live entry lies, up to the first faulty one.
    pub index: LogIndex,
    /// Of each live entry, up to the first faulty one.
    pub metas: Vec<EntryMeta>,
    /// The highest index that the log itself knows to be committed; never above the last live entry.
    pub committed: Index,
    /// The last live entry, faulty ones included: votes go by it.
    pub last: Index,
    /// Entries that were durable and cannot be read, ascending.
    pub faulty: Vec<FaultyEntry>,
    /// Of each live entry behind the first faulty one that is whole, and where it lies.
    pub behind: Vec<(EntryMeta, Placement)>,
    /// The segments in use, in order.
    pub segments: Vec<SegmentHeader>,
    /// What was dropped because it was never completed.
    pub cut: Option<Cut>,
    /// How often each row of the decision table held.
    pub rows: [u64; TABLE.len()],
}

/// An entry that was durable here and cannot be read. It keeps its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultyEntry {
    pub index: Index,
    /// From its own header, where that is whole.
    pub term: Option<Term>,
    /// From its own header, or from the entry that follows.
    pub chain: Option<ChainHash>,
    pub path: PathBuf,
    pub segment: SegmentNumber,
    pub offset: u64,
    pub reason: FaultReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FaultReason {
    #[error("there is nothing where it should be")]
    Nothing,
    #[error("its record's header is damaged or cannot be read")]
    Unreadable,
    #[error("its record reaches beyond the end of the file")]
    PastEnd,
    #[error("the device cannot read all of it")]
    CannotRead,
    #[error("bytes behind it are not zero")]
    Padding,
    #[error("{0}")]
    Entry(EntryError),
    #[error("entry {found} (index@term) is in its place, or does not follow the entry before")]
    Stray { found: LogPosition },
}

/// An incomplete end of the log that was dropped. Not a fault: a crash leaves such things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The last entry that stays.
    pub after: Index,
    pub path: PathBuf,
    pub offset: u64,
    /// Segments behind it that are dropped as a whole.
    pub segments_lost: usize,
}

/// Why a node cannot start from its log.
#[derive(Debug, Error)]
pub enum RecoveryError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make {path} durable: {source}; the disk is not to be trusted", path = path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("cannot remove the unused segment {path}: {source}", path = path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error(
        "{path} belongs to shard {shard} of cluster {cluster}: a file of another log was put here; take it away",
        path = path.display()
    )]
    Foreign { path: PathBuf, cluster: ClusterId, shard: ShardId },
    #[error(
        "{path} is of format {format}, this program knows {FORMAT}: start the version that wrote it",
        path = path.display()
    )]
    UnknownFormat { path: PathBuf, format: u16 },
    #[error("{path} was segment {number} when it was written: it was renamed or copied; restore its name", path = path.display())]
    Misnamed { path: PathBuf, number: SegmentNumber },
    #[error(
        "{path} is {found} bytes long and was made with {stated}: the file system damaged it; replace this node",
        path = path.display()
    )]
    Length { path: PathBuf, stated: u64, found: u64 },
    #[error(
        "{first} and {second} claim the same place in the log: one is a copy from elsewhere",
        first = first.display(), second = second.display()
    )]
    SameOrdinal { first: PathBuf, second: PathBuf },
    #[error(
        "{count} log segment(s) between {before} and {after} are missing: restore them, or replace this node",
        before = before.display(), after = after.display()
    )]
    Missing { before: PathBuf, after: PathBuf, count: u64 },
    #[error(
        "the header of log segment {path} (offset 0) cannot be read, and the segment was in use: replace this node",
        path = path.display()
    )]
    HeaderUnreadable { path: PathBuf },
    #[error(
        "log segment {path} continues entry {base}, which is not the last one before it ({last}): the log's files do \
         not belong together, or some are missing; replace this node",
        path = path.display()
    )]
    Disconnected { path: PathBuf, base: Index, last: Index },
    #[error(
        "the segment in {dir} that begins at the log's floor (entry {floor}) is missing: restore it, or replace this node",
        dir = dir.display()
    )]
    NothingAboveFloor { dir: PathBuf, floor: Index },
    #[error("{0}")]
    Faulty(Box<FaultyLog>),
}

/// Entries that were durable and are not readable any more, in the operator's words.
#[derive(Debug, Error)]
#[error(
    "shard {shard}: entry {index} of the log was durable and cannot be read: {path}, offset {offset}: {reason} \
     ({count} such in all); do not delete anything: with the other nodes healthy, replace this node's data directory; \
     otherwise restore the file",
    index = first.index, path = first.path.display(), offset = first.offset, reason = first.reason
)]
pub struct FaultyLog {
    pub shard: ShardId,
    pub first: FaultyEntry,
    pub count: usize,
}

impl<D: Disk> Recovered<D> {
    /// Refuses a log with faulty entries.
    ///
    /// # Errors
    /// If there is one.
    pub fn require_whole(self) -> Result<Recovered<D>, RecoveryError> {
        match self.faulty.first() {
            None => Ok(self),
            Some(first) => Err(RecoveryError::Faulty(Box::new(FaultyLog {
                shard: self.shard,
                first: first.clone(),
                count: self.faulty.len(),
            }))),
        }
    }

    /// What there is of the log, entry by entry.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let base = Index(self.index.last().0 - self.metas.len() as u64);
        let placed = |meta: &EntryMeta| self.index.get(meta.position.index).expect("what is live has a place");
        let before =
            self.metas.iter().map(|meta| (meta.position.index, Slot::Whole { meta: *meta, placement: placed(meta) }));
        let behind =
            self.behind.iter().map(|&(meta, placement)| (meta.position.index, Slot::Whole { meta, placement }));
        let faulty = self.faulty.iter().map(|faulty| {
            let FaultyEntry { index, chain, segment, offset, .. } = *faulty;
            (index, Slot::Faulty { chain, segment, offset })
        });
        let slots: BTreeMap<Index, Slot> = before.chain(behind).chain(faulty).collect();
        assert_eq!(slots.len() as u64, self.last.0 - base.0, "each live entry is whole or faulty");
        Inventory::new(base, slots.into_values().collect(), self.segments.clone(), self.committed)
    }

    /// The log without its first faulty entry and all that follows it, where a majority has shown that it was never
    /// committed. The next append cuts it off; until then it is as it was.
    #[must_use]
    pub fn give_up_faulty(mut self) -> Recovered<D> {
        let Some(first) = self.faulty.first() else { return self };
        let last = first.index.prev().expect("entries have indexes above zero");
        assert!(self.committed <= last, "what is known to be committed is never given up");
        self.writer.give_up_after(last, self.metas.last().map_or(self.base_chain, |meta| meta.chain));
        self.last = last;
        self.faulty.clear();
        self.behind.clear();
        self
    }
}

/// Recovers a log. Each live entry up to the first faulty one is handed to `on_entry` once, in order; memory stays
/// bounded by what is kept of each entry, whatever the log's length.
///
/// # Errors
/// If the files are not those of one log, or the disk fails. Not for faulty entries: see [`Recovered::require_whole`].
pub async fn recover<D: Disk>(
    disk: &D,
    place: &LogPlace,
    on_entry: impl FnMut(&Entry, Placement),
) -> Result<Recovered<D>, RecoveryError> {
    let survey = survey(disk, place).await?;
    let mut walked = walk_over(disk, place, &survey, on_entry).await?;
    // Also the newest segment where it holds nothing live: its header may be a cut that is in force from now on.
    walked.unproven.extend(survey.in_use.last().map(|newest| place.dir.join(super::segment::file_name(newest.number))));
    walked.unproven.dedup();
    walk::sync(disk, &walked.unproven).await?;
    if walked.faulty.is_empty() {
        remove(disk, place, &survey.left_over).await?;
    }
    let writer = Writer::new(
        disk.clone(),
        WriterStart {
            dir: place.dir.clone(),
            identity: place.identity,
            sizes: place.sizes,
            last: walked.last,
            last_chain: walked.last_chain.unwrap_or_default(),
            segments_begun: survey.in_use.last().map_or(place.first_ordinal, |newest| newest.epoch.ordinal() + 1),
            next_number: SegmentNumber(survey.next_number),
        },
    );
    Ok(Recovered {
        shard: place.identity.shard,
        writer,
        base_chain: place.base_chain,
        index: walked.index,
        metas: walked.metas,
        committed: walked.commit.min(walked.last),
        last: walked.last,
        faulty: walked.faulty,
        behind: walked.behind,
        segments: survey.in_use,
        cut: walked.cut,
        rows: walked.rows,
    })
}

/// What a start would find in a log.
pub struct Examined {
    /// The last live entry, faulty ones included.
    pub last: Index,
    pub committed: Index,
    pub faulty: Vec<FaultyEntry>,
    pub cut: Option<Cut>,
}

/// Reads a log as [`recover`] does, and changes nothing: neither is what was read made durable, nor is what is left over
/// deleted.
///
/// # Errors
/// If the files are not those of one log.
pub(super) async fn examine<D: Disk>(
    disk: &D,
    place: &LogPlace,
    survey: &Survey,
    on_entry: impl FnMut(&Entry, Placement),
) -> Result<Examined, RecoveryError> {
    let Walked { last, commit, faulty, cut, .. } = walk_over(disk, place, survey, on_entry).await?;
    Ok(Examined { last, committed: commit.min(last), faulty, cut })
}

async fn walk_over<D: Disk>(
    disk: &D,
    place: &LogPlace,
    survey: &Survey,
    on_entry: impl FnMut(&Entry, Placement),
) -> Result<Walked, RecoveryError> {
    let walked = Walked {
        last: place.base.index,
        last_chain: Some(place.base_chain),
        metas: Vec::new(),
        behind: Vec::new(),
        index: LogIndex::new(place.base.index, place.next_job),
        commit: Index::ZERO,
        faulty: Vec::new(),
        cut: None,
        rows: [0; TABLE.len()],
        unproven: Vec::new(),
    };
    Walk { disk, dir: &place.dir, identity: place.identity, segments: &survey.in_use, on_entry, walked }.run().await
}

/// Deletes files of earlier lives that hold nothing, durably: none may come back.
async fn remove<D: Disk>(disk: &D, place: &LogPlace, paths: &[PathBuf]) -> Result<(), RecoveryError> {
    for path in paths {
        disk.unlink(path).await.map_err(|source| RecoveryError::Remove { path: path.clone(), source })?;
    }
    if !paths.is_empty() {
        let dir = &place.dir;
        disk.sync_dir(dir).await.map_err(|source| RecoveryError::Remove { path: dir.clone(), source })?;
    }
    Ok(())
}

/// Removes one spare, durably, where a node needs room to start at all: a file of zeros from its beginning to its end, which no
/// recovery looks at, whatever else it finds. Other leftovers wait until it is known that the log is whole.
///
/// # Returns
/// Its path; none where there is no spare beside the segments that are `kept`.
///
/// # Errors
/// If the disk fails.
pub async fn remove_a_spare<D: Disk>(
    disk: &D,
    dir: &Path,
    kept: &[SegmentNumber],
) -> Result<Option<PathBuf>, RecoveryError> {
    let read = |source| RecoveryError::Read { path: dir.to_owned(), source };
    for file in disk.list(dir).await.map_err(read)? {
        let path = dir.join(&file.name);
        if parse_file_name(&file.name).is_some_and(|number| !kept.contains(&number)) && is_spare(disk, &path).await {
            let failed = |source| RecoveryError::Remove { path: path.clone(), source };
            disk.unlink(&path).await.map_err(failed)?;
            disk.sync_dir(dir).await.map_err(failed)?;
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Not if it cannot be read as a whole.
async fn is_spare<D: Disk>(disk: &D, path: &Path) -> bool {
    let Ok(file) = disk.open(path, OpenMode::Read).await else { return false };
    // Of a file that was not grown to its length, less than a block is nobody's.
    let end = file.bytes() / BLOCK * BLOCK;
    let mut offset = 0;
    while offset < end {
        let bytes = SPARE_READ_BYTES.min(end - offset);
        let buf = AlignedBuf::zeroed(usize::try_from(bytes).expect("a mebibyte at most"));
        let (Ok(()), buf) = file.read_at(buf, offset).await else { return false };
        if !is_zero(&buf) {
            return false;
        }
        offset += bytes;
    }
    true
}

#[cfg(test)]
mod tests;
