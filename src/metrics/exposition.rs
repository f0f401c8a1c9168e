//! The two texts in which a scraper may have the metrics: Prometheus' own, which every scraper reads, and OpenMetrics for
//! those that ask for it. The library writes the second; the first is made from it here.

use std::fmt::Write;

/// A text format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Version 0.0.4 of Prometheus' text format.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What the request's `Accept` header asks for: OpenMetrics where it is named, and no less welcome than plain text.
    #[must_use]
    pub fn accepted(accept: &str) -> Format {
        let quality = |wanted: &str| {
            let of_item = |item: &str| {
                let mut parts = item.split(';').map(str::trim);
                let is_wanted = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(wanted));
                let named = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
                // One that is not understood asks for nothing.
                let quality = named.map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0));
                if is_wanted { quality } else { 0.0 }
            };
            accept.split(',').map(of_item).fold(0.0, f32::max)
        };
        let open_metrics = quality("application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= quality("text/plain") {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }

    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// From OpenMetrics to Prometheus' text format. There a counter is described by the name of its samples, `_total` and
/// all; and neither units nor an end are stated.
#[must_use]
pub fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    let mut write = |arguments: std::fmt::Arguments<'_>| text.write_fmt(arguments).expect("memory takes it");
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let kind = if kind == "unknown" { "untyped" } else { kind };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                // A quotation mark stands for itself here.
                write(format_args!("# HELP {name}{suffix} {}\n", help.replace("\\\"", "\"")));
            }
            write(format_args!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            write(format_args!("{line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_open_metrics_only_if_it_asks_for_it() {
        for accept in ["", "*/*", "text/plain", "text/plain;version=0.0.4;q=1,*/*;q=0.1"] {
            assert_eq!(Format::accepted(accept), Format::Prometheus, "{accept}");
        }
        let refused = "application/openmetrics-text;q=0,*/*";
        assert_eq!(Format::accepted(refused), Format::Prometheus);
        let less_welcome = "application/openmetrics-text;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Format::accepted(less_welcome), Format::Prometheus);

        assert_eq!(Format::accepted("application/openmetrics-text"), Format::OpenMetrics);
        // As Prometheus 3 asks.
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
    }

    #[test]
    fn counters_are_described_by_the_name_of_their_samples_and_nothing_else_changes() {
        let open_metrics = "# HELP jobs_enqueued Jobs taken.\n# TYPE jobs_enqueued counter\n\
                            jobs_enqueued_total{shard=\"0\"} 7\n\
                            # HELP term Raft \\\"term\\\".\n# TYPE term gauge\nterm{} 3\n\
                            # HELP write_seconds Time.\n# TYPE write_seconds histogram\n# UNIT write_seconds seconds\n\
                            write_seconds_sum 1.5\nwrite_seconds_count 2\nwrite_seconds_bucket{le=\"+Inf\"} 2\n# EOF\n";
        let expected = "# HELP jobs_enqueued_total Jobs taken.\n# TYPE jobs_enqueued_total counter\n\
                        jobs_enqueued_total{shard=\"0\"} 7\n\
                        # HELP term Raft \"term\".\n# TYPE term gauge\nterm{} 3\n\
                        # HELP write_seconds Time.\n# TYPE write_seconds histogram\n\
                        write_seconds_sum 1.5\nwrite_seconds_count 2\nwrite_seconds_bucket{le=\"+Inf\"} 2\n";
        assert_eq!(to_prometheus(open_metrics), expected);
    }
}
