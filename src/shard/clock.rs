//! The log's two clocks as one node sees them: stamped by the leader, followed by everyone else, never read from the
//! machine by the state machine itself.

use crate::job::Due;
use crate::mutation::{self, Mutation};
use crate::types::{Nanos, Term, Times};

/// A leaderless gap counts at most this much of lease time: the longest that an election takes to begin.
const LEADERLESS_MAX: Nanos = Nanos::from_millis(300);

/// The slowest that wall time passes, as the part of real time that it leaves out: where the log's clock is ahead of the machine's,
/// so much of what passes brings them together. If it stood instead, no delay and no pause would end before the machine's clock
/// had come up, after an hour or a year. A clock that runs a tenth slow is still followed exactly.
const SLOWER_BY: u64 = 8;

/// Invariant: in one term neither time goes backwards. The clock of a later term may be behind that of
/// an earlier one, since its leader left out what passed before its election. Then it is followed all the
/// same: a node that kept to the earlier clock would end reservations too soon once it leads.
#[derive(Debug, Clone)]
pub struct LogClock {
    times: Times,
    /// The term of the leader whose clock it is.
    term: Term,
    /// The node's own monotonic clock when `times` was right.
    at: Nanos,
}

impl LogClock {
    #[must_use]
    pub fn new(now: Nanos, term: Term, last_stamp: Times) -> LogClock {
        LogClock { times: last_stamp, term, at: now }
    }

    /// What was heard before the state was replaced still holds.
    pub fn succeed(&mut self, before: &LogClock) {
        self.handle_stamp(before.at, before.term, before.times);
    }

    /// A stamp of the leader of this term arrived, on an entry or a heartbeat. One that is not newer says
    /// nothing of now: it was made before, maybe by this very node.
    pub fn handle_stamp(&mut self, now: Nanos, term: Term, stamp: Times) {
        let is_of_later_leader = term > self.term && !mutation::is_on(Mutation::EarlierClockKept);
        if term < self.term || (!is_of_later_leader && stamp.lease <= self.times.lease) {
            return;
        }
        self.times = if is_of_later_leader { stamp } else { self.times.latest(stamp) };
        (self.term, self.at) = (term, now);
    }

    /// What the leader's clocks say by now, as far as one can tell from here.
    #[must_use]
    pub fn estimate(&self, now: Nanos) -> Times {
        let elapsed = now.saturating_sub(self.at);
        Times { lease: self.times.lease.saturating_add(elapsed), wall: self.times.wall.saturating_add(elapsed) }
    }

    /// This node leads this term from now on. Lease time continues from the last stamp or heartbeat plus what passed here since,
    /// but does not count the time without a leader; wall time is free to step forward.
    pub fn lead(&mut self, now: Nanos, term: Term, wall: Nanos) {
        let elapsed = now.saturating_sub(self.at);
        self.times = Times {
            lease: self.times.lease.saturating_add(elapsed.min(LEADERLESS_MAX)),
            wall: wall.max(self.times.wall.saturating_add(slowed(elapsed))),
        };
        (self.term, self.at) = (term, now);
    }

    /// The leader's stamp for an entry made now.
    pub fn stamp(&mut self, now: Nanos, wall: Nanos) -> Times {
        self.times = self.foreseen(now, wall);
        self.at = now;
        self.times
    }

    /// What the leader's stamp would be. A forward step of the machine's clock is caught up with at twice the speed of time; behind a
    /// backward one the log's clock goes slower until it is overtaken.
    #[must_use]
    pub fn foreseen(&self, now: Nanos, wall: Nanos) -> Times {
        let elapsed = now.saturating_sub(self.at);
        let slowest = self.times.wall.saturating_add(slowed(elapsed));
        let fastest = self.times.wall.saturating_add(Nanos(elapsed.0.saturating_mul(2)));
        Times { lease: self.times.lease.saturating_add(elapsed), wall: wall.clamp(slowest, fastest) }
    }

    /// How long until the leader's stamp reaches these times, whichever it reaches first, if the machine's clock goes on evenly.
    #[must_use]
    pub fn until(&self, now: Nanos, wall: Nanos, due: Due) -> Nanos {
        let stamp = self.foreseen(now, wall);
        let lease = due.lease.map_or(u64::MAX, |at| at.0.saturating_sub(stamp.lease.0));
        let Some(left) = due.wall.map(|at| at.0.saturating_sub(stamp.wall.0)) else { return Nanos(lease) };
        let ahead = wall.0.saturating_sub(stamp.wall.0);
        let behind = stamp.wall.0.saturating_sub(wall.0);
        let wall = match (ahead, behind) {
            (0, behind) => left.saturating_add(left.div_ceil(SLOWER_BY - 1).min(behind)),
            (ahead, _) => left.div_ceil(2).max(left.saturating_sub(ahead)),
        };
        Nanos(lease.min(wall))
    }
}

/// What passes of wall time at its slowest.
fn slowed(elapsed: Nanos) -> Nanos {
    Nanos(elapsed.0 - elapsed.0 / SLOWER_BY)
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_slewed_while_a_leader_lives_and_free_at_a_new_term() {
        let mut clock = LogClock::new(secs(10), Term(1), Times { lease: secs(1), wall: secs(1000) });
        clock.lead(secs(10), Term(2), secs(1000));
        let jumped = clock.stamp(secs(11), secs(5000));
        assert_eq!(jumped, Times { lease: secs(2), wall: secs(1002) });
        let back = clock.stamp(secs(19), secs(10));
        assert_eq!(back, Times { lease: secs(10), wall: secs(1009) });
        clock.lead(secs(27), Term(2), secs(20));
        assert_eq!(clock.stamp(secs(27), secs(20)).wall, secs(1016), "time passes without a leader, too");
        clock.lead(secs(27), Term(2), secs(5000));
        assert_eq!(clock.stamp(secs(27), secs(5000)).wall, secs(5000));
    }

    /// A host that leads for an entry with a clock that is a year ahead must not hold up all delays for a year.
    #[test]
    fn a_clock_that_the_log_is_ahead_of_is_neared_while_time_passes() {
        let mut clock = LogClock::new(secs(0), Term(1), Times { lease: secs(0), wall: secs(1_000_000) });
        clock.lead(secs(0), Term(2), secs(100));
        assert_eq!(clock.stamp(secs(80), secs(180)).wall, secs(1_000_070));
        // So near that it is overtaken meanwhile.
        assert_eq!(clock.stamp(secs(160), secs(1_000_145)).wall, secs(1_000_145));
    }

    proptest! {
        #[test]
        fn what_is_due_is_reached_when_it_was_said_to_be_and_not_before(
            at in 0..1u64 << 40,
            elapsed in 0..1u64 << 40,
            machine in 0..1u64 << 42,
            (lease, wall) in (option::of(0..1u64 << 41), option::of(0..1u64 << 42)),
        ) {
            let clock = LogClock::new(Nanos(at), Term(1), Times { lease: Nanos(1 << 39), wall: Nanos(1 << 40) });
            let (now, machine) = (Nanos(at + elapsed), Nanos(machine));
            let due = Due { lease: lease.map(Nanos), wall: wall.map(Nanos) };
            prop_assume!(due != Due::default());
            let pause = clock.until(now, machine, due);
            let is_due_after = |pause: Nanos| {
                due.is_reached(clock.clone().stamp(now.saturating_add(pause), machine.saturating_add(pause)))
            };
            prop_assert!(is_due_after(pause));
            // To the nanosecond, or the few that rounding costs.
            prop_assert!(pause < Nanos(3) || !is_due_after(pause.saturating_sub(Nanos(3))));
        }
    }

    #[test]
    fn lease_time_does_not_count_the_time_without_a_leader() {
        let mut clock = LogClock::new(secs(10), Term(1), Times { lease: secs(1), wall: secs(1000) });
        clock.lead(secs(700), Term(2), secs(1700));
        assert_eq!(clock.stamp(secs(700), secs(1700)).lease, secs(1).saturating_add(LEADERLESS_MAX));
    }

    #[test]
    fn a_leader_that_applies_its_own_entries_loses_no_time() {
        let mut clock = LogClock::new(secs(0), Term(1), Times { lease: secs(1), wall: secs(1000) });
        clock.lead(secs(0), Term(2), secs(1000));
        let stamped = clock.stamp(secs(1), secs(1001));
        clock.handle_stamp(secs(2), Term(2), stamped);
        assert_eq!(clock.stamp(secs(2), secs(1002)), Times { lease: secs(3), wall: secs(1002) });
    }

    #[test]
    fn what_was_heard_before_a_state_was_replaced_is_not_forgotten() {
        let mut before = LogClock::new(secs(0), Term(1), Times::default());
        before.handle_stamp(secs(8), Term(1), Times { lease: secs(90), wall: secs(900) });
        let mut anew = LogClock::new(secs(10), Term(1), Times { lease: secs(60), wall: secs(600) });
        anew.succeed(&before);
        assert_eq!(anew.estimate(secs(10)), Times { lease: secs(92), wall: secs(902) });
    }

    #[test]
    fn a_late_heartbeat_never_turns_the_clock_back() {
        let mut clock = LogClock::new(secs(0), Term(1), Times { lease: secs(9), wall: secs(9) });
        clock.handle_stamp(secs(1), Term(1), Times { lease: secs(3), wall: secs(3) });
        assert_eq!(clock.estimate(secs(1)), Times { lease: secs(10), wall: secs(10) });
    }

    /// A leader that was cut off goes on stamping until it notices. Its successor does not count that
    /// time, and a reservation made under the successor ends by the successor's clock, whoever leads then.
    #[test]
    fn who_leads_again_goes_on_from_the_clock_of_the_leader_between() {
        let reserved_at = Times { lease: secs(12), wall: secs(1002) };
        let mut clock = LogClock::new(secs(0), Term(1), Times { lease: secs(10), wall: secs(1000) });
        clock.lead(secs(0), Term(2), secs(1000));
        clock.stamp(secs(5), secs(1005));
        clock.handle_stamp(secs(6), Term(3), reserved_at);
        clock.handle_stamp(secs(6), Term(2), Times { lease: secs(15), wall: secs(1005) });
        assert_eq!(clock.estimate(secs(7)).lease, secs(13));
        clock.lead(secs(6), Term(4), secs(1006));
        assert_eq!(clock.stamp(secs(9), secs(1009)).lease, secs(15), "three seconds later");
    }
}
