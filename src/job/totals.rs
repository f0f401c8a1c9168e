//! How many live jobs are in which state, over all tubes. Kept up to date with each move of a job, so that nobody who asks
//! for it has to look at every tube.

use super::ready::URGENT_PRIORITY;
use super::record::State;
use super::tube::Tube;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Ready jobs with a priority below 1024; counted in `ready`, too.
    pub(super) urgent: u64,
    pub(super) ready: u64,
    pub(super) reserved: u64,
    pub(super) delayed: u64,
    pub(super) buried: u64,
}

impl Totals {
    /// Counted from the ground up, in proportion to the tubes.
    pub(super) fn of<'a>(tubes: impl Iterator<Item = &'a Tube>) -> Totals {
        tubes.fold(Totals::default(), |sum, tube| Totals {
            urgent: sum.urgent + tube.ready.urgent(),
            ready: sum.ready + tube.ready.count(),
            reserved: sum.reserved + tube.reserved,
            delayed: sum.delayed + tube.delayed.len() as u64,
            buried: sum.buried + tube.buried.len() as u64,
        })
    }

    /// A job is placed in this state, with this priority.
    pub(super) fn add(&mut self, state: &State, priority: u32) {
        *self.of_state(state) += 1;
        if *state == State::Ready && priority < URGENT_PRIORITY {
            self.urgent += 1;
        }
    }

    /// A job is taken out of this state.
    pub(super) fn subtract(&mut self, state: &State, priority: u32) {
        *self.of_state(state) -= 1;
        if *state == State::Ready && priority < URGENT_PRIORITY {
            self.urgent -= 1;
        }
    }

    fn of_state(&mut self, state: &State) -> &mut u64 {
        match state {
            State::Ready => &mut self.ready,
            State::Reserved(_) => &mut self.reserved,
            State::Delayed { .. } => &mut self.delayed,
            State::Buried { .. } => &mut self.buried,
        }
    }
}
