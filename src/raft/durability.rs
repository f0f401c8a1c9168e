//! What of the own log is durable. An append that was overwritten while its write was under way must never count,
//! and must never keep a later one from counting (faults R1 and R2).

use std::collections::VecDeque;

use crate::mutation::{self, Mutation};
use crate::raft::message::Token;
use crate::types::{Index, Term};

/// Appends are begun and completed in order, so a completed one completes all before it. Tokens ascend strictly:
/// within a term a log only grows behind its one possible cut, and a later term is a larger token.
///
/// Invariants: `durable` and the `proves` of the pending appends ascend; none is above the end of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Durability {
    durable: Index,
    pending: VecDeque<PendingAppend>,
    /// Of the append that was begun last, in this life.
    newest: Token,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PendingAppend {
    token: Token,
    /// What its completion proves: `token.index`, or less once a cut has taken a part of it back.
    proves: Index,
}

impl Durability {
    /// At a start everything that recovery found is durable.
    pub(super) fn new(durable: Index) -> Durability {
        Durability { durable, pending: VecDeque::new(), newest: Token::default() }
    }

    /// Whether a cut behind `kept` in `term` would take back what the leader of this very term brought, which none does.
    pub(super) fn is_taken_back(&self, kept: Index, term: Term) -> bool {
        self.newest.term == term && kept < self.newest.index
    }

    pub(super) fn durable(&self) -> Index {
        self.durable
    }

    /// The log above `index` is being replaced: neither what was durable there nor what is on its way counts.
    pub(super) fn cut(&mut self, index: Index) {
        self.durable = self.durable.min(index);
        if mutation::is_on(Mutation::LateCompletion) {
            return;
        }
        for append in self.pending.iter_mut().rev().take_while(|append| append.proves > index) {
            append.proves = index;
        }
    }

    pub(super) fn begin(&mut self, token: Token) {
        assert!(token > self.newest, "tokens ascend");
        self.newest = token;
        self.pending.push_back(PendingAppend { token, proves: token.index });
    }

    /// Takes a completion. One of an append that is not pending (a repeat) changes nothing.
    pub(super) fn complete(&mut self, token: Token) {
        while self.pending.front().is_some_and(|append| append.token <= token) {
            let append = self.pending.pop_front().expect("seen just now");
            self.durable = self.durable.max(append.proves);
        }
    }

    /// The first append whose completion makes `index` durable; none if it is durable already.
    pub(super) fn token_for(&self, index: Index) -> Option<Token> {
        if index <= self.durable {
            return None;
        }
        let place = self.pending.partition_point(|append| append.proves < index);
        let append = self.pending.get(place).expect("what is in the log is durable or on its way");
        Some(append.token)
    }

    pub(super) fn check(&self, last: Index) -> Result<(), &'static str> {
        let reach = self.pending.back().map_or(self.durable, |append| append.proves.max(self.durable));
        if reach != last {
            return Err("everything in the log is durable or on its way, and nothing beyond it");
        }
        let proofs = self.pending.iter().map(|append| append.proves);
        if !proofs.clone().zip(proofs.skip(1)).all(|(one, next)| one <= next) {
            return Err("appends prove ascending indexes");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(term: u64, index: u64) -> Token {
        Token { term: Term(term), index: Index(index) }
    }

    #[test]
    fn r1_a_cut_lowers_the_durable_mark_at_once() {
        let mut durability = Durability::new(Index(5));
        durability.cut(Index(3));
        assert_eq!(durability.durable(), Index(3));
    }

    #[test]
    fn r2_a_late_completion_of_an_overwritten_append_proves_only_what_was_kept_of_it() {
        let mut durability = Durability::new(Index(1));
        durability.begin(token(1, 3));
        durability.cut(Index(2));
        durability.begin(token(2, 3));
        durability.complete(token(1, 3));
        assert_eq!(durability.durable(), Index(2));
        assert_eq!(durability.token_for(Index(3)), Some(token(2, 3)));
        durability.complete(token(2, 3));
        assert_eq!(durability.durable(), Index(3));
    }

    #[test]
    fn a_completion_covers_all_appends_before_it_and_repeats_change_nothing() {
        let mut durability = Durability::new(Index(0));
        for index in 1..=4 {
            durability.begin(token(1, index));
        }
        assert_eq!(durability.token_for(Index(2)), Some(token(1, 2)));
        durability.complete(token(1, 3));
        durability.complete(token(1, 1));
        assert_eq!(durability.durable(), Index(3));
        assert_eq!(durability.token_for(Index(3)), None);
        assert_eq!(durability.token_for(Index(4)), Some(token(1, 4)));
    }
}
