//! Client sessions: what makes a command happen once. One number per open session is all that is remembered.
//!
//! A session's first command opens it with number 0; its others are numbered 1, 2, 3, … . Numbers of sessions
//! ascend per node and boot, so that an open which arrives late cannot reopen what was closed.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{BootEpoch, JobId, Nanos, NodeId, SessionId};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    nodes: BTreeMap<NodeId, Boot>,
    open: usize,
}

/// The sessions of one node's present boot. Those of earlier boots are closed.
#[derive(Debug, PartialEq, Eq)]
struct Boot {
    epoch: BootEpoch,
    /// The highest session number ever opened in this boot.
    highest: Option<u64>,
    open: BTreeMap<u64, Session>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    /// The number of its last command that happened.
    pub(super) last_seq: u64,
    /// Its reservations by the lease time at which they end.
    pub(super) reserved: BTreeSet<(Nanos, JobId)>,
}

impl Sessions {
    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Session> {
        self.nodes.get(&session.node).filter(|boot| boot.epoch == session.boot)?.open.get(&session.number)
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Session> {
        self.nodes.get_mut(&session.node).filter(|boot| boot.epoch == session.boot)?.open.get_mut(&session.number)
    }

    /// The session behind a reservation.
    pub(super) fn of_reservation(&mut self, session: SessionId) -> &mut Session {
        self.get_mut(session).expect("the session of a reservation is open")
    }

    /// Opens a session if it never was; whether it did. Its node's boot must have been entered.
    pub(super) fn open(&mut self, session: SessionId) -> bool {
        let Some(boot) = self.nodes.get_mut(&session.node).filter(|boot| boot.epoch == session.boot) else {
            return false;
        };
        if boot.highest.is_some_and(|highest| session.number <= highest) {
            return false;
        }
        boot.highest = Some(session.number);
        boot.open.insert(session.number, Session::default());
        self.open += 1;
        true
    }

    pub(super) fn close(&mut self, session: SessionId) {
        let boot = self.nodes.get_mut(&session.node).filter(|boot| boot.epoch == session.boot);
        let closed = boot.and_then(|boot| boot.open.remove(&session.number)).expect("only an open session closes");
        assert!(closed.reserved.is_empty(), "a session gives its jobs back before it closes");
        self.open -= 1;
    }

    /// The open sessions of a node that a start with this epoch ends.
    pub(super) fn ended_by(&self, node: NodeId, epoch: BootEpoch) -> Vec<SessionId> {
        let Some(boot) = self.nodes.get(&node).filter(|boot| boot.epoch < epoch) else { return Vec::new() };
        boot.open.keys().map(|&number| SessionId { node, boot: boot.epoch, number }).collect()
    }

    pub(super) fn node_boot(&self, node: NodeId) -> Option<BootEpoch> {
        self.nodes.get(&node).map(|boot| boot.epoch)
    }

    /// Enters a node's boot, unless a later one is known. Its sessions of earlier boots must be closed.
    pub(super) fn enter_boot(&mut self, node: NodeId, epoch: BootEpoch) {
        if self.nodes.get(&node).is_some_and(|boot| boot.epoch >= epoch) {
            return;
        }
        let earlier = self.nodes.insert(node, Boot { epoch, highest: None, open: BTreeMap::new() });
        assert!(earlier.is_none_or(|boot| boot.open.is_empty()), "a boot ends after its sessions");
    }

    /// A node's boot as it once was; none if it is known already.
    pub(super) fn restore_boot(&mut self, node: NodeId, epoch: BootEpoch, highest: Option<u64>) -> Option<()> {
        let before = self.nodes.insert(node, Boot { epoch, highest, open: BTreeMap::new() });
        before.is_none().then_some(())
    }

    /// An open session of a node's present boot as it once was, without its reservations; none if it cannot have been.
    pub(super) fn restore_session(&mut self, node: NodeId, number: u64, last_seq: u64) -> Option<()> {
        let boot = self.nodes.get_mut(&node).filter(|boot| boot.highest.is_some_and(|highest| number <= highest))?;
        let before = boot.open.insert(number, Session { last_seq, reserved: BTreeSet::new() });
        self.open += 1;
        before.is_none().then_some(())
    }

    /// The present boot of each node, with the highest session number that it opened.
    pub(super) fn boots(&self) -> impl Iterator<Item = (NodeId, BootEpoch, Option<u64>)> {
        self.nodes.iter().map(|(&node, boot)| (node, boot.epoch, boot.highest))
    }

    /// All open sessions, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.nodes.iter().flat_map(|(&node, boot)| {
            let id = move |number| SessionId { node, boot: boot.epoch, number };
            boot.open.iter().map(move |(&number, session)| (id(number), session))
        })
    }
}
