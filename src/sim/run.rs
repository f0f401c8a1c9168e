//! One seed, one run: chaos under load, then everything heals, and the cluster must serve, agree, and have kept its word.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::cluster::{Cluster, Member, PutBack};
use super::coverage::Coverage;
use super::executor::Executor;
use super::faults::{FaultKind, Injector, Swarm};
use super::lasting::Lasting;
use super::network::{Network, NetworkCounts};
use super::oracle::group::GroupCounts;
use super::oracle::history::HistoryCounts;
use super::oracle::queue::{Decided, QueueModel};
use super::random::Random;
use super::workload::Workload;
use crate::job::Machine;
use crate::job::command::Batch;
use crate::metrics::Gauge;
use crate::mutation::{self, Mutation};
use crate::types::{Index, Nanos, NodeId};
use crate::wal::entry::{Entry, EntryKind};

/// How often, at random, all disks are read as a whole. Each commit is held against them when it comes, by what is known of
/// them bit by bit (`oracle::durable`); this sees to it that what is known is true.
const DISKS_READ_EVERY: [Nanos; 2] = [Nanos::from_millis(200), Nanos::from_secs(10)];

/// How long a healed cluster may take until everything is drained.
const DRAIN_MAX: Nanos = Nanos::from_secs(300);

#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Only these faults; none given: a subset that the seed draws.
    pub faults: Option<Vec<FaultKind>>,
    /// Things go wrong for no longer than this.
    pub chaos_max: Option<Nanos>,
    /// What stays broken behind the chaos; not given: some runs draw something.
    pub lasting: Option<Lasting>,
    /// A swarm that is directed at something.
    pub profile: Option<Profile>,
    /// Leave the invariants inside of nodes alone.
    pub outside_only: bool,
    /// A bug that is put back.
    pub mutation: Option<Mutation>,
    /// Nodes keep snapshots, more or less often.
    pub snapshots: bool,
    /// Print every event as it happens.
    pub trace: bool,
}

/// Turns a swarm that was drawn towards something: which faults there are, and how often.
pub type Profile = fn(&mut Swarm, &Random);

/// What a run that found nothing wrong was made of.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    pub hash: u64,
    pub events: u64,
    pub simulated: Nanos,
    pub history: HistoryCounts,
    pub group: GroupCounts,
    pub network: NetworkCounts,
    pub faults: BTreeMap<FaultKind, u64>,
    pub coverage: Coverage,
    pub entries: u64,
    /// Damaged entries that the last processes of the nodes repaired.
    pub repaired: u64,
}

/// A promise that was broken.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    pub at: Nanos,
    pub faults: Vec<FaultKind>,
    pub hash: u64,
    /// The last few hundred events.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.events {
            writeln!(f, "{line}")?;
        }
        let faults: Vec<&str> = self.faults.iter().map(|kind| kind.name()).collect();
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        write!(f, "after {} ms of simulated time, with faults: {}", self.at.0 / 1_000_000, faults.join(", "))
    }
}

/// Runs one seed.
///
/// # Errors
/// What was broken.
///
/// # Panics
/// If a bug is to be put back by a program that was built without any.
pub fn run_seed(seed: u64, options: &RunOptions) -> Result<RunReport, Box<Failure>> {
    mutation::with(options.mutation, || run(seed, options))
}

fn run(seed: u64, options: &RunOptions) -> Result<RunReport, Box<Failure>> {
    let executor = Executor::new(seed);
    if options.trace {
        executor.trace().print();
    }
    let random = Random::new(seed ^ 0x5eed);
    let mut swarm = Swarm::draw(&random, options.faults.as_deref());
    if let Some(profile) = options.profile {
        profile(&mut swarm, &random);
    }
    swarm.chaos = swarm.chaos.min(options.chaos_max.unwrap_or(swarm.chaos));
    swarm.lasting = options.lasting.or(swarm.lasting);
    // A draw of its own, so that what a seed draws for all else stays what it was.
    let may_rot = options.snapshots && options.faults.is_none() && options.profile.is_none();
    if may_rot && !swarm.faults.iter().any(|kind| kind.is_deceit()) && Random::new(seed ^ 0xc01d).chance(200_000) {
        swarm.faults.push(FaultKind::RotCold);
    }
    if options.lasting.is_none() && options.profile.is_none() && Random::new(seed ^ 0xbac4).chance(80_000) {
        let harms_one = swarm.faults.iter().any(|kind| kind.is_deceit());
        let puts_back = [Lasting::PutBack, Lasting::PutBackInPart][(seed / 7 % 2) as usize];
        swarm.lasting = Some(puts_back).filter(|_| !harms_one);
    }
    if swarm.faults.iter().any(|kind| kind.is_rot()) {
        // The node that breaks for good could take the last intact copy of something with it.
        swarm.lasting = None;
    }
    if options.snapshots {
        // Killed at every step of writing one, and started from one nearly always, or rarely; the log kept for nodes that lag,
        // or hardly ever.
        let (distances, kept) = ([4 << 10, 64 << 10, 1 << 20], [0, 16 << 10, 1 << 20]);
        let tunables = &mut swarm.cluster.tunables;
        tunables.snapshot_every_bytes = distances[(seed % 3) as usize];
        tunables.lagging_bytes_max = kept[(seed / 3 % 3) as usize];
    }
    let world = World::new(&executor, &swarm);
    if options.outside_only {
        world.cluster.oracle().judge_from_outside();
    }
    // A node that panics has found a bug of its own; the rest of the run is given up.
    let result = catch_unwind(AssertUnwindSafe(|| world.run(&swarm)))
        .unwrap_or_else(|panic| Err(format!("a panic: {}", told(panic.as_ref()))));
    let result = match result {
        Ok(report) => Ok(report),
        Err(what) => Err(Box::new(Failure {
            seed,
            what,
            at: executor.now(),
            faults: swarm.faults,
            hash: executor.trace().hash(),
            events: executor.trace().last_lines(),
        })),
    };
    executor.end();
    result
}

fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

struct World {
    executor: Executor,
    network: Network,
    cluster: Rc<Cluster>,
    workload: Workload,
    injector: Injector,
    random: Random,
    disks_read_at: Cell<Nanos>,
    broken: RefCell<BTreeSet<NodeId>>,
}

impl World {
    fn new(executor: &Executor, swarm: &Swarm) -> World {
        let network = Network::new(executor);
        let cluster = Rc::new(Cluster::new(executor, &network, swarm.cluster.clone()));
        let committed = cluster.oracle().committed();
        let addresses = cluster.client_addresses();
        let workload = Workload::new(executor, &network, swarm.workload, addresses, committed);
        let injector = Injector::new(executor, &network, &cluster, swarm);
        let random = executor.fork_random();
        let executor = executor.clone();
        let (disks_read_at, broken) = (Cell::default(), RefCell::default());
        World { executor, network, cluster, workload, injector, random, disks_read_at, broken }
    }

    fn run(&self, swarm: &Swarm) -> Result<RunReport, String> {
        self.cluster.start_all();
        self.workload.start();
        self.injector.start();
        self.run_until(self.executor.now().saturating_add(swarm.chaos))?;
        *self.broken.borrow_mut() = self.injector.heal();
        self.workload.stop();
        self.run_while(DRAIN_MAX, "the clients do not end", || self.workload.is_running())?;
        let refused = || self.cluster.members().iter().all(|member| self.is_refused_if_put_back(member));
        self.run_while(Nanos::from_secs(60), "a node whose disk was put back takes part", || !refused())?;
        let healthy = self.healthy().map(|member| self.cluster.client_address(member));
        self.workload.start_drain(healthy.collect());
        self.run_while(DRAIN_MAX, "the cluster is not drained", || self.workload.is_running())?;
        let settled = || self.is_settled();
        self.run_while(Nanos::from_secs(60), "the nodes do not agree", || !settled())?;
        if self.cluster.has_rotten() {
            // What nobody has read since it rotted is found when its node starts.
            for member in self.cluster.members() {
                self.cluster.kill(member);
                self.cluster.start(member);
                self.run_while(Nanos::from_secs(60), "a node does not repair its log", || !settled())?;
            }
        }
        self.judge(swarm)
    }

    fn run_until(&self, deadline: Nanos) -> Result<(), String> {
        while self.executor.step_until(deadline) {
            self.check()?;
        }
        Ok(())
    }

    fn run_while(&self, time_max: Nanos, late: &str, goes_on: impl Fn() -> bool) -> Result<(), String> {
        let deadline = self.executor.now().saturating_add(time_max);
        while goes_on() {
            if !self.executor.step_until(deadline) {
                return Err(format!("{late}, {} s after everything healed", time_max.0 / 1_000_000_000));
            }
            self.check()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        self.cluster.check_commit();
        self.cluster.check_elections();
        if self.executor.now() >= self.disks_read_at.get() {
            let pause = self.random.nanos(DISKS_READ_EVERY[0], DISKS_READ_EVERY[1]);
            self.disks_read_at.set(self.executor.now().saturating_add(pause));
            self.check_disks()?;
        }
        self.cluster.oracle().broken().map_or(Ok(()), Err)
    }

    fn check_disks(&self) -> Result<(), String> {
        self.cluster.check_durability();
        self.check_ends()?;
        self.check_complaints()?;
        self.workload.nonsense().map_or(Ok(()), Err)
    }

    /// A node may end for what was done to it; never because it contradicts another, or for a bug.
    fn check_ends(&self) -> Result<(), String> {
        for member in self.cluster.members() {
            if let Some((status, why)) = member.ended()
                && !self.may_end_with(status, member)
            {
                return Err(format!("node {} ended with status {status}: {why}", member.node));
            }
        }
        Ok(())
    }

    /// Whoever forgot what it had told must not only be harmless: it must be told so, and end.
    fn is_refused_if_put_back(&self, member: &Member) -> bool {
        let Some(what) = member.put_back() else { return true };
        let status = if what == PutBack::All { 16 } else { 17 };
        member.ended().is_some_and(|(ended, _)| ended == status)
    }

    fn may_end_with(&self, status: u8, member: &Member) -> bool {
        let suffered = |kinds: &[FaultKind]| kinds.iter().any(|kind| self.injector.was_done_to(member.node, *kind));
        match status {
            0 => suffered(&[FaultKind::Restart]),
            // A disk that lies loses a start that was told, or a vote.
            16 => member.is_wiped() || member.put_back().is_some() || member.is_deceived(),
            17 => member.put_back().is_some() || member.is_deceived(),
            // What its disk lost while it said otherwise is told as damage, of the log or of the vote.
            30 | 31 => member.is_deceived(),
            // What was damaged while it ran is repaired by the next start.
            33 => member.is_deceived() || self.cluster.is_rotten(member),
            11 | 32 => suffered(&[FaultKind::WriteErrors]),
            34 => suffered(&[FaultKind::StallDisk, FaultKind::SlowDisk]) || self.broken.borrow().contains(&member.node),
            // What is damaged here, and could be had of nobody at that time.
            35 => self.cluster.is_rotten(member),
            _ => false,
        }
    }

    /// Where nothing rotted and no disk lied, no node may take anything for damaged, nor look for what it should have.
    fn check_complaints(&self) -> Result<(), String> {
        if self.cluster.has_rotten() || self.cluster.members().iter().any(Member::is_deceived) {
            return Ok(());
        }
        let gauge = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or_default();
        let complaints = [
            ("copies of jobs were looked for", self.cluster.sum(|counted| counted.copies_sought.get())),
            ("files were mended", self.cluster.sum(|counted| counted.mended_files.get())),
            ("files were scrubbed and found damaged", self.cluster.sum(|counted| counted.scrub_faults.get())),
            ("entries were repaired", self.cluster.sum(|counted| counted.repaired_entries.get())),
            ("files are damaged", self.cluster.sum(|counted| gauge(&counted.damaged_files))),
            ("entries are damaged", self.cluster.sum(|counted| gauge(&counted.faulty_entries))),
        ];
        match complaints.iter().find(|(_, count)| *count > 0) {
            Some((what, count)) => Err(format!("{what} ({count}), and nothing was ever damaged")),
            None => Ok(()),
        }
    }

    fn healthy(&self) -> impl Iterator<Item = &Member> {
        self.cluster.members().iter().filter(|member| !self.broken.borrow().contains(&member.node))
    }

    /// All healthy nodes run, have applied all that is committed, and say that it is durable with them.
    fn is_settled(&self) -> bool {
        let committed = self.cluster.oracle().committed().get();
        let reached = self.cluster.oracle().reached();
        self.healthy().all(|member| reached.get(&member.node).is_some_and(|reached| *reached >= committed))
    }

    fn judge(&self, swarm: &Swarm) -> Result<RunReport, String> {
        for member in self.cluster.members() {
            self.cluster.check_inspection(member, &member.disk().durable_image());
        }
        self.check_disks()?;
        self.check()?;
        let committed = self.cluster.oracle().committed().get();
        let mut logs = Vec::new();
        for member in self.healthy() {
            let log = self.cluster.medium_log(member).map_err(|error| format!("node {}: {error}", member.node))?;
            if !log.faulty.is_empty() {
                return Err(format!("node {}: entries stayed damaged: {:?}", member.node, log.faulty));
            }
            let chain = log.chain_at(committed);
            logs.push((member.node, log, chain));
        }
        let (node, log, chain) = logs.swap_remove(0);
        if let Some((other, _, differs)) = logs.iter().find(|(_, _, other)| *other != chain) {
            return Err(format!(
                "the disks of nodes {node} and {other} differ at entry {committed}: {chain:?} and {differs:?}"
            ));
        }
        let oracle = self.cluster.oracle();
        logs.iter().for_each(|(_, log, _)| oracle.note_entries(&log.entries));
        oracle.note_entries(&log.entries);
        let entries = oracle.log_up_to(committed, chain.ok_or("the first disk lacks committed entries")?)?;
        let (decided, model) = self.replay(&entries)?;
        let history = self.workload.history().check(&decided, &model).map_err(|violation| violation.to_string())?;
        let left: Vec<u64> = model.live().map(|job| job.0).collect();
        if !left.is_empty() {
            return Err(format!("jobs were left when the drain found no more: {left:?}"));
        }
        Ok(RunReport {
            hash: self.executor.trace().hash(),
            events: self.executor.trace().events(),
            simulated: self.executor.now(),
            history,
            group: self.cluster.oracle().counts(),
            network: self.network.counts(),
            faults: self.injector.done(),
            coverage: Coverage::of(&self.cluster, &self.network, swarm, &self.injector.done(), &entries),
            entries: committed.0,
            repaired: self.cluster.repaired(),
        })
    }

    /// Replays the log through the model and through a fresh state machine; both must agree with each other, and the
    /// machine with what the nodes had.
    fn replay(&self, entries: &[Entry]) -> Result<(Vec<Decided>, QueueModel), String> {
        let (mut model, mut machine) = (QueueModel::new(), Machine::new());
        let mut all = Vec::new();
        for entry in entries {
            let index = entry.meta.position.index;
            let commands = match entry.kind {
                EntryKind::Commands => entry.payload(),
                _ => &[],
            };
            let batch = Batch {
                index,
                term: entry.meta.position.term,
                times: entry.times,
                first_job: entry.first_job,
                commands,
            };
            let decided = model.apply(&batch).map_err(|error| format!("entry {index}: {error}"))?;
            let mut applied = Vec::new();
            machine.apply(batch, &mut applied).map_err(|error| error.to_string())?;
            let same = applied.len() == decided.len()
                && applied.iter().zip(&decided).all(|(applied, decided)| {
                    (applied.session, applied.seq, applied.outcome) == (decided.session, decided.seq, decided.outcome)
                });
            if !same {
                return Err(format!("entry {index}: the model says {decided:?}, the state machine {applied:?}"));
            }
            self.compare_fingerprint(index, &machine)?;
            all.extend(decided);
        }
        Ok((all, model))
    }

    fn compare_fingerprint(&self, index: Index, machine: &Machine) -> Result<(), String> {
        match self.cluster.oracle().fingerprint_at(index) {
            Some(seen) if seen != machine.fingerprint() => {
                Err(format!("behind entry {index} the nodes' state is not that of the log"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_cluster_serves_and_keeps_its_word() {
        let options =
            RunOptions { faults: Some(Vec::new()), chaos_max: Some(Nanos::from_secs(2)), ..RunOptions::default() };
        let report = run_seed(1, &options).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.history.inserted > 0 && report.history.reserved > 0, "{report:?}");
        assert_eq!(report.group.leaders, 1, "nothing went wrong, so nobody else should have led");
    }

    #[test]
    fn what_rots_under_load_is_repaired() {
        let faults = vec![FaultKind::Rot, FaultKind::Rot, FaultKind::Kill, FaultKind::PowerCut];
        let options =
            RunOptions { faults: Some(faults), chaos_max: Some(Nanos::from_secs(5)), ..RunOptions::default() };
        let report = run_seed(5, &options).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.repaired > 0, "{report:?}");
    }

    #[test]
    fn what_rots_below_the_log_under_load_costs_no_job_and_no_wrong_answer() {
        let faults = vec![FaultKind::RotCold, FaultKind::RotCold, FaultKind::Kill, FaultKind::PowerCut];
        let options = RunOptions { faults: Some(faults), snapshots: true, ..RunOptions::default() };
        let mut rotted = 0;
        for seed in 0..12 {
            let report = run_seed(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
            rotted += report.faults.get(&FaultKind::RotCold).copied().unwrap_or_default();
        }
        assert!(rotted > 12, "{rotted} files were damaged");
    }

    #[test]
    fn a_seed_gives_the_same_run_twice() {
        let run =
            |seed| run_seed(seed, &RunOptions::default()).map(|report| report.hash).map_err(|failure| failure.hash);
        assert_eq!(run(3), run(3));
    }
}
