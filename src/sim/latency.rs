//! How long a simulated disk takes, and when it does not answer at all.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::disk::{Latency, Operation};
use super::executor::Executor;
use super::random::Random;
use crate::types::Nanos;

/// What an operation costs without faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpeed {
    pub delay_min: Nanos,
    pub delay_max: Nanos,
    /// How many of a million operations take twenty times as long.
    pub late_ppm: u32,
    pub bytes_per_ms: u64,
    /// Writing on the bulk path is held to a rate by design.
    pub bulk_bytes_per_ms: u64,
}

impl Default for DiskSpeed {
    fn default() -> DiskSpeed {
        DiskSpeed {
            delay_min: Nanos::from_micros(60),
            delay_max: Nanos::from_micros(150),
            late_ppm: 0,
            bytes_per_ms: 1_000_000,
            bulk_bytes_per_ms: 200_000,
        }
    }
}

/// The latency of one host's disk. Clones share it.
#[derive(Clone)]
pub struct DiskLatency(Rc<State>);

struct State {
    executor: Executor,
    random: Random,
    speed: Cell<DiskSpeed>,
    stalled: Cell<bool>,
    stalls: Cell<u64>,
    held: RefCell<Vec<Waker>>,
}

impl DiskLatency {
    #[must_use]
    pub fn new(executor: &Executor) -> DiskLatency {
        DiskLatency(Rc::new(State {
            executor: executor.clone(),
            random: executor.fork_random(),
            speed: Cell::default(),
            stalled: Cell::new(false),
            stalls: Cell::new(0),
            held: RefCell::default(),
        }))
    }

    pub fn set_speed(&self, speed: DiskSpeed) {
        assert!(speed.bytes_per_ms > 0 && speed.bulk_bytes_per_ms > 0, "a disk that moves nothing is a stall");
        self.0.speed.set(speed);
    }

    /// While stalled, no operation ends.
    pub fn set_stalled(&self, stalled: bool) {
        if stalled && !self.0.stalled.get() {
            self.0.stalls.set(self.0.stalls.get() + 1);
        }
        self.0.stalled.set(stalled);
        if !stalled {
            self.0.held.take().into_iter().for_each(Waker::wake);
        }
    }

    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.0.stalled.get()
    }

    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.0.stalls.get()
    }

    fn draw(&self, operation: Operation) -> Nanos {
        let speed = self.0.speed.get();
        let delay = self.0.random.nanos(speed.delay_min, speed.delay_max);
        let delay = match self.0.random.chance(speed.late_ppm) {
            true => Nanos(delay.0.saturating_mul(20)),
            false => delay,
        };
        let moved = match operation {
            Operation::Read { bytes } | Operation::Write { bytes } => bytes * 1_000_000 / speed.bytes_per_ms,
            Operation::Bulk { bytes } => bytes * 1_000_000 / speed.bulk_bytes_per_ms,
            Operation::Sync | Operation::Metadata => 0,
        };
        delay.saturating_add(Nanos(moved))
    }
}

impl Latency for DiskLatency {
    fn delay(&self, operation: Operation) -> Pin<Box<dyn Future<Output = ()>>> {
        let delay = self.draw(operation);
        let state = Rc::clone(&self.0);
        Box::pin(async move {
            state.executor.sleep(delay).await;
            poll_fn(|context| match state.stalled.get() {
                true => {
                    state.held.borrow_mut().push(context.waker().clone());
                    Poll::Pending
                }
                false => Poll::Ready(()),
            })
            .await;
        })
    }
}
