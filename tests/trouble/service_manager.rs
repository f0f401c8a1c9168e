//! A node under a service manager: what it says on NOTIFY_SOCKET, and when.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use beaver_raft::net::refusal::{Refusal, RefusalCode};

use crate::cluster::{Cluster, Node};
use crate::eventually;

/// A start under a service manager, which reads what it is told.
struct Start {
    child: Child,
    manager: UnixDatagram,
    told: String,
}

impl Start {
    fn of(cluster: &Cluster, node: &Node) -> Start {
        let path = cluster.directory.join("notify");
        let manager = UnixDatagram::bind(&path).expect("the path is free and short enough");
        manager.set_nonblocking(true).expect("a flag of the socket");
        let log = std::fs::File::create(node.config.with_extension("log")).expect("the directory is writable");
        let mut command = node.command("run");
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(log);
        Start { child: command.spawn().expect("the binary runs"), manager, told: String::new() }
    }

    fn is_ready(&mut self) -> bool {
        let mut message = [0; 4096];
        while let Ok(bytes) = self.manager.recv(&mut message) {
            self.told.push_str(&String::from_utf8_lossy(&message[..bytes]));
            self.told.push('\n');
        }
        self.told.lines().any(|line| line == "READY=1")
    }

    fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "it goes on; the service manager heard: {}", self.told);
            assert!(!self.is_ready(), "a refused node is ready: {}", self.told);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer that refuses whoever dials it, and takes its time: a node that looks only at itself is
/// ready before that.
fn refuse_all(address: SocketAddr, code: RefusalCode) {
    let listener = TcpListener::bind(address).expect("nobody listens there");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut hello = [0; 512];
            let Ok(1..) = stream.read(&mut hello) else { continue };
            std::thread::sleep(Duration::from_millis(300));
            let refusal = Refusal::new(code, "as a test wants it").encode();
            let _ = stream.write_all(&refusal.chunks.concat());
        }
    });
}

/// A cluster of which only the first node is real; the addresses of its peers.
fn alone(name: &str) -> (Cluster, [SocketAddr; 2]) {
    let cluster = Cluster::prepare(name);
    let peers = [1, 2].map(|n| crate::bad_input::peers(&cluster.nodes[n]));
    (cluster, peers)
}

#[test]
fn a_start_that_all_peers_refuse_fails_and_was_never_ready() {
    let (cluster, peers) = alone("refused-by-all");
    for address in peers {
        refuse_all(address, RefusalCode::Cluster);
    }
    let mut start = Start::of(&cluster, &cluster.nodes[0]);
    assert_eq!(start.end().code(), Some(16));
    assert!(!start.is_ready(), "{}", start.told);
    let log = std::fs::read_to_string(cluster.nodes[0].config.with_extension("log")).expect("it was written");
    let sentence = log.lines().find(|line| line.starts_with("beaver-raft: ")).expect("one clear sentence");
    for peer in [2, 3] {
        assert!(sentence.contains(&format!("node {peer} says: as a test wants it")), "{sentence}");
    }
}

#[test]
fn a_start_with_a_directory_that_was_prepared_anew_fails_and_was_never_ready() {
    let (cluster, peers) = alone("refused-anew");
    refuse_all(peers[0], RefusalCode::Incarnation);
    let mut start = Start::of(&cluster, &cluster.nodes[0]);
    assert_eq!(start.end().code(), Some(16));
    assert!(!start.is_ready(), "{}", start.told);
}

#[test]
fn one_peer_that_refuses_neither_ends_a_start_nor_lets_it_be_ready_before_another_admits_it() {
    let (mut cluster, peers) = alone("refused-by-one");
    refuse_all(peers[0], RefusalCode::Members);
    let mut start = Start::of(&cluster, &cluster.nodes[0]);
    eventually("the refusal is told", || start.is_ready() || start.told.contains("refused by node 2"));
    assert!(!start.is_ready(), "{}", start.told);
    cluster.nodes[2].start();
    eventually("the other peer's admission makes it ready", || start.is_ready());
}

#[test]
fn the_first_node_of_a_cluster_that_starts_cold_is_ready_without_a_leader() {
    let (cluster, _) = alone("cold-start");
    let mut start = Start::of(&cluster, &cluster.nodes[0]);
    eventually("it is ready", || start.is_ready());
    assert!(start.told.contains("STATUS=waiting for a peer to admit this node"), "{}", start.told);
}
