//! Where in the log's newest segments each entry lies, by its index and by the jobs in it. In memory, 24 bytes an entry; it
//! never holds a place that is not durable, and never reads one.

use std::collections::VecDeque;
use std::fmt;

use crate::io::BLOCK_BYTES;
use crate::types::{Index, JobId};

/// The number in a segment's file name. Numbers say when a file was made, not when it came into use: that is what its
/// epoch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u32);

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where one entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Placement {
    pub segment: SegmentNumber,
    /// Of the block with the placement header, from the start of the file; whole blocks.
    pub offset: u64,
    /// Length of the shared part; see [`super::format::record_bytes`] for what it takes on disk.
    pub bytes: u32,
}

/// A segment that is written no more, as far as its entries are at the front of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrontSegment {
    pub number: SegmentNumber,
    /// Of its entries.
    pub last: Index,
}

/// One entry, packed.
#[derive(Debug, Clone, Copy)]
struct Located {
    segment: SegmentNumber,
    block: u32,
    bytes: u32,
    job_count: u32,
    first_job: JobId,
}

const _: () = assert!(size_of::<Located>() <= 24);

impl Located {
    fn placement(&self) -> Placement {
        Placement { segment: self.segment, offset: u64::from(self.block) * BLOCK_BYTES as u64, bytes: self.bytes }
    }

    fn next_job(&self) -> JobId {
        JobId(self.first_job.0 + u64::from(self.job_count))
    }
}

/// Invariants: entries are contiguous from `base` + 1; their first jobs never descend, so both searches are binary.
#[derive(Debug, Clone)]
pub struct LogIndex {
    base: Index,
    /// The id that the first ENQ above `base` gets.
    base_next_job: JobId,
    entries: VecDeque<Located>,
}

impl Default for LogIndex {
    fn default() -> LogIndex {
        LogIndex::new(Index::ZERO, JobId(1))
    }
}

impl LogIndex {
    /// An index of a log that begins right above `base`, where `next_job` is the next free id.
    #[must_use]
    pub fn new(base: Index, next_job: JobId) -> LogIndex {
        LogIndex { base, base_next_job: next_job, entries: VecDeque::new() }
    }

    /// The index of the last entry, or the base.
    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.base.0 + self.entries.len() as u64)
    }

    /// # Panics
    /// If the entry does not follow the last one.
    pub fn push(&mut self, index: Index, placement: Placement, first_job: JobId, job_count: u32) {
        assert_eq!(index, self.last().next(), "the log is contiguous");
        let block = u32::try_from(placement.offset / BLOCK_BYTES as u64).expect("a segment is far smaller than 16 TiB");
        let Placement { segment, bytes, .. } = placement;
        self.entries.push_back(Located { segment, block, bytes, job_count, first_job });
    }

    /// Forgets the entries above an index.
    pub fn truncate_after(&mut self, index: Index) {
        let keep = index.0.saturating_sub(self.base.0);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    #[must_use]
    pub fn get(&self, index: Index) -> Option<Placement> {
        self.located(index).map(Located::placement)
    }

    /// The places of the entries from `first` to `last`, both included, as long as they are known here and their shared
    /// parts together do not exceed `bytes_max`; but at least one, if the first is known.
    #[must_use]
    pub fn range(&self, first: Index, last: Index, bytes_max: u64) -> Vec<Placement> {
        let mut bytes = 0;
        let mut places = Vec::new();
        for index in (first.0..=last.0).map(Index) {
            let Some(located) = self.located(index) else { break };
            bytes += u64::from(located.bytes);
            if bytes > bytes_max && !places.is_empty() {
                break;
            }
            places.push(located.placement());
        }
        places
    }

    /// The entry with the job's ENQ; none where the job's id was not given by an entry that is known here.
    #[must_use]
    pub fn entry_of_job(&self, job: JobId) -> Option<(Index, Placement)> {
        let at = self.entries.partition_point(|entry| entry.first_job <= job).checked_sub(1)?;
        // Entries without jobs share their first id with the entry that follows them, which is the one found here:
        // of those with equal ids the last is found, and only the last can hold jobs.
        let located = &self.entries[at];
        let index = Index(self.base.0 + at as u64 + 1);
        (job < located.next_job()).then(|| (index, located.placement()))
    }

    /// The id that follows the last job at or below an index.
    #[must_use]
    pub fn next_job_after(&self, index: Index) -> JobId {
        self.located(index.min(self.last())).map_or(self.base_next_job, Located::next_job)
    }

    /// The entry right below the first one here.
    #[must_use]
    pub fn base(&self) -> Index {
        self.base
    }

    /// The segment with the oldest entry here, and its entries; none unless a later segment follows.
    #[must_use]
    pub fn front_segment(&self) -> Option<FrontSegment> {
        let (oldest, newest) = self.segments()?;
        if oldest == newest {
            return None;
        }
        let count = self.entries.partition_point(|entry| entry.segment == oldest);
        Some(FrontSegment { number: oldest, last: Index(self.base.0 + count as u64) })
    }

    /// The entries up to `last`: index, place, first job and how many.
    pub fn entries_up_to(&self, last: Index) -> impl Iterator<Item = (Index, Placement, JobId, u32)> {
        let entries = (self.base.0 + 1..=last.0).map(Index).zip(&self.entries);
        entries.map(|(index, entry)| (index, entry.placement(), entry.first_job, entry.job_count))
    }

    /// Forgets the entries up to `last`, which is the base from now on.
    pub fn drop_up_to(&mut self, last: Index) {
        let next_job = self.next_job_after(last);
        let gone = usize::try_from(last.0.saturating_sub(self.base.0)).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.drain(..gone);
        self.base = Index(self.base.0 + gone as u64);
        self.base_next_job = next_job;
    }

    /// The segments with the oldest and the newest entry.
    #[must_use]
    pub fn segments(&self) -> Option<(SegmentNumber, SegmentNumber)> {
        Some((self.entries.front()?.segment, self.entries.back()?.segment))
    }

    fn located(&self, index: Index) -> Option<&Located> {
        let above = index.0.checked_sub(self.base.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(above).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(block: u64) -> Placement {
        Placement { segment: SegmentNumber(1), offset: block * BLOCK_BYTES as u64, bytes: 100 }
    }

    /// Entries 1 to 5; jobs 1..=3 in entry 2, none in 1, 3 and 4, job 4 in entry 5.
    fn sample() -> LogIndex {
        let mut index = LogIndex::default();
        index.push(Index(1), place(1), JobId(1), 0);
        index.push(Index(2), place(2), JobId(1), 3);
        index.push(Index(3), place(3), JobId(4), 0);
        index.push(Index(4), place(4), JobId(4), 0);
        index.push(Index(5), place(5), JobId(4), 1);
        index
    }

    #[test]
    fn an_entry_is_found_by_its_index() {
        let index = sample();
        assert_eq!(index.get(Index(2)), Some(place(2)));
        assert_eq!(index.get(Index(0)), None);
        assert_eq!(index.get(Index(6)), None);
        assert_eq!(index.last(), Index(5));
    }

    #[test]
    fn a_job_is_found_in_the_entry_that_holds_it_and_not_in_an_empty_one_beside_it() {
        let index = sample();
        for job in 1..=3 {
            assert_eq!(index.entry_of_job(JobId(job)), Some((Index(2), place(2))));
        }
        assert_eq!(index.entry_of_job(JobId(4)), Some((Index(5), place(5))));
        assert_eq!(index.entry_of_job(JobId(5)), None);
        assert_eq!(index.entry_of_job(JobId(0)), None);
    }

    #[test]
    fn what_was_cut_off_is_not_found_and_its_ids_are_free_again() {
        let mut index = sample();
        index.truncate_after(Index(4));
        assert_eq!(index.entry_of_job(JobId(4)), None);
        assert_eq!(index.next_job_after(Index(4)), JobId(4));
        assert_eq!(index.next_job_after(Index(1)), JobId(1));
        assert_eq!(index.next_job_after(Index(0)), JobId(1));
        index.push(Index(5), place(9), JobId(4), 2);
        assert_eq!(index.entry_of_job(JobId(5)), Some((Index(5), place(9))));
    }

    #[test]
    fn a_range_stops_at_its_bound_but_never_before_its_first_entry() {
        let index = sample();
        assert_eq!(index.range(Index(2), Index(4), u64::MAX), [place(2), place(3), place(4)]);
        assert_eq!(index.range(Index(2), Index(4), 250), [place(2), place(3)]);
        assert_eq!(index.range(Index(2), Index(4), 1), [place(2)]);
        assert_eq!(index.range(Index(4), Index(9), u64::MAX), [place(4), place(5)]);
        assert_eq!(index.range(Index(6), Index(9), u64::MAX), []);
    }

    #[test]
    fn what_left_the_front_is_not_found_and_the_rest_is() {
        let mut index = sample();
        assert_eq!(index.front_segment(), None, "it may still grow");
        let elsewhere = Placement { segment: SegmentNumber(2), ..place(1) };
        index.push(Index(6), elsewhere, JobId(5), 1);
        assert_eq!(index.front_segment(), Some(FrontSegment { number: SegmentNumber(1), last: Index(5) }));
        assert_eq!(
            index.entries_up_to(Index(2)).collect::<Vec<_>>(),
            [(Index(1), place(1), JobId(1), 0), (Index(2), place(2), JobId(1), 3),]
        );
        index.drop_up_to(Index(5));
        assert_eq!((index.base(), index.last(), index.front_segment()), (Index(5), Index(6), None));
        assert_eq!((index.get(Index(5)), index.get(Index(6))), (None, Some(elsewhere)));
        assert_eq!((index.entry_of_job(JobId(4)), index.next_job_after(Index(5))), (None, JobId(5)));
        assert_eq!(index.entry_of_job(JobId(5)), Some((Index(6), elsewhere)));
    }

    #[test]
    fn an_index_may_begin_above_a_base() {
        let mut index = LogIndex::new(Index(10), JobId(7));
        assert_eq!(index.next_job_after(Index(10)), JobId(7));
        index.push(Index(11), place(1), JobId(7), 1);
        assert_eq!(index.get(Index(11)), Some(place(1)));
        assert_eq!(index.get(Index(10)), None);
        assert_eq!(index.entry_of_job(JobId(6)), None);
        assert_eq!(index.next_job_after(Index(11)), JobId(8));
    }
}
