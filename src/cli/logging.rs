//! The log, to standard error: with times for people, without them where the journal adds its own.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// Starts logging. `filter` was checked with the configuration; a log that was started before stays.
pub fn start(filter: &str) {
    let targets = targets(filter);
    // systemd sets it for a service whose standard error goes to the journal.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).with_target(false);
    let registry = tracing_subscriber::registry();
    let _ = if in_journal {
        registry.with(layer.without_time().with_filter(targets)).try_init()
    } else {
        registry.with(layer.with_filter(targets)).try_init()
    };
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
