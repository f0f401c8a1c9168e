//! The core threads of a real node: one ring of the kernel each, a ring of ours between every two, one fate.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::core::{Setup, StopRequest, run_core};
use super::listeners::is_shared;
use super::place::{Crossing, Place};
use super::rings::{RingEnds, connect_all};
use super::together::Together;
use crate::api::beanstalkd::body_budget::BodyLimits;
use crate::api::beanstalkd::front_door::{FrontDoor, NodeFacts, ResourceUsage};
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::bulk::Bulk;
use crate::io::signals::Request;
use crate::io::uring::{CoreOptions, CoreThread, UringRuntime, UringWire, start_core_thread};
use crate::io::{Runtime, process, startup};
use crate::metrics::Metrics;
use crate::status::Board;

/// A process that was killed still holds its ports until the kernel has torn its rings down: 4 to 17 ms after it was
/// reaped. Its successor must not take that for somebody else.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

const PORT_PAUSE: Duration = Duration::from_millis(5);

/// How long the rings of a node that was told to stop may take to complete what is in flight.
const RING_PATIENCE: Duration = Duration::from_secs(1);

/// What every core thread gets to begin with.
#[derive(Clone)]
pub struct Shared {
    pub config: Config,
    pub metrics: Arc<Metrics>,
    pub board: Arc<Board>,
    pub requests: watch::Receiver<Request>,
    /// Made by the thread that comes first: it shows the time on a core thread's clock.
    pub door: Arc<OnceLock<Arc<FrontDoor>>>,
}

/// Runs all core threads to the end of the last.
///
/// # Errors
/// The first reason of any of them, where they did not stop because they were told to.
pub fn run_cores(shared: &Shared, bulk: Bulk) -> Result<(), Fatal> {
    let cores = usize::from(shared.config.core_count());
    await_ports(&shared.config)?;
    if cores > 1 {
        tracing::info!("{} shards on {cores} core threads", shared.config.shards);
    }
    let options = CoreOptions { threads: cores, ..CoreOptions::new(bulk) };
    let together = Arc::new(Together::new(cores));
    let mut threads = Vec::new();
    let (left, leaves) = mpsc::channel();
    for (core, rings) in connect_all(cores).into_iter().enumerate() {
        let leaving = Leaving { together: Arc::clone(&together), has_ended: false, left: left.clone() };
        let shared = shared.clone();
        let main = move |rt| run_one(rt, shared, core, rings, leaving);
        match start_core_thread(core, &format!("core-{core}"), options.clone(), main) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                together.end(Some(no_ring(&error)));
                break;
            }
        }
    }
    drop(left);
    while let Ok(()) = leaves.recv() {
        together.take_end()?;
    }
    join(threads)
}

/// All threads have left. A ring that ends waits for every operation in flight, which a disk that hangs may never
/// complete: so whoever must stop does not come here, and who was told to stop waits only for a while.
fn join(threads: Vec<CoreThread<()>>) -> Result<(), Fatal> {
    let deadline = Instant::now() + RING_PATIENCE;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !thread.is_finished() {
            continue;
        }
        match thread.join() {
            Ok(ended) => ended.map_err(|error| no_ring(&error))?,
            Err(_) => return Err(panicked()),
        }
    }
    Ok(())
}

#[must_use]
pub fn no_ring(error: &std::io::Error) -> Fatal {
    match error.kind() {
        ErrorKind::OutOfMemory => Fatal::MemlockTooLow { why: error.to_string() },
        _ => Fatal::NoIoUring { why: error.to_string() },
    }
}

fn panicked() -> Fatal {
    Fatal::Internal("a core thread panicked".to_owned())
}

/// Waits until nobody listens where this node is to listen.
///
/// It also tells what listeners can't: threads that share a port would share it with another process, and not notice.
fn await_ports(config: &Config) -> Result<(), Fatal> {
    let begun = Instant::now();
    let clients = config.clients.iter().map(|address| (address, "clients"));
    let peers = config.peers.iter().filter(|_| config.members.len() > 1).map(|address| (address, "peers"));
    for (address, purpose) in clients.chain(peers).filter(|(address, _)| is_shared(address)) {
        while let Err(error) = startup::check_port(address.as_str()) {
            if error.kind() != ErrorKind::AddrInUse || begun.elapsed() >= PORT_PATIENCE {
                return Err(Fatal::PortTaken { address: address.to_string(), purpose, why: error.to_string() });
            }
            std::thread::sleep(PORT_PAUSE);
        }
    }
    Ok(())
}

async fn run_one(
    rt: UringRuntime,
    shared: Shared,
    core: usize,
    rings: RingEnds<Crossing<UringWire>>,
    leaving: Leaving,
) {
    let Shared { config, metrics, board, requests, door } = shared;
    let door = Arc::clone(door.get_or_init(|| Arc::new(front_door(&config, leaving.together.cores(), &rt))));
    let setup = Setup { config, metrics, board, door, watch: None };
    let (lanes, inbox) = rings.start(&rt);
    let place = Place::new(core, lanes, inbox, Arc::clone(&leaving.together));
    let stop = Rc::new(StopRequest::default());
    rt.spawn(heed(requests, setup.clone(), Rc::clone(&stop)));
    leaving.leave(run_core(rt, setup, Rc::new(place), stop).await);
}

/// Held by a core thread as long as it runs: however it ends, the others learn of it.
struct Leaving {
    together: Arc<Together>,
    has_ended: bool,
    left: mpsc::Sender<()>,
}

impl Leaving {
    fn leave(mut self, ended: Result<(), Fatal>) {
        self.has_ended = true;
        if let Err(why) = ended {
            self.together.end(Some(why));
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.has_ended {
            // Where it is no panic, the thread got no ring; whoever joins it learns why.
            self.together.end(std::thread::panicking().then(panicked));
        }
        // Nobody listens any more where another thread's end was the node's.
        let _ = self.left.send(());
    }
}

/// Passes on what the operating system asks for.
async fn heed(mut requests: watch::Receiver<Request>, setup: Setup, stop: Rc<StopRequest>) {
    loop {
        let request = *requests.borrow_and_update();
        if request >= Request::Drain && setup.door.drain() {
            if request == Request::Drain {
                tracing::info!("draining: puts are refused from now on");
            }
            setup.metrics.node.draining.set(1);
        }
        if request >= Request::Stop {
            stop.ask();
        }
        if requests.changed().await.is_err() {
            return;
        }
    }
}

fn front_door(config: &Config, cores: usize, rt: &UringRuntime) -> FrontDoor {
    let host = process::host();
    let facts = NodeFacts {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        instance: rt.random(),
        hostname: host.name,
        os: host.os_version,
        platform: host.machine,
        started: rt.now(),
        segment_bytes_max: config.tunables.segment_bytes_max,
        resource_usage: || {
            let usage = process::usage();
            ResourceUsage { user_micros: micros(usage.user), system_micros: micros(usage.system) }
        },
    };
    let tunables = &config.tunables;
    let bodies = BodyLimits { bytes_max: tunables.job_bytes_max, together_bytes_max: tunables.bodies_bytes_max };
    FrontDoor::new(config.shards, cores, bodies, facts)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(together: &Arc<Together>) -> Leaving {
        Leaving { together: Arc::clone(together), has_ended: false, left: mpsc::channel().0 }
    }

    #[tokio::test]
    async fn a_thread_that_panics_ends_all_others_and_is_the_reason() {
        let together = Arc::new(Together::new(2));
        let held = leaving(&together);
        let thread = std::thread::spawn(move || {
            let _held = held;
            panic!("as a test wants it");
        });
        together.ended().await;
        assert!(thread.join().is_err());
        assert!(matches!(together.take_end(), Err(Fatal::Internal(_))));
    }

    #[tokio::test]
    async fn a_thread_that_never_began_ends_all_others() {
        let together = Arc::new(Together::new(2));
        drop(leaving(&together));
        together.ended().await;
        assert!(together.take_end().is_ok(), "whoever joins it knows the reason");
    }

    #[test]
    fn a_thread_that_stopped_in_peace_leaves_the_others_to_themselves() {
        let together = Arc::new(Together::new(2));
        leaving(&together).leave(Ok(()));
        let mut ended = std::pin::pin!(together.ended());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(ended.as_mut().poll(&mut context).is_pending());
        leaving(&together).leave(Err(Fatal::Internal("first".to_owned())));
        assert!(together.take_end().is_err());
    }
}
