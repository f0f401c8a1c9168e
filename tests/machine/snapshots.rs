//! A partial snapshot and the entries behind it are the full state: for random histories and every place in them, and for
//! every short history there is. `docs/partial-snapshot.md` has the definition and the argument.

use std::collections::BTreeSet;

use beaver_raft::io::AlignedBuf;
use beaver_raft::job::codec::{body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Batch, Command, Numbered, Origin, TubeList};
use beaver_raft::job::{Machine, recount};
use beaver_raft::snapshot::archive::image;
use beaver_raft::snapshot::{Contents, Kind};
use beaver_raft::types::{Index, JobId, Nanos, SessionId, Term, Times};
use proptest::prelude::*;

use crate::driver::{Driver, OwnedClass, WALL_AT_START, class, session};
use crate::model::{Held, Model};
use crate::random::{EntryPlan, Pair, entry_plan};

fn archive(machine: &Machine) -> Vec<u8> {
    Contents::Partial(machine.capture()).archive().expect("memory takes it")
}

/// The machine that a snapshot of this one holds, after everything was checked that can be.
fn reload(machine: &Machine) -> Machine {
    let bytes = archive(machine);
    let mut aligned = AlignedBuf::zeroed(bytes.len());
    aligned[..bytes.len()].copy_from_slice(&bytes);
    let image = image(Kind::Partial, &aligned[..bytes.len()]).expect("it was just archived");
    let loaded = Machine::restore(image, machine.digest()).expect("a machine was captured");
    let counts = machine.counts();
    assert_eq!(recount(image), Ok(counts.ready + counts.reserved + counts.delayed + counts.buried));
    assert!(loaded == *machine, "the state that comes back is the state that was captured");
    loaded.verify();
    assert_eq!(archive(&loaded), bytes, "equal states, one with the history and one without, have equal bytes");
    loaded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_at_any_entry_and_the_entries_behind_it_are_the_full_state(
        plans in prop::collection::vec(entry_plan(), 1..40),
    ) {
        let mut pair = Pair::new();
        let mut from_snapshots: Vec<Machine> = Vec::new();
        for plan in &plans {
            let entry = pair.run_raw(plan);
            for machine in &mut from_snapshots {
                entry.apply_to(machine);
                prop_assert!(*machine == pair.driver.machine);
            }
            from_snapshots.push(reload(&pair.driver.machine));
        }
        let bytes = archive(&pair.driver.machine);
        prop_assert!(from_snapshots.iter().all(|machine| archive(machine) == bytes));
    }

    #[test]
    fn the_order_in_which_a_state_came_to_be_leaves_no_trace_in_its_bytes(
        jobs in 1..200_u64, deleted in prop::collection::vec(any::<prop::sample::Index>(), 0..150), seed in any::<u64>(),
    ) {
        let gone: BTreeSet<u64> = deleted.iter().map(|at| at.index(jobs as usize) as u64 + 1).collect();
        let mut shuffled: Vec<u64> = gone.iter().copied().collect();
        shuffled.sort_by_key(|id| (id ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let sorted: Vec<u64> = gone.into_iter().collect();
        prop_assert!(archive(&with_deleted(jobs, &sorted)) == archive(&with_deleted(jobs, &shuffled)));
    }
}

/// A machine with so many jobs put into it and these deleted, in two entries.
fn with_deleted(jobs: u64, deleted: &[u64]) -> Machine {
    let mut machine = Machine::new();
    let origin = |seq| Origin::Session { session: session(1, 1, 1), seq };
    let mut bytes = Vec::new();
    encode(&Numbered { origin: origin(0), command: Command::SessionOpen }, &mut bytes);
    for seq in 1..=jobs {
        let command = Command::Enqueue { class: class("t", 1), body_hash: body_hash(b""), body: b"" };
        encode(&Numbered { origin: origin(seq), command }, &mut bytes);
    }
    let mut apply = |index, commands: &[u8]| {
        let times = Times { lease: Nanos(5), wall: WALL_AT_START };
        let first_job = JobId(if index == 1 { 1 } else { jobs + 1 });
        let batch = Batch { index: Index(index), term: Term(1), times, first_job, commands };
        machine.apply(batch, &mut Vec::new()).expect("these commands apply");
    };
    apply(1, &bytes);
    bytes.clear();
    for (&id, seq) in deleted.iter().zip(jobs + 1..) {
        let command = Command::Delete { job: JobId(id), class: Some(class("t", 1)) };
        encode(&Numbered { origin: origin(seq), command }, &mut bytes);
    }
    apply(2, &bytes);
    machine
}

#[test]
fn large_sets_come_back_whatever_their_containers_are_and_however_they_came_to_be() {
    // Runs, bits and lists, within one container and across three.
    let jobs = 140_000;
    let every = |step: usize| (1..=jobs).step_by(step).collect::<Vec<u64>>();
    let patterns = [vec![], every(2), every(3), every(1000), (1..70_000).collect(), (1..jobs - 8).collect(), every(1)];
    for forth in patterns {
        let mut back = forth.clone();
        back.reverse();
        let (one, other) = (with_deleted(jobs, &forth), with_deleted(jobs, &back));
        let bytes = archive(&one);
        assert!(bytes == archive(&other), "{} deleted", forth.len());
        // Never more than its bits, in whole containers.
        assert!(bytes.len() < 1000 + 3 * 8192, "{} bytes", bytes.len());
        reload(&one);
    }
}

/// What every short history is made of: one client, two tubes, three jobs at most.
const ALPHABET: usize = 12;

#[derive(Clone, Copy)]
struct Small {
    seq: u64,
    index: u64,
    now: Times,
}

fn small_session() -> SessionId {
    session(1, 1, 1)
}

/// The command that a letter stands for, next to the state that it meets; none if it would only repeat another letter.
fn letter(at: usize, model: &Model) -> Option<(Command<'static>, u64)> {
    let reserved = model.jobs.iter().find(|job| matches!(job.held, Held::Reserved { .. })).map(|job| job.id);
    let delayed_class = beaver_raft::job::command::Class { tube: b"t", priority: 1, ttr_s: 2, delay_s: 3 };
    let put = |class| Command::Enqueue { class, body_hash: body_hash(b""), body: b"" };
    let delete = |id: u64| {
        let job = model.jobs.iter().find(|job| job.id.0 == id && !matches!(job.held, Held::Reserved { .. }))?;
        let class = if job.delay_s == 3 && job.ttr_s == 2 { delayed_class } else { class_of(job) };
        Some(Command::Delete { job: job.id, class: Some(class) })
    };
    let may_put = model.next_job <= 3;
    let command = match at {
        0 => put(class("t", 1)),
        1 => put(class("u", 1)),
        2 => put(delayed_class),
        3 => Command::Reserve { tubes: TubeList { encoded: both_tubes() } },
        4 => delete(1)?,
        5 => delete(2)?,
        6 => Command::Delete { job: reserved?, class: None },
        7 => Command::Release { job: reserved?, priority: 1, delay_s: 0 },
        8 => Command::Release { job: reserved?, priority: 7, delay_s: 2 },
        9 => Command::Bury { job: reserved?, priority: 1 },
        10 => Command::Kick { tube: b"t", bound: 2 },
        _ => Command::Tick,
    };
    (at > 2 || may_put).then_some((command, if at == ALPHABET - 1 { 4 } else { 0 }))
}

fn class_of(job: &crate::model::Job) -> beaver_raft::job::command::Class<'static> {
    class(if job.tube == b"t" { "t" } else { "u" }, 1)
}

fn both_tubes() -> &'static [u8] {
    static BOTH: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BOTH.get_or_init(|| encode_tubes([&b"t"[..], b"u"]))
}

/// Goes one letter further from a state, and from there on; how many states it saw.
fn explore(machine: &Machine, model: &Model, small: Small, letters: usize) -> u64 {
    let mut seen = 1;
    if letters == 0 {
        return seen;
    }
    for at in 0..ALPHABET {
        let Some((command, seconds)) = letter(at, model) else { continue };
        // The state goes on from its snapshot, so that one that was lost on the way is missed by all that follow.
        let (mut machine, mut model, mut small) = (reload_quickly(machine), model.clone(), small);
        let passed = Nanos::from_secs(seconds);
        small.now = Times { lease: Nanos(small.now.lease.0 + passed.0), wall: Nanos(small.now.wall.0 + passed.0) };
        small.index += 1;
        let origin = match command {
            Command::Tick => Origin::System,
            _ => Origin::Session { session: small_session(), seq: small.seq },
        };
        let numbered = Numbered { origin, command };
        let mut bytes = Vec::new();
        encode(&numbered, &mut bytes);
        let first_job = JobId(model.next_job);
        model.begin_entry(small.now);
        let expected = model.apply(&numbered);
        let batch = Batch { index: Index(small.index), term: Term(1), times: small.now, first_job, commands: &bytes };
        let mut out = Vec::new();
        machine.apply(batch, &mut out).expect("it applies");
        assert_eq!(out.first().map(|applied| applied.outcome), expected.filter(|_| !out.is_empty()));
        if let (Origin::Session { .. }, Some(last)) = (origin, machine.session_last_seq(small_session())) {
            small.seq = last + 1;
        }
        check_definition(&machine, &model, small.now);
        seen += explore(&machine, &model, small, letters - 1);
    }
    seen
}

/// Without the checks that are proportional to everything; what is compared with the model finds what they would.
fn reload_quickly(machine: &Machine) -> Machine {
    let bytes = archive(machine);
    let mut aligned = AlignedBuf::zeroed(bytes.len());
    aligned[..bytes.len()].copy_from_slice(&bytes);
    let image = image(Kind::Partial, &aligned[..bytes.len()]).expect("it was just archived");
    let loaded = Machine::restore(image, machine.digest()).expect("a machine was captured");
    assert!(loaded == *machine);
    loaded
}

/// The definition of the partial set: the bits are the jobs that were enqueued, less those that are finished, in flight,
/// delayed, buried, or differ from their ENQ.
fn check_definition(machine: &Machine, model: &Model, now: Times) {
    let bits: BTreeSet<u64> = machine.capture().waiting_as_enqueued().map(|job| job.0).collect();
    let mut expected: BTreeSet<u64> = (1..model.next_job).collect();
    let is_finished = |id: &u64| model.jobs.iter().all(|job| job.id.0 != *id);
    expected.retain(|id| !is_finished(id));
    for job in &model.jobs {
        let is_elsewhere = job.held != Held::Ready;
        let differs = job.counters != [0; 5] || job.priority != 1 || !(job.delay_s == 0 || job.delay_s == 3);
        if is_elsewhere || differs {
            expected.remove(&job.id.0);
        }
    }
    assert_eq!(bits, expected, "{:?}", model.jobs);
    for job in &model.jobs {
        let view = model.view(job.id);
        let class = if job.delay_s == 3 || job.ttr_s == 2 {
            OwnedClass { tube: b"t".to_vec(), priority: 1, ttr_s: 2, delay_s: 3, wall: job.enqueued }
        } else {
            OwnedClass { tube: job.tube.clone(), priority: 1, ttr_s: 60, delay_s: 0, wall: job.enqueued }
        };
        let enqueued = beaver_raft::job::Enqueued { class: class.class(), wall: class.wall };
        assert_eq!(machine.job_view(job.id, &enqueued, now), view, "job {}", job.id);
    }
}

/// How long the histories are of which every one is looked at. The full proof takes minutes:
/// `BEAVER_HISTORY_LETTERS=8 cargo test --release --test machine every_short`.
fn letters() -> usize {
    std::env::var("BEAVER_HISTORY_LETTERS").ok().and_then(|letters| letters.parse().ok()).unwrap_or(4)
}

#[test]
fn every_short_history_has_the_partial_set_of_its_definition_and_goes_on_from_its_snapshot() {
    let mut driver = Driver::new();
    let mut model = Model::new();
    driver.open(small_session());
    model.begin_entry(driver.now);
    let origin = Origin::Session { session: small_session(), seq: 0 };
    model.apply(&Numbered { origin, command: Command::SessionOpen });
    let small = Small { seq: 1, index: 1, now: driver.now };
    let seen = explore(&driver.machine, &model, small, letters());
    assert!(seen > 1000 || letters() < 4, "{seen} states");
    println!("{seen} states");
}

/// An entry as the log holds it.
pub struct RawEntry {
    pub index: Index,
    pub times: Times,
    pub first_job: JobId,
    pub commands: Vec<u8>,
}

impl RawEntry {
    fn apply_to(&self, machine: &mut Machine) {
        let RawEntry { index, times, first_job, ref commands } = *self;
        machine.apply(Batch { index, term: Term(1), times, first_job, commands }, &mut Vec::new()).expect("it applies");
    }
}

impl Pair {
    fn run_raw(&mut self, plan: &EntryPlan) -> RawEntry {
        let first_job = self.driver.machine.next_job();
        let commands = self.run(plan);
        let machine = &self.driver.machine;
        RawEntry { index: machine.applied().index, times: self.driver.now, first_job, commands }
    }
}
