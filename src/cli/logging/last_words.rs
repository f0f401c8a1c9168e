//! What must be said although the process ends, or has no log yet: past the queue, on a thread that may hang for all that others care.
//!
//! It must never hold up the end of the process for longer than [`PATIENCE`].

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use tracing::Level;

use super::{LOG, journal};

/// For everything that is said at an end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Of that, for what waits in the queue: the last sentence comes behind it, if it can.
const QUEUE_PATIENCE: Duration = Duration::from_millis(500);

/// The process ends, and this is the last sentence: why, if it was not asked to.
pub fn end(sentence: Option<&str>) {
    let text = sentence.map(|sentence| line(Level::ERROR, sentence));
    within_patience(move || {
        if let Some(log) = LOG.get() {
            log.limits.tell_all();
            log.queue.drain(QUEUE_PATIENCE);
        }
        if let Some(text) = text {
            write(&text);
        }
    });
}

/// Says something that is no line of the log: before it is started, or after its end.
pub fn say(sentence: &str) {
    let text = line(Level::INFO, sentence);
    within_patience(move || write(&text));
}

/// A panic is told like any other end. The usual way would wait for whoever reads standard error, and not end the process before.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        let trace = if trace.status() == BacktraceStatus::Captured { format!("\n{trace}") } else { String::new() };
        end(Some(&format!("{panic}{trace}")));
    }));
}

fn line(level: Level, sentence: &str) -> String {
    let text = format!("beaver-raft: {sentence}\n");
    if journal::is_standard_error() { journal::with_priority(level, &text) } else { text }
}

fn write(text: &str) {
    // There is nobody left to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Where no thread can be had for it, it is left undone: a node that cannot even end would be worse.
fn within_patience(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let started = std::thread::Builder::new().name("last words".to_owned()).spawn(move || {
        work();
        // Who waited may have given up.
        let _ = done.send(());
    });
    if started.is_ok() {
        // Whether it was said in time or not: that is all that can be done.
        let _ = is_done.recv_timeout(PATIENCE);
    }
}
