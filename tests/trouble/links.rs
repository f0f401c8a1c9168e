//! What the log says of links and leaders: each thing once, with who, where and what to do.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use crate::cluster::{CLUSTER_ID, Cluster, Node};
use crate::eventually;

fn lines_with(node: &Node, what: &str) -> Vec<String> {
    node.log().lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
}

fn says(node: &Node, what: &str) {
    eventually(&format!("node {} says: {what}", node.number), || !lines_with(node, what).is_empty());
}

#[test]
fn b5_garbage_at_the_peer_port_is_a_handful_of_lines_with_its_sender_and_its_count() {
    const INPUTS: usize = 2000;
    let mut cluster = Cluster::prepare("strangers");
    cluster.nodes[0].start();
    let node = &cluster.nodes[0];
    let peers = crate::bad_input::peers(node);
    says(node, "listening for clients at");
    for _ in 0..INPUTS {
        let mut stream = TcpStream::connect(peers).expect("it listens");
        // It may be shut out before it has said everything.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: somewhere\r\n\r\n");
        let _ = stream.shutdown(Shutdown::Write);
    }
    eventually("all are dropped", || crate::bad_input::counter(node, "bad_frames") == INPUTS as u64);
    assert!(cluster.nodes[0].stop().success());
    let lines = lines_with(&cluster.nodes[0], "dropped a connection that is not of a peer");
    assert_eq!(lines.len(), 11, "ten, and what became of the rest: {lines:?}");
    assert!(lines.iter().all(|line| line.contains("from=127.0.0.1")), "{lines:?}");
    let rest = format!("{} more lines about from=127.0.0.1 within a minute", INPUTS - 10);
    assert!(lines[10].contains(&rest), "{lines:?}");
}

#[test]
fn c2_a_peer_that_cannot_be_reached_is_named_with_its_address_and_why_once() {
    let mut cluster = Cluster::prepare_sharded("unreachable", 2, 4, "");
    let config = &cluster.nodes[0].config;
    let text = std::fs::read_to_string(config).expect("it was written");
    let second = crate::bad_input::peers(&cluster.nodes[1]);
    let elsewhere = text.replace(&format!("2: {second}"), "2: nosuch.invalid:24122");
    assert_ne!(text, elsewhere);
    std::fs::write(config, elsewhere).expect("it can be written");
    cluster.nodes[0].start();
    let node = &cluster.nodes[0];
    says(node, "cannot reach node 2 at nosuch.invalid:24122: ");
    says(node, "this node has no contact with a majority, it is connected to none of the others, and not to node 2");
    let lines = lines_with(node, "cannot reach node 2");
    assert_eq!(lines.len(), 1, "of four shards, and after several attempts: {lines:?}");
    // Without a name server nothing is known of any name.
    assert!(lines[0].contains("name not known") || lines[0].contains("its name cannot be looked up"), "{lines:?}");
    assert!(lines[0].contains("; trying again"), "{lines:?}");
}

#[test]
fn c2_a_member_of_another_cluster_is_one_line_that_says_so() {
    let mut cluster = Cluster::lay_out("mixed", 3, 1, "");
    let stray = &cluster.nodes[2].config;
    let text = std::fs::read_to_string(stray).expect("it was written");
    std::fs::write(stray, text.replace(CLUSTER_ID, &"9".repeat(32))).expect("it can be written");
    for node in &mut cluster.nodes {
        node.init();
        node.start();
    }
    assert_eq!(cluster.nodes[2].wait().code(), Some(16));
    for node in &cluster.nodes[..2] {
        let lines = lines_with(node, "belongs to cluster 9999");
        let of_incoming = lines.iter().filter(|line| line.contains("refused node 3 at 127.0.0.1: ")).count();
        assert_eq!(of_incoming, 1, "{lines:?}");
        assert!(lines.len() <= 2, "and one of what was dialled: {lines:?}");
        assert!(lines.iter().all(|line| line.contains("check `members`")), "{lines:?}");
    }
}

#[test]
fn c3_leaders_a_lost_majority_and_its_return_are_said_at_info() {
    let mut cluster = Cluster::start("leaders");
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|&place| place != leader).collect();
    let number = cluster.nodes[leader].number;
    says(&cluster.nodes[leader], "this node leads in term");
    for node in &cluster.nodes {
        says(node, &format!("serving clients at {}", node.clients));
        says(node, &format!("listening for clients at {}, for peers at 127.0.0.1:", node.clients));
    }
    for &place in &others {
        says(&cluster.nodes[place], &format!("node {number} leads in term"));
    }
    for &place in &others {
        cluster.nodes[place].kill();
    }
    says(&cluster.nodes[leader], "this node has no contact with a majority");
    for &place in &others {
        let lost = format!("cannot reach node {} at ", cluster.nodes[place].number);
        says(&cluster.nodes[leader], &lost);
    }
    for &place in &others {
        cluster.nodes[place].start();
    }
    cluster.leader();
    for &place in &others {
        let node = &cluster.nodes[place];
        says(
            &cluster.nodes[leader],
            &format!("connected to node {} at {} again, after", node.number, crate::bad_input::peers(node)),
        );
    }
    eventually("a leader is named again", || {
        let log = cluster.nodes[leader].log();
        let (_, since) = log.split_once("this node has no contact with a majority").expect("it was said");
        since.contains("leads in term")
    });
    assert_eq!(lines_with(&cluster.nodes[leader], "serving clients at").len(), 1, "said once");
}
