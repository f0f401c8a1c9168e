//! Random entries, applied to the machine and to the model: same outcomes, same order, same view from outside,
//! and a fingerprint that a recount confirms.

use std::collections::BTreeSet;

use beaver_raft::job::Machine;
use beaver_raft::job::codec::{body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Applied, Class, Command, Numbered, Origin, TubeList};
use beaver_raft::job::view::JobState;
use beaver_raft::types::{BootEpoch, JobId, Nanos, NodeId, SessionId};
use proptest::prelude::*;

use crate::driver::{Driver, OwnedClass, class, session};
use crate::model::{Held, Model};

const TUBES: [&[u8]; 4] = [b"default", b"a", b"b", b"c"];
const SLOTS: u8 = 4;

/// One command, in numbers that mean something only next to the state it meets.
#[derive(Debug, Clone)]
struct Step {
    kind: u8,
    slot: u8,
    tube: u8,
    job: u64,
    priority: u32,
    delay_s: u32,
    /// Mostly the session's next number; sometimes the one before (a repeat) or after (a gap).
    slip: u8,
}

/// The commands of an entry, and how far each clock (in half seconds) moves before it.
#[derive(Debug, Clone)]
pub struct EntryPlan {
    lease: u64,
    wall: u64,
    steps: Vec<Step>,
}

fn step() -> impl Strategy<Value = Step> {
    // Weighted so that queues fill, are worked on, and drain.
    let kind = prop_oneof![
        18 => Just(0u8), 18 => Just(1), 6 => Just(2), 3 => Just(3), 6 => Just(4), 9 => Just(5), 9 => Just(6),
        4 => Just(7), 4 => Just(8), 4 => Just(9), 4 => Just(10), 1 => Just(11), 2 => Just(12), 2 => Just(13), 1 => Just(14),
    ];
    (kind, 0..SLOTS, 0..4u8, 0..24u64, prop_oneof![0..3u32, Just(1024)], 0..3u32, 0..12u8).prop_map(
        |(kind, slot, tube, job, priority, delay_s, slip)| Step { kind, slot, tube, job, priority, delay_s, slip },
    )
}

pub fn entry_plan() -> impl Strategy<Value = EntryPlan> {
    let pace = prop_oneof![4 => Just(0u64), 2 => Just(1), 1 => Just(2), 1 => Just(5)];
    (pace.clone(), pace, prop::collection::vec(step(), 0..6)).prop_map(|(lease, wall, steps)| EntryPlan {
        lease,
        wall,
        steps,
    })
}

/// The two sides, and the sessions that the slots stand for.
pub struct Pair {
    pub driver: Driver,
    model: Model,
    slots: Vec<SessionId>,
    /// What the log knows of every ENQ, also of those in the entry being built.
    classes: Vec<OwnedClass>,
}

impl Pair {
    pub fn new() -> Pair {
        let slots = (0..SLOTS).map(|slot| session(slot % 2 + 1, 1, u64::from(slot))).collect();
        Pair { driver: Driver::new(), model: Model::new(), slots, classes: Vec::new() }
    }

    /// The commands of the entry.
    pub fn run(&mut self, plan: &EntryPlan) -> Vec<u8> {
        let (bytes, expected) = self.build(plan);
        let applied = self.driver.raw_entry(&bytes).expect("these commands apply");
        assert_eq!(applied, expected);
        self.compare();
        bytes
    }

    /// The commands of an entry, which the model has then applied, and what it expects them to come to.
    fn build(&mut self, plan: &EntryPlan) -> (Vec<u8>, Vec<Applied>) {
        let half_second = Nanos::from_millis(500).0;
        self.driver.now.lease = Nanos(self.driver.now.lease.0 + plan.lease * half_second);
        self.driver.now.wall = Nanos(self.driver.now.wall.0 + plan.wall * half_second);
        self.model.begin_entry(self.driver.now);
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for step in &plan.steps {
            self.take_step(step, &mut bytes, &mut expected);
        }
        (bytes, expected)
    }

    fn take_step(&mut self, step: &Step, bytes: &mut Vec<u8>, expected: &mut Vec<Applied>) {
        let slot = usize::from(step.slot);
        let session = self.slots[slot];
        let tube = TUBES[usize::from(step.tube)];
        let watched: Vec<&[u8]> = TUBES[..=usize::from(step.tube)].to_vec();
        let tubes = encode_tubes(watched);
        let job = self.job_for(step, session);
        let (priority, delay_s) = (step.priority, step.delay_s);
        let hint = job.0.checked_sub(1).and_then(|at| self.classes.get(usize::try_from(at).expect("small"))).cloned();
        let hint = Some(hint.as_ref().map_or(Class::OF_NO_JOB, OwnedClass::class));
        let delay_at_put_s = if step.slip.is_multiple_of(3) { delay_s } else { 0 };
        let ttr_s = delay_s * u32::from(step.slip);
        let class = Class { tube, priority, ttr_s, delay_s: delay_at_put_s };
        let last = self.model.open.get(&session).copied();
        let Some(last) = last else {
            // A new connection takes the slot; its number is higher, but for a late open.
            let late = u64::from(step.slip == 0) * 8;
            let opened = SessionId { number: (session.number + 4).saturating_sub(late), ..session };
            self.slots[slot] = opened;
            return self.give(Origin::Session { session: opened, seq: 0 }, Command::SessionOpen, bytes, expected);
        };
        let seq = match step.slip {
            0 => last,
            1 => last + 2,
            _ => last + 1,
        };
        let client = Origin::Session { session, seq };
        let (origin, command) = match step.kind {
            0 => (client, Command::Enqueue { class, body_hash: body_hash(b""), body: b"" }),
            1 => (client, Command::Reserve { tubes: TubeList { encoded: &tubes } }),
            2 => (client, Command::ReserveJob { job, class: hint }),
            3 => (client, Command::Unreserve { job, epoch: self.epoch_of(job) }),
            4 => (client, Command::Delete { job, class: hint }),
            5 => (client, Command::Release { job, priority, delay_s }),
            6 => (client, Command::Bury { job, priority }),
            7 => (client, Command::Touch { job }),
            8 => (client, Command::Kick { tube, bound: delay_s.into() }),
            9 => (client, Command::KickJob { job }),
            10 => (client, Command::Pause { tube, duration_s: delay_s, referenced: step.slip.is_multiple_of(2) }),
            11 => (client, Command::SessionClosed),
            12 => (Origin::System, Command::TubeDrop { tube }),
            13 if step.slip == 5 => {
                let boot = BootEpoch(session.boot.0 + 1);
                self.slots.iter_mut().filter(|slot| slot.node == session.node).for_each(|slot| slot.boot = boot);
                (Origin::System, Command::NodeBoot { node: session.node, boot })
            }
            13 => (Origin::System, Command::NodeBoot { node: NodeId(step.slot), boot: BootEpoch(0) }),
            _ => (Origin::System, Command::Tick),
        };
        self.give(origin, command, bytes, expected);
    }

    fn give(&mut self, origin: Origin, command: Command<'_>, bytes: &mut Vec<u8>, expected: &mut Vec<Applied>) {
        let numbered = Numbered { origin, command };
        encode(&numbered, bytes);
        if let Command::Enqueue { class: Class { tube, priority, ttr_s, delay_s }, .. } = command {
            self.classes.push(OwnedClass { tube: tube.to_vec(), priority, ttr_s, delay_s, wall: self.driver.now.wall });
        }
        if let (Some(outcome), Origin::Session { session, seq }) = (self.model.apply(&numbered), origin) {
            expected.push(Applied { session, seq, outcome });
        }
    }

    /// Mostly a job in the state that the command is for; sometimes any recent one, or one that was never put.
    fn job_for(&self, step: &Step, session: SessionId) -> JobId {
        let is_fit = |held: Held| match (step.kind, held) {
            (3 | 5 | 6 | 7, Held::Reserved { session: by, .. }) => by == session,
            (9, Held::Delayed(_) | Held::Buried(_)) => true,
            (2 | 4, held) => !matches!(held, Held::Reserved { .. }) || step.slip.is_multiple_of(2),
            _ => false,
        };
        let fit: Vec<JobId> = self.model.jobs.iter().filter(|job| is_fit(job.held)).map(|job| job.id).collect();
        let at = usize::try_from(step.job).expect("small");
        if step.slip == 2 || fit.is_empty() {
            return JobId((self.model.next_job + 2).saturating_sub(step.job));
        }
        fit[at % fit.len()]
    }

    fn epoch_of(&self, job: JobId) -> u64 {
        let held = self.model.jobs.iter().find(|other| other.id == job).map(|job| job.held);
        if let Some(Held::Reserved { epoch, .. }) = held { epoch } else { 0 }
    }

    /// Everything that can be seen from outside.
    fn compare(&self) {
        let (machine, model) = (&self.driver.machine, &self.model);
        assert_eq!(machine.recount(), machine.fingerprint());
        assert_eq!(machine.next_job(), JobId(model.next_job));
        assert_eq!(machine.counts().timeouts, model.timeouts);
        for id in 1..model.next_job {
            assert_eq!(self.driver.view(id), model.view(JobId(id)), "job {id}");
        }
        let names: Vec<&[u8]> = model.tubes.iter().map(|tube| tube.name.as_slice()).collect();
        assert!(machine.tubes().eq(names.iter().copied()), "tubes in order of creation");
        for name in TUBES {
            self.compare_tube(name);
        }
        assert!(machine.sessions().eq(model.open.keys().copied()));
        for (&session, &last) in &model.open {
            assert_eq!(machine.session_last_seq(session), Some(last));
        }
    }

    fn compare_tube(&self, name: &[u8]) {
        let (machine, model) = (&self.driver.machine, &self.model);
        let counts = machine.tube_counts(name, self.driver.now);
        let Some(tube) = model.find_tube(name) else { return assert_eq!(counts, None) };
        let counts = counts.expect("the model has it");
        let count = |state| {
            let views = model.jobs.iter().filter(|job| job.tube == name).filter_map(|job| model.view(job.id));
            views.filter(|view| view.state == state).count() as u64
        };
        assert_eq!(counts.ready, count(JobState::Ready));
        assert_eq!(counts.reserved, count(JobState::Reserved));
        assert_eq!(counts.delayed, count(JobState::Delayed));
        assert_eq!(counts.buried, count(JobState::Buried));
        assert_eq!((counts.total_jobs, counts.deletes, counts.pauses), (tube.total_jobs, tube.deletes, tube.pauses));
        let is_ready = |held| (held == Held::Ready).then_some(());
        let ready = model.first(name, |job| is_ready(job.held).map(|()| job.priority));
        assert_eq!(machine.peek_ready(name), ready);
        assert_eq!(machine.has_ready([name]), ready.is_some() && tube.paused_until.is_none());
        assert_eq!(machine.has_ready_even_paused([name]), ready.is_some());
        let delayed = model.first(name, |job| if let Held::Delayed(until) = job.held { Some(until) } else { None });
        assert_eq!(machine.peek_delayed(name), delayed);
        let buried = model.first(name, |job| if let Held::Buried(order) = job.held { Some(order) } else { None });
        assert_eq!(machine.peek_buried(name), buried);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_entries_do_what_the_model_does(plans in prop::collection::vec(entry_plan(), 1..60)) {
        let mut pair = Pair::new();
        plans.iter().for_each(|plan| drop(pair.run(plan)));
    }

    #[test]
    fn any_bytes_make_the_same_state_or_the_same_error_on_every_node(
        plans in prop::collection::vec(entry_plan(), 1..20), spoiled in entry_plan(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (mut one, mut other) = (Pair::new(), Pair::new());
        plans.iter().for_each(|plan| assert_eq!(one.run(plan), other.run(plan)));
        let (mut bytes, _) = one.build(&spoiled);
        other.build(&spoiled);
        for (at, byte) in flips.iter().filter(|_| !spoiled.steps.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        prop_assert_eq!(one.driver.raw_entry(&bytes), other.driver.raw_entry(&bytes));
        prop_assert!(one.driver.machine == other.driver.machine);
        prop_assert_eq!(one.driver.machine.digest(), other.driver.machine.digest());
    }
}

#[test]
fn each_entry_makes_another_state_with_another_digest() {
    let mut driver = Driver::new();
    let mut digests = vec![Machine::new().digest(), driver.machine.digest()];
    assert_eq!(digests[0], digests[1], "the state before the first entry");
    let mut client = driver.open(session(1, 1, 1));
    digests[0] = driver.machine.digest();
    driver.put(&mut client, class("t", 1));
    digests.push(driver.machine.digest());
    driver.tick();
    digests.push(driver.machine.digest());
    driver.reserve(&mut client, &["t"]);
    digests.push(driver.machine.digest());
    let unique: BTreeSet<u128> = digests.iter().copied().collect();
    assert_eq!(unique.len(), digests.len());
}
