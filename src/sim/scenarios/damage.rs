//! Cold data that rots: files that were written once, long ago, and are damaged while the node is off or runs. No job may be
//! said not to be there that is; what can be made whole again is, and where nobody can, the node says so.

use std::path::{Path, PathBuf};

use super::installs::{assert_holds, big, floor, shortened};
use super::stage::{Client, Stage};
use crate::io::Disk;
use crate::sim::dialogue::{Asked, Said};
use crate::sim::disk::block_on::block_on;
use crate::types::{Index, NodeId};

const SNAPSHOTS: &str = "/data/shard-0/snapshots";

/// Puts and deletes until these nodes' logs begin somewhere above their beginning, and more than once; the jobs that are left.
fn raise_floors(stage: &Stage, nodes: &[NodeId], client: &Client<'_>) -> Vec<u64> {
    let mut kept = Vec::new();
    for round in 0..2_000 {
        let job = match client.says(big()).answer {
            Ok(Said::Inserted(job)) => job,
            other => panic!("{other:?}"),
        };
        if round % 10 == 0 {
            kept.push(job);
        } else {
            assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
        }
        if round % 20 == 0 && nodes.iter().all(|node| floor(stage, *node) > Index(100)) {
            return kept;
        }
    }
    panic!("the logs still begin where they did");
}

fn files(stage: &Stage, node: NodeId, dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(dir);
    let files = block_on(stage.member(node).disk().image().list(dir)).expect("it can be read");
    files.iter().map(|file| dir.join(&file.name)).collect()
}

fn damage(stage: &Stage, node: NodeId, files: &[PathBuf], byte: u64) {
    files.iter().for_each(|path| stage.member(node).disk().flip_bit(path, byte * 8).expect("it is there"));
}

#[test]
fn a_node_that_lost_every_snapshot_above_which_its_log_begins_takes_one_of_another_and_keeps_its_jobs() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    let mut jobs = raise_floors(&stage, &[away], &client);
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    stage.cluster.kill(stage.member(away));
    let snapshots = files(&stage, away, SNAPSHOTS);
    assert!(snapshots.len() >= 2, "{snapshots:?}");
    damage(&stage, away, &snapshots, 5_000);
    jobs.extend((0..5).map(|_| client.puts(b"meanwhile")));
    // Alone it has no state to serve from, and says so as long as it waits.
    [leader, other].iter().for_each(|node| stage.cut_both(away, *node));
    stage.cluster.start(stage.member(away));
    stage.pass(2_000);
    let (status, _) = stage.member(away).status().expect("it runs");
    assert!(status.shards[0].repair.is_some(), "{status:?}");
    stage.heal();
    stage.wait_for(60_000, "the one that lost them", || stage.is_settled());
    stage.pass(500);
    let (_, metrics) = stage.member(away).status().expect("it runs");
    assert!(metrics.contains("installs_total{shard=\"0\"} 1"), "{metrics}");
    assert!(metrics.contains("pulled_jobs_total{shard=\"0\"} "), "{metrics}");
    assert_eq!(stage.member(away).starts(), 2);
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

#[test]
fn a_single_node_that_lost_every_snapshot_above_which_its_log_begins_says_so_and_ends() {
    let stage = Stage::with(1, shortened);
    let node = stage.leader();
    let client = stage.client(node);
    raise_floors(&stage, &[node], &client);
    stage.cluster.kill(stage.member(node));
    damage(&stage, node, &files(&stage, node, SNAPSHOTS), 5_000);
    stage.cluster.start(stage.member(node));
    stage.pass(2_000);
    let (status, why) = stage.member(node).ended().expect("it has no state to serve from");
    assert_eq!(status, 30, "{why}");
    assert!(why.contains(SNAPSHOTS) && why.contains("do not delete anything"), "{why}");
}
