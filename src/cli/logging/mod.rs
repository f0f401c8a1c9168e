//! The log, to standard error: with times for people, with priorities where the journal adds its own times.
//!
//! Whoever reads standard error may read slowly, or not at all, and the device behind it may be full. So lines go through a bounded
//! queue to a thread of their own; those that find it full are dropped and counted. Nothing here may
//! block or end the process.
//!
//! ```text
//!   any thread ─ level ─ limits ─ queue ─> thread `log` ─> standard error
//!                          │        └ full: counted, and said once there is room again
//!                          └ repeated: counted, and said once a minute
//!   the last sentence ─────────────────────────────────>  standard error, for a second at most
//! ```

mod journal;
mod last_words;
mod limits;
mod outlet;

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::{fmt, prelude::*, reload};

use self::limits::{Limited, Limits};
use self::outlet::Queue;
use crate::metrics::NodeMetrics;

pub use self::last_words::{end, say};

/// The log of this process, once it is started.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    level: reload::Handle<Targets, Registry>,
    queue: Queue,
    limits: Arc<Limits>,
}

/// Starts logging. `filter` was checked with the configuration; a log that was started before stays.
pub fn start(filter: &str, metrics: &NodeMetrics) {
    LOG.get_or_init(|| {
        let (level, handle) = reload::Layer::new(targets(filter));
        let limits = Arc::new(Limits::new(metrics.log_lines_suppressed.clone()));
        let queue = Queue::start(metrics.log_lines_lost.clone());
        let layer = fmt::layer().with_writer(queue.clone()).log_internal_errors(false);
        let format = fmt::format().with_target(false);
        let _ = if journal::is_standard_error() {
            let format = journal::Prioritised(format.without_time());
            let layer = layer.with_ansi(false).event_format(Limited { limits: Arc::clone(&limits), format });
            tracing_subscriber::registry().with(layer.with_filter(level)).try_init()
        } else {
            let layer = layer.with_ansi(std::io::stderr().is_terminal());
            let layer = layer.event_format(Limited { limits: Arc::clone(&limits), format });
            tracing_subscriber::registry().with(layer.with_filter(level)).try_init()
        };
        Arc::clone(&limits).summarise();
        last_words::tell_panics();
        Log { level: handle, queue, limits }
    });
}

/// Has the log show what this filter lets pass, from now on. `filter` was checked with the configuration.
///
/// # Errors
/// The log was not started, or another process-wide one was.
pub fn set_level(filter: &str) -> Result<(), String> {
    let log = LOG.get().ok_or("the log was not started")?;
    log.level.reload(targets(filter)).map_err(|error| error.to_string())
}

/// Prints what simulated nodes log between the events of a run, on the same stream; real time means nothing there.
#[cfg(feature = "sim")]
pub fn start_in_simulation() {
    let layer = fmt::layer().with_writer(std::io::stdout).with_ansi(false).with_target(false).without_time();
    let _ = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::DEBUG)).try_init();
}

/// Where glommio speaks of one thing only: it tries by a read whether a device can be polled, calls it an error that a file
/// which is opened for writing cannot be read, and does not poll then. Polling is not wanted: the bulk path must never spin.
/// To let it read would be worse, since an empty file is read without asking the device.
const HARMLESS: &str = "glommio::reactor";

/// Where glommio warns, over five lines, that it may not register memory with its rings. It goes on without; a sentence at the start
/// (`io::startup`) says what the limit is.
const TOLD_OTHERWISE: &str = "glommio::sys::uring";

/// What the operator asked for, less what would be read as a fault at each healthy start, unless that is asked for by name.
fn targets(filter: &str) -> Targets {
    let targets: Targets = filter.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let is_asked_for = targets.iter().any(|(target, _)| target.starts_with("glommio"));
    if is_asked_for {
        targets
    } else {
        targets.with_target(HARMLESS, LevelFilter::OFF).with_target(TOLD_OTHERWISE, LevelFilter::ERROR)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn what_is_harmless_is_shown_only_to_who_asks_for_it_by_name() {
        for filter in ["info", "trace", "warn,beaver_raft=debug", "not=a=filter"] {
            assert!(!targets(filter).would_enable(HARMLESS, &Level::ERROR), "{filter}");
            assert!(!targets(filter).would_enable(TOLD_OTHERWISE, &Level::WARN), "{filter}");
            assert!(targets(filter).would_enable(TOLD_OTHERWISE, &Level::ERROR), "{filter}");
            assert!(targets(filter).would_enable("glommio::executor", &Level::WARN), "{filter}");
            assert!(targets(filter).would_enable("beaver_raft::node", &Level::WARN), "{filter}");
        }
        assert!(targets("info,glommio=error").would_enable(HARMLESS, &Level::ERROR));
    }
}
