use std::path::Path;

use super::*;

const MEMBER: &str = "\
cluster: orders            # name, for people
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
fn a_cluster_id_is_32_digits_and_nothing_else() {
    let with = |id: &str| format!("{MEMBER}cluster_id: {id}\n");
    let id = draft(&with("000000000000000000000000000000aB")).validate().expect("valid").cluster_id;
    assert_eq!(id, Some(ClusterId(0xab)));
    assert_eq!(draft(MEMBER).validate().expect("valid").cluster_id, None);
    for wrong in
        ["ab", "0x0000000000000000000000000000ab", "+00000000000000000000000000000ab", &"0".repeat(32), &"g".repeat(32)]
    {
        let refused = refusal(&with(wrong));
        assert!(refused.contains("cluster_id must be 32 hexadecimal digits") && refused.contains(wrong), "{refused}");
    }
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
    let told = refusal(&MEMBER.replace("127.0.0.1:7302", "127.0.0.1"));
    assert_eq!(told, "node.yaml:7: members: `127.0.0.1` is neither host:port nor unix:/path");
    assert!(refusal(&MEMBER.replace("127.0.0.1:7302", "unix:/a")).contains("that peers can dial"));
    assert!(refusal(&MEMBER.replace("127.0.0.1:7302", "127.0.0.1:0")).contains("that peers can dial"));
    let told = refusal(&MEMBER.replace("admin: 127.0.0.1:9301", "admin: 127.0.0.1:99999"));
    assert_eq!(told, "node.yaml:6: admin: 99999 is not a valid port (0 to 65535)");
    let told = refusal(&MEMBER.replace("127.0.0.1:11301", "[ 127.0.0.1:1, 127.0.0.1:99999 ]"));
    assert_eq!(told, "node.yaml:4: clients: 99999 is not a valid port (0 to 65535)");
    let told = refusal(&MEMBER.replace("127.0.0.1:7303", "127.0.0.1:x"));
    assert_eq!(told, "node.yaml:7: members: x is not a valid port (0 to 65535)");
    assert!(refusal(&MEMBER.replace("admin: 127.0.0.1:9301", "admin: 127.0.0.1:11301")).contains("given twice"));
    assert!(refusal(&format!("{MEMBER}heartbeat_ms: 100\n")).contains("heartbeat_ms must be at most a third"));
    assert!(refusal(&format!("{MEMBER}segment_bytes_max: 100000\n")).contains("multiple of 4096"));
    for log in ["loud=very", "loud", "info,loud"] {
        assert!(refusal(&format!("{MEMBER}log: \"{log}\"\n")).contains("log must be"), "{log}");
    }
    assert!(refusal(&format!("{MEMBER}cores: -1\n")).contains("cores must be 1 to 1024"));
}

/// YAML has rules by which a plain scalar is a number, a truth or nothing. A name is none of them.
#[test]
fn a_string_stays_as_it_is_written_wherever_it_comes_from() {
    let names =
        ["0123", "yes", "No", "on", "1.10", "0x1F", "0o17", "1e3", "1_000", ".5", "2026-11-30", "true", ".inf", "017"];
    for name in names {
        for written in [name.to_owned(), format!("'{name}'"), format!("\"{name}\"")] {
            let yaml = MEMBER.replace("cluster: orders ", &format!("cluster: {written} "));
            let yaml = yaml.replace("data: /var/lib/beaver-raft", &format!("data: {written}"));
            let config = draft(&yaml).validate().expect("valid");
            assert_eq!((config.cluster.as_str(), config.data.to_str()), (name, Some(name)), "{yaml}");
        }
        let mut of_environment = draft(MEMBER);
        of_environment.override_with_environment([variable("BEAVER_RAFT_CLUSTER", name)]).expect("known");
        assert_eq!(of_environment.validate().expect("valid").cluster, name);
        let mut of_flag = draft(MEMBER);
        of_flag.override_with_flag(Key::find("cluster").unwrap(), "--cluster", name.to_owned());
        assert_eq!(of_flag.validate().expect("valid").cluster, name);
    }
    let yaml = MEMBER.replace("clients: 127.0.0.1:11301", "clients: [ \"0x1F:1\", 1e3:2, unix:0123 ]");
    let clients: Vec<String> = draft(&yaml).validate().expect("valid").clients.iter().map(Address::to_string).collect();
    assert_eq!(clients, ["0x1F:1", "1e3:2", "unix:0123"]);
    let yaml = MEMBER.replace("{ 1: 127.0.0.1:7301,", "{ 1: 1e3:7301,");
    assert_eq!(draft(&yaml).validate().expect("valid").members[&NodeId(1)].as_str(), "1e3:7301");
    // Without quotes these are no value; in quotes they are names.
    for nothing in ["~", "null", ""] {
        let yaml = |written: &str| MEMBER.replace("cluster: orders ", &format!("cluster: {written} "));
        assert!(refusal(&yaml(nothing)).contains("cluster is missing"), "{nothing}");
    }
    let quoted = draft(&MEMBER.replace("cluster: orders ", "cluster: \"null\" ")).validate().expect("valid");
    assert_eq!(quoted.cluster, "null");
}

#[test]
fn a_number_that_two_readers_would_read_differently_is_refused_and_says_why() {
    let why = "a number with a leading zero is octal to some and decimal to others: write 17";
    let told = refusal(&format!("{MEMBER}job_bytes_max: 017\n"));
    assert_eq!(told, format!("node.yaml:9: job_bytes_max must be 1 to 16777216 (bytes), not `017`: {why}"));
    let told = refusal(&MEMBER.replace("shards: 1", "shards: 017"));
    assert_eq!(told, format!("node.yaml:8: shards must be 1 to 256, not `017`: {why}"));
    let told = refusal(&format!("{MEMBER}cores: 017\n"));
    assert_eq!(told, format!("node.yaml:9: cores must be 1 to 1024, not `017`: {why}"));
    let told = refusal(&MEMBER.replace("node: 1", "node: 017"));
    assert_eq!(told, format!("node.yaml:2: node must be 1 to 255, not `017`: {why}"));
    let told = refusal(&MEMBER.replace("{ 1: ", "{ 017: "));
    assert_eq!(told, format!("node.yaml:7: members have ids from 1 to 255, not `017`: {why}"));
    let mut of_environment = draft(MEMBER);
    of_environment.override_with_environment([variable("BEAVER_RAFT_SHARDS", "017")]).expect("known");
    let told = of_environment.validate().unwrap_err().to_string();
    assert_eq!(told, format!("environment variable BEAVER_RAFT_SHARDS: shards must be 1 to 256, not `017`: {why}"));
    for number in ["0x10", "1e3", "1.0", "+1", "-1", "yes"] {
        assert!(refusal(&format!("{MEMBER}job_bytes_max: {number}\n")).contains("must be 1 to 16777216"), "{number}");
    }
}

#[test]
fn sizes_and_times_take_units_wherever_they_come_from() {
    let mut draft =
        draft(&format!("{MEMBER}job_bytes_max: 64KiB\nelection_timeout_ms: 1s\nsegment_bytes_max: 128 MiB\n"));
    draft.override_with_environment([variable("BEAVER_RAFT_HEARTBEAT_MS", "50ms")]).expect("known");
    draft.override_with_flag(Key::find("recent_bytes_max").unwrap(), "--recent-bytes-max", "1GiB".to_owned());
    let tunables = draft.validate().expect("valid").tunables;
    assert_eq!((tunables.job_bytes_max, tunables.election_timeout_ms, tunables.heartbeat_ms), (65_536, 1000, 50));
    assert_eq!((tunables.segment_bytes_max, tunables.recent_bytes_max), (128 << 20, 1 << 30));
    let told = refusal(&format!("{MEMBER}job_bytes_max: 1M\n"));
    let why = "`1M` may count in thousands or in 1024s: write KiB, MiB, GiB or TiB, or all digits";
    assert_eq!(told, format!("node.yaml:9: job_bytes_max must be 1 to 16777216 (bytes), not `1M`: {why}"));
    let told = refusal(&format!("{MEMBER}heartbeat_ms: 5m\n"));
    let why = "`5m` may mean milliseconds or minutes: write ms or min";
    assert_eq!(told, format!("node.yaml:9: heartbeat_ms must be 5 to 10000 (milliseconds), not `5m`: {why}"));
    let told = refusal(&format!("{MEMBER}job_bytes_max: 99999999999TiB\n"));
    assert!(told.ends_with("not `99999999999TiB`: `99999999999TiB` is more than 64 bits hold"), "{told}");
    assert!(refusal(&format!("{MEMBER}job_bytes_max: 5GiB\n")).ends_with("(bytes), not `5GiB`"));
    assert!(refusal(&format!("{MEMBER}connections_max: 5KiB\n")).ends_with("(connections), not `5KiB`"));
    assert!(refusal(&format!("{MEMBER}heartbeat_ms: 5KiB\n")).ends_with("(milliseconds), not `5KiB`"));
}

#[test]
fn what_is_missing_is_told_together_with_the_file() {
    let told = refusal("clients: 127.0.0.1:1\ndata: d\n");
    let expected = "node.yaml: cluster, node and members are missing: they have no default; set them there, as \
                    BEAVER_RAFT_CLUSTER, BEAVER_RAFT_NODE and BEAVER_RAFT_MEMBERS, or as --cluster, --node and --members";
    assert_eq!(told, expected);
    let told = Draft::default().validate_embedded().unwrap_err().to_string();
    let expected = "data and clients are missing: they have no default; set them as --data and --clients, as \
                    BEAVER_RAFT_DATA and BEAVER_RAFT_CLIENTS, or in a file (--config FILE)";
    assert_eq!(told, expected);
}

#[test]
fn what_has_no_default_is_missed_by_name() {
    for key in ["cluster", "node", "data", "clients", "members"] {
        let line = MEMBER.lines().find(|line| line.starts_with(&format!("{key}:"))).expect("in the example");
        let told = refusal(&MEMBER.replace(line, ""));
        assert!(told.starts_with(&format!("node.yaml: {key} is missing: it has no default")), "{told}");
    }
    for nothing in ["# nothing\n", "", "---\n", "{}\n", "---\n# x\n...\n"] {
        assert!(refusal(nothing).starts_with("node.yaml: cluster, node, data, clients and members are"), "{nothing}");
    }
}

#[test]
fn a_key_that_stands_twice_or_a_file_that_is_no_map_is_refused() {
    assert_eq!(refusal(&format!("{MEMBER}shards: 2\n")), "node.yaml:9: shards is given twice");
    assert_eq!(refusal(&format!("{MEMBER}\"shards\": 2\n")), "node.yaml:9: shards is given twice");
    let told = refusal(&MEMBER.replace("{ 1: 127.0.0.1:7301, 2:", "{ 1: 127.0.0.1:7301, 1:"));
    assert_eq!(told, "node.yaml:7: 1 in members is given twice");
    assert!(refusal("just words\n").contains("is not valid YAML: line 1: a configuration is a map"));
    assert!(refusal("- a\n").contains("a configuration is a map"));
    assert!(refusal("members: [1, 2\n").contains("not valid YAML"));
    assert!(refusal(&format!("{MEMBER}---\n{MEMBER}")).contains("a configuration is one document"));
    assert!(refusal("members: { 1: { a: b } }\n").contains("line 1: members takes single values"));
    assert!(refusal("clients: [[a]]\n").contains("line 1: clients takes single values"));
    assert!(refusal("? [a]\n: b\n").contains("the name of a key is expected"));
    assert!(refusal("cluster: &a x\ndata: *a\n").contains("line 2: aliases are not taken"));
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
    assert!(draft.is_of_member());
    let told = draft.validate_embedded().unwrap_err().to_string();
    assert_eq!(told, "flag --members: members is for a member of a cluster, and this is a single node");
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
