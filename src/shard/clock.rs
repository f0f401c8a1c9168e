//! The log's two clocks as one node sees them: stamped by the leader, followed by everyone else, never read from the
//! machine by the state machine itself.

use crate::types::{Nanos, Times};

/// A leaderless gap counts at most this much of lease time: the longest that an election takes to begin.
const LEADERLESS_MAX: Nanos = Nanos::from_millis(300);

/// Invariant: neither time ever goes backwards.
#[derive(Debug, Clone)]
pub struct LogClock {
    times: Times,
    /// The node's own monotonic clock when `times` was right.
    at: Nanos,
}

impl LogClock {
    #[must_use]
    pub fn new(now: Nanos, last_stamp: Times) -> LogClock {
        LogClock { times: last_stamp, at: now }
    }

    /// A stamp of the leader arrived, on an entry or a heartbeat. One that is not newer says nothing of now: it was made
    /// before, maybe by this very node.
    pub fn handle_stamp(&mut self, now: Nanos, stamp: Times) {
        if stamp.lease <= self.times.lease {
            return;
        }
        self.times = Times { lease: self.times.lease.max(stamp.lease), wall: self.times.wall.max(stamp.wall) };
        self.at = now;
    }

    /// What the leader's clocks say by now, as far as one can tell from here.
    #[must_use]
    pub fn estimate(&self, now: Nanos) -> Times {
        let elapsed = now.saturating_sub(self.at);
        Times { lease: self.times.lease.saturating_add(elapsed), wall: self.times.wall.saturating_add(elapsed) }
    }

    /// This node leads from now on. Lease time continues from the last stamp or heartbeat plus what passed here since,
    /// but does not count the time without a leader; wall time is free to step forward.
    pub fn lead(&mut self, now: Nanos, wall: Nanos) {
        let elapsed = now.saturating_sub(self.at).min(LEADERLESS_MAX);
        self.times = Times { lease: self.times.lease.saturating_add(elapsed), wall: self.times.wall.max(wall) };
        self.at = now;
    }

    /// The leader's stamp for an entry made now. A forward step of the machine's clock is caught up with at twice the
    /// speed of time; a backward one makes the log's clock stand until it is overtaken.
    pub fn stamp(&mut self, now: Nanos, wall: Nanos) -> Times {
        let elapsed = now.saturating_sub(self.at);
        let fastest = self.times.wall.saturating_add(Nanos(elapsed.0.saturating_mul(2)));
        self.times =
            Times { lease: self.times.lease.saturating_add(elapsed), wall: self.times.wall.max(wall.min(fastest)) };
        self.at = now;
        self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_slewed_while_a_leader_lives_and_free_at_a_new_term() {
        let mut clock = LogClock::new(secs(10), Times { lease: secs(1), wall: secs(1000) });
        clock.lead(secs(10), secs(1000));
        let jumped = clock.stamp(secs(11), secs(5000));
        assert_eq!(jumped, Times { lease: secs(2), wall: secs(1002) });
        let back = clock.stamp(secs(12), secs(10));
        assert_eq!(back, Times { lease: secs(3), wall: secs(1002) });
        clock.lead(secs(12), secs(5000));
        assert_eq!(clock.stamp(secs(12), secs(5000)).wall, secs(5000));
    }

    #[test]
    fn lease_time_does_not_count_the_time_without_a_leader() {
        let mut clock = LogClock::new(secs(10), Times { lease: secs(1), wall: secs(1000) });
        clock.lead(secs(700), secs(1700));
        assert_eq!(clock.stamp(secs(700), secs(1700)).lease, secs(1).saturating_add(LEADERLESS_MAX));
    }

    #[test]
    fn a_leader_that_applies_its_own_entries_loses_no_time() {
        let mut clock = LogClock::new(secs(0), Times { lease: secs(1), wall: secs(1000) });
        clock.lead(secs(0), secs(1000));
        let stamped = clock.stamp(secs(1), secs(1001));
        clock.handle_stamp(secs(2), stamped);
        assert_eq!(clock.stamp(secs(2), secs(1002)), Times { lease: secs(3), wall: secs(1002) });
    }

    #[test]
    fn a_late_heartbeat_never_turns_the_clock_back() {
        let mut clock = LogClock::new(secs(0), Times { lease: secs(9), wall: secs(9) });
        clock.handle_stamp(secs(1), Times { lease: secs(3), wall: secs(3) });
        assert_eq!(clock.estimate(secs(1)), Times { lease: secs(10), wall: secs(10) });
    }
}
