//! Conditions of effects, kept as data: what may leave at once, what waits for the log, what waits for the vote.
//!
//! A leader may send before its own write is durable; a vote or an acknowledgement may not. That rule is the one
//! `match` below and nothing else.

use std::collections::VecDeque;

use crate::raft::message::{Message, Token, Vote, When};
use crate::types::NodeId;

/// Invariant: whatever is in here has not left the node.
#[derive(Debug, Default)]
pub struct Gate {
    durable: Token,
    voted: Vote,
    waiting: VecDeque<(When, NodeId, Message)>,
}

impl Gate {
    #[must_use]
    pub fn new(durable: Token, voted: Vote) -> Gate {
        Gate { durable, voted, waiting: VecDeque::new() }
    }

    fn is_open(&self, when: When) -> bool {
        match when {
            When::Now => true,
            // A later term's token covers an earlier term's only through its index: an append of term 3 says nothing
            // about what term 2 wrote above it.
            When::Durable(token) => self.durable.term >= token.term && self.durable.index >= token.index,
            When::Voted(vote) => self.voted == vote || self.voted.term > vote.term,
        }
    }

    /// Gives the message back if it may leave now; keeps it otherwise.
    #[must_use]
    pub fn pass(&mut self, when: When, to: NodeId, message: Message) -> Option<Message> {
        if self.is_open(when) {
            return Some(message);
        }
        self.waiting.push_back((when, to, message));
        None
    }

    pub fn handle_durable(&mut self, token: Token) -> Vec<(NodeId, Message)> {
        self.durable = token;
        self.release()
    }

    pub fn handle_voted(&mut self, vote: Vote) -> Vec<(NodeId, Message)> {
        self.voted = vote;
        self.release()
    }

    /// Entries above `index` are being dropped: the durable mark is lowered before anything else happens (R1).
    pub fn lower_durable(&mut self, token: Token) {
        self.durable = token;
    }

    fn release(&mut self) -> Vec<(NodeId, Message)> {
        let (open, shut): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(when, _, _)| self.is_open(*when));
        self.waiting = shut;
        // What a later term overtook can never be true again; its receivers ask anew.
        let (durable, voted) = (self.durable.term, self.voted.term);
        self.waiting.retain(|(when, _, _)| match when {
            When::Now => false,
            When::Durable(token) => token.term >= durable,
            When::Voted(vote) => vote.term >= voted,
        });
        open.into_iter().map(|(_, to, message)| (to, message)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::Body;
    use crate::types::{Index, Term};

    fn message(term: u64) -> Message {
        Message { term: Term(term), body: Body::TimeoutNow }
    }

    fn token(term: u64, index: u64) -> Token {
        Token { term: Term(term), index: Index(index) }
    }

    #[test]
    fn an_acknowledgement_waits_for_its_own_append_and_not_for_an_overwritten_one() {
        let mut gate = Gate::default();
        assert!(gate.pass(When::Durable(token(2, 5)), NodeId(1), message(2)).is_none());
        assert!(gate.handle_durable(token(1, 9)).is_empty());
        assert_eq!(gate.handle_durable(token(2, 5)).len(), 1);
        assert!(gate.handle_durable(token(2, 6)).is_empty());
    }

    #[test]
    fn a_vote_leaves_only_when_that_vote_is_durable() {
        let mut gate = Gate::default();
        let vote = Vote { term: Term(3), voted_for: Some(NodeId(2)) };
        assert!(gate.pass(When::Voted(vote), NodeId(2), message(3)).is_none());
        assert!(gate.handle_voted(Vote { term: Term(3), voted_for: None }).is_empty());
        assert_eq!(gate.handle_voted(vote), vec![(NodeId(2), message(3))]);
    }

    #[test]
    fn what_has_no_condition_passes_at_once() {
        assert!(Gate::default().pass(When::Now, NodeId(2), message(1)).is_some());
    }
}
