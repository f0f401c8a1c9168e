//! Nobody disturbs a leader that a majority hears (Raft thesis 9.6; faults E1 and E2): a node stands for election only when
//! enough others to make a majority with it may have heard no leader since it first asked for their pre-votes.
//!
//! Judged by what each node knew at the end of each of its turns, so it errs on the side of the node: whoever may have
//! lost its leader for a moment counts as having lost it. So does whoever came to another term, for a leader may have resigned
//! in the same turn, and have helped another, before it heard of its successor.

use std::collections::BTreeMap;

use crate::raft::Raft;
use crate::raft::RoleName;
use crate::raft::invariants::{hears_leader_until, stands_by_itself};
use crate::raft::quorum::majority;
use crate::types::{Nanos, NodeId, Term};

#[derive(Debug, Default)]
pub struct Stability {
    nodes: BTreeMap<NodeId, Seen>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// On the node's own clock; none: it hears no leader.
    hears_until: Option<Nanos>,
    term: Term,
    /// When it last may have heard no leader.
    deaf_at: Nanos,
    /// When it first asked for pre-votes in its present term.
    asked: Option<(Term, Nanos)>,
    stands_in: Option<Term>,
}

impl Stability {
    /// The node's memory is gone, and with it whom it heard.
    pub fn forget(&mut self, node: NodeId, now: Nanos) {
        self.nodes.insert(node, Seen { deaf_at: now, ..Seen::default() });
    }

    /// Looks at a node at the end of a turn: `local` is the turn's time on its own clock, `now` the true time.
    ///
    /// # Errors
    /// What it did that it should not have done.
    pub fn observe(&mut self, raft: &Raft, local: Nanos, now: Nanos) -> Result<(), String> {
        let (node, term) = (raft.id(), raft.term());
        let seen = self.nodes.entry(node).or_insert(Seen { deaf_at: now, ..Seen::default() });
        let heard_all_along = seen.term == term && seen.hears_until.is_some_and(|until| local < until);
        seen.term = term;
        seen.hears_until = hears_leader_until(raft);
        if !heard_all_along || seen.hears_until.is_none() {
            seen.deaf_at = now;
        }
        if raft.role() == RoleName::PreCandidate && seen.asked.is_none_or(|(asked, _)| asked != term) {
            seen.asked = Some((term, now));
        }
        if !stands_by_itself(raft) || seen.stands_in == Some(term) {
            return Ok(());
        }
        seen.stands_in = Some(term);
        let asked = seen.asked.filter(|(asked, _)| asked.next() == term);
        let Some((_, since)) = asked else { return Ok(()) };
        let voters = raft.membership().members().into_iter().filter(|voter| raft.membership().is_voter(*voter));
        let voters: Vec<NodeId> = voters.collect();
        let may_have_agreed =
            |voter: &&NodeId| **voter == node || self.nodes.get(voter).is_none_or(|seen| seen.deaf_at >= since);
        let agreed = voters.iter().filter(may_have_agreed).count();
        if agreed < majority(voters.len()) {
            return Err(format!("node {node} stands in term {term}, though a majority hears its leader all along"));
        }
        Ok(())
    }
}
