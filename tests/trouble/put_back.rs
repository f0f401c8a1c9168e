//! A host that comes back from an older image, with real processes: it is refused by all, and the others keep their word.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;

/// As a backup would copy it, while its node does not run.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("there is a cp");
    assert!(copied.success());
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn c1_a_follower_on_an_older_copy_of_its_directory_ends_with_16_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start("put-back");
    let place = cluster.follower();
    let image = cluster.directory.join("image");
    assert_eq!(cluster.nodes[place].stop().code(), Some(0));
    copy(&cluster.nodes[place].data, &image);
    cluster.nodes[place].start();
    cluster.leader();
    // Only the leader and this follower have what is put now.
    let leader = cluster.leader();
    let third = (0..3).find(|node| *node != leader && *node != place).expect("three nodes");
    assert_eq!(cluster.nodes[third].stop().code(), Some(0));
    let mut client = cluster.nodes[place].connect();
    let put: Vec<u64> = (0..20).map(|_| client.put("acknowledged")).collect();
    drop(client);
    assert_eq!(cluster.nodes[place].stop().code(), Some(0));

    let data = cluster.nodes[place].data.clone();
    std::fs::rename(&data, cluster.directory.join("newer")).expect("nobody uses it");
    copy(&image, &data);
    cluster.nodes[place].start();
    // With one copy of what was put, nobody is served: better than without it.
    let refused = cluster.nodes[place].wait();
    let log = cluster.nodes[place].log();
    assert_eq!(refused.code(), Some(16), "{log}");
    assert!(log.contains("came back with an older copy of its data directory"), "{log}");
    let number = cluster.nodes[place].number as u64;
    let alert = cluster.nodes[leader].log();
    assert!(alert.contains("has one copy now: bring up all other members"), "{alert}");

    cluster.nodes[third].start();
    cluster.leader();
    let mut worker = cluster.nodes[third].connect();
    let mut found: Vec<u64> = Vec::new();
    while let Some((id, _)) = worker.reserve(1) {
        found.push(id);
        worker.call(&format!("delete {id}"));
    }
    assert_eq!(found, put);
    for node in [leader, third] {
        let is_told = || {
            let status = cluster.nodes[node].status();
            status.is_some_and(|status| status["shards"][0]["shut_out"][0] == number)
        };
        until("word of it in every status", is_told);
    }
    // Whoever was away when it came back refuses it, too, also alone.
    cluster.nodes[leader].stop();
    cluster.nodes[place].start();
    assert_eq!(cluster.nodes[place].wait().code(), Some(16));
    cluster.nodes[leader].start();
    cluster.leader();
    // Nor may the newer directory take part again.
    std::fs::remove_dir_all(&data).expect("nobody uses it");
    std::fs::rename(cluster.directory.join("newer"), &data).expect("it was kept");
    cluster.nodes[place].start();
    assert_eq!(cluster.nodes[place].wait().code(), Some(16));
}

#[test]
fn c1_a_directory_of_which_a_part_was_put_back_is_not_opened() {
    let mut cluster = Cluster::start("put-back-in-part");
    let place = cluster.follower();
    let image = cluster.directory.join("image");
    cluster.nodes[place].stop();
    copy(&cluster.nodes[place].data, &image);
    cluster.nodes[place].start();
    cluster.leader();
    cluster.nodes[place].stop();
    let vote = cluster.nodes[place].data.join("shard-0").join("vote");
    let newer = std::fs::read(&vote).expect("it is there");
    std::fs::copy(image.join("shard-0").join("vote"), &vote).expect("it can be written");
    cluster.nodes[place].start();
    let refused = cluster.nodes[place].wait();
    assert_eq!(refused.code(), Some(17), "{}", cluster.nodes[place].log());
    // Nothing was changed by that: with its own vote it starts.
    std::fs::write(&vote, newer).expect("it can be written");
    cluster.nodes[place].start();
    cluster.leader();
}
