//! What all beanstalkd connections of one node share: limits, counters, the drain flag. Counters are kept per core
//! thread, so that no two threads write the same cache line, and summed when somebody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::body_budget::{BodyBudget, BodyLimits};
use super::output_budget::{AnswerBudget, OutputLimits, OutputShare};
use super::request::{BODY_BYTES_MAX_LIMIT, Counted};
use crate::types::Nanos;

/// One per node.
#[derive(Debug)]
pub struct FrontDoor {
    pub shards: u16,
    /// The longest body of a job.
    pub body_bytes_max: u32,
    pub facts: NodeFacts,
    /// Bodies that shards have handed out and clients have not taken.
    pub answers: Arc<AnswerBudget>,
    pub output_stall: Nanos,
    draining: AtomicBool,
    cores: Box<[CoreCounters]>,
}

/// What `stats` says of the process. None of it changes.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub pid: u32,
    pub version: &'static str,
    /// Drawn at random by each process.
    pub instance: u64,
    pub hostname: String,
    pub os: String,
    pub platform: String,
    /// On the clock that connections are given.
    pub started: Nanos,
    /// Shown as `binlog-max-size`.
    pub segment_bytes_max: u64,
    /// Whether clients are shown the log as a binlog. Not where it goes with the server, as
    /// beanstalkd has no binlog without `-b`.
    pub has_binlog: bool,
    /// How the process learns what it used up: this room asks no system.
    pub resource_usage: fn() -> ResourceUsage,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceUsage {
    pub user_micros: u64,
    pub system_micros: u64,
}

/// The counters of one core thread. Only it writes them. Aligned so that two threads share no cache line, nor the
/// pair that is prefetched together.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreCounters {
    pub bodies: BodyBudget,
    pub outputs: OutputShare,
    stalled: AtomicU64,
    commands: [AtomicU64; Counted::ALL.len()],
    connections_ever: AtomicU64,
    connections: AtomicU64,
    producers: AtomicU64,
    workers: AtomicU64,
    waiting: AtomicU64,
}

/// Counters of the whole node, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// By `Counted as usize`.
    pub commands: [u64; Counted::ALL.len()],
    pub connections_ever: u64,
    pub connections: u64,
    pub producers: u64,
    pub workers: u64,
    pub waiting: u64,
    /// Bytes of bodies that are arriving or await an answer.
    pub body_bytes: u64,
    /// Puts that were refused for want of memory for their bodies.
    pub puts_refused: u64,
    /// Bytes of answers that clients have not taken.
    pub output_bytes: u64,
    /// Bodies that have waited until clients had taken others.
    pub answers_waited: u64,
    /// Bodies that have waited for that in vain, for too long.
    pub answers_given_up: u64,
    /// Connections that were closed because their client took nothing.
    pub stalled: u64,
}

/// A number of connections that goes up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gauge {
    Connections,
    Producers,
    Workers,
    Waiting,
}

impl FrontDoor {
    #[must_use]
    pub fn new(shards: u16, cores: usize, bodies: BodyLimits, outputs: OutputLimits, facts: NodeFacts) -> FrontDoor {
        assert!(shards > 0 && cores > 0, "a node has at least one shard and one core thread");
        assert!(bodies.bytes_max <= BODY_BYTES_MAX_LIMIT, "the configuration bounds the size of a body");
        let new = |_| CoreCounters::new(BodyBudget::share(bodies, cores), outputs.share(cores));
        FrontDoor {
            shards,
            body_bytes_max: bodies.bytes_max,
            facts,
            answers: outputs.bodies(),
            output_stall: outputs.stall,
            draining: AtomicBool::new(false),
            cores: (0..cores).map(new).collect(),
        }
    }

    /// Whether puts are refused from now on. Returns whether that is a change.
    pub fn set_draining(&self, draining: bool) -> bool {
        self.draining.swap(draining, Ordering::Relaxed) != draining
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn core(&self, core: usize) -> &CoreCounters {
        &self.cores[core]
    }

    /// Connections open now, on all core threads.
    #[must_use]
    pub fn connections(&self) -> u64 {
        let open = self.cores.iter().map(|core| core.connections.load(Ordering::Relaxed));
        open.fold(0, u64::wrapping_add)
    }

    #[must_use]
    pub fn counts(&self) -> NodeCounts {
        let mut sum = NodeCounts::default();
        for core in &self.cores {
            for (sum, counter) in sum.commands.iter_mut().zip(&core.commands) {
                *sum += counter.load(Ordering::Relaxed);
            }
            sum.connections_ever += core.connections_ever.load(Ordering::Relaxed);
            sum.connections += core.connections.load(Ordering::Relaxed);
            sum.producers += core.producers.load(Ordering::Relaxed);
            sum.workers += core.workers.load(Ordering::Relaxed);
            sum.waiting += core.waiting.load(Ordering::Relaxed);
            sum.body_bytes += core.bodies.taken_bytes();
            sum.puts_refused += core.bodies.refused();
            sum.output_bytes += core.outputs.taken_bytes();
            sum.stalled += core.stalled.load(Ordering::Relaxed);
        }
        sum.output_bytes += self.answers.taken_bytes();
        sum.answers_waited = self.answers.waited();
        sum.answers_given_up = self.answers.given_up();
        sum
    }
}

impl CoreCounters {
    fn new(bodies: BodyBudget, outputs: OutputShare) -> CoreCounters {
        CoreCounters {
            bodies,
            outputs,
            stalled: AtomicU64::new(0),
            commands: Default::default(),
            connections_ever: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            producers: AtomicU64::new(0),
            workers: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    pub fn count(&self, counted: Counted) {
        add(&self.commands[counted as usize], 1);
    }

    /// A client took nothing for too long.
    pub fn count_stalled(&self) {
        add(&self.stalled, 1);
    }

    pub fn rise(&self, gauge: Gauge) {
        if gauge == Gauge::Connections {
            add(&self.connections_ever, 1);
        }
        add(self.gauge(gauge), 1);
    }

    pub fn fall(&self, gauge: Gauge) {
        add(self.gauge(gauge), 1u64.wrapping_neg());
    }

    fn gauge(&self, gauge: Gauge) -> &AtomicU64 {
        match gauge {
            Gauge::Connections => &self.connections,
            Gauge::Producers => &self.producers,
            Gauge::Workers => &self.workers,
            Gauge::Waiting => &self.waiting,
        }
    }
}

/// One thread writes, any may read: a load and a store cost less than a locked addition and lose nothing.
fn add(counter: &AtomicU64, change: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn facts() -> NodeFacts {
        NodeFacts {
            pid: 42,
            version: "1.2.3",
            instance: 0xabc,
            hostname: "host".into(),
            os: "#1 \"SMP\"".into(),
            platform: "x86_64".into(),
            started: Nanos::ZERO,
            segment_bytes_max: 64 << 20,
            has_binlog: true,
            resource_usage: || ResourceUsage { user_micros: 1_000_002, system_micros: 3 },
        }
    }

    pub(crate) fn bodies_up_to(bytes_max: u32) -> BodyLimits {
        BodyLimits { bytes_max, together_bytes_max: 1 << 30 }
    }

    pub(crate) fn roomy() -> OutputLimits {
        OutputLimits { together_bytes_max: 1 << 30, stall: Nanos::from_secs(30) }
    }

    #[test]
    fn counters_of_all_cores_are_summed() {
        let door = FrontDoor::new(1, 2, bodies_up_to(100), roomy(), facts());
        door.core(0).count(Counted::Put);
        door.core(1).count(Counted::Put);
        door.core(1).count(Counted::PauseTube);
        door.core(0).rise(Gauge::Connections);
        door.core(1).rise(Gauge::Connections);
        door.core(1).fall(Gauge::Connections);
        let counts = door.counts();
        assert_eq!(counts.commands[Counted::Put as usize], 2);
        assert_eq!(counts.commands[Counted::PauseTube as usize], 1);
        assert_eq!((counts.connections, counts.connections_ever), (1, 2));
        assert_eq!(door.connections(), 1);
    }

    #[test]
    fn the_place_of_a_counted_command_is_its_number() {
        for (place, counted) in Counted::ALL.into_iter().enumerate() {
            assert_eq!(counted as usize, place);
        }
    }
}
