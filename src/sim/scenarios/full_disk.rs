//! Disks without room. What frees room always works, what takes room is refused before anything was written of it, and
//! nobody is asked for more than it has.

use std::path::Path;

use super::stage::{ELECTION_TIMEOUT_MAX_MS, Stage, put};
use crate::sim::dialogue::{Asked, Said};
use crate::sim::disk::{Crash, SectorOdds};
use crate::types::NodeId;

const MIB: u64 = 1 << 20;

fn used(stage: &Stage, node: NodeId) -> u64 {
    stage.member(node).disk().used_bytes()
}

/// Leaves a node so many bytes.
fn leave(stage: &Stage, node: NodeId, bytes: u64) {
    stage.member(node).disk().set_capacity(used(stage, node) + bytes);
}

fn last_index(stage: &Stage) -> u64 {
    stage.cluster.oracle().committed().get().0
}

/// Two of three disks are below their reserve of 16 MiB, not full.
#[test]
fn below_the_reserve_of_a_majority_puts_are_refused_unproposed_and_everything_else_goes_on() {
    let stage = Stage::new(3);
    let leader = stage.leader();
    let worker = stage.client(stage.others(leader)[0]);
    let ids: Vec<u64> = (0..300).map(|_| worker.puts(b"put while there was room")).collect();
    for node in stage.others(leader) {
        leave(&stage, node, 12 * MIB);
    }
    // Each node looks at its disk once a second.
    stage.pass(2_500);
    let before = last_index(&stage);
    for node in stage.nodes() {
        assert_eq!(stage.client(node).says(put(b"no room")).answer, Ok(Said::OutOfMemory), "at node {node}");
    }
    assert_eq!(last_index(&stage), before, "a refused put is no entry");
    for chunk in ids.chunks(4) {
        let [a, b, c, d] = chunk[..] else { panic!("four jobs at a time") };
        chunk.iter().for_each(|id| assert_eq!(worker.reserves(), *id));
        assert_eq!(worker.says(Asked::Bury { id: b, priority: 1 }).answer, Ok(Said::Buried));
        assert_eq!(worker.says(Asked::KickJob(b)).answer, Ok(Said::JobKicked));
        assert_eq!(worker.says(Asked::Release { id: c, priority: 1, delay_s: 0 }).answer, Ok(Said::Released));
        assert_eq!(worker.says(Asked::Touch(d)).answer, Ok(Said::Touched));
        for id in [a, b, c, d] {
            assert_eq!(worker.says(Asked::Delete(id)).answer, Ok(Said::Deleted));
        }
    }
    for node in stage.nodes() {
        stage.member(node).disk().set_capacity(1 << 30);
    }
    stage.pass(2_500);
    worker.puts(b"there is room again");
    stage.clear();
}

#[test]
fn a_minority_without_room_refuses_nothing() {
    let stage = Stage::new(3);
    leave(&stage, stage.leader(), 12 * MIB);
    stage.pass(2_500);
    for node in stage.nodes() {
        stage.client(node).puts(b"two of three have room");
    }
    stage.clear();
}

/// The vote's file holds its room from the beginning: not one free byte is needed to elect a leader, and what is left in
/// the segments takes acknowledgements.
#[test]
fn with_not_one_byte_left_anywhere_a_leader_is_elected_and_jobs_are_deleted() {
    let stage = Stage::new(3);
    let (dead, term) = stage.leader_and_term();
    let [one, other] = stage.others(dead)[..] else { unreachable!() };
    let worker = stage.client(one);
    let ids: Vec<u64> = (0..5).map(|_| worker.puts(b"a job")).collect();
    for node in stage.nodes() {
        leave(&stage, node, 0);
    }
    stage.pass(2_000);
    stage.cluster.kill(stage.member(dead));
    let oracle = stage.cluster.oracle();
    let new_leader = || oracle.leader().is_some_and(|led| led.1 > term);
    stage.wait_for(3 * ELECTION_TIMEOUT_MAX_MS, "new leader", new_leader);
    for id in ids {
        assert_eq!(worker.says(Asked::Delete(id)).answer, Ok(Said::Deleted));
    }
    assert_eq!(stage.client(other).says(put(b"no room")).answer, Ok(Said::OutOfMemory));
    // The vote was written, and no node took more than it had.
    for node in [one, other] {
        let disk = stage.member(node).disk();
        let vote = disk.files().into_iter().find(|(path, _)| path.ends_with(Path::new("shard-0/vote")));
        assert!(vote.is_some_and(|(_, bytes)| bytes > 0));
        assert_eq!(stage.member(node).ended(), None);
    }
    stage.clear();
}

/// Something else took every byte, and then the power went everywhere: what would make room is a delete, and for that nodes must start.
#[test]
fn nodes_that_lost_their_power_on_full_disks_start_on_them_and_jobs_are_deleted() {
    let stage = Stage::new(3);
    let ids: Vec<u64> = (0..5).map(|_| stage.client(stage.leader()).puts(b"a job")).collect();
    for node in stage.nodes() {
        let member = stage.member(node);
        leave(&stage, node, 0);
        stage.cluster.cut_power(member, Crash::Power(SectorOdds::OLD));
        // Also what came back with the cut is not to be had.
        leave(&stage, node, 0);
    }
    for round in 0..2 {
        for node in stage.nodes() {
            stage.cluster.start(stage.member(node));
        }
        stage.wait_for(5_000, "agreement of all nodes", || stage.is_settled());
        for node in stage.nodes() {
            assert_eq!(stage.member(node).ended(), None, "node {node}, round {round}");
            assert_eq!(stage.client(node).says(put(b"no room")).answer, Ok(Said::OutOfMemory));
        }
        // One after the other, on what the first start left.
        if round == 0 {
            for node in stage.nodes() {
                stage.cluster.kill(stage.member(node));
            }
        }
    }
    for (id, node) in ids.iter().zip(stage.nodes().into_iter().cycle()) {
        assert_eq!(stage.client(node).says(Asked::Delete(*id)).answer, Ok(Said::Deleted));
    }
    stage.clear();
}

#[test]
fn a_leader_whose_log_finds_no_room_hands_over_to_a_node_that_has_and_no_put_fails() {
    let stage = Stage::new(3);
    let (full, term) = stage.leader_and_term();
    let load = stage.load(stage.others(full)[0]);
    let filler = stage.client(stage.others(full)[1]);
    let begin = stage.now();
    leave(&stage, full, 0);
    let body: &'static [u8] = Box::leak(vec![b'x'; 30_000].into_boxed_slice());
    for _ in 0..60 {
        filler.ask(put(body));
        stage.pass(50);
    }
    let after = stage.leader_and_term();
    assert_ne!(after.0, full, "its log was full long ago");
    assert!(after.1 > term);
    stage.wait_for(3_000, "answers", || filler.heard().len() == 60);
    assert!(filler.heard().iter().all(|heard| matches!(heard.answer, Ok(Said::Inserted(_)))));
    load.assert_undelayed(begin, 30, 1_000);
    assert_eq!(stage.member(full).ended(), None, "want of room is no failed write");
    stage.clear();
}

#[test]
fn a_follower_without_room_delays_nobody_and_catches_up_when_there_is_room() {
    let stage = Stage::new(3);
    let before = stage.leader_and_term();
    let [full, well] = stage.others(before.0)[..] else { unreachable!() };
    leave(&stage, full, 0);
    let filler = stage.client(well);
    let load = stage.load(well);
    let begin = stage.now();
    let body: &'static [u8] = Box::leak(vec![b'x'; 30_000].into_boxed_slice());
    for _ in 0..60 {
        filler.ask(put(body));
        stage.pass(50);
    }
    load.assert_undelayed(begin, 30, 20);
    let oracle = stage.cluster.oracle();
    assert!(oracle.applied()[&full] < oracle.committed().get());
    assert_eq!(stage.leader_and_term(), before);
    stage.member(full).disk().set_capacity(1 << 30);
    stage
        .wait_for(5_000, "follower that has caught up", || oracle.committed().get().0 - oracle.applied()[&full].0 <= 2);
    assert_eq!(stage.leader_and_term(), before);
    stage.clear();
}

/// Rows that find no room wait; what is dead goes meanwhile, and makes it.
#[test]
fn files_in_which_nothing_lives_go_where_the_rows_of_a_segment_find_no_room() {
    const SEGMENT: u64 = 512 << 10;
    let stage = Stage::with(3, |tunables| {
        (tunables.segment_bytes_min, tunables.segment_bytes_max) = (SEGMENT, SEGMENT);
        tunables.snapshot_every_bytes = 160 << 10;
        tunables.lagging_bytes_max = 0;
        tunables.disk_reserve_bytes = 64 << 10;
        // A file goes as a whole.
        tunables.compaction_waste_percent = 90;
    });
    let client = stage.client(stage.others(stage.leader())[0]);
    let delete = |job| assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
    // Two segments of jobs that will be deleted, and the beginning of one with so many that their rows take much more than a snapshot.
    let jobs: Vec<u64> = (0..250).map(|_| client.puts(&[b'x'; 3_000])).collect();
    let before = client.heard().len();
    (0..3000).for_each(|_| client.ask(put(b"a job")));
    stage.wait_for(20_000, "answers", || client.heard().len() == before + 3000);
    stage.pass(5_000);
    for node in stage.nodes() {
        leave(&stage, node, 16 << 10);
    }
    stage.pass(2_500);
    assert_eq!(client.says(put(b"no room")).answer, Ok(Said::OutOfMemory));
    jobs.into_iter().for_each(delete);
    let mut seconds = (0..30).map(|_| stage.pass(1_000));
    assert!(seconds.any(|()| matches!(client.says(put(b"again")).answer, Ok(Said::Inserted(_)))), "there is no room");
    stage.clear();
}
