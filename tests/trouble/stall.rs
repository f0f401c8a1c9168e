//! A disk that hangs without an error (faults E12): a frozen file system takes no write and fails none.

use std::collections::BTreeSet;

use crate::small_disk::SmallCluster;
use crate::{drain, eventually};

#[test]
fn a_leader_whose_disk_hangs_hands_over_at_once_and_its_process_ends_later() {
    let Some(mut small) = SmallCluster::prepare("stall", 96, "disk_reserve_bytes: 0\ndisk_stall_exit_ms: 4000\n")
    else {
        return;
    };
    small.cluster.start_all();
    let (leader, other) = (small.cluster.leader(), small.cluster.follower());
    let mut acknowledged = BTreeSet::new();
    let mut producer = small.cluster.nodes[other].connect();
    let mut put = |n: usize| {
        let body = format!("job {n}");
        producer.put(&body);
        acknowledged.insert(body);
    };
    put(0);
    small.disks[leader].freeze();
    // The first may still commit without the leader's disk; the rest needs another leader.
    (1..50).for_each(&mut put);
    let node = &small.cluster.nodes[leader];
    assert!(!node.log().contains("beaver-raft: the disk of"), "leadership went long before: {}", node.log());
    eventually("the new leader is shown", || {
        let status = small.cluster.nodes[other].status().expect("it runs");
        status["shards"][0]["leader"].as_u64().is_some_and(|leads| leads != node.number as u64)
    });
    eventually("the node gives up its disk", || node.log().contains("beaver-raft: the disk of"));
    // The kernel lets go of a process only when its disk does.
    small.disks[leader].thaw();
    assert_eq!(small.cluster.nodes[leader].wait().code(), Some(34));

    small.cluster.nodes[leader].start();
    small.cluster.leader();
    assert_eq!(drain(&mut small.cluster.nodes[leader].connect()), acknowledged);
}
