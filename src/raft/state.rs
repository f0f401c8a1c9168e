//! What a node has in every role (Raft figure 2: term, vote, log, commit index), and the effects it asks for. Here
//! stands which message waits for what: nothing that promises something may leave before the promise is durable.

use std::collections::{BTreeSet, VecDeque};

use crate::mutation::{self, Mutation};
use crate::raft::config::Config;
use crate::raft::durability::Durability;
use crate::raft::log::Log;
use crate::raft::membership::Membership;
use crate::raft::message::{Body, Effect, EntryMeta, Message, StopReason, Token, Vote, When};
use crate::raft::quorum::Tally;
use crate::raft::random::Random;
use crate::types::{Index, Nanos, NodeId, Term};

/// Invariants: `saved` is never ahead of `vote`; `committed` is at or above the log's floor and not above its end;
/// the last entry's term is at most `vote.term`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) membership: Membership,
    /// Current term and vote.
    pub(super) vote: Vote,
    /// The newest that is durable of them.
    pub(super) saved: Vote,
    pub(super) log: Log,
    pub(super) committed: Index,
    pub(super) durability: Durability,
    pub(super) random: Random,
    pub(super) effects: VecDeque<Effect>,
    /// Acknowledgements of appends that wait for their term to be durable; see [`State::acknowledge`].
    held: Vec<Acknowledgement>,
    /// Who has admitted this start of the node, while it waits for that; none once they are enough.
    admission: Option<BTreeSet<NodeId>>,
    /// A fault outside of Raft was found: nothing is decided any more.
    pub(super) stopped: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Acknowledgement {
    to: NodeId,
    matched: Index,
    round: u64,
}

impl State {
    pub(super) fn new(
        config: Config,
        membership: Membership,
        vote: Vote,
        log: Log,
        committed: Index,
        seed: u64,
    ) -> State {
        // A commit index that was written down may be ahead of a log that lost its unsynced end (R15), or behind its floor.
        let durable = log.last().index;
        let committed = committed.clamp(log.floor().index, durable);
        let mut state = State {
            config,
            membership,
            vote,
            saved: vote,
            log,
            committed,
            durability: Durability::new(durable),
            random: Random::new(seed),
            effects: VecDeque::new(),
            held: Vec::new(),
            admission: None,
            stopped: false,
        };
        // Entries may be durable before the term that brought them is: no promise was made in between.
        let log_term = state.log.last().term;
        if log_term > vote.term {
            state.enter_term(log_term);
        }
        state
    }

    /// From now on nothing is promised before a majority knows of this start, the node itself included: whoever starts on
    /// an older image of the disk would promise what contradicts what it has forgotten.
    pub(super) fn await_admission(&mut self) {
        self.admission = Some(BTreeSet::new());
        self.note_admitted_by(self.id());
    }

    pub(super) fn note_admitted_by(&mut self, node: NodeId) {
        let Some(admitted_by) = &mut self.admission else { return };
        admitted_by.insert(node);
        let admits = |node| (node == self.config.id || admitted_by.contains(&node)).then_some(true);
        if self.membership.tally(admits) == Tally::Won {
            self.admission = None;
        }
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.admission.is_none() || mutation::is_on(Mutation::UnadmittedStartPromises)
    }

    pub(super) fn take_admission(&mut self, before: &State) {
        self.admission.clone_from(&before.admission);
    }

    pub(super) fn id(&self) -> NodeId {
        self.config.id
    }

    pub(super) fn term(&self) -> Term {
        self.vote.term
    }

    pub(super) fn enter_term(&mut self, term: Term) {
        assert!(term > self.vote.term, "terms only ascend");
        self.set_vote(Vote { term, voted_for: None });
        // The leader of a passed term has no use for them.
        self.held.clear();
    }

    pub(super) fn vote_for(&mut self, candidate: NodeId) {
        if self.vote.voted_for == Some(candidate) {
            return;
        }
        assert_eq!(self.vote.voted_for, None, "a vote is given once in a term");
        self.set_vote(Vote { term: self.vote.term, voted_for: Some(candidate) });
    }

    /// Two changes in one event are one write: entering a term and voting in it.
    fn set_vote(&mut self, vote: Vote) {
        self.vote = vote;
        let not_begun = self.effects.iter_mut().find_map(|effect| match effect {
            Effect::SaveVote(earlier) => Some(earlier),
            _ => None,
        });
        match not_begun {
            Some(earlier) => *earlier = vote,
            None => self.effects.push_back(Effect::SaveVote(vote)),
        }
    }

    pub(super) fn handle_vote_saved(&mut self, vote: Vote) {
        let newer = (vote.term, vote.voted_for.is_some()) > (self.saved.term, self.saved.voted_for.is_some());
        if newer {
            self.saved = vote;
        }
        if self.term_is_saved() {
            for held in std::mem::take(&mut self.held) {
                self.acknowledge(held.to, held.matched, held.round);
            }
        }
    }

    pub(super) fn term_is_saved(&self) -> bool {
        self.saved.term == self.vote.term
    }

    pub(super) fn vote_is_saved(&self) -> bool {
        self.saved == self.vote
    }

    /// Sends in the current term. Who hears of a term may rely on it, so it is durable first.
    pub(super) fn send(&mut self, to: NodeId, body: Body) {
        let when = if self.term_is_saved() { When::Now } else { When::Voted(self.vote) };
        self.send_when(to, body, when);
    }

    /// Sends what speaks of this node's vote: a grant, or a request that contains the vote for itself.
    pub(super) fn send_when_voted(&mut self, to: NodeId, body: Body) {
        let is_safe = self.vote_is_saved() || mutation::is_on(Mutation::VoteBeforeDurable);
        let when = if is_safe { When::Now } else { When::Voted(self.vote) };
        self.send_when(to, body, when);
    }

    /// Tells a leader that the log matches its own up to `matched`, once that much is durable.
    ///
    /// The term must be durable too: a node that forgot it could follow a leader of an earlier term again and
    /// overwrite what it acknowledged here. An effect has one condition, so this one is awaited first.
    pub(super) fn acknowledge(&mut self, to: NodeId, matched: Index, round: u64) {
        if !self.is_admitted() {
            // The leader asks again with its next heartbeat.
            return;
        }
        if !self.term_is_saved() {
            self.held.push(Acknowledgement { to, matched, round });
            return;
        }
        let when = self.durability.token_for(matched).map_or(When::Now, When::Durable);
        self.send_when(to, Body::AppendAccepted { matched, round }, when);
    }

    fn send_when(&mut self, to: NodeId, body: Body, when: When) {
        let message = Message { term: self.vote.term, body };
        self.effects.push_back(Effect::Send { to, message, when });
    }

    /// A message that promises nothing and may name another term than the current one.
    pub(super) fn send_unconditionally(&mut self, to: NodeId, message: Message) {
        self.effects.push_back(Effect::Send { to, message, when: When::Now });
    }

    /// Takes entries into the log, behind `truncate_after` where the log has others.
    pub(super) fn append(&mut self, truncate_after: Option<Index>, entries: Vec<EntryMeta>) {
        if let Some(kept) = truncate_after {
            assert!(kept >= self.committed, "committed entries are never replaced");
            self.log.truncate_after(kept);
            if !mutation::is_on(Mutation::StaleDurableMark) {
                self.durability.cut(kept);
            }
        }
        for meta in &entries {
            assert!(meta.position.term <= self.vote.term, "no entry is of a term that has not begun");
            self.log.append(*meta);
        }
        let token = Token { term: self.vote.term, index: self.log.last().index };
        self.durability.begin(token);
        self.effects.push_back(Effect::Append { truncate_after, entries, token });
    }

    /// Moves the commit index up; a smaller one is old news.
    pub(super) fn commit(&mut self, index: Index) -> bool {
        if index <= self.committed {
            return false;
        }
        assert!(index <= self.log.last().index, "only entries that are in the log commit");
        self.committed = index;
        self.effects.push_back(Effect::Commit(index));
        true
    }

    pub(super) fn stop(&mut self, reason: StopReason) {
        self.stopped = true;
        self.effects.push_back(Effect::Stop(reason));
    }

    /// How long a follower waits for its leader, from its last sign on.
    pub(super) fn draw_election_timeout(&mut self) -> Nanos {
        self.random.between(self.config.election_timeout_min, self.config.election_timeout_max)
    }

    /// How long until a pre-vote is asked again. Shorter than an election timeout, because asking disturbs nobody.
    pub(super) fn draw_retry(&mut self) -> Nanos {
        let interval = self.config.heartbeat_interval.0;
        self.random.between(Nanos(interval / 2), Nanos(interval.saturating_add(interval / 2)))
    }
}
