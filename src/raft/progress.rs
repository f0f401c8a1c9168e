//! What a leader knows of one follower and what it has on its way to it. All transitions of a follower's progress
//! are here. It must never claim a match that was not acknowledged, nor let a lost message stop replication.

use std::collections::VecDeque;

use crate::mutation::{self, Mutation};
use crate::raft::config::Config;
use crate::types::{Index, Nanos, NodeId};

/// ```text
///              accepted, up to where was probed
///      ┌───────────────────────────────────────┐
///      │                                       v
///   Probe ── floor of the log reached ──> Behind   Replicate
///    ^ ^                                    │          │
///    │ └── acknowledged above the floor ────┘          │
///    └──────── an append was refused, the link broke ──┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgressState {
    /// Where the logs meet is not known yet: one message at a time. `paused`: it is on its way.
    Probe { paused: bool },
    /// The logs meet: appends follow each other without waiting, within the limits of what may be in flight.
    Replicate,
    /// The follower needs entries that this log no longer has.
    Behind,
}

/// Invariants: `matched < next`; appends are in flight only in `Replicate`, ascending in index and round;
/// `in_flight_bytes` is their sum.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    pub(super) node: NodeId,
    state: ProgressState,
    /// The follower's log is durable and equal to ours up to here. Falls only to nothing, when the follower was started
    /// anew: what it had may not be there any more.
    matched: Index,
    /// The next entry to send.
    next: Index,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    /// When something in flight was last acknowledged, or the first of it was sent.
    in_flight_moved: Nanos,
    /// The first round of the current state: refusals of earlier ones say nothing about it.
    state_round: u64,
    /// The round of the newest message that asked whether everything in flight arrived.
    inquiry_round: Option<u64>,
    /// The newest round the follower answered.
    pub(super) answered_round: u64,
    /// When the follower last answered.
    pub(super) contact: Nanos,
    /// The commit index that the follower was last told without being bound to its match.
    pub(super) commit_told: Index,
    /// Messages without entries overtake those with entries on this link; until what is in flight has arrived,
    /// they may speak only of what the follower acknowledged.
    overtaken: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct InFlight {
    last: Index,
    bytes: u64,
    round: u64,
}

/// One follower, for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    pub node: NodeId,
    pub state: ProgressState,
    pub matched: Index,
    pub next: Index,
    pub in_flight_messages: usize,
    pub in_flight_bytes: u64,
    /// When the peer last answered, on the node's monotonic clock.
    pub contact: Nanos,
}

impl Progress {
    /// A follower of whom a new leader, whose log ends before `next`, knows nothing.
    pub(super) fn new(node: NodeId, next: Index, now: Nanos) -> Progress {
        Progress {
            node,
            state: ProgressState::Probe { paused: false },
            matched: Index::ZERO,
            next,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            in_flight_moved: now,
            state_round: 0,
            inquiry_round: None,
            answered_round: 0,
            contact: now,
            commit_told: Index::ZERO,
            overtaken: false,
        }
    }

    pub(super) fn state(&self) -> ProgressState {
        self.state
    }

    pub(super) fn matched(&self) -> Index {
        self.matched
    }

    pub(super) fn next(&self) -> Index {
        self.next
    }

    pub(super) fn view(&self) -> PeerProgress {
        PeerProgress {
            node: self.node,
            state: self.state,
            matched: self.matched,
            next: self.next,
            in_flight_messages: self.in_flight.len(),
            in_flight_bytes: self.in_flight_bytes,
            contact: self.contact,
        }
    }

    /// Whether another append with entries may be sent.
    pub(super) fn has_room(&self, config: &Config) -> bool {
        match self.state {
            ProgressState::Probe { paused } => !paused,
            ProgressState::Replicate => {
                self.in_flight.len() < config.in_flight_messages_max
                    && self.in_flight_bytes < config.in_flight_bytes_max
            }
            ProgressState::Behind => false,
        }
    }

    /// An append with entries up to `last` (none where it is `next - 1`) was sent.
    pub(super) fn sent(&mut self, now: Nanos, last: Index, bytes: u64, round: u64) {
        match &mut self.state {
            ProgressState::Probe { paused } => *paused = true,
            ProgressState::Replicate => {
                assert!(last >= self.next, "an append in flight has entries");
                if self.in_flight.is_empty() {
                    self.in_flight_moved = now;
                }
                self.in_flight.push_back(InFlight { last, bytes, round });
                self.in_flight_bytes += bytes;
                self.next = last.next();
            }
            ProgressState::Behind => panic!("nothing is sent to a follower that is behind the log"),
        }
    }

    /// Whether what is in flight has not moved for so long that it may be lost.
    pub(super) fn is_stuck(&self, now: Nanos, patience: Nanos) -> bool {
        !self.in_flight.is_empty() && now >= self.in_flight_moved.saturating_add(patience)
    }

    /// The last entry in flight was sent once more: if all before it arrived, it is accepted (when durable, so a slow
    /// disk is not mistaken for a loss), and if not it is refused.
    pub(super) fn inquired(&mut self, now: Nanos, round: u64) {
        self.inquiry_round = Some(round);
        self.in_flight_moved = now;
    }

    /// The follower answered in `round`, whatever it said.
    pub(super) fn answered(&mut self, now: Nanos, round: u64) {
        self.contact = now;
        self.answered_round = self.answered_round.max(round);
    }

    /// The follower's log matches up to `matched`, durably. Returns whether that is news about it.
    pub(super) fn accepted(&mut self, now: Nanos, matched: Index, round: u64) -> bool {
        let where_was_probed = matched.next() >= self.next;
        let advanced = matched > self.matched;
        if advanced {
            self.matched = matched;
            self.next = self.next.max(matched.next());
        }
        match self.state {
            ProgressState::Probe { .. } if where_was_probed => self.enter(ProgressState::Replicate, round),
            ProgressState::Probe { .. } => {}
            ProgressState::Replicate => self.free_in_flight(now, matched),
            // A snapshot or another leader helped it over the floor; where the logs meet is known again.
            ProgressState::Behind if advanced => self.become_probe(matched.next(), round),
            ProgressState::Behind => {}
        }
        advanced
    }

    fn free_in_flight(&mut self, now: Nanos, matched: Index) {
        while self.in_flight.front().is_some_and(|append| append.last <= matched) {
            let append = self.in_flight.pop_front().expect("seen just now");
            self.in_flight_bytes -= append.bytes;
            self.in_flight_moved = now;
        }
        if self.in_flight.is_empty() {
            self.overtaken = false;
        }
    }

    /// Whether a refusal of `prev` in `round` tells something that is not known, or no longer true.
    pub(super) fn refusal_is_news(&mut self, prev: Index, round: u64) -> bool {
        if prev <= self.matched || round < self.state_round {
            return false;
        }
        match self.state {
            ProgressState::Probe { .. } => prev.next() == self.next,
            ProgressState::Replicate => {
                let of_an_append = self.in_flight.binary_search_by_key(&round, |append| append.round).is_ok();
                let of_a_notice = !of_an_append && self.inquiry_round != Some(round);
                if of_a_notice {
                    // It was here before the entries that it spoke of. Nothing is lost but the notice.
                    self.overtaken = true;
                    self.commit_told = self.commit_told.min(self.matched);
                }
                !of_a_notice
            }
            ProgressState::Behind => false,
        }
    }

    /// The follower can't agree on anything above `agreeable`: go on from there. Messages sent before `round` no
    /// longer matter.
    pub(super) fn refused(&mut self, agreeable: Index, round: u64) {
        let lower = self.next.prev().expect("what is sent next has an index above zero");
        self.enter(ProgressState::Probe { paused: false }, round);
        self.next = agreeable.next().min(lower).max(self.matched.next());
    }

    /// Nothing that is on its way can be relied on: start again from `next`, or from what is known if that is more.
    pub(super) fn become_probe(&mut self, next: Index, round: u64) {
        self.enter(ProgressState::Probe { paused: false }, round);
        self.next = self.matched.next().max(next);
    }

    /// Another start of the follower, of which nothing is known. `next`: behind the end of the leader's log.
    pub(super) fn restarted(&mut self, next: Index, round: u64) {
        if !mutation::is_on(Mutation::FormerMatchKept) {
            self.matched = Index::ZERO;
        }
        self.enter(ProgressState::Probe { paused: false }, round);
        self.next = next;
    }

    pub(super) fn become_behind(&mut self, round: u64) {
        self.enter(ProgressState::Behind, round);
    }

    /// What is in flight belongs to the state that ends here (R9).
    fn enter(&mut self, state: ProgressState, round: u64) {
        self.state = state;
        self.state_round = round;
        self.in_flight.clear();
        if !mutation::is_on(Mutation::InFlightBytesKept) {
            self.in_flight_bytes = 0;
        }
        self.inquiry_round = None;
        self.commit_told = Index::ZERO;
        self.overtaken = false;
    }

    /// The index whose position a notice of commit index `committed` names as its `prev`, and none where the follower
    /// needs no notice. In order, it arrives behind all that was sent; where order does not hold, it keeps to the match.
    pub(super) fn notice_due(&self, committed: Index) -> Option<Index> {
        if self.state != ProgressState::Replicate {
            return None;
        }
        let prev = if self.overtaken { self.matched } else { self.next.prev().expect("next is above matched") };
        (self.commit_told < committed.min(prev)).then_some(prev)
    }

    pub(super) fn check(&self, last: Index) -> Result<(), &'static str> {
        if self.matched >= self.next {
            return Err("a follower's match is below what is sent to it next");
        }
        if self.next > last.next() {
            return Err("what is sent next is in the log or right behind it");
        }
        if self.in_flight_bytes != self.in_flight.iter().map(|append| append.bytes).sum::<u64>() {
            return Err("bytes in flight are the sum over the messages in flight");
        }
        if !self.in_flight.is_empty() && self.state != ProgressState::Replicate {
            return Err("appends are in flight only while replicating");
        }
        if self.in_flight.iter().any(|append| append.last >= self.next || append.last <= self.matched) {
            return Err("what is in flight is above the match and below what is sent next");
        }
        Ok(())
    }
}
