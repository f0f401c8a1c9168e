//! Whether this node keeps up with what its leaders commit.
//!
//! Heartbeats overtake appends, so a node that answers them may not have taken an entry for long.
//! What it knows to be committed is no measure either: that reaches no further than its own log.
//! It must never be counted as up to date because it has not heard how far the others are.

use crate::types::{Index, Nanos};

/// What leaders say they have committed, and since when this node has not come to it. Commit
/// indexes of different leaders are compared: what was committed once stays so, whoever leads next.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// The highest that was heard.
    committed: Index,
    /// What this node is to apply next, at most `committed`, and when it was heard. None before a
    /// leader said anything.
    target: Option<(Index, Nanos)>,
    /// Whether a target was reached since the start.
    was_fresh: bool,
    behind: Option<Nanos>,
}

impl Freshness {
    /// A leader says what it has committed.
    pub(super) fn hear(&mut self, now: Nanos, committed: Index) {
        self.committed = self.committed.max(committed);
        self.target.get_or_insert((committed, now));
    }

    /// Whatever is applied now. A node is behind once it has not come to a target for `limit`, and
    /// from its start until it has come to the first.
    pub(super) fn look(&mut self, now: Nanos, applied: Index, limit: Nanos) {
        let Some((target, since)) = self.target else { return };
        if applied >= target {
            self.target = Some((self.committed.max(applied), now));
            (self.was_fresh, self.behind) = (true, None);
            return;
        }
        let passed = now.saturating_sub(since);
        self.behind = (!self.was_fresh || passed >= limit).then_some(passed);
    }

    pub(super) fn committed(&self) -> Index {
        self.committed
    }

    /// For how long this node has not come to what was committed at the beginning of that time.
    pub(super) fn behind(&self) -> Option<Nanos> {
        self.behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Nanos = Nanos::from_millis(600);

    /// What a leader says and what is applied, each ten milliseconds.
    fn run(freshness: &mut Freshness, from_ms: u64, steps: u64, at: impl Fn(u64) -> (u64, u64)) -> Option<Nanos> {
        for step in 0..steps {
            let (committed, applied) = at(step);
            let now = Nanos::from_millis(from_ms + 10 * step);
            freshness.hear(now, Index(committed));
            freshness.look(now, Index(applied), LIMIT);
        }
        freshness.behind()
    }

    #[test]
    fn a_node_that_follows_at_some_distance_is_not_behind() {
        let mut freshness = Freshness::default();
        assert_eq!(run(&mut freshness, 0, 1_000, |step| (100 + 7 * step, 100 + 7 * step.saturating_sub(50))), None);
    }

    #[test]
    fn a_node_that_takes_nothing_is_behind_after_the_limit_and_says_for_how_long() {
        let mut freshness = Freshness::default();
        assert_eq!(run(&mut freshness, 0, 1, |_| (9, 9)), None);
        assert_eq!(run(&mut freshness, 10, 60, |step| (10 + step, 9)), None);
        let behind = run(&mut freshness, 610, 100, |step| (70 + step, 9));
        assert_eq!(behind, Some(Nanos::from_millis(1_590)));
        assert_eq!(run(&mut freshness, 1_610, 1, |_| (200, 200)), None, "it has come to it");
    }

    #[test]
    fn a_node_that_takes_some_and_falls_behind_further_is_behind() {
        let mut freshness = Freshness::default();
        run(&mut freshness, 0, 1, |_| (0, 0));
        assert!(run(&mut freshness, 10, 1_000, |step| (100 * step, step)).is_some());
    }

    #[test]
    fn a_start_is_behind_until_it_has_come_to_what_was_committed_when_it_found_its_leader() {
        let mut freshness = Freshness::default();
        freshness.look(Nanos(1), Index(5), LIMIT);
        assert_eq!(freshness.behind(), None, "who it follows is not known: told elsewhere");
        assert!(run(&mut freshness, 10, 1, |_| (1_000, 5)).is_some());
        assert!(run(&mut freshness, 20, 10, |step| (1_100 + step, 999)).is_some());
        assert_eq!(run(&mut freshness, 120, 1, |_| (1_200, 1_000)), None);
    }

    #[test]
    fn a_new_leader_that_does_not_know_yet_what_is_committed_makes_nobody_fresh() {
        let mut freshness = Freshness::default();
        run(&mut freshness, 0, 1, |_| (9, 9));
        run(&mut freshness, 10, 1, |_| (50, 9));
        assert!(run(&mut freshness, 20, 70, |_| (9, 9)).is_some());
    }
}
