//! Full disks: puts are refused, the rest goes on as long as the log has segments, and everything goes on when there is room.

use std::collections::BTreeSet;

use crate::cluster::{Node, id_of};
use crate::small_disk::SmallCluster;
use crate::{drain, eventually, try_put};

const BODY_BYTES: usize = 60_000;

fn body(n: usize) -> String {
    format!("{n:0>BODY_BYTES$}")
}

/// Puts until there is no more room; what was acknowledged. A put that met the end of the room is in `unknown`: its
/// connection was closed without an answer.
fn put_until_refused(node: &Node, from: usize, unknown: &mut BTreeSet<String>) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let mut connection = node.connect();
    for n in from..from + 2000 {
        match try_put(&mut connection, &body(n)).as_deref() {
            Some("OUT_OF_MEMORY") => return acknowledged,
            Some(reply) => {
                id_of(reply, "INSERTED");
                acknowledged.insert(body(n));
            }
            None => {
                unknown.insert(body(n));
                connection = node.connect();
            }
        }
    }
    panic!("the disks never fill up");
}

#[test]
fn with_all_disks_full_puts_are_refused_and_the_rest_goes_on_until_there_is_room_again() {
    // The room is looked at once a second: the reserve must outlast that long a flood of puts.
    let more = "disk_reserve_bytes: 33554432\nsegment_bytes_min: 1048576\nsegment_bytes_max: 1048576\n";
    let Some(mut small) = SmallCluster::prepare("all-full", 120, more) else { return };
    for disk in &small.disks {
        disk.take(40 << 20);
    }
    small.cluster.start_all();
    let mut acknowledged = put_until_refused(&small.cluster.nodes[0], 0, &mut BTreeSet::new());
    assert!(acknowledged.len() > 20, "only {} fit", acknowledged.len());

    for node in &small.cluster.nodes {
        let mut other = node.connect();
        assert_eq!(try_put(&mut other, "refused").as_deref(), Some("OUT_OF_MEMORY"), "by node {}", node.number);
        assert_eq!(other.call("use elsewhere"), "USING elsewhere", "the connection is in step");
    }
    let mut worker = small.cluster.nodes[1].connect();
    for _ in 0..10 {
        let (id, body) = worker.reserve(10).expect("a job is ready");
        assert_eq!(worker.call(&format!("delete {id}")), "DELETED");
        assert!(acknowledged.remove(&body));
    }
    // A node that is killed comes back on its full disk.
    let follower = small.cluster.follower();
    small.cluster.nodes[follower].kill();
    small.cluster.nodes[follower].start();
    small.cluster.leader();

    for disk in &small.disks[..2] {
        disk.free();
    }
    let mut producer = small.cluster.nodes[0].connect();
    eventually("two nodes with room are enough", || {
        let reply = try_put(&mut producer, "again").expect("a put is answered");
        reply != "OUT_OF_MEMORY" && id_of(&reply, "INSERTED") > 0
    });
    acknowledged.insert("again".to_owned());
    assert_eq!(drain(&mut small.cluster.nodes[2].connect()), acknowledged, "also by the one that has no room yet");
}

#[test]
fn nodes_that_all_died_start_without_one_free_block_and_jobs_are_deleted() {
    let Some(mut small) =
        SmallCluster::prepare("start-full", 64, "segment_bytes_min: 1048576\ndisk_reserve_bytes: 16777216\n")
    else {
        return;
    };
    small.cluster.start_all();
    let mut producer = small.cluster.nodes[0].connect();
    let acknowledged: BTreeSet<String> =
        (0..10).map(|n| format!("job {n}")).inspect(|body| _ = producer.put(body)).collect();
    // The spares are made behind the first puts.
    std::thread::sleep(std::time::Duration::from_secs(2));
    for (node, disk) in small.cluster.nodes.iter_mut().zip(&small.disks) {
        disk.fill();
        node.kill();
        disk.fill();
    }
    small.cluster.start_all();
    small.cluster.leader();
    let mut client = small.cluster.nodes[1].connect();
    assert_eq!(drain(&mut client), acknowledged);
    assert_eq!(try_put(&mut client, "refused").as_deref(), Some("OUT_OF_MEMORY"));
}

#[test]
fn deleting_jobs_makes_room_on_full_disks_and_nothing_else_is_needed() {
    let more = "disk_reserve_bytes: 33554432\nsegment_bytes_min: 1048576\nsegment_bytes_max: 1048576\n";
    let Some(mut small) = SmallCluster::prepare("deleting", 100, more) else { return };
    small.cluster.start_all();
    // One job lives through all of it, in the oldest segment.
    let mut client = small.cluster.nodes[0].connect();
    client.put("buried");
    let (buried, _) = client.reserve(10).expect("it is ready");
    assert_eq!(client.call(&format!("bury {buried} 0")), "BURIED");
    for round in 0..3 {
        let mut unknown = BTreeSet::new();
        let (mut acknowledged, mut next) = (BTreeSet::new(), 1_000_000 * round);
        // Room comes back file by file.
        eventually("room for as many jobs as before", || {
            acknowledged.extend(put_until_refused(&small.cluster.nodes[round], next, &mut unknown));
            next += 2_000;
            acknowledged.len() > 200
        });
        let found = drain(&mut small.cluster.nodes[(round + 1) % 3].connect());
        assert!(acknowledged.is_subset(&found), "{} acknowledged, {} found", acknowledged.len(), found.len());
        let mut producer = small.cluster.nodes[round].connect();
        eventually("there is room again", || {
            let reply = try_put(&mut producer, "again").expect("a put is answered");
            reply != "OUT_OF_MEMORY" && id_of(&reply, "INSERTED") > 0
        });
        assert_eq!(drain(&mut producer), BTreeSet::from(["again".to_owned()]));
    }
    assert_eq!(client.call("kick 1"), "KICKED 1");
    assert_eq!(client.reserve(10).map(|(_, body)| body).as_deref(), Some("buried"));
}

#[test]
fn a_node_without_room_keeps_nobody_waiting_and_catches_up_when_there_is_room() {
    let more = "disk_reserve_bytes: 0\nsegment_bytes_min: 1048576\nsegment_bytes_max: 1048576\n";
    let Some(mut small) = SmallCluster::prepare("one-full", 96, more) else { return };
    small.cluster.start_all();
    let mut acknowledged = BTreeSet::new();
    let mut last = 0;
    // First a follower, then a leader: which hands over, since it can write nothing.
    for round in 0..2 {
        let leader = small.cluster.leader();
        let full = if round == 0 { small.cluster.follower() } else { leader };
        let (node, disk) = (&small.cluster.nodes[full], &small.disks[full]);
        let waits = || node.log().matches("the log waits for room").count();
        let waits_before = waits();
        disk.fill();
        last = full;
        let other = (full + 1) % 3;
        let mut producer = small.cluster.nodes[other].connect();
        for n in 0..120 {
            let body = body(1000 * (round + 1) + n);
            producer.put(&body);
            acknowledged.insert(body);
        }
        eventually("its log waits for room", || waits() > waits_before);
        assert_ne!(small.cluster.leader(), full);
        assert_eq!(try_put(&mut node.connect(), "not here").as_deref(), Some("OUT_OF_MEMORY"));
        assert!(node.ask_admin("/readyz").is_some_and(|answer| answer != "ok\n"));

        disk.free();
        eventually("it catches up", || {
            let durable =
                |n: usize| small.cluster.nodes[n].status().map(|status| status["shards"][0]["durable"].clone());
            durable(full).is_some() && durable(full) == durable(other)
        });
        eventually("it is ready", || node.ask_admin("/readyz").is_some_and(|answer| answer == "ok\n"));
        eventually("it says that it has room", || {
            node.status().is_some_and(|status| status["shards"][0]["room"] == true)
        });
    }
    // The last one that was full is half of what is left: it must have everything.
    let gone = (last + 1) % 3;
    small.cluster.nodes[gone].kill();
    small.cluster.leader();
    assert_eq!(drain(&mut small.cluster.nodes[last].connect()), acknowledged);
}

#[test]
fn with_no_block_left_on_any_disk_nothing_is_promised_and_nothing_is_lost() {
    let more =
        "disk_reserve_bytes: 0\nsegment_bytes_min: 262144\nsegment_bytes_max: 262144\nno_quorum_timeout_ms: 1500\n";
    let Some(mut small) = SmallCluster::prepare("none-left", 48, more) else { return };
    small.cluster.start_all();
    let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    let mut producer = small.cluster.nodes[0].connect();
    for n in 0..50 {
        let body = body(n);
        producer.put(&body);
        acknowledged.insert(body);
    }
    for disk in &small.disks {
        disk.fill();
    }
    acknowledged.extend(put_until_refused(&small.cluster.nodes[0], 50, &mut unknown));
    // Other commands go on as long as the log has segments; then they wait, and in the end their connection is closed.
    let mut client = small.cluster.nodes[1].connect();
    let mut done = 0;
    let answered = |line: Option<String>| line.inspect(|line| assert_eq!(line, "PAUSED")).is_some();
    loop {
        client.send("pause-tube default 0\r\n");
        if !answered(client.line()) {
            break;
        }
        done += 1;
        assert!(done < 5000, "a full disk takes no end of commands");
    }
    // A start needs a few blocks, and there is no spare to be had them from. They are held for it.
    let follower = small.cluster.follower();
    small.cluster.nodes[follower].kill();
    small.disks[follower].fill();
    small.cluster.nodes[follower].start();
    // Killed before, it leaves a file behind whose room the next start can use.
    let recovered = |node: &Node| node.log().matches("log recovered").count();
    eventually("it has started", || recovered(&small.cluster.nodes[follower]) == 2);
    // Without them it is refused, in words.
    small.cluster.nodes[follower].kill();
    let _ = std::fs::remove_file(small.cluster.nodes[follower].data.join("room"));
    small.disks[follower].fill();
    small.cluster.nodes[follower].start();
    let ended = small.cluster.nodes[follower].wait();
    let log = small.cluster.nodes[follower].log();
    assert_eq!(ended.code(), Some(11), "{log}");
    assert!(log.contains("is not writable") && log.contains("No space left on device"), "{log}");

    for disk in &small.disks {
        disk.free();
    }
    small.cluster.nodes[follower].start();
    small.cluster.leader();
    let node = &small.cluster.nodes[follower];
    eventually("puts work again", || match try_put(&mut node.connect(), "again").as_deref() {
        Some(reply) => reply.starts_with("INSERTED"),
        None => panic!("a cluster with room answers"),
    });
    acknowledged.insert("again".to_owned());
    let found = drain(&mut small.cluster.nodes[(follower + 1) % 3].connect());
    assert!(acknowledged.is_subset(&found), "{} acknowledged, {} found", acknowledged.len(), found.len());
    unknown.extend(acknowledged);
    assert!(found.is_subset(&unknown));
}
