//! What memory holds of a job that is more than a bit: one that is reserved, delayed or buried, or that differs
//! from its ENQ. Never its body.

use super::ready::ClassKey;
use super::tube::TubeId;
use crate::types::{Nanos, SessionId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) tube: TubeId,
    /// As its ENQ says; never changes.
    pub(super) class: ClassKey,
    /// As it was last put, released or buried with.
    pub(super) priority: u32,
    /// As it was last put or released with.
    pub(super) delay_s: u32,
    pub(super) counters: Counters,
    pub(super) state: State,
}

/// What happened to a job so often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) reserves: u32,
    pub(super) timeouts: u32,
    pub(super) releases: u32,
    pub(super) buries: u32,
    pub(super) kicks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Until this wall time.
    Delayed {
        until: Nanos,
    },
    Reserved(Reservation),
    /// Its place in the line of its tube.
    Buried {
        order: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reservation {
    pub(super) session: SessionId,
    /// The fencing token.
    pub(super) epoch: u64,
    /// The lease time at which it ends.
    pub(super) deadline: Nanos,
}

impl Record {
    /// A job as its ENQ made it.
    pub(super) fn as_enqueued(tube: TubeId, class: ClassKey) -> Record {
        let (priority, delay_s) = (class.priority, class.delay_s);
        Record { tube, class, priority, delay_s, counters: Counters::default(), state: State::Ready }
    }

    /// Whether anything but its state is not as its ENQ made it.
    pub(super) fn differs(&self) -> bool {
        self.priority != self.class.priority
            || self.delay_s != self.class.delay_s
            || self.counters != Counters::default()
    }

    /// How long a reservation of it lasts. Front doors turn a time to run of 0 into 1; here it means the same.
    pub(super) fn ttr_s(&self) -> u32 {
        self.class.ttr_s.max(1)
    }

    pub(super) fn reservation(&self) -> Option<&Reservation> {
        match &self.state {
            State::Reserved(reservation) => Some(reservation),
            _ => None,
        }
    }

    pub(super) fn is_reserved_by(&self, session: SessionId) -> bool {
        self.reservation().is_some_and(|reservation| reservation.session == session)
    }
}
