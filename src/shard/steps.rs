//! Work that grows with tubes, references or waits, done some at a time: one step of each kind a turn, so that whatever
//! else a turn brings never stands behind it for long.
//!
//! What is left is not forgotten between turns, and a shard that has some asks for another turn at once (`has_steps`).

use std::collections::VecDeque;

use bytes::Bytes;

use super::leading::PageRequest;
use super::references;
use super::{Moment, Shard};
use crate::api::ReferenceChange;
use crate::net::message::{NAMES_PER_PAGE_MAX, PeerMessage, ReadAbout, ReferencePart};

/// One step of any kind looks at so many names at most. In the order of a tenth of a millisecond.
pub const NAMES_PER_STEP: usize = 256;

/// So many names looked at are about as much work as one short command.
const NAMES_PER_ITEM: usize = 2;

/// References that a connection leaves behind are taken back at once if they are no more than this.
const LEFT_AT_ONCE_MAX: usize = 8;

/// References that a connection which is gone still has here.
#[derive(Debug)]
pub struct Left {
    used: Option<Bytes>,
    watched: Vec<Bytes>,
}

/// A whole report to the leader that is under way: everything up to this name is told.
#[derive(Debug, Default)]
pub struct Reporting {
    told: Option<Bytes>,
}

impl Reporting {
    /// Whether the report has passed this tube: what changes of it now is to be told for itself.
    #[must_use]
    pub fn has_told(&self, tube: &Bytes) -> bool {
        self.told.as_ref().is_some_and(|told| tube <= told)
    }
}

/// What is left to be done in steps, apart from what only a leader has.
#[derive(Debug, Default)]
pub struct Steps {
    left: VecDeque<Left>,
    /// The leader was told of some of that, and has not said that it is done with it. It takes
    /// longer over it than this node, and what clients ask stands behind it there.
    left_under_way: bool,
    pub reporting: Option<Reporting>,
    /// What this node knew while it led, to be forgotten.
    retired: Vec<super::leading::Leading>,
    /// Names looked at since this was last asked.
    names: usize,
}

impl Steps {
    pub fn retire(&mut self, leading: Option<super::leading::Leading>) {
        self.retired.extend(leading);
    }

    /// The leader has taken what it was told of connections that left, or is told everything anew.
    pub fn handle_left_taken(&mut self) {
        self.left_under_way = false;
    }

    fn may_take_back(&self) -> bool {
        !self.left.is_empty() && !self.left_under_way
    }
}

impl Shard {
    /// Whether there is work for another turn, whatever happens meanwhile.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        let steps = &self.steps;
        let has_own = steps.may_take_back() || steps.reporting.is_some() || !steps.retired.is_empty();
        let leads = self.leading.as_ref().is_some_and(|leading| {
            leading.references.has_leaving()
                || leading.waits.has_gone()
                || leading.sweep.next().is_some()
                || !leading.pages.is_empty()
        });
        !self.stopped && (has_own || leads || self.surveys.has_steps())
    }

    /// How much work the steps since this was last asked were, in items of a few microseconds each.
    pub fn take_items_stepped(&mut self) -> usize {
        std::mem::take(&mut self.steps.names).div_ceil(NAMES_PER_ITEM)
    }

    /// One step of each kind.
    pub(super) fn take_steps(&mut self, moment: Moment) {
        if !self.has_steps() {
            return;
        }
        let mut names = self.take_back_left();
        names += self.go_on_reporting();
        names += self.take_leader_steps();
        names += self.take_list_step(moment, NAMES_PER_STEP);
        if self.steps.retired.last_mut().is_some_and(|retired| retired.dismantle(NAMES_PER_STEP)) {
            self.steps.retired.pop();
        }
        self.steps.names += names;
    }

    fn take_leader_steps(&mut self) -> usize {
        let Some(leading) = self.leading.as_mut() else { return 0 };
        let mut names = leading.waits.clear(NAMES_PER_STEP);
        if leading.references.has_leaving() {
            let machine = &self.machine;
            let gone = leading.references.shed(NAMES_PER_STEP, |tube| machine.is_inhabited(tube));
            names += NAMES_PER_STEP;
            for tube in gone {
                self.drop_tube_if_unused(&tube);
            }
        }
        names + self.sweep() + self.give_page()
    }

    /// Looks at the next tubes without a job: those that nobody references are to be forgotten.
    fn sweep(&mut self) -> usize {
        let Some(next) = self.leading.as_ref().and_then(|leading| leading.sweep.next()) else { return 0 };
        let (tubes, next) =
            if self.may_drop_tubes() { self.machine.droppable_from(next, NAMES_PER_STEP) } else { (Vec::new(), None) };
        if let Some(leading) = self.leading.as_mut() {
            leading.sweep.handle_swept(next);
        }
        for tube in &tubes {
            self.drop_tube_if_unused(tube);
        }
        tubes.len()
    }

    /// The leader's part: one page for another node.
    fn give_page(&mut self) -> usize {
        let Some(leading) = self.leading.as_mut() else { return 0 };
        let Some((index, PageRequest { node, read, after })) = leading.pages.pop_front() else { return 0 };
        let term = leading.term;
        let soft = self.soft(&ReadAbout::BareTubes { after });
        self.send(node, PeerMessage::ReadAnswer { term, read, index, soft });
        NAMES_PER_PAGE_MAX
    }

    /// A connection that is gone used one tube and watched others.
    pub(super) fn leave(&mut self, used: Option<Bytes>, watched: Vec<Bytes>) {
        if watched.len() > LEFT_AT_ONCE_MAX {
            self.steps.left.push_back(Left { used, watched });
            return;
        }
        let used = used.map(|tube| (tube, ReferenceChange::Unuse));
        for (tube, change) in used.into_iter().chain(watched.into_iter().map(|tube| (tube, ReferenceChange::Unwatch))) {
            self.note_reference(tube, change);
        }
    }

    fn take_back_left(&mut self) -> usize {
        let (mut count, mut untold) = (0, Vec::new());
        while count < NAMES_PER_STEP
            && self.steps.may_take_back()
            && let Some(left) = self.steps.left.front_mut()
        {
            let (tube, change) = match (left.used.take(), left.watched.pop()) {
                (Some(tube), watched) => {
                    left.watched.extend(watched);
                    (tube, ReferenceChange::Unuse)
                }
                (None, Some(tube)) => (tube, ReferenceChange::Unwatch),
                (None, None) => {
                    self.steps.left.pop_front();
                    continue;
                }
            };
            count += 1;
            untold.extend(self.count_reference(tube, change));
        }
        if let Some((leader, term)) = self.upstream.filter(|_| !untold.is_empty()) {
            // Behind what was referenced before.
            self.send_gathered();
            self.send(leader, PeerMessage::References { term, part: ReferencePart::Left, changes: untold });
            self.steps.left_under_way = true;
        }
        count
    }

    /// Begins to tell the leader all that this node's connections reference. Also a node without references reports.
    pub(super) fn begin_reporting(&mut self) {
        self.reference_changes.clear();
        self.steps.reporting = Some(Reporting::default());
        self.go_on_reporting();
    }

    /// Tells the leader the next piece.
    fn go_on_reporting(&mut self) -> usize {
        let Some(Reporting { told }) = self.steps.reporting.take() else { return 0 };
        let Some((leader, term)) = self.upstream else { return 0 };
        let (changes, is_last) = references::piece(&self.references, told.as_ref(), NAMES_PER_STEP);
        let part = ReferencePart::of_report(told.is_none(), is_last);
        if !is_last {
            self.steps.reporting = Some(Reporting { told: changes.last().map(|delta| delta.tube.clone()) });
        }
        let count = changes.len();
        if leader == self.config.node {
            self.handle_references(leader, part, &changes);
        } else {
            self.send(leader, PeerMessage::References { term, part, changes });
        }
        count
    }
}
