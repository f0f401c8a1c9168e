//! Snapshots that are offered and pulled while the cluster does something else: it elects, it is offered the same again, it
//! compacts. One that is behind must take one snapshot, once, and who gives it must lose nothing.

use super::installs::{assert_holds, floor, go_on_until_floors_are_above, shortened, with_one_behind};
use super::stage::Stage;
use crate::io::Disk;
use crate::sim::disk::block_on::block_on;
use crate::status::{InstallStatus, RoleName};
use crate::types::{Index, NodeId};

/// One block takes a second.
const SLOWLY: u64 = 4_096;

fn pulls(stage: &Stage, node: NodeId) -> bool {
    let dir = std::path::Path::new("/data/shard-0/install");
    block_on(stage.member(node).disk().image().list(dir)).is_ok_and(|files| !files.is_empty())
}

/// Time in which a load that has ended is marked: both that run have the snapshot that is offered, and in it what lives.
fn let_both_mark(stage: &Stage) {
    stage.pass(3_000);
}

fn counter(stage: &Stage, node: NodeId, name: &str) -> u64 {
    let (_, metrics) = stage.member(node).status().expect("it runs");
    let start = format!("beaver_raft_{name}{{shard=\"0\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().expect("a number")
}

fn install(stage: &Stage, node: NodeId) -> Option<InstallStatus> {
    stage.member(node).status().and_then(|(status, _)| status.shards[0].install)
}

#[test]
fn s3_a_snapshot_takes_the_place_of_the_log_of_a_node_that_stands_for_election_meanwhile() {
    let (stage, away, jobs) = with_one_behind(11, |tunables| tunables.bulk_bytes_per_second = SLOWLY);
    let (leader, term) = stage.leader_and_term();
    let_both_mark(&stage);
    stage.cluster.start(stage.member(away));
    stage.wait_for(30_000, "pull", || pulls(&stage, away));
    // It hears its leader no more, and asks the third node, which gives it what it needs and no vote.
    stage.cut(leader, away);
    stage.pass(1_500);
    let role = stage.member(away).status().map(|(status, _)| status.shards[0].role);
    assert_eq!((role, stage.cluster.oracle().counts().installs), (Some(RoleName::Candidate), 0), "it was to be slow");
    stage.wait_for(120_000, "install", || stage.cluster.oracle().counts().installs == 1);
    assert_eq!((stage.leader_and_term(), counter(&stage, away, "installs_total")), ((leader, term), 1));
    stage.pass(2_000);
    stage.heal();
    stage.wait_for(60_000, "the one that was away", || stage.is_settled());
    assert_eq!((stage.leader_and_term(), counter(&stage, away, "installs_total")), ((leader, term), 1));
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

#[test]
fn s3_a_snapshot_that_is_offered_again_and_again_and_by_two_leaders_is_taken_once() {
    let (stage, away, jobs) = with_one_behind(12, |tunables| tunables.bulk_bytes_per_second = SLOWLY / 2);
    let leader = stage.leader();
    let_both_mark(&stage);
    stage.cluster.start(stage.member(away));
    stage.wait_for(30_000, "pull", || pulls(&stage, away));
    let since = stage.now();
    // Offers come once a second.
    stage.pass(3_000);
    let first = install(&stage, away).expect("it pulls");
    // Its vote makes the next leader, though it has not even the log's beginning.
    stage.cluster.kill(stage.member(leader));
    stage.wait_for(5_000, "another leader", || stage.cluster.oracle().leader().is_some_and(|led| led.0 != leader));
    stage.cluster.start(stage.member(leader));
    stage.pass(1_500);
    let then = install(&stage, away).expect("it pulls still");
    assert_eq!(then.index, first.index, "it goes on where it was");
    assert!(then.bytes >= first.bytes && then.jobs >= first.jobs, "{first:?}, then {then:?}");
    stage.wait_for(600_000, "the one that was away", || stage.is_settled());
    let took_ms = stage.now().saturating_sub(since).0 / 1_000_000;
    assert!(took_ms > 6_000, "it took {took_ms} ms, in which few offers come");
    // Time for what may be left of them.
    stage.pass(10_000);
    assert_eq!((counter(&stage, away, "installs_total"), install(&stage, away)), (1, None));
    // Those from before are in its own files, but for the last, which it may not know to be committed.
    let lacking = jobs.len() as u64 - 5;
    let pulled = counter(&stage, away, "pulled_jobs_total");
    assert!(pulled == lacking || pulled == lacking + 1, "of {lacking} jobs {pulled} came: each was to come once");
    assert_holds(&stage, away, &jobs);
    stage.clear();
}

/// Snapshots are kept, floors rise, files are compacted, and all the while somebody needs the log.
#[test]
fn s8_the_log_is_kept_for_a_node_that_lags_by_as_much_as_it_is_kept_for_and_no_more() {
    let lags = |lagging_bytes_max: u64| {
        let stage = Stage::with(3, |tunables| {
            shortened(tunables);
            tunables.lagging_bytes_max = lagging_bytes_max;
        });
        let leader = stage.leader();
        let [away, other] = stage.others(leader)[..] else { unreachable!() };
        let client = stage.client(other);
        let mut jobs: Vec<u64> = (0..5).map(|_| client.puts(b"before")).collect();
        stage.wait_for(5_000, "agreement", || stage.is_settled());
        stage.cluster.kill(stage.member(away));
        let reached = stage.cluster.medium_log(stage.member(away)).expect("a sound disk").last();
        // A follower does not know what others have: its own floor says how far things went.
        jobs.extend(go_on_until_floors_are_above(&stage, &[other], Index(reached.0 + 400), &client));
        stage.pass(500);
        assert!(counter(&stage, leader, "snapshots_written") > 2);
        let is_kept = floor(&stage, leader) <= reached;
        stage.cluster.start(stage.member(away));
        stage.wait_for(60_000, "the one that was away", || stage.is_settled());
        assert_eq!(stage.leader(), leader);
        let installs = counter(&stage, away, "installs_total");
        assert_holds(&stage, away, &jobs);
        stage.clear();
        (is_kept, installs)
    };
    assert_eq!(lags(16 << 20), (true, 0));
    assert_eq!(lags(0), (false, 1));
}
