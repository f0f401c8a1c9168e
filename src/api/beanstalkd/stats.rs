//! The YAML of `stats`, `stats-tube`, `stats-job` and the lists: exact keys in exact order, strings quoted as 1.13
//! does. No key is added to the two that clients compare as a whole.

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
        .quoted("tube", text(&view.tube))
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
        .quoted("name", text(name))
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

#[must_use]
pub fn list<'a>(names: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut document = Document::new();
    for name in names {
        document.push(format_args!("- {}\n", text(name)));
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
        .quoted("version", facts.version)
        .line("rusage-utime", Micros(usage.user_micros))
        .line("rusage-stime", Micros(usage.system_micros))
        .line("uptime", now.saturating_sub(facts.started).0 / 1_000_000_000)
        .line("binlog-oldest-index", shards.segment_oldest)
        .line("binlog-current-index", shards.segment_newest)
        .line("binlog-records-migrated", 0)
        .line("binlog-records-written", shards.entries_written)
        .line("binlog-max-size", facts.segment_bytes_max)
        .line("draining", door.is_draining())
        .line("id", format_args!("{:016x}", facts.instance))
        .quoted("hostname", &facts.hostname)
        .quoted("os", &facts.os)
        .quoted("platform", &facts.platform)
        .end()
}

/// Microseconds, printed as seconds.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
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

    /// Quotes and control characters cannot stand in a quoted string; none of ours needs them.
    fn quoted(mut self, key: &str, value: &str) -> Document {
        let clean = |c: &char| !matches!(c, '"' | '\\') && !c.is_control();
        let value: String = value.chars().filter(clean).collect();
        self.push(format_args!("{key}: \"{value}\"\n"));
        self
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
        let expected = "---\nid: 11\ntube: \"default\"\nstate: reserved\npri: 1\nage: 2\ndelay: 3\nttr: 4\n\
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
        let expected = "---\nname: \"t\"\ncurrent-jobs-urgent: 1\ncurrent-jobs-ready: 2\ncurrent-jobs-reserved: 3\n\
                        current-jobs-delayed: 4\ncurrent-jobs-buried: 5\ntotal-jobs: 6\ncurrent-using: 7\n\
                        current-watching: 8\ncurrent-waiting: 9\ncmd-delete: 10\ncmd-pause-tube: 11\npause: 12\n\
                        pause-time-left: 13\n";
        assert_eq!(tube(b"t", &counts, references), expected);
    }

    #[test]
    fn lists_are_not_quoted() {
        let names = [Bytes::from_static(b"default"), Bytes::from_static(b"w")];
        assert_eq!(list(&names), "---\n- default\n- w\n");
    }
}
