//! A node that is asked to stop while its clients work: exit status 0 in time, each put answered or its connection closed, and
//! nothing acknowledged lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cluster::{BINARY, Cluster, Connection, free_address, fresh_directory, id_of};
use crate::drain;

/// Pipelines puts of these bodies.
fn send_puts(connection: &mut Connection, bodies: &[String]) {
    let puts: String = bodies.iter().map(|body| format!("put 1 0 60 {}\r\n{body}\r\n", body.len())).collect();
    connection.send(&puts);
}

/// What was acknowledged until the connection was closed.
fn answers(connection: &mut Connection, bodies: &[String]) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for body in bodies {
        match connection.line() {
            Some(line) if line == "DRAINING" => {}
            Some(line) => {
                id_of(&line, "INSERTED");
                acknowledged.insert(body.clone());
            }
            None => return acknowledged,
        }
    }
    assert_eq!(connection.line(), None, "a node that ends closes its connections");
    acknowledged
}

/// A blocked reserve was told that its wait is over, or hung up on.
fn is_over(waiting: &mut Connection) -> bool {
    waiting.line().is_none_or(|line| line == "TIMED_OUT")
}

fn bodies(producer: usize) -> Vec<String> {
    (0..300).map(|n| format!("producer {producer} job {n}")).collect()
}

#[test]
fn a_member_stops_in_time_under_load_and_a_restart_finds_everything() {
    for stops_leader in [true, false] {
        let mut cluster = Cluster::start(if stops_leader { "stop-leader" } else { "stop-follower" });
        let leader = cluster.leader();
        let place = if stops_leader { leader } else { cluster.follower() };
        cluster.nodes[place].connect().put("held");
        let mut holder = cluster.nodes[place].connect();
        let (held, _) = holder.reserve(10).expect("a job is ready");
        let mut waiting = cluster.nodes[place].connect();
        assert_eq!(waiting.call("watch never"), "WATCHING 2");
        assert_eq!(waiting.call("ignore default"), "WATCHING 1");
        waiting.send("reserve\r\n");
        let mut producers: Vec<(Connection, Vec<String>)> =
            (0..4).map(|n| (cluster.nodes[place].connect(), bodies(n))).collect();
        for (connection, bodies) in &mut producers {
            send_puts(connection, bodies);
        }
        let begun = Instant::now();
        let ended = cluster.nodes[place].stop();
        assert!(ended.success(), "{ended}: {}", cluster.nodes[place].log());
        // Five seconds is the limit by itself; the machine may be busy.
        assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
        let mut sent = BTreeSet::from(["held".to_owned()]);
        let mut acknowledged = sent.clone();
        for (connection, bodies) in &mut producers {
            acknowledged.extend(answers(connection, bodies));
            sent.extend(bodies.iter().cloned());
        }
        assert!(is_over(&mut waiting));
        assert_eq!(holder.line(), None);

        cluster.nodes[place].start();
        cluster.leader();
        let found = drain(&mut cluster.nodes[place].connect());
        assert!(found.contains("held"), "job {held} was put back when its worker's connection ended");
        assert!(acknowledged.is_subset(&found), "lost: {:?}", acknowledged.difference(&found).collect::<Vec<_>>());
        assert!(found.is_subset(&sent));
    }
}

#[test]
fn a_member_without_a_quorum_stops_in_time_too() {
    let mut cluster = Cluster::prepare_with("stop-alone", "stop_timeout_ms: 2000\n");
    cluster.start_all();
    let (leader, last) = (cluster.leader(), cluster.follower());
    cluster.nodes[last].connect().put("kept");
    for other in (0..3).filter(|&n| n != last) {
        cluster.nodes[other].kill();
    }
    let mut producer = cluster.nodes[last].connect();
    send_puts(&mut producer, &bodies(0));
    let ended = cluster.nodes[last].stop();
    assert!(ended.success(), "{ended}: {}", cluster.nodes[last].log());
    assert_eq!(answers(&mut producer, &bodies(0)).len(), 0, "nobody could have committed one");
    cluster.nodes[leader].start();
    cluster.nodes[last].start();
    cluster.leader();
    assert!(drain(&mut cluster.nodes[last].connect()).contains("kept"));
}

#[test]
fn a_single_node_stops_in_time_under_load_and_a_restart_finds_everything() {
    let directory = fresh_directory("stop-single");
    let address = free_address();
    let start = || {
        std::process::Command::new(BINARY)
            .args(["run", "--listen", &address.to_string(), "--data"])
            .arg(directory.join("data"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the binary runs")
    };
    let mut child = start();
    let mut waiting = Connection::open(address);
    waiting.send("reserve-with-timeout 600\r\n");
    assert!(Connection::open(address).call("use other").starts_with("USING"));
    let mut producer = Connection::open(address);
    assert_eq!(producer.call("use other"), "USING other");
    let bodies = bodies(0);
    send_puts(&mut producer, &bodies);
    // SAFETY: `kill` only takes numbers; the child is not reaped yet, so its id is its own.
    let sent = unsafe { libc::kill(i32::try_from(child.id()).expect("a process id"), libc::SIGTERM) };
    assert_eq!(sent, 0);
    assert!(child.wait().expect("a child can be waited for").success());
    let acknowledged = answers(&mut producer, &bodies);
    assert!(is_over(&mut waiting));

    let mut child = start();
    let mut worker = Connection::open(address);
    assert_eq!(worker.call("watch other"), "WATCHING 2");
    let found = drain(&mut worker);
    child.kill().expect("it runs");
    child.wait().expect("a child can be waited for");
    assert!(acknowledged.is_subset(&found));
    std::fs::remove_dir_all(directory).expect("it is there");
}
