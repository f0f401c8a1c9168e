//! What other nodes say, and what is said to them: Raft's messages with their entries attached, and the sessions' commands,
//! waits, reads and references on their way to the leader.

use std::collections::VecDeque;

use super::effect::Effect;
use super::leading::is_forwardable;
use super::reads::LogRead;
use super::references;
use super::{EndedWait, Moment, Shard};
use crate::job::command::TubeList;
use crate::net::message::{PeerMessage, RaftMessage, ReferenceDelta};
use crate::raft::message::{Body, Message};
use crate::types::{Index, NodeId, SessionId};
use crate::wal::entry::Entry;

/// One peer's connection as the shard sees it.
#[derive(Debug, Default)]
pub struct Peer {
    pub connected: bool,
    /// Appends whose entries are being read back, and those behind them: they leave in order.
    appends: VecDeque<Message>,
}

impl Shard {
    /// Messages to this peer get through from now on; what was sent before may be lost.
    pub fn handle_peer_up(&mut self, moment: Moment, peer: NodeId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.connected = true;
        self.raft.handle_peer_up(moment.now, peer);
        self.follow_raft(moment);
        if self.raft.leader() == Some(peer) {
            self.upstream = None;
            self.find_upstream(moment);
        }
    }

    /// The connection to this peer is gone; `refused`: nobody listens there any more.
    pub fn handle_peer_lost(&mut self, moment: Moment, peer: NodeId, refused: bool) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.connected = false;
        state.appends.clear();
        self.find_upstream(moment);
        self.raft.handle_peer_lost(moment.now, peer, refused);
        self.follow_raft(moment);
    }

    /// The peer's own connection to this node is gone, and with it what it registered here.
    pub fn handle_incoming_lost(&mut self, peer: NodeId) {
        if let Some(leading) = self.leading.as_mut() {
            leading.forget_node(peer);
        }
    }

    pub fn handle_message(&mut self, moment: Moment, from: NodeId, message: PeerMessage) {
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
            PeerMessage::Wait { term, session, seq, poll, tubes } => {
                if self.leads_in(term) && session.node == from && TubeList::decode(&tubes).is_ok() {
                    self.register(moment, (session, seq), tubes, poll);
                }
            }
            PeerMessage::Withdraw { term, session, seq } => {
                if self.leads_in(term) {
                    self.handle_withdraw(moment, (session, seq));
                }
            }
            PeerMessage::WaitEnded { term, session, seq, applied } => {
                self.handle_wait_ended(moment, term, session, seq, applied);
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
            PeerMessage::References { term, whole, changes } => {
                if self.leads_in(term) {
                    self.handle_references(from, whole, &changes);
                }
            }
        }
    }

    fn leads_in(&self, term: crate::types::Term) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.term == term)
    }

    fn handle_raft(&mut self, moment: Moment, from: NodeId, message: RaftMessage) {
        self.arriving = message.entries;
        self.raft.handle_message(moment.now, from, message.message);
        if self.raft.leader() == Some(from) {
            self.clock.handle_stamp(moment.now, message.times);
            self.cluster_room = message.room;
        } else if let Some(leading) = self.leading.as_mut() {
            leading.room.insert(from, message.room);
            self.count_room();
        }
        self.follow_raft(moment);
        self.arriving.clear();
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
        self.send(to, PeerMessage::Raft(RaftMessage { message, entries, times, room }));
    }

    fn read_entries_for(&mut self, to: NodeId, message: Message) {
        let Body::Append { entries, .. } = &message.body else { return };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let placements = self.index.range(first.position.index, last.position.index, u64::MAX);
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
        let found = match self.raft.leader() {
            Some(leader) if leader == self.config.node => self.leading.is_some().then_some((leader, term)),
            Some(leader) => self.peers.get(&leader).filter(|peer| peer.connected).map(|_| (leader, term)),
            None => None,
        };
        if found == self.upstream {
            return;
        }
        self.upstream = found;
        self.forward.clear();
        if found.is_none() {
            self.upstream_lost.get_or_insert(moment.now);
            return;
        }
        self.upstream_lost = None;
        self.hand_everything_over(moment);
    }

    fn hand_everything_over(&mut self, moment: Moment) {
        if let Some(boot) = self.sessions.boot_command() {
            self.deliver(boot);
        }
        let outstanding: Vec<_> = self.sessions.resend().collect();
        for encoded in outstanding {
            self.deliver(encoded);
        }
        self.reference_changes.clear();
        self.report_references();
        for connection in self.sessions.waiting() {
            self.renew_wait(moment, connection);
        }
        self.ask_for_reads(moment);
        for (connection, ticket, operation) in self.sessions.take_unsent() {
            self.handle_operation(moment, connection, ticket, operation);
        }
    }

    fn renew_wait(&mut self, moment: Moment, connection: super::effect::ConnectionId) {
        let Some((_, term)) = self.upstream else { return };
        let Some(key) = self.sessions.wait_key(connection) else { return };
        let Some(wait) = self.sessions.wait_mut(connection) else { return };
        match (wait.withdrawn, wait.registered) {
            (None, _) => self.register_wait(moment, connection),
            (Some(_), Some(registered)) if registered == term => self.ask_to_withdraw(moment, key, registered),
            (Some(_), Some(_)) => {}
            (Some(_), None) => self.end_wait(moment, connection),
        }
    }

    fn report_references(&mut self) {
        let report = references::report(&self.references);
        if self.leads() {
            self.handle_references(self.config.node, true, &report);
        } else if let Some((leader, term)) = self.upstream {
            self.send(leader, PeerMessage::References { term, whole: true, changes: report });
        }
    }

    /// The leader's part: what a node's connections reference.
    pub(super) fn handle_references(&mut self, node: NodeId, whole: bool, changes: &[ReferenceDelta]) {
        let Some(leading) = self.leading.as_mut() else { return };
        let unreferenced = leading.references.handle_report(node, whole, changes);
        let candidates = if whole { self.machine.tubes().cloned().collect() } else { unreferenced };
        for tube in candidates {
            self.drop_tube_if_unused(&tube);
        }
    }

    /// The leader's part: tells a wait's node that no RESERVE for it can come any more.
    pub(super) fn confirm_wait_ended(&mut self, moment: Moment, session: SessionId, seq: u64) {
        let Some(leading) = self.leading.as_mut() else { return };
        if !leading.settled {
            leading.unconfirmed.push((session, seq));
            return;
        }
        let (term, applied) = (leading.term, self.applied.index);
        if session.node == self.config.node {
            self.handle_wait_ended(moment, term, session, seq, applied);
        } else {
            self.send(session.node, PeerMessage::WaitEnded { term, session, seq, applied });
        }
    }

    fn handle_wait_ended(
        &mut self,
        moment: Moment,
        term: crate::types::Term,
        session: SessionId,
        seq: u64,
        applied: Index,
    ) {
        let Some(connection) = self.sessions.connection_of(session) else { return };
        if self.sessions.wait_key(connection) != Some((session, seq)) {
            return;
        }
        let Some(wait) = self.sessions.wait_mut(connection).filter(|wait| wait.registered == Some(term)) else {
            return;
        };
        let ticket = wait.ticket;
        self.ended_waits.push(EndedWait { index: applied, term, connection, ticket });
        self.confirm_ended_waits(moment);
    }

    /// What this turn gathered for the leader leaves as one message each.
    pub(super) fn send_gathered(&mut self) {
        let Some((leader, term)) = self.upstream.filter(|(leader, _)| *leader != self.config.node) else { return };
        if !self.reference_changes.is_empty() {
            let changes = std::mem::take(&mut self.reference_changes);
            self.send(leader, PeerMessage::References { term, whole: false, changes });
        }
        if !self.forward.is_empty() {
            let commands = std::mem::take(&mut self.forward);
            self.send(leader, PeerMessage::Commands { term, commands });
        }
    }
}
