//! What a shard tells about itself: counters that only grow, and a picture of the moment.

use std::collections::VecDeque;

use super::Shard;
use crate::job::command::Outcome;
use crate::job::view::{Counts, TubeDepth};
use crate::raft::{PeerProgress, RoleName};
use crate::types::{Index, JobId, Nanos, NodeId, Term};

/// So many tubes are looked at each time when the status is shown.
const TUBES_PER_LOOK: usize = 4096;

#[derive(Debug, Clone, Default)]
pub struct Counters {
    pub entries_appended: u64,
    pub bytes_appended: u64,
    pub elections_won: u64,
    /// Because the own disk, write or applying stood still.
    pub leaderships_given_up: u64,
    pub enqueued: u64,
    pub deleted: u64,
    pub buried: u64,
    pub reserved: u64,
    pub released: u64,
    /// Jobs, not commands.
    pub kicked: u64,
    /// Puts that found no room on the disks of a majority.
    pub refused_no_room: u64,
    /// Puts that found too much outstanding.
    pub refused_outstanding: u64,
    /// Bodies that were read back from the log.
    pub body_reads: u64,
    /// Bodies that could not be, and were looked for at the other nodes.
    pub copies_sought: u64,
    /// Forwarded commands that were not well-formed or not their sender's.
    pub commands_refused: u64,
    proposed: VecDeque<(Index, Nanos)>,
    /// From proposal to apply, of entries with commands that this node proposed and has not yet reported.
    commit_latencies: Vec<Nanos>,
}

impl Counters {
    /// The numbers without what is still being measured.
    #[must_use]
    pub fn totals(&self) -> Counters {
        Counters { proposed: VecDeque::new(), commit_latencies: Vec::new(), ..self.clone() }
    }

    pub(super) fn handle_proposed(&mut self, index: Index, now: Nanos) {
        // An index that is proposed again was cut off before.
        while self.proposed.back().is_some_and(|(last, _)| *last >= index) {
            self.proposed.pop_back();
        }
        self.proposed.push_back((index, now));
    }

    pub(super) fn handle_applied(&mut self, index: Index, now: Nanos) {
        while let Some(&(proposed, at)) = self.proposed.front() {
            if proposed > index {
                return;
            }
            self.proposed.pop_front();
            if proposed == index {
                self.commit_latencies.push(now.saturating_sub(at));
            }
        }
    }

    pub(super) fn handle_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Enqueued { .. } => self.enqueued += 1,
            Outcome::Deleted => self.deleted += 1,
            Outcome::Buried => self.buried += 1,
            Outcome::Reserved { .. } => self.reserved += 1,
            Outcome::Released => self.released += 1,
            Outcome::Kicked { count } => self.kicked += count,
            Outcome::JobKicked => self.kicked += 1,
            _ => {}
        }
    }
}

/// One peer as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPicture {
    pub node: NodeId,
    pub connected: bool,
    /// None unless this node leads.
    pub progress: Option<PeerProgress>,
    /// As the peer last said to this leader.
    pub room: bool,
    /// It answers this leader's heartbeats, lacks entries, and has taken none for long.
    pub is_stuck: bool,
}

/// The shard at one moment.
#[derive(Debug, Clone)]
pub struct Picture {
    pub leads: bool,
    pub role: RoleName,
    pub leader: Option<NodeId>,
    pub leader_reachable: bool,
    pub term: Term,
    pub committed: Index,
    pub applied: Index,
    pub last: Index,
    pub counts: Counts,
    pub peers: Vec<PeerPicture>,
    /// Everything that is known to be committed is applied, nothing keeps this node from learning
    /// of more, and it is not `behind`.
    pub is_caught_up: bool,
    /// The highest commit index that a leader stated, and this node's own.
    pub leader_committed: Index,
    /// For how long this node has not come to what was committed at the beginning of that time;
    /// none where it comes to that within two of the longest election timeouts.
    pub behind: Option<Nanos>,
    /// Waits registered here, while this node leads.
    pub waits: u64,
    pub sessions: usize,
    pub outstanding: usize,
    pub outstanding_bytes: usize,
    pub cache_bytes: usize,
    pub room: bool,
    pub durable: Index,
    pub own_room: bool,
    /// The last marker that was applied here, or the snapshot that this node started from, and the digest of the state there.
    pub marker: Option<(Index, u128)>,
    /// Members that came back with an older copy of their directory; ascending.
    pub shut_out: Vec<NodeId>,
}

impl Shard {
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Latencies from proposal to apply since the last call.
    pub fn take_commit_latencies(&mut self) -> Vec<Nanos> {
        std::mem::take(&mut self.counters.commit_latencies)
    }

    #[must_use]
    pub fn outstanding_bytes(&self) -> usize {
        self.sessions.outstanding_bytes()
    }

    /// The tubes with the most jobs, those with more first; at most so many. Each call looks at some of the tubes and finds who
    /// was among the deepest in the last round over all of them.
    pub fn deepest_tubes(&mut self, count: usize) -> Vec<TubeDepth> {
        self.depths.go_on(&self.machine, TUBES_PER_LOOK, count);
        self.depths.deepest(&self.machine)
    }

    /// How long ago a job was put, by the log's clock. None where its row cannot be read.
    #[must_use]
    pub fn age(&self, now: Nanos, job: JobId) -> Option<Nanos> {
        let found = self.catalog.find(job).ok().flatten()?;
        Some(self.clock.estimate(now).wall.saturating_sub(found.enqueued_wall))
    }

    #[must_use]
    pub fn picture(&self) -> Picture {
        Picture {
            leads: self.leads(),
            role: self.raft.role(),
            leader: self.raft.leader(),
            leader_reachable: self.upstream.is_some(),
            term: self.raft.term(),
            committed: self.committed,
            applied: self.applied.index,
            last: self.raft.last_position().index,
            counts: self.machine.counts(),
            peers: self
                .peers
                .iter()
                .map(|(&node, peer)| PeerPicture {
                    node,
                    connected: peer.connected,
                    room: self.leading.as_ref().is_none_or(|leading| leading.room.get(&node).copied().unwrap_or(true)),
                    is_stuck: self.leading.as_ref().is_some_and(|leading| leading.stuck_peers.contains(&node)),
                    progress: self.raft.progress().find(|progress| progress.node == node),
                })
                .collect(),
            is_caught_up: self.applied.index >= self.committed
                && !self.log_lacks_room
                && self.freshness.behind().is_none(),
            leader_committed: self.freshness.committed().max(self.committed),
            behind: self.freshness.behind(),
            waits: self.leading.as_ref().map_or(0, |leading| leading.waits.count()),
            sessions: self.sessions.count(),
            outstanding: self.sessions.outstanding_count(),
            outstanding_bytes: self.sessions.outstanding_bytes(),
            cache_bytes: self.cache.bytes(),
            room: self.cluster_room,
            durable: self.raft.durable(),
            own_room: self.own_room,
            marker: self.last_marker(),
            shut_out: self.peers.keys().copied().filter(|&node| self.is_shut_out(node)).collect(),
        }
    }
}
