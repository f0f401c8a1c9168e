//! A core thread: kept to its share of the processors, with one ring, running one main future and the tasks that it spawns.
//!
//! It must never outlive a panic of one of its tasks: a shard is whole or the process is down.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Once;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use super::op::{Phase, phase, set_phase};
use super::{Durability, UringRuntime};
use crate::io::bulk::Bulk;

/// Operations that fit the submission queue before it is flushed early.
const RING_ENTRIES: u32 = 1024;

/// What a core thread needs to know of the process around it.
#[derive(Clone)]
pub struct CoreOptions {
    pub bulk: Bulk,
    pub durability: Durability,
    /// How many core threads the process has. They divide the processors among them, and where there are several they
    /// listen on the same TCP port for clients; with one, a second listener on a port is an error.
    pub threads: usize,
}

impl CoreOptions {
    #[must_use]
    pub fn new(bulk: Bulk) -> CoreOptions {
        CoreOptions { bulk, durability: Durability::default(), threads: 1 }
    }
}

pub type CoreThread<T> = JoinHandle<io::Result<T>>;

/// Starts the `core`-th of the core threads on its share of the processors that this process may use, and runs the future
/// that `main` makes there, to its end; what is spawned beside it ends with it.
///
/// # Errors
///
/// The thread cannot be made; or, when it is joined, its ring cannot.
pub fn start_core_thread<M, F>(
    core: usize,
    name: &str,
    options: CoreOptions,
    main: M,
) -> io::Result<CoreThread<F::Output>>
where
    M: FnOnce(UringRuntime) -> F + Send + 'static,
    F: Future + 'static,
    F::Output: Send + 'static,
{
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(error) = keep_to_share(core, options.threads) {
            tell_unpinned(&error);
        }
        block_on_core(&options, main)
    })
}

/// Runs one core on the current thread, without pinning it.
///
/// # Errors
///
/// The ring cannot be made.
///
/// # Panics
///
/// Resumes a panic of the main future or of a task.
pub fn block_on_core<M, F>(options: &CoreOptions, main: M) -> io::Result<F::Output>
where
    M: FnOnce(UringRuntime) -> F,
    F: Future,
{
    let ring = Ring::new()?;
    let panics = Panics::default();
    let runtime = UringRuntime::new(options, panics.clone())?;
    Ok(ring.0.block_on(async move {
        let mut main = pin!(main(runtime));
        std::future::poll_fn(|context| {
            panics.resume(context);
            main.as_mut().poll(context)
        })
        .await
    }))
}

/// The tokio-uring runtime of this thread, and the word to all destructors whether it still runs.
struct Ring(ManuallyDrop<tokio_uring::Runtime>);

impl Ring {
    fn new() -> io::Result<Ring> {
        assert_eq!(phase(), Phase::Absent, "a thread has one ring");
        let mut builder = tokio_uring::builder();
        builder.entries(RING_ENTRIES);
        let ring = tokio_uring::Runtime::new(&builder).map_err(too_little_memory)?;
        set_phase(Phase::Running);
        Ok(Ring(ManuallyDrop::new(ring)))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        set_phase(Phase::Closing);
        // SAFETY: dropped here and nowhere else, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.0) };
        set_phase(Phase::Absent);
    }
}

/// The kernel says "out of memory" where it means a limit that the operator can raise.
fn too_little_memory(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let text =
        "a ring needs more locked memory than this process may have; raise LimitMEMLOCK in its unit, or `ulimit -l`";
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

/// The processors of the `core`-th of `threads` core threads: an equal share, at least one. The workers of its ring inherit
/// it, and need room beside the thread: on a single processor a sync waits until the thread has nothing more to do.
fn share(core: usize, threads: usize, processors: &[usize]) -> Vec<usize> {
    if threads >= processors.len() {
        return vec![processors[core % processors.len()]];
    }
    processors.iter().skip(core % threads).step_by(threads).copied().collect()
}

/// Pinning only spares the caches: a sandbox that refuses it is no reason not to run. The same for every
/// thread, so it is said once.
fn tell_unpinned(error: &io::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!("core threads are not pinned to processors: the system refused sched_setaffinity: {error}");
    });
}

fn keep_to_share(core: usize, threads: usize) -> io::Result<()> {
    let set_bytes = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of zeros is an empty one.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `allowed` is a valid place for a set of `set_bytes` bytes.
    if unsafe { libc::sched_getaffinity(0, set_bytes, &raw mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let processors: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the number is below CPU_SETSIZE.
        .filter(|&processor| unsafe { libc::CPU_ISSET(processor, &allowed) })
        .collect();
    // SAFETY: as above.
    let mut kept: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for processor in share(core, threads, &processors) {
        // SAFETY: `processor` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(processor, &mut kept) };
    }
    // SAFETY: `kept` is a valid set of `set_bytes` bytes.
    if unsafe { libc::sched_setaffinity(0, set_bytes, &raw const kept) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Carries a panic of any task to the main future, which resumes it; tokio alone would swallow it.
#[derive(Clone, Default)]
pub(super) struct Panics {
    state: Rc<RefCell<PanicState>>,
}

#[derive(Default)]
struct PanicState {
    panic: Option<Box<dyn Any + Send>>,
    main: Option<Waker>,
}

impl Panics {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let panics = self.clone();
        tokio_uring::spawn(async move {
            let mut task = pin!(task);
            std::future::poll_fn(move |context| {
                // Nobody looks at the task's state after the panic: the whole thread goes down with it.
                match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
                    Ok(poll) => poll,
                    Err(panic) => {
                        panics.report(panic);
                        Poll::Ready(())
                    }
                }
            })
            .await;
        });
    }

    fn report(&self, panic: Box<dyn Any + Send>) {
        let mut state = self.state.borrow_mut();
        state.panic.get_or_insert(panic);
        if let Some(main) = state.main.take() {
            main.wake();
        }
    }

    fn resume(&self, context: &Context<'_>) {
        let mut state = self.state.borrow_mut();
        if let Some(panic) = state.panic.take() {
            drop(state);
            resume_unwind(panic);
        }
        if !state.main.as_ref().is_some_and(|main| main.will_wake(context.waker())) {
            state.main = Some(context.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::io::bulk::BulkOptions;
    use crate::io::startup::filtered::filter_call;
    use crate::io::uring::pass_ring;
    use crate::io::{Runtime, yield_now};

    #[test]
    fn core_threads_divide_the_processors_and_none_is_without() {
        let processors = [2, 3, 5, 7];
        assert_eq!(share(0, 1, &processors), processors);
        assert_eq!((share(0, 2, &processors), share(1, 2, &processors)), (vec![2, 5], vec![3, 7]));
        assert_eq!(share(1, 3, &processors), [3]);
        for core in 0..6 {
            assert_eq!(share(core, 6, &processors), [processors[core % 4]]);
        }
    }

    /// The runtime submits nothing while a task is ready, so a task that always has work must wait
    /// for the ring.
    #[test]
    fn a2_a_task_that_always_has_work_keeps_nobody_from_the_ring() {
        let options = CoreOptions::new(Bulk::start(BulkOptions::default()).unwrap());
        let is_done = block_on_core(&options, |runtime| async move {
            let done = Rc::new(Cell::new(false));
            let other = Rc::clone(&done);
            runtime.spawn(async move {
                pass_ring().await;
                other.set(true);
            });
            for _ in 0..20 {
                yield_now().await;
            }
            done.get()
        });
        assert!(is_done.unwrap());
    }

    #[test]
    fn c7_a_core_thread_that_may_not_be_pinned_runs_all_the_same() {
        let options = CoreOptions::new(Bulk::start(BulkOptions::default()).unwrap());
        // Its own thread: a filter is for good, and for all threads that are made under it.
        let ran = thread::spawn(move || {
            filter_call(libc::SYS_sched_setaffinity, libc::EPERM);
            assert_eq!(keep_to_share(0, 1).unwrap_err().raw_os_error(), Some(libc::EPERM));
            start_core_thread(0, "core-0", options, |_| async { 7 }).unwrap().join().unwrap()
        });
        assert_eq!(ran.join().unwrap().unwrap(), 7);
    }
}
