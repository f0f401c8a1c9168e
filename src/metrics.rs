//! Every counter, gauge and histogram in one list. Handles are atomics (histograms: a lock that only a scrape ever
//! contends for), taken once at the start and then moved from core threads at no cost; nothing is looked up on the hot path.

mod exposition;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub use self::exposition::Format;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

/// A gauge of a time that is mostly a fraction of a second.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

use crate::types::{NodeId, ShardId};

type Labels = Vec<(&'static str, String)>;

/// In front of every name.
pub const PREFIX: &str = "beaver_raft";

/// Seconds; from a fast local disk to one that hangs.
const LATENCY_BUCKETS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    1.0, 5.0, 20.0,
];

/// One metric as the documentation lists it.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    pub name: &'static str,
    pub kind: &'static str,
    /// Labels that its whole group has.
    pub labels: &'static [&'static str],
    /// A label of its own, with its value where that is fixed.
    pub own_label: Option<(&'static str, Option<&'static str>)>,
    pub help: &'static str,
}

macro_rules! own_label {
    () => {
        None
    };
    ($label:ident = $value:literal) => {
        Some((stringify!($label), Some($value)))
    };
}

macro_rules! metrics {
    ($($(#[doc = $group_doc:literal])+ $group:ident [$($group_label:ident),*] {
        $($field:ident: $kind:ident = $name:literal $({$label:ident = $value:literal})?, $help:literal;)*
    })*) => {
        $(
            $(#[doc = $group_doc])+
            #[derive(Debug, Clone)]
            pub struct $group {
                $(#[doc = $help] pub $field: $kind,)*
            }

            impl $group {
                const LABELS: &'static [&'static str] = &[$(stringify!($group_label)),*];

                fn of(catalogue: &mut Catalogue, labels: &Labels) -> $group {
                    $group {
                        $($field: <$kind as Kind>::handle(catalogue, $name, $help, {
                            #[allow(unused_mut, reason = "only metrics with a label of their own add it")]
                            let mut labels = labels.clone();
                            $(labels.push((stringify!($label), $value.to_owned()));)?
                            labels
                        }),)*
                    }
                }
            }
        )*

        /// All of them, as declared. The same name with several values of a label stands here once for each.
        pub const ALL: &[Described] = &[$($(Described {
            name: $name,
            kind: stringify!($kind),
            labels: $group::LABELS,
            own_label: own_label!($($label = $value)?),
            help: $help,
        },)*)* COMMANDS];
    };
}

metrics! {
    /// What one node counts, over all its shards.
    NodeMetrics [] {
        connections: Gauge = "connections", "Client connections open now";
        connections_accepted: Counter = "connections_accepted", "Client connections ever accepted";
        connections_rejected: Counter = "connections_rejected", "Client connections closed at once because connections_max was reached";
        body_bytes: Gauge = "body_bytes", "Bytes of bodies of puts that are arriving or await their answer";
        refused_no_memory: Counter = "puts_refused_no_memory", "Puts answered OUT_OF_MEMORY because bodies_bytes_max was reached";
        output_bytes: Gauge = "output_bytes", "Bytes of answers that clients have not taken yet";
        answers_waited: Counter = "answers_waited", "Bodies that were not read before other clients had taken theirs, because output_bytes_max was reached";
        answers_given_up: Counter = "answers_given_up", "Client connections closed because a body that they asked for found no room within output_stall_ms";
        connections_stalled: Counter = "connections_stalled", "Client connections closed because nothing of their answers was taken for output_stall_ms";
        handshakes_refused: Counter = "handshakes_refused", "Handshakes with a peer that either side refused";
        bad_frames: Counter = "bad_frames", "Frames from peers that were dropped with their connection: too long, bad checksum, wrong version, or no sense";
        draining: Gauge = "draining", "1 while this node refuses puts because it was told to drain";
        memory_bytes: Gauge = "memory_bytes", "Bytes of physical memory that the process takes, when this was asked for";
        disk_free_bytes: Gauge = "disk_free_bytes", "Bytes that this process may still take on the file system of the data directory";
        room: Gauge = "room", "1 while this node's disk has more room than disk_reserve_bytes";
        log_lines_lost: Counter = "log_lines_lost", "Lines of the log that nobody took: standard error was not read, or its device is full";
        log_lines_suppressed: Counter = "log_lines_suppressed", "Lines of the log that were repeated too often; their number is in the log, once a minute";
        recovery_seconds: Histogram = "recovery_seconds", "Time from the start of the process until a shard had recovered its log";
    }
    /// What one shard counts on this node. What is replicated is the same on every node; take one, not the sum.
    ShardMetrics [shard] {
        jobs_ready: Gauge = "jobs" {state = "ready"}, "Jobs in a state, as applied on this node";
        jobs_reserved: Gauge = "jobs" {state = "reserved"}, "Jobs in a state, as applied on this node";
        jobs_delayed: Gauge = "jobs" {state = "delayed"}, "Jobs in a state, as applied on this node";
        jobs_buried: Gauge = "jobs" {state = "buried"}, "Jobs in a state, as applied on this node";
        recovered_bytes: Gauge = "recovered_bytes", "Bytes of the log that were read, while a shard recovers; 0 behind that";
        recovery_bytes: Gauge = "recovery_bytes", "Bytes of the log that are to be read, at most, while a shard recovers; 0 behind that";
        tubes: Gauge = "tubes", "Tubes that have a record";
        sessions: Gauge = "sessions", "Client sessions open in the cluster";
        enqueued: Counter = "jobs_enqueued", "Jobs taken, as applied by this process";
        reserved: Counter = "jobs_reserved", "Reservations granted, as applied by this process";
        completed: Counter = "jobs_completed", "Jobs deleted, as applied by this process";
        released: Counter = "jobs_released", "Jobs released by their worker, as applied by this process";
        buried: Counter = "jobs_buried", "Jobs buried, as applied by this process";
        kicked: Counter = "jobs_kicked", "Jobs kicked, as applied by this process";
        timed_out: Counter = "jobs_timed_out", "Reservations whose time ran out, as applied by this process";
        refused_outstanding: Counter = "puts_refused_outstanding", "Puts answered OUT_OF_MEMORY because twice bodies_bytes_max of earlier ones, closed connections' too, were not committed yet";
        refused_no_room: Counter = "puts_refused_no_room", "Puts answered OUT_OF_MEMORY for lack of room on disks";
        commands_refused: Counter = "commands_refused", "Commands that other nodes sent to this leader and that it cannot take: not well-formed, too long or not their own";
        waits: Gauge = "waits", "Workers that wait for a job at this node, while it leads";
        term: Gauge = "term", "Raft term";
        leader: Gauge = "leader", "Id of the leader that this node knows of; 0 while it knows none";
        leading: Gauge = "leading", "1 while this node leads the shard";
        leaderships_given_up: Counter = "leaderships_given_up", "Leaderships that this node gave up because its own writing or applying stood still";
        elections: Counter = "elections_won", "Elections that this node won";
        leader_changes: Counter = "leader_changes", "Times that this node learnt of a new leader";
        last_index: Gauge = "last_index", "Index of the last entry of the log here";
        committed_index: Gauge = "committed_index", "Index up to which entries are committed, as known here";
        applied_index: Gauge = "applied_index", "Index up to which entries are applied here";
        entries_appended: Counter = "entries_appended", "Entries written to the log";
        bytes_appended: Counter = "bytes_appended", "Bytes written to the log, padding included";
        writes: Counter = "log_writes", "Durable writes to the log; entries per write show how well group commit works";
        segments: Gauge = "segments", "Segment files, whether of the log, below its floor, or made ahead";
        log_bytes: Gauge = "log_bytes", "Bytes of the segment files";
        floor: Gauge = "log_floor", "Index above which the log counts; what lives from before is kept by job";
        stores: Gauge = "store_segments", "Store segments, which hold jobs moved out of the log";
        kept_bytes: Gauge = "kept_bytes", "Bytes of all files below the log's floor";
        live_bytes: Gauge = "kept_live_bytes", "Bytes below the log's floor of jobs that lived in the newest snapshot";
        moved_bytes: Gauge = "compaction_bytes", "Bytes written into store segments since the process began";
        damaged_files: Gauge = "damaged_files", "Files that are written no more and cannot be read in full";
        shut_out: Gauge = "members_shut_out", "Members that came back with an older copy of their data directory and are refused for good: bring up all others, then replace them";
        mended_files: Counter = "mended_files", "Files that were damaged and are whole again: from their own records, or with copies of other nodes";
        scrubbed_bytes: Counter = "scrubbed_bytes", "Bytes of files that are written no more that were read to find what has rotted";
        scrub_faults: Counter = "scrub_faults", "Files that were found damaged by that; see mended_files";
        scrub_passes: Counter = "scrub_passes", "How often all such files were read in full";
        scrub_pass_seconds: Gauge = "scrub_pass_seconds", "How long the last full pass took";
        scrub_last_pass: Gauge = "scrub_last_pass_timestamp_seconds", "When the last full pass ended, in seconds since the Unix epoch; 0 while there was none";
        scrub_files_left: Gauge = "scrub_files_left", "Files that the present pass has still to read";
        dropped_files: Gauge = "dropped_files", "Files below the log's floor that were given up because nothing lived in them, since the process began";
        rewritten_files: Gauge = "rewritten_files", "Files below the log's floor whose living jobs were moved into store segments, since the process began";
        snapshot_index: Gauge = "snapshot_index", "Entry of the newest snapshot that was written or started from; 0 while there is none";
        snapshot_bytes: Gauge = "snapshot_bytes", "Bytes of that snapshot";
        snapshot_age_seconds: Gauge = "snapshot_age_seconds", "Seconds since that snapshot was written or started from";
        snapshots_written: Gauge = "snapshots_written", "Snapshots written since the process began";
        snapshot_seconds: Histogram = "snapshot_seconds", "Time to write a snapshot and to read it back, beside everything else";
        marker_index: Gauge = "marker_index", "Entry of the last marker that was applied here; /status has the fingerprint of the state there";
        install_bytes: Gauge = "install_bytes", "Bytes that came of the snapshot of another node that is being pulled; 0 while none is";
        install_all_bytes: Gauge = "install_all_bytes", "Bytes of the snapshot of another node that is being pulled; 0 while none is";
        write_seconds: Histogram = "log_write_seconds", "Time of a durable write to the log (write and fsync)";
        vote_write_seconds: Histogram = "vote_write_seconds", "Time of a durable write of term and vote";
        commit_seconds: Histogram = "commit_seconds", "Time from the proposal of an entry by this leader to its commit";
        faulty_entries: Gauge = "faulty_entries", "Entries of the log that were durable here, are damaged, and are looked for at the other nodes";
        repaired_entries: Counter = "repaired_entries", "Damaged entries of the log that were written again from a copy of another node";
        installs: Counter = "installs", "Snapshots of other nodes that took the place of the log here, which had fallen behind theirs";
        pulled_jobs: Counter = "pulled_jobs", "Jobs that were pulled from other nodes for such a snapshot";
        copies_sought: Counter = "copies_sought", "Bodies below the log's floor that cannot be read here, and were looked for at the other nodes";
        body_reads: Counter = "body_reads", "Bodies that were read from the log's files, not from memory";
        turn_seconds: Histogram = "turn_seconds", "Processor time that the core thread took for one turn of the shard";
        longest_turn_seconds: SecondsGauge = "longest_turn_seconds", "Most processor time that the core thread took for one turn of the shard, since the process began";
        longest_turn_items: Gauge = "longest_turn_items", "Most work that one turn of the shard was, in items of a few microseconds each, since the process began";
    }
    /// What is said between this node and one peer, for one shard.
    PeerMetrics [shard, peer] {
        up: Gauge = "peer_up", "1 while there is a connection to the peer";
        frames_sent: Counter = "peer_frames_sent", "Frames sent to the peer";
        frames_received: Counter = "peer_frames_received", "Frames received from the peer";
        bytes_sent: Counter = "peer_bytes_sent", "Bytes sent to the peer";
        bytes_received: Counter = "peer_bytes_received", "Bytes received from the peer";
        connections_lost: Counter = "peer_connections_lost", "Connections to the peer that broke";
        lag_entries: Gauge = "peer_lag_entries", "Entries of this leader's log that the peer is not known to hold";
        stuck: Gauge = "peer_stuck", "1 while the peer answers this leader's heartbeats, lacks entries, and takes none";
    }
}

const COMMANDS: Described = Described {
    name: "commands",
    kind: "Counter",
    labels: &[],
    own_label: Some(("command", None)),
    help: "Well-formed commands of clients, by kind",
};

/// All metrics of one process.
pub struct Metrics {
    pub node: NodeMetrics,
    catalogue: Mutex<Catalogue>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Metrics {
        let mut catalogue = Catalogue::default();
        Metrics { node: NodeMetrics::of(&mut catalogue, &Vec::new()), catalogue: Mutex::new(catalogue) }
    }

    /// Handles of one shard's metrics; asking again gives the same ones.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> ShardMetrics {
        ShardMetrics::of(&mut self.catalogue(), &vec![("shard", shard.to_string())])
    }

    #[must_use]
    pub fn peer(&self, shard: ShardId, peer: NodeId) -> PeerMetrics {
        PeerMetrics::of(&mut self.catalogue(), &vec![("shard", shard.to_string()), ("peer", peer.to_string())])
    }

    /// The counter of one kind of client command, named as the protocol writes it.
    #[must_use]
    pub fn command(&self, command: &'static str) -> Counter {
        Counter::handle(&mut self.catalogue(), COMMANDS.name, COMMANDS.help, vec![("command", command.to_owned())])
    }

    /// The text that a scraper reads.
    #[must_use]
    pub fn text(&self, format: Format) -> String {
        let mut text = String::new();
        encode(&mut text, &self.catalogue().registry).expect("writing to a string cannot fail");
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => exposition::to_prometheus(&text),
        }
    }

    fn catalogue(&self) -> std::sync::MutexGuard<'_, Catalogue> {
        self.catalogue.lock().expect("nothing panics while it holds the catalogue")
    }
}

/// Families by name: a metric that several shards have is registered once.
struct Catalogue {
    registry: Registry,
    counters: BTreeMap<&'static str, Family<Labels, Counter>>,
    gauges: BTreeMap<&'static str, Family<Labels, Gauge>>,
    seconds: BTreeMap<&'static str, Family<Labels, SecondsGauge>>,
    histograms: BTreeMap<&'static str, Family<Labels, Histogram>>,
}

impl Default for Catalogue {
    fn default() -> Catalogue {
        Catalogue {
            registry: Registry::with_prefix(PREFIX),
            counters: BTreeMap::new(),
            gauges: BTreeMap::new(),
            seconds: BTreeMap::new(),
            histograms: BTreeMap::new(),
        }
    }
}

/// How a kind of metric gets into the catalogue.
trait Kind: Sized {
    fn handle(catalogue: &mut Catalogue, name: &'static str, help: &'static str, labels: Labels) -> Self;
}

impl Kind for Counter {
    fn handle(catalogue: &mut Catalogue, name: &'static str, help: &'static str, labels: Labels) -> Counter {
        let Catalogue { registry, counters, .. } = catalogue;
        let family = counters.entry(name).or_insert_with(|| {
            let family = Family::default();
            registry.register(name, help, family.clone());
            family
        });
        family.get_or_create_owned(&labels)
    }
}

impl Kind for Gauge {
    fn handle(catalogue: &mut Catalogue, name: &'static str, help: &'static str, labels: Labels) -> Gauge {
        let Catalogue { registry, gauges, .. } = catalogue;
        let family = gauges.entry(name).or_insert_with(|| {
            let family = Family::default();
            registry.register(name, help, family.clone());
            family
        });
        family.get_or_create_owned(&labels)
    }
}

impl Kind for SecondsGauge {
    fn handle(catalogue: &mut Catalogue, name: &'static str, help: &'static str, labels: Labels) -> SecondsGauge {
        let Catalogue { registry, seconds, .. } = catalogue;
        let family = seconds.entry(name).or_insert_with(|| {
            let family = Family::default();
            registry.register(name, help, family.clone());
            family
        });
        family.get_or_create_owned(&labels)
    }
}

impl Kind for Histogram {
    fn handle(catalogue: &mut Catalogue, name: &'static str, help: &'static str, labels: Labels) -> Histogram {
        let Catalogue { registry, histograms, .. } = catalogue;
        let family = histograms.entry(name).or_insert_with(|| {
            let family = Family::new_with_constructor((|| Histogram::new(LATENCY_BUCKETS)) as fn() -> Histogram);
            registry.register(name, help, family.clone());
            family
        });
        family.get_or_create_owned(&labels)
    }
}

/// A set value of a gauge: they are signed, what we count is not.
#[must_use]
pub fn gauge_value(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_with_several_shards_has_one_help_line() {
        let metrics = Metrics::new();
        metrics.shard(ShardId(0)).jobs_ready.set(3);
        metrics.shard(ShardId(1)).jobs_ready.set(4);
        metrics.shard(ShardId(1)).jobs_buried.set(5);
        metrics.command("put").inc();
        let text = metrics.text(Format::OpenMetrics);
        assert_eq!(text.matches("# HELP beaver_raft_jobs ").count(), 1, "{text}");
        assert!(text.contains("beaver_raft_jobs{shard=\"0\",state=\"ready\"} 3"), "{text}");
        assert!(text.contains("beaver_raft_jobs{shard=\"1\",state=\"ready\"} 4"), "{text}");
        assert!(text.contains("beaver_raft_jobs{shard=\"1\",state=\"buried\"} 5"), "{text}");
        assert!(text.contains("beaver_raft_commands_total{command=\"put\"} 1"), "{text}");
        assert!(text.contains("beaver_raft_connections{} 0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    /// What `promtool check metrics` looks for first.
    #[test]
    fn every_sample_of_either_text_has_a_type_and_help_of_its_own_name() {
        let metrics = Metrics::new();
        let _of_shard = metrics.shard(ShardId(0));
        let _of_peer = metrics.peer(ShardId(0), NodeId(2));
        metrics.command("put").inc();
        let text = metrics.text(Format::Prometheus);
        let described = |what: &str| -> std::collections::BTreeSet<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(what)?.split_once(' '));
            lines.filter(|(_, said)| !said.is_empty()).map(|(name, _)| name.to_owned()).collect()
        };
        let (helps, types) = (described("# HELP "), described("# TYPE "));
        assert_eq!(helps, types);
        let mut sampled = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().expect("a sample has a name");
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let family = of_histogram.filter(|family| types.contains(*family)).unwrap_or(name);
            assert!(types.contains(family), "{line}");
            sampled.insert(family.to_owned());
        }
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(sampled.len(), names.len());
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[test]
    fn handles_taken_twice_count_together() {
        let metrics = Metrics::new();
        metrics.shard(ShardId(0)).enqueued.inc();
        metrics.shard(ShardId(0)).enqueued.inc();
        assert_eq!(metrics.shard(ShardId(0)).enqueued.get(), 2);
    }

    #[test]
    fn one_name_means_one_kind_with_one_help_text() {
        let mut seen: BTreeMap<&str, &Described> = BTreeMap::new();
        for metric in ALL {
            if let Some(first) = seen.insert(metric.name, metric) {
                assert_eq!((first.kind, first.help), (metric.kind, metric.help), "{}", metric.name);
            }
        }
    }
}
