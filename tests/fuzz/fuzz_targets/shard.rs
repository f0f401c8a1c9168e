//! A shard under everything that peers can say: whatever decodes, in any order, between clients' operations, completions
//! and time, never makes it panic. It may stop with a reason.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use beaver_raft::api::Operation;
use beaver_raft::api::beanstalkd::output_budget::AnswerBudget;
use beaver_raft::job::Machine;
use beaver_raft::job::codec::{body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Class, Command, Numbered, Origin, TubeList};
use beaver_raft::net::codec;
use beaver_raft::net::frame::{FrameBuilder, FrameKind, HEADER_BYTES};
use beaver_raft::net::message::{
    Fetch, Fetched, Held, PeerMessage, RaftMessage, ReadAbout, ReferenceDelta, ReferencePart, Soft,
};
use beaver_raft::raft::message::{Body, Message, Vote};
use beaver_raft::raft::{Config, Log, Membership};
use beaver_raft::shard::effect::{Append, ConnectionId, Effect, Keep};
use beaver_raft::shard::{Moment, Recovered, Shard, ShardConfig};
use beaver_raft::types::*;
use beaver_raft::wal::catalog::EnqueueAt;
use beaver_raft::wal::entry::{Draft, Entry, EntryKind, LogIdentity, origin_chain};
use beaver_raft::wal::footer::Footer;
use beaver_raft::wal::index::{LogIndex, Placement, SegmentNumber};
use beaver_raft::wal::rows::Rows;
use beaver_raft_fuzz::input::Input;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(7), shard: ShardId(0) };
const ME: NodeId = NodeId(1);
const BOOT: BootEpoch = BootEpoch(3);
const TUBES: [&[u8]; 3] = [b"default", b"a", b"b"];

struct World {
    shard: Shard,
    now: Nanos,
    /// What the shard has appended, written or not.
    entries: Vec<Entry>,
    appends: VecDeque<Append>,
    votes: VecDeque<Vote>,
    /// The term and next job, as an honest leader would believe them.
    term: u64,
    next_ticket: u64,
    /// Reserves without an answer: a connection has one at a time.
    reserving: BTreeMap<ConnectionId, u64>,
    stopped: bool,
}

impl World {
    fn new() -> World {
        let now = Nanos::from_secs(1);
        let config = ShardConfig {
            node: ME,
            boot: BOOT,
            log: LOG,
            raft: Config::new(ME),
            membership: Membership::new([1, 2, 3].map(NodeId), []).expect("three voters"),
            entry_bytes_target: 400,
            cache_bytes_max: 1000,
            lagging_bytes_max: 0,
            outstanding_bytes_max: 1 << 20,
            answers: Arc::new(AnswerBudget::new(1 << 30)),
            marker_bytes: 600,
            no_quorum_timeout: Nanos::from_secs(5),
            preferred_leader: None,
            seed: 1,
        };
        let recovered = Recovered {
            vote: Vote::default(),
            machine: Machine::new(),
            log: Log::new(LogPosition::ORIGIN, origin_chain(&LOG)),
            pieces: Vec::new(),
            index: LogIndex::default(),
            rows: Rows::default(),
            committed: Index::ZERO,
            last_times: Times::default(),
        };
        let moment = Moment { now, wall: now };
        let shard = Shard::new(config, recovered, moment);
        let mut world = World {
            shard,
            now,
            entries: Vec::new(),
            appends: VecDeque::new(),
            votes: VecDeque::new(),
            term: 0,
            next_ticket: 1,
            reserving: BTreeMap::new(),
            stopped: false,
        };
        for peer in [2, 3].map(NodeId) {
            world.with(|shard, moment| shard.handle_peer_up(moment, peer));
        }
        world
    }

    fn with(&mut self, event: impl FnOnce(&mut Shard, Moment)) {
        let moment = Moment { now: self.now, wall: self.now };
        event(&mut self.shard, moment);
        self.turn();
    }

    fn turn(&mut self) {
        let moment = Moment { now: self.now, wall: self.now };
        loop {
            if self.shard.next_deadline(moment) <= moment.now {
                self.shard.handle_time(moment);
            }
            self.shard.flush(moment);
            let effects: Vec<Effect> = std::iter::from_fn(|| self.shard.poll_effect()).collect();
            if effects.is_empty() || self.stopped {
                break;
            }
            effects.into_iter().for_each(|effect| self.carry_out(effect, moment));
        }
        self.term = self.shard.raft().term().0;
    }

    fn carry_out(&mut self, effect: Effect, moment: Moment) {
        match effect {
            Effect::SaveVote(vote) => self.votes.push_back(vote),
            Effect::Append(append) => {
                if let Some(after) = append.truncate_after {
                    self.entries.truncate(after.0 as usize);
                }
                self.entries.extend(append.entries.iter().cloned());
                self.appends.push_back(append);
            }
            Effect::Send { message, .. } => drop(pass(&message).expect("what a shard says is understood")),
            Effect::Answer { connection, ticket, .. } => {
                if self.reserving.get(&connection) == Some(&ticket) {
                    self.reserving.remove(&connection);
                }
            }
            Effect::ReadEntries { read, placements } => {
                let found = placements.iter().map(|place| self.entry_at(place).ok_or_else(|| "cut off".to_owned()));
                let found = found.collect();
                self.shard.handle_entries_read(moment, read, found);
            }
            Effect::ReadCommand { read, at } => {
                let EnqueueAt::Log { placement, offset, bytes } = at else {
                    unreachable!("these shards have no snapshots, so nothing is moved")
                };
                let found = self.entry_at(&placement).ok_or_else(|| "cut off".to_owned());
                let command =
                    found.map(|entry| entry.payload_bytes().slice(offset as usize..(offset + bytes) as usize));
                self.shard.handle_command_read(moment, read, command);
            }
            Effect::Keep(Keep::Rows { subject, rows }) => {
                let rows = rows.finish(&subject, &LOG);
                let rows = Footer::open(rows.into(), &LOG).expect("rows just made");
                self.shard.handle_rows_mapped(Rc::new(rows));
            }
            Effect::Keep(Keep::Retain { .. } | Keep::Copies(_)) => unreachable!("these shards have no snapshots"),
            Effect::Keep(Keep::Mend(_)) => unreachable!("nothing rots in the memory of a target"),
            Effect::WriteSnapshot(_) => self.shard.handle_snapshot_written(),
            Effect::GivePiece { .. } | Effect::GiveJobs { .. } => unreachable!("this shard has no snapshot to give"),
            // Somebody offers what is never pulled.
            Effect::Install(_) => {}
            // No peer goes back here.
            Effect::ShutOut { .. } => {}
            Effect::Stop(_) => self.stopped = true,
        }
    }

    fn entry_at(&self, placement: &Placement) -> Option<Entry> {
        self.entries.get((placement.offset / 4096) as usize).cloned()
    }

    fn complete_append(&mut self) {
        let Some(append) = self.appends.pop_front() else { return };
        let place = |entry: &Entry| Placement {
            segment: SegmentNumber(1 + entry.meta.position.index.0 as u32 / 4),
            offset: (entry.meta.position.index.0 - 1) * 4096,
            bytes: entry.shared.len() as u32,
        };
        let placements: Vec<Placement> = append.entries.iter().map(place).collect();
        self.with(|shard, moment| shard.handle_appended(moment, &placements));
    }

    /// A place in the log, or anywhere.
    fn index(&self, input: &mut Input<'_>) -> Index {
        match input.below(4) {
            0 => Index(input.number()),
            back => Index((self.entries.len() as u64).saturating_sub(u64::from(back) - 1)),
        }
    }

    fn position(&self, input: &mut Input<'_>) -> LogPosition {
        let index = self.index(input);
        let known = index.0.checked_sub(1).and_then(|at| self.entries.get(usize::try_from(at).ok()?));
        match (known, input.below(8)) {
            (_, 7) => LogPosition::new(Term(input.number()), index),
            (Some(entry), _) => entry.meta.position,
            (None, _) if index == Index::ZERO => LogPosition::ORIGIN,
            (None, _) => LogPosition::new(Term(self.term), index),
        }
    }

    fn append(&self, input: &mut Input<'_>, term: u64) -> (Body, Vec<Entry>) {
        let prev = self.position(input);
        let at = usize::try_from(prev.index.0).unwrap_or(usize::MAX);
        let before = at.checked_sub(1).and_then(|at| self.entries.get(at));
        let mut chain = before.map_or(origin_chain(&LOG), |entry| entry.meta.chain);
        let mut next_job = before.map_or(JobId(1), |entry| JobId(entry.first_job.0 + u64::from(entry.job_count)));
        let (mut position, mut entries) = (prev, Vec::new());
        for _ in 0..input.below(4) {
            let kept = self.entries.get(usize::try_from(position.index.0).unwrap_or(usize::MAX));
            let entry = match kept {
                Some(kept) if kept.prev_chain == chain && input.below(3) > 0 => kept.clone(),
                _ => {
                    let (payload, job_count) = commands(input);
                    position =
                        LogPosition::new(Term(position.term.0.max(term)), Index(position.index.0.wrapping_add(1)));
                    if position.index.0 == 0 || position.index.0 >= 1 << 50 || position.term.0 >= 1 << 50 {
                        break;
                    }
                    let lies = input.below(16) == 15;
                    let draft = Draft {
                        position,
                        prev_chain: chain,
                        kind: if payload.is_empty() { EntryKind::NoOp } else { EntryKind::Commands },
                        times: Times { lease: self.now.saturating_add(Nanos(input.number())), wall: self.now },
                        first_job: if lies { JobId(input.number() % (1 << 50)) } else { next_job },
                        job_count: if lies { u32::from(input.byte()) } else { job_count },
                        payload: &payload,
                    };
                    Entry::encode(draft, &LOG)
                }
            };
            position = entry.meta.position;
            chain = entry.meta.chain;
            next_job = JobId(entry.first_job.0 + u64::from(entry.job_count));
            entries.push(entry);
        }
        let metas = entries.iter().map(|entry| entry.meta).collect();
        (Body::Append { prev, entries: metas, commit: self.index(input), round: input.number() }, entries)
    }

    fn raft_message(&self, input: &mut Input<'_>) -> PeerMessage {
        let term = match input.below(8) {
            0 => input.number(),
            1 => self.term + 1,
            2 => self.term.saturating_sub(1),
            _ => self.term,
        };
        let mut entries = Vec::new();
        let body = match input.below(12) {
            0 => Body::PreVoteRequest { last: self.position(input) },
            1 => Body::PreVoteReply { granted: input.below(4) > 0 },
            2 => Body::VoteRequest { last: self.position(input), transfer: input.below(2) == 1 },
            3 | 4 => Body::VoteReply { granted: input.below(4) > 0 },
            5 | 6 => Body::AppendAccepted { matched: self.index(input), round: input.number() },
            7 => Body::AppendRejected { prev: self.position(input), hint: self.position(input), round: input.number() },
            8 => Body::TimeoutNow,
            _ => {
                let (body, with) = self.append(input, term);
                entries = with;
                body
            }
        };
        let times = Times { lease: self.now.saturating_add(Nanos(input.number())), wall: self.now };
        PeerMessage::Raft(RaftMessage {
            message: Message { term: Term(term), body },
            entries,
            times,
            room: input.below(4) > 0,
            durable: self.index(input),
        })
    }

    fn session_message(&self, input: &mut Input<'_>, from: NodeId) -> PeerMessage {
        let term = if input.below(8) == 0 { Term(input.number()) } else { Term(self.term) };
        let own = input.below(3) == 0;
        let session = SessionId {
            node: if own { ME } else { from },
            boot: if own { BOOT } else { BootEpoch(1) },
            number: u64::from(input.below(4)),
        };
        let (seq, registration) = (input.number(), u64::from(input.below(6)));
        let tube = Bytes::from_static(TUBES[usize::from(input.below(3))]);
        let tubes = Bytes::from(encode_tubes(TUBES.iter().skip(usize::from(input.below(4))).copied()));
        match input.below(13) {
            8 => PeerMessage::MarkerDigest { term, marker: self.index(input), digest: input.number().into() },
            9 | 10 => PeerMessage::Fetch(Fetch {
                first: self.index(input),
                last: self.index(input),
                chain: self.chain(input),
            }),
            11 | 12 => PeerMessage::Fetched(Fetched {
                last: self.index(input),
                chain: self.chain(input),
                leads: (input.below(2) == 0).then_some(term),
                held: match input.below(5) {
                    0 => Held::Faulty,
                    1 => Held::Absent,
                    2 => Held::Unknown,
                    _ => Held::Entries(self.stretch(input)),
                },
            }),
            0 | 1 => PeerMessage::Wait { term, session, seq, registration, poll: input.below(2) == 0, tubes },
            2 => PeerMessage::Withdraw { term, session, seq, registration, at_once: input.below(2) == 0 },
            3 => PeerMessage::WaitEnded { term, session, seq, registration, applied: self.index(input) },
            4 => {
                let about = match input.below(5) {
                    0 => ReadAbout::State,
                    1 => ReadAbout::Tube(tube),
                    2 => ReadAbout::TubeCount,
                    3 => ReadAbout::BareTubes { after: None },
                    _ => ReadAbout::BareTubes { after: Some(tube) },
                };
                PeerMessage::Read { term, read: input.number(), about }
            }
            5 => {
                let soft = match input.below(4) {
                    0 => Soft::Nothing,
                    1 => Soft::Tube { using: input.number(), watching: input.number(), waiting: input.number() },
                    2 => Soft::TubeCount(input.number()),
                    _ => Soft::BareTubes { names: vec![tube], is_more: input.below(2) == 0 },
                };
                PeerMessage::ReadAnswer { term, read: input.number(), index: self.index(input), soft }
            }
            6 => {
                let (using, watching) = (input.number() as i64, input.number() as i64);
                let changes = vec![ReferenceDelta { tube, using, watching }];
                let part = match input.below(2) {
                    0 => ReferencePart::Changes,
                    _ => ReferencePart::of_report(input.below(2) == 0, input.below(2) == 0),
                };
                PeerMessage::References { term, part, changes }
            }
            _ => {
                let count = input.below(4);
                let mut commands: Vec<Bytes> = (0..=count).map(|_| Bytes::from(command(input, from))).collect();
                commands.extend((input.below(16) == 0).then_some(tubes));
                PeerMessage::Commands {
                    term,
                    commands: commands.into_iter().filter(|bytes| !bytes.is_empty()).collect(),
                }
            }
        }
    }

    /// Of an entry that is here, or of none.
    fn chain(&self, input: &mut Input<'_>) -> Option<ChainHash> {
        match input.below(4) {
            0 => None,
            1 => Some(ChainHash(input.number().into())),
            _ => {
                let at = usize::try_from(self.index(input).0).unwrap_or(usize::MAX);
                self.entries.get(at).map(|entry| entry.meta.chain)
            }
        }
    }

    /// Entries that are here, one behind the other.
    fn stretch(&self, input: &mut Input<'_>) -> Vec<Entry> {
        let from = usize::try_from(self.index(input).0).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries[from..].iter().take(1 + usize::from(input.below(3))).cloned().collect()
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let connection = ConnectionId(u64::from(input.below(3)));
        if input.below(8) == 0 {
            self.reserving.remove(&connection);
            return self.with(|shard, moment| shard.handle_closed(moment, connection));
        }
        let (tube, job) =
            (Bytes::from_static(TUBES[usize::from(input.below(3))]), JobId(u64::from(input.below(9)) + 1));
        let operation = match input.below(14) {
            0..3 => Operation::Put {
                tube,
                priority: u32::from(input.below(4)),
                delay_s: u32::from(input.below(8)).saturating_sub(5),
                ttr_s: u32::from(input.below(4)),
                body: Bytes::from(vec![b'x'; usize::from(input.byte()) * usize::from(input.below(4))]),
            },
            3..5 => Operation::Reserve { tubes: vec![tube], poll: input.below(2) == 0 },
            5 => Operation::Withdraw { ticket: self.next_ticket.saturating_sub(u64::from(input.below(4))) },
            6 => Operation::Delete { job },
            7 => Operation::ReserveJob { job },
            8 => Operation::Release { job, priority: 1, delay_s: u32::from(input.below(2)) },
            9 => Operation::Bury { job, priority: 1 },
            10 => Operation::Peek { job },
            11 => Operation::Kick { tube, bound: input.number() },
            12 => Operation::StatsTube { tube },
            _ => Operation::ListTubes,
        };
        let ticket = self.next_ticket;
        if matches!(operation, Operation::Reserve { .. }) {
            if self.reserving.contains_key(&connection) {
                return;
            }
            self.reserving.insert(connection, ticket);
        }
        self.next_ticket += 1;
        self.with(|shard, moment| shard.handle_operation(moment, connection, ticket, operation));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let from = NodeId(2 + input.below(2));
        match input.below(16) {
            0..6 => {
                if let Some(message) = pass(&self.raft_message(input)) {
                    self.with(|shard, moment| shard.handle_message(moment, from, message));
                }
            }
            6..8 => {
                if let Some(message) = pass(&self.session_message(input, from)) {
                    self.with(|shard, moment| shard.handle_message(moment, from, message));
                }
            }
            8..10 => self.operate(input),
            10 => self.complete_append(),
            11 => {
                if let Some(vote) = self.votes.pop_front() {
                    self.with(|shard, moment| shard.handle_vote_saved(moment, vote));
                }
            }
            12 | 13 => {
                self.now = Nanos(self.now.0 + u64::from(input.byte()) * 4_000_000);
                self.turn();
            }
            14 => match input.below(4) {
                0 => self.with(|shard, moment| shard.handle_peer_lost(moment, from, false)),
                1 => self.with(|shard, _| shard.handle_incoming_lost(from)),
                2 => self.with(|shard, _| shard.handle_incoming_up(from)),
                _ => self.with(|shard, moment| shard.handle_peer_up(moment, from)),
            },
            _ => match input.below(3) {
                0 => self.with(|shard, _| shard.handle_room(false)),
                1 => self.with(|shard, moment| {
                    let _ = shard.transfer_leadership(moment);
                }),
                _ => self.with(|shard, moment| shard.handle_disk_stalled(moment)),
            },
        }
    }
}

/// Through the codec: only what a peer's bytes can mean arrives.
fn pass(message: &PeerMessage) -> Option<PeerMessage> {
    let mut builder = FrameBuilder::new();
    codec::encode(message, &mut builder);
    let frame = builder.finish(FrameKind::Message, 32 << 20).expect("short");
    codec::decode(Bytes::from(frame.chunks.concat()).slice(HEADER_BYTES..), &LOG).ok()
}

fn command(input: &mut Input<'_>, node: NodeId) -> Vec<u8> {
    let body = [b'b'; 3];
    let tube = TUBES[usize::from(input.below(3))];
    let class = Class { tube, priority: u32::from(input.below(4)), ttr_s: 1, delay_s: 0 };
    let tubes = encode_tubes(TUBES.iter().copied());
    let job = JobId(u64::from(input.below(9)));
    let command = match input.below(12) {
        0..3 => Command::Enqueue { class, body_hash: body_hash(&body), body: &body },
        3 => Command::SessionOpen,
        4 => Command::SessionClosed,
        5 => Command::Reserve { tubes: TubeList { encoded: &tubes } },
        6 => Command::Delete { job, class: None },
        7 => Command::ReserveJob { job, class: Some(class) },
        8 => Command::Pause { tube, duration_s: u32::from(input.below(3)), referenced: true },
        9 => Command::TubeDrop { tube },
        10 => Command::NodeBoot { node, boot: BootEpoch(u64::from(input.below(5))) },
        _ => Command::Unreserve { job, epoch: input.number() },
    };
    let origin = match command {
        Command::TubeDrop { .. } | Command::NodeBoot { .. } => Origin::System,
        _ => {
            let number = u64::from(input.below(4));
            let session = SessionId { node, boot: if node == ME { BOOT } else { BootEpoch(1) }, number };
            let seq = if command == Command::SessionOpen { 0 } else { u64::from(input.below(5)) };
            Origin::Session { session, seq }
        }
    };
    let mut encoded = Vec::new();
    encode(&Numbered { origin, command }, &mut encoded);
    encoded
}

/// A payload of commands of any node, and how many jobs it holds.
fn commands(input: &mut Input<'_>) -> (Vec<u8>, u32) {
    let (mut payload, mut jobs) = (Vec::new(), 0);
    for _ in 0..input.below(4) {
        let encoded = command(input, NodeId(1 + input.clone().below(3)));
        jobs += u32::from(encoded[0] == 1);
        payload.extend_from_slice(&encoded);
    }
    (payload, jobs)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mut world = World::new();
    while !input.is_empty() && !world.stopped {
        world.step(&mut input);
        if !world.stopped {
            world.shard.machine().verify();
        }
    }
});
