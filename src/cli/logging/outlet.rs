//! The queue of log lines, and the thread that takes them to standard error.
//!
//! Whoever logs never waits: a line that finds the queue full is dropped and counted. It must never change the descriptor (no
//! `O_NONBLOCK`): whoever gave it to this process, a shell say, has it open too.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder};
use tracing_subscriber::fmt::MakeWriter;

use super::journal;
use crate::metrics::Counter;

/// Lines that may wait. With lines of a hundred bytes that is half a megabyte; what a peer can put into one ends at 1 KiB.
const LINES_MAX: usize = 4096;

const DRAIN_POLL: Duration = Duration::from_millis(2);

/// This side of the queue. Clones are the same queue.
#[derive(Clone)]
pub struct Queue {
    lines: NonBlocking,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// Lines that were to be written.
    offered: AtomicU64,
    /// Lines that the thread is done with.
    taken: AtomicU64,
    /// Lines that found the queue full.
    dropped: AtomicU64,
    /// Lines that standard error did not take: the device is full, or its reader has gone.
    failed: AtomicU64,
    /// Both together, for whoever reads the metrics.
    lost: Counter,
}

impl Queue {
    pub fn start(lost: Counter) -> Queue {
        let counts = Arc::new(Counts::new(lost));
        let outlet = Outlet::new(io::stderr(), Arc::clone(&counts));
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log");
        let (lines, guard) = builder.finish(outlet);
        // Dropping it may print to standard output, which can block and panic. `drain` does what it is for.
        std::mem::forget(guard);
        Queue { lines, counts }
    }

    /// Waits until every line was written, or the time is up.
    pub fn drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.waiting() > 0 && Instant::now() < deadline {
            std::thread::sleep(DRAIN_POLL);
        }
    }

    fn waiting(&self) -> u64 {
        let counts = &self.counts;
        let done = counts.taken.load(Ordering::Acquire) + counts.dropped.load(Ordering::Acquire);
        counts.offered.load(Ordering::Acquire).saturating_sub(done)
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        // It was held back.
        if line.is_empty() {
            return Ok(());
        }
        self.counts.offered.fetch_add(1, Ordering::AcqRel);
        let written = self.lines.write_all(line);
        let dropped = u64::try_from(self.lines.error_counter().dropped_lines()).unwrap_or(u64::MAX);
        if self.counts.dropped.fetch_max(dropped, Ordering::AcqRel) < dropped {
            self.counts.show_lost();
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}

impl Counts {
    fn new(lost: Counter) -> Counts {
        let none = || AtomicU64::new(0);
        Counts { offered: none(), taken: none(), dropped: none(), failed: none(), lost }
    }

    fn lost(&self) -> u64 {
        self.dropped.load(Ordering::Acquire) + self.failed.load(Ordering::Acquire)
    }

    /// Both parts only grow: of what two threads saw, the higher sum counts.
    fn show_lost(&self) {
        self.lost.inner().fetch_max(self.lost(), Ordering::AcqRel);
    }
}

/// The other side of the queue, on its thread.
struct Outlet<W> {
    to: W,
    counts: Arc<Counts>,
    is_journal: bool,
    /// Lost lines that were spoken of, or are about to be; and how many lines were written since some were found to be lost.
    told: u64,
    written_since: usize,
}

impl<W: Write> Outlet<W> {
    fn new(to: W, counts: Arc<Counts>) -> Outlet<W> {
        Outlet { to, counts, is_journal: journal::is_standard_error(), told: 0, written_since: 0 }
    }

    /// Says how many lines are missing, at the place where they are: behind all that waited when the first was lost.
    fn tell_lost(&mut self) {
        let lost = self.counts.lost();
        if lost == self.told {
            return;
        }
        let text = format!("beaver-raft: {} lines of the log are missing here: nobody took them\n", lost - self.told);
        let text = if self.is_journal { journal::with_priority(Level::WARN, &text) } else { text };
        if self.to.write_all(text.as_bytes()).is_ok() {
            self.told = lost;
        }
        self.written_since = 0;
    }
}

impl<W: Write> Write for Outlet<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        if self.counts.lost() > self.told {
            self.written_since += 1;
            if self.written_since > LINES_MAX {
                self.tell_lost();
            }
        }
        if self.to.write_all(line).is_err() {
            self.counts.failed.fetch_add(1, Ordering::AcqRel);
            self.counts.show_lost();
        }
        self.counts.taken.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// The queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        self.tell_lost();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Standard error as it may be: what was written, and whether writes fail.
    #[derive(Clone, Default)]
    struct Device(Arc<Mutex<(String, bool)>>);

    impl Device {
        fn set_full(&self, is_full: bool) {
            self.0.lock().expect("nothing panics").1 = is_full;
        }

        fn take(&self) -> String {
            std::mem::take(&mut self.0.lock().expect("nothing panics").0)
        }
    }

    impl Write for Device {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.lock().expect("nothing panics");
            if state.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.0.push_str(std::str::from_utf8(bytes).expect("text"));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn outlet() -> (Device, Arc<Counts>, Outlet<Device>) {
        let (device, counts) = (Device::default(), Arc::new(Counts::new(Counter::default())));
        let outlet = Outlet { is_journal: false, ..Outlet::new(device.clone(), Arc::clone(&counts)) };
        (device, counts, outlet)
    }

    #[test]
    fn what_a_full_device_did_not_take_is_counted_and_said_once_when_it_takes_something_again() {
        let (device, counts, mut outlet) = outlet();
        device.set_full(true);
        for _ in 0..3 {
            outlet.write_all(b"gone\n").expect("never an error: the thread goes on");
        }
        outlet.flush().expect("as above");
        assert_eq!((counts.lost.get(), device.take().as_str()), (3, ""));
        device.set_full(false);
        outlet.write_all(b"here\n").expect("as above");
        outlet.flush().expect("as above");
        outlet.flush().expect("as above");
        assert_eq!(device.take(), "here\nbeaver-raft: 3 lines of the log are missing here: nobody took them\n");
    }

    #[test]
    fn what_was_dropped_is_said_behind_what_had_waited_even_if_the_queue_is_never_empty() {
        let (device, counts, mut outlet) = outlet();
        counts.dropped.store(7, Ordering::Release);
        for line in 0..2 * LINES_MAX {
            outlet.write_all(format!("{line}\n").as_bytes()).expect("never an error");
        }
        let text = device.take();
        let (place, _) = text.lines().enumerate().find(|(_, line)| line.contains("missing")).expect("it is said");
        assert_eq!((place, text.matches("7 lines of the log are missing").count()), (LINES_MAX, 1));
    }
}
