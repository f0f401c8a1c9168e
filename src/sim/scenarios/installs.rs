//! Nodes that are behind the log: what the others have kept no longer reaches back to them, so they take a snapshot of another node in the
//! place of their log. They must come back with every job, and have lost nothing that they acknowledged.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::stage::{Client, Stage};
use crate::cli::inspect::look_at;
use crate::cli::inspect::text::of_shard;
use crate::config::Tunables;
use crate::io::Disk;
use crate::sim::dialogue::{Asked, Said};
use crate::sim::disk::block_on::block_on;
use crate::sim::disk::{Crash, SectorOdds, SimDisk};
use crate::snapshot::inspection::inspect as inspect_snapshots;
use crate::types::{Index, NodeId, ShardId};
use crate::wal::directory::{identify, snapshots_dir};
use crate::wal::inspection::{FileFound, FileKind, inspect as inspect_log};

const POWER_CUT: Crash = Crash::Power(SectorOdds::OLD);

/// Snapshots often, short segments, and the log kept for nobody.
pub(super) fn shortened(tunables: &mut Tunables) {
    tunables.segment_bytes_max = 65_536;
    tunables.snapshot_every_bytes = 80 << 10;
    tunables.lagging_bytes_max = 0;
}

fn big() -> Asked {
    Asked::Put { priority: 1, delay_s: 0, ttr_s: 600, body: bytes::Bytes::from_static(&[b'b'; 1500]) }
}

pub(super) fn puts_big(client: &Client<'_>) -> u64 {
    match client.says(big()).answer {
        Ok(Said::Inserted(job)) => job,
        other => panic!("a put was not answered: {other:?}"),
    }
}

/// Puts and deletes until the log of every running node begins above what `node` has; the jobs that are left.
fn go_on_past(stage: &Stage, node: NodeId, client: &Client<'_>) -> Vec<u64> {
    let reached = stage.cluster.medium_log(stage.member(node)).expect("a sound disk").last();
    go_on_until_floors_are_above(stage, &stage.others(node), reached, client)
}

/// Puts and deletes until these nodes' logs begin above an entry; the jobs that are left, one in ten.
pub(super) fn go_on_until_floors_are_above(
    stage: &Stage,
    nodes: &[NodeId],
    reached: Index,
    client: &Client<'_>,
) -> Vec<u64> {
    let mut kept = Vec::new();
    for round in 0..2_000 {
        let job = puts_big(client);
        if round % 10 == 0 {
            kept.push(job);
        } else {
            assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
        }
        if round % 20 == 0 && nodes.iter().all(|node| floor(stage, *node) > reached) {
            return kept;
        }
    }
    panic!("the logs still begin where they did");
}

pub(super) fn floor(stage: &Stage, node: NodeId) -> Index {
    stage.cluster.medium_log(stage.member(node)).expect("a sound disk").floor
}

/// Every one of these jobs is there for a client of this node, and no other.
pub(super) fn assert_holds(stage: &Stage, node: NodeId, jobs: &[u64]) {
    let client = stage.client(node);
    for &job in jobs {
        let found = client.says(Asked::Peek(job)).answer;
        assert!(matches!(found, Ok(Said::Found { id, .. }) if id == job), "job {job} at node {node}: {found:?}");
    }
}

#[test]
fn a_follower_that_was_away_longer_than_the_log_goes_back_takes_a_snapshot_and_serves() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    let mut jobs: Vec<u64> = (0..5).map(|_| client.puts(b"before")).collect();
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    stage.cluster.kill(stage.member(away));
    jobs.extend(go_on_past(&stage, away, &client));
    stage.cluster.start(stage.member(away));
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    assert_eq!(stage.cluster.oracle().counts().installs, 1);
    assert_holds(&stage, away, &jobs);
    jobs.push(client.puts(b"after"));
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    // What it holds now is its own: it starts from it, and the two of them serve without the leader.
    stage.cluster.cut_power(stage.member(away), POWER_CUT);
    stage.cluster.start(stage.member(away));
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    stage.cluster.kill(stage.member(leader));
    stage.wait_for(5_000, "leader", || stage.cluster.oracle().leader().is_some_and(|led| led.0 != leader));
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

/// A cluster whose jobs are known, one node of which is off and behind the others' logs.
pub(super) fn with_one_behind(seed: u64, tune: impl FnOnce(&mut Tunables)) -> (Stage, NodeId, Vec<u64>) {
    let stage = Stage::seeded(seed, 3, |tunables| {
        shortened(tunables);
        tune(tunables);
    });
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    let mut jobs: Vec<u64> = (0..5).map(|_| client.puts(b"before")).collect();
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    stage.cluster.kill(stage.member(away));
    jobs.extend(go_on_past(&stage, away, &client));
    (stage, away, jobs)
}

/// How the first cut ends, and how the second one does. What a process wrote and nobody synced outlives it, and does not outlive
/// the power: it matters which of the two comes first.
fn ends(changes: u64) -> [[Crash; 2]; 3] {
    let mixed = Crash::Power(SectorOdds { new: 0.3, torn: 0.4, garbage: 0.2 });
    let powers = [POWER_CUT, Crash::Power(SectorOdds::NEW), mixed];
    let [power, another] = [changes, changes / 3].map(|at| powers[at as usize % powers.len()]);
    let alike = if changes.is_multiple_of(2) { [Crash::Process, Crash::Process] } else { [power, another] };
    [[Crash::Process, power], [power, Crash::Process], alike]
}

/// Cuts an install off in the midst of its so many-th change of the disk, and once more in what the first cut left to be completed;
/// how often it was.
fn cut_off(changes: u64, ends: [Crash; 2], seen: &mut Seen) -> u64 {
    let (stage, away, jobs) = with_one_behind(changes, |_| {});
    let member = stage.member(away);
    stage.cluster.start(member);
    let mut cut = 0;
    for (later, end) in [changes, changes % 17].into_iter().zip(ends) {
        let sprung = Rc::new(Cell::new(false));
        let told = Rc::clone(&sprung);
        member.disk().set_trap(later, move || told.set(true));
        stage.wait_for(60_000, "the one that was away", || stage.is_settled() || sprung.get());
        if !sprung.get() {
            break;
        }
        cut += 1;
        match end {
            Crash::Process => stage.cluster.kill(member),
            how => stage.cluster.cut_power(member, how),
        }
        seen.look(&member.disk());
        stage.cluster.start(member);
    }
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    assert_holds(&stage, away, &jobs);
    stage.clear();
    cut
}

/// Ends in the midst of each change of the disk that an install makes, and of what the start behind it does, in each way in which
/// a process or a host can end, one way behind another.
#[test]
fn s5_an_install_that_is_cut_off_at_any_change_of_the_disk_leaves_a_node_that_starts_and_installs() {
    let (mut twice, mut changes) = (0, 0);
    let mut seen = Seen::default();
    loop {
        let cuts = ends(changes).map(|ends| cut_off(changes, ends, &mut seen));
        if cuts == [0; 3] {
            break;
        }
        twice += cuts.iter().filter(|cut| **cut == 2).count();
        changes += 1;
    }
    assert!(
        changes > 40 && twice > 100,
        "an install changes the disk {changes} times only, cut off twice {twice} times"
    );
    assert!(seen.undecided > 10 && seen.decided > 10 && seen.half_moved > 2 && seen.deceptive > 2, "{seen:?}");
}

/// What `inspect --verify` says of disks on which an install was cut off.
#[derive(Debug, Default)]
struct Seen {
    undecided: u64,
    decided: u64,
    half_moved: u64,
    /// Whoever looked at the files as they lie there would take them for damaged.
    deceptive: u64,
}

impl Seen {
    /// Nothing is damaged, though not everything is in its place; and to look changes nothing.
    fn look(&mut self, disk: &SimDisk) {
        let (disk, data) = (disk.image(), Path::new("/data"));
        let (files, changes) = (disk.files(), disk.changes());
        let node = block_on(identify(&disk, data)).expect("it was prepared");
        let found = block_on(look_at(&disk, data, &node, ShardId(0), true)).expect("it can be read");
        let mut text = String::new();
        of_shard(&mut text, &found).expect("it is a string");
        assert!(found.log.faults.is_empty(), "{text}{files:#?}");
        assert_eq!((disk.files(), disk.changes()), (files.clone(), changes), "a look at it has changed it");
        let moved = |(path, _): &&(PathBuf, u64)| path.starts_with("/data/shard-0/install");
        let in_its_place = |file: &FileFound| file.kind != FileKind::LeftOver;
        match found.install {
            Some(install) => {
                self.decided += 1;
                let as_they_lie = async {
                    let identity = node.log(ShardId(0));
                    let snapshots = inspect_snapshots(&disk, &snapshots_dir(data, ShardId(0)), &identity, false).await;
                    inspect_log(&disk, data, &node, ShardId(0), (None, &snapshots.standing), true).await
                };
                let as_they_lie = block_on(as_they_lie).expect("it can be read");
                self.deceptive += u64::from(!as_they_lie.faults.is_empty());
                self.half_moved += u64::from(install.files_to_move > 0 && install.files_to_move < 3);
                assert!(text.contains("takes the log's place"), "{text}");
                assert_eq!((found.log.floor, found.pulled_bytes), (install.index, 0), "it is shown as it will be");
                assert!(found.log.files.iter().any(in_its_place), "{text}");
            }
            None if found.pulled_bytes > 0 => {
                self.undecided += 1;
                assert!(text.contains("not decided on") && files.iter().find(moved).is_some(), "{text}");
            }
            None => {}
        }
    }
}

/// The one that gives goes on meanwhile: jobs end, newer snapshots are kept, old ones and what lived in them would go.
#[test]
fn s1_s6_what_is_being_pulled_slowly_stays_although_jobs_end_and_snapshots_advance() {
    // One block takes half a second.
    let (stage, away, mut jobs) = with_one_behind(3, |tunables| tunables.bulk_bytes_per_second = 8_192);
    let leader = stage.leader();
    let snapshots = |node| {
        let dir = std::path::Path::new("/data/shard-0/snapshots");
        block_on(crate::snapshot::shelf::list(&stage.member(node).disk().durable_image(), dir)).expect("it can be read")
    };
    stage.cluster.start(stage.member(away));
    let pulls = || {
        let dir = std::path::Path::new("/data/shard-0/install");
        block_on(stage.member(away).disk().image().list(dir)).is_ok_and(|files| !files.is_empty())
    };
    stage.wait_for(30_000, "pull", pulls);
    let offered = snapshots(leader)[0].0;
    // What was kept so far ends, all but a few, and the log goes on past several snapshots.
    let client = stage.client(leader);
    for job in jobs.drain(5..) {
        assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
    }
    let mut rounds = 0;
    while snapshots(leader).iter().filter(|(index, _)| *index > offered).count() < 2 || rounds < 60 {
        let job = puts_big(&client);
        assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
        rounds += 1;
        assert!(rounds < 2_000, "no snapshots are kept");
    }
    assert_eq!(stage.cluster.oracle().counts().installs, 0, "it was to be slow");
    assert!(snapshots(leader).iter().any(|(index, _)| *index == offered), "what is being pulled was removed");
    stage.wait_for(600_000, "the one that was away", || stage.is_settled());
    assert_eq!(stage.cluster.oracle().counts().installs, 1);
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

/// What was durable on a node that is off is damaged, and the others have no copy any more: they have what came of it.
#[test]
fn a_damaged_entry_that_lies_below_every_other_log_is_no_loss_for_a_snapshot_takes_the_place_of_the_log() {
    let (stage, away, jobs) = with_one_behind(5, |_| {});
    let member = stage.member(away);
    let log = stage.cluster.medium_log(member).expect("a sound disk");
    let place = log.place_of(Index(3)).expect("it was durable");
    let path = crate::wal::directory::segments_dir(std::path::Path::new("/data"), crate::types::ShardId(0));
    let path = path.join(crate::wal::segment::file_name(place.segment));
    member.disk().flip_bit(&path, (place.offset + 100) * 8).expect("it is there");
    assert_eq!(stage.cluster.medium_log(member).expect("a log").faulty, [Index(3)]);
    stage.cluster.start(member);
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    assert!(floor(&stage, away) > log.last());
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

/// It finds that when it takes a snapshot, in the midst of its process's life. Seed 18 with snapshots.
#[test]
fn a_node_whose_own_files_are_damaged_when_it_takes_a_snapshot_pulls_every_job_and_goes_on() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    let mut jobs: Vec<u64> = (0..5).map(|_| client.puts(b"before")).collect();
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    stage.isolate(away);
    let member = stage.member(away);
    let place = stage.cluster.medium_log(member).expect("a sound disk").place_of(Index(3)).expect("it is durable");
    let dir = crate::wal::directory::segments_dir(std::path::Path::new("/data"), crate::types::ShardId(0));
    let path = dir.join(crate::wal::segment::file_name(place.segment));
    jobs.extend(go_on_past(&stage, away, &client));
    member.disk().flip_bit(&path, (place.offset + 100) * 8).expect("it is there");
    stage.heal();
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    assert_eq!(member.starts(), 1);
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

/// A file below the log's floor is written once, and may rot for years before somebody reads it.
#[test]
fn a_job_that_cannot_be_read_below_the_floor_is_given_out_from_a_copy_of_another_node() {
    let (stage, away, jobs) = with_one_behind(6, |tunables| tunables.recent_bytes_max = 1 << 20);
    stage.cluster.start(stage.member(away));
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    let dir = std::path::Path::new("/data/shard-0/store");
    let disk = stage.member(away).disk();
    let stores = block_on(disk.image().list(dir)).expect("it has store segments");
    // The second block of each: its first records.
    stores.iter().for_each(|file| disk.make_unreadable(&dir.join(&file.name), 4096, 512).expect("it is there"));
    assert_holds(&stage, away, &jobs);
    assert!(stage.cluster.is_running(stage.member(away)));
    stage.pass(500);
    let (_, metrics) = stage.member(away).status().expect("it runs");
    assert!(!metrics.contains("copies_sought_total{shard=\"0\"} 0"), "nothing was unreadable: {metrics}");
    stage.clear();
}

/// Found by the first seeds with floors in clusters: what a store segment says of a job's place was looked up in its entry.
#[test]
fn a_job_that_was_moved_into_a_store_segment_is_read_from_there_though_its_entry_is_in_memory_still() {
    let stage = Stage::with(1, shortened);
    let node = stage.leader();
    let client = stage.client(node);
    let mut kept = Vec::new();
    for round in 0.. {
        let job = puts_big(&client);
        if round % 10 == 0 {
            kept.push(job);
        } else {
            assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
        }
        let stores = stage.member(node).status().map_or(0, |(status, _)| status.shards[0].stores);
        if stores > 0 {
            break;
        }
        assert!(round < 2_000, "nothing was moved");
    }
    assert_holds(&stage, node, &kept);
    stage.clear();
}
