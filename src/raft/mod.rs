//! Consensus: one Raft group as one node sees it. Pure: it is told what happened and asks for effects; it reads no
//! clock, and never learns what the entries contain.
//!
//! # The algorithm in chapters
//!
//! **Terms.** Time is cut into terms, each with at most one leader, because each node votes once in a term and a leader
//! needs a majority (`election`). A node that sees a later term enters it; what is said in an earlier one is void, and
//! who says it is told so. Term and vote are durable before anybody may rely on them (`state`).
//!
//! **Elections.** A follower that hears no leader for a random time asks whether it would be elected (pre-vote); who
//! hears a leader says no. With a majority behind it, it enters the next term and asks for votes. A vote goes only to a
//! log that does not end before the voter's own, so that a leader has everything that was ever committed.
//!
//! **Replication.** The leader appends, and sends the new entries behind a position that the follower must hold too
//! (`leader`, `replication`). The follower compares, replaces what differs, and acknowledges what is durable
//! (`follower`, `durability`). The leader finds by probing where the logs meet, then streams ahead of the answers
//! (`progress`).
//!
//! **Commit.** What a majority has durably, and is of the leader's own term, is committed, with everything before it.
//! The leader's own copy counts when it is durable, like any other.
//!
//! **Leading on.** A leader that no majority answers steps down (`Leader::has_lost_quorum`). It can hand over on purpose
//! (`transfer`). Reads are confirmed by a round of answers instead of an entry (`read`).
//!
//! What must hold between any two calls is written down in `invariants`, and checked by tests and simulation.

pub mod config;
pub mod invariants;
pub mod log;
pub mod membership;
pub mod message;
pub mod progress;
pub mod quorum;

mod durability;
mod election;
mod follower;
mod leader;
mod random;
mod read;
mod replication;
mod roles;
mod state;
mod transfer;

pub use config::Config;
pub use log::Log;
pub use membership::Membership;
pub use progress::{PeerProgress, ProgressState};
pub use roles::RoleName;
pub use transfer::TransferRefused;

use follower::{Append, Follower, handle_append};
use message::{Body, Effect, EntryMeta, Message, Token, Vote};
use quorum::Tally;
use roles::{Announced, Role};
use state::State;

use crate::types::{ChainHash, Index, LogPosition, Nanos, NodeId, Term};

/// One member of a Raft group.
///
/// Every event comes with the time, which never goes backwards, and is followed by taking all effects with
/// [`Raft::poll_effect`]. Messages may be lost, repeated and reordered; completions of appends and saved votes come in
/// the order in which their effects were taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Raft {
    state: State,
    role: Role,
    /// Who leads, as the shard was last told.
    announced: Announced,
}

/// This node takes no entries: it does not lead, or is handing over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node takes no entries: it does not lead the shard, or is handing it over")]
pub struct NotLeader;

impl Raft {
    /// A node as it starts: `log` and `vote` as recovered, so durable; `committed` as far as anything found says, within
    /// what the log holds. `seed` spreads the timeouts; it should differ from node to node. A group's only voter seeks election at once.
    #[must_use]
    pub fn new(
        config: Config,
        membership: Membership,
        vote: Vote,
        log: Log,
        committed: Index,
        now: Nanos,
        seed: u64,
    ) -> Raft {
        assert_eq!(config.check(), Ok(()), "a configuration is checked where it is read");
        let state = State::new(config, membership, vote, log, committed, seed);
        let announced = Announced { term: state.term(), leader: None };
        let follower = Follower { leader: None, heard: None, election_deadline: now, overslept: false };
        let mut raft = Raft { state, role: Role::Follower(follower), announced };
        raft.rearm_election(now);
        let own_vote = |node| (node == raft.state.id()).then_some(true);
        if raft.state.membership.tally(own_vote) == Tally::Won {
            raft.become_pre_candidate(now);
        }
        raft
    }

    /// A start of a process, whose peers have to admit it first: until a majority has (this node counts), it gives no
    /// vote, stands for no election and acknowledges nothing. Each connection that is made to a peer says that it has.
    pub fn await_admission(&mut self) {
        self.state.await_admission();
    }

    /// Whether this start may promise anything.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.state.is_admitted()
    }

    /// Takes over whom this node heard, and when, from its Raft before another log took the place of its own. Without it the node
    /// would help anybody who asks in that moment to replace a leader that is there.
    pub fn succeed(&mut self, before: &Raft) {
        self.state.take_admission(&before.state);
        if self.state.term() != before.state.term() {
            return;
        }
        if let (Role::Follower(follower), Role::Follower(was)) = (&mut self.role, &before.role) {
            (follower.leader, follower.heard) = (was.leader, was.heard);
        }
        self.announce();
    }

    // Events.

    /// Time passed: to be called at [`Raft::next_deadline`] at the latest.
    pub fn handle_time(&mut self, now: Nanos) {
        if !self.begin_event(now) {
            return;
        }
        let state = &mut self.state;
        match &mut self.role {
            Role::Leader(leader) => leader.handle_time(state, now),
            Role::Follower(follower) if now >= follower.election_deadline => {
                // Long past the deadline this node did not run, and what its leader sent may be waiting to be read.
                let late = now > follower.election_deadline.saturating_add(state.config.heartbeat_interval);
                if late && !follower.overslept {
                    follower.overslept = true;
                    follower.election_deadline = now.saturating_add(state.draw_retry());
                } else {
                    self.become_pre_candidate(now);
                }
            }
            Role::PreCandidate(candidate) if now >= candidate.retry_deadline => self.retry_pre_votes(now),
            Role::Candidate(candidate) if now >= candidate.deadline => {
                if state.vote_is_saved() {
                    self.become_pre_candidate(now);
                } else {
                    // Its own disk is slow; another term would not make it faster.
                    candidate.deadline = now.saturating_add(state.draw_election_timeout());
                }
            }
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    /// When [`Raft::handle_time`] must be called at the latest; the end of time where nothing is waited for.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.state.stopped {
            return Nanos(u64::MAX);
        }
        match &self.role {
            Role::Follower(follower) => follower.election_deadline,
            Role::PreCandidate(candidate) => candidate.retry_deadline,
            Role::Candidate(candidate) => candidate.deadline,
            Role::Leader(leader) => leader.next_deadline(),
        }
    }

    /// A message arrived from `from`, which the connection has identified.
    pub fn handle_message(&mut self, now: Nanos, from: NodeId, message: Message) {
        if !self.begin_event(now) || from == self.state.id() {
            return;
        }
        let Message { term, body } = message;
        if let Body::PreVoteRequest { last } = body {
            self.handle_pre_vote_request(now, from, term, last);
            return;
        }
        if let Body::PreVoteReply { granted: true } = body {
            self.handle_pre_vote_grant(now, from, term);
            return;
        }
        if term > self.state.term() {
            if matches!(body, Body::VoteRequest { transfer: false, .. }) && self.hears_leader(now) {
                return;
            }
            self.enter_term(now, term);
        } else if term < self.state.term() {
            self.answer_passed_term(from, &body);
            return;
        }
        self.handle_current(now, from, body);
    }

    /// The own log is durable up to `token`.
    pub fn handle_appended(&mut self, now: Nanos, token: Token) {
        if !self.begin_event(now) {
            return;
        }
        self.state.durability.complete(token);
        if let Role::Leader(leader) = &mut self.role {
            leader.handle_durable(&mut self.state, now);
        }
    }

    /// Term and vote are durable.
    pub fn handle_vote_saved(&mut self, now: Nanos, vote: Vote) {
        if !self.begin_event(now) {
            return;
        }
        self.state.handle_vote_saved(vote);
        self.count_own_vote(now);
    }

    /// The connection to a peer broke. `refused`: a new one was refused, so the peer's process is gone, which for a leader
    /// is as good as a long silence. Each node goes by its own evidence, so that a cut link disturbs nobody.
    pub fn handle_peer_lost(&mut self, now: Nanos, peer: NodeId, refused: bool) {
        if !self.begin_event(now) {
            return;
        }
        match &mut self.role {
            Role::Leader(leader) => leader.handle_peer_lost(peer),
            Role::Follower(follower) if refused && follower.leader == Some(peer) => {
                follower.heard = None;
                if self.may_campaign() {
                    // Not all at the same moment: the others see the same.
                    let soon =
                        self.state.random.between(Nanos::ZERO, Nanos(self.state.config.heartbeat_interval.0 / 4));
                    self.hasten_election(now.saturating_add(soon));
                }
            }
            _ => {}
        }
    }

    /// A connection to a peer was made.
    pub fn handle_peer_up(&mut self, now: Nanos, peer: NodeId) {
        if !self.begin_event(now) || peer == self.state.id() {
            return;
        }
        self.state.note_admitted_by(peer);
        match &mut self.role {
            Role::Leader(leader) => leader.handle_peer_up(&mut self.state, now, peer),
            _ => self.ask_again(peer),
        }
    }

    /// The peer was started anew, or is never to be counted on again: what it acknowledged before it may have forgotten.
    pub fn handle_peer_restarted(&mut self, now: Nanos, peer: NodeId) {
        if !self.begin_event(now) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.handle_peer_restarted(&self.state, peer);
        }
    }

    // Commands.

    /// Takes an entry into the leader's log. Its position must be the next one, in the current term.
    pub fn propose(&mut self, now: Nanos, meta: EntryMeta) -> Result<(), NotLeader> {
        if !self.begin_event(now) {
            return Err(NotLeader);
        }
        match &mut self.role {
            Role::Leader(leader) if leader.transfer.is_none() => {
                leader.propose(&mut self.state, now, meta);
                Ok(())
            }
            _ => Err(NotLeader),
        }
    }

    /// Asks from which index on a state holds everything that is acknowledged by now. Answered by `Effect::ReadReady`
    /// or `Effect::ReadLost` with the same number.
    pub fn request_read(&mut self, now: Nanos, read: u64) {
        let running = self.begin_event(now);
        match &mut self.role {
            Role::Leader(leader) if running => leader.request_read(&mut self.state, now, read),
            _ => self.state.effects.push_back(Effect::ReadLost { read }),
        }
    }

    /// Hands leadership to `to`, or to the voter that has most of the log. No entries are taken while it lasts: until
    /// another leads, or an election timeout has passed.
    pub fn transfer(&mut self, now: Nanos, to: Option<NodeId>) -> Result<(), TransferRefused> {
        if !self.begin_event(now) {
            return Err(TransferRefused::NotLeader);
        }
        match &mut self.role {
            Role::Leader(leader) => leader.transfer(&mut self.state, now, to),
            _ => Err(TransferRefused::NotLeader),
        }
    }

    /// Gives up leadership at once, because this node can't keep its promises (its disk stalls): the best successor is
    /// asked to begin, and nothing is waited for.
    pub fn step_down(&mut self, now: Nanos) {
        if !self.begin_event(now) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.hand_over_at_once(&mut self.state, now);
            self.become_follower(now, None);
        }
    }

    /// The next effect; effects are begun in this order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.state.effects.is_empty()
            && !self.state.stopped
            && let Role::Leader(leader) = &mut self.role
        {
            // Only now, because an entry that was proposed since carries the commit index as well.
            leader.send_due_notices(&mut self.state);
        }
        self.state.effects.pop_front()
    }

    // What there is to know.

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.state.id()
    }

    #[must_use]
    pub fn term(&self) -> Term {
        self.state.term()
    }

    /// Current term and vote, durable or not.
    #[must_use]
    pub fn vote(&self) -> Vote {
        self.state.vote
    }

    /// The leader of the current term, if it is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.state.id()),
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    #[must_use]
    pub fn role(&self) -> RoleName {
        match &self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether [`Raft::propose`] would take an entry.
    #[must_use]
    pub fn takes_entries(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_none())
    }

    #[must_use]
    pub fn last_position(&self) -> LogPosition {
        self.state.log.last()
    }

    /// Chain hash of the last entry, which the next one must name.
    #[must_use]
    pub fn last_chain(&self) -> ChainHash {
        self.state.log.last_chain()
    }

    #[must_use]
    pub fn committed(&self) -> Index {
        self.state.committed
    }

    /// Up to where the own log is durable.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.state.durability.durable()
    }

    /// The term that is durable here.
    #[must_use]
    pub fn saved_term(&self) -> Term {
        self.state.saved.term
    }

    #[must_use]
    pub fn log(&self) -> &Log {
        &self.state.log
    }

    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.state.membership
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.state.config
    }

    /// What the leader knows of the others; nothing where this node does not lead.
    pub fn progress(&self) -> impl Iterator<Item = PeerProgress> + '_ {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        };
        leader.into_iter().flat_map(|leader| leader.progress())
    }

    /// Forgets metadata up to `index`, which a snapshot covers. Followers that lack entries below it are behind.
    pub fn raise_floor(&mut self, index: Index) {
        assert!(index <= self.state.committed, "only what is committed may be forgotten");
        self.state.log.raise_floor(index);
    }

    // What messages of the current term, and of passed ones, come to.

    fn handle_current(&mut self, now: Nanos, from: NodeId, body: Body) {
        match body {
            // Requests and grants were taken whatever their term; a refusal only tells of the term, and holds for the
            // moment: the voter may lose its leader in the next.
            Body::PreVoteRequest { .. } | Body::PreVoteReply { .. } => {}
            Body::VoteRequest { last, .. } => self.handle_vote_request(now, from, last),
            Body::VoteReply { granted } => self.handle_vote_reply(now, from, granted),
            Body::Append { prev, entries, commit, round } => {
                let append = Append { prev, entries, commit, round };
                if append.is_well_formed(self.state.term()) && self.follow(now, from) {
                    handle_append(&mut self.state, from, append);
                }
            }
            Body::AppendAccepted { matched, round } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.handle_accepted(&mut self.state, now, from, matched, round);
                }
            }
            Body::AppendRejected { prev, hint, round } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.handle_rejected(&mut self.state, now, from, prev, hint, round);
                }
            }
            Body::TimeoutNow => self.handle_timeout_now(now),
        }
    }

    /// Who leads or stands in a passed term learns of the current one; otherwise a node that is ahead of everybody, but
    /// can't win, would never be let in again (faults E8). What else is said in a passed term is void.
    fn answer_passed_term(&mut self, from: NodeId, body: &Body) {
        match body {
            Body::Append { prev, round, .. } => {
                let hint = self.state.log.last_agreeable(*prev);
                self.state.send(from, Body::AppendRejected { prev: *prev, hint, round: *round });
            }
            Body::VoteRequest { .. } => self.state.send(from, Body::VoteReply { granted: false }),
            _ => {}
        }
    }
}
