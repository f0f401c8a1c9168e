//! The real world of one core thread: a ring, its files, its sockets and its clocks, on tokio-uring.
//!
//! It must never decide anything about the protocol, and its futures must never leave their thread.

mod core;
mod disk;
mod file;
mod map;
mod op;
mod stream;
mod wire;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};

pub use self::core::{CoreOptions, CoreThread, block_on_core, start_core_thread};
pub use disk::UringDisk;
pub(crate) use disk::create_directory;
pub(in crate::io) use disk::{FILE_MODE, allocate, sync_directory};
pub use file::{Durability, UringFile};
pub use map::FileMap;
pub use stream::{UringReader, UringWriter};
pub use wire::{BoundSocket, UringListener, UringWire};

use self::core::Panics;
pub(super) use self::op::{is_ring_due, pass_ring};
use super::Runtime;
use crate::types::Nanos;

/// One core thread's world. Cheap to clone.
#[derive(Clone)]
pub struct UringRuntime {
    world: Rc<World>,
}

struct World {
    disk: UringDisk,
    wire: UringWire,
    random: RefCell<StdRng>,
    panics: Panics,
}

impl UringRuntime {
    fn new(options: &CoreOptions, panics: Panics) -> io::Result<UringRuntime> {
        let random = RefCell::new(StdRng::try_from_rng(&mut SysRng).map_err(io::Error::other)?);
        let disk = UringDisk::new(options.bulk.clone(), options.durability);
        let wire = UringWire::new(options.threads > 1);
        Ok(UringRuntime { world: Rc::new(World { disk, wire, random, panics }) })
    }
}

impl Runtime for UringRuntime {
    type Disk = UringDisk;
    type Wire = UringWire;

    fn disk(&self) -> &UringDisk {
        &self.world.disk
    }

    fn wire(&self) -> &UringWire {
        &self.world.wire
    }

    fn now(&self) -> Nanos {
        read_clock(libc::CLOCK_BOOTTIME)
    }

    fn thread_time(&self) -> Nanos {
        read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    fn wall(&self) -> Nanos {
        // A clock before 1970 is a clock that nobody has set.
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Nanos(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }

    fn random(&self) -> u64 {
        self.world.random.borrow_mut().next_u64()
    }

    /// Never too short; up to about a millisecond too long, the granularity of the timer wheel. It does not count
    /// suspended time: a deadline is to be compared with `now` after the sleep.
    async fn sleep(&self, duration: Nanos) {
        tokio::time::sleep(duration.duration()).await;
    }

    async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.world
            .disk
            .bulk()
            .run(work)
            .await
            .expect("the bulk thread lives as long as a core thread has a handle on it")
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.panics.spawn(task);
    }
}

/// A clock that exists since Linux 2.6.39 at least.
fn read_clock(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for a timespec for the length of the call.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "the clock exists");
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
