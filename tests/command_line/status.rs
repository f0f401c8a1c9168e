//! `status`: the members' own admin ports, asked by the program.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use beaver_raft::config::{Address, Draft};
use beaver_raft::metrics::Metrics;
use beaver_raft::node::admin::Admin;
use beaver_raft::node::draining::Draining;
use beaver_raft::status::{Board, RoleName, ShardStatus};

use crate::{BINARY, beaver_raft as program, run};

/// An admin port of a node whose peers are out of reach, or of one that stands alone.
fn admin(members: &str) -> Running {
    admin_as("orders", 1, members)
}

fn admin_as(cluster: &str, node: u8, members: &str) -> Running {
    let yaml =
        format!("{{cluster: {cluster}, node: {node}, data: d, clients: 'a:1', admin: 'a:9', members: {members}}}");
    let config = Draft::from_yaml(&yaml, Path::new("test")).expect("parses").validate().expect("valid");
    let metrics = Arc::new(Metrics::new());
    let board = Arc::new(Board::new(&config, &metrics));
    board.publish(ShardStatus {
        role: RoleName::Leader,
        leader: Some(1),
        term: 3,
        committed: 17,
        caught_up: true,
        room: true,
        cluster_room: true,
        ..ShardStatus::default()
    });
    let any = Address::parse("127.0.0.1:0").expect("well-formed");
    let data = tempfile::tempdir().expect("a directory");
    let admin = Admin::start(Some(&any), data.path(), board, Draining { door: Arc::default(), metrics })
        .expect("loopback is there");
    let address = admin.local_address().expect("it listens on TCP").to_owned();
    Running { data, address, _admin: admin }
}

struct Running {
    data: tempfile::TempDir,
    address: String,
    _admin: Admin,
}

impl Running {
    fn local_address(&self) -> &str {
        &self.address
    }
}

#[test]
fn a_node_is_asked_through_its_data_directory() {
    let node = admin("{1: '127.0.0.1:2'}");
    let data = node.data.path().to_str().expect("UTF-8");
    let ended = program(&["status", "--data", data]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.starts_with("cluster orders: 1 of 1 members answer, 1 well\n"), "{}", ended.stdout);

    let empty = tempfile::tempdir().expect("a directory");
    let ended = program(&["status", "--data", empty.path().to_str().expect("UTF-8")]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stdout.contains("no answer: no node runs in"), "{}", ended.stdout);
}

#[test]
fn a_healthy_node_is_shown_with_status_0() {
    let admin = admin("{1: '127.0.0.1:2'}");
    let ended = program(&["status", "--admin", admin.local_address()]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.starts_with("cluster orders: 1 of 1 members answer, 1 well\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("shard 0: node 1 leads term 3, committed 17"), "{}", ended.stdout);
}

#[test]
fn a_member_that_does_not_answer_is_shown_with_status_1() {
    // Nobody listens on port 1 + (9 - 2): the member's place as far from its peer port as here.
    let admin = admin("{1: '127.0.0.1:2', 2: '127.0.0.1:1'}");
    let ended = program(&["status", "--admin", admin.local_address()]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stdout.contains("\n2     127.0.0.1:8 "), "{}", ended.stdout);
    assert!(ended.stdout.contains("no answer"), "{}", ended.stdout);
}

#[test]
fn the_json_holds_what_every_member_said() {
    let admin = admin("{1: '127.0.0.1:2'}");
    let ended = program(&["status", "--json", "--admin", admin.local_address()]);
    assert_eq!(ended.status, Some(0));
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(json[0]["report"]["shards"][0]["committed"], 17);
}

/// An admin port of a node of this cluster.
fn admin_of(cluster: &str) -> Running {
    admin_as(cluster, 1, "{1: '127.0.0.1:2', 2: '127.0.0.1:1'}")
}

#[test]
fn no_proxy_is_asked_whatever_the_environment_says() {
    let admin = admin("{1: '127.0.0.1:2'}");
    let nobody = "http://127.0.0.1:1";
    let mut command = Command::new("env");
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.arg(format!("{name}={nobody}"));
    }
    let ended = run(command.args([BINARY, "status", "--admin", admin.local_address()]), "");
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
}

#[test]
fn a_node_of_another_cluster_is_no_member_that_answers() {
    let (own, other) = (admin_of("orders"), admin_as("billing", 2, "{1: '127.0.0.1:2', 2: '127.0.0.1:1'}"));
    let both = format!("{},{}", own.local_address(), other.local_address());
    let ended = program(&["status", "--admin", &both]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stdout.starts_with("cluster orders: 1 of 2 members answer, 1 well\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("node 2 of another cluster answers there, billing"), "{}", ended.stdout);
}

#[test]
fn it_watches_until_nobody_reads() {
    let admin = admin("{1: '127.0.0.1:2'}");
    let script = format!("{BINARY} status --watch 1 --admin {} | grep -m 2 '^cluster orders'", admin.local_address());
    let ended = run(Command::new("bash").args(["-c", &script]), "");
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 2, "{}", ended.stdout);
}

#[test]
fn without_an_address_it_says_what_it_needs() {
    let ended = program(&["status"]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.stderr.contains("--admin ADDR, --config FILE of a member, or --data DIR"), "{}", ended.stderr);
}
