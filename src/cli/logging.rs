//! The log, to standard error: with times for people, without them where the journal adds its own.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// Starts logging. `filter` was checked with the configuration; a log that was started before stays.
pub fn start(filter: &str) {
    let targets: Targets = filter.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
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
