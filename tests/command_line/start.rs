//! `run`, `init` and `beanstalkd`: what refuses to start, and how.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::{BINARY, beaver_raft, directory, run};

#[test]
fn a_configuration_that_cannot_be_is_refused_by_key_and_line() {
    let directory = directory("refused");
    let file = directory.join("node.yaml");
    std::fs::write(&file, "cluster: orders\nnode: 1\nshard: 1\n").expect("writes");
    for command in ["run", "init"] {
        let ended = run(Command::new(BINARY).args([command, "--config"]).arg(&file), "");
        assert_eq!(ended.status, Some(2));
        let expected = format!("beaver-raft: {}:3: unknown key `shard`; did you mean `shards`?\n", file.display());
        assert_eq!(ended.stderr, expected);
    }
}

#[test]
fn flags_and_environment_are_checked_like_the_file() {
    let ended = beaver_raft(&["run", "--data", "d", "--listen", "127.0.0.1:0", "--heartbeat-ms", "1"]);
    assert_eq!(ended.status, Some(2));
    assert_eq!(
        ended.stderr,
        "beaver-raft: flag --heartbeat-ms: heartbeat_ms must be 5 to 10000 (milliseconds), not `1`\n"
    );
    // Set behind `run`'s back, which takes such variables away.
    let ended =
        run(Command::new("env").args(["BEAVER_RAFT_SHARDS=0", BINARY, "run", "--data", "d", "--listen", "a:1"]), "");
    assert_eq!(ended.status, Some(2));
    assert!(
        ended.stderr.contains("environment variable BEAVER_RAFT_SHARDS: shards must be 1 to 256"),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_file_is_overridden_by_the_environment_and_that_by_a_flag() {
    let directory = directory("overridden");
    let file = directory.join("node.yaml");
    let yaml = "cluster: orders\nnode: 1\ndata: DIR/of-file\nclients: 127.0.0.1:0\nmembers: { 1: '127.0.0.1:1' }\n";
    std::fs::write(&file, yaml.replace("DIR", &directory.display().to_string())).expect("writes");
    // Each start ends because its directory is not prepared, and says which one that was.
    let chosen = |environment: &[&str], flags: &[&str]| {
        let mut command = Command::new("env");
        command.args(environment).arg(BINARY).args(["run", "--config"]).arg(&file).args(flags);
        let ended = run(&mut command, "");
        assert_eq!(ended.status, Some(13), "{}", ended.stderr);
        ended.stderr
    };
    let environment = ["BEAVER_RAFT_DATA=/nowhere/of-environment"];
    let of_file = directory.join("of-file");
    assert!(chosen(&[], &[]).contains(&format!("{} is not a prepared", of_file.display())));
    assert!(chosen(&environment, &[]).contains("/nowhere/of-environment is not a prepared"));
    assert!(chosen(&environment, &["--data", "/nowhere/of-flag"]).contains("/nowhere/of-flag is not a prepared"));
}

#[test]
fn every_key_is_documented_with_its_environment_name_and_taken_from_there() {
    let page = include_str!("../../docs/configuration.md");
    let keys = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut count = 0;
    for (key, rest) in keys {
        let variable = format!("BEAVER_RAFT_{}", key.to_ascii_uppercase());
        assert!(rest.starts_with(&format!(" `{variable}` |")), "{key}: {rest}");
        // Whatever else is wrong with this start: the name is known.
        let mut command = Command::new("env");
        command.args([&format!("{variable}=,"), BINARY, "run", "--config", "/dev/null"]);
        let ended = run(&mut command, "");
        assert_ne!(ended.status, Some(0), "{key}");
        assert!(!ended.stderr.contains("unknown key"), "{key}: {}", ended.stderr);
        count += 1;
    }
    assert!(count > 20, "{count} keys");
}

#[test]
fn a_single_node_must_be_told_where() {
    let ended = beaver_raft(&["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(ended.status, Some(2));
    let expected = "beaver-raft: data is missing: it has no default; set it as --data, as BEAVER_RAFT_DATA, or in a file \
                    (--config FILE)\n";
    assert_eq!(ended.stderr, expected);
}

#[test]
fn a_member_can_be_configured_by_the_environment_alone() {
    let place = directory("environment");
    let with = |command: &str, more: &[&str]| {
        let mut env = Command::new("env");
        env.current_dir(&place).args(["BEAVER_RAFT_CLUSTER=0123", "BEAVER_RAFT_NODE=1", "BEAVER_RAFT_DATA=d"]);
        env.args(["BEAVER_RAFT_CLIENTS=127.0.0.1:0"]).args(more).args([BINARY, command]);
        run(&mut env, "")
    };
    let missing = "beaver-raft: members is missing: it has no default; set it as --members, as BEAVER_RAFT_MEMBERS, or in a \
                   file (--config FILE)\n";
    for command in ["run", "init"] {
        let ended = with(command, &[]);
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(2), missing), "{command}");
    }
    let members = ["BEAVER_RAFT_MEMBERS=1=127.0.0.1:1"];
    let ended = with("run", &members);
    assert_eq!(ended.status, Some(13), "a member's directory is prepared first: {}", ended.stderr);
    let ended = with("init", &members);
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    let expected = "d is prepared for node 1 of cluster 0123; start it with: beaver-raft run, and the same environment and flags\n";
    assert_eq!(ended.stdout, expected);
}

/// Prepared apart, each for itself, they would never find together, and each would say that the others are strangers.
#[test]
fn members_of_one_cluster_are_prepared_with_the_id_that_the_first_one_draws() {
    let directory = directory("which-cluster");
    let init = |node: u8, more: &[&str]| {
        let file = directory.join(format!("{node}.yaml"));
        let members = "{ 1: '127.0.0.1:1', 2: '127.0.0.1:2', 3: '127.0.0.1:3' }";
        let data = directory.join(node.to_string());
        let yaml = format!(
            "cluster: orders\nnode: {node}\ndata: {}\nclients: 127.0.0.1:0\nmembers: {members}\n",
            data.display()
        );
        std::fs::write(&file, yaml).expect("writes");
        run(Command::new(BINARY).args(["init", "--config"]).arg(&file).args(more), "")
    };
    let ended = init(2, &[]);
    let expected = "beaver-raft: node 2 is one of 3 members, and which cluster they make up is not known: prepare one of \
                    them with `beaver-raft init --first`, which prints the cluster's id, and the others with `--cluster-id ID` (or \
                    with `cluster_id` in their configuration)\n";
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(2), expected));
    assert!(!directory.join("2").exists(), "nothing was made");
    let ended = init(1, &["--first"]);
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    let id = ended
        .stdout
        .split("--cluster-id ")
        .nth(1)
        .and_then(|rest| rest.get(..32))
        .expect("an id is printed")
        .to_owned();
    let ended = init(2, &["--first", "--cluster-id", &id]);
    assert_eq!(ended.status, Some(2), "{}", ended.stderr);
    let ended = init(2, &["--cluster-id", &id]);
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    let shown =
        |node: u8| run(Command::new(BINARY).args(["inspect", "--data"]).arg(directory.join(node.to_string())), "");
    for node in [1, 2] {
        let first = format!("node {node} of cluster orders, whose id is {id}\n");
        assert!(shown(node).stdout.starts_with(&first), "{}", shown(node).stdout);
    }
    let ended = init(3, &["--first"]);
    assert!(ended.status == Some(0) && !ended.stdout.contains(&id), "another cluster: {}", ended.stdout);
}

#[test]
fn the_help_shows_which_characters_a_name_may_have() {
    let ended = beaver_raft(&["run", "--help"]);
    let shown: Vec<&str> = ended.stdout.split_whitespace().collect();
    assert!(shown.join(" ").contains("1 to 64 of A-Z a-z 0-9 - _ .;"), "{}", ended.stdout);
    assert!(shown.join(" ").contains("33554432 to 1099511627776"), "numbers are plain: {}", ended.stdout);
}

#[test]
fn a_directory_that_was_not_prepared_is_not_started() {
    let directory = directory("unprepared");
    let file = directory.join("node.yaml");
    let yaml = "cluster: orders\nnode: 1\ndata: DIR/data\nclients: 127.0.0.1:0\nmembers: { 1: '127.0.0.1:1' }\n";
    std::fs::write(&file, yaml.replace("DIR", &directory.display().to_string())).expect("writes");
    let ended = run(Command::new(BINARY).args(["run", "--config"]).arg(&file), "");
    assert_eq!(ended.status, Some(13), "{}", ended.stderr);
    assert!(ended.stderr.contains("beaver-raft init --config FILE"), "{}", ended.stderr);
}

#[test]
fn by_the_name_of_the_drop_in_it_takes_the_flags_of_the_original() {
    let directory = directory("drop-in");
    let name = directory.join("beaver-beanstalkd");
    symlink(BINARY, &name).expect("links");
    let ended = run(Command::new(&name).arg("-v"), "");
    assert_eq!(ended.status, Some(0));
    assert_eq!(ended.stdout, format!("beaver-raft {} (beanstalkd protocol)\n", env!("CARGO_PKG_VERSION")));
    let ended = run(Command::new(&name).arg("-h"), "");
    assert!(ended.stdout.starts_with("Use: beaver-beanstalkd [OPTIONS]\n"), "{}", ended.stdout);
    let ended = run(Command::new(&name).args(["-z", "16777217", "-b", "d"]), "");
    assert_eq!(ended.status, Some(2));
    assert_eq!(ended.stderr, "beaver-raft: flag -z: job_bytes_max must be 1 to 16777216 (bytes), not `16777217`\n");
}

#[test]
fn it_never_serves_as_another_user_than_it_was_told() {
    let ended = beaver_raft(&["beanstalkd", "-u", "no-such-user", "-l", "127.0.0.1", "-p", "0"]);
    assert_eq!(ended.status, Some(23));
    assert_eq!(ended.stderr, "beaver-raft: the system refused to become user no-such-user: there is no such user\n");
}

#[test]
fn a_prepared_directory_is_inspected_and_another_one_is_refused() {
    let directory = directory("inspected");
    let (file, data) = (directory.join("node.yaml"), directory.join("data"));
    std::fs::create_dir(&data).expect("makes");
    let yaml = "cluster: orders\nnode: 1\ndata: DIR\nclients: 127.0.0.1:0\nmembers: { 1: '127.0.0.1:1' }\nshards: 2\n";
    std::fs::write(&file, yaml.replace("DIR", &data.display().to_string())).expect("writes");
    let inspect =
        |arguments: &[&str]| run(Command::new(BINARY).arg("inspect").arg("--data").arg(&data).args(arguments), "");
    assert_eq!(inspect(&[]).status, Some(13), "nobody prepared it");
    let id = "a".repeat(32);
    let prepared = run(Command::new(BINARY).args(["init", "--cluster-id", &id, "--config"]).arg(&file), "");
    assert_eq!(prepared.status, Some(0), "{}", prepared.stderr);
    let ended = inspect(&["--verify"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    let shard = |number| {
        format!(
            "shard {number}: the log counts from entry 1 on, term 0\n  the log ends at entry 0, and knows that it was committed up to 0\n"
        )
    };
    let end = "everything was read: no fault\n";
    assert_eq!(ended.stdout, format!("node 1 of cluster orders, whose id is {id}\n{}{}{end}", shard(0), shard(1)));
    assert!(inspect(&["--json"]).stdout.contains(r#""floor":0"#));
    // A file that calls itself a segment and of which nothing shows that it was one: a power cut leaves such things.
    std::fs::write(data.join("shard-1/wal/0000000001.seg"), vec![7; 8192]).expect("writes");
    let ended = inspect(&[]);
    assert_eq!(ended.status, Some(0), "{}", ended.stdout);
    assert!(ended.stdout.contains("0000000001.seg          8192 bytes  not in use\n"), "{}", ended.stdout);
    std::fs::write(data.join("shard-1/vote"), vec![7; 16384]).expect("writes");
    let ended = inspect(&[]);
    assert_eq!(ended.status, Some(30), "{}", ended.stdout);
    assert!(ended.stdout.contains("FAULT: shard 1, ") && ended.stdout.contains("shard-1/vote"), "{}", ended.stdout);
}
