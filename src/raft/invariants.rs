//! What must hold of one node between any two calls, of one node before and after a call, and of a whole group at any
//! moment. Tests and simulation check these after every step; production code never calls them.

use std::collections::BTreeMap;

use crate::raft::message::{EntryMeta, Vote};
use crate::raft::{Raft, Role};
use crate::types::{ChainHash, Index, LogPosition, Nanos, NodeId, Term};

/// An invariant that does not hold, told for whoever reads the failed run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node}: {what}")]
pub struct Broken {
    pub node: NodeId,
    pub what: String,
}

fn require(holds: bool, node: NodeId, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken { node, what: what() }) }
}

/// The invariants of one state.
pub fn check_node(raft: &Raft) -> Result<(), Broken> {
    check_log(raft)?;
    check_bearing(raft)
}

/// The invariants of one state, without a look at each entry of its log: a group's history looks at each once.
pub fn check_bearing(raft: &Raft) -> Result<(), Broken> {
    let (id, state) = (raft.id(), &raft.state);
    let broken = |what: &str| Broken { node: id, what: what.to_owned() };
    let (floor, last) = (state.log.floor(), state.log.last());
    require(floor.index <= state.committed, id, || "the log's floor is committed".to_owned())?;
    require(state.committed <= last.index, id, || "what is committed is in the log".to_owned())?;
    require(last.term <= state.term(), id, || "no entry is of a later term than the current".to_owned())?;
    require(state.saved.term <= state.term(), id, || "what is saved is not ahead of what is".to_owned())?;
    state.durability.check(last.index).map_err(broken)?;
    match &raft.role {
        Role::Leader(leader) => {
            let own = Vote { term: state.term(), voted_for: Some(id) };
            require(state.saved == own, id, || "a leader's vote for itself is durable".to_owned())?;
            for peer in &leader.peers {
                peer.check(last.index).map_err(|what| broken(&format!("of follower {}: {what}", peer.node)))?;
            }
        }
        Role::Candidate(_) => {
            require(state.vote.voted_for == Some(id), id, || "a candidate votes for itself".to_owned())?;
        }
        Role::Follower(follower) => {
            require(follower.leader != Some(id), id, || "nobody follows itself".to_owned())?;
        }
        Role::PreCandidate(_) => {}
    }
    Ok(())
}

fn check_log(raft: &Raft) -> Result<(), Broken> {
    let mut before = raft.log().floor();
    for meta in raft.log().iter() {
        check_follows(raft, before, meta)?;
        before = meta.position;
    }
    Ok(())
}

fn check_follows(raft: &Raft, before: LogPosition, meta: &EntryMeta) -> Result<(), Broken> {
    let follows = meta.position.index == before.index.next() && meta.position.term >= before.term;
    require(follows, raft.id(), || format!("entry {} follows {before}", meta.position))
}

/// What a later state of the same node is compared with. A restart begins a new comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    vote: Vote,
    saved: Vote,
    committed: Index,
    committed_chain: ChainHash,
    leads: bool,
    last: LogPosition,
    last_chain: ChainHash,
}

impl Observed {
    #[must_use]
    pub fn of(raft: &Raft) -> Observed {
        let committed = raft.committed();
        Observed {
            vote: raft.vote(),
            saved: raft.state.saved,
            committed,
            committed_chain: raft.log().chain_at(committed).expect("what is committed is at or above the floor"),
            leads: raft.is_leader(),
            last: raft.last_position(),
            last_chain: raft.last_chain(),
        }
    }
}

/// The invariants of two consecutive states.
pub fn check_step(before: &Observed, after: &Raft) -> Result<(), Broken> {
    let (id, vote) = (after.id(), after.vote());
    require(vote.term >= before.vote.term, id, || "terms only ascend".to_owned())?;
    if vote.term == before.vote.term && before.vote.voted_for.is_some() {
        require(vote == before.vote, id, || "a vote is given once in a term".to_owned())?;
    }
    require(after.state.saved.term >= before.saved.term, id, || "saved terms only ascend".to_owned())?;
    require(after.committed() >= before.committed, id, || "what is committed stays committed".to_owned())?;
    // The chain hash of an entry stands for all entries up to it.
    if let Some(chain) = after.log().chain_at(before.committed) {
        require(chain == before.committed_chain, id, || format!("entry {} changed after commit", before.committed))?;
    }
    if before.leads && after.is_leader() && vote.term == before.vote.term {
        // Raft 5.4.2, figure 8: what is of an earlier term commits only together with what is of the leader's own.
        let counted = after.committed() > before.committed;
        let own = after.log().term_at(after.committed()) == Some(vote.term);
        require(!counted || own, id, || format!("leads term {} and counted {}", vote.term, after.committed()))?;
        let kept = after.log().chain_at(before.last.index);
        let kept = kept.is_none_or(|chain| chain == before.last_chain) && after.last_position() >= before.last;
        require(kept, id, || "a leader only appends".to_owned())?;
    }
    Ok(())
}

/// Until when, on its own clock, this node helps nobody to replace the leader that it hears; none where it hears none.
#[must_use]
pub fn hears_leader_until(raft: &Raft) -> Option<Nanos> {
    match &raft.role {
        Role::Leader(_) => Some(Nanos(u64::MAX)),
        Role::Follower(follower) => Some(follower.heard?.saturating_add(raft.state.config.election_timeout_min)),
        Role::PreCandidate(_) | Role::Candidate(_) => None,
    }
}

/// Whether it seeks to be elected, and no leader asked it to.
#[must_use]
pub fn stands_by_itself(raft: &Raft) -> bool {
    matches!(&raft.role, Role::Candidate(candidate) if !candidate.transfer)
}

/// What a whole group has shown so far. Knows every leader and every committed entry that ever was, so it also notices
/// what no single moment shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct GroupHistory {
    leaders: BTreeMap<Term, NodeId>,
    committed: BTreeMap<Index, (LogPosition, ChainHash)>,
    /// Each entry that any node ever held, by position: log matching is that there is one chain hash for it.
    entries: BTreeMap<LogPosition, ChainHash>,
    checked: BTreeMap<NodeId, Checked>,
}

/// Up to where a node's log and commit index were looked at; only what is new is, next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Checked {
    last: LogPosition,
    last_chain: ChainHash,
    committed: Index,
}

impl GroupHistory {
    /// Takes the state of one node after a step, and checks it against everything seen so far: election safety, log
    /// matching, leader completeness and state machine safety (Raft figure 3).
    pub fn observe(&mut self, raft: &Raft) -> Result<(), Broken> {
        check_node(raft)?;
        self.observe_from_outside(raft)
    }

    /// As `observe`, without the invariants of the node itself.
    pub fn observe_from_outside(&mut self, raft: &Raft) -> Result<(), Broken> {
        self.observe_leader(raft)?;
        self.observe_log(raft)?;
        self.observe_committed(raft)?;
        let (last, last_chain, committed) = (raft.last_position(), raft.last_chain(), raft.committed());
        self.checked.insert(raft.id(), Checked { last, last_chain, committed });
        Ok(())
    }

    /// The node starts again: what it had only in memory is gone.
    pub fn forget(&mut self, node: NodeId) {
        self.checked.remove(&node);
    }

    /// Everything that was ever committed, by any node's word.
    pub fn committed(&self) -> impl DoubleEndedIterator<Item = (LogPosition, ChainHash)> + '_ {
        self.committed.values().copied()
    }

    fn observe_leader(&mut self, raft: &Raft) -> Result<(), Broken> {
        if !raft.is_leader() {
            return Ok(());
        }
        let (id, term) = (raft.id(), raft.term());
        match self.leaders.insert(term, id) {
            Some(leader) if leader == id => return Ok(()),
            Some(leader) => return require(false, id, || format!("leads term {term}, as {leader} did")),
            None => {}
        }
        for (position, chain) in self.committed.values().filter(|(position, _)| position.term < term) {
            let held = raft.log().chain_at(position.index);
            let below = position.index < raft.log().floor().index;
            require(below || held == Some(*chain), id, || format!("leads term {term} without committed {position}"))?;
        }
        Ok(())
    }

    fn observe_log(&mut self, raft: &Raft) -> Result<(), Broken> {
        let known = self.checked.get(&raft.id());
        let unchanged = known.filter(|known| raft.log().chain_at(known.last.index) == Some(known.last_chain));
        let from = unchanged.map_or(LogPosition::ORIGIN, |known| known.last);
        let new: Vec<EntryMeta> =
            raft.log().iter().rev().take_while(|meta| meta.position.index > from.index).copied().collect();
        let mut before = from.max(raft.log().floor());
        for meta in new.into_iter().rev() {
            check_follows(raft, before, &meta)?;
            before = meta.position;
            let chain = *self.entries.entry(meta.position).or_insert(meta.chain);
            require(chain == meta.chain, raft.id(), || format!("two different entries are {}", meta.position))?;
        }
        Ok(())
    }

    fn observe_committed(&mut self, raft: &Raft) -> Result<(), Broken> {
        let from = self.checked.get(&raft.id()).map_or(raft.log().floor().index, |known| known.committed);
        for index in from.0.max(raft.log().floor().index.0) + 1..=raft.committed().0 {
            let meta = raft.log().get(Index(index)).expect("what is committed above the floor is in the log");
            let (position, chain) = *self.committed.entry(meta.position.index).or_insert((meta.position, meta.chain));
            require((position, chain) == (meta.position, meta.chain), raft.id(), || {
                format!("committed {} where {position} was committed before", meta.position)
            })?;
        }
        Ok(())
    }
}
