//! The side of a node that is behind the log: what of a snapshot that it is offered it wants, when it may take its place, and what goes
//! on behind that. The pulling is `node`'s, the files are `snapshot::install`'s.
//!
//! It must never take a snapshot in the place of a log that holds the snapshot's own entry, for the entries above may be
//! acknowledged; and never let a client's command go unanswered whose outcome was skipped.

use super::effect::{Effect, Wanted};
use super::{Moment, Shard};
use crate::api::Answer;
use crate::types::{Index, NodeId, SnapshotName, Start, Term};
use crate::wal::index::SegmentNumber;

impl Shard {
    /// The leader says that its log no longer has what this node needs.
    pub(super) fn handle_offer(&mut self, from: NodeId, term: Term, snapshot: SnapshotName) {
        if self.raft.leader() != Some(from) || self.raft.term() != term || self.leads() || self.has(&snapshot) {
            // Where this node has it already, the leader learns so from its answers to heartbeats.
            return;
        }
        let after = self.committed;
        self.effects.push_back(Effect::Install(Wanted {
            from,
            snapshot,
            after,
            first_job: self.index_next_job(after),
        }));
    }

    /// Whether the log here holds, or has long passed, what the snapshot is of.
    fn has(&self, snapshot: &SnapshotName) -> bool {
        let position = snapshot.position;
        position.index <= self.committed || self.raft.log().position_at(position.index) == Some(position)
    }

    /// Whether a snapshot that was pulled for a node committed up to `after` may still take the place of the log.
    #[must_use]
    pub fn wants(&self, snapshot: &SnapshotName, after: Index) -> bool {
        !self.leads() && self.committed == after && !self.has(snapshot) && !self.stopped
    }

    /// Whether nothing of this shard's is on its way into the log, or from there into its state.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.appending.is_empty() && !self.reading_back
    }

    /// The segments of the log that count up to the last committed entry, above the floor, each with the last of its entries that
    /// do.
    #[must_use]
    pub fn committed_segments(&self) -> Vec<(SegmentNumber, Index)> {
        self.catalog.segments_between(self.raft.log().floor().index, self.committed)
    }

    /// The peers that messages get through to.
    pub fn connected_peers(&self) -> impl Iterator<Item = (NodeId, Start)> {
        let connected = self.peers.iter().filter(|(_, peer)| peer.connected);
        connected.map(|(&node, peer)| (node, peer.start.unwrap_or_default()))
    }

    /// Takes over from the shard that ran before the snapshot was put in place: what clients of this node are owed. Those whose
    /// outcomes were skipped are hung up on; everything else is handed over anew, as after a change of leader. Whom it heard, it goes
    /// on hearing. Which peers are
    /// connected is still to be told.
    pub fn succeed(&mut self, moment: Moment, before: Shard) {
        self.raft.succeed(&before.raft);
        for (node, peer) in &before.peers {
            if let Some(state) = self.peers.get_mut(node) {
                (state.start, state.incoming_start) = (peer.start, peer.incoming_start);
            }
        }
        self.clock.succeed(&before.clock);
        self.sessions = before.sessions;
        self.references = before.references;
        self.reads = before.reads;
        self.surveys = before.surveys;
        self.surveys.begin_anew();
        self.steps = before.steps;
        self.counters = before.counters;
        self.registrations = before.registrations;
        self.went_back = before.went_back;
        self.next_read = before.next_read;
        (self.own_room, self.cluster_room) = (before.own_room, before.cluster_room);
        self.deadlines_soon = before.deadlines_soon;
        let mut owed = before.bodies.connections();
        owed.extend(before.copies.connections());
        owed.extend(self.sessions.skip_to(&self.machine));
        for connection in owed {
            self.answer(connection, 0, Answer::Hangup);
        }
        self.reads.handle_applied(self.applied.index);
        self.answer_reads(moment);
        self.find_upstream(moment);
        self.follow_raft(moment);
    }
}
