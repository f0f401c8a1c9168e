//! Garbage at every port: refused in the words of the protocol, or dropped with one log line and a counter; the node works on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::cluster::{CLUSTER_ID, Cluster, Node};
use crate::{drain, eventually};

/// Sends these bytes and reads until the other side closes; what it said.
fn throw_at(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a TCP stream");
    // It may be closed before everything is sent.
    let _ = stream.write_all(bytes);
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => said,
    }
}

/// Where a node's peers reach it, as its configuration says.
pub fn peers(node: &Node) -> SocketAddr {
    let config = std::fs::read_to_string(&node.config).expect("it was written");
    let address = config.lines().find_map(|line| line.strip_prefix("peers: ")).expect("a member has peers");
    address.parse().expect("an address")
}

pub fn counter(node: &Node, name: &str) -> u64 {
    gauge(node, &format!("{name}_total"))
}

fn gauge(node: &Node, name: &str) -> u64 {
    let metrics = node.ask_admin("/metrics").expect("the admin port answers");
    let line = metrics.lines().find(|line| line.starts_with(&format!("beaver_raft_{name}")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// A frame header as it should be, for a payload of this length.
fn frame_header(kind: u8, payload_bytes: u32) -> Vec<u8> {
    let mut header = b"BvRf".to_vec();
    header.extend([1, kind, 0, 0]);
    header.extend(payload_bytes.to_le_bytes());
    header.extend(crc32c::crc32c(b"").to_le_bytes());
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    header
}

#[test]
fn what_is_no_frame_of_a_peer_is_dropped_with_one_line_and_a_counter() {
    let cluster = Cluster::start("bad-frames");
    let node = &cluster.nodes[cluster.follower()];
    let mut damaged = frame_header(1, 100);
    damaged[9] ^= 1;
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let thrown: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &garbage,
        &damaged,
        &frame_header(1, 1 << 30),
        &frame_header(4, 0),
        &frame_header(1, 0),
    ];
    for (times, bytes) in thrown.into_iter().enumerate() {
        assert_eq!(throw_at(peers(node), bytes), b"", "nothing is said to strangers");
        let lines = || node.log().matches("dropped a connection that is not of a peer").count();
        eventually("it is logged", || lines() == times + 1);
        assert_eq!(counter(node, "bad_frames"), times as u64 + 1, "{}", node.log());
    }
    // One that says nothing, and one that is gone at once, are no news.
    drop(TcpStream::connect(peers(node)).expect("somebody listens"));
    node.connect().put("still here");
    assert_eq!(drain(&mut cluster.nodes[cluster.leader()].connect()).len(), 1);
    assert_eq!(counter(node, "bad_frames"), thrown.len() as u64);
}

#[test]
fn a_member_of_another_cluster_is_refused_with_one_line() {
    let cluster = Cluster::start("ours");
    let mut strangers = Cluster::lay_out("theirs", 3, 1, "");
    let (node, stranger) = (&cluster.nodes[0], &mut strangers.nodes[0]);
    // It believes our node 1 to be its own node 2.
    let theirs = std::fs::read_to_string(&stranger.config).expect("it was written");
    let old = theirs.split("2: ").nth(1).and_then(|rest| rest.split(',').next()).expect("an address");
    let mistaken = theirs.replace(old, &peers(node).to_string()).replace(CLUSTER_ID, &"9".repeat(32));
    std::fs::write(&stranger.config, mistaken).expect("it can be written");
    stranger.init();
    stranger.start();
    eventually("it is refused", || counter(node, "handshakes_refused") > 0);
    let refused = |node: &Node, word: &str| node.log().lines().filter(|line| line.contains(word)).count();
    assert_eq!(refused(node, "refused node 1 at 127.0.0.1: "), 1, "{}", node.log());
    eventually("it is told why", || refused(stranger, "refuses this node: ") == 1);
    assert!(stranger.log().contains("cluster"), "{}", stranger.log());
    node.connect().put("still here");
    assert_eq!(drain(&mut node.connect()).len(), 1);
}

#[test]
fn garbage_commands_get_the_errors_of_the_protocol_and_the_connection_stays_in_step() {
    let cluster = Cluster::start("bad-commands");
    let mut client = cluster.nodes[cluster.follower()].connect();
    let long_name = "x".repeat(201);
    let commands = [
        ("", "UNKNOWN_COMMAND"),
        ("nonsense", "UNKNOWN_COMMAND"),
        ("PUT 1 2 3 4", "UNKNOWN_COMMAND"),
        ("use", "UNKNOWN_COMMAND"),
        ("use -minus", "BAD_FORMAT"),
        (&format!("use {long_name}"), "BAD_FORMAT"),
        ("delete x", "BAD_FORMAT"),
        ("delete 99999999999999999999999", "BAD_FORMAT"),
        (&"y".repeat(5000), "BAD_FORMAT"),
    ];
    for (command, expected) in commands {
        let reply = client.call(command);
        assert_eq!(reply, expected, "{command:.40}");
    }
    let body = "b".repeat(70_000);
    assert_eq!(client.call(&format!("put 1 0 60 70000\r\n{body}")), "JOB_TOO_BIG");
    assert_eq!(client.call("put 1 0 60 3\r\nlonger than three"), "EXPECTED_CRLF");
    let mut client = cluster.nodes[cluster.follower()].connect();
    let id = client.put("in step");
    assert_eq!(client.reserve(5), Some((id, "in step".to_owned())));
    // Bytes of any kind, in one go: whatever is answered, the node works on.
    for seed in 1..20_u32 {
        let garbage: Vec<u8> =
            (0..3000_u32).map(|n| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut stream = TcpStream::connect(cluster.nodes[0].clients).expect("it listens");
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
    }
    assert_eq!(client.call(&format!("delete {id}")), "DELETED");
}

#[test]
fn bodies_that_do_not_arrive_take_no_more_memory_than_is_configured() {
    const BODY_BYTES: usize = 15_000_000;
    let mut cluster = Cluster::prepare_with("bodies", "job_bytes_max: 16777216\nbodies_bytes_max: 33554432\n");
    cluster.start_all();
    let node = &cluster.nodes[cluster.leader()];
    let (mut first, mut second, mut third) = (node.connect(), node.connect(), node.connect());
    let body = "x".repeat(BODY_BYTES);
    let put = format!("put 100 0 60 {BODY_BYTES}\r\n");
    for slow in [&mut first, &mut second] {
        slow.send(&put);
        slow.send(&body[1..]);
    }
    let held = || gauge(node, "body_bytes") > 2 * (BODY_BYTES as u64) - 200_000;
    eventually("two bodies are held", held);
    assert_eq!(third.call(&format!("{put}{body}")), "OUT_OF_MEMORY");
    third.put("a small one");
    eventually("the refusal is counted", || counter(node, "puts_refused_no_memory") == 1);
    drop(second);
    eventually("what the second held is given back", || gauge(node, "body_bytes") < 2 * BODY_BYTES as u64 - 200_000);
    let before = third.put(&body);
    first.send("x\r\n");
    let inserted = crate::cluster::id_of(&first.line().expect("an answer"), "INSERTED");
    assert!(inserted > before, "{inserted} after {before}");
    eventually("nothing is held", || gauge(node, "body_bytes") == 0);
    for job in ["the small one", "the big one", "the slow one"] {
        assert!(third.reserve(5).is_some(), "{job}");
    }
    assert_eq!(third.reserve(0), None);
}
