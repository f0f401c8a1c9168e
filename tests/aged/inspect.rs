//! `beaver-raft inspect` on the directory of a node that was killed: it sees every file and every fault, with its place, and changes
//! nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{BINARY, Cluster};
use crate::{OFTEN, eventually, shown};

struct Inspected {
    status: Option<i32>,
    found: serde_json::Value,
    text: String,
}

fn inspect(data: &Path, more: &[&str]) -> Inspected {
    let run = |extra: &[&str]| {
        let output = Command::new(BINARY).arg("inspect").arg("--data").arg(data).args(more).args(extra).output();
        let output = output.expect("the binary runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (status, json) = run(&["--json"]);
    let (same, text) = run(&[]);
    assert_eq!(status, same, "{text}");
    Inspected { status, found: serde_json::from_str(&json).unwrap_or_default(), text }
}

/// Each file and directory with all that a change would show in: times of content and of the inode in nanoseconds, and content.
fn everything(data: &Path) -> BTreeMap<PathBuf, (i128, i128, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![data.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::metadata(&path).expect("it is there");
        let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        let (changed, modified) =
            (nanoseconds(meta.ctime(), meta.ctime_nsec()), nanoseconds(meta.mtime(), meta.mtime_nsec()));
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&path).expect("it is a directory").map(|entry| entry.expect("an entry").path()));
            Vec::new()
        } else if meta.file_type().is_socket() {
            // A node that is killed leaves the one of its admin port.
            Vec::new()
        } else {
            fs::read(&path).expect("it is readable")
        };
        found.insert(path, (changed, modified, content));
    }
    found
}

/// A node's directory as SIGKILL left it, with two snapshots, a floor, store segments, and a log above; what lives is 300 jobs,
/// some of which were put behind the newest snapshot.
fn aged(name: &str) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::prepare_sharded(name, 1, 1, OFTEN);
    cluster.start_all();
    let node = &mut cluster.nodes[0];
    let mut connection = node.connect();
    for round in 0..300 {
        for turn in 0..5 {
            let id = connection.put(&format!("{round:0500}"));
            if turn > 0 {
                assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
            }
        }
    }
    eventually("store segments", || shown(node, "stores") > 0 && shown(node, "floor") > 0);
    // So that the log has its seal.
    std::thread::sleep(std::time::Duration::from_millis(200));
    node.kill();
    let data = node.data.clone();
    (cluster, data)
}

/// A directory with this damage, and what is found in it.
fn damaged(data: &Path, name: &str, harm: impl FnOnce(&Path)) -> (PathBuf, Inspected, Inspected) {
    let copy = data.with_file_name(name);
    let copied = Command::new("cp").arg("-r").arg(data).arg(&copy).status().expect("cp is there");
    assert!(copied.success());
    harm(&copy);
    let before = everything(&copy);
    let (quick, full) = (inspect(&copy, &[]), inspect(&copy, &["--verify"]));
    assert!(everything(&copy) == before, "{name}: a look at it has changed it");
    (copy, quick, full)
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is that long");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("it can be written");
}

/// The faults of the only shard, each with file and offset.
fn faults(inspected: &Inspected) -> Vec<(PathBuf, Option<u64>, String)> {
    let faults = inspected.found["shards"][0]["faults"].as_array().expect("a list").iter();
    let fault = |fault: &serde_json::Value| {
        let text = |key: &str| fault[key].as_str().expect("text").to_owned();
        (PathBuf::from(text("file")), fault["offset"].as_u64(), text("what"))
    };
    faults.map(fault).collect()
}

#[test]
fn a_directory_is_shown_as_it_is_and_each_fault_with_its_place_and_nothing_is_changed() {
    let (_cluster, data) = aged("inspected");
    let before = everything(&data);
    let (quick, full) = (inspect(&data, &[]), inspect(&data, &["--verify"]));
    assert!(everything(&data) == before, "a look at it has changed it");
    assert_eq!((quick.status, full.status), (Some(0), Some(0)), "{}", full.text);

    let shard = &full.found["shards"][0];
    let snapshots = shard["snapshots"].as_array().expect("a list");
    assert_eq!(snapshots.len(), 2, "{}", full.text);
    let ready = snapshots[0]["ready"].as_u64().expect("a number");
    assert!((200..=300).contains(&ready) && snapshots[0]["is_recounted"] == true, "{}", full.text);
    assert_eq!(quick.found["shards"][0]["snapshots"][0]["is_recounted"], false);
    // A single node is a majority: each marker names the fingerprint at the one before, which is the older snapshot's.
    let marker = shard["markers"].as_array().and_then(|markers| markers.last()).expect("a marker above the floor");
    assert_eq!((&marker["index"], &marker["about"]), (&snapshots[0]["index"], &snapshots[1]["index"]), "{}", full.text);
    assert_eq!(marker["fingerprint"], snapshots[1]["fingerprint"]);
    let files = shard["files"].as_array().expect("a list").clone();
    let live = |file: &serde_json::Value| file["live_jobs"].as_u64().unwrap_or_default();
    let below: u64 = files.iter().filter(|file| file["below_floor"] == true).map(live).sum();
    let above: u64 = files.iter().filter(|file| file["below_floor"] == false).map(live).sum();
    assert!(below > 100 && above > 0 && below + above <= ready, "{}", full.text);
    assert!(shard["floor"].as_u64() > Some(0) && shard["log"]["last"].as_u64() > snapshots[0]["index"].as_u64());

    let file = |kind: &str, is_below: bool| {
        let mut of_kind = files.iter().filter(|file| file["kind"] == kind && file["below_floor"] == is_below);
        of_kind.next().and_then(|file| file["name"].as_str()).map(str::to_owned)
    };
    let store = Path::new("shard-0/store").join(file("store", true).expect("a store segment"));
    let (copy, quick, full) = damaged(&data, "store", |copy| flip(&copy.join(&store), 4096 + 60));
    assert_eq!((quick.status, full.status), (Some(0), Some(30)), "{}", full.text);
    assert_eq!(faults(&full).len(), 1, "{}", full.text);
    assert_eq!((&faults(&full)[0].0, faults(&full)[0].1), (&copy.join(&store), Some(4096)));
    assert!(full.text.contains(&format!("FAULT: shard 0, {}, offset 4096: job ", copy.join(&store).display())));

    let segment = Path::new("shard-0/wal").join(file("segment", false).expect("a segment of the log"));
    let (copy, quick, full) = damaged(&data, "log", |copy| flip(&copy.join(&segment), 4096 + 300));
    assert_eq!((quick.status, full.status), (Some(0), Some(30)), "{}", full.text);
    assert_eq!((&faults(&full)[0].0, faults(&full)[0].1), (&copy.join(&segment), Some(4096)), "{}", full.text);

    let snapshot = Path::new("shard-0/snapshots").join(snapshots[0]["name"].as_str().expect("a name"));
    let (copy, quick, full) = damaged(&data, "snapshot", |copy| flip(&copy.join(&snapshot), 8192 + 5));
    for looked in [&quick, &full] {
        assert_eq!(looked.status, Some(30), "{}", looked.text);
        assert_eq!((&faults(looked)[0].0, faults(looked)[0].1), (&copy.join(&snapshot), Some(8192)), "{}", looked.text);
        assert_eq!(looked.found["shards"][0]["snapshots"].as_array().map(Vec::len), Some(1), "the other one is shown");
    }

    let (copy, quick, _) = damaged(&data, "vote", |copy| {
        (0..4).for_each(|slot| flip(&copy.join("shard-0/vote"), slot * 4096 + 20));
    });
    assert_eq!((quick.status, &faults(&quick)[0].0), (Some(30), &copy.join("shard-0/vote")), "{}", quick.text);

    let (copy, quick, _) = damaged(&data, "lost", |copy| fs::remove_file(copy.join(&store)).expect("it is there"));
    assert_eq!((quick.status, &faults(&quick)[0].0), (Some(30), &copy.join(&store)), "{}", quick.text);

    let (_, quick, _) = damaged(&data, "uncovered", |copy| {
        fs::remove_dir_all(copy.join("shard-0/snapshots")).expect("it is there");
    });
    assert!(faults(&quick).iter().any(|fault| fault.2.contains("no snapshot that can be used")), "{}", quick.text);
}

#[test]
fn the_directory_of_a_running_node_is_refused() {
    let mut cluster = Cluster::prepare_sharded("inspected-running", 1, 1, "");
    cluster.start_all();
    let output = Command::new(BINARY).arg("inspect").arg("--data").arg(&cluster.nodes[0].data).output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(12), "{}", String::from_utf8_lossy(&output.stderr));
}
