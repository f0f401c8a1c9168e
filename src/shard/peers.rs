//! What other nodes say, and what is said to them: Raft's messages with their entries attached, and the sessions' commands,
//! waits, reads and references on their way to the leader.

use std::collections::VecDeque;

use bytes::Bytes;

use super::effect::Effect;
use super::leading::{is_forwardable, is_waitable};
use super::reads::LogRead;
use super::repair::FETCHED_BYTES_MAX;
use super::sessions::{LocalWait, Unsent};
use super::waits::Ended;
use super::{EndedWait, Moment, Shard};
use crate::job::codec;
use crate::job::command::{Command, Numbered, Origin};
use crate::net::message::{Fetch, Fetched, Held, PeerMessage, RaftMessage, ReferenceDelta, ReferencePart};
use crate::raft::message::{Body, Message};
use crate::types::{Incarnation, Index, NodeId, Start, Term};
use crate::wal::entry::Entry;

/// Commands of more bytes than this, and more references, go in several messages: after a leader change everything that
/// is outstanding is handed over at once, and no message may be longer than a frame, or take the leader long.
const COMMANDS_BYTES_MAX: usize = 1 << 20;
const REFERENCES_MAX: usize = 1024;

/// One peer's connection as the shard sees it.
#[derive(Debug, Default)]
pub struct Peer {
    pub connected: bool,
    /// Its newest start, and the one whose connection to this node is up.
    pub(super) start: Option<Start>,
    pub(super) incoming_start: Option<Start>,
    /// Its connection to this node is a new one: what it answered on the one before may be lost.
    is_new_incoming: bool,
    /// Appends whose entries are being read back, and those behind them: they leave in order.
    appends: VecDeque<Message>,
}

impl Shard {
    /// Messages to this peer get through from now on; what was sent before may be lost.
    pub fn handle_peer_up(&mut self, moment: Moment, peer: NodeId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.connected = true;
        let was_admitted = self.raft.is_admitted();
        self.raft.handle_peer_up(moment.now, peer);
        self.follow_raft(moment);
        if self.raft.leader() == Some(peer) || was_admitted != self.raft.is_admitted() {
            self.upstream = None;
            self.find_upstream(moment);
        }
    }

    /// This node was admitted by a start of the peer, and admits it. To be called before the event that says so.
    pub fn handle_start(&mut self, moment: Moment, peer: NodeId, start: Start) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.start.is_some_and(|known| known >= start) {
            return;
        }
        state.start = Some(start);
        self.raft.handle_peer_restarted(moment.now, peer);
        self.follow_raft(moment);
    }

    /// What comes from the peer from now on comes from this start of it.
    pub fn handle_incoming_start(&mut self, moment: Moment, peer: NodeId, start: Start) {
        self.handle_start(moment, peer, start);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.incoming_start = Some(start);
        }
    }

    /// This node found that the peer has forgotten what it had promised, and admits it no more. All others are to do the
    /// same, so that is committed: they may not have been told what it forgot.
    pub fn handle_went_back(&mut self, moment: Moment, peer: NodeId, incarnation: Incarnation) {
        self.raft.handle_peer_restarted(moment.now, peer);
        self.follow_raft(moment);
        if self.machine.shut_out(peer) != Some(incarnation) {
            self.went_back.insert(peer, incarnation);
            self.report_went_back();
        }
    }

    /// To a leader, if there is one; a new one is told again. It happens once by its content.
    fn report_went_back(&mut self) {
        for (node, incarnation) in self.went_back.clone() {
            let mut encoded = Vec::new();
            let command = Command::NodeWentBack { node, incarnation };
            codec::encode(&Numbered { origin: Origin::System, command }, &mut encoded);
            self.deliver(Bytes::from(encoded));
        }
    }

    /// Whether the peer is known to have gone back, here or by all.
    pub(super) fn is_shut_out(&self, peer: NodeId) -> bool {
        self.went_back.contains_key(&peer) || self.machine.shut_out(peer).is_some()
    }

    /// What was committed about nodes that went back takes effect here.
    pub(super) fn shut_out(&mut self) {
        for (node, incarnation) in self.machine.take_shut_out() {
            self.went_back.remove(&node);
            self.effects.push_back(Effect::ShutOut { node, incarnation });
        }
    }

    /// The connection to this peer is gone; `refused`: nobody listens there any more.
    pub fn handle_peer_lost(&mut self, moment: Moment, peer: NodeId, refused: bool) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.connected = false;
        state.appends.clear();
        // What this turn wanted to send is lost with the rest. It must not go out on the next connection, in front of what
        // was sent before it and will be sent again.
        self.effects.retain(|effect| !matches!(effect, Effect::Send { to, .. } if *to == peer));
        self.find_upstream(moment);
        self.raft.handle_peer_lost(moment.now, peer, refused);
        self.follow_raft(moment);
        if let Some(leading) = self.leading.as_mut() {
            // It may be the one whose report was missing.
            leading.sweep.want();
        }
    }

    /// The peer's own connection to this node is gone, and with it what it registered here.
    pub fn handle_incoming_lost(&mut self, peer: NodeId) {
        if let Some(leading) = self.leading.as_mut() {
            leading.forget_node(peer);
            leading.sweep.want();
        }
    }

    /// The peer has made a new connection to this node.
    pub fn handle_incoming_up(&mut self, peer: NodeId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.is_new_incoming = true;
        }
    }

    pub fn handle_message(&mut self, moment: Moment, from: NodeId, message: PeerMessage) {
        if self.peers.get(&from).is_some_and(|peer| peer.incoming_start.is_some() && peer.incoming_start < peer.start) {
            // The process that said it is gone, and what it promised may have gone with it.
            return;
        }
        let is_new_incoming = self.peers.get_mut(&from).is_some_and(|peer| std::mem::take(&mut peer.is_new_incoming));
        self.handle_said(moment, from, message);
        // Only now: a leader that sends can also answer.
        if is_new_incoming && self.upstream.is_some_and(|(leader, _)| leader == from) {
            self.ask_again(moment);
        }
    }

    /// Asks the leader again for whatever it may have answered in vain.
    fn ask_again(&mut self, moment: Moment) {
        self.steps.handle_left_taken();
        for connection in self.sessions.waiting() {
            self.renew_wait(moment, connection);
        }
        self.ask_for_reads(moment);
    }

    fn handle_said(&mut self, moment: Moment, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) => self.handle_raft(moment, from, message),
            PeerMessage::Commands { term, commands } => {
                let Some(leading) = self.leading.as_mut().filter(|leading| leading.term == term) else { return };
                for command in commands {
                    if is_forwardable(&command, from) {
                        leading.accept(command);
                    } else {
                        self.counters.commands_refused += 1;
                    }
                }
            }
            PeerMessage::Wait { term, session, seq, registration, poll, tubes } => {
                if self.leads_in(term) && session.node == from && is_waitable(&tubes) {
                    self.register(moment, (session, seq), registration, tubes, poll);
                }
            }
            PeerMessage::Withdraw { term, session, seq, registration, at_once } => {
                if self.leads_in(term) && session.node == from {
                    let end = Ended { key: (session, seq), registration };
                    self.handle_withdraw(moment, end, at_once);
                }
            }
            PeerMessage::WaitEnded { term, session, seq, registration, applied } => {
                self.handle_wait_ended(moment, term, Ended { key: (session, seq), registration }, applied);
            }
            PeerMessage::Read { term, read, about } => {
                if self.leads_in(term) {
                    self.handle_read_request(moment, from, read, about);
                }
            }
            PeerMessage::ReadAnswer { term, read, index, soft } => {
                if self.upstream == Some((from, term)) {
                    self.handle_read_answer(moment, read, index, soft);
                }
            }
            PeerMessage::MarkerDigest { term, marker, digest } => {
                if self.leads_in(term) {
                    self.handle_marker_digest(from, marker, digest);
                }
            }
            PeerMessage::References { term, part, changes } => {
                if self.leads_in(term) {
                    self.handle_references(from, part, &changes);
                    if part == ReferencePart::Left {
                        self.send(from, PeerMessage::LeftTaken { term });
                    }
                }
            }
            PeerMessage::LeftTaken { term } => {
                if self.upstream == Some((from, term)) {
                    self.steps.handle_left_taken();
                }
            }
            PeerMessage::Fetch(fetch) => self.handle_fetch(moment, from, fetch),
            // This shard's log is whole; it was meant for the repair before it.
            PeerMessage::Fetched(_) => {}
            PeerMessage::Offer { term, snapshot } => self.handle_offer(from, term, snapshot),
            PeerMessage::Pull(pull) => self.handle_pull(moment, from, pull),
            // It is for whoever pulls, beside the shard.
            PeerMessage::Pulled(_) => {}
        }
    }

    /// A peer looks for a copy of an entry that is damaged there.
    fn handle_fetch(&mut self, moment: Moment, from: NodeId, fetch: Fetch) {
        let log = self.raft.log();
        if fetch.last <= log.floor().index {
            let held = self.offer_in_place_of_entries(moment, from).map_or(Held::Unknown, Held::Below);
            return self.answer_fetch(from, fetch, held);
        }
        let held = match (log.chain_at(fetch.last), fetch.chain) {
            (None, _) if fetch.last > log.last().index => Held::Absent,
            (Some(own), Some(wanted)) if own != wanted => Held::Absent,
            (Some(_), None) if !self.raft.is_leader() => Held::Unknown,
            (Some(_), _) => return self.give_copies(from, fetch),
            (None, _) => Held::Unknown,
        };
        self.answer_fetch(from, fetch, held);
    }

    fn give_copies(&mut self, to: NodeId, fetch: Fetch) {
        let first = self.raft.log().first_of_run(fetch.first, fetch.last, FETCHED_BYTES_MAX);
        let cached = (first.0..=fetch.last.0).map(|index| self.cache.get(Index(index)).cloned());
        if let Some(entries) = cached.collect::<Option<Vec<Entry>>>() {
            return self.answer_fetch(to, fetch, Held::Entries(entries));
        }
        let placements = self.catalog.range(first, fetch.last, u64::MAX);
        if placements.len() as u64 != fetch.last.0 - first.0 + 1 {
            // Partly in memory only, on the way to the disk: what is on the disk will do.
            return self.answer_fetch(to, fetch, Held::Unknown);
        }
        let read = self.next_read_number(LogRead::Copies { to, fetch });
        self.effects.push_back(Effect::ReadEntries { read, placements });
    }

    pub(super) fn answer_fetch(&mut self, to: NodeId, fetch: Fetch, held: Held) {
        let leads = self.raft.is_leader().then(|| self.raft.term());
        let Fetch { last, chain, .. } = fetch;
        self.send(to, PeerMessage::Fetched(Fetched { last, chain, leads, held }));
    }

    fn leads_in(&self, term: Term) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.term == term)
    }

    fn handle_raft(&mut self, moment: Moment, from: NodeId, message: RaftMessage) {
        self.arriving = message.entries;
        let term = message.message.term;
        let stated = match &message.message.body {
            Body::Append { commit, .. } => Some(*commit),
            _ => None,
        };
        self.raft.handle_message(moment.now, from, message.message);
        if self.raft.leader() == Some(from) {
            if let Some(committed) = stated.filter(|_| term == self.raft.term()) {
                self.freshness.hear(moment.now, committed);
            }
            // Who leads next goes on from the clock that the last entry of its log was stamped by.
            if term == self.raft.last_position().term {
                self.clock.handle_stamp(moment.now, term, message.times);
            }
            self.cluster_room = message.room;
        } else if let Some(leading) = self.leading.as_mut() {
            leading.room.insert(from, message.room);
            self.count_room();
        }
        self.follow_raft(moment);
        self.arriving.clear();
        self.watch_freshness(moment);
    }

    /// Attaches the entries of an append: from memory, or from the log, and then what follows waits behind it.
    pub(super) fn send_raft(&mut self, moment: Moment, to: NodeId, message: Message) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if !peer.connected {
            return;
        }
        let carries_entries = matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty());
        if carries_entries && !peer.appends.is_empty() {
            peer.appends.push_back(message);
            return;
        }
        match self.attach(&message) {
            Some(entries) => self.send_with(moment, to, message, entries),
            None => self.read_entries_for(to, message),
        }
    }

    fn attach(&self, message: &Message) -> Option<Vec<Entry>> {
        let Body::Append { entries, .. } = &message.body else { return Some(Vec::new()) };
        let find = |index: Index| {
            self.arriving
                .iter()
                .find(|entry| entry.meta.position.index == index)
                .or_else(|| self.cache.get(index))
                .cloned()
        };
        entries.iter().map(|meta| find(meta.position.index).filter(|entry| entry.meta == *meta)).collect()
    }

    fn send_with(&mut self, moment: Moment, to: NodeId, message: Message, entries: Vec<Entry>) {
        let times = self.clock.estimate(moment.now);
        let room = if self.leads() { self.cluster_room } else { self.own_room };
        let leads_in_it = self.raft.is_leader() && self.raft.term() == message.term;
        let durable = if leads_in_it { self.raft.durable() } else { Index::ZERO };
        self.send(to, PeerMessage::Raft(RaftMessage { message, entries, times, room, durable }));
    }

    fn read_entries_for(&mut self, to: NodeId, message: Message) {
        let Body::Append { entries, .. } = &message.body else { return };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let placements = self.catalog.range(first.position.index, last.position.index, u64::MAX);
        if placements.len() != entries.len() {
            // Cut off meanwhile: Raft probes anew.
            return;
        }
        let read = self.next_read_number(LogRead::Replicate { to });
        self.effects.push_back(Effect::ReadEntries { read, placements });
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.appends.push_back(message);
        }
    }

    /// Whether what is being read for a peer is no longer in the log.
    pub(super) fn replicates_below_floor(&self, to: NodeId) -> bool {
        let first = self.peers.get(&to).and_then(|peer| match &peer.appends.front()?.body {
            Body::Append { entries, .. } => entries.first(),
            _ => None,
        });
        first.is_none_or(|first| first.position.index <= self.raft.log().floor().index)
    }

    /// Entries for a lagging peer were read back.
    pub(super) fn handle_replicated(&mut self, moment: Moment, to: NodeId, entries: Vec<Entry>) {
        let Some(message) = self.peers.get_mut(&to).and_then(|peer| peer.appends.pop_front()) else { return };
        let is_it = matches!(&message.body, Body::Append { entries: metas, .. }
            if metas.iter().eq(entries.iter().map(|entry| &entry.meta)));
        if is_it {
            self.send_with(moment, to, message, entries);
        }
        let behind = self.peers.get_mut(&to).map(|peer| std::mem::take(&mut peer.appends)).unwrap_or_default();
        for message in behind {
            self.send_raft(moment, to, message);
        }
    }

    /// Where this node's sessions hand their commands. Another leader, or a new connection to the same one, is handed
    /// everything that is not yet seen applied.
    pub(super) fn find_upstream(&mut self, moment: Moment) {
        let term = self.raft.term();
        let found = match self.raft.leader().filter(|_| self.raft.is_admitted()) {
            Some(leader) if leader == self.config.node => self.leading.is_some().then_some((leader, term)),
            Some(leader) => self.peers.get(&leader).filter(|peer| peer.connected).map(|_| (leader, term)),
            None => None,
        };
        if found == self.upstream {
            return;
        }
        self.upstream = found;
        self.forward.clear();
        self.steps.reporting = None;
        self.steps.handle_left_taken();
        if found.is_none() {
            self.upstream_lost.get_or_insert(moment.now);
            return;
        }
        self.upstream_lost = None;
        self.hand_everything_over(moment);
    }

    fn hand_everything_over(&mut self, moment: Moment) {
        self.report_marker();
        if let Some(boot) = self.sessions.boot_command() {
            self.deliver(boot);
        }
        self.report_went_back();
        let outstanding: Vec<_> = self.sessions.resend().collect();
        for encoded in outstanding {
            self.deliver(encoded);
        }
        self.begin_reporting();
        self.ask_again(moment);
        for Unsent { connection, ticket, operation, .. } in self.sessions.take_unsent() {
            self.handle_operation(moment, connection, ticket, operation);
        }
    }

    fn renew_wait(&mut self, moment: Moment, connection: super::effect::ConnectionId) {
        let Some((_, term)) = self.upstream else { return };
        let Some(key) = self.sessions.wait_key(connection) else { return };
        let Some(wait) = self.sessions.wait_mut(connection) else { return };
        let end = Ended { key, registration: wait.registration };
        match (wait.withdrawn, wait.registered) {
            (None, _) => self.register_wait(moment, connection),
            (Some(why), Some(registered)) if registered == term => {
                self.ask_to_withdraw(moment, end, why, registered);
            }
            (Some(_), Some(_)) => {}
            (Some(_), None) => self.end_wait(moment, connection),
        }
    }

    /// The leader's part: what a node's connections reference.
    pub(super) fn handle_references(&mut self, node: NodeId, part: ReferencePart, changes: &[ReferenceDelta]) {
        let Some(leading) = self.leading.as_mut() else { return };
        let machine = &self.machine;
        let unreferenced = leading.references.handle_report(node, part, changes, |tube| machine.is_inhabited(tube));
        if part.ends() {
            // It may be the report that was missing.
            leading.sweep.want();
        }
        for tube in unreferenced {
            self.drop_tube_if_unused(&tube);
        }
    }

    /// The leader's part: tells a wait's node that no RESERVE for it can come any more.
    pub(super) fn confirm_wait_ended(&mut self, moment: Moment, end: Ended) {
        let Some(leading) = self.leading.as_mut() else { return };
        if !leading.settled {
            leading.unconfirmed.push(end);
            return;
        }
        let (term, applied) = (leading.term, self.applied.index);
        let Ended { key: (session, seq), registration } = end;
        if session.node == self.config.node {
            self.handle_wait_ended(moment, term, end, applied);
        } else {
            self.send(session.node, PeerMessage::WaitEnded { term, session, seq, registration, applied });
        }
    }

    /// Only the last registration counts: the leader still knows of it when an earlier one's end is heard of.
    fn handle_wait_ended(&mut self, moment: Moment, term: Term, end: Ended, applied: Index) {
        let Some(connection) = self.sessions.connection_of(end.key.0) else { return };
        if self.sessions.wait_key(connection) != Some(end.key) {
            return;
        }
        let is_it = |wait: &&mut LocalWait| wait.registered == Some(term) && wait.registration == end.registration;
        if self.sessions.wait_mut(connection).filter(is_it).is_some() {
            let registration = end.registration;
            self.ended_waits.push(EndedWait { index: applied, term, connection, registration });
            self.confirm_ended_waits(moment);
        }
    }

    /// What this turn gathered for the leader leaves in as few messages as can hold it.
    pub(super) fn send_gathered(&mut self) {
        let Some((leader, term)) = self.upstream.filter(|(leader, _)| *leader != self.config.node) else { return };
        if !self.reference_changes.is_empty() {
            let changes = std::mem::take(&mut self.reference_changes);
            for changes in changes.chunks(REFERENCES_MAX) {
                let (part, changes) = (ReferencePart::Changes, changes.to_vec());
                self.send(leader, PeerMessage::References { term, part, changes });
            }
        }
        let mut gathered = std::mem::take(&mut self.forward).into_iter().peekable();
        while gathered.peek().is_some() {
            let (mut commands, mut bytes) = (Vec::new(), 0);
            while let Some(command) = gathered.next_if(|next| bytes == 0 || bytes + next.len() <= COMMANDS_BYTES_MAX) {
                bytes += command.len();
                commands.push(command);
            }
            self.send(leader, PeerMessage::Commands { term, commands });
        }
    }
}
