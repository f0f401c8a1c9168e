//! Data directories that cannot be used: what is said of each, and that nothing is changed in them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{BINARY, Ended, Running, directory, run};

const MEMBER: &str = "cluster: orders\nnode: 1\ndata: DIR\nclients: 127.0.0.1:0\nmembers: { 1: '127.0.0.1:1' }\n";

/// Runs the program in `place`, so that paths in what it says are short.
fn in_place(place: &Path, arguments: &[&str]) -> Ended {
    run(Command::new(BINARY).current_dir(place).args(arguments), "")
}

/// Everything that takes a data directory, each with this one.
fn all_with(place: &Path, data: &str) -> [(&'static str, Ended); 4] {
    fs::write(place.join("member.yaml"), MEMBER.replace("DIR", data)).expect("writes");
    [
        ("run", in_place(place, &["run", "--data", data, "--listen", "127.0.0.1:0"])),
        ("beanstalkd", in_place(place, &["beanstalkd", "-l", "127.0.0.1", "-p", "0", "-b", data])),
        ("init", in_place(place, &["init", "--config", "member.yaml"])),
        ("member", in_place(place, &["run", "--config", "member.yaml"])),
    ]
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_parent_that_is_not_there_is_named() {
    let place = directory("no-parent");
    for (command, ended) in all_with(&place, "no/such/q") {
        if command == "member" {
            assert_eq!(ended.status, Some(13), "{}", ended.stderr);
            assert!(ended.stderr.contains("\nbeaver-raft: no/such/q is not a prepared"), "{}", ended.stderr);
            continue;
        }
        assert_eq!(ended.status, Some(11), "{command}: {}", ended.stderr);
        let expected = "beaver-raft: cannot make no/such/q: its parent no/such does not exist\n";
        assert!(ended.stderr.ends_with(expected), "{command}: {}", ended.stderr);
    }
    fs::write(place.join("file"), "").expect("writes");
    let ended = in_place(&place, &["run", "--data", "file/q", "--listen", "127.0.0.1:0"]);
    assert_eq!(ended.status, Some(11), "{}", ended.stderr);
    assert!(ended.stderr.ends_with("cannot make file/q: its parent file is not a directory\n"), "{}", ended.stderr);
}

#[test]
fn a_file_is_told_from_a_directory() {
    let place = directory("a-file");
    fs::write(place.join("n1.yaml"), "x").expect("writes");
    for (command, ended) in all_with(&place, "n1.yaml") {
        assert_eq!(ended.status, Some(11), "{command}: {}", ended.stderr);
        let expected = "beaver-raft: n1.yaml is a file, not a directory\n";
        assert!(ended.stderr.ends_with(expected), "{command}: {}", ended.stderr);
    }
    let ended = in_place(&place, &["inspect", "--data", "n1.yaml"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(11), "beaver-raft: n1.yaml is a file, not a directory\n"));
}

#[test]
fn a_directory_of_something_else_is_refused_and_keeps_no_trace() {
    for (made, holds) in [
        (&["a"][..], "a"),
        (&["c", "b", "a", "LOCK"], "a, b, c"),
        (&["1", "2", "3", "4", "5"], "1, 2, 3 and 2 more"),
        (&["sub/file"], "sub"),
    ] {
        let place = directory("foreign");
        let junk = place.join("junk");
        for name in made {
            let path = junk.join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("makes");
            fs::write(path, "").expect("writes");
        }
        let before = names(&junk);
        for (command, ended) in all_with(&place, "junk") {
            assert_eq!(ended.status, Some(14), "{command}: {}", ended.stderr);
            let expected = format!(
                "beaver-raft: junk is neither empty nor a Beaver-Raft directory (it holds: {holds}); choose another\n"
            );
            assert!(ended.stderr.ends_with(&expected), "{command}: {}", ended.stderr);
            assert_eq!(names(&junk), before, "{command}");
        }
        let ended = in_place(&place, &["inspect", "--data", "junk"]);
        let expected = "beaver-raft: junk holds no Beaver-Raft data\n";
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(13), expected));
    }
    let place = directory("nothing");
    let ended = in_place(&place, &["inspect", "--data", "none"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(13), "beaver-raft: none does not exist\n"));
}

#[test]
fn the_log_of_a_beanstalkd_is_told_with_the_way_on() {
    let place = directory("binlog");
    let old = place.join("old");
    fs::create_dir(&old).expect("makes");
    for name in ["binlog.1", "binlog.2", "lock"] {
        fs::write(old.join(name), "x").expect("writes");
    }
    for (command, ended) in all_with(&place, "old") {
        assert_eq!(ended.status, Some(14), "{command}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("beaver-raft: old holds the binlog of a beanstalkd (binlog.1)"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains("on another port (beanstalkd -b old -p PORT)"), "{}", ended.stderr);
        assert_eq!(names(&old), ["binlog.1", "binlog.2", "lock"], "{command}");
    }
}

#[test]
fn a_directory_of_another_node_is_told_with_what_starts_it() {
    let place = directory("others");
    fs::write(place.join("member.yaml"), MEMBER.replace("DIR", "d1")).expect("writes");
    assert_eq!(in_place(&place, &["init", "--config", "member.yaml"]).status, Some(0));
    for command in [&["run", "--data", "d1", "--listen", "127.0.0.1:0"][..], &["beanstalkd", "-p", "0", "-b", "d1"]] {
        let ended = in_place(&place, command);
        assert_eq!(ended.status, Some(15), "{}", ended.stderr);
        let expected = "beaver-raft: d1 belongs to member 1 of cluster orders; start it with --config\n";
        assert!(ended.stderr.ends_with(expected), "{}", ended.stderr);
    }
    let ended = in_place(&place, &["run", "--config", "member.yaml", "--cluster", "other"]);
    assert_eq!(ended.status, Some(15), "{}", ended.stderr);
    let expected = "beaver-raft: d1 belongs to cluster orders, the configuration says other\n";
    assert!(ended.stderr.ends_with(expected), "{}", ended.stderr);
    let ended = in_place(&place, &["init", "--config", "member.yaml"]);
    let expected = "beaver-raft: d1 is not a new directory: it is prepared already; init never overwrites\n";
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(14), expected));

    let mut single = Command::new(BINARY);
    single.current_dir(&place).args(["run", "--data", "d2", "--listen", "127.0.0.1:0"]);
    let single = Running::start(&mut single);
    let started = Instant::now();
    while !place.join("d2/identity").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "it prepares its directory");
        std::thread::sleep(Duration::from_millis(5));
    }
    single.interrupt();
    single.end();
    let ended = in_place(&place, &["run", "--config", "member.yaml", "--data", "d2"]);
    assert_eq!(ended.status, Some(15), "{}", ended.stderr);
    let expected =
        "beaver-raft: d2 belongs to a single node; start it with --data d2, without a cluster's configuration\n";
    assert!(ended.stderr.ends_with(expected), "{}", ended.stderr);
}

/// What is in memory is gone after a power cut: `run` refuses it, so `init` does, and leaves nothing there.
#[test]
fn init_refuses_a_disk_on_which_run_would_not_start() {
    let place = directory("in-memory");
    let data = format!("/dev/shm/beaver-raft-test-{}", std::process::id());
    if !fs::read_to_string("/proc/mounts").expect("proc is mounted").contains(" /dev/shm tmpfs ") {
        eprintln!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    for (command, ended) in all_with(&place, &data) {
        let expected = if command == "member" { 13 } else { 22 };
        assert_eq!(ended.status, Some(expected), "{command}: {}", ended.stderr);
        assert!(!Path::new(&data).exists(), "{command} leaves nothing there");
    }
}
