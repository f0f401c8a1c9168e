//! What refuses to start: one clear sentence on the last line, and the exit status of its kind.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::cluster::{BINARY, Cluster, free_address, fresh_directory};

struct Refused {
    status: Option<i32>,
    sentence: String,
}

fn refused(command: &mut Command) -> Refused {
    // A node that starts all the same is ended.
    let mut bounded = Command::new("timeout");
    bounded.arg("30").arg(command.get_program()).args(command.get_args());
    let ended = bounded.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    let sentences: Vec<&str> = stderr.lines().filter(|line| line.starts_with("beaver-raft: ")).collect();
    assert_eq!(sentences.len(), 1, "one sentence, not: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    Refused { status: ended.status.code(), sentence: sentences[0].to_owned() }
}

fn single(data: &Path, listen: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["run", "--listen", listen, "--data"]).arg(data);
    command
}

#[test]
fn a_port_that_is_taken_is_named_with_its_purpose() {
    let cluster = Cluster::prepare("ports");
    let node = &cluster.nodes[0];
    let peers = crate::bad_input::peers(node);
    for (address, purpose) in [(node.clients, "clients"), (peers, "peers"), (node.admin, "the admin port")] {
        let _taken = TcpListener::bind(address).expect("it was free");
        let refused = refused(&mut node.command("run"));
        assert_eq!(refused.status, Some(10), "{}", refused.sentence);
        let expected = format!("cannot listen on {address} for {purpose}");
        assert!(refused.sentence.contains(&expected), "{}", refused.sentence);
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_told_apart_from_every_other() {
    let cluster = Cluster::prepare("directories");
    let [first, second, _] = &cluster.nodes[..] else { unreachable!("three nodes") };
    let with = |data: &Path, more: &str| {
        let config = cluster.directory.join("changed.yaml");
        let text = std::fs::read_to_string(&second.config).expect("it was written");
        let own = second.data.display().to_string();
        std::fs::write(&config, text.replace(&own, &data.display().to_string()) + more).expect("it can be written");
        let mut command = Command::new(BINARY);
        command.args(["run", "--config"]).arg(config);
        command
    };
    let not_there = refused(&mut with(&cluster.directory.join("nowhere"), ""));
    assert_eq!(not_there.status, Some(13), "{}", not_there.sentence);
    let empty = cluster.directory.join("empty");
    std::fs::create_dir(&empty).expect("it can be made");
    let not_prepared = refused(&mut with(&empty, ""));
    assert_eq!(not_prepared.status, Some(13), "{}", not_prepared.sentence);
    assert!(not_prepared.sentence.contains("beaver-raft init"), "{}", not_prepared.sentence);

    let of_another_node = refused(&mut with(&first.data, ""));
    assert_eq!(of_another_node.status, Some(15), "{}", of_another_node.sentence);
    assert!(of_another_node.sentence.contains("node 1"), "{}", of_another_node.sentence);

    let text = std::fs::read_to_string(&second.config).expect("it was written");
    std::fs::write(&second.config, text.replace("cluster: test", "cluster: other")).expect("it can be written");
    let of_another_cluster = refused(&mut second.command("run"));
    assert_eq!(of_another_cluster.status, Some(15), "{}", of_another_cluster.sentence);
    assert!(of_another_cluster.sentence.contains("test"), "{}", of_another_cluster.sentence);

    let again = refused(&mut first.command("init"));
    assert_eq!(again.status, Some(14), "{}", again.sentence);

    change_format(&first.data.join("identity"));
    let of_another_format = refused(&mut first.command("run"));
    assert_eq!(of_another_format.status, Some(15), "{}", of_another_format.sentence);
    assert!(of_another_format.sentence.contains("is of format 99"), "{}", of_another_format.sentence);
}

/// As a later version would write it, with a right checksum.
fn change_format(identity: &Path) {
    let text = std::fs::read_to_string(identity).expect("it was prepared");
    let json = text.lines().next().expect("the first line").replacen("\"format\":1", "\"format\":99", 1);
    assert!(json.contains("99"), "{json}");
    let domain = u64::from_le_bytes(*b"beaverDI");
    let checksum = xxhash_rust::xxh3::xxh3_128_with_seed(json.as_bytes(), domain);
    std::fs::write(identity, format!("{json}\n{checksum:032x}\n")).expect("it can be written");
}

#[test]
fn a_directory_that_is_no_place_for_data_is_refused() {
    let directory = fresh_directory("no-place");
    let file = directory.join("file");
    std::fs::write(&file, "no directory").expect("it can be written");
    let in_what_is_missing = directory.join("not mounted").join("data");
    for data in [file.clone(), file.join("below"), "/proc/beaver".into(), in_what_is_missing] {
        let refused = refused(&mut single(&data, "127.0.0.1:0"));
        assert_eq!(refused.status, Some(11), "{}", refused.sentence);
        assert!(refused.sentence.contains(&data.display().to_string()), "{}", refused.sentence);
    }
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: there is no /dev/shm here");
        return;
    };
    let refused = refused(&mut single(memory.path(), "127.0.0.1:0"));
    assert_eq!(refused.status, Some(22), "{}", refused.sentence);
    std::fs::remove_dir_all(directory).expect("it is there");
}

#[test]
fn a_directory_in_use_names_its_process() {
    let directory = fresh_directory("in-use");
    let data = directory.join("data");
    let address = free_address();
    let mut child =
        single(&data, &address.to_string()).stderr(std::process::Stdio::null()).spawn().expect("the binary runs");
    crate::cluster::Connection::open(address).call("list-tubes");
    let refused = refused(&mut single(&data, "127.0.0.1:0"));
    child.kill().expect("it runs");
    assert_eq!(refused.status, Some(12), "{}", refused.sentence);
    assert!(refused.sentence.contains(&child.id().to_string()), "{}", refused.sentence);
    assert_eq!(refused.sentence.matches("is in use").count(), 1, "{}", refused.sentence);
    child.wait().expect("a child can be waited for");
    std::fs::remove_dir_all(directory).expect("it is there");
}

#[test]
fn too_little_lockable_memory_says_what_to_raise() {
    let directory = fresh_directory("memlock");
    let script = format!("ulimit -l 64 && exec {BINARY} run --listen 127.0.0.1:0 --data {}/data", directory.display());
    let refused = refused(Command::new("bash").arg("-c").arg(script));
    assert_eq!(refused.status, Some(21), "{}", refused.sentence);
    assert!(refused.sentence.contains("LimitMEMLOCK"), "{}", refused.sentence);
    std::fs::remove_dir_all(directory).expect("it is there");
}

#[test]
fn clients_never_take_the_descriptors_that_the_log_needs() {
    let directory = fresh_directory("descriptors");
    let data = directory.join("data");
    let address = free_address();
    let script = format!(
        "ulimit -n 560 && exec {BINARY} run --listen {address} --segment-bytes-min 1048576 --segment-bytes-max 1048576 \
         --data {}",
        data.display()
    );
    let log = std::fs::File::create(directory.join("log")).expect("it can be made");
    let mut child = Command::new("bash").arg("-c").arg(script).stderr(log).spawn().expect("bash is there");
    let mut client = crate::cluster::Connection::open(address);
    assert_eq!(client.call("use default"), "USING default");
    let many: Vec<_> = (0..600).map(|_| std::net::TcpStream::connect(address)).collect();
    // Each segment that is begun takes a descriptor.
    let body = "x".repeat(60_000);
    for _ in 0..100 {
        client.put(&body);
    }
    let bodies = (0..100).filter_map(|_| client.reserve(0)).filter(|(_, found)| *found == body).count();
    assert_eq!(bodies, 100);
    drop(many);
    child.kill().expect("it runs");
    child.wait().expect("a child can be waited for");
    let log = std::fs::read_to_string(directory.join("log")).expect("it was written");
    assert!(log.contains("LimitNOFILE"), "{log}");
    std::fs::remove_dir_all(directory).expect("it is there");
}
