//! The roles, and the ways from one to another. Whoever leaves a role takes nothing of it along: what belongs to a leader
//! ends with it.

use crate::raft::Raft;
use crate::raft::election::{Candidate, PreCandidate};
use crate::raft::follower::Follower;
use crate::raft::leader::Leader;
use crate::raft::message::{Effect, StopReason};
use crate::types::{Nanos, NodeId, Term};

/// ```text
///              silence               a majority would vote           a majority voted
///   Follower ───────────> PreCandidate ──────────────────> Candidate ────────────────> Leader
///       │                       ^───── refused, no answer ────┘ ^
///       └────────────────── the leader hands over ──────────────┘
/// ```
/// Back to `Follower` from any role: its leader is heard, a vote is given, a later term is seen. From `Leader` also when no
/// majority answers, and on stepping down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Announced {
    pub(super) term: Term,
    pub(super) leader: Option<NodeId>,
}

/// A role without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoleName {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

impl Raft {
    /// Begins every event. A leader that has not heard a majority for too long stops being one before it believes
    /// anything: also when it only now wakes from a long sleep, with old answers still waiting to be read.
    pub(super) fn begin_event(&mut self, now: Nanos) -> bool {
        if self.state.stopped {
            return false;
        }
        if let Role::Leader(leader) = &mut self.role
            && leader.has_lost_quorum(&self.state, now)
        {
            self.become_follower(now, None);
        }
        true
    }

    pub(super) fn enter_term(&mut self, now: Nanos, term: Term) {
        self.state.enter_term(term);
        self.become_follower(now, None);
    }

    /// The leader of this term was heard.
    pub(super) fn follow(&mut self, now: Nanos, leader: NodeId) -> bool {
        if let Some(other) = self.leader()
            && other != leader
        {
            self.state.stop(StopReason::TwoLeaders { term: self.state.term(), leaders: [other, leader] });
            return false;
        }
        if self.leader().is_none() {
            self.become_follower(now, Some(leader));
        }
        self.rearm_election(now);
        let Role::Follower(follower) = &mut self.role else { unreachable!("a node that hears its leader follows") };
        follower.heard = Some(now);
        true
    }

    pub(super) fn become_follower(&mut self, now: Nanos, leader: Option<NodeId>) {
        self.leave_role();
        // A passed term is no reason to wait longer: a candidate that can't win must not keep others from standing.
        let was = match &self.role {
            Role::Follower(follower) => Some(follower.election_deadline),
            _ => None,
        };
        let election_deadline = was.unwrap_or(now);
        self.role = Role::Follower(Follower { leader, heard: None, election_deadline, overslept: false });
        if was.is_none() {
            self.rearm_election(now);
        }
        self.announce();
    }

    pub(super) fn become_leader(&mut self, now: Nanos) {
        assert!(self.state.vote_is_saved(), "a leader's vote for itself is durable");
        let leader = Leader::new(&mut self.state, now);
        self.role = Role::Leader(Box::new(leader));
        self.announced = Announced { term: self.state.term(), leader: Some(self.state.id()) };
        self.state.effects.push_back(Effect::Lead(self.state.term()));
    }

    pub(super) fn leave_role(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.lose_reads(&mut self.state);
        }
    }

    /// Tells the shard whom this node follows, where that changed.
    pub(super) fn announce(&mut self) {
        let now = Announced { term: self.state.term(), leader: self.leader() };
        if now != self.announced {
            self.announced = now;
            self.state.effects.push_back(Effect::Follow { term: now.term, leader: now.leader });
        }
    }

    /// Waits for a sign of a leader from now on, as long as a follower does.
    pub(super) fn rearm_election(&mut self, now: Nanos) {
        let deadline = match self.may_campaign() {
            true => now.saturating_add(self.state.draw_election_timeout()),
            false => Nanos(u64::MAX),
        };
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = deadline;
            follower.overslept = false;
        }
    }

    pub(super) fn hasten_election(&mut self, deadline: Nanos) {
        if let Role::Follower(follower) = &mut self.role {
            follower.election_deadline = follower.election_deadline.min(deadline);
        }
    }

    pub(super) fn may_campaign(&self) -> bool {
        self.state.membership.is_voter(self.state.id())
    }
}
