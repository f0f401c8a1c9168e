//! Handing leadership over on purpose (Raft thesis 3.10). It takes no new entries while it lasts, and so must end: with
//! another leader, or after one election timeout with this one.

use crate::raft::leader::Leader;
use crate::raft::message::Body;
use crate::raft::progress::Progress;
use crate::raft::state::State;
use crate::types::{Nanos, NodeId};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    pub(super) target: NodeId,
    pub(super) deadline: Nanos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefused {
    #[error("this node does not lead the shard")]
    NotLeader,
    #[error("a transfer of leadership is under way already")]
    UnderWay,
    #[error("this node leads the shard already")]
    LeadsAlready,
    #[error("node {0} is not a voter of the shard")]
    NotVoter(NodeId),
    #[error("node {0} has not answered its leader for an election timeout")]
    Unreachable(NodeId),
    #[error("no other voter has answered its leader for an election timeout")]
    NobodyReachable,
    #[error("the leader has only just been elected")]
    TooEarly,
}

impl Leader {
    pub(super) fn transfer(
        &mut self,
        state: &mut State,
        now: Nanos,
        to: Option<NodeId>,
    ) -> Result<(), TransferRefused> {
        if self.transfer.is_some() {
            return Err(TransferRefused::UnderWay);
        }
        if state.log.last().term != state.term() {
            return Err(TransferRefused::TooEarly);
        }
        let target = match to {
            Some(node) => self.check_target(state, now, node)?,
            None => self.best_successor(state, now).ok_or(TransferRefused::NobodyReachable)?,
        };
        let deadline = now.saturating_add(state.config.election_timeout_max);
        self.transfer = Some(Transfer { target, deadline });
        self.hand_over_when_ready(state);
        Ok(())
    }

    fn check_target(&self, state: &State, now: Nanos, node: NodeId) -> Result<NodeId, TransferRefused> {
        if node == state.id() {
            return Err(TransferRefused::LeadsAlready);
        }
        let peer = self.peer(node).filter(|_| state.membership.voters().contains(&node));
        let peer = peer.ok_or(TransferRefused::NotVoter(node))?;
        if is_reachable(peer, state, now) { Ok(node) } else { Err(TransferRefused::Unreachable(node)) }
    }

    /// The reachable voter that has most of the log; of equals the one with the smallest id.
    fn best_successor(&self, state: &State, now: Nanos) -> Option<NodeId> {
        let reachable = self
            .peers
            .iter()
            .filter(|peer| state.membership.voters().contains(&peer.node) && is_reachable(peer, state, now));
        reachable.min_by_key(|peer| (std::cmp::Reverse(peer.matched()), peer.node)).map(|peer| peer.node)
    }

    /// Leadership is given up whatever happens next: let the best successor begin without waiting for silence.
    pub(super) fn hand_over_at_once(&mut self, state: &mut State, now: Nanos) {
        if let Some(successor) = self.best_successor(state, now) {
            state.send(successor, Body::TimeoutNow);
        }
    }
}

fn is_reachable(peer: &Progress, state: &State, now: Nanos) -> bool {
    now < peer.contact.saturating_add(state.config.election_timeout_max)
}
