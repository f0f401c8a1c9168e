//! Real processes that have run for long: snapshots, a floor, files below it. What is in their directories can be looked at, what
//! they did is counted, they start again with everything, and they take no more room than what lives needs.

#[path = "../cluster/mod.rs"]
#[allow(dead_code, reason = "shared with other tests of processes")]
mod cluster;

mod flat;
mod inspect;
mod restart;
mod shown;

use std::time::{Duration, Instant};

use cluster::Node;

/// Snapshots often, and short segments.
pub const OFTEN: &str = "segment_bytes_min: 65536\nsegment_bytes_max: 65536\nsnapshot_every_bytes: 131072\n";

/// Waits until something holds; long enough for a busy machine.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A number in the status of a node's only shard.
pub fn shown(node: &Node, key: &str) -> u64 {
    node.status().and_then(|status| status["shards"][0][key].as_u64()).unwrap_or_default()
}
