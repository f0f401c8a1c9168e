//! The workload and its judge, over a stand-in for the server: one process without disks that keeps its log in memory.
//! The stand-in can be told to break promises, and the judge must notice each.

use std::collections::BTreeMap;

use super::*;
use crate::io::{Listener, Reader, Writer};
use crate::job::codec::{body_hash, encode, encode_tubes};
use crate::job::command::{Batch, Class, Command, Numbered, Origin, Outcome, TubeList};
use crate::sim::oracle::history::Violation;
use crate::sim::oracle::queue::{Decided, QueueModel};
use crate::sim::wire::{SimReader, SimWriter};
use crate::types::{BootEpoch, JobId, NodeId, SessionId, Term, Times};

/// How the stand-in breaks its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    /// Every 20th put is acknowledged and forgotten.
    LosePut,
    /// Every 20th delete is acknowledged and not done.
    SkipDelete,
    /// A put is done twice.
    PutTwice,
    /// Every 20th body is another one.
    SwapBody,
}

struct StandIn {
    executor: Executor,
    model: QueueModel,
    decided: Vec<Decided>,
    classes: BTreeMap<u64, (Vec<u8>, u32, u32, u32)>,
    bodies: BTreeMap<u64, Bytes>,
    index: u64,
    next_job: u64,
    committed: Rc<Cell<Index>>,
    lie: Lie,
    done: u64,
}

impl StandIn {
    fn apply(&mut self, origin: Origin, command: Command<'_>) -> Option<Outcome> {
        let mut commands = Vec::new();
        encode(&Numbered { origin, command }, &mut commands);
        self.index += 1;
        let now = self.executor.now();
        let batch = Batch {
            index: Index(self.index),
            term: Term(1),
            times: Times { lease: now, wall: now },
            first_job: JobId(self.next_job),
            commands: &commands,
        };
        let decided = self.model.apply(&batch).expect("just encoded");
        self.next_job += u64::from(matches!(command, Command::Enqueue { .. }));
        self.committed.set(Index(self.index));
        let outcome = decided.first().map(|decided| decided.outcome);
        self.decided.extend(decided);
        outcome
    }

    fn lies(&mut self, about: Lie) -> bool {
        self.done += u64::from(self.lie == about);
        self.lie == about && self.done % 20 == 10
    }
}

struct Session {
    stand_in: Rc<RefCell<StandIn>>,
    id: SessionId,
    seq: u64,
    used: Vec<u8>,
    watched: Vec<Vec<u8>>,
}

impl Session {
    fn say(&mut self, command: Command<'_>) -> Outcome {
        let origin = Origin::Session { session: self.id, seq: self.seq + 1 };
        let outcome = self.stand_in.borrow_mut().apply(origin, command).expect("in order");
        self.seq += u64::from(outcome != Outcome::NothingReady);
        outcome
    }

    /// As `say`, for commands that must carry the class of their job where it waits as it was put.
    fn say_about(&mut self, id: u64, command: impl Fn(Option<Class<'_>>) -> Command<'static>) -> Outcome {
        match self.say(command(None)) {
            Outcome::Again => {
                let class = self.stand_in.borrow().classes.get(&id).cloned();
                let (tube, priority, ttr_s, delay_s) = class.unwrap_or_else(|| (b"-".to_vec(), 0, 0, 0));
                // Leaked, for commands of a test borrow for as long as they please.
                let class = Class { tube: Vec::leak(tube), priority, ttr_s, delay_s };
                match command(Some(class)) {
                    Command::Delete { job, .. } => self.say(Command::Delete { job, class: Some(class) }),
                    Command::ReserveJob { job, .. } => self.say(Command::ReserveJob { job, class: Some(class) }),
                    other => self.say(other),
                }
            }
            outcome => outcome,
        }
    }

    async fn reserve(&mut self, timeout_s: u64) -> Outcome {
        let executor = self.stand_in.borrow().executor.clone();
        let deadline = executor.now().saturating_add(Nanos::from_secs(timeout_s));
        loop {
            let tubes = encode_tubes(self.watched.iter().map(Vec::as_slice));
            match self.say(Command::Reserve { tubes: TubeList { encoded: &tubes } }) {
                Outcome::NothingReady if executor.now() < deadline => executor.sleep(Nanos::from_millis(20)).await,
                outcome => return outcome,
            }
        }
    }

    async fn answer(&mut self, line: &str, body: Bytes) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |place: usize| words[place].parse::<u64>().expect("a number");
        let small = |place: usize| u32::try_from(number(place)).expect("a small number");
        let job = words.get(1).and_then(|word| word.parse().ok()).map(JobId).unwrap_or_default();
        let outcome = match words[0] {
            "put" => {
                let tube = self.used.clone();
                let class = Class { tube: &tube, priority: small(1), ttr_s: small(3), delay_s: small(2) };
                if self.stand_in.borrow_mut().lies(Lie::LosePut) {
                    return "INSERTED 4711\r\n".to_owned();
                }
                let put = Command::Enqueue { class, body_hash: body_hash(&body), body: &body };
                if self.stand_in.borrow_mut().lies(Lie::PutTwice)
                    && let Outcome::Enqueued { job } = self.say(put)
                {
                    self.stand_in.borrow_mut().bodies.insert(job.0, body.clone());
                }
                let outcome = self.say(put);
                if let Outcome::Enqueued { job } = outcome {
                    let mut stand_in = self.stand_in.borrow_mut();
                    stand_in.classes.insert(job.0, (tube.clone(), class.priority, class.ttr_s, class.delay_s));
                    stand_in.bodies.insert(job.0, body);
                }
                outcome
            }
            "reserve-with-timeout" => self.reserve(number(1)).await,
            "reserve-job" => {
                self.say_about(job.0, |class| Command::ReserveJob { job, class: class.map(|_| Class::OF_NO_JOB) })
            }
            "delete" if self.stand_in.borrow_mut().lies(Lie::SkipDelete) => Outcome::Deleted,
            "delete" => self.say_about(job.0, |class| Command::Delete { job, class: class.map(|_| Class::OF_NO_JOB) }),
            "release" => self.say(Command::Release { job, priority: small(2), delay_s: small(3) }),
            "bury" => self.say(Command::Bury { job, priority: small(2) }),
            "touch" => self.say(Command::Touch { job }),
            "kick" => {
                let tube = self.used.clone();
                self.say(Command::Kick { tube: &tube, bound: number(1) })
            }
            "kick-job" => self.say(Command::KickJob { job }),
            "pause-tube" => {
                self.say(Command::Pause { tube: words[1].as_bytes(), duration_s: small(2), referenced: true })
            }
            "use" => {
                self.used = words[1].as_bytes().to_vec();
                return format!("USING {}\r\n", words[1]);
            }
            "watch" => {
                self.watched.push(words[1].as_bytes().to_vec());
                return format!("WATCHING {}\r\n", self.watched.len());
            }
            "peek" => {
                let stand_in = self.stand_in.borrow();
                let is_live = stand_in.model.live().any(|live| live == job);
                return match stand_in.bodies.get(&job.0).filter(|_| is_live) {
                    Some(body) => format!("FOUND {job} {}\r\n{}\r\n", body.len(), String::from_utf8_lossy(body)),
                    None => "NOT_FOUND\r\n".to_owned(),
                };
            }
            _ => return "OK 4\r\n---\n\r\n".to_owned(),
        };
        self.tell(outcome)
    }

    fn tell(&self, outcome: Outcome) -> String {
        match outcome {
            Outcome::Enqueued { job } => format!("INSERTED {job}\r\n"),
            Outcome::Reserved { job, .. } => {
                let mut stand_in = self.stand_in.borrow_mut();
                let other = if stand_in.lies(Lie::SwapBody) { JobId(job.0 % 7 + 1) } else { job };
                let body = &stand_in.bodies[&other.0];
                format!("RESERVED {job} {}\r\n{}\r\n", body.len(), String::from_utf8_lossy(body))
            }
            Outcome::NothingReady => "TIMED_OUT\r\n".to_owned(),
            Outcome::Deleted => "DELETED\r\n".to_owned(),
            Outcome::Released => "RELEASED\r\n".to_owned(),
            Outcome::Buried => "BURIED\r\n".to_owned(),
            Outcome::Touched => "TOUCHED\r\n".to_owned(),
            Outcome::Kicked { count } => format!("KICKED {count}\r\n"),
            Outcome::JobKicked => "KICKED\r\n".to_owned(),
            Outcome::Paused => "PAUSED\r\n".to_owned(),
            Outcome::NotFound => "NOT_FOUND\r\n".to_owned(),
            other => panic!("{other:?} is told to nobody"),
        }
    }
}

async fn serve(stand_in: Rc<RefCell<StandIn>>, number: u64, mut reader: SimReader, mut writer: SimWriter) {
    let id = SessionId { node: NodeId(1), boot: BootEpoch(1), number };
    stand_in.borrow_mut().apply(Origin::Session { session: id, seq: 0 }, Command::SessionOpen);
    let mut session = Session { stand_in, id, seq: 0, used: b"default".to_vec(), watched: vec![b"default".to_vec()] };
    let mut received: Vec<u8> = Vec::new();
    'reading: loop {
        let Some(end) = received.windows(2).position(|two| two == b"\r\n") else {
            let (read, buf) = reader.read(received, 4096).await;
            received = buf;
            if !matches!(read, Ok(1..)) {
                break 'reading;
            }
            continue;
        };
        let line = String::from_utf8_lossy(&received[..end]).into_owned();
        received.drain(..end + 2);
        let mut body = Bytes::new();
        if line.starts_with("put ") {
            let bytes: usize = line.rsplit(' ').next().expect("a word").parse().expect("a length");
            while received.len() < bytes + 2 {
                let (read, buf) = reader.read(received, 4096).await;
                received = buf;
                if !matches!(read, Ok(1..)) {
                    break 'reading;
                }
            }
            body = Bytes::copy_from_slice(&received[..bytes]);
            received.drain(..bytes + 2);
        }
        let said = session.answer(&line, body).await;
        if writer.write(vec![Bytes::from(said)]).await.is_err() {
            break;
        }
    }
    session.say(Command::SessionClosed);
}

struct Outcomes {
    judged: Result<crate::sim::oracle::history::HistoryCounts, Violation>,
    live: usize,
    hash: u64,
}

fn run(seed: u64, lie: Lie) -> Outcomes {
    let executor = Executor::new(seed);
    let network = Network::new(&executor);
    let host = network.add_host("server");
    let process = executor.new_group();
    let committed = Rc::new(Cell::new(Index::ZERO));
    let stand_in = Rc::new(RefCell::new(StandIn {
        executor: executor.clone(),
        model: QueueModel::new(),
        decided: Vec::new(),
        classes: BTreeMap::new(),
        bodies: BTreeMap::new(),
        index: 0,
        next_job: 1,
        committed: Rc::clone(&committed),
        lie,
        done: 0,
    }));
    let wire = SimWire::new(&network, host, process);
    let (serving, spawner) = (Rc::clone(&stand_in), executor.clone());
    executor.spawn(process, async move {
        let listener = wire.listen("server:1", WireOptions::Client).expect("free");
        let mut number = 0;
        while let Ok((reader, writer)) = listener.accept().await {
            number += 1;
            spawner.spawn(process, serve(Rc::clone(&serving), number, reader, writer));
        }
    });
    let workload =
        Workload::new(&executor, &network, WorkloadConfig::default(), vec!["server:1".to_owned()], committed);
    let hosts = workload.start();
    for second in 0..8 {
        executor.run_until(Nanos::from_secs(second));
        network.cut_streams(hosts[usize::try_from(second).expect("small") % hosts.len()], host);
    }
    workload.stop();
    executor.run_until(Nanos::from_secs(60));
    assert!(!workload.is_running(), "seed {seed}: a client hangs");
    workload.start_drain(vec!["server:1".to_owned()]);
    executor.run_until(Nanos::from_secs(400));
    assert!(!workload.is_running(), "seed {seed}: the drain hangs");
    assert_eq!(workload.nonsense(), None);
    let state = stand_in.borrow();
    let judged = workload.history().check(&state.decided, &state.model);
    let outcomes = Outcomes { judged, live: state.model.live().count(), hash: executor.trace().hash() };
    drop(state);
    executor.end();
    outcomes
}

#[test]
fn an_honest_server_passes_and_is_drained_and_a_seed_repeats() {
    for seed in 0..3 {
        let outcomes = run(seed, Lie::None);
        let counts = outcomes.judged.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(counts.reserved > 20 && counts.deleted > 20 && counts.unknown > 0, "seed {seed}: {counts:?}");
        assert_eq!(outcomes.live, 0, "seed {seed}: jobs are left");
        assert_eq!(run(seed, Lie::None).hash, outcomes.hash, "seed {seed} gave two runs");
    }
}

#[test]
fn every_lie_is_noticed() {
    for lie in [Lie::LosePut, Lie::SkipDelete, Lie::PutTwice, Lie::SwapBody] {
        let noticed = (0..3).any(|seed| run(seed, lie).judged.is_err());
        assert!(noticed, "{lie:?}");
    }
}
