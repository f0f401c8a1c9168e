//! `status`: the members' own admin ports, asked by the program.

use std::path::Path;
use std::sync::Arc;

use beaver_raft::config::{Address, Draft};
use beaver_raft::metrics::Metrics;
use beaver_raft::node::admin::Admin;
use beaver_raft::status::{Board, RoleName, ShardStatus};

use crate::beaver_raft as program;

/// An admin port of a node whose peers are out of reach, or of one that stands alone.
fn admin(members: &str) -> Running {
    let yaml = format!("{{cluster: orders, node: 1, data: d, clients: 'a:1', admin: 'a:9', members: {members}}}");
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
    let admin = Admin::start(Some(&any), data.path(), metrics, board).expect("loopback is there");
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
    assert!(ended.stdout.starts_with("cluster orders: 1 of 1 members answer\n"), "{}", ended.stdout);

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
    assert!(ended.stdout.starts_with("cluster orders: 1 of 1 members answer\n"), "{}", ended.stdout);
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

#[test]
fn without_an_address_it_says_what_it_needs() {
    let ended = program(&["status"]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.stderr.contains("--admin ADDR, or --config FILE"), "{}", ended.stderr);
}
