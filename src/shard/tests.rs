//! A world for shards: some of them in one thread, with a disk each that completes what it is told to, and wires that deliver
//! and break when they are told to. Everything else here is a test in it.

mod answer_rooms;
mod behind;
mod chaos;
mod due;
mod markers;
mod placement;
mod serving;
mod surveys;
mod trouble;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::effect::{Append, ConnectionId, Effect, Keep, SnapshotDraft, Stop};
use super::*;
use crate::api::{Answer, Operation};
use crate::io::AlignedBuf;
use crate::snapshot::{Contents, Frame, archive};
use crate::types::{BootEpoch, ClusterId, JobId};
use crate::wal::catalog::EnqueueAt;
use crate::wal::entry::origin_chain;
use crate::wal::footer::Footer;
use crate::wal::index::SegmentNumber;

const IDENTITY: LogIdentity = LogIdentity { cluster: ClusterId(7), shard: ShardId(0) };

/// One node's disk: what is durable, and writes that are under way.
#[derive(Default)]
struct TestDisk {
    /// Of which entry it has a snapshot.
    snapshot: Option<Index>,
    entries: Vec<Entry>,
    vote: Vote,
    committed: Index,
    appends: VecDeque<Append>,
    votes: VecDeque<Vote>,
}

impl TestDisk {
    fn placement(index: Index, entry: &Entry) -> Placement {
        let bytes = u32::try_from(entry.shared.len()).expect("small");
        // Segments are short, so that their rows leave memory all the time.
        Placement { segment: SegmentNumber(1 + index.0 as u32 / 6), offset: (index.0 - 1) * 4096, bytes }
    }

    fn complete(&mut self, append: Append) -> Vec<Placement> {
        if let Some(after) = append.truncate_after {
            self.entries.truncate(after.0 as usize);
        }
        let placed = append.entries.iter().map(|entry| Self::placement(entry.meta.position.index, entry)).collect();
        for entry in append.entries {
            assert_eq!(entry.meta.position.index.0, self.entries.len() as u64 + 1, "the log is contiguous");
            self.entries.push(entry);
        }
        self.committed = append.commit.min(Index(self.entries.len() as u64));
        placed
    }
}

/// The machine that a snapshot holds.
fn restore((frame, body): &(Frame, Vec<u8>)) -> Machine {
    let mut aligned = AlignedBuf::zeroed(body.len());
    aligned[..body.len()].copy_from_slice(body);
    let image = archive::image(frame.kind, &aligned[..body.len()]).expect("it was archived");
    Machine::restore(image, frame.digest).expect("it was captured")
}

struct World {
    rng: ChaCha8Rng,
    now: Nanos,
    shards: BTreeMap<NodeId, Shard>,
    disks: BTreeMap<NodeId, TestDisk>,
    boots: BTreeMap<NodeId, u64>,
    /// Messages under way by (from, to); a connection that breaks loses them.
    wires: BTreeMap<(NodeId, NodeId), VecDeque<PeerMessage>>,
    /// Connections whose client still waits: tickets by connection.
    asked: BTreeMap<(NodeId, ConnectionId), BTreeMap<u64, Operation>>,
    answers: Vec<(NodeId, ConnectionId, u64, Operation, Answer)>,
    next_ticket: u64,
    nodes: Vec<NodeId>,
    segments_closed: u64,
    preferred_leader: Option<NodeId>,
    /// Every snapshot that any node has kept.
    snapshots: BTreeMap<Index, (Frame, Vec<u8>)>,
    restored: usize,
    cache_bytes_max: usize,
    /// No snapshot comes to an end by itself.
    writes_for_ever: bool,
    /// No read of the log ends.
    reads_hang: bool,
    /// Nodes were made wrong, and may find it out.
    expects_stops: bool,
    stops: BTreeMap<NodeId, Stop>,
}

impl World {
    fn new(seed: u64, size: u8) -> World {
        let nodes: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let mut world = World {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: Nanos::from_secs(1),
            shards: BTreeMap::new(),
            disks: nodes.iter().map(|&node| (node, TestDisk::default())).collect(),
            boots: BTreeMap::new(),
            wires: BTreeMap::new(),
            asked: BTreeMap::new(),
            answers: Vec::new(),
            next_ticket: 1,
            nodes: nodes.clone(),
            segments_closed: 0,
            preferred_leader: None,
            snapshots: BTreeMap::new(),
            restored: 0,
            cache_bytes_max: 2000,
            writes_for_ever: false,
            reads_hang: false,
            expects_stops: false,
            stops: BTreeMap::new(),
        };
        for node in nodes {
            world.start(node);
        }
        world
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now, wall: Nanos(self.now.0 + 1_000_000_000_000) }
    }

    fn start(&mut self, node: NodeId) {
        let disk = self.disks.get_mut(&node).expect("every node has a disk");
        disk.appends.clear();
        disk.votes.clear();
        let mut log = Log::new(LogPosition::ORIGIN, origin_chain(&IDENTITY));
        let (mut index, mut rows) = (LogIndex::default(), Rows::default());
        let mut last_times = Times::default();
        for entry in &disk.entries {
            let position = entry.meta.position;
            log.append(entry.meta);
            index.push(position.index, TestDisk::placement(position.index, entry), entry.first_job, entry.job_count);
            rows.push(entry).expect("what was written can be read");
            last_times = entry.times;
        }
        let boot = self.boots.entry(node).or_insert(0);
        *boot += 1;
        let config = ShardConfig {
            node,
            boot: BootEpoch(*boot),
            log: IDENTITY,
            raft: crate::raft::Config::new(node),
            membership: Membership::new(self.nodes.iter().copied(), []).expect("a membership"),
            entry_bytes_target: 400,
            cache_bytes_max: self.cache_bytes_max,
            lagging_bytes_max: 0,
            outstanding_bytes_max: 8 << 20,
            answers: Arc::new(AnswerBudget::new(1 << 30)),
            marker_bytes: 400,
            no_quorum_timeout: Nanos::from_secs(3600),
            preferred_leader: self.preferred_leader,
            seed: self.rng.next_u64(),
        };
        let machine = disk.snapshot.map_or_else(Machine::new, |index| restore(&self.snapshots[&index]));
        self.restored += usize::from(disk.snapshot.is_some());
        let committed = disk.committed.max(machine.applied().index);
        let recovered =
            Recovered { vote: disk.vote, machine, log, pieces: Vec::new(), index, rows, committed, last_times };
        let shard = Shard::new(config, recovered, self.moment());
        self.shards.insert(node, shard);
        for peer in self.nodes.clone() {
            if peer != node && self.shards.contains_key(&peer) {
                self.connect(node, peer);
                self.connect(peer, node);
            }
        }
        self.settle(node);
    }

    fn connect(&mut self, from: NodeId, to: NodeId) {
        self.wires.insert((from, to), VecDeque::new());
        let moment = self.moment();
        self.with(to, |shard| shard.handle_incoming_up(from));
        self.with(from, |shard| shard.handle_peer_up(moment, to));
    }

    fn disconnect(&mut self, from: NodeId, to: NodeId, refused: bool) {
        let moment = self.moment();
        if self.wires.remove(&(from, to)).is_some() {
            self.with(from, |shard| shard.handle_peer_lost(moment, to, refused));
            self.with(to, |shard| shard.handle_incoming_lost(from));
        }
    }

    fn kill(&mut self, node: NodeId) {
        self.shards.remove(&node);
        self.asked.retain(|(of, _), _| *of != node);
        for peer in self.nodes.clone() {
            self.disconnect(peer, node, true);
            self.wires.remove(&(node, peer));
            let is_alive = peer != node;
            if is_alive {
                self.with(peer, |shard| shard.handle_incoming_lost(node));
            }
        }
    }

    fn with(&mut self, node: NodeId, event: impl FnOnce(&mut Shard)) {
        if let Some(shard) = self.shards.get_mut(&node) {
            event(shard);
        }
        self.settle(node);
    }

    /// One turn of a node: time, flush, effects.
    fn settle(&mut self, node: NodeId) {
        let moment = self.moment();
        loop {
            let Some(shard) = self.shards.get_mut(&node) else { return };
            if shard.next_deadline(moment) <= moment.now {
                shard.handle_time(moment);
            }
            shard.flush(moment);
            let effects: Vec<Effect> = std::iter::from_fn(|| shard.poll_effect()).collect();
            if effects.is_empty() && !shard.has_steps() {
                return;
            }
            for effect in effects {
                self.carry_out(node, effect);
                if self.stops.contains_key(&node) {
                    return self.kill(node);
                }
            }
        }
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        let moment = self.moment();
        let disk = self.disks.get_mut(&node).expect("every node has a disk");
        match effect {
            Effect::SaveVote(vote) => disk.votes.push_back(vote),
            Effect::Append(append) => disk.appends.push_back(append),
            Effect::Send { to, message } => {
                if let Some(wire) = self.wires.get_mut(&(node, to)) {
                    wire.push_back(message);
                }
            }
            Effect::Answer { connection, ticket, answer } => {
                if answer == Answer::Hangup {
                    self.asked.remove(&(node, connection));
                } else if let Some(asked) = self.asked.get_mut(&(node, connection)) {
                    let operation = asked.remove(&ticket).expect("an answer comes once, to who asked");
                    self.answers.push((node, connection, ticket, operation, answer));
                }
            }
            Effect::ReadEntries { .. } if self.reads_hang => {}
            Effect::ReadEntries { read, placements } => {
                let entries = placements.iter().map(|place| disk.entries[(place.offset / 4096) as usize].clone());
                let entries = Ok(entries.collect());
                self.shards.get_mut(&node).expect("it asked").handle_entries_read(moment, read, entries);
            }
            Effect::ReadCommand { read, at } => {
                let EnqueueAt::Log { placement, offset, bytes } = at else {
                    unreachable!("these shards have no snapshots, so nothing is moved")
                };
                let payload = disk.entries[(placement.offset / 4096) as usize].payload_bytes();
                let command = payload.slice(offset as usize..(offset + bytes) as usize);
                self.shards.get_mut(&node).expect("it asked").handle_command_read(moment, read, Ok(command));
            }
            Effect::Keep(Keep::Rows { subject, rows }) => {
                let rows = Footer::open(rows.finish(&subject, &IDENTITY).into(), &IDENTITY).expect("rows just made");
                self.segments_closed += 1;
                self.shards.get_mut(&node).expect("it asked").handle_rows_mapped(Rc::new(rows));
            }
            Effect::Keep(Keep::Retain { .. } | Keep::Copies(_)) => unreachable!("these shards have no snapshots"),
            Effect::Keep(Keep::Mend(_)) => unreachable!("nothing rots in the memory of a test"),
            Effect::GivePiece { .. } | Effect::GiveJobs { .. } | Effect::Install(_) => {
                unreachable!("no log here is shortened, so nobody is behind one")
            }
            Effect::WriteSnapshot(draft) => {
                let SnapshotDraft { frame, capture } = *draft;
                let index = frame.position.index;
                assert!(index.0 as usize <= disk.entries.len(), "a snapshot stands on a log that reaches it");
                let body = Contents::Partial(capture).archive().expect("memory takes it");
                let known = self.snapshots.entry(index).or_insert_with(|| (frame.clone(), body.clone()));
                assert!(
                    *known == (frame, body) || self.expects_stops,
                    "the same index has the same bytes on every node"
                );
                disk.snapshot = Some(index);
                if !self.writes_for_ever {
                    self.shards.get_mut(&node).expect("it asked").handle_snapshot_written();
                }
            }
            Effect::ShutOut { .. } => {}
            Effect::Stop(why) => {
                assert!(self.expects_stops, "node {node} stops: {why}");
                self.stops.insert(node, why);
            }
        }
    }

    fn ask(&mut self, node: NodeId, connection: ConnectionId, operation: Operation) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asked.entry((node, connection)).or_default().insert(ticket, operation.clone());
        let moment = self.moment();
        self.with(node, |shard| shard.handle_operation(moment, connection, ticket, operation));
        ticket
    }

    fn close(&mut self, node: NodeId, connection: ConnectionId) {
        self.asked.remove(&(node, connection));
        let moment = self.moment();
        self.with(node, |shard| shard.handle_closed(moment, connection));
    }

    fn deliver(&mut self, from: NodeId, to: NodeId) -> bool {
        let Some(message) = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        let moment = self.moment();
        self.with(to, |shard| shard.handle_message(moment, from, message));
        true
    }

    fn complete_append(&mut self, node: NodeId) -> bool {
        let disk = self.disks.get_mut(&node).expect("every node has a disk");
        let Some(append) = disk.appends.pop_front() else { return false };
        let placements = disk.complete(append);
        let moment = self.moment();
        self.with(node, |shard| shard.handle_appended(moment, &placements));
        true
    }

    fn complete_vote(&mut self, node: NodeId) -> bool {
        let disk = self.disks.get_mut(&node).expect("every node has a disk");
        let Some(vote) = disk.votes.pop_front() else { return false };
        disk.vote = vote;
        let moment = self.moment();
        self.with(node, |shard| shard.handle_vote_saved(moment, vote));
        true
    }

    fn pass_time(&mut self, time: Nanos) {
        self.now = self.now.saturating_add(time);
        for node in self.nodes.clone() {
            self.settle(node);
        }
    }

    /// Everything that can happen without time does.
    fn run_dry(&mut self) {
        loop {
            let mut moved = false;
            for node in self.nodes.clone() {
                moved |= self.complete_vote(node) | self.complete_append(node);
                for peer in self.nodes.clone() {
                    moved |= self.deliver(node, peer);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        for _ in 0..4000 {
            self.run_dry();
            if done(self) {
                return;
            }
            self.pass_time(Nanos::from_millis(5));
        }
        for (node, shard) in &self.shards {
            eprintln!("node {node}: {:?}, {:?}", shard.picture(), shard.sessions);
        }
        panic!("{what} did not come about; asked: {:?}", self.asked);
    }

    fn leader(&self) -> Option<NodeId> {
        self.shards.iter().find(|(_, shard)| shard.leads() && shard.upstream.is_some()).map(|(&node, _)| node)
    }

    fn answer_to(&self, ticket: u64) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.2 == ticket).map(|answer| &answer.4)
    }

    fn call(&mut self, node: NodeId, connection: ConnectionId, operation: Operation) -> Answer {
        let ticket = self.ask(node, connection, operation);
        self.run_until("an answer", |world| world.answer_to(ticket).is_some());
        self.answer_to(ticket).cloned().expect("just seen")
    }

    /// At equal applied index the state must be equal.
    fn check_states(&self) {
        let mut seen = BTreeMap::new();
        for (node, shard) in &self.shards {
            let fingerprint = shard.machine.fingerprint();
            if let Some((other, before)) = seen.insert(shard.applied, (*node, fingerprint)) {
                assert_eq!(before, fingerprint, "nodes {other} and {node} differ at {}", shard.applied);
            }
        }
    }
}

const FIRST: ConnectionId = ConnectionId(1);
const SECOND: ConnectionId = ConnectionId(2);

fn tube() -> Bytes {
    Bytes::from_static(b"default")
}

fn other_tube() -> Bytes {
    Bytes::from_static(b"other")
}

fn put(body: &str) -> Operation {
    Operation::Put { tube: tube(), priority: 1, delay_s: 0, ttr_s: 60, body: Bytes::copy_from_slice(body.as_bytes()) }
}

fn reserve(poll: bool) -> Operation {
    Operation::Reserve { tubes: vec![tube(), other_tube()], poll }
}

fn settled(size: u8) -> World {
    let mut world = World::new(1, size);
    world.run_until("a leader", |world| world.leader().is_some());
    world
}
