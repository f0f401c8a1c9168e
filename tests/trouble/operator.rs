//! What an operator asks of running nodes with the program itself: their status, and to drain.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use crate::cluster::{BINARY, Cluster, Connection, Node, free_address, fresh_directory};
use crate::{bad_input, eventually, try_put};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code_of(node: &Node, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(node.admin).expect("the admin port listens");
    stream.write_all(format!("{method} {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer.split(' ').nth(1).expect("a status").to_owned()
}

#[test]
fn a_port_that_is_given_for_another_is_named() {
    let cluster = Cluster::start("wrong-ports");
    let node = &cluster.nodes[0];
    let peers = bad_input::peers(node);
    let status = |address: String| text(&output(&mut program(&["status", "--admin", &address])).stdout);
    let says = status(node.clients.to_string());
    assert!(says.contains(&format!("{} is not an admin port (is it the client port?)", node.clients)), "{says}");
    let says = status(peers.to_string());
    assert!(says.contains("it is not an admin port (is it the peer port?)"), "{says}");

    let jobs = cluster.directory.join("jobs.json");
    std::fs::write(&jobs, "{\"body\":\"a\"}\n").expect("the directory is writable");
    let jobs = jobs.display().to_string();
    let enqueue = |address: String| {
        let ended = output(&mut program(&["enqueue", "--file", &jobs, "--server", &address]));
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        text(&ended.stderr)
    };
    let says = enqueue(node.admin.to_string());
    assert!(says.contains("is it the admin port?"), "{says}");
    let says = enqueue(peers.to_string());
    assert!(says.contains("is it the peer port?"), "{says}");
}

#[test]
fn the_configuration_of_a_member_that_is_down_finds_the_others() {
    let mut cluster = Cluster::lay_out("down-member", 3, 1, "");
    same_distance(&mut cluster);
    cluster.nodes.iter().for_each(Node::init);
    cluster.start_all();
    let shown = |cluster: &Cluster| {
        let ended = output(&mut cluster.nodes[0].command("status"));
        (ended.status.code(), text(&ended.stdout))
    };
    eventually("all three are well", || shown(&cluster).0 == Some(0));
    let (_, says) = shown(&cluster);
    assert!(says.starts_with("cluster test: 3 of 3 members answer, 3 well\n"), "{says}");
    assert!(says.contains(&cluster.nodes[0].data.display().to_string()), "{says}");

    cluster.nodes[0].kill();
    let (status, says) = shown(&cluster);
    assert_eq!(status, Some(1));
    assert!(says.starts_with("cluster test: 2 of 3 members answer, "), "{says}");
    assert!(says.contains("no answer: nothing listens at"), "{says}");
}

/// Admin ports as far from the peer ports on every node, which is how a configuration finds the
/// others'.
fn same_distance(cluster: &mut Cluster) {
    let distance = 997;
    for node in &mut cluster.nodes {
        let mut admin = bad_input::peers(node);
        admin.set_port(admin.port() + distance);
        let text = std::fs::read_to_string(&node.config).expect("it was written");
        let text = text.replace(&format!("admin: {}", node.admin), &format!("admin: {admin}"));
        std::fs::write(&node.config, text).expect("the directory is writable");
        node.admin = admin;
    }
}

#[test]
fn a_single_node_without_an_admin_port_is_asked_by_its_directory() {
    let directory = fresh_directory("no-admin-port");
    let data = directory.join("data").display().to_string();
    let ended = output(&mut program(&["status", "--data", &data]));
    assert_eq!(ended.status.code(), Some(1));
    let says = text(&ended.stdout);
    assert!(says.contains("no node runs in "), "{says}");

    let address = free_address();
    let mut command = program(&["run", "--listen", &address.to_string(), "--data", &data]);
    let mut node = command.stderr(Stdio::null()).spawn().expect("the binary runs");
    Connection::open(address).put("a job");
    eventually("it shows itself with its job", || {
        let ended = output(&mut program(&["status", "--data", &data]));
        ended.status.code() == Some(0) && text(&ended.stdout).contains("  ready 1, ")
    });
    node.kill().expect("it runs");
    node.wait().expect("a child can be waited for");
    std::fs::remove_dir_all(directory).expect("it is there");
}

#[test]
fn a_node_drains_and_takes_jobs_again_by_a_command_and_by_no_request_at_its_port() {
    let cluster = Cluster::start("drain");
    let node = &cluster.nodes[0];
    let data = node.data.display().to_string();
    let mut client = node.connect();
    eventually("it takes jobs", || code_of(node, "GET", "/readyz") == "200");
    assert_ne!(code_of(node, "POST", "/drain"), "200");
    client.put("before");

    let ended = output(&mut program(&["drain", "--data", &data]));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(text(&ended.stdout), "node 1 of cluster test drains: puts are refused, everything else goes on\n");
    assert_eq!(try_put(&mut client, "meanwhile").as_deref(), Some("DRAINING"));
    let (_, body) = client.reserve(5).expect("what is in the queue is worked on");
    assert_eq!(body, "before");
    assert_eq!(code_of(node, "GET", "/readyz"), "503");
    assert_eq!(code_of(node, "GET", "/healthz"), "200");
    let shown = text(&output(&mut program(&["status", "--data", &data])).stdout);
    assert!(shown.contains("draining: puts are refused"), "{shown}");
    cluster.nodes[1].connect().put("at another node");

    assert_ne!(code_of(node, "POST", "/undrain"), "200");
    let ended = output(node.command("undrain").stdin(Stdio::null()));
    assert_eq!(text(&ended.stdout), "node 1 of cluster test takes new jobs\n");
    client.put("after");
    eventually("it is ready", || code_of(node, "GET", "/readyz") == "200");
    let ended = output(&mut program(&["undrain", "--data", &data]));
    assert_eq!(text(&ended.stdout), "node 1 of cluster test takes new jobs already\n");

    // The signal begins what the command ends.
    node.signal(libc::SIGUSR1);
    eventually("it drains", || code_of(node, "GET", "/readyz") == "503");
    assert!(output(&mut program(&["undrain", "--data", &data])).status.success());
    client.put("after the signal");
}

/// No disk has room for such a reserve.
#[test]
fn a_disk_without_room_is_told_in_bytes() {
    let directory = fresh_directory("no-room");
    let data = directory.join("data").display().to_string();
    let address = free_address();
    let log = directory.join("log");
    let mut command = program(&["run", "--listen", &address.to_string(), "--data", &data]);
    command.args(["--disk-reserve-bytes", "1099511627776"]);
    command.stderr(std::fs::File::create(&log).expect("the directory is writable"));
    let mut node = command.spawn().expect("the binary runs");
    let told = "are needed to take new jobs (disk_reserve_bytes is 1099511627776)";
    eventually("a full disk is told, and the node is ready all the same", || {
        let ended = output(&mut program(&["status", "--data", &data]));
        ended.status.code() == Some(0)
            && text(&ended.stdout).contains(&format!(" bytes are free, 1099511627777 {told}"))
    });
    let log = std::fs::read_to_string(&log).expect("it was made");
    assert!(log.contains(&format!("the disk of {data} is full: ")) && log.contains(told), "{log}");
    assert_eq!(try_put(&mut Connection::open(address), "a job").as_deref(), Some("OUT_OF_MEMORY"));
    node.kill().expect("it runs");
    node.wait().expect("a child can be waited for");
    std::fs::remove_dir_all(directory).expect("it is there");
}
