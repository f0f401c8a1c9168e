//! How many files a node may have open beside those of its clients. A client must never take the descriptor that the log needs.

use super::admin;
use crate::config::Config;
use crate::net::link::LinkLimits;
use crate::wal::open_files::OPEN_FILES_MAX;

/// Of a shard: its node reads for clients, its keeper reads what it moves, each with a reader of the log and one of the stores.
const READERS: u64 = 4;

/// What a shard has open beside its readers: the segment that is written, the vote, a spare, a store segment and a snapshot that are
/// made, what is pulled and what is given, and their directories while they are synced.
const SHARD_FILES: u64 = 16;

/// Of a core thread: rings, events, listeners of both ports.
const CORE_FILES: u64 = 16;

/// Of the process: the lock, the bulk thread's rings, both listeners of the admin port, standard streams, signals.
const PROCESS_FILES: u64 = 32;

/// Beside the connections of clients.
#[must_use]
pub fn files_kept(config: &Config) -> u64 {
    let (shards, cores) = (u64::from(config.shards), u64::from(config.core_count()));
    let peers = config.members.len().saturating_sub(1) as u64;
    // A link of each direction, and one that takes the place of another.
    let of_a_shard = READERS * OPEN_FILES_MAX as u64 + SHARD_FILES + 3 * peers;
    // Connections that have not said yet which peer they are.
    let of_a_core = LinkLimits::default().handshakes_max as u64 + CORE_FILES;
    shards * of_a_shard + cores * of_a_core + admin::CONNECTIONS_MAX as u64 + PROCESS_FILES
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Draft;

    fn kept(shards: u16, cores: u16) -> u64 {
        let text = format!(
            "{{cluster: c, node: 1, data: d, clients: 'a:1', members: {{1: 'a:2', 2: 'b:2', 3: 'c:2'}}, shards: {shards}, \
             cores: {cores}}}"
        );
        files_kept(&Draft::from_yaml(&text, Path::new("c")).expect("parses").validate().expect("valid"))
    }

    #[test]
    fn each_shard_keeps_the_files_of_all_its_readers_and_each_core_its_strangers() {
        let strangers = LinkLimits::default().handshakes_max as u64;
        assert!(kept(1, 1) >= 4 * OPEN_FILES_MAX as u64 + strangers + admin::CONNECTIONS_MAX as u64);
        assert!(kept(8, 1) - kept(7, 1) >= 4 * OPEN_FILES_MAX as u64 + 4, "readers, and links to two peers");
        assert!(kept(8, 2) - kept(8, 1) >= strangers);
        assert!(kept(1, 1) < 1024 - 64, "the limit that most shells give is enough for one shard");
    }
}
