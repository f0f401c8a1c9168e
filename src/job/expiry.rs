//! What falls due by the clock: reservations that run out, delays and pauses that end. It happens as the first act
//! of applying any entry and at no other time: a reservation is live until an entry has ended it.
//!
//! The order, the same on every node: pauses, by (wall time, creation of the tube); reservations, by (lease time,
//! job id); delays, by (wall time, job id). The two clocks cannot be compared with each other, so one goes first:
//! reservations, which are few. What exceeds the bound stays due for the next entry, in this order again.

use super::machine::Machine;
use super::record::{Record, State};
use crate::types::{JobId, Nanos, Times};

/// So many transitions at most are the work of one entry, however many fall due at once.
pub const TRANSITIONS_PER_ENTRY_MAX: usize = 4096;

/// When the next transition falls due, on each clock. A TICK that carries such a time makes it happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    pub lease: Option<Nanos>,
    pub wall: Option<Nanos>,
}

impl Due {
    /// Whether something is due at these times.
    #[must_use]
    pub fn is_reached(&self, now: Times) -> bool {
        self.lease.is_some_and(|lease| lease <= now.lease) || self.wall.is_some_and(|wall| wall <= now.wall)
    }
}

impl Machine {
    /// The earliest end of a reservation, and the earliest end of a delay or pause.
    #[must_use]
    pub fn next_due(&self) -> Due {
        let delay = self.delays.first().map(|due| due.0);
        let pause = self.pauses.first().map(|due| due.0);
        Due { lease: self.leases.first().map(|due| due.0), wall: delay.into_iter().chain(pause).min() }
    }

    /// Lets happen what is due at the machine's times, up to the bound.
    pub(super) fn expire(&mut self) {
        let mut left = TRANSITIONS_PER_ENTRY_MAX;
        while left > 0 && self.expire_next() {
            left -= 1;
        }
    }

    /// Lets the next due transition happen; whether there was one.
    fn expire_next(&mut self) -> bool {
        let Times { lease, wall } = self.times;
        if let Some(&(until, tube)) = self.pauses.first()
            && until <= wall
        {
            self.end_pause(tube);
        } else if let Some(&(deadline, job)) = self.leases.first()
            && deadline <= lease
        {
            let record = self.take_due(job);
            self.timeouts += 1;
            self.make_ready(job, record, |counters| counters.timeouts = counters.timeouts.saturating_add(1));
        } else if let Some(&(until, job)) = self.delays.first()
            && until <= wall
        {
            let record = self.take_due(job);
            debug_assert!(matches!(record.state, State::Delayed { .. }));
            self.make_ready(job, record, |_| {});
        } else {
            return false;
        }
        true
    }

    fn take_due(&mut self, job: JobId) -> Record {
        self.take_record(job).expect("what has a due time has a record")
    }
}
