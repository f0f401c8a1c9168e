//! `io::Runtime` of one simulated process: the executor's tasks, its host's clocks, disk and wire.

use super::clock::Clock;
use super::disk::SimDisk;
use super::executor::{Executor, GroupId};
use super::network::{HostId, Network};
use super::random::Random;
use super::wire::SimWire;
use crate::io::Runtime;
use crate::types::Nanos;

/// Real timers fire up to a millisecond late.
const TIMER_LATE_MAX: Nanos = Nanos::from_millis(1);

/// How long work beside the core threads takes at most.
const BESIDE_MAX: Nanos = Nanos::from_millis(20);

/// The world of one process, from its start to its end. Clones share it.
#[derive(Clone)]
pub struct SimRuntime {
    executor: Executor,
    process: GroupId,
    clock: Clock,
    disk: SimDisk,
    wire: SimWire,
    random: Random,
}

impl SimRuntime {
    /// A new process on a host with these clocks and this disk.
    #[must_use]
    pub fn new(executor: &Executor, network: &Network, host: HostId, clock: &Clock, disk: SimDisk) -> SimRuntime {
        let process = executor.new_group();
        SimRuntime {
            executor: executor.clone(),
            process,
            clock: clock.clone(),
            disk,
            wire: SimWire::new(network, host, process),
            random: executor.fork_random(),
        }
    }

    /// The process, to be paused or killed.
    #[must_use]
    pub fn process(&self) -> GroupId {
        self.process
    }
}

impl Runtime for SimRuntime {
    type Disk = SimDisk;
    type Wire = SimWire;

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn wire(&self) -> &SimWire {
        &self.wire
    }

    fn now(&self) -> Nanos {
        self.clock.boottime()
    }

    fn wall(&self) -> Nanos {
        self.clock.wall()
    }

    /// Time passes only between the turns of tasks.
    fn thread_time(&self) -> Nanos {
        self.executor.now()
    }

    fn random(&self) -> u64 {
        self.random.next()
    }

    /// Takes a while, in which everything else goes on.
    async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.executor.sleep(self.random.nanos(Nanos::ZERO, BESIDE_MAX)).await;
        work()
    }

    /// By the host's monotonic clock: drift changes how long it takes, and a suspension is not counted.
    async fn sleep(&self, duration: Nanos) {
        let late = self.random.nanos(Nanos::ZERO, TIMER_LATE_MAX);
        let deadline = self.clock.monotonic().saturating_add(duration).saturating_add(late);
        loop {
            let left = deadline.saturating_sub(self.clock.monotonic());
            if left == Nanos::ZERO {
                return;
            }
            self.executor.sleep(self.clock.true_duration(left)).await;
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(self.process, task);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::latency::DiskLatency;
    use super::*;
    use crate::io::{AlignedBuf, Disk, File, OpenMode};

    fn world() -> (Executor, Clock, DiskLatency, SimRuntime) {
        let executor = Executor::new(3);
        let network = Network::new(&executor);
        let host = network.add_host("n1");
        let clock = Clock::new(&executor, &executor.fork_random());
        let latency = DiskLatency::new(&executor);
        let disk = SimDisk::new(1, 1 << 30).with_latency(std::rc::Rc::new(latency.clone()));
        let runtime = SimRuntime::new(&executor, &network, host, &clock, disk);
        (executor, clock, latency, runtime)
    }

    #[test]
    fn a_sleep_goes_by_the_hosts_own_clock_and_does_not_count_its_suspension() {
        let (executor, clock, _, runtime) = world();
        clock.set_drift(-500_000);
        let begin = executor.now();
        let process = runtime.process();
        let sleeper = runtime.clone();
        executor.block_on(process, Nanos::from_secs(30), async move { sleeper.sleep(Nanos::from_secs(5)).await });
        let took = executor.now().saturating_sub(begin);
        assert!(took >= Nanos::from_secs(10) && took < Nanos::from_millis(10_010));

        clock.set_drift(0);
        let begin = executor.now();
        let suspended = clock.clone();
        executor.call_in(Nanos::from_secs(4), move || suspended.was_suspended(Nanos::from_secs(3)));
        executor.block_on(process, Nanos::from_secs(30), async move { runtime.sleep(Nanos::from_secs(5)).await });
        let took = executor.now().saturating_sub(begin);
        assert!(took >= Nanos::from_secs(8) && took < Nanos::from_millis(8_010));
    }

    #[test]
    fn a_stalled_disk_answers_when_the_stall_ends() {
        let (executor, _, latency, runtime) = world();
        let disk = runtime.disk().clone();
        latency.set_stalled(true);
        let resumed = latency.clone();
        executor.call_in(Nanos::from_secs(7), move || resumed.set_stalled(false));
        let written = executor.block_on(runtime.process(), Nanos::from_secs(30), async move {
            disk.make_zeroed("/file".into(), 4096).await?;
            let file = disk.open(Path::new("/file"), OpenMode::Write).await?;
            file.write_at(AlignedBuf::zeroed(4096), 0).await.0
        });
        assert!(matches!(written, Some(Ok(()))));
        assert!(executor.now() >= Nanos::from_secs(7));
        assert_eq!(latency.stalls(), 1);
    }
}
