//! Looks at all tubes, some at a time, so that no single look takes in proportion to them.
//!
//! What is looked at may change between two steps. A scan must never show a tube twice, and never miss one that was there
//! all the time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

use super::machine::Machine;
use super::tube::{Tube, TubeId};
use super::view::TubeDepth;

/// Among the ready jobs of more classes and priorities the oldest is not looked for.
const LEVELS_MAX: usize = 256;

/// A place among the tubes in the order of their creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TubeCursor(TubeId);

impl TubeCursor {
    /// Before the first tube.
    pub const START: TubeCursor = TubeCursor(TubeId(0));

    fn after(tube: &Tube) -> TubeCursor {
        TubeCursor(TubeId(tube.id.0 + 1))
    }
}

impl Machine {
    /// Behind the last tube that was created so far.
    #[must_use]
    pub fn tubes_end(&self) -> TubeCursor {
        TubeCursor(self.tubes.next_id())
    }

    /// The place of a tube that has a record.
    #[must_use]
    pub fn place_of(&self, tube: &[u8]) -> Option<TubeCursor> {
        self.tubes.id(tube).map(TubeCursor)
    }

    /// Shows the names of those of the next `tubes_max` tubes before `end` that are inhabited. How many tubes that were,
    /// and where to go on; none where that was all.
    pub fn inhabited_from(
        &self,
        cursor: TubeCursor,
        end: TubeCursor,
        tubes_max: usize,
        mut each: impl FnMut(&Bytes),
    ) -> (usize, Option<TubeCursor>) {
        let mut next = None;
        let mut seen = 0;
        for tube in self.tubes.range(cursor.0..end.0.max(cursor.0), tubes_max) {
            if !tube.is_droppable() {
                each(&tube.name);
            }
            seen += 1;
            next = Some(TubeCursor::after(tube));
        }
        (seen, next.filter(|_| seen == tubes_max))
    }

    /// The names of the next `tubes_max` tubes that a TUBE_DROP would forget, and where to go on; none where that was all.
    #[must_use]
    pub fn droppable_from(&self, cursor: TubeCursor, tubes_max: usize) -> (Vec<Bytes>, Option<TubeCursor>) {
        let tubes = self.tubes.vacant().range(cursor.0..).take(tubes_max).map(|&id| self.tubes.existing(id));
        let (mut names, mut next) = (Vec::new(), None);
        for tube in tubes {
            names.push(tube.name.clone());
            next = Some(TubeCursor::after(tube));
        }
        let is_more = names.len() == tubes_max;
        (names, next.filter(|_| is_more))
    }
}

/// Finds the tubes with the most jobs, those with more first; of those with equally many, the older first.
#[derive(Debug, Default)]
pub struct DepthScan {
    next: Option<TubeCursor>,
    /// The deepest so far, in this round.
    best: BinaryHeap<Reverse<(u64, Reverse<TubeId>)>>,
    /// The deepest of the last whole round.
    found: Vec<TubeId>,
    is_found: bool,
}

impl DepthScan {
    /// Looks at the next `tubes_max` tubes for the `count` deepest.
    pub fn go_on(&mut self, machine: &Machine, tubes_max: usize, count: usize) {
        let from = self.next.unwrap_or(TubeCursor::START);
        let mut seen = 0;
        for tube in machine.tubes.range(from.0..machine.tubes.next_id().max(from.0), tubes_max) {
            seen += 1;
            self.next = Some(TubeCursor::after(tube));
            if tube.is_empty() {
                continue;
            }
            self.best.push(Reverse((tube.jobs(), Reverse(tube.id))));
            if self.best.len() > count {
                self.best.pop();
            }
        }
        if seen < tubes_max {
            self.next = None;
            self.found = ids(std::mem::take(&mut self.best));
            self.is_found = true;
        }
    }

    /// The deepest of the last round, as deep as they are now; no empty one. Before the first round is over, those so far.
    #[must_use]
    pub fn deepest(&self, machine: &Machine) -> Vec<TubeDepth> {
        let ids = if self.is_found { self.found.clone() } else { ids(self.best.clone()) };
        let mut tubes: Vec<&Tube> = ids.into_iter().filter_map(|id| machine.tubes.get(id)).collect();
        tubes.retain(|tube| !tube.is_empty());
        tubes.sort_by_key(|tube| (Reverse(tube.jobs()), tube.id));
        tubes.into_iter().map(depth).collect()
    }
}

fn ids(best: BinaryHeap<Reverse<(u64, Reverse<TubeId>)>>) -> Vec<TubeId> {
    best.into_iter().map(|Reverse((_, Reverse(id)))| id).collect()
}

fn depth(tube: &Tube) -> TubeDepth {
    TubeDepth {
        tube: tube.name.clone(),
        ready: tube.ready.count(),
        reserved: tube.reserved,
        delayed: tube.delayed.len() as u64,
        buried: tube.buried.len() as u64,
        is_paused: tube.pause.is_some(),
        oldest_ready: tube.ready.oldest(LEVELS_MAX),
    }
}
