//! What goes wrong in a run. Each seed takes a random subset of faults and of small limits (swarm testing, Groce 2012):
//! a run with everything at once mostly shows the loudest.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use super::cluster::{Cluster, ClusterConfig, Member};
use super::disk::{Crash, Faults, SectorOdds};
use super::executor::Executor;
use super::lasting::{Images, Lasting};
use super::latency::DiskSpeed;
use super::network::{Link, Network};
use super::random::Random;
use super::workload::WorkloadConfig;
use crate::config::Tunables;
use crate::types::{Nanos, NodeId};

macro_rules! fault_kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind { $($(#[doc = $doc])+ $kind,)* }

        impl FaultKind {
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$kind,)*];

            /// As it is written on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(FaultKind::$kind => $name,)* }
            }
        }
    };
}

fault_kinds! {
    /// A process is killed and starts again.
    Kill = "kill",
    /// A host loses its power and comes back.
    PowerCut = "power-cut",
    /// All hosts lose their power at once.
    Blackout = "blackout",
    /// A process is asked to stop, and starts again.
    Restart = "restart",
    /// A process stands still for a while.
    Pause = "pause",
    /// A host is suspended: its monotonic clock stands still too.
    Suspend = "suspend",
    /// A node is cut off from all others.
    Isolate = "isolate",
    /// Two nodes don't hear each other.
    CutLink = "cut-link",
    /// One direction of a link is cut.
    CutOneWay = "cut-one-way",
    /// Streams break in the midst of frames.
    BreakStreams = "break-streams",
    /// Packets are lost and late.
    LossyLinks = "lossy-links",
    /// A link is slow.
    SlowLink = "slow-link",
    /// A disk does not answer.
    StallDisk = "stall-disk",
    /// A disk is slow.
    SlowDisk = "slow-disk",
    /// Writes to a disk fail, so that its node ends.
    WriteErrors = "write-errors",
    /// A disk fills up.
    FillDisk = "fill-disk",
    /// A clock runs fast or slow.
    Drift = "drift",
    /// A wall clock jumps.
    JumpWall = "jump-wall",
    /// An entry that was durable is damaged; another node has a copy.
    Rot = "rot",
    /// A file that is written no more is damaged, below the log; the other nodes hold what was in it.
    RotCold = "rot-cold",
    /// Writes of one disk land in other places of their files, and report success.
    Misdirect = "misdirect",
    /// One disk reports durable what is not, and loses it with its power.
    Lie = "lie",
}

impl FaultKind {
    /// A disk that lies withdraws promises of its node. That is one more than what a majority is there for, so such runs harm
    /// nobody else: they show what becomes of the node, and that the others keep their word.
    #[must_use]
    pub fn is_deceit(self) -> bool {
        matches!(self, FaultKind::Misdirect | FaultKind::Lie)
    }
}

impl FaultKind {
    /// What was durable is damaged.
    #[must_use]
    pub fn is_rot(self) -> bool {
        matches!(self, FaultKind::Rot | FaultKind::RotCold)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<FaultKind, String> {
        let named = FaultKind::ALL.iter().find(|kind| kind.name() == text).copied();
        named.ok_or_else(|| {
            let names: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("there is no fault `{text}`; there are {}", names.join(", "))
        })
    }
}

/// All that a seed decides before the run begins.
#[derive(Debug, Clone)]
pub struct Swarm {
    pub faults: Vec<FaultKind>,
    pub cluster: ClusterConfig,
    pub workload: WorkloadConfig,
    /// How long things go wrong.
    pub chaos: Nanos,
    /// The longest time between two faults.
    pub pause_max: Nanos,
    /// What does not heal.
    pub lasting: Option<Lasting>,
}

impl Swarm {
    /// `only`: these faults, where the operator chose.
    #[must_use]
    pub fn draw(random: &Random, only: Option<&[FaultKind]>) -> Swarm {
        let is_early = |kind: &&FaultKind| !kind.is_rot() && !kind.is_deceit();
        let faults = match only {
            Some(only) => only.to_vec(),
            None => FaultKind::ALL.iter().filter(is_early).filter(|_| random.chance(300_000)).copied().collect(),
        };
        let chaos = draw_length(random);
        let mut swarm = Swarm {
            faults,
            cluster: ClusterConfig {
                nodes: if random.chance(150_000) { 5 } else { 3 },
                tunables: draw_tunables(random),
                disk_bytes: 1 << 30,
            },
            workload: WorkloadConfig {
                clients: u32::try_from(random.between(1, 6)).expect("few"),
                commands_per_connection_max: random.between(2, 80),
                pipeline_max: random.between(1, 40),
                body_bytes_max: if random.chance(200_000) { 20_000 } else { 300 },
                pause_max: Nanos::from_millis(random.between(5, 100)),
                vanish_ppm: 300_000,
                readers: *random.pick(&[0, 0, 1, 2]).expect("some"),
                peek_ppm: *random.pick(&[0, 0, 100_000, 500_000]).expect("some"),
            },
            chaos,
            pause_max: Nanos::from_millis(random.between(100, chaos.0 / 4_000_000)),
            lasting: random.chance(250_000).then(|| *random.pick(Lasting::DRAWN).expect("some")),
        };
        // Drawn last, so that what a seed draws before stays what it was.
        if only.is_none() && random.chance(200_000) {
            swarm.faults.push(FaultKind::Rot);
        }
        if only.is_none() && random.chance(40_000) {
            swarm.faults = vec![*random.pick(&[FaultKind::Misdirect, FaultKind::Lie]).expect("some")];
        }
        if let Some(deceit) = swarm.faults.iter().find(|kind| kind.is_deceit()).copied() {
            swarm.faults = vec![deceit, FaultKind::PowerCut, FaultKind::Kill];
            swarm.lasting = None;
        }
        swarm
    }
}

/// How long things go wrong. Most runs are short: what breaks mostly breaks soon, and another seed draws other faults and
/// limits. A few are long, for what only time brings, such as logs of many segments.
fn draw_length(random: &Random) -> Nanos {
    let (from_ms, to_ms) = match random.below(100) {
        0..70 => (500, 3_000),
        70..95 => (3_000, 8_000),
        _ => (8_000, 20_000),
    };
    Nanos::from_millis(random.between(from_ms, to_ms))
}

fn draw_tunables(random: &Random) -> Tunables {
    let pick_u64 = |from: &[u64]| *random.pick(from).expect("some");
    let pick_u32 = |from: &[u32]| *random.pick(from).expect("some");
    let segment_bytes_min = pick_u64(&[65_536, 262_144, 1 << 20]);
    Tunables {
        segment_bytes_min,
        segment_bytes_max: segment_bytes_min * pick_u64(&[1, 2, 8]),
        appends_in_flight_max: pick_u32(&[1, 2, 64]),
        appends_in_flight_bytes_max: pick_u64(&[65_536, 8 << 20]),
        entry_bytes_max: pick_u32(&[4_096, 65_536, 1 << 20]),
        recent_bytes_max: 1 << 20,
        no_quorum_timeout_ms: pick_u64(&[500, 2_000, 10_000]),
        disk_stall_exit_ms: pick_u64(&[1_000, 5_000, 20_000]),
        stop_timeout_ms: pick_u64(&[200, 5_000]),
        disk_reserve_bytes: 16 << 20,
        // Runs with snapshots have them far more often than anybody else.
        snapshot_every_bytes: 0,
        ..Tunables::default()
    }
}

/// Each holds a whole disk.
const IMAGES_MAX: usize = 24;

/// Does harm to a cluster while it is let, and can undo all of it.
#[derive(Clone)]
pub struct Injector(Rc<State>);

struct State {
    executor: Executor,
    network: Network,
    cluster: Rc<Cluster>,
    swarm: Swarm,
    random: Random,
    stopped: Cell<bool>,
    done: RefCell<BTreeMap<(NodeId, FaultKind), u64>>,
    suspended: RefCell<BTreeMap<NodeId, Nanos>>,
    /// Nodes that never recover.
    broken: RefCell<BTreeSet<NodeId>>,
    /// Of disks, to be put back later.
    images: RefCell<Images>,
    /// The one whose disk lies, in a run with such faults.
    deceived: Option<NodeId>,
}

impl Injector {
    #[must_use]
    pub fn new(executor: &Executor, network: &Network, cluster: &Rc<Cluster>, swarm: &Swarm) -> Injector {
        let random = executor.fork_random();
        let lies = swarm.faults.iter().any(|kind| kind.is_deceit());
        let deceived = random.pick(cluster.members()).filter(|_| lies).map(|member| member.node);
        Injector(Rc::new(State {
            executor: executor.clone(),
            network: network.clone(),
            cluster: Rc::clone(cluster),
            swarm: swarm.clone(),
            random,
            deceived,
            stopped: Cell::new(false),
            done: RefCell::default(),
            suspended: RefCell::default(),
            broken: RefCell::default(),
            images: RefCell::default(),
        }))
    }

    /// How often each fault was done.
    #[must_use]
    pub fn done(&self) -> BTreeMap<FaultKind, u64> {
        let mut done = BTreeMap::new();
        for ((_, kind), count) in &*self.0.done.borrow() {
            *done.entry(*kind).or_default() += count;
        }
        done
    }

    /// Whether this node ever suffered it.
    #[must_use]
    pub fn was_done_to(&self, node: NodeId, kind: FaultKind) -> bool {
        self.0.done.borrow().get(&(node, kind)).is_some_and(|count| *count > 0)
    }

    /// Begins to do harm. Processes that end are started again all the while.
    pub fn start(&self) {
        self.next_fault();
        self.revive();
        if self.0.swarm.lasting.is_some_and(Lasting::puts_back) {
            self.take_image();
        }
    }

    /// Takes an image of a disk every now and then, in the place of another where there are many.
    fn take_image(&self) {
        let injector = self.clone();
        let pause = self.0.random.nanos(Nanos::from_millis(50), Nanos::from_millis(500));
        self.0.executor.call_in(pause, move || {
            let State { cluster, random, stopped, images, .. } = &*injector.0;
            if stopped.get() {
                return;
            }
            if let Some(member) = random.pick(cluster.members()) {
                let mut images = images.borrow_mut();
                if images.len() >= IMAGES_MAX {
                    images.swap_remove(random.below_len(IMAGES_MAX));
                }
                images.push((member.node, member.disk().durable_image()));
            }
            injector.take_image();
        });
    }

    fn next_fault(&self) {
        let pause = self.0.random.nanos(Nanos::from_millis(20), self.0.swarm.pause_max);
        let injector = self.clone();
        self.0.executor.call_in(pause, move || {
            if injector.0.stopped.get() {
                return;
            }
            if let Some(&kind) = injector.0.random.pick(&injector.0.swarm.faults) {
                injector.harm(kind);
            }
            injector.next_fault();
        });
    }

    /// What an operator's service manager does, also when everything is well.
    fn revive(&self) {
        let injector = self.clone();
        let pause = self.0.random.nanos(Nanos::from_millis(50), Nanos::from_millis(1_500));
        self.0.executor.call_in(pause, move || {
            let members = injector.0.cluster.members();
            if let Some(member) = injector.0.random.pick(members)
                && !injector.0.broken.borrow().contains(&member.node)
            {
                injector.start_one(member);
            }
            injector.revive();
        });
    }

    /// Who forgot what it promised comes back only when all others have what was committed with its help.
    fn start_one(&self, member: &Member) {
        let oracle = self.0.cluster.oracle();
        let (reached, committed) = (oracle.reached(), oracle.committed().get());
        let mut others = self.0.cluster.members().iter().filter(|other| other.node != member.node);
        let may_start = !member.is_deceived()
            || others.all(|other| reached.get(&other.node).is_some_and(|reached| *reached >= committed));
        if may_start {
            self.0.cluster.start(member);
        }
    }

    /// Undoes everything: what comes now must work. In some runs a minority is broken for good instead; which.
    pub fn heal(&self) -> BTreeSet<NodeId> {
        self.0.stopped.set(true);
        self.0.executor.tell("everything heals");
        self.0.network.heal();
        let hosts: Vec<_> = self.0.cluster.members().iter().map(|member| member.host).collect();
        for &from in &hosts {
            for &to in hosts.iter().filter(|to| **to != from) {
                self.0.network.set_link(from, to, Link::default());
            }
        }
        for member in self.0.cluster.members() {
            member.latency.set_stalled(false);
            member.latency.set_speed(DiskSpeed::default());
            member.disk().set_faults(Faults::default());
            member.disk().set_capacity(self.0.swarm.cluster.disk_bytes);
            member.clock.set_drift(0);
            self.wake(member);
            self.0.cluster.set_paused(member, false);
        }
        let State { cluster, network, executor, random, swarm, broken, images, .. } = &*self.0;
        if let Some(lasting) = swarm.lasting {
            *broken.borrow_mut() = lasting.break_some(executor, network, cluster, random, &images.borrow());
        }
        broken.borrow_mut().extend(self.0.deceived);
        let broken = broken.borrow().clone();
        cluster
            .members()
            .iter()
            .filter(|member| !broken.contains(&member.node))
            .for_each(|member| cluster.start(member));
        broken
    }

    /// Half of the time soon: what lasts about as long as an election takes is worse than what lasts for long.
    fn after(&self, from_ms: u64, to_ms: u64, undo: impl FnOnce(&Injector) + 'static) {
        let injector = self.clone();
        let to_ms = if self.0.random.chance(500_000) { to_ms } else { from_ms + (to_ms - from_ms) / 8 };
        let delay = self.0.random.nanos(Nanos::from_millis(from_ms), Nanos::from_millis(to_ms));
        self.0.executor.call_in(delay, move || {
            if !injector.0.stopped.get() {
                undo(&injector);
            }
        });
    }

    fn power_cut(&self) -> Crash {
        let parts = [[0.5, 0.2, 0.1], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.3, 0.6, 0.0]];
        let [new, torn, garbage] = *self.0.random.pick(&parts).expect("some");
        Crash::Power(SectorOdds { new, torn, garbage })
    }

    /// A crash finds a disk at rest, most of the time, and then has nothing to tear. This one waits until something is
    /// being written.
    fn crash_in_a_write(&self, member: &Member, kind: FaultKind) {
        let (injector, node) = (self.clone(), member.node);
        let lag = self.0.random.nanos(Nanos::ZERO, Nanos::from_micros(150));
        let again = self.0.random.nanos(Nanos::from_millis(1), Nanos::from_millis(300));
        let crash = Rc::new(move || {
            let State { cluster, stopped, executor, .. } = &*injector.0;
            let member = cluster.member(node);
            if stopped.get() {
                return;
            }
            match kind {
                FaultKind::Kill => cluster.kill(member),
                _ => cluster.cut_power(member, injector.power_cut()),
            }
            let revived = injector.clone();
            executor.call_in(again, move || {
                if !revived.0.stopped.get() {
                    revived.start_one(revived.0.cluster.member(node));
                }
            });
        });
        let executor = self.0.executor.clone();
        member.disk().set_trap(self.0.random.between(0, 40), move || {
            let crash = Rc::clone(&crash);
            executor.call_in(lag, move || crash());
        });
    }

    /// A suspended host wakes up.
    fn wake(&self, member: &Member) {
        let Some(since) = self.0.suspended.borrow_mut().remove(&member.node) else { return };
        member.clock.was_suspended(member.clock.boottime().saturating_sub(since));
        self.0.network.set_frozen(member.host, false);
        self.0.cluster.set_paused(member, false);
    }

    fn harm(&self, kind: FaultKind) {
        let State { executor, network, cluster, random, .. } = &*self.0;
        let drawn = random.pick(cluster.members()).expect("a cluster has members");
        let member = self.0.deceived.map_or(drawn, |node| cluster.member(node));
        let other = random.pick(cluster.members()).expect("a cluster has members");
        let (node, host) = (member.node, member.host);
        *self.0.done.borrow_mut().entry((node, kind)).or_default() += 1;
        executor.tell(format_args!("fault {kind} at node {node}"));
        let in_a_write = matches!(kind, FaultKind::Kill | FaultKind::PowerCut) && random.chance(600_000);
        if in_a_write && cluster.is_running(member) {
            return self.crash_in_a_write(member, kind);
        }
        match kind {
            FaultKind::Kill => {
                cluster.kill(member);
                // A service manager may be as quick as this, or as slow as `revive`.
                if random.chance(500_000) {
                    self.after(1, 200, move |injector| injector.start_one(injector.0.cluster.member(node)));
                }
            }
            FaultKind::PowerCut => cluster.cut_power(member, self.power_cut()),
            FaultKind::Blackout => {
                for member in cluster.members() {
                    cluster.cut_power(member, self.power_cut());
                }
            }
            FaultKind::Restart => cluster.ask_to_stop(member),
            FaultKind::Pause => {
                cluster.set_paused(member, true);
                self.after(10, 4_000, move |injector| {
                    injector.0.cluster.set_paused(injector.0.cluster.member(node), false);
                });
            }
            FaultKind::Suspend => {
                self.0.suspended.borrow_mut().entry(node).or_insert_with(|| member.clock.boottime());
                network.set_frozen(host, true);
                cluster.set_paused(member, true);
                self.after(10, 6_000, move |injector| injector.wake(injector.0.cluster.member(node)));
            }
            FaultKind::Isolate => {
                cluster.set_isolated(member, true);
                self.after(50, 6_000, move |injector| {
                    injector.0.cluster.set_isolated(injector.0.cluster.member(node), false);
                });
            }
            FaultKind::CutLink | FaultKind::CutOneWay => {
                let both = kind == FaultKind::CutLink;
                let (from, to) = (host, other.host);
                let set = move |network: &Network, is_cut| match both {
                    true => network.set_cut_both(from, to, is_cut),
                    false => network.set_cut(from, to, is_cut),
                };
                set(network, true);
                self.after(50, 6_000, move |injector| set(&injector.0.network, false));
            }
            FaultKind::BreakStreams => {
                network.cut_streams(host, other.host);
            }
            FaultKind::LossyLinks => {
                let link = Link { loss_ppm: 50_000, late_ppm: 200_000, ..network.link(host, other.host) };
                network.set_link(host, other.host, link);
                let to = other.host;
                self.after(500, 5_000, move |injector| {
                    let link = Link { loss_ppm: 0, late_ppm: 0, ..injector.0.network.link(host, to) };
                    injector.0.network.set_link(host, to, link);
                });
            }
            FaultKind::SlowLink => {
                let delay = random.nanos(Nanos::from_millis(1), Nanos::from_millis(120));
                let was = network.link(host, other.host);
                let link = Link { delay_min: delay, delay_max: Nanos(delay.0 * 2), ..was };
                network.set_link(host, other.host, link);
                let to = other.host;
                self.after(200, 4_000, move |injector| {
                    let now = injector.0.network.link(host, to);
                    let Link { delay_min, delay_max, .. } = Link::default();
                    injector.0.network.set_link(host, to, Link { delay_min, delay_max, ..now });
                });
            }
            FaultKind::StallDisk => {
                member.latency.set_stalled(true);
                self.after(50, 8_000, move |injector| {
                    injector.0.cluster.member(node).latency.set_stalled(false);
                });
            }
            FaultKind::SlowDisk => {
                let delay_max = random.nanos(Nanos::from_millis(1), Nanos::from_millis(60));
                member.latency.set_speed(DiskSpeed { delay_max, late_ppm: 20_000, ..DiskSpeed::default() });
                self.after(200, 4_000, move |injector| {
                    injector.0.cluster.member(node).latency.set_speed(DiskSpeed::default());
                });
            }
            FaultKind::WriteErrors => {
                let faults = Faults { write_error: 0.02, sync_error: 0.02, ..Faults::default() };
                member.disk().set_faults(faults);
                self.after(50, 2_000, move |injector| {
                    injector.0.cluster.member(node).disk().set_faults(Faults::default());
                });
            }
            FaultKind::FillDisk => {
                // Others take what is free, and no more.
                member.disk().set_capacity(member.disk().used_bytes().max(8 << 20));
                let capacity = self.0.swarm.cluster.disk_bytes;
                self.after(500, 8_000, move |injector| {
                    injector.0.cluster.member(node).disk().set_capacity(capacity);
                });
            }
            FaultKind::Drift => {
                let drift = random.between(0, 200_000);
                member.clock.set_drift(i32::try_from(drift).expect("small") - 100_000);
            }
            FaultKind::Rot | FaultKind::RotCold => {
                let has_rotted = match kind {
                    FaultKind::Rot => cluster.rot(member, random),
                    _ => cluster.rot_cold(member, random),
                };
                if !has_rotted {
                    // There was nothing that may.
                    *self.0.done.borrow_mut().entry((node, kind)).or_default() -= 1;
                }
            }
            FaultKind::Misdirect | FaultKind::Lie => {
                member.is_deceived_by_its_disk();
                member.disk().set_faults(match kind {
                    FaultKind::Lie => Faults { lying_flush: true, ..Faults::default() },
                    _ => Faults { misdirected_write: 0.05, ..Faults::default() },
                });
                self.after(50, 2_000, move |injector| {
                    injector.0.cluster.member(node).disk().set_faults(Faults::default());
                });
            }
            FaultKind::JumpWall => {
                let jump = random.between(0, 7_200_000_000_000);
                member.clock.jump_wall(i64::try_from(jump).expect("two hours") - 3_600_000_000_000);
            }
        }
    }
}
