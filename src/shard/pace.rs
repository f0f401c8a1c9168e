//! Whether something that is waited for moves on: a leader's own write, its applying, a follower's log.
//!
//! It must never count time in which this node did not look: what moved meanwhile it may not have heard.

use crate::types::{Index, Nanos};

/// Something that is at an index and is to come further. Looked at a few times within its limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    at: Index,
    looked: Nanos,
    /// Since it moved last, or began to lag.
    waited: Nanos,
}

impl Pace {
    /// Looks at it: `lags` where it is not yet where it should be. Whether it has not moved for `limit`.
    pub(super) fn stands_still(&mut self, now: Nanos, at: Index, lags: bool, limit: Nanos) -> bool {
        // No more than half, so that one look after a long sleep does not decide alone.
        let passed = now.saturating_sub(self.looked).min(Nanos(limit.0 / 2));
        self.looked = now;
        if !lags || at != self.at {
            (self.at, self.waited) = (at, Nanos::ZERO);
            return false;
        }
        self.waited = self.waited.saturating_add(passed);
        self.waited >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Nanos = Nanos::from_millis(300);

    fn look(pace: &mut Pace, ms: u64, at: u64, lags: bool) -> bool {
        pace.stands_still(Nanos::from_millis(ms), Index(at), lags, LIMIT)
    }

    #[test]
    fn what_lags_and_does_not_move_stands_still_after_the_limit() {
        let mut pace = Pace::default();
        assert!((0..=300).step_by(50).all(|ms| !look(&mut pace, 1_000 + ms, 7, false)));
        assert!((0..300).step_by(50).all(|ms| !look(&mut pace, 1_300 + ms, 7, true)));
        assert!(look(&mut pace, 1_600, 7, true));
        assert!(!look(&mut pace, 1_650, 8, true), "it moved");
        assert!((0..=10_000).step_by(50).all(|ms| !look(&mut pace, 1_700 + ms, 8 + ms, true)), "it moves");
    }

    #[test]
    fn a_single_look_after_a_long_sleep_decides_nothing() {
        let mut pace = Pace::default();
        assert!(!look(&mut pace, 0, 7, true));
        assert!(!look(&mut pace, 60_000, 7, true));
        assert!(look(&mut pace, 60_150, 7, true), "and the next one does");
    }
}
