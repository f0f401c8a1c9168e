//! The core threads of a real node: one ring of the kernel each, a ring of ours between every two, one fate.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::core::{Setup, StopRequest, run_core};
use super::draining;
use super::place::{Crossing, Place};
use super::rings::{RingEnds, connect_all};
use super::together::Together;
use crate::api::beanstalkd::body_budget::BodyLimits;
use crate::api::beanstalkd::front_door::{FrontDoor, NodeFacts, ResourceUsage};
use crate::api::beanstalkd::output_budget::OutputLimits;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::bulk::Bulk;
use crate::io::signals::Request;
use crate::io::threads::{THREAD_PATIENCE, ThreadError};
use crate::io::uring::{BoundSocket, CoreOptions, CoreThread, UringRuntime, UringWire, start_core_thread};
use crate::io::{Runtime, process};
use crate::metrics::Metrics;
use crate::status::Board;
use crate::types::Nanos;

/// How long a node that was told to stop may take beyond `stop_timeout_ms`, in which its clients and peers
/// have their time, for its threads to see that it is over.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

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

/// Runs all core threads to the end of the last. `sockets`: for clients, by core thread.
///
/// # Errors
/// The first reason of any of them, where they did not stop because they were told to.
pub fn run_cores(shared: &Shared, bulk: Bulk, sockets: Vec<Vec<BoundSocket>>) -> Result<(), Fatal> {
    let cores = usize::from(shared.config.core_count());
    assert_eq!(sockets.len(), cores, "every core thread has its sockets");
    if cores > 1 {
        tracing::info!("{} shards on {cores} core threads", shared.config.shards);
    }
    let options = CoreOptions { threads: cores, ..CoreOptions::new(bulk) };
    let together = Arc::new(Together::new(cores));
    let mut threads = Vec::new();
    let (told, words) = mpsc::unbounded_channel();
    for (core, (rings, sockets)) in connect_all(cores).into_iter().zip(sockets).enumerate() {
        let leaving = Leaving { together: Arc::clone(&together), has_ended: false, told: told.clone() };
        let shared = shared.clone();
        let main = move |rt: UringRuntime| {
            rt.wire().adopt(sockets);
            run_one(rt, shared, core, rings, leaving)
        };
        match start_core_thread(core, &format!("core-{core}"), options.clone(), main) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                together.end(Some(no_thread(&ThreadError::NotMade(error))));
                break;
            }
        }
    }
    drop(told);
    let asked = shared.requests.clone();
    let stop_timeout = Duration::from_millis(shared.config.tunables.stop_timeout_ms);
    let patience = Patience { begin: THREAD_PATIENCE, end: stop_timeout + STOP_PATIENCE };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| Fatal::System { what: "to wait for the core threads".to_owned(), why: error.to_string() })?;
    runtime.block_on(supervise(words, asked, &together, patience))?;
    join(threads)
}

/// What a core thread tells the one that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Begun,
    Left,
}

/// How long the core threads may take to begin, all of them, and to end once the first has ended or the
/// node is told to stop.
#[derive(Debug, Clone, Copy)]
struct Patience {
    begin: Duration,
    end: Duration,
}

/// Returns when the last core thread has left, or when one was waited for in vain.
async fn supervise(
    mut words: mpsc::UnboundedReceiver<Word>,
    mut asked: watch::Receiver<Request>,
    together: &Together,
    patience: Patience,
) -> Result<(), Fatal> {
    let (mut begun, mut left) = (0, 0);
    let mut is_ending = false;
    let mut limit = Some(tokio::time::Instant::now() + patience.begin);
    loop {
        let is_told_to_stop = async {
            // Without whoever hears signals, the threads alone say when the node ends.
            if asked.wait_for(|request| *request >= Request::Stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let late = async {
            match limit {
                Some(limit) => tokio::time::sleep_until(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            word = words.recv() => match word {
                None => return together.take_end(),
                Some(Word::Begun) => {
                    begun += 1;
                    if begun == together.cores() && !is_ending {
                        limit = None;
                    }
                    continue;
                }
                Some(Word::Left) => {
                    left += 1;
                    together.take_end()?;
                }
            },
            () = is_told_to_stop, if !is_ending => {}
            () = late => {
                let cores = together.cores();
                let (done, count, limit) = match is_ending {
                    true => ("ended", left, patience.end),
                    false => ("begun", begun, patience.begin),
                };
                let what = format!("{count} of {cores} core threads have {done} after {} ms", limit.as_millis());
                return Err(Fatal::ThreadLate { what });
            }
        }
        if !is_ending {
            is_ending = true;
            limit = Some(tokio::time::Instant::now() + patience.end);
        }
    }
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
pub fn no_thread(error: &ThreadError) -> Fatal {
    match error {
        ThreadError::NotMade(why) => Fatal::System { what: "a thread".to_owned(), why: why.to_string() },
        ThreadError::NoRing(error) => no_ring(error),
        ThreadError::Late { .. } => Fatal::ThreadLate { what: error.to_string() },
    }
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

async fn run_one(
    rt: UringRuntime,
    shared: Shared,
    core: usize,
    rings: RingEnds<Crossing<UringWire>>,
    leaving: Leaving,
) {
    leaving.begin();
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
    told: mpsc::UnboundedSender<Word>,
}

impl Leaving {
    fn begin(&self) {
        let _ = self.told.send(Word::Begun);
    }

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
        let _ = self.told.send(Word::Left);
    }
}

/// Passes on what the operating system asks for.
async fn heed(mut requests: watch::Receiver<Request>, setup: Setup, stop: Rc<StopRequest>) {
    loop {
        let request = *requests.borrow_and_update();
        let begins = request >= Request::Drain && draining::switch(&setup.door, &setup.metrics, true);
        if begins && request == Request::Drain {
            tracing::info!("draining: puts are refused from now on");
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
        has_binlog: !config.temporary,
        resource_usage: || {
            let usage = process::usage();
            ResourceUsage { user_micros: micros(usage.user), system_micros: micros(usage.system) }
        },
    };
    let tunables = &config.tunables;
    let bodies = BodyLimits { bytes_max: tunables.job_bytes_max, together_bytes_max: tunables.bodies_bytes_max };
    let outputs = OutputLimits {
        together_bytes_max: tunables.output_bytes_max,
        stall: Nanos::from_millis(tunables.output_stall_ms),
    };
    FrontDoor::new(config.shards, cores, bodies, outputs, facts)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(together: &Arc<Together>) -> Leaving {
        Leaving { together: Arc::clone(together), has_ended: false, told: mpsc::unbounded_channel().0 }
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

    const PATIENCE: Patience = Patience { begin: Duration::from_millis(40), end: Duration::from_millis(20) };

    struct Supervised {
        told: mpsc::UnboundedSender<Word>,
        asks: watch::Sender<Request>,
        together: Arc<Together>,
    }

    /// The end of two core threads that say and are told what `script` does.
    fn supervised(script: impl AsyncFnOnce(Supervised)) -> Result<(), Fatal> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (told, words) = mpsc::unbounded_channel();
        let (asks, asked) = watch::channel(Request::default());
        let together = Arc::new(Together::new(2));
        let supervised = Supervised { told, asks, together: Arc::clone(&together) };
        runtime.block_on(async {
            let ((), ended) = tokio::join!(script(supervised), supervise(words, asked, &together, PATIENCE));
            ended
        })
    }

    async fn long_enough() {
        tokio::time::sleep(4 * (PATIENCE.begin + PATIENCE.end)).await;
    }

    fn sentence(ended: Result<(), Fatal>) -> (u8, String) {
        let fatal = ended.expect_err("a thread is late");
        (fatal.exit_status(), fatal.to_string())
    }

    #[test]
    fn a4_a_core_thread_that_does_not_begin_ends_the_node() {
        let (status, told) = sentence(supervised(async |held| {
            held.told.send(Word::Begun).unwrap();
            long_enough().await;
        }));
        assert_eq!(status, 24);
        assert!(told.starts_with("1 of 2 core threads have begun after 40 ms;"), "{told}");
    }

    #[test]
    fn a4_a_core_thread_that_does_not_end_when_the_node_is_told_to_stop_is_left_behind() {
        let (status, told) = sentence(supervised(async |held| {
            held.told.send(Word::Begun).unwrap();
            held.told.send(Word::Begun).unwrap();
            held.asks.send(Request::Drain).unwrap();
            long_enough().await;
            held.asks.send(Request::Stop).unwrap();
            held.told.send(Word::Left).unwrap();
            long_enough().await;
        }));
        assert_eq!(status, 24);
        assert!(told.starts_with("1 of 2 core threads have ended after 20 ms;"), "{told}");
    }

    #[test]
    fn a4_the_others_have_no_more_time_than_a_stop_once_a_thread_has_left() {
        let (status, told) = sentence(supervised(async |held| {
            held.told.send(Word::Begun).unwrap();
            held.told.send(Word::Left).unwrap();
            long_enough().await;
        }));
        assert_eq!((status, told.starts_with("1 of 2 core threads have ended")), (24, true), "{told}");
    }

    #[test]
    fn core_threads_that_run_may_take_for_ever_and_end_together_in_peace_or_with_a_reason() {
        let run = async |held: &Supervised| {
            held.told.send(Word::Begun).unwrap();
            held.told.send(Word::Begun).unwrap();
            long_enough().await;
        };
        let in_peace = supervised(async |held| {
            run(&held).await;
            held.asks.send(Request::Stop).unwrap();
            held.told.send(Word::Left).unwrap();
            held.told.send(Word::Left).unwrap();
        });
        assert!(in_peace.is_ok());
        let with_a_reason = supervised(async |held| {
            run(&held).await;
            held.together.end(Some(Fatal::FaultyLog("as a test wants it".to_owned())));
            held.told.send(Word::Left).unwrap();
        });
        assert_eq!(sentence(with_a_reason).0, 30);
    }
}
