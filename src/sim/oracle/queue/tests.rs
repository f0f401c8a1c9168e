//! The model by examples, and against the state machine on random logs: two people who disagree find the bug of one.

use super::*;
use crate::job::codec::{body_hash, encode, encode_tubes};
use crate::job::command::{Applied, TubeList};
use crate::job::{Fingerprint, Machine};
use crate::sim::random::Random;
use crate::types::Term;

const TUBES: [&[u8]; 3] = [b"default", b"mail", b"video"];

/// Both sides over one log.
struct Pair {
    model: QueueModel,
    machine: Machine,
    times: Times,
    next_job: u64,
}

impl Pair {
    fn new() -> Pair {
        Pair { model: QueueModel::new(), machine: Machine::new(), times: Times::default(), next_job: 1 }
    }

    fn session(number: u64) -> SessionId {
        SessionId { node: NodeId(1), boot: BootEpoch(1), number }
    }

    fn apply(&mut self, commands: &[Numbered<'_>]) -> Vec<Outcome> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|numbered| encode(numbered, &mut bytes));
        let index = self.machine.applied().index.next();
        let first_job = JobId(self.next_job);
        let batch = Batch { index, term: Term(1), times: self.times, first_job, commands: &bytes };
        self.next_job +=
            commands.iter().filter(|numbered| matches!(numbered.command, Command::Enqueue { .. })).count() as u64;
        let mut applied = Vec::new();
        self.machine.apply(batch, &mut applied).expect("well formed");
        let decided = self.model.apply(&batch).expect("well formed");
        let decided: Vec<Applied> = decided
            .iter()
            .map(|decided| Applied { session: decided.session, seq: decided.seq, outcome: decided.outcome })
            .collect();
        assert_eq!(applied, decided, "at entry {index}: {commands:?}");
        let counts = self.machine.counts();
        assert_eq!([counts.ready, counts.reserved, counts.delayed, counts.buried], self.model.counts());
        decided.iter().map(|decided| decided.outcome).collect()
    }

    fn pass(&mut self, seconds: u64) {
        let more = Nanos::from_secs(seconds);
        self.times = Times { lease: self.times.lease.saturating_add(more), wall: self.times.wall.saturating_add(more) };
    }
}

/// A session that counts its numbers.
struct Client {
    session: SessionId,
    seq: u64,
}

impl Client {
    fn open(pair: &mut Pair, number: u64) -> Client {
        let session = Pair::session(number);
        let origin = Origin::Session { session, seq: 0 };
        assert_eq!(pair.apply(&[Numbered { origin, command: Command::SessionOpen }]), [Outcome::Opened]);
        Client { session, seq: 0 }
    }

    fn say(&mut self, pair: &mut Pair, command: Command<'_>) -> Outcome {
        let origin = Origin::Session { session: self.session, seq: self.seq + 1 };
        let outcome = pair.apply(&[Numbered { origin, command }])[0];
        self.seq += u64::from(outcome != Outcome::NothingReady);
        outcome
    }
}

fn put(tube: &'static [u8], priority: u32, delay_s: u32) -> Command<'static> {
    let class = Class { tube, priority, ttr_s: 10, delay_s };
    Command::Enqueue { class, body_hash: body_hash(b"x"), body: b"x" }
}

fn reserve(tubes: &[u8]) -> Command<'_> {
    Command::Reserve { tubes: TubeList { encoded: tubes } }
}

#[test]
fn a_life_of_a_job_goes_as_the_protocol_says() {
    let mut pair = Pair::new();
    let (mut a, mut b) = (Client::open(&mut pair, 1), Client::open(&mut pair, 2));
    let watched = encode_tubes(TUBES);
    assert_eq!(a.say(&mut pair, reserve(&watched)), Outcome::NothingReady);
    assert_eq!(a.say(&mut pair, put(b"mail", 5, 0)), Outcome::Enqueued { job: JobId(1) });
    assert_eq!(a.say(&mut pair, put(b"video", 4, 0)), Outcome::Enqueued { job: JobId(2) });
    assert_eq!(b.say(&mut pair, reserve(&watched)), Outcome::Reserved { job: JobId(2), epoch: 1, ttr_s: 10 });
    assert_eq!(a.say(&mut pair, Command::Delete { job: JobId(2), class: None }), Outcome::NotFound);
    assert_eq!(a.say(&mut pair, Command::Delete { job: JobId(1), class: None }), Outcome::Again);
    pair.pass(10);
    // Its reservation ran out, so whoever comes first has it.
    assert_eq!(a.say(&mut pair, reserve(&watched)), Outcome::Reserved { job: JobId(2), epoch: 2, ttr_s: 10 });
    assert_eq!(b.say(&mut pair, Command::Touch { job: JobId(2) }), Outcome::NotFound);
    assert_eq!(a.say(&mut pair, Command::Delete { job: JobId(2), class: None }), Outcome::Deleted);
    assert_eq!(pair.model.life(JobId(2)).and_then(|life| life.1), Some(pair.machine.applied().index));
    assert_eq!(pair.model.live().collect::<Vec<_>>(), [JobId(1)]);
}

#[test]
fn a_paused_tube_serves_nobody_until_its_time() {
    let mut pair = Pair::new();
    let mut a = Client::open(&mut pair, 1);
    let watched = encode_tubes(TUBES);
    a.say(&mut pair, put(b"mail", 5, 0));
    let pause = Command::Pause { tube: b"mail", duration_s: 7, referenced: false };
    assert_eq!(a.say(&mut pair, pause), Outcome::Paused);
    assert_eq!(a.say(&mut pair, reserve(&watched)), Outcome::NothingReady);
    pair.pass(7);
    assert!(matches!(a.say(&mut pair, reserve(&watched)), Outcome::Reserved { .. }));
    let absent = Command::Pause { tube: b"absent", duration_s: 7, referenced: false };
    assert_eq!(a.say(&mut pair, absent), Outcome::NotFound);
}

/// A random command about few jobs, tubes and sessions, so that they meet.
fn random_command<'a>(random: &Random, jobs: u64, watched: &'a [u8], bodies: &'a [Vec<u8>]) -> Command<'a> {
    let job = JobId(random.between(1, jobs + 2));
    let tube = TUBES[random.below_len(TUBES.len())];
    let class = Class {
        tube,
        priority: u32::try_from(random.below(3)).expect("small"),
        ttr_s: u32::try_from(random.below(3)).expect("small"),
        delay_s: if random.chance(300_000) { 2 } else { 0 },
    };
    let hint = random.chance(700_000).then_some(class);
    let priority = u32::try_from(random.below(3)).expect("small");
    match random.below(14) {
        0..4 => {
            let body = &bodies[random.below_len(bodies.len())];
            Command::Enqueue { class, body_hash: body_hash(body), body }
        }
        4..7 => reserve(watched),
        7 => Command::ReserveJob { job, class: hint },
        8 => Command::Delete { job, class: hint },
        9 => Command::Release { job, priority, delay_s: class.delay_s },
        10 => Command::Bury { job, priority },
        11 => Command::Touch { job },
        12 if random.chance(500_000) => Command::Kick { tube, bound: random.below(3) },
        12 => Command::KickJob { job },
        _ if random.chance(500_000) => Command::Unreserve { job, epoch: random.below(20) },
        _ => Command::Pause { tube, duration_s: priority, referenced: random.chance(500_000) },
    }
}

#[test]
fn model_and_state_machine_agree_on_random_logs() {
    let mut reserved = 0;
    for seed in 0..60 {
        let random = Random::new(seed);
        let mut pair = Pair::new();
        let mut clients: Vec<Client> = (1..=3).map(|number| Client::open(&mut pair, number)).collect();
        let mut number_last = 3;
        let watched = encode_tubes(TUBES);
        let bodies = vec![b"one".to_vec(), b"two".to_vec()];
        for _ in 0..250 {
            if random.chance(200_000) {
                pair.pass(random.below(3));
            }
            let chosen = random.below_len(clients.len());
            let jobs = pair.next_job;
            if random.chance(20_000) {
                clients[chosen].say(&mut pair, Command::SessionClosed);
                number_last += 1;
                clients[chosen] = Client::open(&mut pair, number_last);
            } else if random.chance(30_000) {
                let tube = TUBES[random.below_len(TUBES.len())];
                let drop = Numbered { origin: Origin::System, command: Command::TubeDrop { tube } };
                pair.apply(&[drop]);
            } else if random.chance(50_000) {
                // A repeat, or a gap: both are skipped.
                let client = &clients[chosen];
                let seq = client.seq + random.below(3);
                if seq != client.seq + 1 {
                    let origin = Origin::Session { session: client.session, seq };
                    assert_eq!(pair.apply(&[Numbered { origin, command: put(b"mail", 1, 0) }]), []);
                }
            } else {
                let outcome = clients[chosen].say(&mut pair, random_command(&random, jobs, &watched, &bodies));
                reserved += u64::from(matches!(outcome, Outcome::Reserved { .. }));
            }
        }
        let boot = Command::NodeBoot { node: NodeId(1), boot: BootEpoch(2) };
        pair.apply(&[Numbered { origin: Origin::System, command: boot }]);
        assert_eq!(pair.model.counts()[1], 0, "a boot gives back what its node's sessions held");
        assert_ne!(pair.machine.fingerprint(), Fingerprint::default());
    }
    assert!(reserved > 500, "only {reserved} reservations: the logs test too little");
}
