//! The bulk path: one glommio executor beside the core threads, for work that must never delay them.
//!
//! It must never hold a core thread, never spin, and never write faster than it is told to.

mod device;
mod zeroing;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use glommio::{GlommioError, Latency, LocalExecutorBuilder, Placement, Shares};
use tokio::sync::{mpsc, oneshot};

/// Memory that glommio registers with its rings: a few chunks. Its default of 10 MiB is more than the 8 MiB that
/// many systems let a process lock.
const IO_MEMORY_BYTES: usize = 512 * 1024;

/// How the bulk path treats the machine.
#[derive(Debug, Clone, Copy)]
pub struct BulkOptions {
    /// Zeros written per second, on average over some tens of milliseconds.
    pub bytes_per_second: u64,
}

impl Default for BulkOptions {
    fn default() -> BulkOptions {
        BulkOptions { bytes_per_second: 128 << 20 }
    }
}

struct MakeZeroed {
    path: PathBuf,
    bytes: u64,
    done: oneshot::Sender<io::Result<()>>,
}

/// A handle on the bulk thread; the thread ends when the last handle is dropped and its queue is empty.
#[derive(Clone)]
pub struct Bulk {
    requests: mpsc::UnboundedSender<MakeZeroed>,
}

impl Bulk {
    /// Starts the bulk thread. It is not pinned: the kernel gives it whatever the core threads leave.
    ///
    /// # Errors
    ///
    /// The thread or its rings cannot be made.
    pub fn start(options: BulkOptions) -> io::Result<Bulk> {
        let (requests, queue) = mpsc::unbounded_channel();
        // The executor is made on its own thread, so whether it could be made is heard from there.
        let (ready, started) = std::sync::mpsc::channel();
        let thread = LocalExecutorBuilder::new(Placement::Unbound)
            .name("bulk")
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(16)
            .preempt_timer(Duration::from_millis(10))
            .spawn(move || async move {
                // The one who started it waits for this.
                let _ = ready.send(());
                serve(queue, options).await;
            })
            .map_err(into_io)?;
        if started.recv().is_err() {
            thread.join().map_err(into_io)?;
        }
        Ok(Bulk { requests })
    }

    /// Creates a file of `bytes` zeros, written and durable, and syncs its directory. What is left of one that could
    /// not be completed is removed.
    ///
    /// # Errors
    ///
    /// The file exists, or the disk is full or faulty.
    pub async fn make_zeroed(&self, path: PathBuf, bytes: u64) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let gone = || io::Error::other("the bulk thread has ended");
        self.requests.send(MakeZeroed { path, bytes, done }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn serve(mut queue: mpsc::UnboundedReceiver<MakeZeroed>, options: BulkOptions) {
    let background = glommio::executor().create_task_queue(Shares::Static(10), Latency::NotImportant, "zeroing");
    // One file at a time: two would only take turns at the same rate.
    while let Some(request) = queue.recv().await {
        let MakeZeroed { path, bytes, done } = request;
        let work =
            glommio::spawn_local_into(async move { zeroing::make_zeroed(&path, bytes, options).await }, background)
                .expect("the task queue was made above and lives as long as the executor");
        // Nobody waits any more: the file is made all the same, and the one who comes next finds it.
        let _ = done.send(work.await);
    }
}

fn into_io(error: GlommioError<()>) -> io::Error {
    error.into()
}
