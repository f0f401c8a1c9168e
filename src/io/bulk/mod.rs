//! The bulk path: one glommio executor beside the core threads, for work that must never delay them.
//!
//! It must never hold a core thread, never spin, and never write faster than it is told to.

mod alarm;
mod device;
mod filling;
mod rate;
mod reading;
mod whole;
mod zeroing;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use glommio::{GlommioError, Latency, LocalExecutorBuilder, Placement, PoolPlacement, Shares};
use tokio::sync::{mpsc, oneshot};

use self::alarm::Alarm;
use self::rate::Rate;
use self::reading::Piece;
use super::threads::{THREAD_PATIENCE, ThreadError};
use super::{AlignedBuf, Pieces};

/// Memory that glommio registers with its rings: a few chunks. Its default of 10 MiB is more than the 8 MiB that
/// many systems let a process lock.
const IO_MEMORY_BYTES: usize = 512 * 1024;

/// glommio lets its tasks run until this has passed, and so for as long as they like: each of them waits
/// for the disk after a few microseconds.
///
/// It is as long as this because of a fault of glommio 0.9. Before it runs its tasks it looks whether the
/// time for them is over. Where the thread was off its processor for longer than that, between setting
/// the timer and looking, it runs none, takes that for having none, and sleeps although tasks are ready:
/// for ever, where nothing wakes it. With 10 ms, one start in 70 on a loaded machine never came.
const PREEMPT_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A thread that is away for so long ends the process, so no timer fires before the first task runs.
const _: () = assert!(PREEMPT_AFTER.as_secs() > 100 * THREAD_PATIENCE.as_secs());

/// Whoever has waited this long for an answer wakes the bulk thread, and does so again. No case is known
/// in which this is needed with [`PREEMPT_AFTER`]; glommio looks at the completion of any timer as it
/// looks at that one, and this costs nothing where answers come.
const WAKE_AFTER: Duration = Duration::from_millis(250);

/// How the bulk path treats the machine.
#[derive(Debug, Clone, Copy)]
pub struct BulkOptions {
    /// Bytes written per second by all its work together, on average over some tens of milliseconds.
    pub bytes_per_second: u64,
    /// Bytes read per second of files that nobody waits for.
    pub cold_bytes_per_second: u64,
}

impl Default for BulkOptions {
    fn default() -> BulkOptions {
        BulkOptions { bytes_per_second: 128 << 20, cold_bytes_per_second: 1 << 20 }
    }
}

/// A file to be made, and who waits for it.
struct Request<Content, Made> {
    path: PathBuf,
    content: Content,
    done: oneshot::Sender<io::Result<Made>>,
}

/// Files to be made of so many zeros.
type Zeroed = Request<u64, ()>;
/// Files to be made of these pieces; answered with the length.
type Filled = Request<Pieces, u64>;

/// Threads for what blocks.
const BLOCKING_THREADS: usize = 3;

/// Pieces of files to be read.
type Cold = Request<Piece, AlignedBuf>;

/// A handle on the bulk thread; the thread ends when the last handle is dropped and its queues are empty.
#[derive(Clone)]
pub struct Bulk {
    zeroed: mpsc::UnboundedSender<Zeroed>,
    filled: mpsc::UnboundedSender<Filled>,
    cold: mpsc::UnboundedSender<Cold>,
    work: mpsc::UnboundedSender<Work>,
    alarm: Arc<Alarm>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Bulk {
    /// Starts the bulk thread. It is not pinned: the kernel gives it whatever the core threads leave.
    ///
    /// # Errors
    ///
    /// The thread or its rings cannot be made, or it does not begin in time.
    pub fn start(options: BulkOptions) -> Result<Bulk, ThreadError> {
        Bulk::start_executor(options, PREEMPT_AFTER, THREAD_PATIENCE)
    }

    fn start_executor(options: BulkOptions, preempt_after: Duration, patience: Duration) -> Result<Bulk, ThreadError> {
        let (zeroed, to_zero) = mpsc::unbounded_channel();
        let (filled, to_fill) = mpsc::unbounded_channel();
        let (cold, to_read) = mpsc::unbounded_channel();
        let (work, to_do) = mpsc::unbounded_channel();
        let alarm = Arc::new(Alarm::new(WAKE_AFTER));
        let to_rest = Arc::clone(&alarm);
        // The executor is made on its own thread, so whether it could be made is heard from there.
        let (ready, started) = std::sync::mpsc::channel();
        let thread = LocalExecutorBuilder::new(Placement::Unbound)
            .name("bulk")
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(16)
            // Work beside the shards may be long. What files need that cannot be had otherwise (a sync of a directory) is not
            // to wait for it.
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .preempt_timer(preempt_after)
            .spawn(move || async move {
                glommio::spawn_local(async move { to_rest.rest().await }).detach();
                // The one who started it may have given up.
                let _ = ready.send(());
                serve(to_zero, to_fill, to_read, to_do, options).await;
            })
            .map_err(|error| ThreadError::NotMade(into_io(error)))?;
        match started.recv_timeout(patience) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(ThreadError::Late { name: "the bulk thread".to_owned(), waited: patience });
            }
            // It is about to end.
            Err(RecvTimeoutError::Disconnected) => {
                thread.join().map_err(|error| ThreadError::NoRing(into_io(error)))?;
            }
        }
        Ok(Bulk { zeroed, filled, cold, work, alarm })
    }

    /// Creates a file of `bytes` zeros, written and durable, and syncs its directory. What is left of one that could
    /// not be completed is removed.
    ///
    /// # Errors
    ///
    /// The file exists, or the disk is full or faulty.
    pub async fn make_zeroed(&self, path: PathBuf, bytes: u64) -> io::Result<()> {
        self.ask(&self.zeroed, path, bytes).await
    }

    /// Creates a file of these pieces, padded to whole blocks, written and durable, and syncs its directory. What is left
    /// of one that could not be completed is removed. Returns its length.
    ///
    /// # Errors
    ///
    /// The file exists, a piece could not be made, or the disk is full or faulty.
    pub async fn make_filled(&self, path: PathBuf, pieces: Pieces) -> io::Result<u64> {
        self.ask(&self.filled, path, pieces).await
    }

    /// Reads a piece of a file that nobody waits for.
    ///
    /// # Errors
    ///
    /// There is no such file, it ends before, or the disk is faulty.
    pub async fn read_cold(&self, path: PathBuf, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        self.ask(&self.cold, path, Piece { offset, bytes }).await
    }

    /// Runs work on a thread that is not pinned to a core, one after the other.
    ///
    /// # Errors
    ///
    /// The bulk thread has ended.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        // Whoever asked may be gone.
        let work = move || drop(done.send(work()));
        self.work.send(Box::new(work)).map_err(|_| ended())?;
        self.hear(answer).await
    }

    async fn ask<Content, Made>(
        &self,
        queue: &mpsc::UnboundedSender<Request<Content, Made>>,
        path: PathBuf,
        content: Content,
    ) -> io::Result<Made> {
        let (done, answer) = oneshot::channel();
        queue.send(Request { path, content, done }).map_err(|_| ended())?;
        self.hear(answer).await?
    }

    /// What the bulk thread answers, which is woken until it does.
    async fn hear<T>(&self, mut answer: oneshot::Receiver<T>) -> io::Result<T> {
        loop {
            match tokio::time::timeout(WAKE_AFTER, &mut answer).await {
                // Where the thread has ended, the answer says so.
                Ok(answer) => return answer.map_err(|_| ended()),
                Err(_) => self.alarm.ring(),
            }
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the bulk thread has ended")
}

/// Spare segments are waited for by the log: they take turns with the other files, and never wait for one to end.
async fn serve(
    to_zero: mpsc::UnboundedReceiver<Zeroed>,
    to_fill: mpsc::UnboundedReceiver<Filled>,
    to_read: mpsc::UnboundedReceiver<Cold>,
    mut to_do: mpsc::UnboundedReceiver<Work>,
    options: BulkOptions,
) {
    let rate = Arc::new(Rate::new(options.bytes_per_second));
    let (zeroing_rate, filling_rate) = (Arc::clone(&rate), rate);
    let zeroing = in_turn("zeroing", 20, to_zero, async move |path: &Path, bytes| {
        zeroing::make_zeroed(path, bytes, Arc::clone(&zeroing_rate)).await
    });
    let filling = in_turn("filling", 10, to_fill, async move |path: &Path, pieces| {
        filling::make_filled(path, pieces, Arc::clone(&filling_rate)).await
    });
    let cold_rate = Arc::new(Rate::new(options.cold_bytes_per_second));
    let reading = in_turn("reading", 1, to_read, async move |path: &Path, piece| {
        reading::read_cold(path, piece, Arc::clone(&cold_rate)).await
    });
    while let Some(work) = to_do.recv().await {
        glommio::executor().spawn_blocking(work).await;
    }
    zeroing.await;
    filling.await;
    reading.await;
}

/// Serves a queue beside the others. One file at a time: two would only take turns at the same rate.
fn in_turn<Content: 'static, Made: 'static>(
    name: &'static str,
    shares: usize,
    mut queue: mpsc::UnboundedReceiver<Request<Content, Made>>,
    make: impl AsyncFn(&Path, Content) -> io::Result<Made> + 'static,
) -> impl Future<Output = ()> {
    let background = glommio::executor().create_task_queue(Shares::Static(shares), Latency::NotImportant, name);
    let serving = async move {
        while let Some(Request { path, content, done }) = queue.recv().await {
            // Nobody waits any more: the file is made all the same, and the one who comes next finds it.
            let _ = done.send(make(&path, content).await);
        }
    };
    glommio::spawn_local_into(serving, background)
        .expect("the task queue was made above and lives as long as the executor")
}

fn into_io(error: GlommioError<()>) -> io::Error {
    error.into()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Wake, Waker};

    use super::*;

    #[test]
    fn an_answer_is_waited_for_however_often_the_bulk_thread_is_woken_meanwhile() {
        let bulk = Bulk::start(BulkOptions::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let took = WAKE_AFTER * 5 / 2;
        let answer = runtime.block_on(bulk.run(move || {
            std::thread::sleep(took);
            7
        }));
        assert_eq!(answer.unwrap(), 7);
    }

    /// It runs the work in its queue when it is woken, and not before.
    struct Sleeper(Mutex<mpsc::UnboundedReceiver<Work>>);

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            if let Ok(work) = self.0.lock().unwrap().try_recv() {
                work();
            }
        }
    }

    #[test]
    fn a4_whoever_waits_wakes_an_executor_that_sleeps_with_work_in_its_queue() {
        let (zeroed, _zeroed) = mpsc::unbounded_channel();
        let (filled, _filled) = mpsc::unbounded_channel();
        let (cold, _cold) = mpsc::unbounded_channel();
        let (work, to_do) = mpsc::unbounded_channel();
        let alarm = Arc::new(Alarm::new(Duration::ZERO));
        let waker = Waker::from(Arc::new(Sleeper(Mutex::new(to_do))));
        assert!(pin!(alarm.rest()).poll(&mut Context::from_waker(&waker)).is_pending());
        let bulk = Bulk { zeroed, filled, cold, work, alarm };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let limit = WAKE_AFTER * 240;
        let answer = runtime.block_on(async { tokio::time::timeout(limit, bulk.run(|| 7)).await });
        assert_eq!(answer.expect("it is never woken").unwrap(), 7);
    }

    /// What a loaded machine does to it, made certain: the time for tasks is over before glommio looks.
    #[test]
    fn a4_a_start_whose_executor_sleeps_with_its_first_task_ready_ends_with_a_sentence() {
        let patience = Duration::from_millis(200);
        let started = Bulk::start_executor(BulkOptions::default(), Duration::from_nanos(1), patience);
        let told = started.err().expect("it has not begun").to_string();
        assert_eq!(told, "the bulk thread has not begun 200 ms after it was started");
    }
}
