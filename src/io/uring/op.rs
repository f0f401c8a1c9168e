//! One operation on the ring: what it borrows of memory and descriptors stays alive until the kernel is done with it,
//! whether or not somebody still waits for the result.
//!
//! It must never hand memory back while the kernel may still touch it, not even while a ring is being torn down.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// Where the ring of this thread is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Absent,
    Running,
    Closing,
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Absent) };
}

pub(super) fn phase() -> Phase {
    // A destructor that runs after the thread's locals are gone has no ring either.
    PHASE.try_with(Cell::get).unwrap_or(Phase::Absent)
}

pub(super) fn set_phase(phase: Phase) {
    PHASE.with(|cell| cell.set(phase));
}

/// An operation in flight: resolves to what the kernel said and the buffer.
pub(super) type Operation<B, K> = InFlightOneshot<Held<B, K>, Completion<B, K>>;

/// So many times the tasks of this thread may yield before one of them waits for the ring. Each pass is a
/// system call: to wait every time took 4 % of the puts of 64 clients, and 5 % more processor time for each.
const YIELDS_PER_PASS: u32 = 8;

/// Whether it is time for this thread, if it has a ring that runs, to wait for it. To be asked once for
/// each yield.
pub(in crate::io) fn is_ring_due() -> bool {
    thread_local!(static YIELDS: Cell<u32> = const { Cell::new(0) });
    let yields = YIELDS.get() + 1;
    YIELDS.set(yields % YIELDS_PER_PASS);
    yields == YIELDS_PER_PASS && phase() == Phase::Running
}

/// Queues an operation that does nothing and waits for its completion: everything that was queued
/// before it is with the kernel by then.
///
/// The runtime submits only when it finds no task ready and nothing woken. A task that merely woke
/// itself would always be ready, and neither a heartbeat nor a write would leave the thread while
/// it had work.
pub(in crate::io) async fn pass_ring() {
    UnsubmittedOneshot::new((), Passed, opcode::Nop::new().build()).submit().await;
}

/// The end of an operation that does nothing.
struct Passed;

impl OneshotOutputTransform for Passed {
    type Output = ();
    type StoredData = ();

    fn transform_oneshot_output(self, (): (), _completion: cqueue::Entry) {}
}

/// What the kernel uses while the operation is in flight: a buffer, and the owner of the descriptor.
pub(super) struct Held<B, K> {
    buffer: Option<B>,
    _descriptor: Rc<K>,
}

impl<B, K> Drop for Held<B, K> {
    fn drop(&mut self) {
        // While tokio-uring drops its driver it lets go of buffers before it has waited for the operations that use
        // them. What is in flight at that moment is a handful of buffers at the end of a thread: leaking them is right,
        // reusing them would let the device write into, or log from, memory that belongs to somebody else.
        if phase() == Phase::Closing {
            std::mem::forget(self.buffer.take());
        }
    }
}

/// Turns a completion into a result. A zero-sized marker.
pub(super) struct Completion<B, K>(std::marker::PhantomData<fn(B, K)>);

impl<B: 'static, K: 'static> OneshotOutputTransform for Completion<B, K> {
    type Output = (io::Result<usize>, B);
    type StoredData = Held<B, K>;

    fn transform_oneshot_output(self, mut held: Held<B, K>, completion: cqueue::Entry) -> Self::Output {
        let buffer = held.buffer.take().expect("the buffer is held until the one completion");
        // A negative result is an error number.
        let result = match usize::try_from(completion.result()) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-completion.result())),
        };
        (result, buffer)
    }
}

/// Queues an operation on `descriptor`; it is submitted with all others when the thread runs out of ready tasks.
///
/// # Safety
///
/// Every address in the entry that `build` returns must point into memory that `buffer` owns and that does not move
/// when `buffer` itself is moved; memory that the kernel writes must not be reachable by anybody else.
pub(super) unsafe fn submit<B, K>(
    descriptor: &Rc<K>,
    buffer: B,
    build: impl FnOnce(Fd, &B) -> squeue::Entry,
) -> Operation<B, K>
where
    B: Unpin + 'static,
    K: AsRawFd + 'static,
{
    let entry = build(Fd(descriptor.as_raw_fd()), &buffer);
    let held = Held { buffer: Some(buffer), _descriptor: Rc::clone(descriptor) };
    UnsubmittedOneshot::new(held, Completion(std::marker::PhantomData), entry).submit()
}

/// Whether the operation did nothing and may simply be given to the kernel again.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Takes ownership of a descriptor that an operation has just opened.
pub(super) fn own(descriptor: usize) -> io::Result<OwnedFd> {
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us as a new one, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
