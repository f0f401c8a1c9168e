//! Without a quorum commands wait for the configured time; then puts that no leader saw are sent elsewhere, everybody else is
//! hung up on. Nothing is answered that is not committed.

use crate::cluster::{Cluster, id_of};
use crate::{drain, eventually};

fn start(name: &str, timeout_ms: u32) -> Cluster {
    let mut cluster = Cluster::prepare_with(name, &format!("no_quorum_timeout_ms: {timeout_ms}\n"));
    cluster.start_all();
    cluster
}

fn knows_no_leader(cluster: &Cluster, place: usize) -> bool {
    cluster.nodes[place].status().is_some_and(|status| status["shards"][0]["leader"].is_null())
}

#[test]
fn a_put_that_no_leader_saw_is_sent_elsewhere_and_everybody_else_is_hung_up_on() {
    let mut cluster = start("no-quorum", 1500);
    let survivor = cluster.follower();
    cluster.nodes[survivor].connect().put("kept");
    let mut waiting = cluster.nodes[survivor].connect();
    assert_eq!(waiting.call("watch empty"), "WATCHING 2");
    assert_eq!(waiting.call("ignore default"), "WATCHING 1");
    waiting.send("reserve\r\n");
    for other in (0..3).filter(|&n| n != survivor) {
        cluster.nodes[other].kill();
    }
    eventually("no leader is known", || knows_no_leader(&cluster, survivor));
    let mut producer = cluster.nodes[survivor].connect();
    let mut reader = cluster.nodes[survivor].connect();
    let mut late = cluster.nodes[survivor].connect();
    producer.send("put 1 0 60 4\r\nlost\r\n");
    reader.send("peek-ready\r\n");
    late.send("reserve-with-timeout 60\r\n");
    let mut impatient: Vec<_> = (0..2).map(|_| cluster.nodes[survivor].connect()).collect();
    impatient[0].send("reserve-with-timeout 0\r\n");
    impatient[1].send("reserve-with-timeout 1\r\n");
    assert_eq!(producer.line().as_deref(), Some("DRAINING"));
    assert_eq!(reader.line(), None);
    assert_eq!(late.line(), None);
    for worker in &mut impatient {
        assert_eq!(worker.line(), None, "nobody could be asked for a job, so nobody may say that there is none");
    }
    assert_eq!(waiting.line(), None, "a blocked reserve is closed");

    for other in (0..3).filter(|&n| n != survivor) {
        cluster.nodes[other].start();
    }
    cluster.leader();
    assert_eq!(drain(&mut cluster.nodes[survivor].connect()), ["kept".to_owned()].into());
}

#[test]
fn a_put_that_a_leader_saw_is_not_answered_before_it_is_committed() {
    let mut cluster = start("uncommitted", 1500);
    let leader = cluster.leader();
    let mut producer = cluster.nodes[leader].connect();
    producer.put("first");
    for other in (0..3).filter(|&n| n != leader) {
        cluster.nodes[other].pause();
    }
    producer.send("put 1 0 60 6\r\nsecond\r\nput 1 0 60 5\r\nthird\r\n");
    assert_eq!(producer.line(), None, "nobody may say what became of them");
    for other in (0..3).filter(|&n| n != leader) {
        cluster.nodes[other].signal(libc::SIGCONT);
    }
    cluster.leader();
    let found = drain(&mut cluster.nodes[leader].connect());
    assert!(found.contains("first"));
    assert!(found.len() <= 3, "each at most once: {found:?}");
    assert!(cluster.nodes[leader].stop().success());
}

#[test]
fn a_quorum_that_returns_in_time_answers_everything() {
    let mut cluster = start("returns", 60_000);
    let survivor = cluster.follower();
    let mut worker = cluster.nodes[survivor].connect();
    assert_eq!(worker.call("watch later"), "WATCHING 2");
    worker.send("reserve\r\n");
    let mut impatient = cluster.nodes[survivor].connect();
    assert_eq!(impatient.call("watch own"), "WATCHING 2");
    assert_eq!(impatient.call("ignore default"), "WATCHING 1");
    assert_eq!(impatient.call("use own"), "USING own");
    let own = impatient.put("own");
    for other in (0..3).filter(|&n| n != survivor) {
        cluster.nodes[other].kill();
    }
    eventually("no leader is known", || knows_no_leader(&cluster, survivor));
    // Its time ends while there is nobody to ask.
    impatient.send("reserve-with-timeout 1\r\n");
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    let mut producer = cluster.nodes[survivor].connect();
    producer.send("use later\r\n");
    for n in 0..50 {
        let body = format!("job {n}");
        producer.send(&format!("put 1 0 60 {}\r\n{body}\r\n", body.len()));
    }
    let mut reader = cluster.nodes[survivor].connect();
    reader.send("list-tubes\r\n");
    for other in (0..3).filter(|&n| n != survivor) {
        cluster.nodes[other].start();
    }
    assert_eq!(producer.line().as_deref(), Some("USING later"));
    let first = id_of(&producer.line().expect("an answer"), "INSERTED");
    for _ in 1..50 {
        id_of(&producer.line().expect("each put is answered"), "INSERTED");
    }
    assert_eq!(id_of(&worker.line().expect("a job"), "RESERVED"), first);
    assert_eq!(worker.line().as_deref(), Some("job 0"));
    assert!(reader.line().is_some_and(|line| line.starts_with("OK ")));
    assert_eq!(drain(&mut worker).len(), 49);
    assert_eq!(id_of(&impatient.line().expect("a job, for it was there"), "RESERVED"), own);
}
