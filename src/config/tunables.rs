//! The numbers an operator may turn, each with unit, default, range and reason in one list.

use super::key::Key;
use super::quantity::{self, Unit};

macro_rules! tunables {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:literal $unit:ident, $min:literal to $max:literal;)*) => {
        /// Every number that can be configured, each within its range. What several of them must have in common is
        /// checked by `Draft::validate`.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Tunables {
            $($(#[doc = $doc])+ pub $name: $type,)*
        }

        impl Default for Tunables {
            fn default() -> Tunables {
                Tunables { $($name: $default,)* }
            }
        }

        impl Tunables {
            pub const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($name),
                unit: stringify!($unit),
                default: stringify!($default),
                range: concat!(stringify!($min), " to ", stringify!($max)),
                doc: concat!($($doc),+),
            },)*];

            /// Sets one number by its name.
            ///
            /// # Errors
            /// What is wrong with the value, where it is no number or out of range.
            ///
            /// # Panics
            /// If no number has that name: callers look keys up first.
            pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
                match name {
                    $(stringify!($name) => {
                        let range: std::ops::RangeInclusive<$type> = $min..=$max;
                        let number = quantity::parse(text, Unit::of(stringify!($unit)));
                        match number.clone().ok().and_then(|number| <$type>::try_from(number).ok()) {
                            Some(value) if range.contains(&value) => self.$name = value,
                            _ => {
                                let why = number.err().filter(|why| !why.is_empty());
                                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                                return Err(format!(
                                    "must be {} to {} ({}), not `{text}`{why}",
                                    range.start(), range.end(), stringify!($unit),
                                ));
                            }
                        }
                    })*
                    _ => unreachable!("`{name}` is not in the table of tunables"),
                }
                Ok(())
            }
        }

        // A default outside its own range would be refused when written into a file as it is documented.
        $(const _: () = {
            let (default, min, max): ($type, $type, $type) = ($default, $min, $max);
            assert!(default >= min && default <= max);
        };)*
    };
}

tunables! {
    /// Largest body of a job. A larger put is answered JOB_TOO_BIG.
    job_bytes_max: u32 = 65_535 bytes, 1 to 16_777_216;
    /// Bodies of puts that are arriving or await their answer, of all clients of this node together; each core thread has an
    /// equal share. A put beyond it is answered OUT_OF_MEMORY; so it is where closed connections have left twice as much that is not
    /// committed yet.
    bodies_bytes_max: u64 = 268_435_456 bytes, 33_554_432 to 1_099_511_627_776;
    /// Answers that clients have not taken yet, of all clients of this node together. Bodies for which there is no room are not read
    /// before others are taken, and a client that has not taken what it asked for is served no further meanwhile.
    output_bytes_max: u64 = 268_435_456 bytes, 33_554_432 to 1_099_511_627_776;
    /// A client that takes nothing of an answer for so long is closed; so is one whose answer finds no room for so
    /// long. One that asks for nothing may be silent for ever.
    output_stall_ms: u64 = 30_000 milliseconds, 100 to 3_600_000;
    /// Client connections open at once on this node; more are closed as they arrive. Fewer where the process may not open so
    /// many files; then the log says so.
    connections_max: u32 = 10_000 connections, 1 to 1_000_000;
    /// How long a command waits while there is no quorum (up to a sixteenth longer where many do) before its connection is closed;
    /// and how long a read, a poll or a wait that is to end may take at all. Nothing is answered that is not committed.
    no_quorum_timeout_ms: u64 = 10_000 milliseconds, 100 to 3_600_000;
    /// A leader with nothing to send says so this often. At most a third of `election_timeout_ms`.
    heartbeat_ms: u64 = 50 milliseconds, 5 to 10_000;
    /// Silence after which a follower seeks an election; each draws its own between this and twice this. A leader
    /// whose process died is noticed by its sockets, sooner than this.
    election_timeout_ms: u64 = 150 milliseconds, 20 to 60_000;
    /// Appends on their way to one follower before the leader waits for an answer.
    appends_in_flight_max: u32 = 64 appends, 1 to 4_096;
    /// Bytes of entries on their way to one follower before the leader waits for an answer.
    appends_in_flight_bytes_max: u64 = 8_388_608 bytes, 65_536 to 1_073_741_824;
    /// Commands that gather while a write is in flight go into one entry up to this size; a larger single job gets an
    /// entry of its own.
    entry_bytes_max: u32 = 1_048_576 bytes, 4_096 to 16_777_216;
    /// Recent entries kept in memory by each shard, from which followers and readers of bodies are served.
    recent_bytes_max: u64 = 67_108_864 bytes, 1_048_576 to 68_719_476_736;
    /// First segment of a new shard's log; later ones double up to `segment_bytes_max`. A multiple of 4096.
    segment_bytes_min: u64 = 4_194_304 bytes, 65_536 to 1_073_741_824;
    /// Largest segment of the log (a larger single entry gets a segment that fits it). A multiple of 4096.
    segment_bytes_max: u64 = 67_108_864 bytes, 65_536 to 1_073_741_824;
    /// The log is kept for members that lag by no more than this, connected or not; one that lags by more gets a snapshot.
    /// Not for one that is away while the disk lacks room. Without effect where no snapshots are kept.
    lagging_bytes_max: u64 = 1_073_741_824 bytes, 0 to 1_099_511_627_776;
    /// A file below the log's floor of which more than this is waste is rewritten. Less takes less disk and more writing.
    compaction_waste_percent: u32 = 20 percent, 5 to 90;
    /// A shard keeps a snapshot of its state each time its log has grown by this much on disk (more where snapshots are large), when a
    /// load ends, when the node stops, and while a disk lacks room: after a crash, at most about as much is applied again, and
    /// the log is shortened to what lives. 0: never.
    snapshot_every_bytes: u64 = 67_108_864 bytes, 0 to 1_099_511_627_776;
    /// Spare segments are zeroed at this rate, so that they do not delay the log.
    bulk_bytes_per_second: u64 = 134_217_728 bytes, 1_048_576 to 17_179_869_184;
    /// What is written no more (sealed segments, store segments, snapshots) is read again and again at this rate, all shards together, so
    /// that damage is found, and mended from the other nodes, before the data is needed. 0: never.
    scrub_bytes_per_second: u64 = 1_048_576 bytes, 0 to 17_179_869_184;
    /// Free space below which this node says that it has no room. With no room on a majority puts are answered
    /// OUT_OF_MEMORY; reserve and delete go on.
    disk_reserve_bytes: u64 = 268_435_456 bytes, 0 to 1_099_511_627_776;
    /// A write that has not completed after this long ends the process (a leader has stepped down long before, after
    /// two election timeouts). Time in which the process was busy or stopped does not count.
    disk_stall_exit_ms: u64 = 20_000 milliseconds, 1_000 to 600_000;
    /// How long a stopping node waits for leadership to move and connections to end.
    stop_timeout_ms: u64 = 5_000 milliseconds, 100 to 300_000;
}
