//! Where a shard's leader belongs: leaders of several shards are spread over the nodes, so that each node's processors and
//! disk carry their part. Whoever else leads hands over, once the preferred node has kept up for a while.
//!
//! It must never hand over to a node that would lead worse: one that is cut off, has no room, or lags.

use super::{Moment, Shard};
use crate::raft::progress::ProgressState;
use crate::types::{Index, Nanos};

/// How often a leader looks at the preferred node.
const LOOK_EVERY: Nanos = Nanos::from_secs(1);

/// So many looks in a row must find it fit: a node that has just returned is left alone until it has caught up.
const LOOKS: u32 = 5;

/// What this leader saw of the preferred node. A new leader begins anew.
#[derive(Debug, Default)]
pub struct Placement {
    /// None before the first look.
    next_look: Option<Nanos>,
    fit_looks: u32,
    /// What was committed at the last look: by the next one, a node that keeps up has it.
    committed: Index,
}

impl Shard {
    /// When the preferred node is to be looked at again; none where this node leads for good, or not at all.
    pub(super) fn next_placement_look(&self, moment: Moment) -> Option<Nanos> {
        let is_elsewhere = self.config.preferred_leader.is_some_and(|preferred| preferred != self.config.node);
        let leading = self.leading.as_ref().filter(|_| is_elsewhere)?;
        Some(leading.placement.next_look.unwrap_or(moment.now))
    }

    /// Hands leadership to the node that it belongs to, if that has been fit for long enough.
    pub(super) fn mind_placement(&mut self, moment: Moment) {
        if self.next_placement_look(moment).is_none_or(|at| at > moment.now) {
            return;
        }
        let is_fit = self.preferred_is_fit();
        let committed = self.committed;
        let (Some(leading), Some(preferred)) = (self.leading.as_mut(), self.config.preferred_leader) else { return };
        let placement = &mut leading.placement;
        placement.next_look = Some(moment.now.saturating_add(LOOK_EVERY));
        placement.committed = committed;
        placement.fit_looks = if is_fit { placement.fit_looks + 1 } else { 0 };
        if placement.fit_looks >= LOOKS {
            placement.fit_looks = 0;
            // Where it is refused, or does not come about in time, the looks begin anew.
            let _ = self.raft.transfer(moment.now, Some(preferred));
            self.follow_raft(moment);
        }
    }

    fn preferred_is_fit(&self) -> bool {
        let (Some(leading), Some(preferred)) = (self.leading.as_ref(), self.config.preferred_leader) else {
            return false;
        };
        let is_connected = self.peers.get(&preferred).is_some_and(|peer| peer.connected);
        let has_room = leading.room.get(&preferred).copied().unwrap_or(false);
        let keeps_up = self.raft.progress().any(|peer| {
            let is_replicating = peer.state == ProgressState::Replicate;
            peer.node == preferred && is_replicating && peer.matched >= leading.placement.committed
        });
        is_connected && has_room && keeps_up && leading.placement.next_look.is_some()
    }
}
