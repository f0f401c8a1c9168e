//! Elections: asking for votes and giving them. No node votes twice in a term, nor for a log that ends before its own;
//! and nobody who hears a leader helps another candidate, unless the leader asked for it.

use std::collections::BTreeMap;

use crate::mutation::{self, Mutation};
use crate::raft::message::{Body, Message};
use crate::raft::quorum::Tally;
use crate::raft::state::State;
use crate::raft::{Raft, Role};
use crate::types::{LogPosition, Nanos, NodeId, Term};

/// Asks whether it would be elected, before it disturbs anyone with a new term (Raft thesis 9.6). Keeps asking.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PreCandidate {
    answers: Answers,
    pub(super) retry_deadline: Nanos,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    answers: Answers,
    pub(super) deadline: Nanos,
    pub(super) transfer: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Answers(BTreeMap<NodeId, bool>);

impl Answers {
    fn tally(&self, state: &State) -> Tally {
        state.membership.tally(|node| self.0.get(&node).copied())
    }

    fn not_granted(&self, state: &State) -> Vec<NodeId> {
        let mut members = state.membership.members();
        members.retain(|node| state.membership.is_voter(*node) && self.0.get(node) != Some(&true));
        members.retain(|node| *node != state.id());
        members
    }
}

impl Raft {
    pub(super) fn become_pre_candidate(&mut self, now: Nanos) {
        let answers = Answers(BTreeMap::from([(self.state.id(), true)]));
        self.leave_role();
        if answers.tally(&self.state) == Tally::Won {
            self.become_candidate(now, false);
            return;
        }
        let retry_deadline = now.saturating_add(self.state.draw_retry());
        self.role = Role::PreCandidate(PreCandidate { answers, retry_deadline });
        self.announce();
        self.ask_for_pre_votes();
    }

    pub(super) fn retry_pre_votes(&mut self, now: Nanos) {
        let Role::PreCandidate(candidate) = &mut self.role else { return };
        if candidate.answers.tally(&self.state) == Tally::Won && self.state.is_admitted() {
            return self.become_candidate(now, false);
        }
        candidate.retry_deadline = now.saturating_add(self.state.draw_retry());
        self.ask_for_pre_votes();
    }

    fn ask_for_pre_votes(&mut self) {
        let Role::PreCandidate(candidate) = &self.role else { return };
        for voter in candidate.answers.not_granted(&self.state) {
            self.ask_for_pre_vote(voter);
        }
    }

    fn ask_for_pre_vote(&mut self, voter: NodeId) {
        let term = self.state.term().next();
        let last = self.state.log.last();
        self.state.send_unconditionally(voter, Message { term, body: Body::PreVoteRequest { last } });
    }

    /// Enters the next term and asks for votes. The requests wait until the own vote is durable: a candidate that forgot
    /// it could stand again in the same term with a shorter log, and be elected by answers to the first request.
    pub(super) fn become_candidate(&mut self, now: Nanos, transfer: bool) {
        self.leave_role();
        let state = &mut self.state;
        state.enter_term(state.term().next());
        state.vote_for(state.id());
        let deadline = now.saturating_add(state.draw_election_timeout());
        let candidate = Candidate { answers: Answers::default(), deadline, transfer };
        for voter in candidate.answers.not_granted(state) {
            let last = state.log.last();
            state.send_when_voted(voter, Body::VoteRequest { last, transfer });
        }
        self.role = Role::Candidate(candidate);
        self.announce();
    }

    /// The candidate's own vote counts like any other: when it is durable.
    pub(super) fn count_own_vote(&mut self, now: Nanos) {
        if matches!(self.role, Role::Candidate(_)) && self.state.vote_is_saved() {
            self.handle_vote_reply(now, self.state.id(), true);
        }
    }

    /// A connection came up: what was asked before may never have been sent.
    pub(super) fn ask_again(&mut self, voter: NodeId) {
        if !self.state.membership.is_voter(voter) {
            return;
        }
        match &self.role {
            Role::PreCandidate(candidate) if candidate.answers.0.get(&voter) != Some(&true) => {
                self.ask_for_pre_vote(voter);
            }
            Role::Candidate(candidate) if !candidate.answers.0.contains_key(&voter) => {
                let (last, transfer) = (self.state.log.last(), candidate.transfer);
                self.state.send_when_voted(voter, Body::VoteRequest { last, transfer });
            }
            _ => {}
        }
    }

    /// `asked` is the term that the candidate would have. Nothing is changed by answering (faults E9).
    pub(super) fn handle_pre_vote_request(&mut self, now: Nanos, from: NodeId, asked: Term, last: LogPosition) {
        if !self.state.is_admitted() {
            return;
        }
        let hears_leader = self.hears_leader(now) && !mutation::is_on(Mutation::PreVoteWithoutRecency);
        let granted = asked > self.state.term() && last >= self.state.log.last() && !hears_leader;
        if granted {
            self.state.send_unconditionally(from, Message { term: asked, body: Body::PreVoteReply { granted } });
        } else {
            self.state.send(from, Body::PreVoteReply { granted });
        }
    }

    pub(super) fn handle_pre_vote_grant(&mut self, now: Nanos, from: NodeId, asked: Term) {
        let Role::PreCandidate(candidate) = &mut self.role else { return };
        if asked != self.state.term().next() {
            return;
        }
        candidate.answers.0.insert(from, true);
        if candidate.answers.tally(&self.state) == Tally::Won && self.state.is_admitted() {
            self.become_candidate(now, false);
        }
    }

    /// A request in the current term.
    pub(super) fn handle_vote_request(&mut self, now: Nanos, from: NodeId, last: LogPosition) {
        if !self.state.is_admitted() {
            // A refusal would stand for the whole term. Who is not answered asks again, in this term or the next.
            return;
        }
        let free = match self.state.vote.voted_for {
            Some(candidate) => candidate == from,
            None => self.leader().is_none(),
        };
        let granted = free && last >= self.state.log.last();
        if granted {
            self.state.vote_for(from);
            // Who votes gives its candidate the time to win (Raft 5.2).
            self.become_follower(now, None);
            self.rearm_election(now);
        }
        self.state.send_when_voted(from, Body::VoteReply { granted });
    }

    pub(super) fn handle_vote_reply(&mut self, now: Nanos, from: NodeId, granted: bool) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        // A first answer stands: a vote is given once in a term, and never taken back.
        candidate.answers.0.entry(from).or_insert(granted);
        match candidate.answers.tally(&self.state) {
            Tally::Won if self.state.vote_is_saved() => self.become_leader(now),
            Tally::Lost => {
                let retry_deadline = now.saturating_add(self.state.draw_retry());
                let answers = Answers(BTreeMap::from([(self.state.id(), true)]));
                self.role = Role::PreCandidate(PreCandidate { answers, retry_deadline });
            }
            _ => {}
        }
    }

    /// The leader handed over: no pre-vote, since everybody hears a leader (thesis 3.10, 4.2.3).
    pub(super) fn handle_timeout_now(&mut self, now: Nanos) {
        let seeks_none = matches!(self.role, Role::Follower(_) | Role::PreCandidate(_));
        if seeks_none && self.may_campaign() && self.state.is_admitted() {
            self.become_candidate(now, true);
        }
    }

    /// Whether a leader lives, as far as this node can tell: then it helps nobody to replace it (thesis 4.2.3, 6.2).
    pub(super) fn hears_leader(&self, now: Nanos) -> bool {
        match &self.role {
            Role::Leader(_) => true,
            Role::Follower(follower) => {
                follower.heard.is_some_and(|heard| now < heard.saturating_add(self.state.config.election_timeout_min))
            }
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }
}
