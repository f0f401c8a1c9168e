//! A client's connection: never panics, always comes to an end, and tells a client the same whatever pieces its bytes came
//! in and in whatever order the shards answered.
#![no_main]

use std::sync::Arc;

use beaver_raft::api::beanstalkd::body_budget::BodyLimits;
use beaver_raft::api::beanstalkd::connection::Connection;
use beaver_raft::api::beanstalkd::front_door::{FrontDoor, NodeFacts, ResourceUsage};
use beaver_raft::api::beanstalkd::outbox::ShardRequest;
use beaver_raft::api::beanstalkd::output_budget::OutputLimits;
use beaver_raft::api::{Answer, Operation, ShardStats, TubeLines};
use beaver_raft::types::{JobId, Nanos, ShardId};
use beaver_raft_fuzz::input::Input;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const SHARDS: u16 = 3;
const BODY_BYTES_MAX: u32 = 64;

/// A question to a shard that is not answered yet. `None`: a wait, which is answered when it is withdrawn.
type Open = (ShardId, u64, Option<Answer>);

struct Conversation {
    door: Arc<FrontDoor>,
    connection: Connection,
    now: Nanos,
    open: Vec<Open>,
    told: Vec<u8>,
    is_writing: bool,
}

impl Conversation {
    fn new() -> Conversation {
        let facts = NodeFacts {
            pid: 1,
            version: "0",
            instance: 1,
            hostname: "host".to_owned(),
            os: "os".to_owned(),
            platform: "platform".to_owned(),
            started: Nanos(0),
            segment_bytes_max: 1 << 20,
            has_binlog: true,
            resource_usage: ResourceUsage::default,
        };
        let bodies = BodyLimits { bytes_max: BODY_BYTES_MAX, together_bytes_max: 1 << 20 };
        let outputs = OutputLimits { together_bytes_max: 1 << 20, stall: Nanos::from_secs(1) };
        let door = Arc::new(FrontDoor::new(SHARDS, 1, bodies, outputs, facts));
        let connection = Connection::new(Arc::clone(&door), 0);
        Conversation { door, connection, now: Nanos(1), open: Vec::new(), told: Vec::new(), is_writing: false }
    }

    fn settle(&mut self) {
        while let Some(ShardRequest { shard, ticket, operation }) = self.connection.poll_request() {
            match operation {
                Operation::Reference { .. } | Operation::Leave { .. } => {}
                Operation::Withdraw { ticket } => {
                    let wait = self.open.iter_mut().find(|open| open.0 == shard && open.1 == ticket);
                    wait.expect("only what waits is withdrawn, and once").2 = Some(Answer::NothingReady);
                }
                other => self.open.push((shard, ticket, decide(&other))),
            }
        }
        if !self.is_writing && self.connection.has_output() {
            self.told.extend(self.connection.take_output().concat());
            self.is_writing = true;
        }
    }

    fn answer(&mut self, place: usize) {
        let answered: Vec<usize> = (0..self.open.len()).filter(|&at| self.open[at].2.is_some()).collect();
        if let Some(&at) = answered.get(place % answered.len().max(1)) {
            let (shard, ticket, answer) = self.open.remove(at);
            self.connection.handle_answer(self.now, shard, ticket, answer.expect("just filtered"));
        }
    }

    fn step(&mut self, what: u8, pieces: &mut impl Iterator<Item = Bytes>) {
        match what % 8 {
            0..3 if self.connection.wants_read() => match pieces.next() {
                Some(piece) => self.connection.handle_bytes(self.now, piece),
                None => self.connection.handle_eof(self.now),
            },
            3..6 => self.answer(usize::from(what / 8)),
            6 if self.is_writing => {
                self.is_writing = false;
                self.connection.handle_written(self.now);
            }
            7 => {
                self.now = self.now.max(self.connection.next_deadline().unwrap_or(self.now));
                self.connection.handle_time(self.now);
            }
            _ => {}
        }
        self.settle();
    }

    fn finish(mut self, mut pieces: impl Iterator<Item = Bytes>) -> Vec<u8> {
        let mut rounds = 0;
        while !self.connection.wants_close() || self.is_writing || self.connection.has_output() {
            for what in [0, 3, 11, 6, 7] {
                self.step(what, &mut pieces);
            }
            rounds += 1;
            assert!(rounds < 100_000, "the conversation does not end");
        }
        self.connection.close();
        assert_eq!(self.door.counts().body_bytes, 0, "all that bodies took is given back");
        self.told
    }
}

/// The same answer to the same question; none to a wait.
fn decide(operation: &Operation) -> Option<Answer> {
    Some(match operation {
        Operation::Reserve { poll: false, .. } => return None,
        Operation::Reserve { .. } => Answer::NothingReady,
        Operation::Put { body, .. } if body.len() % 7 == 3 => Answer::OutOfMemory,
        Operation::Put { body, .. } if body.len() % 7 == 4 => Answer::TryElsewhere,
        Operation::Put { body, .. } => Answer::Inserted { job: JobId(body.len() as u64 + 1) },
        Operation::ReserveJob { job } if job.0 % 2 == 0 => {
            Answer::Reserved { job: *job, epoch: 1, body: Bytes::from_static(b"reserved") }
        }
        Operation::Peek { job } => Answer::Found { job: *job, body: Bytes::from(vec![b'x'; 3000]) },
        Operation::Delete { .. } => Answer::Deleted,
        Operation::Kick { bound, .. } => Answer::Kicked { count: *bound },
        Operation::Pause { .. } => Answer::Paused,
        Operation::Stats => Answer::ShardStats(Box::new(ShardStats::default())),
        Operation::ListTubes => Answer::Tubes(TubeLines::default()),
        _ => Answer::NotFound,
    })
}

/// `stats` shows how much time passed, which the order of events decides.
fn without_uptime(told: &[u8]) -> Vec<&[u8]> {
    let lines = told.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.starts_with(b"uptime:") && !line.starts_with(b"OK ")).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let count = usize::from(input.below(64));
    let steps = input.bytes(count).to_vec();
    let length = usize::from(input.byte()) + 1;
    let stream = Bytes::copy_from_slice(input.remainder());
    let at_once = Conversation::new().finish(std::iter::once(stream.clone()));
    let mut pieces = stream.chunks(length).map(Bytes::copy_from_slice);
    let mut conversation = Conversation::new();
    conversation.settle();
    for what in steps {
        conversation.step(what, &mut pieces);
    }
    let piecemeal = conversation.finish(pieces);
    assert_eq!(without_uptime(&at_once), without_uptime(&piecemeal));
});
