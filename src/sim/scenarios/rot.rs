//! Two of three nodes whose cold data is damaged at the same time, each in other files: whatever one lacks another has, so both must be
//! whole again, and every job be delivered once.

use super::damage::{damage, damage_records, damage_rows, files, metric, raise_floors};
use super::installs::shortened;
use super::stage::Stage;
use crate::sim::dialogue::{Asked, Said};
use crate::types::NodeId;

const SEGMENTS: &str = "/data/shard-0/wal";
const SNAPSHOTS: &str = "/data/shard-0/snapshots";
const STORES: &str = "/data/shard-0/store";

/// A cluster with jobs below every floor, and the two nodes that do not lead it.
fn with_cold_data(waste_percent: u32) -> (Stage, [NodeId; 2], Vec<u64>) {
    let stage = Stage::with(3, |tunables| {
        shortened(tunables);
        tunables.compaction_waste_percent = waste_percent;
        tunables.recent_bytes_max = 1 << 20;
    });
    let leader = stage.leader();
    let [one, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(leader);
    let jobs = raise_floors(&stage, &stage.nodes(), &client);
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    (stage, [one, other], jobs)
}

/// Half of them to a worker at each of these nodes; then there are no more.
fn assert_each_is_delivered_once(stage: &Stage, nodes: [NodeId; 2], jobs: &[u64]) {
    let mut delivered = Vec::new();
    let workers = nodes.map(|node| stage.client(node));
    for worker in workers.iter().cycle().take(jobs.len()) {
        let job = worker.reserves();
        assert_eq!(worker.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
        delivered.push(job);
    }
    delivered.sort_unstable();
    assert_eq!(delivered, jobs);
    assert_eq!(workers[0].says(Asked::Reserve { timeout_s: Some(0) }).answer, Ok(Said::TimedOut));
}

/// How the files of a node are harmed.
type Harm = fn(&Stage, NodeId);

fn records(stage: &Stage, node: NodeId) {
    damage_records(stage, node);
}

fn rows(stage: &Stage, node: NodeId) {
    damage_rows(stage, node);
}

/// Done twice, it is undone.
fn snapshots(stage: &Stage, node: NodeId) {
    let snapshots = files(stage, node, SNAPSHOTS);
    assert!(snapshots.len() >= 2, "{snapshots:?}");
    damage(stage, node, &snapshots, 5_000);
}

/// Without them nothing is known of what is in the files. Done twice, it is undone.
fn heads_of_stores(stage: &Stage, node: NodeId) {
    let stores = files(stage, node, STORES);
    assert!(!stores.is_empty(), "what is old was moved into store segments");
    damage(stage, node, &stores, 10);
}

/// Of the oldest that has rows, which is below the floor.
fn head_of_segment(stage: &Stage, node: NodeId) {
    let all = files(stage, node, SEGMENTS);
    let rows = all.iter().find(|path| path.extension().is_some_and(|end| end == "rows")).expect("there are rows");
    stage.member(node).disk().make_unreadable(&rows.with_extension("seg"), 0, 512).expect("it is there");
}

const HARMS: [Harm; 4] = [records, rows, snapshots, heads_of_stores];

fn assert_whole(stage: &Stage, nodes: [NodeId; 2], jobs: &[u64]) {
    for node in nodes {
        assert_eq!(metric(stage, node, "damaged_files"), 0);
        let noticed =
            ["mended_files_total", "installs_total", "scrub_faults_total"].map(|name| metric(stage, node, name));
        assert!(noticed.iter().sum::<u64>() > 0, "node {node} was not damaged");
    }
    assert_each_is_delivered_once(stage, nodes, jobs);
}

#[test]
fn what_rots_in_two_of_three_nodes_while_they_run_is_made_whole_and_every_job_is_delivered() {
    let mut pairs: Vec<(u32, [Harm; 2])> = vec![(90, [head_of_segment; 2])];
    HARMS.iter().for_each(|one| pairs.extend(HARMS.iter().map(|other| (40, [*one, *other]))));
    for (waste_percent, harms) in pairs {
        let (stage, nodes, jobs) = with_cold_data(waste_percent);
        nodes.iter().zip(harms).for_each(|(node, harm)| harm(&stage, *node));
        // In which all that there is was looked at.
        stage.pass(130_000);
        nodes.iter().for_each(|node| assert_eq!(stage.member(*node).starts(), 1));
        assert_whole(&stage, nodes, &jobs);
        stage.clear();
    }
}

fn start_damaged(nodes: [NodeId; 2], harms: [Harm; 2], stage: &Stage) {
    nodes.iter().for_each(|node| stage.cluster.kill(stage.member(*node)));
    nodes.iter().zip(harms).for_each(|(node, harm)| harm(stage, *node));
    nodes.iter().for_each(|node| stage.cluster.start(stage.member(*node)));
}

/// One of them can do without a snapshot of another, so there is a majority, whose leader has one made of where the other's log ends.
#[test]
fn two_of_three_nodes_that_start_on_damaged_files_are_made_whole_where_one_of_them_can_serve() {
    for at_one in [records as Harm, rows] {
        for at_other in HARMS {
            let (stage, nodes, jobs) = with_cold_data(40);
            start_damaged(nodes, [at_one, at_other], &stage);
            stage.wait_for(60_000, "both that are damaged", || stage.is_settled());
            stage.pass(130_000);
            nodes.iter().for_each(|node| assert_eq!(stage.member(*node).starts(), 2));
            assert_whole(&stage, nodes, &jobs);
            stage.clear();
        }
    }
}

/// What a node takes in the place of its log must reach to that log's end. Where two of three wait for such a snapshot, nobody leads who
/// could have a later one made. They keep their word, and say what they wait for; one file that is restored helps both.
#[test]
fn two_of_three_nodes_that_need_a_snapshot_of_the_third_say_so_until_the_files_of_one_are_restored() {
    let (snapshots, heads): (Harm, Harm) = (snapshots, heads_of_stores);
    for harms in [[snapshots, heads], [heads, snapshots], [snapshots; 2], [heads; 2]] {
        let (stage, nodes, jobs) = with_cold_data(40);
        start_damaged(nodes, harms, &stage);
        stage.pass(30_000);
        for node in nodes {
            let (status, _) = stage.member(node).status().expect("it runs");
            let text = status.shards[0].repair.clone().expect("it waits");
            assert!(text.contains("has only a snapshot in its place") && text.contains("cannot tell"), "{text}");
            assert_eq!(stage.member(node).ended(), None);
        }
        assert!(stage.nodes().iter().all(|node| !stage.cluster.oracle().leads(*node)), "two of three do not vote");
        // Nobody is told that there is no such job.
        let heard = stage.client(nodes[0]).says(Asked::Peek(jobs[0]));
        assert!(heard.answer.is_err(), "{heard:?}");
        let [restored, other] = nodes;
        stage.cluster.kill(stage.member(restored));
        harms[0](&stage, restored);
        stage.cluster.start(stage.member(restored));
        stage.wait_for(60_000, "both that were damaged", || stage.is_settled());
        assert_eq!([restored, other].map(|node| metric(&stage, node, "installs_total")), [0, 1]);
        assert_each_is_delivered_once(&stage, nodes, &jobs);
        stage.clear();
    }
}
