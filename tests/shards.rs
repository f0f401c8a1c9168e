//! Real processes with three shards on two core threads: what is true of one shard is true of all together.

#[allow(dead_code, reason = "shared with other tests of processes")]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use beaver_raft::api::routing::shard_of_tube;
use cluster::{Cluster, Connection, Node, id_of};

const SHARDS: u16 = 3;

/// Enough for both core threads to get some: the kernel spreads connections by a hash of their addresses.
const CONNECTIONS: usize = 16;

const CORES: &str = "cores: 2\n";

fn single(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare_sharded(name, 1, SHARDS, CORES);
    cluster.start_all();
    cluster
}

fn three(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare_sharded(name, 3, SHARDS, CORES);
    cluster.start_all();
    cluster
}

/// A tube on each shard.
fn tubes() -> Vec<String> {
    (0..SHARDS)
        .map(|shard| {
            let names = (0..).map(|n| format!("tube-{n}"));
            names.into_iter().find(|name| shard_of_tube(name.as_bytes(), SHARDS).0 == shard).expect("one of many")
        })
        .collect()
}

fn put(connection: &mut Connection, tube: &str, body: &str) -> u64 {
    assert_eq!(connection.call(&format!("use {tube}")), format!("USING {tube}"));
    connection.put(body)
}

fn watch_all(connection: &mut Connection) {
    for tube in tubes() {
        connection.call(&format!("watch {tube}"));
    }
}

/// What a command answers that has many lines; its keys and values.
fn table(node: &Node, command: &str) -> BTreeMap<String, String> {
    let text = text(node, command);
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.into(), value.trim_matches('"').into()))
        .collect()
}

fn text(node: &Node, command: &str) -> String {
    let mut stream = TcpStream::connect(node.clients).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a TCP stream");
    stream.write_all(format!("{command}\r\nquit\r\n").as_bytes()).expect("the node reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in time");
    text
}

/// Takes and deletes every job of all tubes; how often each body came.
fn drain(connection: &mut Connection) -> BTreeMap<String, usize> {
    let mut bodies = BTreeMap::new();
    while let Some((id, body)) = connection.reserve(0) {
        assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
        *bodies.entry(body).or_insert(0) += 1;
    }
    bodies
}

#[test]
fn every_connection_reaches_every_shard_and_ids_are_unique_and_tell_the_shard() {
    let cluster = single("every-shard");
    let node = &cluster.nodes[0];
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| node.connect()).collect();
    let mut ids = BTreeSet::new();
    let mut bodies = BTreeSet::new();
    for (n, connection) in connections.iter_mut().enumerate() {
        for (shard, tube) in tubes().iter().enumerate() {
            let body = format!("job of {n} in {tube}");
            let id = put(connection, tube, &body);
            assert_eq!((id - 1) % u64::from(SHARDS), shard as u64, "{id} of {tube}");
            assert!(ids.insert(id), "{id} was given twice");
            bodies.insert(body);
        }
    }
    // Each takes as many as it gave, of whatever shard.
    let mut found = BTreeSet::new();
    for connection in &mut connections {
        watch_all(connection);
        for _ in 0..SHARDS {
            let (id, body) = connection.reserve(10).expect("a job is left");
            assert!(ids.remove(&id), "{id} was reserved twice");
            found.insert(body);
            assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
        }
    }
    assert_eq!(found, bodies);
    assert_eq!(connections[0].reserve(0), None);
}

#[test]
fn a_worker_that_watches_tubes_of_all_shards_waits_on_each() {
    let cluster = single("wait-on-each");
    let node = &cluster.nodes[0];
    let mut producer = node.connect();
    for _ in 0..4 {
        let mut worker = node.connect();
        watch_all(&mut worker);
        for tube in tubes().iter().rev() {
            worker.send("reserve-with-timeout 20\r\n");
            let id = put(&mut producer, tube, tube);
            assert_eq!(id_of(&worker.line().expect("a job"), "RESERVED"), id);
            assert_eq!(worker.line().as_ref(), Some(tube));
            assert_eq!(worker.call(&format!("delete {id}")), "DELETED");
        }
        assert_eq!(worker.call("reserve-with-timeout 1"), "TIMED_OUT");
    }
}

#[test]
fn jobs_put_at_once_on_all_shards_go_to_one_worker_each() {
    let cluster = single("one-each");
    let node = &cluster.nodes[0];
    let mut workers: Vec<Connection> = (0..CONNECTIONS).map(|_| node.connect()).collect();
    for worker in &mut workers {
        watch_all(worker);
        worker.send("reserve\r\n");
    }
    let mut producer = node.connect();
    let mut left: BTreeSet<u64> = BTreeSet::new();
    for n in 0..CONNECTIONS {
        left.insert(put(&mut producer, &tubes()[n % 3], "work"));
    }
    // A worker that was granted two gave one back, and somebody else got it.
    for worker in &mut workers {
        let id = id_of(&worker.line().expect("a job"), "RESERVED");
        assert!(left.remove(&id), "{id} went to two workers");
        assert_eq!(worker.line().as_deref(), Some("work"));
    }
    assert!(left.is_empty());
    assert_eq!(table(node, "stats")["current-jobs-reserved"], CONNECTIONS.to_string());
    // They go, and what they held is ready again.
    drop(workers);
    watch_all(&mut producer);
    for _ in 0..CONNECTIONS {
        assert!(producer.reserve(10).is_some());
    }
}

#[test]
fn commands_by_id_and_by_tube_find_their_shard_and_counts_are_sums() {
    let cluster = single("by-id");
    let node = &cluster.nodes[0];
    // One command on each connection, so that any core thread may be asked for any shard.
    let call = |command: &str| node.connect().call(command);
    let mut worker = node.connect();
    watch_all(&mut worker);
    let mut ids = Vec::new();
    for tube in tubes() {
        for body in ["one", "two"] {
            ids.push(put(&mut node.connect(), &tube, body));
        }
    }
    for _ in &ids {
        let (id, _) = worker.reserve(10).expect("each is ready");
        assert_eq!(worker.call(&format!("touch {id}")), "TOUCHED");
        assert_eq!(worker.call(&format!("bury {id} 5")), "BURIED");
    }
    let stats = table(node, "stats");
    assert_eq!(stats["current-jobs-buried"], "6");
    assert_eq!(stats["total-jobs"], "6");
    assert_eq!(stats["current-tubes"], "4");
    assert_eq!(stats["cmd-put"], "6");
    let listed = text(node, "list-tubes");
    for tube in tubes().iter().map(String::as_str).chain(["default"]) {
        assert_eq!(listed.matches(&format!("- {tube}\n")).count(), 1, "{listed}");
    }
    for (tube, own) in tubes().iter().zip(ids.chunks(2)) {
        assert_eq!(table(node, &format!("stats-tube {tube}"))["current-jobs-buried"], "2");
        let mut kicker = node.connect();
        kicker.call(&format!("use {tube}"));
        assert_eq!(kicker.call("kick 1"), "KICKED 1");
        assert_eq!(call(&format!("kick-job {}", own[1])), "KICKED");
        assert_eq!(table(node, &format!("stats-job {}", own[0]))["tube"], tube.as_str());
        assert!(call(&format!("peek {}", own[0])).starts_with(&format!("FOUND {} ", own[0])));
    }
    assert_eq!(table(node, "stats")["current-jobs-ready"], "6");
    let (id, _) = worker.reserve(10).expect("each was kicked");
    assert_eq!(worker.call(&format!("release {id} 1 3600")), "RELEASED");
    assert_eq!(table(node, "stats")["current-jobs-delayed"], "1");
    assert_eq!(call("delete 999999"), "NOT_FOUND");
    for id in &ids {
        assert_eq!(call(&format!("delete {id}")), "DELETED");
    }
    assert_eq!(table(node, "stats")["current-jobs-ready"], "0");
}

#[test]
fn a_restart_keeps_the_jobs_of_all_shards_and_no_id_is_given_again() {
    let mut cluster = single("restart");
    let mut ids = BTreeSet::new();
    for round in 0..3 {
        for tube in tubes() {
            let mut producer = cluster.nodes[0].connect();
            for n in 0..20 {
                assert!(ids.insert(put(&mut producer, &tube, &format!("{tube} {round} {n}"))));
            }
        }
        let node = &mut cluster.nodes[0];
        if round == 1 {
            node.kill();
        } else {
            assert!(node.stop().success(), "{}", node.log());
        }
        cluster.start_all();
    }
    let mut worker = cluster.nodes[0].connect();
    watch_all(&mut worker);
    let found = drain(&mut worker);
    assert_eq!(found.len(), ids.len());
    assert!(found.values().all(|&times| times == 1), "{found:?}");
}

#[test]
fn a_node_that_stops_answers_what_clients_of_one_core_asked_of_shards_of_another() {
    let mut cluster = single("stop-answers");
    let node = &mut cluster.nodes[0];
    let mut producers: Vec<Connection> = (0..CONNECTIONS).map(|_| node.connect()).collect();
    for (n, producer) in producers.iter_mut().enumerate() {
        producer.call(&format!("use {}", tubes()[n % 3]));
        producer.send(&"put 1 0 60 1\r\nx\r\n".repeat(50));
        // The first answer shows that the rest was read, or will be before the stop is heard.
        id_of(&producer.line().expect("an answer"), "INSERTED");
    }
    let mut waiting = node.connect();
    waiting.call("watch nothing-comes-here");
    waiting.send("reserve\r\n");
    assert!(node.stop().success(), "{}", node.log());
    for producer in &mut producers {
        for _ in 1..50 {
            let line = producer.line().expect("each put is answered");
            assert!(line.starts_with("INSERTED") || line == "DRAINING", "{line}");
        }
        assert_eq!(producer.line(), None);
    }
    assert!(waiting.line().is_none_or(|line| line == "TIMED_OUT"));
}

#[test]
fn a_drain_reaches_the_clients_of_every_core() {
    let mut cluster = single("drain");
    let node = &mut cluster.nodes[0];
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| node.connect()).collect();
    let process: i32 = table(node, "stats")["pid"].parse().expect("a process id");
    // SAFETY: `kill` only takes numbers; the child is not reaped while the cluster holds it.
    assert_eq!(unsafe { libc::kill(process, libc::SIGUSR1) }, 0);
    let begun = Instant::now();
    for connection in &mut connections {
        while connection.call("put 1 0 60 1\r\nx") != "DRAINING" {
            assert!(begun.elapsed() < Duration::from_secs(30), "puts are still taken");
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(node.log().matches("draining").count(), 1, "{}", node.log());
}

#[test]
fn a_node_has_no_more_core_threads_than_shards() {
    let core_threads = |node: &Node| -> Vec<String> {
        let process = table(node, "stats")["pid"].clone();
        let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the node runs");
        let names = threads.map(|thread| fs::read_to_string(thread.expect("an entry").path().join("comm")));
        // Side threads bear the name of the core thread that made them only where they have none of their own.
        let mut names: Vec<String> = names.filter_map(Result::ok).filter(|name| name.starts_with("core-")).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(core_threads(&Cluster::start("one-core").nodes[0]), ["core-0\n"]);
    assert_eq!(core_threads(&single("two-cores").nodes[0]), ["core-0\n", "core-1\n"]);
}

#[test]
fn the_fatal_end_of_one_core_ends_the_node_with_its_status() {
    let mut cluster = single("fatal");
    let node = &mut cluster.nodes[0];
    node.kill();
    // Shard 1 is at home on core 1.
    let vote = cluster.directory.join("data1/shard-1/vote");
    let bytes = fs::metadata(&vote).expect("it is there").len();
    fs::write(&vote, vec![0xA5; usize::try_from(bytes).expect("a small file")]).expect("it can be written");
    node.start();
    assert_eq!(node.wait().code(), Some(31), "{}", node.log());
}

#[test]
fn a_node_waits_a_moment_for_a_port_that_is_being_let_go() {
    for shards in [1, SHARDS] {
        let mut cluster = Cluster::prepare_sharded(&format!("let-go-{shards}"), 1, shards, CORES);
        let held = TcpListener::bind(cluster.nodes[0].clients).expect("it is free");
        cluster.nodes[0].start();
        thread::sleep(Duration::from_millis(200));
        drop(held);
        cluster.leader();
        cluster.nodes[0].connect().put("taken");
    }
}

#[test]
fn core_threads_share_their_port_with_no_other_process() {
    let first = single("port");
    let mut second = Cluster::prepare_sharded("port-second", 1, SHARDS, CORES);
    let node = &mut second.nodes[0];
    let text = fs::read_to_string(&node.config).expect("it was written");
    let taken = first.nodes[0].clients.to_string();
    fs::write(&node.config, text.replace(&node.clients.to_string(), &taken)).expect("it can be written");
    node.start();
    assert_eq!(node.wait().code(), Some(10), "{}", node.log());
}

#[test]
fn three_nodes_serve_all_shards_through_any_of_them_and_through_a_killed_one() {
    let mut cluster = three("any-node");
    let mut bodies = BTreeSet::new();
    for (n, node) in cluster.nodes.iter().enumerate() {
        for round in 0..6 {
            let mut producer = node.connect();
            for tube in tubes() {
                let body = format!("{tube} from {n} in {round}");
                put(&mut producer, &tube, &body);
                bodies.insert(body);
            }
        }
    }
    let mut worker = cluster.nodes[cluster.follower()].connect();
    watch_all(&mut worker);
    let (held, held_body) = worker.reserve(10).expect("a job is ready");
    assert_eq!(worker.call(&format!("delete {held}")), "DELETED");
    bodies.remove(&held_body);

    let killed = cluster.leader();
    cluster.nodes[killed].kill();
    let survivor = (killed + 1) % 3;
    for tube in tubes() {
        let body = format!("{tube} after the kill");
        put(&mut cluster.nodes[survivor].connect(), &tube, &body);
        bodies.insert(body);
    }
    cluster.nodes[killed].start();
    cluster.leader();
    // Through the node that was away: its peers' connections are handed to its threads anew.
    let mut worker = cluster.nodes[killed].connect();
    watch_all(&mut worker);
    let mut found = BTreeMap::new();
    while found.len() < bodies.len() {
        let (id, body) = worker.reserve(20).expect("every job comes");
        assert_eq!(worker.call(&format!("delete {id}")), "DELETED");
        *found.entry(body).or_insert(0) += 1;
    }
    assert!(found.keys().eq(&bodies) && found.values().all(|&times| times == 1), "{found:?}");
    assert_eq!(worker.reserve(0), None);
    for node in &mut cluster.nodes {
        assert!(node.stop().success(), "{}", node.log());
    }
}

#[test]
fn a_cluster_with_shards_agrees_on_a_leader_of_each_and_a_wiped_member_is_refused_and_stops() {
    let mut cluster = three("wiped-shards");
    let begun = Instant::now();
    let has_leaders = |node: &Node| {
        let status = node.status().unwrap_or_default();
        (0..usize::from(SHARDS)).all(|shard| status["shards"][shard]["leader"].is_u64())
    };
    while !cluster.nodes.iter().all(has_leaders) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", cluster.nodes[0].status());
        thread::sleep(Duration::from_millis(50));
    }
    let wiped = cluster.follower();
    cluster.nodes[wiped].kill();
    fs::remove_dir_all(&cluster.nodes[wiped].data).expect("it is there");
    assert!(cluster.nodes[wiped].command("init").status().expect("the binary runs").success());
    cluster.nodes[wiped].start();
    let other = (wiped + 1) % 3;
    // Whichever of its threads hears it first, all of them end.
    assert_eq!(cluster.nodes[wiped].wait().code(), Some(16), "{}", cluster.nodes[wiped].log());
    assert!(cluster.nodes[wiped].log().contains("lost its disk"), "{}", cluster.nodes[wiped].log());
    for tube in tubes() {
        put(&mut cluster.nodes[other].connect(), &tube, "goes on");
    }
}
