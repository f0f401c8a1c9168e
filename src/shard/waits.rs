//! The leader's soft register of who waits for a job. Nothing in here is replicated: when the leader changes, the
//! nodes register their waits anew.
//!
//! ```text
//!     Wait ──> idle ──(a job may be there)──> proposed at index i ──(applied)──> granted: gone
//!                ^                                   │
//!                └────────(found nothing)────────────┘        withdrawn: gone, and confirmed once nothing is proposed
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::job::command::TubeList;
use crate::types::{Index, NodeId, SessionId};

/// A session has at most one wait; its number tells a later one from an earlier.
pub type WaitKey = (SessionId, u64);

#[derive(Debug)]
struct Wait {
    /// Encoded watch set, as RESERVE carries it.
    tubes: Bytes,
    poll: bool,
    /// As its node counts, of the last time that it was registered: the end that is confirmed is the end of this one.
    registration: u64,
    proposed: bool,
    withdrawn: bool,
    /// Set once this poll's read was requested, so that it is not asked for twice.
    reading: bool,
    /// Ascends with registration: the oldest wait is served first.
    arrival: u64,
}

impl Wait {
    fn tube_names(&self) -> Vec<Bytes> {
        TubeList { encoded: &self.tubes }.iter().map(|name| self.tubes.slice_ref(name)).collect()
    }
}

/// Invariants: each wait has at most one RESERVE between proposal and apply; `by_tube` holds exactly the waits that
/// are idle, under each of their tubes, oldest first.
#[derive(Debug, Default)]
pub struct Waits {
    waits: BTreeMap<WaitKey, Wait>,
    by_tube: BTreeMap<Bytes, BTreeSet<(u64, WaitKey)>>,
    /// The index at which a RESERVE for this key was last proposed and is not yet applied. Outlives the wait.
    in_flight: BTreeMap<WaitKey, Index>,
    /// Keys whose end was asked for while a RESERVE was in flight, and is to be confirmed when that is applied; with the
    /// registration that was to end.
    owed: BTreeMap<WaitKey, u64>,
    next_arrival: u64,
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
            wait.registration = registration;
            return;
        }
        let proposed = self.in_flight.contains_key(&key);
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let wait = Wait { tubes, poll, registration, proposed, withdrawn: false, reading: false, arrival };
        if !proposed {
            self.enlist(key, &wait);
        }
        self.waits.insert(key, wait);
    }

    fn enlist(&mut self, key: WaitKey, wait: &Wait) {
        for tube in wait.tube_names() {
            self.by_tube.entry(tube).or_default().insert((wait.arrival, key));
        }
    }

    fn delist(&mut self, key: WaitKey, wait: &Wait) {
        for tube in wait.tube_names() {
            if let Some(idle) = self.by_tube.get_mut(&tube) {
                idle.remove(&(wait.arrival, key));
                if idle.is_empty() {
                    self.by_tube.remove(&tube);
                }
            }
        }
    }

    /// Its session has moved on: it was granted, by this leader or an earlier one. It would be offered every job first and
    /// could take none.
    pub fn remove(&mut self, key: WaitKey) {
        if let Some(wait) = self.waits.remove(&key) {
            self.delist(key, &wait);
        }
    }

    /// Whether some wait could be proposed.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        !self.by_tube.is_empty()
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
        self.waits.get(&key).map(Wait::tube_names)
    }

    /// The oldest idle wait on a tube becomes proposed; its key and watch set.
    pub fn propose_for(&mut self, tube: &[u8]) -> Option<(WaitKey, Bytes)> {
        let &(_, key) = self.by_tube.get(tube)?.first()?;
        let tubes = self.propose(key).expect("an enlisted wait is idle");
        Some((key, tubes))
    }

    /// This very wait becomes proposed, if it is idle.
    pub fn propose(&mut self, key: WaitKey) -> Option<Bytes> {
        let mut wait = self.waits.remove(&key)?;
        let is_idle = !wait.proposed && !wait.withdrawn;
        if is_idle {
            self.delist(key, &wait);
            wait.proposed = true;
        }
        let tubes = wait.tubes.clone();
        self.waits.insert(key, wait);
        is_idle.then_some(tubes)
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
        let Some(mut wait) = self.waits.remove(&key) else {
            return match owed {
                Some(registration) if !granted => Settled::Ended { registration },
                _ => Settled::Unknown,
            };
        };
        if granted {
            self.delist(key, &wait);
            return Settled::Granted;
        }
        if wait.poll || wait.withdrawn {
            self.delist(key, &wait);
            return Settled::Ended { registration: owed.unwrap_or(wait.registration) };
        }
        wait.proposed = false;
        self.enlist(key, &wait);
        self.waits.insert(key, wait);
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

    /// How many blocking waits watch this tube.
    #[must_use]
    pub fn waiting_on(&self, tube: &[u8]) -> u64 {
        let watches = |wait: &&Wait| !wait.poll && TubeList { encoded: &wait.tubes }.iter().any(|name| name == tube);
        self.waits.values().filter(watches).count() as u64
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
}
