//! The leader: takes entries into its log, sends them to the others, and counts who has them. It commits only by
//! counting entries of its own term, and leads only as long as a majority answers it.

use crate::mutation::{self, Mutation};
use crate::raft::message::{Body, Effect, EntryMeta};
use crate::raft::progress::{PeerProgress, Progress, ProgressState};
use crate::raft::read::Reads;
use crate::raft::replication::{Rounds, heartbeat, inquire, notify, probe_again, replicate};
use crate::raft::state::State;
use crate::raft::transfer::Transfer;
use crate::types::{Index, LogPosition, Nanos, NodeId};

/// Invariants: `peers` ascends by node and holds every member but this node; no read waits for a round that will not
/// be sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    pub(super) peers: Vec<Progress>,
    /// Where the first entry of this term is (or will be, until it is proposed).
    pub(super) first_of_term: Index,
    pub(super) rounds: Rounds,
    pub(super) transfer: Option<Transfer>,
    reads: Reads,
    /// The newest round before the last time all followers were asked.
    asked_after: u64,
    heartbeat_deadline: Nanos,
    /// A majority answered so recently that it need not be counted before this time.
    quorum_deadline: Nanos,
    /// The commit index rose, or a follower may be told of it that could not be before.
    notices_due: bool,
}

impl Leader {
    pub(super) fn new(state: &mut State, now: Nanos) -> Leader {
        let next = state.log.last().index.next();
        let others = state.membership.members().into_iter().filter(|node| *node != state.config.id);
        let mut leader = Leader {
            peers: others.map(|node| Progress::new(node, next, now)).collect(),
            first_of_term: next,
            rounds: Rounds::new(),
            transfer: None,
            reads: Reads::default(),
            asked_after: 0,
            heartbeat_deadline: now,
            quorum_deadline: now.saturating_add(state.config.election_timeout_max),
            notices_due: false,
        };
        leader.ask_all(state, now);
        leader
    }

    pub(super) fn next_deadline(&self) -> Nanos {
        let deadline = self.heartbeat_deadline.min(self.quorum_deadline);
        self.transfer.as_ref().map_or(deadline, |transfer| deadline.min(transfer.deadline))
    }

    pub(super) fn progress(&self) -> impl Iterator<Item = PeerProgress> + '_ {
        self.peers.iter().map(Progress::view)
    }

    /// Whether no majority answered for an election timeout: another leader may exist by now (thesis 6.2).
    pub(super) fn has_lost_quorum(&mut self, state: &State, now: Nanos) -> bool {
        if now < self.quorum_deadline {
            return false;
        }
        let contact = state.membership.reached(|node| match self.peer(node) {
            Some(peer) => peer.contact,
            None => now,
        });
        self.quorum_deadline = contact.saturating_add(state.config.election_timeout_max);
        now >= self.quorum_deadline
    }

    pub(super) fn handle_time(&mut self, state: &mut State, now: Nanos) {
        if self.transfer.as_ref().is_some_and(|transfer| now >= transfer.deadline) {
            self.transfer = None;
        }
        if now >= self.heartbeat_deadline {
            self.ask_all(state, now);
            self.inquire_where_stuck(state, now);
            self.hand_over_when_ready(state);
        }
    }

    /// One round of heartbeats.
    fn ask_all(&mut self, state: &mut State, now: Nanos) {
        self.asked_after = self.rounds.newest();
        self.heartbeat_deadline = now.saturating_add(state.config.heartbeat_interval);
        for peer in &self.peers {
            heartbeat(peer, &mut self.rounds, state);
        }
    }

    fn inquire_where_stuck(&mut self, state: &mut State, now: Nanos) {
        for peer in &mut self.peers {
            if peer.is_stuck(now, state.config.election_timeout_min) {
                inquire(peer, &mut self.rounds, state, now);
            }
        }
    }

    /// Takes the next entry: sends it at once, and counts itself only when told that it is durable here.
    pub(super) fn propose(&mut self, state: &mut State, now: Nanos, meta: EntryMeta) {
        let expected = LogPosition::new(state.term(), state.log.last().index.next());
        assert_eq!(meta.position, expected, "a leader's entry is of its term and right behind its last");
        state.append(None, vec![meta]);
        for peer in &mut self.peers {
            replicate(peer, &mut self.rounds, state, now);
        }
    }

    pub(super) fn handle_accepted(&mut self, state: &mut State, now: Nanos, from: NodeId, matched: Index, round: u64) {
        // What was never sent can't be answered: not from this leadership.
        if round == 0 || round > self.rounds.newest() || matched > state.log.last().index {
            return;
        }
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == from) else { return };
        peer.answered(now, round);
        let was_replicating = peer.state() == ProgressState::Replicate;
        let advanced = peer.accepted(now, matched, round);
        if peer.state() == (ProgressState::Probe { paused: true }) {
            // It answers heartbeats and not the probe, which may be lost.
            probe_again(peer, &mut self.rounds, state);
        }
        replicate(peer, &mut self.rounds, state, now);
        self.notices_due |= advanced || (!was_replicating && peer.state() == ProgressState::Replicate);
        if advanced {
            self.advance_commit(state);
            self.hand_over_when_ready(state);
        }
        self.confirm_reads(state, now);
    }

    /// `hint` is where the follower says that the logs could agree; what this log says to that is as good a bound for
    /// the other side, so each exchange skips a whole term of one of them (R10).
    pub(super) fn handle_rejected(
        &mut self,
        state: &mut State,
        now: Nanos,
        from: NodeId,
        prev: LogPosition,
        hint: LogPosition,
        round: u64,
    ) {
        if round == 0 || round > self.rounds.newest() || prev.index > state.log.last().index || hint.index > prev.index
        {
            return;
        }
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == from) else { return };
        peer.answered(now, round);
        if peer.refusal_is_news(prev.index, round) {
            if prev.index <= state.log.floor().index {
                peer.become_behind(self.rounds.newest());
            } else {
                let agreeable = state.log.last_agreeable(hint).index;
                peer.refused(agreeable, self.rounds.newest() + 1);
                replicate(peer, &mut self.rounds, state, now);
            }
        }
        self.confirm_reads(state, now);
    }

    /// The own log became durable further up.
    pub(super) fn handle_durable(&mut self, state: &mut State, now: Nanos) {
        if self.advance_commit(state) {
            self.confirm_reads(state, now);
        }
    }

    fn advance_commit(&mut self, state: &mut State) -> bool {
        let durable = state.durability.durable();
        let reached = state.membership.reached(|node| match self.peer(node) {
            Some(peer) => peer.matched(),
            None => durable,
        });
        // Raft 5.4.2, figure 8: only entries of the own term commit by counting; those before them commit with them.
        let is_own = reached >= self.first_of_term || mutation::is_on(Mutation::EarlierTermByCounting);
        if !is_own || !state.commit(reached) {
            return false;
        }
        self.notices_due = true;
        true
    }

    /// Tells followers of the commit index, unless an append has told them meanwhile.
    pub(super) fn send_due_notices(&mut self, state: &mut State) {
        if std::mem::take(&mut self.notices_due) {
            for peer in &mut self.peers {
                notify(peer, &mut self.rounds, state);
            }
        }
    }

    /// A connection to the peer broke: what was on its way is lost (R11).
    pub(super) fn handle_peer_lost(&mut self, node: NodeId) {
        let after = self.rounds.newest() + 1;
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == node) {
            peer.become_probe(peer.matched().next(), after);
        }
    }

    /// What the peer acknowledged before does not count any more.
    pub(super) fn handle_peer_restarted(&mut self, state: &State, node: NodeId) {
        let (next, after) = (state.log.last().index.next(), self.rounds.newest() + 1);
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == node) {
            peer.restarted(next, after);
        }
    }

    pub(super) fn handle_peer_up(&mut self, state: &mut State, now: Nanos, node: NodeId) {
        self.handle_peer_lost(node);
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == node) {
            heartbeat(peer, &mut self.rounds, state);
            replicate(peer, &mut self.rounds, state, now);
        }
    }

    /// A read waits for a majority to answer something sent after it came, and, on a new leader, for the first entry of
    /// its term to commit: only then is everything that was ever acknowledged known to be at or below the commit index.
    pub(super) fn request_read(&mut self, state: &mut State, now: Nanos, read: u64) {
        let first_waiting = self.reads.is_empty();
        let after = match mutation::is_on(Mutation::ReadByEarlierRound) {
            true => self.rounds.newest().saturating_sub(1),
            false => self.rounds.newest(),
        };
        self.reads.push(read, after, state.committed.max(self.first_of_term));
        if first_waiting {
            self.ask_all(state, now);
        }
        self.confirm_reads(state, now);
    }

    fn confirm_reads(&mut self, state: &mut State, now: Nanos) {
        if self.reads.is_empty() {
            return;
        }
        let round = state.membership.reached(|node| match self.peer(node) {
            Some(peer) => peer.answered_round,
            None => u64::MAX,
        });
        while let Some(read) = self.reads.take_confirmed(round, state.committed) {
            state.effects.push_back(Effect::ReadReady { read: read.read, index: read.index });
        }
        if round > self.asked_after && self.reads.need_a_round_after(self.asked_after) {
            self.ask_all(state, now);
        }
    }

    /// Reads that wait are lost with the leadership.
    pub(super) fn lose_reads(&mut self, state: &mut State) {
        state.effects.extend(self.reads.take_lost().map(|read| Effect::ReadLost { read }));
    }

    pub(super) fn hand_over_when_ready(&mut self, state: &mut State) {
        let Some(transfer) = &self.transfer else { return };
        let target = self.peer(transfer.target).expect("leadership is handed to members");
        if target.matched() == state.log.last().index {
            let to = target.node;
            state.send(to, Body::TimeoutNow);
        }
    }

    /// The progress of another member; none for the leader itself.
    pub(super) fn peer(&self, node: NodeId) -> Option<&Progress> {
        self.peers.iter().find(|peer| peer.node == node)
    }
}
