//! All three nodes are killed with a backlog on their disks, and start again: every job is there, once. How long it takes until the
//! first is reserved is printed, never asserted.
//!
//! `AGED_JOBS=1000000 cargo test --release --test aged start_again -- --nocapture` is the full scale.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::cluster::{Cluster, Connection, Node, id_of};
use crate::{eventually, shown};

/// Of one connection's puts on their way.
const AT_ONCE: usize = 500;
const WORKERS: usize = 64;

fn jobs() -> usize {
    std::env::var("AGED_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(10_000)
}

/// Puts bodies that say their numbers.
fn put(connection: &mut Connection, numbers: std::ops::Range<usize>) {
    for first in numbers.clone().step_by(AT_ONCE) {
        let end = numbers.end.min(first + AT_ONCE);
        let puts: String = (first..end).map(|number| format!("put 100 0 60 {}\r\n{number:032}\r\n", 32)).collect();
        connection.send(&puts);
        (first..end).for_each(|_| _ = id_of(&connection.line().expect("an answer"), "INSERTED"));
    }
}

/// Takes and deletes every job over many connections, whose commands share commits; their numbers.
fn drain(node: &Node) -> Vec<usize> {
    let worker = || {
        let mut connection = node.connect();
        let mut seen = Vec::new();
        while let Some((id, body)) = connection.reserve(0) {
            assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
            seen.push(body.parse().expect("a number"));
        }
        seen
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("it ends")).collect()
    })
}

#[test]
fn three_nodes_that_were_killed_with_a_backlog_start_again_with_every_job() {
    let jobs = jobs();
    // Several markers, whatever the scale.
    let every = (jobs * 100 / 4).max(262_144);
    let segment = (every / 4).next_multiple_of(4096).clamp(65_536, 64 << 20);
    let kept = format!("segment_bytes_min: 65536\nsegment_bytes_max: {segment}\nsnapshot_every_bytes: {every}\n");
    let mut cluster = Cluster::prepare_with("backlog", &kept);
    cluster.start_all();
    let leader = cluster.leader();
    put(&mut cluster.nodes[leader].connect(), 0..jobs);
    for node in &cluster.nodes {
        eventually("a floor", || shown(node, "floor") > 0 && shown(node, "snapshot_index") > 0);
    }
    cluster.nodes.iter_mut().for_each(|node| node.kill());

    let begun = Instant::now();
    cluster.nodes.iter_mut().for_each(|node| node.start());
    let mut seen = BTreeSet::new();
    let mut connection = loop {
        // A node that starts takes connections before it serves, and may break off what came before.
        let mut connection = cluster.nodes[leader].connect();
        connection.send("reserve-with-timeout 20\r\n");
        if let Some(line) = connection.line() {
            let id = id_of(&line, "RESERVED");
            println!("{jobs} jobs, three nodes: the first is reserved after {} ms", begun.elapsed().as_millis());
            seen.insert(connection.line().and_then(|body| body.parse().ok()).expect("a number"));
            assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
            break connection;
        }
    };
    for node in &cluster.nodes {
        println!(
            "node {}: {}",
            node.number,
            node.log().lines().rfind(|line| line.contains("recovered in")).unwrap_or("")
        );
    }
    let rest = drain(&cluster.nodes[leader]);
    assert_eq!(rest.len() + 1, jobs, "jobs are lost, or come twice");
    seen.extend(rest);
    assert!(seen.iter().copied().eq(0..jobs));
    assert_eq!(connection.call("reserve-with-timeout 0"), "TIMED_OUT");
    let none_is_left = || {
        let status = cluster.nodes[leader].status().unwrap_or_default();
        ["ready", "reserved", "delayed", "buried"].iter().all(|state| status["shards"][0]["jobs"][state] == 0)
    };
    eventually("empty counts", none_is_left);
}
