//! Where every entry lies, and every job's ENQ: in memory for the log's newest segments, in mapped rows for all others.
//! Serves bodies, stats and the leader's look-ups of classes; it must never be asked by apply.
//!
//! ```text
//!   store 1..400 | segment 401..950 | store 951..1200 | segments in memory 1201..
//!   `----------- pieces, ascending and apart ------'   `- index and rows
//! ```

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use roaring::RoaringTreemap;

use super::entry::Entry;
use super::footer::{Footer, FooterDraft, Row, Subject};
use super::index::{LogIndex, Placement, SegmentNumber};
use super::rows::{RowError, Rows};
use super::segment::file_name;
use super::store::{RecordAt, store_file_name};
use crate::job::command::Class;
use crate::types::{ChainHash, Index, JobId, Nanos};

/// Which file holds the ENQs that the rows of a piece are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PieceName {
    Log(SegmentNumber),
    Store(SegmentNumber),
}

impl fmt::Display for PieceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PieceName::Log(number) => write!(f, "wal/{}", file_name(*number)),
            PieceName::Store(number) => write!(f, "store/{}", store_file_name(*number)),
        }
    }
}

/// A file that is written no more, with its rows.
#[derive(Debug, Clone)]
pub struct Piece {
    pub name: PieceName,
    pub footer: Rc<Footer>,
}

/// Where a job's ENQ stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnqueueAt {
    /// `offset`: from the start of the entry's payload.
    Log {
        placement: Placement,
        offset: u32,
        bytes: u32,
    },
    Store(RecordAt),
}

impl EnqueueAt {
    #[must_use]
    pub fn piece(&self) -> PieceName {
        match self {
            EnqueueAt::Log { placement, .. } => PieceName::Log(placement.segment),
            EnqueueAt::Store(at) => PieceName::Store(at.number),
        }
    }

    /// Bytes of the ENQ.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        match self {
            EnqueueAt::Log { bytes, .. } => *bytes,
            EnqueueAt::Store(at) => at.bytes,
        }
    }

    /// The number of the file.
    #[must_use]
    pub fn file(&self) -> SegmentNumber {
        match self {
            EnqueueAt::Log { placement, .. } => placement.segment,
            EnqueueAt::Store(at) => at.number,
        }
    }
}

/// What is known of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    pub class: Class<'a>,
    pub enqueued_wall: Nanos,
    /// Of the command within its entry's payload; where it is in a store segment, see `at`.
    pub offset: u32,
    pub bytes: u32,
    /// And the index of its entry; none while that is not yet durable.
    pub at: Option<(Index, EnqueueAt)>,
}

/// The rows of the file that a job is in, if it is anywhere, are damaged: nothing is known of where it stands and of its class,
/// until they are made again. That is not to be taken for there being no such job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRows(pub PieceName);

/// Invariants: the ranges of the pieces' jobs are apart and ascend; entries and jobs that are in memory follow those of
/// all pieces.
#[derive(Debug)]
pub struct Catalog {
    pieces: Vec<Piece>,
    index: LogIndex,
    rows: Rows,
    /// Files that were found damaged since this was last asked: who looks something up does not change it.
    bad: RefCell<BTreeSet<PieceName>>,
}

impl Catalog {
    #[must_use]
    pub fn new(mut pieces: Vec<Piece>, index: LogIndex, rows: Rows) -> Catalog {
        pieces.sort_by_key(order);
        Catalog { pieces, index, rows, bad: RefCell::default() }
    }

    /// The id that the next ENQ of the log will have.
    #[must_use]
    pub fn next_job(&self) -> JobId {
        self.rows.next_job()
    }

    /// Takes up the rows of an entry that follows all before it.
    ///
    /// # Errors
    /// As for [`Rows::push`].
    pub fn push_rows(&mut self, entry: &Entry) -> Result<(), RowError> {
        self.rows.push(entry)
    }

    /// An entry whose rows are here is durable in this place.
    pub fn push_place(&mut self, index: Index, placement: Placement, first_job: JobId, job_count: u32) {
        self.index.push(index, placement, first_job, job_count);
    }

    /// Forgets the entries above `after`, which is committed or later, and the jobs from `next_job` on.
    pub fn truncate_after(&mut self, after: Index, next_job: JobId) {
        assert!(after >= self.index.base(), "what has its rows in a file is committed");
        self.rows.truncate(next_job);
        self.index.truncate_after(after);
    }

    /// The id that follows the last job at or below an index that is not in a piece.
    #[must_use]
    pub fn next_job_after(&self, index: Index) -> JobId {
        self.index.next_job_after(index)
    }

    /// What the log says of a job; none where it holds no ENQ of that id.
    ///
    /// # Errors
    /// If that cannot be told, because rows are damaged.
    pub fn find(&self, job: JobId) -> Result<Option<Found<'_>>, BadRows> {
        if let Some(row) = self.rows.get(job) {
            let (offset, bytes) = (row.offset, row.bytes);
            let at = self.index.entry_of_job(job);
            let at = at.map(|(index, placement)| (index, EnqueueAt::Log { placement, offset, bytes }));
            return Ok(Some(Found { class: row.class, enqueued_wall: row.enqueued_wall, offset, bytes, at }));
        }
        let Some(piece) = self.piece_of(job) else { return Ok(None) };
        if !piece.footer.is_proven() {
            self.note_bad(piece.name);
            return Err(BadRows(piece.name));
        }
        let row = piece.footer.find(job);
        Ok(row.map(|Row { class, offset, bytes, wall, index, placement, .. }| {
            let at = match piece.name {
                PieceName::Log(_) => EnqueueAt::Log { placement, offset, bytes },
                PieceName::Store(number) => EnqueueAt::Store(RecordAt { number, offset, bytes, job }),
            };
            Found { class, enqueued_wall: wall, offset, bytes, at: Some((index, at)) }
        }))
    }

    /// The only file in which a job may be.
    fn piece_of(&self, job: JobId) -> Option<&Piece> {
        let behind = self.pieces.partition_point(|piece| piece.footer.first_job() <= job);
        // A segment without jobs names the first job of the one behind it.
        let piece = self.pieces[..behind].iter().rev().find(|piece| piece.footer.jobs() > 0)?;
        (job < piece.footer.next_job()).then_some(piece)
    }

    /// This file was found damaged.
    pub fn note_bad(&self, name: PieceName) {
        self.bad.borrow_mut().insert(name);
    }

    /// The files that were found damaged since this was last asked, as far as they are still there.
    pub fn take_bad(&mut self) -> BTreeSet<PieceName> {
        let mut bad = self.bad.take();
        bad.retain(|name| self.pieces.iter().any(|piece| piece.name == *name));
        bad
    }

    /// Where an entry of the log lies.
    #[must_use]
    pub fn placement(&self, index: Index) -> Option<Placement> {
        self.index.get(index).or_else(|| {
            // Whoever asks is interested in the newest of them.
            let mut logs = self.pieces.iter().rev().filter(|piece| matches!(piece.name, PieceName::Log(_)));
            logs.find(|piece| piece.footer.subject().base < index)?.footer.placement(index)
        })
    }

    /// The places of the entries from `first` to `last`, both included, as long as they are known here and their shared
    /// parts together do not exceed `bytes_max`; but at least one, if the first is known.
    #[must_use]
    pub fn range(&self, first: Index, last: Index, bytes_max: u64) -> Vec<Placement> {
        let mut bytes = 0;
        let mut places = Vec::new();
        for index in (first.0..=last.0).map(Index) {
            let Some(placement) = self.placement(index) else { break };
            bytes += u64::from(placement.bytes);
            if bytes > bytes_max && !places.is_empty() {
                break;
            }
            places.push(placement);
        }
        places
    }

    /// The segments of the log with the oldest and the newest entry.
    #[must_use]
    pub fn segments(&self) -> Option<(SegmentNumber, SegmentNumber)> {
        let oldest = self.pieces.iter().find_map(|piece| match piece.name {
            PieceName::Log(number) => Some(number),
            PieceName::Store(_) => None,
        });
        match (oldest, self.index.segments()) {
            (Some(oldest), Some((_, newest))) => Some((oldest, newest)),
            (None, segments) => segments,
            (Some(oldest), None) => Some((oldest, oldest)),
        }
    }

    /// The oldest segment whose rows are in memory, if it is written no more and all its entries are at or below
    /// `committed`, so that none can be cut off.
    #[must_use]
    pub fn closable(&self, committed: Index) -> Option<(SegmentNumber, Index)> {
        let front = self.index.front_segment().filter(|front| front.last <= committed)?;
        Some((front.number, front.last))
    }

    /// What there is to write of that segment's rows.
    #[must_use]
    pub fn draft(&self, number: SegmentNumber, last: Index, base_chain: ChainHash) -> (Subject, FooterDraft) {
        let base = self.index.base();
        let next_job = self.index.next_job_after(last);
        let draft = self.rows.draft(base, self.index.entries_up_to(last));
        (Subject { number, base, base_chain, last, next_job }, draft)
    }

    /// The entry right below the first one in memory.
    #[must_use]
    pub fn base(&self) -> Index {
        self.index.base()
    }

    /// The rows of the oldest segment in memory are mapped from now on.
    ///
    /// # Panics
    /// If they are of another part of the log.
    pub fn close(&mut self, footer: Rc<Footer>) {
        let subject = footer.subject();
        assert_eq!(subject.base, self.index.base(), "segments are closed in order");
        self.index.drop_up_to(subject.last);
        self.rows.drop_below(subject.next_job);
        self.insert(Piece { name: PieceName::Log(subject.number), footer });
    }

    /// Some pieces were given up, and others took over what lives of them.
    pub fn replace(&mut self, removed: &[PieceName], added: Vec<Piece>) {
        self.pieces.retain(|piece| !removed.contains(&piece.name));
        added.into_iter().for_each(|piece| self.insert(piece));
    }

    fn insert(&mut self, piece: Piece) {
        let at = self.pieces.partition_point(|other| order(other) <= order(&piece));
        self.pieces.insert(at, piece);
        debug_assert!(self.pieces.windows(2).all(|pair| pair[0].footer.next_job() <= pair[1].footer.first_job()));
    }

    /// The highest end of a mapped segment of the log at or below `limit`, and the first job above it.
    #[must_use]
    pub fn closed_end(&self, limit: Index) -> Option<(Index, JobId)> {
        let mut logs = self.pieces.iter().rev().filter(|piece| matches!(piece.name, PieceName::Log(_)));
        let subject = logs.find(|piece| piece.footer.subject().last <= limit)?.footer.subject();
        Some((subject.last, subject.next_job))
    }

    /// The segments of the log with entries above `floor`, up to `last`, each with the last of its entries that count.
    #[must_use]
    pub fn segments_between(&self, floor: Index, last: Index) -> Vec<(SegmentNumber, Index)> {
        let closed = self.pieces.iter().filter_map(|piece| match piece.name {
            PieceName::Log(number) => Some((number, piece.footer.subject().last)),
            PieceName::Store(_) => None,
        });
        let mut segments: Vec<(SegmentNumber, Index)> = closed.filter(|(_, end)| *end > floor).collect();
        for (index, placement, ..) in self.index.entries_up_to(last) {
            match segments.last_mut() {
                Some((number, end)) if *number == placement.segment => *end = index,
                _ => segments.push((placement.segment, index)),
            }
        }
        segments
    }

    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

/// The lowest job of a set that is in none of these ranges of ids, which files and the log above them state. In proportion to the
/// ranges and to the containers of the set, never to the jobs in it.
#[must_use]
pub fn lowest_uncovered(mut held: Vec<Range<JobId>>, live: &RoaringTreemap) -> Option<JobId> {
    held.sort_unstable_by_key(|range| range.start);
    let mut live = live.iter();
    let mut next = live.next().map(JobId);
    for Range { start: first, end: behind } in held {
        if next? < first {
            return next;
        }
        if next? < behind {
            live.advance_to(behind.0);
            next = live.next().map(JobId);
        }
    }
    next
}

fn order(piece: &Piece) -> (JobId, Index) {
    (piece.footer.first_job(), piece.footer.subject().base)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{ClusterId, ShardId};
    use crate::wal::entry::LogIdentity;

    const IDENTITY: LogIdentity = LogIdentity { cluster: ClusterId(7), shard: ShardId(0) };

    /// A segment with these jobs, which lie close together or far apart.
    fn piece(number: u32, jobs: &[u64], next_job: u64) -> Piece {
        let base = Index(u64::from(number) * 10);
        let mut draft = FooterDraft::new(base, JobId(jobs.first().copied().unwrap_or(next_job)));
        let number = SegmentNumber(number);
        draft.push_entry(base.next(), Some(Placement { segment: number, offset: 4096, bytes: 300 }), Nanos(1));
        for &job in jobs {
            draft.push_job(JobId(job), Class { tube: b"default", priority: 1, ttr_s: 1, delay_s: 0 }, 0, 50);
        }
        let next_job = JobId(next_job);
        let subject = Subject { number, base, base_chain: ChainHash(1), last: base.next(), next_job };
        let footer =
            Footer::open(Bytes::from(draft.finish(&subject, &IDENTITY)), &IDENTITY).expect("rows just written");
        Piece { name: PieceName::Log(number), footer: Rc::new(footer) }
    }

    #[test]
    fn the_lowest_job_that_no_file_can_hold_is_found_before_the_first_between_two_and_behind_all() {
        let pieces = [piece(3, &[200, 201, 202], 203), piece(1, &[5, 6, 7], 8), piece(2, &[], 60)];
        let lowest = |live: &[u64]| {
            let live: RoaringTreemap = live.iter().copied().collect();
            let held = pieces.iter().filter_map(|piece| piece.footer.ids()).chain([JobId(300)..JobId(310)]);
            lowest_uncovered(held.collect(), &live).map(|job| job.0)
        };
        assert_eq!(lowest(&[]), None);
        assert_eq!(lowest(&[5, 7, 200, 202, 300, 309]), None);
        assert_eq!(lowest(&[4, 5, 1_000_000]), Some(4));
        assert_eq!(lowest(&[7, 8]), Some(8));
        assert_eq!(lowest(&[6, 59, 60]), Some(59), "a segment without jobs holds none");
        assert_eq!(lowest(&[202, 203, 299]), Some(203));
        assert_eq!(lowest(&[309, 310]), Some(310));
        assert_eq!(lowest_uncovered(Vec::new(), &RoaringTreemap::from([1])), Some(JobId(1)));
    }
}
