//! Nodes that are behind the log: what the others have kept no longer reaches back to them, so they take a snapshot of another node in the
//! place of their log. They must come back with every job, and have lost nothing that they acknowledged.

use super::stage::{Client, Stage};
use crate::config::Tunables;
use crate::sim::dialogue::{Asked, Said};
use crate::sim::disk::{Crash, SectorOdds};
use crate::types::{Index, NodeId};

const POWER_CUT: Crash = Crash::Power(SectorOdds::OLD);

/// Snapshots often, short segments, and the log kept for nobody.
fn shortened(tunables: &mut Tunables) {
    tunables.segment_bytes_max = 65_536;
    tunables.snapshot_every_bytes = 16 << 10;
    tunables.lagging_bytes_max = 0;
}

fn big() -> Asked {
    Asked::Put { priority: 1, delay_s: 0, ttr_s: 600, body: bytes::Bytes::from_static(&[b'b'; 1500]) }
}

/// Puts and deletes until the log of every running node begins above what `node` has; the jobs that are left.
fn go_on_past(stage: &Stage, node: NodeId, client: &Client<'_>) -> Vec<u64> {
    let reached = stage.cluster.medium_log(stage.member(node)).expect("a sound disk").last();
    let others: Vec<NodeId> = stage.others(node);
    let mut kept = Vec::new();
    for round in 0..2_000 {
        let job = match client.says(big()).answer {
            Ok(Said::Inserted(job)) => job,
            other => panic!("{other:?}"),
        };
        if round % 10 == 0 {
            kept.push(job);
        } else {
            assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
        }
        let floors = others.iter().map(|other| floor(stage, *other));
        if round % 20 == 0 && floors.into_iter().all(|floor| floor > reached) {
            return kept;
        }
    }
    panic!("the logs of the others still begin where they did");
}

fn floor(stage: &Stage, node: NodeId) -> Index {
    stage.cluster.medium_log(stage.member(node)).expect("a sound disk").floor
}

/// Every one of these jobs is there for a client of this node, and no other.
fn assert_holds(stage: &Stage, node: NodeId, jobs: &[u64]) {
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

/// Found by the first seeds with floors in clusters: what a store segment says of a job's place was looked up in its entry.
#[test]
fn a_job_that_was_moved_into_a_store_segment_is_read_from_there_though_its_entry_is_in_memory_still() {
    let stage = Stage::with(1, shortened);
    let node = stage.leader();
    let client = stage.client(node);
    let mut kept = Vec::new();
    for round in 0.. {
        let Ok(Said::Inserted(job)) = client.says(big()).answer else { panic!("a put was not answered") };
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
