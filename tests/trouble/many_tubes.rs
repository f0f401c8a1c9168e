//! Many tubes, monitors that ask for all of them, and workers that wait for all of them: no turn of
//! a core thread takes on work in proportion to them, and nobody stands for election.

use std::fmt::Write as _;

use super::cluster::{Cluster, Connection};
use super::eventually;

const TUBES: usize = 20_000;
const WORKERS: usize = 40;
const WATCHED_EACH: usize = 500;

/// Two shares of requests, one event each beyond them, and a step of each kind of work that is cut
/// into steps (`node::intake`, `shard::steps`).
const ITEMS_MAX: f64 = 2.0 * (512.0 + 1024.0) + 8.0 * 256.0;

fn list(connection: &mut Connection) -> usize {
    let document = connection.document("list-tubes");
    assert!(document.starts_with("---\n"), "{document}");
    document.lines().filter(|line| line.starts_with("- ")).count()
}

#[test]
fn a1_a2_a3_a_turn_is_bounded_however_many_tubes_there_are_and_nobody_stands_for_election() {
    let mut cluster = Cluster::prepare_with("many-tubes", "election_timeout_ms: 1000\nheartbeat_ms: 100\n");
    cluster.start_all();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let term =
        |cluster: &Cluster, node: usize| cluster.nodes[node].status().expect("it runs")["shards"][0]["term"].clone();
    let before = term(&cluster, leader);
    let mut producer = cluster.nodes[follower].connect();
    for first in (0..TUBES).step_by(500) {
        let mut commands = String::new();
        (first..first + 500).for_each(|nth| _ = write!(commands, "use tube-{nth}\r\nput 1 0 60 1\r\nx\r\n"));
        producer.send(&commands);
        (0..1000).for_each(|_| assert!(producer.line().is_some()));
    }
    let workers: Vec<Connection> = (0..WORKERS)
        .map(|nth| {
            let mut worker = cluster.nodes[nth % 3].connect();
            let mut commands = String::new();
            (0..WATCHED_EACH).for_each(|tube| _ = write!(commands, "watch empty-{nth}-{tube}\r\n"));
            worker.send(&commands);
            (0..WATCHED_EACH).for_each(|_| assert!(worker.line().is_some()));
            worker.send("ignore default\r\nreserve\r\n");
            worker
        })
        .collect();
    let waits = |cluster: &Cluster| cluster.nodes[leader].status().expect("it runs")["shards"][0]["waits"].clone();
    eventually("the leader knows of every worker", || waits(&cluster) == WORKERS);
    let all = 1 + TUBES + WORKERS * WATCHED_EACH;
    let mut monitors: Vec<Connection> = (0..3).map(|nth| cluster.nodes[nth].connect()).collect();
    for monitor in &mut monitors {
        assert_eq!(list(monitor), all, "default, those with a job, and those that are watched");
    }
    drop(workers);
    eventually("the tubes that nobody watches any more are gone", || list(&mut monitors[0]) == 1 + TUBES);
    assert_eq!(producer.put("x"), TUBES as u64 + 1);
    assert_eq!(term(&cluster, leader), before, "nobody stood for election");
    eventually("every node has shown its turns", || {
        cluster.nodes.iter().all(|node| node.metric("beaver_raft_longest_turn_items").is_some_and(|items| items > 0.0))
    });
    for node in &cluster.nodes {
        let items = node.metric("beaver_raft_longest_turn_items").expect("it was there");
        assert!(items <= ITEMS_MAX, "node {} took on {items} items in one turn", node.number);
    }
}
