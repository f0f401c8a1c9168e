//! The walk over the segments in use, entry by entry, as the decision table says. Each live entry is handed on once, in
//! order; entries that a later segment has killed never are, nor is anything behind a faulty entry.

use std::path::{Path, PathBuf};

use super::scan::{Scan, Seen, Testimonies};
use super::{Cut, FaultReason, FaultyEntry, RecoveryError};
use crate::io::{Disk, File, OpenMode};
use crate::raft::message::EntryMeta;
use crate::types::{ChainHash, Index};
use crate::wal::decision::{Decision, Found, TABLE, depends_on_evidence, row};
use crate::wal::entry::{Entry, Identified, LogIdentity};
use crate::wal::format::{BLOCK, SegmentHeader, record_bytes};
use crate::wal::index::{LogIndex, Placement, SegmentNumber};
use crate::wal::segment::file_name;

/// What the walk comes to.
#[derive(Debug)]
pub(super) struct Walked {
    pub last: Index,
    /// Unknown right behind a faulty entry.
    pub last_chain: Option<ChainHash>,
    pub metas: Vec<EntryMeta>,
    pub index: LogIndex,
    /// Whole entries behind the first faulty one, and where they lie.
    pub behind: Vec<(EntryMeta, Placement)>,
    pub commit: Index,
    pub faulty: Vec<FaultyEntry>,
    pub cut: Option<Cut>,
    /// How often each row of the decision table held.
    pub rows: [u64; TABLE.len()],
    /// Segments with live entries that no later segment calls durable.
    pub unproven: Vec<PathBuf>,
}

pub(super) struct Walk<'a, D, C> {
    pub disk: &'a D,
    pub dir: &'a Path,
    pub identity: LogIdentity,
    /// In the order in which they came into use.
    pub segments: &'a [SegmentHeader],
    pub on_entry: C,
    pub walked: Walked,
}

/// What the records behind a place say, gathered when first needed.
#[derive(Default)]
struct Evidence {
    here: Option<Testimonies>,
    in_later_segments: Option<Index>,
}

impl<D: Disk, C: FnMut(&Entry, Placement)> Walk<'_, D, C> {
    pub(super) async fn run(mut self) -> Result<Walked, RecoveryError> {
        for ordinal in 0..self.segments.len() {
            if !self.walk_segment(ordinal).await? {
                break;
            }
        }
        Ok(self.walked)
    }

    /// What is above this index in a segment is dead: a later segment begins there.
    fn limit(&self, ordinal: usize) -> Option<Index> {
        self.segments[ordinal + 1..].iter().map(|later| later.base).min()
    }

    /// The highest index that the header of a later segment calls durable.
    fn called_durable_later(&self, ordinal: usize) -> Index {
        self.segments[ordinal + 1..].iter().map(|later| later.durable_upto).max().unwrap_or(Index::ZERO)
    }

    fn path(&self, ordinal: usize) -> PathBuf {
        self.dir.join(file_name(self.segments[ordinal].number))
    }

    async fn scan(&self, ordinal: usize) -> Result<Scan<D::File>, RecoveryError> {
        let path = self.path(ordinal);
        match self.disk.open(&path, OpenMode::Read).await {
            Ok(file) => Ok(Scan::new(file, self.segments[ordinal], self.identity)),
            Err(source) => Err(RecoveryError::Read { path, source }),
        }
    }

    /// Whether the log goes on behind this segment.
    async fn walk_segment(&mut self, ordinal: usize) -> Result<bool, RecoveryError> {
        let header = self.segments[ordinal];
        let limit = self.limit(ordinal);
        self.walked.commit = self.walked.commit.max(header.commit);
        if limit.is_some_and(|limit| limit <= header.base) {
            return Ok(true);
        }
        self.connect(ordinal)?;
        let mut scan = self.scan(ordinal).await?;
        let mut evidence = Evidence::default();
        let mut offset = BLOCK;
        let goes_on = loop {
            let expected = self.walked.last.next();
            let superseded = limit.is_some_and(|limit| expected > limit);
            let seen = if superseded { Seen::Nothing } else { scan.see(offset).await };
            let found = self.classify(&seen);
            let is_durable = depends_on_evidence(found, superseded)
                && self.evidence(ordinal, &mut scan, offset, &mut evidence, expected).await? >= expected;
            let row = row(found, superseded, is_durable);
            self.walked.rows[row] += 1;
            match (TABLE[row].decision, seen) {
                (Decision::Keep, Seen::Entry { entry, testimony }) => {
                    self.walked.commit = self.walked.commit.max(testimony.commit);
                    self.keep(&entry, Placement { segment: header.number, offset, bytes: entry.meta.bytes });
                    offset += record_bytes(entry.meta.bytes);
                }
                (Decision::Pass, Seen::Seal { testimony, last_chain }) => {
                    self.walked.commit = self.walked.commit.max(testimony.commit);
                    if let Some(chain) = last_chain
                        && testimony.durable_upto == self.walked.last
                        && self.walked.last_chain.is_none()
                    {
                        self.learn_chain(chain);
                    }
                    offset += BLOCK;
                }
                (Decision::NextSegment, _) => break true,
                (Decision::End, _) => {
                    self.end(ordinal, offset, &evidence);
                    break false;
                }
                (Decision::Faulty, seen) => {
                    let durable_upto = self.evidence(ordinal, &mut scan, offset, &mut evidence, expected).await?;
                    let lost_upto = limit.map_or(durable_upto, |limit| limit.min(durable_upto));
                    match self.pass_faulty(ordinal, &mut scan, offset, seen, lost_upto).await {
                        Some(next) => offset = next,
                        None => break true,
                    }
                }
                (decision, seen) => unreachable!("the table never says {decision:?} to {seen:?}"),
            }
        };
        let contributed = self.walked.last > header.base;
        if contributed && self.called_durable_later(ordinal) < self.walked.last {
            self.walked.unproven.push(self.path(ordinal));
        }
        Ok(goes_on)
    }

    /// The segment's header must name the last entry so far: that is how segments are chained.
    fn connect(&mut self, ordinal: usize) -> Result<(), RecoveryError> {
        let header = self.segments[ordinal];
        let names_last = header.base == self.walked.last;
        if !names_last || self.walked.last_chain.is_some_and(|chain| chain != header.base_chain) {
            let (path, base, last) = (self.path(ordinal), header.base, self.walked.last);
            return Err(RecoveryError::Disconnected { path, base, last });
        }
        self.learn_chain(header.base_chain);
        Ok(())
    }

    /// The chain hash of the last entry, from the one that follows: it identifies one that is faulty.
    fn learn_chain(&mut self, chain: ChainHash) {
        if self.walked.last_chain.replace(chain).is_none()
            && let Some(faulty) = self.walked.faulty.last_mut()
        {
            faulty.chain = Some(chain);
        }
    }

    fn classify(&self, seen: &Seen) -> Found {
        match seen {
            Seen::Nothing => Found::Nothing,
            Seen::Seal { .. } => Found::Seal,
            Seen::Entry { entry, .. } if self.follows(entry.meta.position.index, entry.prev_chain) => Found::Whole,
            Seen::Entry { .. } => Found::Stray,
            Seen::Damaged { .. } => Found::Damaged,
            Seen::Unreadable => Found::Unreadable,
        }
    }

    fn follows(&self, index: Index, prev_chain: ChainHash) -> bool {
        index == self.walked.last.next() && self.walked.last_chain.is_none_or(|chain| chain == prev_chain)
    }

    fn keep(&mut self, entry: &Entry, placement: Placement) {
        self.learn_chain(entry.prev_chain);
        let walked = &mut self.walked;
        walked.last = entry.meta.position.index;
        walked.last_chain = Some(entry.meta.chain);
        if walked.faulty.is_empty() {
            walked.metas.push(entry.meta);
            walked.index.push(walked.last, placement, entry.first_job, entry.job_count);
            (self.on_entry)(entry, placement);
        } else {
            walked.behind.push((entry.meta, placement));
        }
    }

    /// The highest index that a record behind this place calls durable. Looks no further than needed to reach `wanted`.
    async fn evidence(
        &self,
        ordinal: usize,
        scan: &mut Scan<D::File>,
        offset: u64,
        known: &mut Evidence,
        wanted: Index,
    ) -> Result<Index, RecoveryError> {
        let mut durable_upto = self.called_durable_later(ordinal);
        if durable_upto >= wanted {
            return Ok(durable_upto);
        }
        if known.here.is_none() {
            known.here = Some(scan.testimonies(offset).await);
        }
        durable_upto = durable_upto.max(known.here.as_ref().map_or(Index::ZERO, |here| here.above(offset)));
        if durable_upto >= wanted {
            return Ok(durable_upto);
        }
        if known.in_later_segments.is_none() {
            known.in_later_segments = Some(self.called_durable_in_later_segments(ordinal).await?);
        }
        Ok(durable_upto.max(known.in_later_segments.unwrap_or(Index::ZERO)))
    }

    async fn called_durable_in_later_segments(&self, ordinal: usize) -> Result<Index, RecoveryError> {
        let mut durable_upto = Index::ZERO;
        for later in ordinal + 1..self.segments.len() {
            durable_upto = durable_upto.max(self.scan(later).await?.testimonies(BLOCK).await.above(0));
        }
        Ok(durable_upto)
    }

    fn end(&mut self, ordinal: usize, offset: u64, evidence: &Evidence) {
        let is_written = evidence.here.as_ref().is_some_and(|here| here.is_written);
        let segments_lost = self.segments.len() - ordinal - 1;
        if is_written || segments_lost > 0 {
            self.walked.cut = Some(Cut { after: self.walked.last, path: self.path(ordinal), offset, segments_lost });
        }
    }

    /// Notes the faulty entry or entries in this place, and finds where to go on in this segment.
    async fn pass_faulty(
        &mut self,
        ordinal: usize,
        scan: &mut Scan<D::File>,
        offset: u64,
        seen: Seen,
        lost_upto: Index,
    ) -> Option<u64> {
        let segment = self.segments[ordinal].number;
        let (reason, identified, next) = match seen {
            Seen::Damaged { reason, identified, record_bytes } => (reason, identified, record_bytes),
            Seen::Entry { entry, .. } => {
                let found = entry.meta.position;
                (FaultReason::Stray { found }, None, Some(record_bytes(entry.meta.bytes)))
            }
            Seen::Unreadable => (FaultReason::Unreadable, None, None),
            Seen::Nothing | Seen::Seal { .. } => (FaultReason::Nothing, None, None),
        };
        let identified = identified.filter(|entry| self.follows(entry.meta.position.index, entry.prev_chain));
        self.note_faulty(segment, offset, reason, identified);
        if let Some(bytes) = next {
            return Some(offset + bytes);
        }
        // How long it was is not known, so neither is how many entries are lost: the next record that is whole tells. There
        // were no more than there are blocks.
        let resumed = scan.next_record(offset + BLOCK, self.walked.last).await;
        let fit_max = self.walked.last.0 + (scan.end().saturating_sub(offset) / BLOCK).saturating_sub(1);
        let last_lost = resumed.map_or(lost_upto, |(_, before)| before.min(lost_upto)).min(Index(fit_max));
        while self.walked.last < last_lost {
            self.note_faulty(segment, offset, reason, None);
        }
        resumed.map(|(next, _)| next)
    }

    fn note_faulty(
        &mut self,
        segment: SegmentNumber,
        offset: u64,
        reason: FaultReason,
        identified: Option<Identified>,
    ) {
        if let Some(entry) = identified {
            self.learn_chain(entry.prev_chain);
        }
        let walked = &mut self.walked;
        walked.last = walked.last.next();
        walked.last_chain = identified.map(|entry| entry.meta.chain);
        walked.faulty.push(FaultyEntry {
            index: walked.last,
            term: identified.map(|entry| entry.meta.position.term),
            chain: walked.last_chain,
            path: self.dir.join(file_name(segment)),
            segment,
            offset,
            reason,
        });
    }
}

/// Makes durable what was read, so that it may be acknowledged: a process that died may have left it in a cache.
pub(super) async fn sync<D: Disk>(disk: &D, paths: &[PathBuf]) -> Result<(), RecoveryError> {
    for path in paths {
        let unsynced = |source| RecoveryError::Sync { path: path.clone(), source };
        disk.open(path, OpenMode::Read).await.map_err(unsynced)?.sync().await.map_err(unsynced)?;
    }
    Ok(())
}
