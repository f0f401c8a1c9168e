//! The YAML of `stats`, `stats-tube`, `stats-job` and the lists: exact keys in exact order, strings
//! plain as 1.12 writes them, and in quotes only where they would be read as something else. No key
//! is added to the two that clients compare as a whole.

use std::fmt::Write;

use bytes::Bytes;

use super::front_door::{FrontDoor, NodeCounts};
use super::request::Counted;
use crate::api::{ShardStats, TubeReferences};
use crate::job::view::{JobState, JobView, TubeCounts};
use crate::types::Nanos;

/// A name for printing. Names that came through the grammar are ASCII.
#[must_use]
pub fn text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or("?")
}

#[must_use]
pub fn job(view: &JobView, id: u64, file: u64) -> Bytes {
    let state = match view.state {
        JobState::Ready => "ready",
        JobState::Delayed => "delayed",
        JobState::Reserved => "reserved",
        JobState::Buried => "buried",
    };
    Document::new()
        .line("id", id)
        .text("tube", text(&view.tube))
        .line("state", state)
        .line("pri", view.priority)
        .line("age", view.age_s)
        .line("delay", view.delay_s)
        .line("ttr", view.ttr_s)
        .line("time-left", view.time_left_s)
        .line("file", file)
        .line("reserves", view.reserves)
        .line("timeouts", view.timeouts)
        .line("releases", view.releases)
        .line("buries", view.buries)
        .line("kicks", view.kicks)
        .end()
}

#[must_use]
pub fn tube(name: &[u8], counts: &TubeCounts, references: TubeReferences) -> Bytes {
    Document::new()
        .text("name", text(name))
        .line("current-jobs-urgent", counts.urgent)
        .line("current-jobs-ready", counts.ready)
        .line("current-jobs-reserved", counts.reserved)
        .line("current-jobs-delayed", counts.delayed)
        .line("current-jobs-buried", counts.buried)
        .line("total-jobs", counts.total_jobs)
        .line("current-using", references.using)
        .line("current-watching", references.watching)
        .line("current-waiting", references.waiting)
        .line("cmd-delete", counts.deletes)
        .line("cmd-pause-tube", counts.pauses)
        .line("pause", counts.pause_s)
        .line("pause-time-left", counts.pause_left_s)
        .end()
}

/// Appends the name of a tube to the lines of a list.
pub fn push_item(lines: &mut String, name: &[u8]) {
    let _ = writeln!(lines, "- {}", Scalar(text(name)));
}

#[must_use]
pub fn list<'a>(names: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut document = Document::new();
    for name in names {
        push_item(&mut document.0, name);
    }
    document.end()
}

/// The sum of what all shards said.
#[must_use]
pub fn sum(shards: &[ShardStats]) -> ShardStats {
    let mut sum = ShardStats { segment_oldest: u64::MAX, ..ShardStats::default() };
    for shard in shards {
        sum.counts.urgent += shard.counts.urgent;
        sum.counts.ready += shard.counts.ready;
        sum.counts.reserved += shard.counts.reserved;
        sum.counts.delayed += shard.counts.delayed;
        sum.counts.buried += shard.counts.buried;
        sum.counts.timeouts += shard.counts.timeouts;
        sum.counts.total_jobs += shard.counts.total_jobs;
        sum.counts.tubes += shard.counts.tubes;
        sum.counts.sessions += shard.counts.sessions;
        sum.tubes += shard.tubes;
        sum.segment_oldest = sum.segment_oldest.min(shard.segment_oldest);
        sum.segment_newest = sum.segment_newest.max(shard.segment_newest);
        sum.entries_written += shard.entries_written;
    }
    // `default` always exists, on every shard; to clients it is one tube.
    let repeated = shards.len().saturating_sub(1) as u64;
    sum.counts.tubes = sum.counts.tubes.saturating_sub(repeated);
    sum.tubes = sum.tubes.saturating_sub(repeated);
    sum
}

/// `stats`: counts of jobs are the cluster's, counters of commands and connections are this node's.
#[must_use]
pub fn server(door: &FrontDoor, now: Nanos, shards: &ShardStats) -> Bytes {
    let counts = &shards.counts;
    let mut document = Document::new()
        .line("current-jobs-urgent", counts.urgent)
        .line("current-jobs-ready", counts.ready)
        .line("current-jobs-reserved", counts.reserved)
        .line("current-jobs-delayed", counts.delayed)
        .line("current-jobs-buried", counts.buried);
    let node: NodeCounts = door.counts();
    for counted in Counted::ALL {
        document.push(format_args!("cmd-{}: {}\n", counted.name(), node.commands[counted as usize]));
    }
    let facts = &door.facts;
    let of_binlog = |number: u64| if facts.has_binlog { number } else { 0 };
    let usage = (facts.resource_usage)();
    document
        .line("job-timeouts", counts.timeouts)
        .line("total-jobs", counts.total_jobs)
        .line("max-job-size", door.body_bytes_max)
        .line("current-tubes", shards.tubes)
        .line("current-connections", node.connections)
        .line("current-producers", node.producers)
        .line("current-workers", node.workers)
        .line("current-waiting", node.waiting)
        .line("total-connections", node.connections_ever)
        .line("pid", facts.pid)
        .text("version", facts.version)
        .line("rusage-utime", Micros(usage.user_micros))
        .line("rusage-stime", Micros(usage.system_micros))
        .line("uptime", now.saturating_sub(facts.started).0 / 1_000_000_000)
        .line("binlog-oldest-index", of_binlog(shards.segment_oldest))
        .line("binlog-current-index", of_binlog(shards.segment_newest))
        .line("binlog-records-migrated", 0)
        .line("binlog-records-written", of_binlog(shards.entries_written))
        .line("binlog-max-size", facts.segment_bytes_max)
        .line("draining", door.is_draining())
        .line("id", format_args!("{:016x}", facts.instance))
        .text("hostname", &facts.hostname)
        .text("os", &facts.os)
        .text("platform", &facts.platform)
        .end()
}

/// Microseconds, printed as seconds.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A string as YAML: plain where every parser reads it back as it is, else in double quotes.
struct Scalar<'a>(&'a str);

impl std::fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if is_plain(self.0) {
            return f.write_str(self.0);
        }
        // What would need an escape is left out: clients that know no YAML take the quotes off, and
        // nothing else.
        let clean = |c: &char| !matches!(c, '"' | '\\') && !c.is_control();
        write!(f, "\"{}\"", self.0.chars().filter(clean).collect::<String>())
    }
}

/// Words that YAML 1.1 or 1.2 reads as something else than text, or some parser does; in lower case.
const WORDS: [&str; 12] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "infinity", "nan"];

/// Whether a string, written without quotes, is read as that string by parsers of YAML 1.1 and 1.2.
fn is_plain(text: &str) -> bool {
    let is_harmless = |c: char| c.is_ascii_alphanumeric() || "-+/;.$_() ".contains(c);
    let begins_well = !text.starts_with(['-', ' ']) && !text.ends_with(' ') && !text.is_empty() && text != "...";
    let is_word = || WORDS.contains(&text.trim_start_matches(['+', '.']).to_ascii_lowercase().as_str());
    begins_well && text.chars().all(is_harmless) && !is_word() && !is_number(text) && !is_date(text)
}

/// Whether it has the form of a number: decimal, hexadecimal, octal or binary, with a fraction, an
/// exponent, underscores and a sign.
fn is_number(text: &str) -> bool {
    let text = text.trim_start_matches(['+', '-', '_']).to_ascii_lowercase();
    let is_made_of = |digits: &str, of: fn(&char) -> bool| {
        digits.chars().any(|c| c != '_') && digits.chars().all(|c| c == '_' || of(&c))
    };
    for (prefix, of) in [
        ("0x", char::is_ascii_hexdigit as fn(&char) -> bool),
        ("0o", char::is_ascii_digit),
        ("0b", char::is_ascii_digit),
    ] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return is_made_of(digits, of);
        }
    }
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.trim_start_matches(['+', '-']))),
        None => (text.as_str(), None),
    };
    let is_mantissa = mantissa.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && mantissa.contains(|c: char| c.is_ascii_digit())
        && mantissa.matches('.').count() <= 1
        && mantissa.chars().all(|c| c.is_ascii_digit() || matches!(c, '_' | '.'));
    is_mantissa && exponent.is_none_or(|digits| is_made_of(digits, char::is_ascii_digit))
}

/// `2026-11-30`, which YAML 1.1 reads as a date.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

struct Document(String);

impl Document {
    fn new() -> Document {
        Document("---\n".to_owned())
    }

    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("formatting into memory does not fail");
    }

    fn line(mut self, key: &str, value: impl std::fmt::Display) -> Document {
        self.push(format_args!("{key}: {value}\n"));
        self
    }

    fn text(self, key: &str, value: &str) -> Document {
        self.line(key, Scalar(value))
    }

    fn end(self) -> Bytes {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::JobId;

    #[test]
    fn job_stats_have_the_keys_of_the_original_in_its_order() {
        let view = JobView {
            job: JobId(1),
            tube: Bytes::from_static(b"default"),
            state: JobState::Reserved,
            priority: 1,
            age_s: 2,
            delay_s: 3,
            ttr_s: 4,
            time_left_s: 5,
            reserves: 6,
            timeouts: 7,
            releases: 8,
            buries: 9,
            kicks: 10,
        };
        let expected = "---\nid: 11\ntube: default\nstate: reserved\npri: 1\nage: 2\ndelay: 3\nttr: 4\n\
                        time-left: 5\nfile: 12\nreserves: 6\ntimeouts: 7\nreleases: 8\nburies: 9\nkicks: 10\n";
        assert_eq!(job(&view, 11, 12), expected);
    }

    #[test]
    fn tube_stats_have_the_keys_of_the_original_in_its_order() {
        let counts = TubeCounts {
            urgent: 1,
            ready: 2,
            reserved: 3,
            delayed: 4,
            buried: 5,
            total_jobs: 6,
            deletes: 10,
            pauses: 11,
            pause_s: 12,
            pause_left_s: 13,
        };
        let references = TubeReferences { using: 7, watching: 8, waiting: 9 };
        let expected = "---\nname: t\ncurrent-jobs-urgent: 1\ncurrent-jobs-ready: 2\ncurrent-jobs-reserved: 3\n\
                        current-jobs-delayed: 4\ncurrent-jobs-buried: 5\ntotal-jobs: 6\ncurrent-using: 7\n\
                        current-watching: 8\ncurrent-waiting: 9\ncmd-delete: 10\ncmd-pause-tube: 11\npause: 12\n\
                        pause-time-left: 13\n";
        assert_eq!(tube(b"t", &counts, references), expected);
    }

    #[test]
    fn ordinary_names_are_written_as_the_original_writes_them() {
        let names = [
            "default",
            "w",
            "mail-out_2",
            "a/b;c.d+e$f",
            "(x)",
            "3d-print",
            "10.0.0.1",
            "$HOME",
            "/dev/null",
            ".",
            "..",
            ".x",
        ];
        let listed: Vec<Bytes> = names.map(|name| Bytes::from_static(name.as_bytes())).to_vec();
        let expected: String = names.iter().map(|name| format!("- {name}\n")).collect();
        assert_eq!(list(&listed), format!("---\n{expected}"));
    }

    /// Names that a tube may have, and that are numbers, truths, dates or nothing to a parser.
    const MISREAD: [&str; 46] = [
        "0123",
        "17",
        "1.10",
        "1e3",
        "1_000",
        "0x1F",
        "0o17",
        "0b11",
        "+5",
        "+.5",
        ".5",
        "5.",
        "1.5e-3",
        "1E+3",
        "+0x1f",
        "._5",
        "0.",
        "00",
        "0_1",
        "+1_0.0_1e+1_0",
        "089",
        "1__",
        "yes",
        "No",
        "ON",
        "off",
        "y",
        "N",
        "true",
        "False",
        "null",
        "NULL",
        "Null",
        ".inf",
        "+.INF",
        ".nan",
        ".NaN",
        "inf",
        "NaN",
        "Infinity",
        "2026-11-30",
        "2026-1-1",
        "...",
        "+.inf",
        "12e5",
        "_1",
    ];

    #[test]
    fn what_would_be_read_as_something_else_is_in_quotes() {
        for name in MISREAD {
            let quoted = format!("---\n- \"{name}\"\n");
            assert_eq!(list([&Bytes::from_static(name.as_bytes())]), quoted, "{name}");
        }
    }

    fn untyped(yaml: &[u8]) -> serde_json::Value {
        let yaml = std::str::from_utf8(yaml).expect("text");
        serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"))
    }

    fn is_read_back(name: &str) {
        let bytes = Bytes::copy_from_slice(name.as_bytes());
        let listed = list([&bytes, &bytes]);
        assert_eq!(untyped(&listed), serde_json::json!([name, name]), "{listed:?}");
        let stats = tube(name.as_bytes(), &TubeCounts::default(), TubeReferences::default());
        assert_eq!(untyped(&stats)["name"], serde_json::json!(name), "{stats:?}");
    }

    proptest::proptest! {
        #[test]
        fn every_name_that_a_tube_may_have_is_read_back_as_it_is(
            name in "[A-Za-z0-9+/;.$_()][-A-Za-z0-9+/;.$_()]{0,8}",
            number in "[+]?[0-9._]{1,3}[-+exob0-9._]{0,4}[0-9a-fA-F._]{1,3}",
        ) {
            is_read_back(&name);
            is_read_back(&number);
        }
    }

    #[test]
    fn what_is_in_quotes_is_read_back_as_it_is() {
        MISREAD.into_iter().for_each(is_read_back);
        for text in
            ["", " a", "a ", "-a", "#1 SMP 2026", "a: b", "a #b", "~", "[a]", "{a}", "*a", "&a", "!a", "%a", "@a"]
        {
            let yaml = format!("os: {}\n", Scalar(text));
            assert_eq!(untyped(yaml.as_bytes())["os"], serde_json::json!(text), "{yaml}");
        }
    }
}
