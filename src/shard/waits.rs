//! The leader's soft register of who waits for a job. Nothing in here is replicated: when the leader changes, the
//! nodes register their waits anew.
//!
//! ```text
//!     Wait ──> idle ──(a job may be there)──> proposed at index i ──(applied)──> granted: gone
//!                ^                                   │
//!                └────────(found nothing)────────────┘        withdrawn: gone, and confirmed once nothing is proposed
//! ```
//!
//! A wait whose time is over is withdrawn only when what was due by then has ended, within a grace;
//! until then it is served as before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::job::command::TubeList;
use crate::types::{Index, Nanos, NodeId, SessionId, Times};

/// A session has at most one wait; its number tells a later one from an earlier.
pub type WaitKey = (SessionId, u64);

/// The lines of a wait whose watch set is no longer than this, encoded, are left at once.
const SHORT_BYTES: usize = 256;

#[derive(Debug)]
struct Wait {
    /// Encoded watch set, as RESERVE carries it.
    tubes: Bytes,
    poll: bool,
    /// As its node counts, of the last time that it was registered: the end that is confirmed is the end of this one.
    registration: u64,
    proposed: bool,
    withdrawn: bool,
    /// Its end is among the postponed ones.
    postponed: bool,
    /// Set once this poll's read was requested, so that it is not asked for twice.
    reading: bool,
    /// Ascends with registration: the oldest wait is served first.
    arrival: u64,
    /// The tubes in whose lines it stands no more, since it was looked at there and proposed.
    left: Vec<Bytes>,
}

impl Wait {
    fn tube_names(&self) -> impl Iterator<Item = Bytes> {
        TubeList { encoded: &self.tubes }.iter().map(|name| self.tubes.slice_ref(name))
    }

    fn is_idle(&self) -> bool {
        !self.proposed && !self.withdrawn
    }
}

/// Those who wait for a job of one tube.
#[derive(Debug, Default)]
struct Line {
    /// Oldest first. Those that are proposed or gone are passed over when they come to the front, each once.
    waits: BTreeSet<(u64, WaitKey)>,
    /// How many of those who watch the tube do not poll, whether they stand in line or not.
    blocking: u64,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.waits.is_empty() && self.blocking == 0
    }
}

/// The places of a wait that is gone, until they are cleared.
#[derive(Debug)]
struct Gone {
    /// Those of its tubes whose lines it is still to leave.
    tubes: Bytes,
    arrival: u64,
    key: WaitKey,
    poll: bool,
}

/// Invariants: each wait has at most one RESERVE between proposal and apply; an idle wait stands in the line of each of
/// its tubes, any other in those of them that are not among its `left`.
///
/// A wait may watch thousands of tubes. To propose one, and to end one, takes the same for any number of them; its places in
/// lines are cleared in steps.
#[derive(Debug, Default)]
pub struct Waits {
    waits: BTreeMap<WaitKey, Wait>,
    lines: BTreeMap<Bytes, Line>,
    gone: VecDeque<Gone>,
    /// How many waits are idle.
    idle: usize,
    /// The index at which a RESERVE for this key was last proposed and is not yet applied. Outlives the wait.
    in_flight: BTreeMap<WaitKey, Index>,
    /// Keys whose end was asked for while a RESERVE was in flight, and is to be confirmed when that is applied; with the
    /// registration that was to end.
    owed: BTreeMap<WaitKey, u64>,
    /// Oldest first, so that neither time in them ever falls. One whose wait was granted, revived or
    /// ended meanwhile means nothing.
    postponed: VecDeque<Postponed>,
    next_arrival: u64,
}

/// The end of a wait that is held back until what is due has ended.
#[derive(Debug)]
struct Postponed {
    end: Ended,
    /// The log's times when the wait's own time was over.
    due_by: Times,
    /// It is held back no longer than this.
    until: Nanos,
}

/// What became of a wait when its RESERVE was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Granted,
    /// Idle again.
    StillWaiting,
    /// Gone without a job: tell its node that this registration ended.
    Ended {
        registration: u64,
    },
    /// Not registered (any more).
    Unknown,
}

/// The end of one registration of a wait, as its node is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub key: WaitKey,
    pub registration: u64,
}

impl Waits {
    /// Registers a wait; a repeat (after a reconnect) only revives it.
    pub fn register(&mut self, key: WaitKey, registration: u64, tubes: Bytes, poll: bool) {
        self.owed.remove(&key);
        if let Some(wait) = self.waits.get_mut(&key) {
            wait.withdrawn = false;
            wait.postponed = false;
            wait.registration = registration;
            return;
        }
        let proposed = self.in_flight.contains_key(&key);
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let (withdrawn, postponed, reading, left) = (false, false, false, Vec::new());
        let wait = Wait { tubes, poll, registration, proposed, withdrawn, postponed, reading, arrival, left };
        for tube in wait.tube_names() {
            let line = self.lines.entry(tube).or_default();
            line.waits.insert((arrival, key));
            line.blocking += u64::from(!poll);
        }
        self.idle += usize::from(wait.is_idle());
        self.waits.insert(key, wait);
    }

    /// Its session has moved on: it was granted, by this leader or an earlier one. It would be offered every job first and
    /// could take none.
    pub fn remove(&mut self, key: WaitKey) {
        let Some(wait) = self.waits.remove(&key) else { return };
        self.idle -= usize::from(wait.is_idle());
        let Wait { tubes, arrival, poll, .. } = wait;
        let is_short = tubes.len() <= SHORT_BYTES;
        let mut gone = Gone { tubes, arrival, key, poll };
        if is_short {
            while self.clear_place(&mut gone) {}
        } else {
            self.gone.push_back(gone);
        }
    }

    /// Whether places of waits that are gone are still to be cleared.
    #[must_use]
    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Clears at most so many places of waits that are gone; how many.
    pub fn clear(&mut self, places_max: usize) -> usize {
        let mut cleared = 0;
        while cleared < places_max
            && let Some(mut gone) = self.gone.pop_front()
        {
            while cleared < places_max && self.clear_place(&mut gone) {
                cleared += 1;
            }
            if !gone.tubes.is_empty() {
                self.gone.push_front(gone);
            }
        }
        cleared
    }

    /// Leaves the line of the next tube; false if that was the last.
    fn clear_place(&mut self, gone: &mut Gone) -> bool {
        let Some(name) = TubeList { encoded: &gone.tubes }.iter().next().map(|name| gone.tubes.slice_ref(name)) else {
            return false;
        };
        // The byte of its length stands in front of a name.
        gone.tubes = gone.tubes.slice(1 + name.len()..);
        if let Some(line) = self.lines.get_mut(&name) {
            line.waits.remove(&(gone.arrival, gone.key));
            line.blocking -= u64::from(!gone.poll);
            if line.is_empty() {
                self.lines.remove(&name);
            }
        }
        true
    }

    /// Forgets at most so many places and waits, of a leader that leads no more; whether that was all.
    pub fn dismantle(&mut self, places_max: usize) -> bool {
        let mut left = places_max;
        while left > 0
            && let Some((_, line)) = self.lines.pop_first()
        {
            left = left.saturating_sub(1 + line.waits.len());
        }
        while left > 0 && self.waits.pop_first().is_some() {
            left -= 1;
        }
        self.lines.is_empty() && self.waits.is_empty()
    }

    /// Whether some wait could be proposed.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        self.idle > 0
    }

    #[must_use]
    pub fn registration(&self, key: WaitKey) -> Option<u64> {
        self.waits.get(&key).map(|wait| wait.registration)
    }

    /// Whether its RESERVE may take a job of another tube than the one for which it was proposed.
    #[must_use]
    pub fn watches_several(&self, key: WaitKey) -> bool {
        self.waits.get(&key).is_some_and(|wait| TubeList { encoded: &wait.tubes }.iter().nth(1).is_some())
    }

    /// The watch set of a wait.
    #[must_use]
    pub fn tubes(&self, key: WaitKey) -> Option<Vec<Bytes>> {
        self.waits.get(&key).map(|wait| wait.tube_names().collect())
    }

    /// The oldest idle wait on a tube becomes proposed; its key and watch set.
    pub fn propose_for(&mut self, tube: &[u8]) -> Option<(WaitKey, Bytes)> {
        let line = self.lines.get_mut(tube)?;
        let mut proposed = None;
        while proposed.is_none()
            && let Some((arrival, key)) = line.waits.pop_first()
        {
            // One that is gone, or has come anew, has no place here.
            let Some(wait) = self.waits.get_mut(&key).filter(|wait| wait.arrival == arrival) else { continue };
            wait.left.push(Bytes::copy_from_slice(tube));
            if wait.is_idle() {
                wait.proposed = true;
                self.idle -= 1;
                proposed = Some((key, wait.tubes.clone()));
            }
        }
        if line.is_empty() {
            self.lines.remove(tube);
        }
        proposed
    }

    /// This very wait becomes proposed, if it is idle.
    pub fn propose(&mut self, key: WaitKey) -> Option<Bytes> {
        let wait = self.waits.get_mut(&key).filter(|wait| wait.is_idle())?;
        wait.proposed = true;
        self.idle -= 1;
        Some(wait.tubes.clone())
    }

    /// The RESERVE of this key is in the entry at `index`.
    pub fn handle_proposed(&mut self, key: WaitKey, index: Index) {
        self.in_flight.insert(key, index);
    }

    /// Whether this poll's read still has to be asked for; true once.
    pub fn begin_read(&mut self, key: WaitKey) -> bool {
        match self.waits.get_mut(&key) {
            Some(wait) if wait.poll && !wait.proposed && !wait.reading => {
                wait.reading = true;
                true
            }
            _ => false,
        }
    }

    /// The RESERVE of this key was applied (or skipped) with or without a grant.
    pub fn handle_applied(&mut self, key: WaitKey, granted: bool) -> Settled {
        self.in_flight.remove(&key);
        let owed = self.owed.remove(&key);
        let Some(wait) = self.waits.get_mut(&key) else {
            return match owed {
                Some(registration) if !granted => Settled::Ended { registration },
                _ => Settled::Unknown,
            };
        };
        if granted {
            self.remove(key);
            return Settled::Granted;
        }
        if wait.poll || wait.withdrawn {
            let registration = owed.unwrap_or(wait.registration);
            self.remove(key);
            return Settled::Ended { registration };
        }
        self.idle += usize::from(wait.proposed);
        wait.proposed = false;
        for tube in std::mem::take(&mut wait.left) {
            self.lines.entry(tube).or_default().waits.insert((wait.arrival, key));
        }
        Settled::StillWaiting
    }

    /// Ends a wait. True if nothing is proposed for it, so that its end may be confirmed at once.
    pub fn withdraw(&mut self, key: WaitKey, registration: u64) -> bool {
        let is_proposed = self.in_flight.contains_key(&key) || self.waits.get(&key).is_some_and(|wait| wait.proposed);
        if is_proposed {
            if let Some(wait) = self.waits.get_mut(&key) {
                wait.withdrawn = true;
            }
            self.owed.insert(key, registration);
            return false;
        }
        self.remove(key);
        true
    }

    /// Holds back the end of a wait. False if it is not registered, so that nothing can be held back.
    pub fn postpone_end(&mut self, end: Ended, due_by: Times, until: Nanos) -> bool {
        let is_it = |wait: &&mut Wait| wait.registration == end.registration && !wait.withdrawn;
        let Some(wait) = self.waits.get_mut(&end.key).filter(is_it) else { return false };
        // A broken connection made its node say it twice.
        if !std::mem::replace(&mut wait.postponed, true) {
            self.postponed.push_back(Postponed { end, due_by, until });
        }
        true
    }

    /// The ends that are to be held back no longer: nothing is due by their times, or they have been
    /// for long enough.
    pub fn take_postponed(&mut self, now: Nanos, is_due: impl Fn(Times) -> bool) -> Vec<Ended> {
        let mut ends = Vec::new();
        while self.postponed.front().is_some_and(|front| front.until <= now || !is_due(front.due_by)) {
            let Postponed { end, .. } = self.postponed.pop_front().expect("just seen");
            let is_it = |wait: &&mut Wait| wait.registration == end.registration && wait.postponed;
            if let Some(wait) = self.waits.get_mut(&end.key).filter(is_it) {
                wait.postponed = false;
                ends.push(end);
            }
        }
        ends
    }

    /// When the next end is held back no longer.
    #[must_use]
    pub fn next_postponed(&self) -> Option<Nanos> {
        self.postponed.front().map(|front| front.until)
    }

    /// The node's connection is lost: it will register anew what it still wants.
    pub fn forget_node(&mut self, node: NodeId) {
        let of_node = self.waits.iter().filter(|((session, _), _)| session.node == node);
        let keys: Vec<(WaitKey, u64)> = of_node.map(|(&key, wait)| (key, wait.registration)).collect();
        for (key, registration) in keys {
            self.withdraw(key, registration);
        }
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.waits.len() as u64
    }

    /// How many blocking waits watch this tube; those that have just ended and watch many may be among them for a moment. Costs
    /// the same however many wait.
    #[must_use]
    pub fn waiting_on(&self, tube: &[u8]) -> u64 {
        self.lines.get(tube).map_or(0, |line| line.blocking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::codec::encode_tubes;
    use crate::types::BootEpoch;

    fn key(number: u64) -> WaitKey {
        (SessionId { node: NodeId(1), boot: BootEpoch(1), number }, 1)
    }

    fn tubes(names: &[&str]) -> Bytes {
        Bytes::from(encode_tubes(names.iter().map(|name| name.as_bytes())))
    }

    #[test]
    fn the_oldest_wait_is_proposed_first_and_never_twice_at_once() {
        let mut waits = Waits::default();
        waits.register(key(2), 1, tubes(&["a", "b"]), false);
        waits.register(key(1), 1, tubes(&["b"]), false);
        assert_eq!(waits.propose_for(b"b").map(|(key, _)| key), Some(key(2)));
        waits.handle_proposed(key(2), Index(7));
        assert_eq!(waits.propose_for(b"a"), None);
        assert_eq!(waits.propose_for(b"b").map(|(key, _)| key), Some(key(1)));
        assert_eq!(waits.propose_for(b"b"), None);
        assert_eq!(waits.handle_applied(key(2), false), Settled::StillWaiting);
        assert_eq!(waits.propose_for(b"a").map(|(key, _)| key), Some(key(2)));
    }

    #[test]
    fn a_withdrawn_wait_is_confirmed_only_when_nothing_is_in_flight_for_it() {
        let mut waits = Waits::default();
        waits.register(key(1), 1, tubes(&["a"]), false);
        let (proposed, _) = waits.propose_for(b"a").expect("it waits");
        waits.handle_proposed(proposed, Index(3));
        assert!(!waits.withdraw(key(1), 1));
        assert_eq!(waits.handle_applied(key(1), false), Settled::Ended { registration: 1 });
        assert!(waits.withdraw(key(1), 1));
    }

    #[test]
    fn a_wait_that_comes_again_after_a_reconnect_is_not_proposed_beside_the_one_in_flight() {
        let mut waits = Waits::default();
        waits.register(key(1), 1, tubes(&["a"]), false);
        waits.propose_for(b"a");
        waits.handle_proposed(key(1), Index(3));
        waits.forget_node(NodeId(1));
        waits.register(key(1), 1, tubes(&["a"]), false);
        assert_eq!(waits.propose_for(b"a"), None);
        assert_eq!(waits.handle_applied(key(1), false), Settled::StillWaiting);
        assert!(waits.propose_for(b"a").is_some());
    }

    #[test]
    fn a_wait_that_was_proposed_for_one_tube_has_its_old_place_in_the_lines_of_all_once_it_waits_again() {
        let mut waits = Waits::default();
        waits.register(key(1), 1, tubes(&["a", "b"]), false);
        waits.register(key(2), 1, tubes(&["a", "b"]), false);
        assert_eq!(waits.propose_for(b"a").map(|(key, _)| key), Some(key(1)));
        assert_eq!(waits.propose_for(b"b").map(|(key, _)| key), Some(key(2)));
        assert!(!waits.has_idle());
        waits.handle_proposed(key(1), Index(3));
        waits.handle_proposed(key(2), Index(3));
        assert_eq!(waits.handle_applied(key(2), false), Settled::StillWaiting);
        assert_eq!(waits.handle_applied(key(1), false), Settled::StillWaiting);
        assert_eq!(waits.propose_for(b"b").map(|(key, _)| key), Some(key(1)));
        assert_eq!(waits.propose_for(b"a").map(|(key, _)| key), Some(key(2)));
    }

    #[test]
    fn a_wait_that_ends_leaves_the_lines_of_its_tubes_in_steps_and_is_not_served_meanwhile() {
        let mut waits = Waits::default();
        let names: Vec<String> = (0..1000).map(|number| format!("tube-{number:03}")).collect();
        let all = tubes(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for number in 1..=3 {
            waits.register(key(number), 1, all.clone(), false);
        }
        assert_eq!(waits.waiting_on(b"tube-999"), 3);
        assert!(waits.withdraw(key(1), 1) && waits.withdraw(key(2), 1));
        assert_eq!(waits.propose_for(b"tube-999").map(|(key, _)| key), Some(key(3)));
        assert_eq!(waits.clear(300), 300);
        assert_eq!((waits.waiting_on(b"tube-000"), waits.waiting_on(b"tube-999")), (2, 3));
        assert_eq!((waits.clear(1000), waits.clear(1000), waits.has_gone()), (1000, 700, false));
        assert_eq!((waits.waiting_on(b"tube-000"), waits.waiting_on(b"tube-999")), (1, 1));
        waits.handle_proposed(key(3), Index(1));
        assert_eq!(waits.handle_applied(key(3), true), Settled::Granted);
        while waits.has_gone() {
            waits.clear(300);
        }
        assert!(waits.lines.is_empty(), "nothing of them is left");
    }
}
