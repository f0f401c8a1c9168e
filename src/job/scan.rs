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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::command::{Class, Command, Outcome};
    use crate::types::{BodyHash, BootEpoch, JobId, NodeId, SessionId};

    const SESSION: SessionId = SessionId { node: NodeId(1), boot: BootEpoch(1), number: 1 };

    fn class(tube: &[u8]) -> Class<'_> {
        Class { tube, priority: 1, ttr_s: 60, delay_s: 0 }
    }

    fn name(number: u64) -> Vec<u8> {
        format!("t{number}").into_bytes()
    }

    /// Job `id` into a tube.
    fn enqueue(machine: &mut Machine, id: u64, tube: &[u8]) {
        machine.next_job = machine.next_job.max(JobId(id + 1));
        let command = Command::Enqueue { class: class(tube), body_hash: BodyHash::default(), body: b"" };
        assert_eq!(machine.execute(SESSION, &command, JobId(id)), Outcome::Enqueued { job: JobId(id) });
    }

    fn delete(machine: &mut Machine, id: u64, tube: &[u8]) {
        let command = Command::Delete { job: JobId(id), class: Some(class(tube)) };
        assert_eq!(machine.execute(SESSION, &command, JobId(0)), Outcome::Deleted);
    }

    /// Tubes t1 to tN, each with the job of its number.
    fn with_tubes(count: u64) -> Machine {
        let mut machine = Machine::new();
        (1..=count).for_each(|number| enqueue(&mut machine, number, &name(number)));
        machine
    }

    /// The whole scan in steps of so many tubes; `between` happens after each.
    fn scan(machine: &mut Machine, step: usize, mut between: impl FnMut(&mut Machine, usize)) -> Vec<Bytes> {
        let (mut next, end) = (TubeCursor::START, machine.tubes_end());
        let mut names = Vec::new();
        for turn in 0.. {
            let (seen, further) = machine.inhabited_from(next, end, step, |name| names.push(name.clone()));
            assert!(seen <= step);
            let Some(further) = further else { break };
            assert!(further > next, "it goes on");
            next = further;
            between(machine, turn);
        }
        names
    }

    #[test]
    fn a_scan_shows_all_inhabited_tubes_once_in_order_of_creation_whatever_its_steps() {
        for step in [1, 2, 3, 7, 10, 11, 12, 100] {
            let mut machine = with_tubes(10);
            delete(&mut machine, 4, b"t4");
            let shown = scan(&mut machine, step, |_, _| {});
            let expected: Vec<Bytes> = (1..=10).filter(|n| *n != 4).map(|n| name(n).into()).collect();
            assert_eq!(shown.into_iter().filter(|name| name != "default").collect::<Vec<_>>(), expected, "step {step}");
        }
    }

    #[test]
    fn tubes_that_vanish_or_come_while_a_scan_goes_on_take_nothing_from_the_others() {
        let mut machine = with_tubes(40);
        let shown = scan(&mut machine, 4, |machine, turn| {
            // In front of the scan, behind it, and at its very place.
            for number in [4 * turn as u64 + 4, 39 - turn as u64] {
                if machine.is_inhabited(&name(number)) && number.is_multiple_of(2) {
                    delete(machine, number, &name(number));
                    machine.execute_system(&Command::TubeDrop { tube: &name(number) });
                    assert!(!machine.has_tube(&name(number)));
                }
            }
            enqueue(machine, 100 + turn as u64, format!("new-{turn}").as_bytes());
        });
        let once: std::collections::BTreeSet<&Bytes> = shown.iter().collect();
        assert_eq!(once.len(), shown.len(), "shown twice");
        assert!((1..40).step_by(2).all(|n| once.contains(&Bytes::from(name(n)))), "one that was there is missing");
        assert!(!shown.iter().any(|name| name.starts_with(b"new-")), "what comes later is behind the end");
    }

    #[test]
    fn droppable_tubes_are_given_out_in_pieces_and_only_those() {
        let mut machine = with_tubes(20);
        (1..=20).filter(|n| n % 3 == 0).for_each(|n| delete(&mut machine, n, &name(n)));
        let (mut next, mut names) = (Some(TubeCursor::START), Vec::new());
        while let Some(from) = next {
            let (piece, further) = machine.droppable_from(from, 2);
            assert!(piece.len() <= 2);
            names.extend(piece);
            next = further;
        }
        let expected: Vec<Bytes> = (1..=20).filter(|n| n % 3 == 0).map(|n| name(n).into()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_deepest_tubes_are_found_in_rounds_and_shown_as_deep_as_they_are_now() {
        let mut machine = with_tubes(30);
        let mut id = 100;
        for (tube, more) in [(7, 5), (20, 9), (21, 9), (30, 2)] {
            for _ in 0..more {
                id += 1;
                enqueue(&mut machine, id, &name(tube));
            }
        }
        let mut scan = DepthScan::default();
        let deepest = |scan: &DepthScan, machine: &Machine| -> Vec<(Bytes, u64)> {
            scan.deepest(machine).into_iter().map(|depth| (depth.tube, depth.ready)).collect()
        };
        let tube = |number: u64, jobs: u64| (Bytes::from(name(number)), jobs);
        // A round is over once a step came to the end; before, it shows what it has seen so far.
        scan.go_on(&machine, 10, 3);
        assert_eq!(deepest(&scan, &machine)[0], tube(7, 6));
        (0..3).for_each(|_| scan.go_on(&machine, 10, 3));
        assert_eq!(deepest(&scan, &machine), [tube(20, 10), tube(21, 10), tube(7, 6)]);
        // In the next round they are others; until it is over, the old ones are shown as they are
        // now.
        for _ in 0..20 {
            id += 1;
            enqueue(&mut machine, id, &name(30));
        }
        delete(&mut machine, 7, &name(7));
        scan.go_on(&machine, 10, 3);
        assert_eq!(deepest(&scan, &machine), [tube(20, 10), tube(21, 10), tube(7, 5)]);
        (0..3).for_each(|_| scan.go_on(&machine, 10, 3));
        assert_eq!(deepest(&scan, &machine), [tube(30, 23), tube(20, 10), tube(21, 10)]);
    }
}
