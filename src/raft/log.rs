//! The log as consensus sees it: metadata of every entry above a floor, contiguous, in memory. It must never
//! hold a gap, nor terms that descend; what the entries contain is not its business.

use std::collections::VecDeque;

use crate::raft::message::EntryMeta;
use crate::types::{ChainHash, Index, LogPosition, Term};

/// ```text
///      floor   first                       last
///        │       │                           │
///   ─────┼───────┼───────┬─── ... ───┬───────┤
///  below │  meta │  meta │           │  meta │   next entry goes here
/// ```
///
/// Invariants: entry `k` of `entries` has index `floor.index + 1 + k`; terms never descend, floor included.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Log {
    /// The last position of which only its identity is known. Everything at or below it is committed.
    floor: LogPosition,
    floor_chain: ChainHash,
    entries: VecDeque<EntryMeta>,
}

impl Log {
    /// An empty log above `floor`; for a new shard `LogPosition::ORIGIN` and the chain constant of its identity.
    #[must_use]
    pub fn new(floor: LogPosition, floor_chain: ChainHash) -> Log {
        Log { floor, floor_chain, entries: VecDeque::new() }
    }

    #[must_use]
    pub fn floor(&self) -> LogPosition {
        self.floor
    }

    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.floor, |meta| meta.position)
    }

    /// The chain hash of the last entry: what the next one names as its predecessor's.
    #[must_use]
    pub fn last_chain(&self) -> ChainHash {
        self.entries.back().map_or(self.floor_chain, |meta| meta.chain)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Metadata of the entry at `index`; none at or below the floor, nor above the end.
    #[must_use]
    pub fn get(&self, index: Index) -> Option<&EntryMeta> {
        let above_floor = index.0.checked_sub(self.floor.index.0)?;
        self.entries.get(usize::try_from(above_floor.checked_sub(1)?).ok()?)
    }

    /// Term and index at `index`, also at the floor.
    #[must_use]
    pub fn position_at(&self, index: Index) -> Option<LogPosition> {
        if index == self.floor.index { Some(self.floor) } else { self.get(index).map(|meta| meta.position) }
    }

    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.position_at(index).map(|position| position.term)
    }

    /// Chain hash at `index`, also at the floor.
    #[must_use]
    pub fn chain_at(&self, index: Index) -> Option<ChainHash> {
        if index == self.floor.index { Some(self.floor_chain) } else { self.get(index).map(|meta| meta.chain) }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &EntryMeta> {
        self.entries.iter()
    }

    /// Adds the entry right behind the last.
    pub fn append(&mut self, meta: EntryMeta) {
        let last = self.last();
        assert_eq!(meta.position.index, last.index.next(), "the log has no gaps");
        assert!(meta.position.term >= last.term, "terms in a log never descend");
        self.entries.push_back(meta);
    }

    /// Drops every entry above `index`, which is not below the floor.
    pub fn truncate_after(&mut self, index: Index) {
        assert!(index >= self.floor.index, "what is below the floor is committed");
        self.entries.truncate(usize::try_from(index.0 - self.floor.index.0).unwrap_or(usize::MAX));
    }

    /// Forgets the entries up to `index`, which becomes the floor.
    pub fn raise_floor(&mut self, index: Index) {
        let Some(&meta) = self.get(index) else {
            assert!(index <= self.floor.index, "the floor is an entry of the log");
            return;
        };
        let dropped = usize::try_from(index.0 - self.floor.index.0).expect("as many entries as are in memory");
        self.entries.drain(..dropped);
        self.floor = meta.position;
        self.floor_chain = meta.chain;
    }

    /// Entries from `from` on: at least one where there is one, else as many as the limits allow.
    #[must_use]
    pub fn slice(&self, from: Index, entries_max: usize, bytes_max: u64) -> Vec<EntryMeta> {
        let Some(start) = from.0.checked_sub(self.floor.index.0 + 1).and_then(|start| usize::try_from(start).ok())
        else {
            return Vec::new();
        };
        let mut bytes = 0u64;
        let mut count = 0;
        for meta in self.entries.iter().skip(start).take(entries_max.max(1)) {
            bytes += u64::from(meta.bytes);
            if count > 0 && bytes > bytes_max {
                break;
            }
            count += 1;
        }
        self.entries.iter().skip(start).take(count).copied().collect()
    }

    /// From which entry on, but not before `first`, the entries up to `last` are no longer than `bytes_max` together; at
    /// least `last` itself.
    #[must_use]
    pub fn first_of_run(&self, first: Index, last: Index, bytes_max: u64) -> Index {
        let (mut bytes, mut run) = (0, last);
        for index in (first.0.max(self.floor.index.0 + 1)..=last.0).rev().map(Index) {
            bytes += self.get(index).map_or(u64::MAX / 2, |meta| u64::from(meta.bytes));
            if bytes > bytes_max && index < last {
                break;
            }
            run = index;
        }
        run
    }

    /// The last position at or before `bound.index` whose term is at most `bound.term`: where this log and one
    /// that holds `bound` could still agree. Skips a whole term of conflicts at once (Raft 5.3, last paragraph).
    #[must_use]
    pub fn last_agreeable(&self, bound: LogPosition) -> LogPosition {
        let within = usize::try_from(bound.index.0.saturating_sub(self.floor.index.0)).unwrap_or(usize::MAX);
        let by_term = self.entries.partition_point(|meta| meta.position.term <= bound.term);
        match within.min(by_term).checked_sub(1) {
            Some(place) => self.entries.get(place).map_or(self.last(), |meta| meta.position),
            None => self.floor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(term: u64, index: u64) -> EntryMeta {
        let chain = ChainHash(u128::from(term) << 64 | u128::from(index));
        EntryMeta { position: LogPosition::new(Term(term), Index(index)), chain, bytes: 100, membership: false }
    }

    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::new(LogPosition::ORIGIN, ChainHash(7));
        for (index, &term) in (1..).zip(terms) {
            log.append(meta(term, index));
        }
        log
    }

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition::new(Term(term), Index(index))
    }

    #[test]
    fn an_empty_log_ends_at_its_floor() {
        let log = log_of(&[]);
        assert_eq!((log.last(), log.last_chain()), (LogPosition::ORIGIN, ChainHash(7)));
        assert_eq!(log.position_at(Index(0)), Some(LogPosition::ORIGIN));
        assert_eq!(log.term_at(Index(1)), None);
        assert!(log.slice(Index(1), 10, 1000).is_empty());
    }

    #[test]
    fn entries_are_found_by_index_above_any_floor() {
        let mut log = log_of(&[1, 1, 2, 2, 3]);
        assert_eq!(log.term_at(Index(3)), Some(Term(2)));
        log.raise_floor(Index(3));
        assert_eq!(log.floor(), at(2, 3));
        assert_eq!(log.get(Index(3)), None);
        assert_eq!(log.position_at(Index(3)), Some(at(2, 3)));
        assert_eq!(log.chain_at(Index(3)), Some(meta(2, 3).chain));
        assert_eq!(log.position_at(Index(2)), None);
        assert_eq!(log.term_at(Index(5)), Some(Term(3)));
        assert_eq!(log.position_at(Index(6)), None);
        log.raise_floor(Index(1));
        assert_eq!(log.floor(), at(2, 3), "a floor never falls");
        log.truncate_after(Index(3));
        assert_eq!(log.last(), at(2, 3));
        log.append(meta(4, 4));
        assert_eq!(log.last(), at(4, 4));
    }

    #[test]
    fn a_slice_keeps_to_its_limits_but_always_holds_one_entry() {
        let log = log_of(&[1; 10]);
        let indexes = |from, entries_max, bytes_max| {
            log.slice(Index(from), entries_max, bytes_max).iter().map(|meta| meta.position.index.0).collect::<Vec<_>>()
        };
        assert_eq!(indexes(3, 2, 10_000), [3, 4]);
        assert_eq!(indexes(3, 100, 300), [3, 4, 5]);
        assert_eq!(indexes(9, 100, 1), [9]);
        assert_eq!(indexes(9, 100, 10_000), [9, 10]);
        assert!(indexes(11, 100, 10_000).is_empty());
    }

    #[test]
    fn the_last_agreeable_position_skips_whole_terms() {
        let log = log_of(&[1, 1, 3, 3, 3, 5]);
        assert_eq!(log.last_agreeable(at(4, 6)), at(3, 5));
        assert_eq!(log.last_agreeable(at(2, 6)), at(1, 2));
        assert_eq!(log.last_agreeable(at(9, 4)), at(3, 4));
        assert_eq!(log.last_agreeable(at(9, 100)), at(5, 6));
        assert_eq!(log.last_agreeable(at(0, 6)), LogPosition::ORIGIN);
    }

    #[test]
    fn r8_a_search_that_would_pass_below_the_floor_ends_there() {
        let mut log = log_of(&[1, 1, 3, 3]);
        log.raise_floor(Index(2));
        assert_eq!(log.last_agreeable(at(0, 4)), at(1, 2));
        assert_eq!(log.last_agreeable(at(9, 1)), at(1, 2));
    }
}
