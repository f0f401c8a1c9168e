//! Cold data that rots: files that were written once, long ago, and are damaged while the node is off or runs. No job may be
//! said not to be there that is; what can be made whole again is, and where nobody can, the node says so.

use std::path::{Path, PathBuf};

use super::installs::{assert_holds, go_on_until_floors_are_above, puts_big, shortened};
use super::stage::{Client, Stage};
use crate::io::Disk;
use crate::sim::dialogue::{Asked, Said};
use crate::sim::disk::block_on::block_on;
use crate::sim::latency::DiskSpeed;
use crate::sim::oracle::medium::faults_of;
use crate::types::{Index, NodeId, ShardId};
use crate::wal::directory::{identify, manifest_path};
use crate::wal::manifest::Manifest;

const SNAPSHOTS: &str = "/data/shard-0/snapshots";

/// Until these nodes' logs begin somewhere above their beginning, and more than once; the jobs that are left.
pub(super) fn raise_floors(stage: &Stage, nodes: &[NodeId], client: &Client<'_>) -> Vec<u64> {
    go_on_until_floors_are_above(stage, nodes, Index(100), client)
}

pub(super) fn files(stage: &Stage, node: NodeId, dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(dir);
    let files = block_on(stage.member(node).disk().image().list(dir)).expect("it can be read");
    files.iter().map(|file| dir.join(&file.name)).collect()
}

pub(super) fn damage(stage: &Stage, node: NodeId, files: &[PathBuf], byte: u64) {
    files.iter().for_each(|path| stage.member(node).disk().flip_bit(path, byte * 8).expect("it is there"));
}

#[test]
fn a_node_that_lost_every_snapshot_above_which_its_log_begins_takes_one_of_another_and_keeps_its_jobs() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    let mut jobs = raise_floors(&stage, &[away], &client);
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    stage.cluster.kill(stage.member(away));
    let snapshots = files(&stage, away, SNAPSHOTS);
    assert!(snapshots.len() >= 2, "{snapshots:?}");
    damage(&stage, away, &snapshots, 5_000);
    jobs.extend((0..5).map(|_| client.puts(b"meanwhile")));
    // Alone it has no state to serve from, and says so as long as it waits.
    [leader, other].iter().for_each(|node| stage.cut_both(away, *node));
    stage.cluster.start(stage.member(away));
    stage.pass(2_000);
    let (status, _) = stage.member(away).status().expect("it runs");
    assert!(status.shards[0].repair.is_some(), "{status:?}");
    stage.heal();
    stage.wait_for(60_000, "the one that lost them", || stage.is_settled());
    assert_eq!(metric(&stage, away, "installs_total"), 1);
    // What its own files below the floor hold came from nobody.
    assert!(metric(&stage, away, "pulled_jobs_total") < jobs.len() as u64);
    assert_eq!(stage.member(away).starts(), 2);
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

#[test]
fn a_single_node_that_lost_every_snapshot_above_which_its_log_begins_says_so_and_ends() {
    let stage = Stage::with(1, shortened);
    let node = stage.leader();
    let client = stage.client(node);
    raise_floors(&stage, &[node], &client);
    stage.cluster.kill(stage.member(node));
    damage(&stage, node, &files(&stage, node, SNAPSHOTS), 5_000);
    stage.cluster.start(stage.member(node));
    stage.pass(2_000);
    let (status, why) = stage.member(node).ended().expect("it has no state to serve from");
    assert_eq!(status, 30, "{why}");
    assert!(why.contains(SNAPSHOTS) && why.contains("do not delete anything"), "{why}");
}

/// What a manifest of another time would do, which an inspection finds.
fn forget_stores(stage: &Stage, node: NodeId) {
    let disk = stage.member(node).disk().without_latency();
    let data = Path::new("/data");
    let identity = block_on(identify(&disk, data)).expect("it was prepared").log(ShardId(0));
    let path = manifest_path(data, ShardId(0));
    let mut manifest = block_on(Manifest::load(&disk, &path, &identity)).expect("it is whole");
    assert!(!manifest.stores.is_empty(), "nothing was moved");
    manifest.stores.clear();
    block_on(manifest.save(&disk, &path, &identity)).expect("there is room");
    files(stage, node, STORES).iter().for_each(|store| disk.lose(store));
    let found = faults_of(&disk.image(), data, ShardId(0)).expect("it can be read");
    assert!(found.len() == 1 && found[0].what.contains("lives in the newest snapshot"), "{found:?}");
}

#[test]
fn a_node_whose_files_can_no_longer_hold_a_job_that_lives_finds_that_as_it_starts_and_takes_it_from_another() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    let jobs = raise_floors(&stage, &[away], &client);
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    stage.cluster.kill(stage.member(away));
    forget_stores(&stage, away);
    stage.cluster.start(stage.member(away));
    stage.wait_for(60_000, "the one that lost them", || stage.is_settled());
    assert_eq!((stage.member(away).starts(), metric(&stage, away, "installs_total")), (2, 1));
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

#[test]
fn a_single_node_whose_files_can_no_longer_hold_a_job_that_lives_names_it_and_does_not_serve() {
    let stage = Stage::with(1, shortened);
    let node = stage.leader();
    let client = stage.client(node);
    let jobs = raise_floors(&stage, &[node], &client);
    stage.cluster.kill(stage.member(node));
    forget_stores(&stage, node);
    stage.cluster.start(stage.member(node));
    stage.pass(2_000);
    let (status, why) = stage.member(node).ended().expect("it would have to say of a job that it is not there");
    assert_eq!(status, 30, "{why}");
    let named = |job: &u64| why.contains(&format!("shard 0: job {job} lives"));
    assert!(jobs.iter().any(named) && why.contains("do not delete anything"), "{why}");
}

/// Found by seeds in which files below the log rot: the node did not start any more.
#[test]
fn a_node_that_cannot_read_the_head_of_an_old_segment_has_what_was_in_it_from_the_others() {
    let stage = Stage::with(3, |tunables| {
        shortened(tunables);
        // What is old stays where it was written.
        tunables.compaction_waste_percent = 90;
    });
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    let mut jobs: Vec<u64> = (0..100).map(|_| puts_big(&client)).collect();
    jobs.extend(go_on_until_floors_are_above(&stage, &[away], Index(200), &client));
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    stage.cluster.kill(stage.member(away));
    let with_rows = files(&stage, away, "/data/shard-0/wal");
    let oldest =
        with_rows.iter().find(|path| path.extension().is_some_and(|end| end == "rows")).expect("there are rows");
    stage.member(away).disk().make_unreadable(&oldest.with_extension("seg"), 0, 512).expect("it is there");
    stage.cluster.start(stage.member(away));
    stage.wait_for(60_000, "the one that cannot read", || stage.is_settled());
    assert_eq!((stage.member(away).starts(), metric(&stage, away, "installs_total")), (2, 1));
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

/// Found by seed 505 of runs in which only files below the log rot: the same was offered and pulled for ever.
#[test]
fn a_snapshot_that_has_rotted_where_it_is_pulled_from_gives_way_to_another() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [away, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(other);
    stage.cluster.kill(stage.member(away));
    let jobs = raise_floors(&stage, &[leader, other], &client);
    // Time in which a load that has ended is marked; from then on nobody asks anything.
    stage.pass(3_000);
    damage(&stage, leader, &files(&stage, leader, SNAPSHOTS), 5_000);
    stage.cluster.start(stage.member(away));
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    assert_eq!((stage.leader(), metric(&stage, away, "installs_total")), (leader, 1));
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

const STORES: &str = "/data/shard-0/store";

pub(super) fn metric(stage: &Stage, node: NodeId, name: &str) -> u64 {
    stage.pass(500);
    let (_, metrics) = stage.member(node).status().expect("it runs");
    let start = format!("beaver_raft_{name}{{shard=\"0\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().expect("a number")
}

/// Where in a store segment its rows stand, behind their header.
fn rows_in_store(stage: &Stage, node: NodeId, path: &Path) -> u64 {
    let block = stage.member(node).disk().peek(path, 0, 64).expect("it is there");
    u64::from_le_bytes(block[40..48].try_into().expect("eight bytes")) + 128
}

/// Rots what says where jobs are, in every file that has it.
pub(super) fn damage_rows(stage: &Stage, node: NodeId) {
    let stores = files(stage, node, STORES);
    assert!(!stores.is_empty(), "what is old was moved into store segments");
    for path in &stores {
        damage(stage, node, std::slice::from_ref(path), rows_in_store(stage, node, path));
    }
    let rows = files(stage, node, "/data/shard-0/wal");
    let rows: Vec<PathBuf> =
        rows.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rows")).collect();
    damage(stage, node, &rows, 128);
}

/// Everything that a client can ask by a job's id, first with no other job known.
fn assert_all_answer(stage: &Stage, node: NodeId, jobs: &mut Vec<u64>) {
    let client = stage.client(node);
    let deleted = jobs.remove(0);
    assert_eq!(client.says(Asked::Delete(deleted)).answer, Ok(Said::Deleted), "job {deleted} at node {node}");
    let asked = jobs[1];
    let stats = client.says(Asked::StatsJob(asked)).answer;
    assert!(matches!(&stats, Ok(Said::Okay(_))), "job {asked} at node {node}: {stats:?}");
    assert_holds(stage, node, jobs);
    let gone = client.says(Asked::Peek(deleted)).answer;
    assert_eq!(gone, Ok(Said::NotFound));
}

#[test]
fn jobs_whose_rows_have_rotted_are_there_for_whoever_asks_and_the_rows_are_made_again() {
    for nodes in [1, 3] {
        let stage = Stage::with(nodes, |tunables| {
            shortened(tunables);
            tunables.recent_bytes_max = 1 << 20;
        });
        let all = stage.nodes();
        let mut jobs = raise_floors(&stage, &all, &stage.client(all[0]));
        stage.wait_for(5_000, "agreement", || stage.is_settled());
        // On every node at once: there is no other to ask.
        all.iter().for_each(|node| stage.cluster.kill(stage.member(*node)));
        for &node in &all {
            damage_rows(&stage, node);
            stage.cluster.start(stage.member(node));
        }
        stage.wait_for(10_000, "a leader", || stage.is_settled());
        for &node in &all {
            assert_all_answer(&stage, node, &mut jobs);
            assert!(metric(&stage, node, "mended_files_total") > 0);
            assert_eq!(metric(&stage, node, "damaged_files"), 0);
            assert_eq!(stage.member(node).starts(), 2, "it never ended");
        }
        stage.clear();
    }
}

/// Zeros in the place of the first records of each store segment.
pub(super) fn damage_records(stage: &Stage, node: NodeId) {
    for path in files(stage, node, STORES) {
        stage.member(node).disk().poke(&path, 4096, &[0; 4096]).expect("it is there");
    }
}

#[test]
fn bodies_that_have_rotted_are_given_out_from_copies_once_and_then_stand_here_again() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [node, other] = stage.others(leader)[..] else { unreachable!() };
    let jobs = raise_floors(&stage, &[node], &stage.client(other));
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    damage_records(&stage, node);
    assert_holds(&stage, node, &jobs);
    stage.pass(2_000);
    let sought = metric(&stage, node, "copies_sought_total");
    assert!(sought > 0 && metric(&stage, node, "mended_files_total") > 0);
    assert_eq!(metric(&stage, node, "damaged_files"), 0);
    assert_holds(&stage, node, &jobs);
    assert_eq!(metric(&stage, node, "copies_sought_total"), sought, "they are read here");
    assert_eq!(stage.member(node).starts(), 1);
    stage.clear();
}

#[test]
fn a_body_that_has_rotted_where_there_is_no_other_node_ends_it_with_its_name_and_the_job_can_be_deleted() {
    let stage = Stage::with(1, shortened);
    let node = stage.leader();
    let jobs = raise_floors(&stage, &[node], &stage.client(node));
    // The first record of the first file.
    damage(&stage, node, &files(&stage, node, STORES)[..1], 4096 + 60);
    let lost = jobs[0];
    let client = stage.client(node);
    client.ask(Asked::Peek(lost));
    stage.wait_for(15_000, "the end", || stage.member(node).ended().is_some());
    let (status, why) = stage.member(node).ended().expect("just seen");
    assert_eq!(status, 35, "{why}");
    assert!(why.contains("/store/") && why.contains("offset 4096") && why.contains(&format!("job {lost} ")), "{why}");
    assert!(client.heard().iter().all(|heard| heard.answer != Ok(Said::NotFound)), "it is there");
    stage.cluster.start(stage.member(node));
    stage.wait_for(10_000, "a leader", || stage.is_settled());
    assert_eq!(stage.client(node).says(Asked::Delete(lost)).answer, Ok(Said::Deleted));
    assert_holds(&stage, node, &jobs[1..]);
}

/// Nobody asks for a job meanwhile.
#[test]
fn what_rots_in_the_cold_data_of_one_node_is_found_and_made_whole_without_anybody_reading_it() {
    let stage = Stage::with(3, shortened);
    let leader = stage.leader();
    let [node, other] = stage.others(leader)[..] else { unreachable!() };
    let jobs = raise_floors(&stage, &[node], &stage.client(other));
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    assert_eq!(metric(&stage, node, "scrub_faults_total"), 0);
    damage_records(&stage, node);
    damage_rows(&stage, node);
    let snapshots = files(&stage, node, SNAPSHOTS);
    damage(&stage, node, &snapshots[..1], 5_000);
    let damaged = files(&stage, node, STORES).len() as u64;
    let passes = metric(&stage, node, "scrub_passes_total");
    stage.pass(130_000);
    assert!(metric(&stage, node, "scrub_passes_total") > passes);
    assert!(metric(&stage, node, "scrub_faults_total") > damaged, "the rows of segments and a snapshot, too");
    assert!(metric(&stage, node, "mended_files_total") >= damaged);
    assert!(metric(&stage, node, "scrubbed_bytes_total") > 0 && metric(&stage, node, "scrub_files_left") == 0);
    assert_eq!((metric(&stage, node, "damaged_files"), metric(&stage, node, "copies_sought_total")), (0, 0));
    // What stands there now is whole: it is read here, though no other node could give it.
    let faults = metric(&stage, node, "scrub_faults_total");
    stage.pass(65_000);
    assert_eq!(metric(&stage, node, "scrub_faults_total"), faults);
    assert_holds(&stage, node, &jobs);
    assert_eq!(metric(&stage, node, "copies_sought_total"), 0);
    assert_eq!(stage.member(node).starts(), 1);
    stage.clear();
}

/// A look that takes as long as it does on a slow disk holds no file that is given up.
#[test]
fn files_go_while_they_are_being_looked_at_and_that_is_no_fault() {
    let stage = Stage::with(1, shortened);
    let node = stage.leader();
    let client = stage.client(node);
    let jobs = raise_floors(&stage, &[node], &client);
    let stores = files(&stage, node, STORES);
    assert!(!stores.is_empty());
    // One block takes about as long as a pass may take.
    let slow = DiskSpeed { bulk_bytes_per_ms: 1, ..DiskSpeed::default() };
    stage.pass(61_000);
    stage.member(node).latency.set_speed(slow);
    let passes = metric(&stage, node, "scrub_passes_total");
    stage.member(node).latency.set_speed(DiskSpeed::default());
    jobs.iter().for_each(|job| assert_eq!(client.says(Asked::Delete(*job)).answer, Ok(Said::Deleted)));
    stage.member(node).latency.set_speed(slow);
    stage.pass(61_000);
    assert_eq!(metric(&stage, node, "scrub_passes_total"), passes, "one is under way");
    for _ in 0..400 {
        let job = puts_big(&client);
        assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
    }
    stage.wait_for(600_000, "the files to go", || {
        let now = files(&stage, node, STORES);
        stores.iter().all(|store| !now.contains(store))
    });
    stage.member(node).latency.set_speed(DiskSpeed::default());
    stage.pass(130_000);
    assert_eq!(metric(&stage, node, "scrub_faults_total"), 0);
    stage.clear();
}
