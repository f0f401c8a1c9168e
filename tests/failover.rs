//! Three real processes on loopback, killed, stopped and restarted under their clients.

#[allow(dead_code, reason = "shared with other tests of processes")]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::{BINARY, Cluster, Connection, free_address, fresh_directory, id_of};

/// Takes and deletes every job, through one node; how often each body came.
fn drain(connection: &mut Connection) -> BTreeMap<String, usize> {
    let mut bodies = BTreeMap::new();
    while let Some((id, body)) = connection.reserve(0) {
        assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
        *bodies.entry(body).or_insert(0) += 1;
    }
    bodies
}

#[test]
fn a_job_put_through_one_node_is_reserved_through_another() {
    let cluster = Cluster::start("across");
    let id = cluster.nodes[0].connect().put("over there");
    let mut worker = cluster.nodes[1].connect();
    assert_eq!(worker.reserve(10), Some((id, "over there".to_owned())));
    assert_eq!(worker.call(&format!("delete {id}")), "DELETED");
    assert_eq!(cluster.nodes[2].connect().call(&format!("delete {id}")), "NOT_FOUND");
}

#[test]
fn puts_in_flight_when_the_leader_is_killed_are_each_answered_and_each_job_exists_once() {
    let mut cluster = Cluster::start("in-flight");
    let leader = cluster.leader();
    let survivor = cluster.follower();
    for round in 0..3 {
        let mut producer = cluster.nodes[survivor].connect();
        assert_eq!(producer.call(&format!("use round{round}")), format!("USING round{round}"));
        let bodies: Vec<String> = (0..256).map(|n| format!("round {round} job {n}")).collect();
        let puts: String = bodies.iter().map(|body| format!("put 1 0 60 {}\r\n{body}\r\n", body.len())).collect();
        producer.send(&puts);
        // The first answer shows that they are under way; the rest is in flight when the leader dies.
        let first = producer.line().expect("an answer");
        let leader = if round == 0 { leader } else { cluster.leader() };
        let dies = leader != survivor;
        if dies {
            cluster.nodes[leader].kill();
        }
        let mut ids = BTreeSet::from([id_of(&first, "INSERTED")]);
        for _ in 1..bodies.len() {
            ids.insert(id_of(&producer.line().expect("each put is answered"), "INSERTED"));
        }
        assert_eq!(ids.len(), bodies.len(), "ids are unique");
        let mut worker = cluster.nodes[survivor].connect();
        worker.call(&format!("watch round{round}"));
        let found = drain(&mut worker);
        assert_eq!(found.len(), bodies.len(), "every job exists");
        assert!(found.values().all(|&times| times == 1), "and exists once: {found:?}");
        if dies {
            cluster.nodes[leader].start();
            cluster.leader();
        }
    }
}

#[test]
fn a_worker_that_waits_at_a_survivor_gets_its_job_after_the_leader_is_killed() {
    let mut cluster = Cluster::start("waiting");
    let (leader, survivor) = (cluster.leader(), cluster.follower());
    let mut worker = cluster.nodes[survivor].connect();
    worker.send("reserve\r\n");
    // A round trip behind it on another connection: the wait is registered by now, or will be at the next leader.
    cluster.nodes[survivor].connect().call("list-tubes");
    cluster.nodes[leader].kill();
    let id = cluster.nodes[survivor].connect().put("at last");
    assert_eq!(id_of(&worker.line().expect("a job"), "RESERVED"), id);
    assert_eq!(worker.line().as_deref(), Some("at last"));
}

#[test]
fn everything_acknowledged_is_there_after_all_three_were_killed() {
    let mut cluster = Cluster::start("all-killed");
    let mut producer = cluster.nodes[0].connect();
    let bodies: BTreeSet<String> = (0..200).map(|n| format!("job {n}")).collect();
    for body in &bodies {
        producer.put(body);
    }
    let mut worker = cluster.nodes[1].connect();
    let (held, held_body) = worker.reserve(5).expect("a job is ready");
    let (gone, gone_body) = worker.reserve(5).expect("a job is ready");
    assert_eq!(worker.call(&format!("delete {gone}")), "DELETED");
    for node in &mut cluster.nodes {
        node.kill();
    }
    cluster.start_all();
    let found = drain(&mut cluster.nodes[2].connect());
    assert!(!found.contains_key(&gone_body), "a deleted job stays deleted");
    assert!(found.contains_key(&held_body), "job {held} was released when its node came back");
    assert_eq!(found.len(), bodies.len() - 1);
    assert!(found.values().all(|&times| times == 1));
}

#[test]
fn a_node_that_is_asked_to_stop_hands_over_and_ends_cleanly() {
    let mut cluster = Cluster::start("stop");
    let leader = cluster.leader();
    cluster.nodes[leader].connect().put("before");
    assert!(cluster.nodes[leader].stop().success(), "{}", cluster.nodes[leader].log());
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert_eq!(cluster.nodes[next].connect().reserve(5).map(|(_, body)| body).as_deref(), Some("before"));
}

#[test]
fn a_node_whose_directory_was_prepared_anew_is_refused_by_its_peers_and_stops() {
    let mut cluster = Cluster::start("wiped");
    let follower = cluster.follower();
    cluster.nodes[follower].connect().put("kept");
    cluster.nodes[follower].kill();
    std::fs::remove_dir_all(&cluster.nodes[follower].data).expect("it is there");
    cluster.nodes[follower].init();
    cluster.nodes[follower].start();
    let other = (follower + 1) % 3;
    assert_eq!(cluster.nodes[follower].wait().code(), Some(16), "{}", cluster.nodes[follower].log());
    let number = cluster.nodes[follower].number;
    let sentence = format!(
        "beaver-raft: peers refuse this node: node {number} lost its disk: its directory was prepared anew and is not the one \
         its peers know; start it on its former directory, or replace this member"
    );
    let log = cluster.nodes[follower].log();
    assert_eq!(log.lines().filter(|line| *line == sentence).count(), 1, "{log}");
    // The two others are a majority and go on.
    assert_eq!(cluster.nodes[other].connect().reserve(10).map(|(_, body)| body).as_deref(), Some("kept"));
}

#[test]
fn a_node_that_a_service_manager_started_says_when_it_is_ready() {
    let directory = fresh_directory("readiness");
    // A path of a socket is short; the directory of the build may not be.
    let socket = std::env::temp_dir().join(format!("beaver-raft-ready-{}", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let manager = UnixDatagram::bind(&socket).expect("a socket can be bound");
    manager.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    let address = free_address();
    let mut node = Command::new(BINARY)
        .args(["run", "--data"])
        .arg(directory.join("data"))
        .args(["--listen", &address.to_string()])
        .env("NOTIFY_SOCKET", &socket)
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    // What it waits for may come before.
    let mut words = [0; 256];
    let told = loop {
        match manager.recv(&mut words) {
            Ok(length) if !words[..length].starts_with(b"READY=1") => {}
            told => break told,
        }
    };
    let inserted = told.is_ok().then(|| Connection::open(address).put("at once"));
    let _ = node.kill();
    node.wait().expect("a killed child ends");
    let _ = std::fs::remove_file(&socket);
    told.expect("the node says that it is ready");
    assert_eq!(inserted, Some(1));
}
