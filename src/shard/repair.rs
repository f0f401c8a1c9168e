//! A shard whose log has faulty entries, before it takes part: it looks for copies at its peers, has them written, gives copies
//! to others, and answers nothing else. Events in, effects out.
//!
//! It must never vote, acknowledge or stand for election; and never give up an entry that may have been committed. Two things
//! prove that one was not: the word of a leader of this node's last term or a later one, whose log holds whatever was
//! committed before (Raft 5.4.3); and that no other voter has it, since none of them can then ever count what this node once
//! acknowledged. The decision record `repair.md` tells both at length, and why such a node does not vote.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use crate::net::message::{Fetch, Fetched, Held, PeerMessage};
use crate::types::{ChainHash, Index, Nanos, NodeId, SnapshotName, Term};
use crate::wal::entry::Entry;
use crate::wal::index::{Placement, SegmentNumber};
use crate::wal::inventory::{Copies, Inventory};
use crate::wal::rewrite::Plan;

/// Entries that go in one answer, where not the first is longer.
pub const FETCHED_BYTES_MAX: u64 = 1 << 20;

/// Who did not have a copy is asked again after this time: it may be repaired by then, or know a leader.
const ASK_EVERY: Nanos = Nanos::from_millis(100);

/// What is wanted next: one entry, and as many before it as are faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    fetch: Fetch,
    segment: SegmentNumber,
}

/// What a peer last said of the wanted entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Faulty,
    Absent,
    Below,
    Unknown,
}

#[derive(Debug)]
pub enum Effect {
    Send {
        to: NodeId,
        message: PeerMessage,
    },
    /// Read these entries and give them to a peer: [`Repair::answer`] says in which words.
    Give {
        to: NodeId,
        fetch: Fetch,
        placements: Vec<Placement>,
    },
    /// Carry this out, then `handle_rewritten`. Nothing else changes the log meanwhile.
    Rewrite(Box<Plan>),
    /// Pull this snapshot, and put it in the place of the whole log: what it is of is at or behind the log's end.
    Install {
        from: NodeId,
        snapshot: SnapshotName,
    },
}

/// How a repair ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The log is whole.
    Whole,
    /// Its end, from this entry on, was never committed; what is before it is whole.
    GiveUp(Index),
}

/// Invariant: `found` holds entries of one segment, that of `want`, all of them faulty in the inventory.
#[derive(Debug)]
pub struct Repair {
    /// The other voters.
    others: BTreeSet<NodeId>,
    /// The last term that this node durably knew: it acknowledged nothing in a later one.
    term: Term,
    inventory: Inventory,
    connected: BTreeSet<NodeId>,
    found: BTreeMap<Index, Entry>,
    want: Option<Want>,
    said: BTreeMap<NodeId, Said>,
    ask_at: Nanos,
    is_writing: bool,
    given_up: Option<Index>,
    /// Files below the log's floor are lost, so only a snapshot helps: the beginning of the log is asked for, in whose place one
    /// can be had.
    needs_snapshot: bool,
    repaired: u64,
    effects: VecDeque<Effect>,
}

impl Repair {
    #[must_use]
    pub fn new(others: BTreeSet<NodeId>, term: Term, inventory: Inventory, now: Nanos) -> Repair {
        let mut repair = Repair {
            others,
            term,
            inventory,
            connected: BTreeSet::new(),
            found: BTreeMap::new(),
            want: None,
            said: BTreeMap::new(),
            ask_at: now,
            is_writing: false,
            given_up: None,
            needs_snapshot: false,
            repaired: 0,
            effects: VecDeque::new(),
        };
        repair.look_on(now);
        repair
    }

    /// Of a shard that has lost files below its log's floor, whether or not its log is whole.
    #[must_use]
    pub fn by_snapshot(others: BTreeSet<NodeId>, term: Term, inventory: Inventory, now: Nanos) -> Repair {
        let mut repair = Repair::new(others, term, inventory, now);
        repair.needs_snapshot = true;
        repair.effects.clear();
        repair.look_on(now);
        repair
    }

    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// None as long as something is faulty.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let is_over = self.want.is_none() && !self.is_writing;
        is_over.then_some(self.given_up.map_or(Outcome::Whole, Outcome::GiveUp))
    }

    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.want.is_some() && !self.is_writing { self.ask_at } else { Nanos(u64::MAX) }
    }

    pub fn handle_time(&mut self, now: Nanos) {
        if now >= self.next_deadline() {
            self.ask(now);
        }
    }

    pub fn handle_peer_up(&mut self, now: Nanos, peer: NodeId) {
        self.connected.insert(peer);
        if self.want.is_some() && !self.is_writing {
            self.ask(now);
        }
    }

    pub fn handle_peer_lost(&mut self, peer: NodeId) {
        self.connected.remove(&peer);
    }

    /// Whatever else peers say is for a shard that takes part.
    pub fn handle_message(&mut self, now: Nanos, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Fetch(fetch) => self.handle_fetch(from, fetch),
            PeerMessage::Fetched(fetched) => self.handle_fetched(now, from, fetched),
            _ => {}
        }
    }

    /// The plan was carried out: the segment holds what was found.
    pub fn handle_rewritten(&mut self, now: Nanos, plan: &Plan) {
        self.inventory.handle_rewritten(plan);
        self.repaired += self.found.len() as u64;
        self.found.clear();
        self.is_writing = false;
        self.look_on(now);
    }

    // What others look for.

    fn handle_fetch(&mut self, from: NodeId, fetch: Fetch) {
        let held = match self.inventory.copies(fetch.first, fetch.last, fetch.chain, FETCHED_BYTES_MAX) {
            Copies::At(placements) => {
                self.effects.push_back(Effect::Give { to: from, fetch, placements });
                return;
            }
            Copies::Faulty => Held::Faulty,
            Copies::Absent => Held::Absent,
            Copies::Unknown => Held::Unknown,
        };
        self.effects.push_back(Effect::Send { to: from, message: Repair::answer(fetch, held) });
    }

    #[must_use]
    pub fn answer(fetch: Fetch, held: Held) -> PeerMessage {
        PeerMessage::Fetched(Fetched { last: fetch.last, chain: fetch.chain, leads: None, held })
    }

    // What this node looks for.

    /// The last faulty entry of the first segment with one that is not found yet: each entry names the one before it.
    fn next_want(&self) -> Option<Want> {
        if self.needs_snapshot {
            return Some(Want { fetch: Fetch::SNAPSHOT, segment: SegmentNumber(0) });
        }
        let is_wanted = |index: &Index| self.given_up.is_none_or(|from| *index < from);
        let segment = self.inventory.segment(self.inventory.faulty().find(is_wanted)?)?;
        let of_segment = |index: &Index| self.inventory.segment(*index) == Some(segment) && is_wanted(index);
        let missing: Vec<Index> =
            self.inventory.faulty().filter(of_segment).filter(|index| !self.found.contains_key(index)).collect();
        let last = *missing.last()?;
        let first = missing.iter().rev().zip((0..=last.0).rev()).take_while(|(index, run)| index.0 == *run).last();
        let first = first.map_or(last, |(index, _)| *index);
        Some(Want { fetch: Fetch { first, last, chain: self.chain(last) }, segment })
    }

    fn chain(&self, index: Index) -> Option<ChainHash> {
        let named = self.found.get(&index.next()).map(|entry| entry.prev_chain);
        self.inventory.chain(index).or(named)
    }

    /// Goes on to what is wanted next, and writes a segment of which everything is found.
    fn look_on(&mut self, now: Nanos) {
        let before = self.want.take();
        self.want = self.next_want();
        if self.want != before {
            self.said.clear();
        }
        let done = before
            .filter(|before| !self.found.is_empty() && self.want.is_none_or(|want| want.segment != before.segment));
        if let Some(done) = done {
            match self.inventory.plan(done.segment, &self.found) {
                Some(plan) => {
                    self.is_writing = true;
                    self.effects.push_back(Effect::Rewrite(Box::new(plan)));
                    return;
                }
                // Only what a leader has in the place of an entry that nothing names any more can be of another length, so
                // it is another one.
                None => return self.give_up_misfit(now),
            }
        }
        if self.want.is_some() {
            self.ask(now);
        }
    }

    fn give_up_misfit(&mut self, now: Nanos) {
        let first = self.found.keys().next().copied();
        self.found.clear();
        match first.filter(|first| *first > self.inventory.committed()) {
            Some(first) => self.give_up(now, first),
            None => self.want = self.next_want(),
        }
    }

    fn ask(&mut self, now: Nanos) {
        self.ask_at = now.saturating_add(ASK_EVERY);
        let Some(want) = self.want else { return };
        for &to in &self.connected {
            self.effects.push_back(Effect::Send { to, message: PeerMessage::Fetch(want.fetch) });
        }
    }

    fn handle_fetched(&mut self, now: Nanos, from: NodeId, fetched: Fetched) {
        let Some(want) = self.want.filter(|_| !self.is_writing) else { return };
        let Fetched { last, chain, leads, held } = fetched;
        if (last, chain) != (want.fetch.last, want.fetch.chain) {
            return;
        }
        let is_authority = leads.is_some_and(|term| term >= self.term);
        let held = match held {
            Held::Below(snapshot) => Held::Below(snapshot),
            _ if self.needs_snapshot => Held::Unknown,
            held => held,
        };
        let said = match held {
            Held::Entries(entries) if chain.is_some() || is_authority => return self.take(now, want, entries),
            Held::Entries(_) | Held::Unknown => Said::Unknown,
            Held::Faulty => Said::Faulty,
            Held::Absent => Said::Absent,
            Held::Below(snapshot) => {
                // Whatever was acknowledged here and is committed is in it. A log that reaches further holds more.
                if snapshot.position.index >= self.inventory.last() {
                    self.effects.push_back(Effect::Install { from, snapshot });
                }
                Said::Below
            }
        };
        self.said.insert(from, said);
        let nobody_has_it = self.others.iter().all(|node| self.said.get(node) == Some(&Said::Absent));
        let is_never_committed = said == Said::Absent && (is_authority || nobody_has_it) && !self.others.is_empty();
        if is_never_committed && want.fetch.last > self.inventory.committed() {
            self.give_up(now, want.fetch.last);
        }
    }

    fn take(&mut self, now: Nanos, want: Want, entries: Vec<Entry>) {
        let mut expected = want.fetch.last;
        for entry in entries.into_iter().rev() {
            let is_wanted = entry.meta.position.index == expected
                && expected >= want.fetch.first
                && self.chain(expected).is_none_or(|chain| chain == entry.meta.chain);
            if !is_wanted {
                break;
            }
            self.found.insert(expected, entry);
            let Some(before) = expected.prev() else { break };
            expected = before;
        }
        self.look_on(now);
    }

    fn give_up(&mut self, now: Nanos, from: Index) {
        self.given_up = Some(from);
        self.found.retain(|index, _| *index < from);
        self.look_on(now);
    }

    // What there is to tell.

    /// Entries that are still damaged.
    #[must_use]
    pub fn faulty(&self) -> u64 {
        let is_wanted = |index: &Index| self.given_up.is_none_or(|from| *index < from);
        self.inventory.faulty().filter(is_wanted).count() as u64
    }

    /// Entries that are whole again, on disk.
    #[must_use]
    pub fn repaired(&self) -> u64 {
        self.repaired
    }

    #[must_use]
    pub fn last(&self) -> Index {
        self.inventory.last()
    }

    #[must_use]
    pub fn committed(&self) -> Index {
        self.inventory.committed()
    }

    /// In the operator's words: what is looked for, and what each peer says.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let want = self.want.filter(|_| !self.is_writing)?;
        let mut text = match self.needs_snapshot {
            true => "what stands below the log is damaged here, and a snapshot of another node must take its place"
                .to_owned(),
            false => format!("entry {} is damaged here", want.fetch.last),
        };
        for node in &self.others {
            let said = match self.said.get(node) {
                _ if !self.connected.contains(node) => "not connected",
                Some(Said::Faulty) => "damaged there too",
                Some(Said::Absent) => "never had it",
                Some(Said::Below) => "has only a snapshot in its place",
                Some(Said::Unknown) => "cannot tell",
                None => "has not answered",
            };
            let _ = write!(text, "; node {node}: {said}");
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests;
