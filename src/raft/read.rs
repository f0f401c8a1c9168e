//! Reads that see everything that was acknowledged before they began, without a log entry (Raft thesis 6.4). A read may
//! never be confirmed by an answer to something that was sent before the read was asked for.

use std::collections::VecDeque;

use crate::types::Index;

/// Reads that wait at a leader, in the order in which they came. Many share one round of heartbeats: those that come
/// while a round is under way gather for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Reads {
    waiting: VecDeque<Read>,
}

/// Invariant: `after` ascends along the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Read {
    pub(super) read: u64,
    /// A majority that answers rounds above this one proves that the leader led after the read began. Rounds are never
    /// reused, so a repeated or late answer proves nothing for it (faults D3).
    after: u64,
    /// What must be applied before the read is answered, and committed before it is confirmed.
    pub(super) index: Index,
}

impl Reads {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, read: u64, after: u64, index: Index) {
        self.waiting.push_back(Read { read, after, index });
    }

    /// The next read that holds when a majority has answered `round` and `committed` is committed.
    pub(super) fn take_confirmed(&mut self, round: u64, committed: Index) -> Option<Read> {
        let first = self.waiting.front()?;
        if first.after < round && first.index <= committed { self.waiting.pop_front() } else { None }
    }

    /// Whether some read is not covered by the rounds that were begun after `round`.
    pub(super) fn need_a_round_after(&self, round: u64) -> bool {
        self.waiting.front().is_some_and(|read| read.after > round)
    }

    /// All reads, because they can no longer be confirmed here.
    pub(super) fn take_lost(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.waiting.drain(..).map(|read| read.read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d3_an_answer_to_an_earlier_round_confirms_no_later_read() {
        let mut reads = Reads::default();
        reads.push(1, 10, Index(5));
        reads.push(2, 12, Index(5));
        assert_eq!(reads.take_confirmed(10, Index(5)), None);
        assert_eq!(reads.take_confirmed(11, Index(5)).map(|read| read.read), Some(1));
        assert_eq!(reads.take_confirmed(11, Index(5)), None);
        assert!(reads.need_a_round_after(10));
        assert!(!reads.need_a_round_after(12));
    }

    #[test]
    fn d1_a_read_waits_until_its_index_is_committed() {
        let mut reads = Reads::default();
        reads.push(1, 0, Index(6));
        assert_eq!(reads.take_confirmed(u64::MAX, Index(5)), None);
        assert!(reads.take_confirmed(u64::MAX, Index(6)).is_some());
    }
}
