use std::path::Path;

use super::*;

const MEMBER: &str = "\
cluster: orders            # name; a different name never talks to this one
node: 1
data: /var/lib/beaver-raft
clients: 127.0.0.1:11301   # beanstalkd protocol
peers: 127.0.0.1:7301
admin: 127.0.0.1:9301
members: { 1: 127.0.0.1:7301, 2: 127.0.0.1:7302, 3: 127.0.0.1:7303 }
shards: 1
";

fn draft(yaml: &str) -> Draft {
    Draft::from_yaml(yaml, Path::new("node.yaml")).expect("parses")
}

fn refusal(yaml: &str) -> String {
    match Draft::from_yaml(yaml, Path::new("node.yaml")).and_then(|draft| draft.validate()) {
        Ok(config) => panic!("accepted as {config:?}"),
        Err(error) => error.to_string(),
    }
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn the_file_in_the_documentation_is_enough_for_a_member() {
    let config = draft(MEMBER).validate().expect("valid");
    assert_eq!(config.cluster, "orders");
    assert_eq!(config.node, NodeId(1));
    assert_eq!(config.clients, [Address::parse("127.0.0.1:11301").unwrap()]);
    assert_eq!(config.peers.as_ref().map(Address::as_str), Some("127.0.0.1:7301"));
    assert_eq!(config.members.len(), 3);
    assert_eq!(config.shards, 1);
    assert_eq!(config.tunables, Tunables::default());
    assert!(!config.embedded);
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_default() {
    let mut draft = draft(&format!("{MEMBER}heartbeat_ms: 20\nelection_timeout_ms: 300\njob_bytes_max: 1000\n"));
    draft
        .override_with_environment([
            variable("BEAVER_RAFT_HEARTBEAT_MS", "30"),
            variable("BEAVER_RAFT_JOB_BYTES_MAX", "2000"),
            variable("PATH", "/bin"),
        ])
        .expect("known keys");
    draft.override_with_flag(Key::find("heartbeat_ms").unwrap(), "--heartbeat-ms", "40".to_owned());
    let tunables = draft.validate().expect("valid").tunables;
    assert_eq!(tunables.heartbeat_ms, 40);
    assert_eq!(tunables.job_bytes_max, 2000);
    assert_eq!(tunables.election_timeout_ms, 300);
    assert_eq!(tunables.connections_max, 10_000);
}

#[test]
fn an_unknown_key_is_refused_by_name_with_its_line_and_what_was_meant() {
    let told = refusal(&format!("{MEMBER}job_byte_max: 7\n"));
    assert_eq!(told, "node.yaml:9: unknown key `job_byte_max`; did you mean `job_bytes_max`?");
    let told = draft(MEMBER).override_with_environment([variable("BEAVER_RAFT_SHARD", "2")]).unwrap_err().to_string();
    assert_eq!(told, "environment variable BEAVER_RAFT_SHARD: unknown key `shard`; did you mean `shards`?");
}

#[test]
fn an_impossible_value_is_refused_by_name_with_its_range() {
    let told = refusal(&format!("{MEMBER}job_bytes_max: 16777217\n"));
    assert_eq!(told, "node.yaml:9: job_bytes_max must be 1 to 16777216 (bytes), not `16777217`");
    assert!(refusal(&MEMBER.replace("shards: 1", "shards: 0")).contains("shards must be 1 to 256, not `0`"));
    assert!(refusal(&MEMBER.replace("node: 1", "node: 4")).contains("node 4 is not one of the members (1, 2, 3)"));
    assert!(refusal(&MEMBER.replace("node: 1", "node: one")).contains("node must be 1 to 255, not `one`"));
    assert!(refusal(&MEMBER.replace("cluster: orders", "cluster: a b")).contains("cluster must be 1 to 64"));
    assert!(refusal(&MEMBER.replace("127.0.0.1:7302", "127.0.0.1:7301")).contains("is there twice"));
    assert!(refusal(&MEMBER.replace("127.0.0.1:7302", "127.0.0.1")).contains("that peers can dial"));
    assert!(refusal(&MEMBER.replace("127.0.0.1:7302", "127.0.0.1:0")).contains("that peers can dial"));
    assert!(refusal(&MEMBER.replace("admin: 127.0.0.1:9301", "admin: 127.0.0.1:99999")).contains("`99999`"));
    assert!(refusal(&MEMBER.replace("admin: 127.0.0.1:9301", "admin: 127.0.0.1:11301")).contains("given twice"));
    assert!(refusal(&format!("{MEMBER}heartbeat_ms: 100\n")).contains("heartbeat_ms must be at most a third"));
    assert!(refusal(&format!("{MEMBER}segment_bytes_max: 100000\n")).contains("multiple of 4096"));
    for log in ["loud=very", "loud", "info,loud"] {
        assert!(refusal(&format!("{MEMBER}log: \"{log}\"\n")).contains("log must be"), "{log}");
    }
    assert!(refusal(&format!("{MEMBER}cores: -1\n")).contains("cores must be 1 to 1024"));
}

#[test]
fn what_has_no_default_is_missed_by_name() {
    for key in ["cluster", "node", "data", "clients", "members"] {
        let line = MEMBER.lines().find(|line| line.starts_with(&format!("{key}:"))).expect("in the example");
        let told = refusal(&MEMBER.replace(line, ""));
        assert!(told.starts_with(&format!("{key} is missing")), "{told}");
    }
    assert!(refusal("# nothing\n").contains("is missing"));
    assert!(refusal("").contains("is missing"));
}

#[test]
fn a_key_that_stands_twice_or_a_file_that_is_no_map_is_refused() {
    assert!(refusal(&format!("{MEMBER}shards: 2\n")).contains("not valid YAML"));
    assert!(refusal("just words\n").contains("not valid YAML"));
    assert!(refusal("members: [1, 2\n").contains("not valid YAML"));
}

#[test]
fn clients_may_be_a_list_and_peers_default_to_the_own_address() {
    let yaml = MEMBER
        .replace("clients: 127.0.0.1:11301", "clients: [ \"0.0.0.0:11300\", \"unix:/run/beaver.sock\" ]")
        .replace("peers: 127.0.0.1:7301", "");
    let config = draft(&yaml).validate().expect("valid");
    assert_eq!(config.clients.len(), 2);
    assert!(config.clients[1].is_unix());
    assert_eq!(config.peers.expect("defaulted").as_str(), "127.0.0.1:7301");
}

#[test]
fn members_can_come_from_the_environment() {
    let mut draft = draft(MEMBER);
    draft.override_with_environment([variable("BEAVER_RAFT_MEMBERS", "1=a:1, 2=b:1")]).expect("known");
    assert_eq!(draft.validate().expect("valid").members[&NodeId(2)].as_str(), "b:1");
}

#[test]
fn an_embedded_node_needs_a_directory_and_an_address_only() {
    let mut draft = Draft::default();
    draft.override_with_flag(Key::find("data").unwrap(), "--data", "d".to_owned());
    draft.override_with_flag(Key::find("clients").unwrap(), "--clients", "127.0.0.1:11300".to_owned());
    let config = draft.validate_embedded().expect("valid");
    assert!(config.embedded && config.peers.is_none() && config.admin.is_none());
    assert_eq!(config.members.len(), 1);
    draft.override_with_flag(Key::find("members").unwrap(), "--members", "1=a:1".to_owned());
    assert!(draft.validate_embedded().unwrap_err().to_string().contains("--config FILE"));
}

#[test]
fn addresses_are_proven_in_form() {
    for good in ["127.0.0.1:1", "[::1]:11300", "db-1.example:65535", "unix:/run/b.sock", "localhost:0"] {
        assert!(Address::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "11300", ":11300", "::1:11300", "a:b", "a:65536", "a:+1", "unix:", "a b:1", "http://a:1"] {
        assert!(Address::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_permissions_of_a_unix_socket_are_octal_and_written_in_full() {
    let mode = |text: &str| {
        let yaml = format!("{MEMBER}clients_mode: \"{text}\"\n");
        Draft::from_yaml(&yaml, Path::new("node.yaml")).unwrap().validate().map(|config| config.clients_mode)
    };
    assert_eq!(mode("0660").unwrap(), Some(0o660));
    assert_eq!(mode("").unwrap(), None);
    for wrong in ["660", "432", "0o660", "0668", "00660", "0", "rw"] {
        let told = mode(wrong).unwrap_err().to_string();
        assert!(
            told.contains(&format!("clients_mode must be 0 and three octal digits, as in \"0660\", not `{wrong}`")),
            "{told}"
        );
    }
}
