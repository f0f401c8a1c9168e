//! Disks stay flat, whatever happened before: an old job that lives on pins nothing, and neither does one that comes back for ever.
//!
//! `AGED_CYCLES=1000000 cargo test --release --test aged flat -- --nocapture` is a larger scale.

use std::path::Path;

use crate::cluster::{Cluster, Connection, Node, id_of};
use crate::{OFTEN, eventually, shown};

const CLIENTS: usize = 8;

/// What a node with settings of [`OFTEN`] may take while nearly nothing lives: two intervals between markers, what was written while
/// a snapshot was taken, two spare segments, one that is being written, rows, two snapshots, a store segment, and the small files.
const CONSTANT_BYTES: u64 = 2 << 20;

fn cycles() -> usize {
    std::env::var("AGED_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(8_000)
}

/// What all files below a directory take.
fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Given up meanwhile.
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// Buries a job in the first segment of the log.
fn bury(node: &Node) -> u64 {
    let mut connection = node.connect();
    connection.put("an old job");
    let (job, _) = connection.reserve(10).expect("it is ready");
    assert_eq!(connection.call(&format!("bury {job} 0")), "BURIED");
    job
}

/// Runs a cycle `cycles()` times in all over several connections, and sees after each tenth of them what the disks take.
fn stays_flat(
    name: &str,
    begin: impl Fn(&mut Connection, usize) + Sync,
    cycle: impl Fn(&mut Connection, usize) + Sync,
) {
    let mut cluster = Cluster::prepare_with(name, OFTEN);
    cluster.start_all();
    let leader = cluster.leader();
    let old = bury(&cluster.nodes[leader]);
    let mut connections: Vec<Connection> = (0..CLIENTS).map(|_| cluster.nodes[leader].connect()).collect();
    connections.iter_mut().enumerate().for_each(|(client, connection)| begin(connection, client));
    let mut most = 0;
    for _ in 0..10 {
        std::thread::scope(|scope| {
            for (client, connection) in connections.iter_mut().enumerate() {
                let cycle = &cycle;
                scope.spawn(move || (0..cycles() / 10 / CLIENTS).for_each(|_| cycle(connection, client)));
            }
        });
        for node in &cluster.nodes {
            // What is written faster than files are given up may be more for a moment.
            eventually("a small disk", || bytes_below(&node.data) < CONSTANT_BYTES);
            most = most.max(bytes_below(&node.data));
        }
    }
    let written = shown(&cluster.nodes[leader], "committed") * 4096;
    println!("{name}: {} cycles, at least {written} bytes of log, at most {most} bytes on a disk", cycles());
    assert!(written > 3 * CONSTANT_BYTES, "too little was written to show anything: {written} bytes");
    let kept = cluster.nodes[leader].connect().call(&format!("peek {old}"));
    assert_eq!(id_of(&kept, "FOUND"), old);
}

#[test]
fn puts_and_deletes_without_end_leave_disks_flat_under_an_old_buried_job() {
    let body = "x".repeat(200);
    let cycle = |connection: &mut Connection, _| {
        let job = connection.put(&body);
        assert_eq!(connection.call(&format!("delete {job}")), "DELETED");
    };
    stays_flat("puts-flat", |_, _| {}, cycle);
}

#[test]
fn jobs_that_are_released_with_a_delay_without_end_leave_disks_flat() {
    let tube = |client| format!("tube-{client}");
    let begin = |connection: &mut Connection, client| {
        assert_eq!(connection.call(&format!("use {}", tube(client))), format!("USING {}", tube(client)));
        assert_eq!(connection.call(&format!("watch {}", tube(client))), "WATCHING 2");
        assert_eq!(connection.call("ignore default"), "WATCHING 1");
        connection.put(&"x".repeat(200));
    };
    let cycle = |connection: &mut Connection, _| {
        let (job, _) = connection.reserve(10).expect("it is ready");
        assert_eq!(connection.call(&format!("release {job} 100 3600")), "RELEASED");
        assert_eq!(connection.call(&format!("kick-job {job}")), "KICKED");
    };
    stays_flat("released-flat", begin, cycle);
}
