//! What a client is told depends on what it sent and on what the shards decided: not on how its bytes were cut, nor on
//! when answers came, nor on how fast it reads.

use proptest::prelude::*;

use super::*;
use crate::api::TubeLines;
use crate::api::beanstalkd::front_door::tests::{bodies_up_to, facts, roomy};
use crate::api::beanstalkd::parser::tests::{cut, stream_and_cuts};

const SHARDS: u16 = 3;

/// Something that happens next, if it can.
#[derive(Debug, Clone, Copy)]
enum Event {
    Bytes,
    /// The answer to one of the questions that are out, by its place among them.
    Answer(usize),
    Written,
    Time,
}

struct Run {
    door: Arc<FrontDoor>,
    connection: Connection,
    now: Nanos,
    /// Questions that will be answered: shard, ticket, and the answer.
    open: Vec<(ShardId, u64, Answer)>,
    told: Vec<u8>,
    /// Output that the writer has taken and not written.
    writing: bool,
}

impl Run {
    fn new() -> Run {
        let door = Arc::new(FrontDoor::new(SHARDS, 1, bodies_up_to(100), roomy(), facts()));
        let connection = Connection::new(Arc::clone(&door), 0);
        Run { door, connection, now: Nanos(1), open: Vec::new(), told: Vec::new(), writing: false }
    }

    /// Collects what came of an event.
    fn settle(&mut self) {
        while let Some(ShardRequest { shard, ticket, operation }) = self.connection.poll_request() {
            match operation {
                Operation::Reference { .. } | Operation::Leave { .. } => {}
                Operation::Withdraw { ticket } => {
                    let wait = self.open.iter_mut().find(|open| open.1 == ticket).expect("a wait is withdrawn once");
                    wait.2 = Answer::NothingReady;
                }
                other => self.open.push((shard, ticket, decide(&other))),
            }
        }
        let most = OUTSTANDING_MAX + usize::from(SHARDS);
        assert!(self.open.len() <= most, "{} questions are out", self.open.len());
        if !self.writing && self.connection.has_output() {
            self.told.extend(self.connection.take_output().concat());
            self.writing = true;
        }
    }

    fn handle(&mut self, event: Event, pieces: &mut impl Iterator<Item = Vec<u8>>) {
        match event {
            Event::Bytes if self.connection.wants_read() => match pieces.next() {
                Some(piece) => self.connection.handle_bytes(self.now, piece.into()),
                None => self.connection.handle_eof(self.now),
            },
            Event::Answer(place) if !self.open.is_empty() => {
                // Waits are answered by their withdrawal only, so that no grant depends on time.
                let place = place % self.open.len();
                if self.open[place].2 != Answer::Undone {
                    let (shard, ticket, answer) = self.open.remove(place);
                    self.connection.handle_answer(self.now, shard, ticket, answer);
                }
            }
            Event::Written if self.writing => {
                self.writing = false;
                self.connection.handle_written(self.now);
            }
            Event::Time => {
                if let Some(deadline) = self.connection.next_deadline() {
                    self.now = self.now.max(deadline);
                }
                self.connection.handle_time(self.now);
            }
            _ => {}
        }
        self.settle();
    }

    /// All that is told, once everything has happened.
    fn finish(mut self, mut pieces: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
        let mut rounds = 0;
        while !self.connection.wants_close() || self.writing || self.connection.has_output() {
            for event in [Event::Bytes, Event::Answer(0), Event::Answer(1), Event::Written, Event::Time] {
                self.handle(event, &mut pieces);
            }
            rounds += 1;
            assert!(rounds < 100_000, "the conversation does not end");
        }
        self.told
    }
}

/// What a shard decides: always the same of the same question. `Undone` stands for a wait that nothing comes of.
fn decide(operation: &Operation) -> Answer {
    match operation {
        Operation::Put { body, .. } if body.len() % 7 == 3 => Answer::OutOfMemory,
        Operation::Put { body, priority, .. } => {
            Answer::Inserted { job: JobId(body.len() as u64 + u64::from(*priority)) }
        }
        Operation::Reserve { poll: false, .. } => Answer::Undone,
        Operation::Reserve { .. } => Answer::NothingReady,
        Operation::ReserveJob { job } if job.0 % 2 == 0 => {
            Answer::Reserved { job: *job, epoch: 1, body: Bytes::from_static(b"reserved") }
        }
        Operation::Peek { job } => Answer::Found { job: *job, body: Bytes::from(vec![b'x'; 3000]) },
        Operation::Delete { .. } => Answer::Deleted,
        Operation::Kick { bound, .. } => Answer::Kicked { count: *bound },
        Operation::Pause { .. } => Answer::Paused,
        Operation::Stats => Answer::ShardStats(Box::default()),
        Operation::ListTubes => Answer::Tubes(TubeLines::default()),
        _ => Answer::NotFound,
    }
}

/// `stats` shows the time that has passed: that line may differ.
fn without_uptime(told: &[u8]) -> Vec<Vec<u8>> {
    let lines = told.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.starts_with(b"uptime:") && !line.starts_with(b"OK ")).map(<[u8]>::to_vec).collect()
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Bytes),
        4 => any::<usize>().prop_map(Event::Answer),
        2 => Just(Event::Written),
        1 => Just(Event::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_told_depends_on_no_timing(
        (stream, lengths) in stream_and_cuts(),
        events in prop::collection::vec(event(), 0..300),
        cut_off_events in prop::collection::vec(event(), 0..100),
    ) {
        let at_once = Run::new().finish(std::iter::once(stream.clone()));
        let mut pieces = cut(&stream, &lengths).into_iter();
        let mut run = Run::new();
        for event in events {
            run.handle(event, &mut pieces);
        }
        let mut cut_off = Run::new();
        let mut its_pieces = cut(&stream, &lengths).into_iter();
        for event in cut_off_events {
            cut_off.handle(event, &mut its_pieces);
        }
        cut_off.connection.close();
        prop_assert_eq!(cut_off.door.counts().body_bytes, 0);
        let door = Arc::clone(&run.door);
        let piecemeal = run.finish(pieces);
        prop_assert_eq!(door.counts().body_bytes, 0, "all that bodies took is given back");
        prop_assert_eq!(without_uptime(&at_once), without_uptime(&piecemeal));
    }
}
