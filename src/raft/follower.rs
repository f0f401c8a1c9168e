//! What a follower does with an append: find out whether its log holds what the leader's held before, take over what is
//! new, and say so. It never gives up an entry before it has seen another one in its place.

use crate::mutation::{self, Mutation};
use crate::raft::message::{Body, EntryMeta, StopReason};
use crate::raft::state::State;
use crate::types::{Index, LogPosition, Nanos, NodeId, Term};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Follower {
    /// The leader of the current term, once it has been heard.
    pub(super) leader: Option<NodeId>,
    /// When the leader was last heard; none where there is evidence that it is gone.
    pub(super) heard: Option<Nanos>,
    pub(super) election_deadline: Nanos,
    /// The deadline passed unseen once, because this node did not run; see `Raft::handle_time`.
    pub(super) overslept: bool,
}

/// What a leader says in an append.
pub(super) struct Append {
    pub(super) prev: LogPosition,
    pub(super) entries: Vec<EntryMeta>,
    pub(super) commit: Index,
    pub(super) round: u64,
}

impl Append {
    /// Whether it could come from a leader of `term`: entries right behind each other, terms in order.
    pub(super) fn is_well_formed(&self, term: Term) -> bool {
        let mut before = self.prev;
        for meta in &self.entries {
            let follows = before.index.0.checked_add(1) == Some(meta.position.index.0);
            if !follows || meta.position.term < before.term {
                return false;
            }
            before = meta.position;
        }
        before.term <= term && (self.prev.index == Index::ZERO) == (self.prev.term == Term::ZERO)
    }
}

/// Takes an append of the current term's leader.
pub(super) fn handle_append(state: &mut State, leader: NodeId, append: Append) {
    let Append { prev, entries, commit, round } = append;
    match agreement(state, prev) {
        Agreement::Agrees => {}
        Agreement::Unknown => {
            // What is committed here is in every leader's log, so it need not be searched below that.
            let committed = state.log.position_at(state.committed).expect("what is committed is at or above the floor");
            let hint = state.log.last_agreeable(prev).max(committed);
            state.send(leader, Body::AppendRejected { prev, hint, round });
            return;
        }
        Agreement::Impossible => {
            state.stop(StopReason::CommittedConflict { position: prev, commit: state.committed });
            return;
        }
    }
    let matched = entries.last().map_or(prev.index, |meta| meta.position.index);
    match take_over(state, entries) {
        Ok(true) => {}
        Ok(false) => return,
        Err(reason) => return state.stop(reason),
    }
    // Only what was compared with the leader's log is known to be what the leader calls committed (R12).
    state.commit(commit.min(matched));
    state.acknowledge(leader, matched, round);
}

enum Agreement {
    Agrees,
    /// The log has nothing at that index, or something else.
    Unknown,
    /// Something else is committed here.
    Impossible,
}

fn agreement(state: &State, prev: LogPosition) -> Agreement {
    match state.log.term_at(prev.index) {
        Some(term) if term == prev.term => Agreement::Agrees,
        Some(_) if prev.index <= state.committed => Agreement::Impossible,
        // Below the floor everything is committed, and so the same as the leader's.
        None if prev.index < state.log.floor().index => Agreement::Agrees,
        _ => Agreement::Unknown,
    }
}

/// Takes what is new in `entries`, which follow on a position that agrees. Old entries go only from the first that
/// differs on: a late or repeated append must not take back what a newer one brought (R6). False where they cannot be
/// taken yet.
fn take_over(state: &mut State, mut entries: Vec<EntryMeta>) -> Result<bool, StopReason> {
    let mut known = 0;
    for theirs in &entries {
        if theirs.position.index <= state.log.floor().index {
            known += 1;
            continue;
        }
        let Some(ours) = state.log.get(theirs.position.index) else { break };
        if ours.position.term != theirs.position.term {
            break;
        }
        if ours.chain != theirs.chain {
            let (position, ours, theirs) = (ours.position, ours.chain, theirs.chain);
            return Err(StopReason::ChainConflict { position, ours, theirs });
        }
        known += 1;
    }
    if mutation::is_on(Mutation::StaleAppendCuts) {
        known = 0;
    }
    let Some(first_new) = entries.get(known) else { return Ok(true) };
    let kept = first_new.position.index.prev().expect("entries have indexes above zero");
    let replaces = kept < state.log.last().index;
    if replaces && kept < state.committed {
        return Err(StopReason::CommittedConflict { position: first_new.position, commit: state.committed });
    }
    if let Some(ours) = state.log.get(first_new.position.index)
        && state.durability.is_taken_back(kept, state.term())
    {
        // A leader's log only grows while it leads: it sent both, or one was sent in its name.
        let (position, ours) = (ours.position, ours.chain);
        return Err(StopReason::ChainConflict { position, ours, theirs: first_new.chain });
    }
    if replaces && !state.term_is_saved() {
        // What was acknowledged in an earlier term may go only when this node can prove that a later one has begun: else,
        // after a crash, it would seem to have forgotten it. The leader sends this again.
        return Ok(false);
    }
    entries.drain(..known);
    state.append(replaces.then_some(kept), entries);
    Ok(true)
}
