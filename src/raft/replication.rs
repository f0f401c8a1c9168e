//! Sending the log to one follower. An append carries the log right behind a position that the follower must have; how
//! far ahead of its answers the leader may run is a matter of `progress`.
//!
//! Three kinds of append leave here, and only the first waits for room in the window:
//! - with entries, each behind the one before;
//! - heartbeats, which speak only of what the follower acknowledged, so that they hold whatever they overtake, or of the
//!   floor, where the follower is behind it;
//! - notices of a new commit index, sent at once where no append with entries carries it.

use crate::raft::message::Body;
use crate::raft::progress::{Progress, ProgressState};
use crate::raft::state::State;
use crate::types::{Index, LogPosition, Nanos};

/// The rounds of one leadership: every append gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Rounds(u64);

impl Rounds {
    pub(super) fn new() -> Rounds {
        Rounds(0)
    }

    /// The newest round that was sent.
    pub(super) fn newest(self) -> u64 {
        self.0
    }

    fn begin(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// Sends what the follower lacks, as far as there is room.
pub(super) fn replicate(peer: &mut Progress, rounds: &mut Rounds, state: &mut State, now: Nanos) {
    probe_above_floor(peer, *rounds, state);
    while peer.has_room(&state.config) {
        if peer.next() > state.log.last().index && peer.state() == ProgressState::Replicate {
            return;
        }
        let prev = position_before(peer.next(), state);
        let config = &state.config;
        let entries = state.log.slice(peer.next(), config.append_entries_max, config.append_bytes_max);
        let last = entries.last().map_or(prev.index, |meta| meta.position.index);
        let bytes = entries.iter().map(|meta| u64::from(meta.bytes)).sum();
        let round = rounds.begin();
        let commit = state.committed;
        state.send(peer.node, Body::Append { prev, entries, commit, round });
        peer.sent(now, last, bytes, round);
        peer.commit_told = commit;
    }
}

/// Asks a probed follower again, in case the probe or its answer was lost. Without entries: they may well be there.
pub(super) fn probe_again(peer: &mut Progress, rounds: &mut Rounds, state: &mut State) {
    probe_above_floor(peer, *rounds, state);
    let prev = position_before(peer.next(), state);
    let round = rounds.begin();
    state.send(peer.node, Body::Append { prev, entries: Vec::new(), commit: state.committed, round });
}

/// What is at the floor is the first that can be asked for.
fn probe_above_floor(peer: &mut Progress, rounds: Rounds, state: &State) {
    let floor = state.log.floor().index;
    if peer.next() <= floor && peer.state() != ProgressState::Behind {
        peer.become_probe(floor.next(), rounds.newest() + 1);
    }
}

/// Sends the last entry in flight once more, to learn whether all of them arrived. It travels as appends with entries
/// do, so it can't overtake them on a slow link.
pub(super) fn inquire(peer: &mut Progress, rounds: &mut Rounds, state: &mut State, now: Nanos) {
    let newest = peer.next().prev().expect("what is in flight has an index above zero");
    if newest <= state.log.floor().index {
        return replicate(peer, rounds, state, now);
    }
    let prev = position_before(newest, state);
    let entries = state.log.slice(newest, 1, 0);
    let round = rounds.begin();
    state.send(peer.node, Body::Append { prev, entries, commit: state.committed, round });
    peer.inquired(now, round);
}

/// Speaks of what the follower acknowledged; of the floor to one that is behind it, so that it can say when it no longer is.
/// The commit index is the leader's own, of which the follower believes what `prev` covers: the
/// rest tells it that it lacks entries, which it might not learn otherwise.
pub(super) fn heartbeat(peer: &Progress, rounds: &mut Rounds, state: &mut State) {
    let known = match peer.state() {
        ProgressState::Behind => state.log.floor().index,
        ProgressState::Probe { .. } | ProgressState::Replicate => peer.matched(),
    };
    let prev = state.log.position_at(known).unwrap_or(LogPosition::ORIGIN);
    let (commit, round) = (state.committed, rounds.begin());
    state.send(peer.node, Body::Append { prev, entries: Vec::new(), commit, round });
}

/// Tells the follower of the commit index if nothing sent so far did.
pub(super) fn notify(peer: &mut Progress, rounds: &mut Rounds, state: &mut State) {
    let Some(index) = peer.notice_due(state.committed) else { return };
    let Some(prev) = state.log.position_at(index) else { return };
    let commit = state.committed.min(index);
    let round = rounds.begin();
    state.send(peer.node, Body::Append { prev, entries: Vec::new(), commit, round });
    peer.commit_told = commit;
}

/// The position before an entry above the floor.
fn position_before(next: Index, state: &State) -> LogPosition {
    let before = next.prev().and_then(|index| state.log.position_at(index));
    before.expect("what precedes an entry above the floor is in the log or is the floor")
}
