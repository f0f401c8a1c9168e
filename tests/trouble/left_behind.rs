//! A node that was away for longer than the others keep their logs: it takes a snapshot of one of them, with the jobs that it lacks, and
//! serves. Nothing that was acknowledged is lost, whoever is killed meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::{Cluster, Node};
use crate::{drain, eventually};

/// Snapshots often, short segments, and the log kept for nobody.
const SHORTENED: &str =
    "segment_bytes_min: 65536\nsegment_bytes_max: 65536\nsnapshot_every_bytes: 131072\nlagging_bytes_max: 0\n";

fn number(node: &Node, name: &str) -> u64 {
    let metrics = node.ask_admin("/metrics").unwrap_or_default();
    let line = metrics.lines().find(|line| line.starts_with(&format!("beaver_raft_{name}{{")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

fn is_level(node: &Node, with: &Node) -> bool {
    let index = number(with, "committed_index");
    index > 0 && number(node, "applied_index") >= index
}

/// Puts jobs of this length through one node and deletes all but the bodies that are returned, until the logs of these nodes begin above
/// `index` and so many bodies are kept.
fn go_on_past(
    cluster: &Cluster,
    through: usize,
    index: u64,
    running: [usize; 2],
    bytes: usize,
    count: usize,
) -> BTreeSet<String> {
    let mut connection = cluster.nodes[through].connect();
    let mut kept = BTreeSet::new();
    for round in 0..20_000 {
        let body = format!("{round:0bytes$}");
        let id = connection.put(&body);
        if round % 4 == 0 && kept.len() < count {
            kept.insert(body);
        } else {
            assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
        }
        let is_past = || running.iter().all(|&node| number(&cluster.nodes[node], "log_floor") > index);
        if round % 50 == 49 && kept.len() == count && is_past() {
            return kept;
        }
    }
    panic!("the logs still begin where they did");
}

#[test]
fn a_follower_that_was_stopped_while_the_others_shortened_their_logs_takes_a_snapshot_and_can_lead() {
    let mut cluster = Cluster::prepare_with("left-behind", SHORTENED);
    cluster.start_all();
    let leader = cluster.leader();
    let away = cluster.follower();
    let other = 3 - leader - away;
    let mut bodies: BTreeSet<String> = (0..20).map(|n| format!("before {n}")).collect();
    let mut producer = cluster.nodes[leader].connect();
    bodies.iter().for_each(|body| _ = producer.put(body));
    eventually("agreement", || is_level(&cluster.nodes[away], &cluster.nodes[leader]));
    let reached = number(&cluster.nodes[away], "last_index");
    cluster.nodes[away].kill();
    bodies.extend(go_on_past(&cluster, other, reached, [leader, other], 3_000, 100));
    // All of them are to be in the snapshot, and none behind it.
    let reached = number(&cluster.nodes[leader], "last_index");
    go_on_past(&cluster, other, reached, [leader, other], 3_000, 0);
    cluster.nodes[away].start();
    eventually("the snapshot", || number(&cluster.nodes[away], "installs_total") == 1);
    eventually("agreement", || is_level(&cluster.nodes[away], &cluster.nodes[leader]));
    // Of what it had, it may not have known the last to be committed; and one lived in the snapshot that was about to end.
    let pulled = number(&cluster.nodes[away], "pulled_jobs_total");
    assert!((100..110).contains(&pulled), "{pulled} jobs were pulled: what it had, it keeps");
    // What it has is its own from now on: it starts from it, and of what it holds nothing is lacking when another dies.
    cluster.nodes[away].kill();
    cluster.nodes[away].start();
    eventually("agreement", || is_level(&cluster.nodes[away], &cluster.nodes[leader]));
    cluster.nodes[leader].kill();
    assert_eq!(drain(&mut cluster.nodes[away].connect()), bodies);
    assert_eq!(number(&cluster.nodes[away], "installs_total"), 0, "it needs no other");
}

/// It is the first time that the others meet it.
#[test]
fn a_member_that_is_started_when_the_logs_no_longer_reach_back_to_the_beginning_takes_a_snapshot() {
    let mut cluster = Cluster::prepare_with("late", SHORTENED);
    cluster.nodes[0].start();
    cluster.nodes[1].start();
    let bodies = go_on_past(&cluster, 0, 1, [0, 1], 2_000, 60);
    cluster.nodes[2].start();
    eventually("the snapshot", || number(&cluster.nodes[2], "installs_total") == 1);
    eventually("agreement", || is_level(&cluster.nodes[2], &cluster.nodes[0]));
    cluster.nodes[0].kill();
    assert_eq!(drain(&mut cluster.nodes[2].connect()), bodies);
}

#[test]
fn a_pull_that_is_killed_on_either_side_goes_on_where_it_was() {
    // Three seconds at this rate.
    let more = format!("{SHORTENED}bulk_bytes_per_second: 1048576\n");
    let mut cluster = Cluster::prepare_with("resumed", &more);
    cluster.start_all();
    let leader = cluster.leader();
    let away = cluster.follower();
    let other = 3 - leader - away;
    let reached = number(&cluster.nodes[away], "last_index");
    cluster.nodes[away].kill();
    let bodies = go_on_past(&cluster, other, reached, [leader, other], 30_000, 100);
    cluster.nodes[away].start();
    eventually("some of the jobs", || number(&cluster.nodes[away], "pulled_jobs_total") >= 30);
    let before = number(&cluster.nodes[away], "pulled_jobs_total");
    cluster.nodes[away].kill();
    assert!(before < 100, "it was to be slow");
    cluster.nodes[away].start();
    eventually("more of the jobs", || number(&cluster.nodes[away], "pulled_jobs_total") >= 10);
    // And whoever gives them.
    cluster.nodes[leader].kill();
    std::thread::sleep(Duration::from_millis(300));
    cluster.nodes[leader].start();
    eventually("the snapshot", || number(&cluster.nodes[away], "installs_total") == 1);
    let after = number(&cluster.nodes[away], "pulled_jobs_total");
    assert!(after < 100 - before / 2, "{after} jobs came once more, of 100, though {before} had come before");
    assert_eq!(drain(&mut cluster.nodes[away].connect()), bodies);
}
