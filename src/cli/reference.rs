//! `beaver-raft reference`: the pages of docs/ that are lists out of the program, so that they are always those of this
//! very version.

use std::fmt::Write;

use super::output;
use crate::config::reference_page;
use crate::fatal::EXIT_STATUSES;
use crate::metrics::{ALL, Described, PREFIX};

/// Print what this version knows: configuration keys, metrics, exit statuses
#[derive(Debug, clap::Args)]
pub struct ReferenceArgs {
    page: Page,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Page {
    /// docs/configuration.md
    Configuration,
    /// docs/metrics.md
    Metrics,
    /// docs/exit-statuses.md
    ExitStatuses,
}

/// Prints the page; gives the exit status.
pub fn reference(args: &ReferenceArgs) -> u8 {
    u8::from(!output::print(&args.page.text()))
}

impl Page {
    fn text(self) -> String {
        match self {
            Page::Configuration => reference_page(),
            Page::Metrics => metrics_page(),
            Page::ExitStatuses => exit_statuses_page(),
        }
    }
}

const METRICS_HEAD: &str = "\
# Metrics

Served as text for Prometheus at `/metrics` of the admin port, or as OpenMetrics 1.0.0 where the scraper's `Accept` header asks for it. Counters end in `_total`, histograms (in seconds) in `_bucket`,
`_sum` and `_count`. Counters begin at 0 with each start of the process. What is replicated (jobs, tubes, sessions) is the
same on every node that has caught up: take one node's, or the leader's, and do not add nodes up.

This page is generated: `beaver-raft reference metrics > docs/metrics.md`.

| name | kind | labels | |
|---|---|---|---|
";

fn metrics_page() -> String {
    let mut page = METRICS_HEAD.to_owned();
    let mut previous = "";
    for Described { name, kind, labels, own_label, help } in ALL {
        if *name == previous {
            continue;
        }
        previous = name;
        let own = own_label.iter().map(|(label, _)| label);
        let labels: Vec<String> = labels.iter().chain(own).map(|label| format!("`{label}`")).collect();
        let suffix = if *kind == "Counter" { "_total" } else { "" };
        let kind = if *kind == "SecondsGauge" { "gauge".to_owned() } else { kind.to_ascii_lowercase() };
        let _ = writeln!(page, "| `{PREFIX}_{name}{suffix}` | {kind} | {} | {help} |", labels.join(", "));
    }
    page
}

const EXIT_STATUSES_HEAD: &str = "\
# Exit statuses

A node that stops says why in one sentence on standard error, and exits with a status of its own for each kind of reason.
The statuses never change their meaning. 0 is a clean end; 1 means that a command (`enqueue`, `status`, `demo`) could not do
all of what it was asked, and said what.

This page is generated: `beaver-raft reference exit-statuses > docs/exit-statuses.md`.

| status | reason |
|---:|---|
";

fn exit_statuses_page() -> String {
    let mut page = EXIT_STATUSES_HEAD.to_owned();
    for (status, reason) in EXIT_STATUSES {
        let _ = writeln!(page, "| {status} | {reason} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_pages_of_the_documentation_are_current() {
        for page in Page::value_variants() {
            let name = page.to_possible_value().expect("none is hidden").get_name().to_owned();
            let path = format!("{}/docs/{name}.md", env!("CARGO_MANIFEST_DIR"));
            let written = std::fs::read_to_string(&path).expect("the page is there");
            assert!(written == page.text(), "run `beaver-raft reference {name} > docs/{name}.md`");
        }
    }
}
