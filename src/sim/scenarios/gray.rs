//! Nodes that are neither well nor dead: disks that hang, fail or crawl, and links that do.

use super::stage::{ELECTION_TIMEOUT_MAX_MS, ELECTION_TIMEOUT_MS, Stage, put};
use crate::sim::disk::Faults;
use crate::sim::latency::DiskSpeed;
use crate::sim::network::Link;
use crate::types::Nanos;

/// A put on a healthy cluster takes less than this, whatever its scheduling.
const HEALTHY_MS: u64 = 10;

#[test]
fn e12_a_leader_whose_disk_hangs_is_replaced_within_two_election_timeouts_and_its_process_ends_at_the_limit() {
    let stage = Stage::new(3);
    let (old, term) = stage.leader_and_term();
    let survivor = stage.client(stage.others(old)[0]);
    let at_old = stage.client(old);
    let kept = survivor.puts(b"acknowledged before");

    let hung_at = stage.now();
    stage.member(old).latency.set_stalled(true);
    at_old.ask(put(b"asked at the hung node"));
    let oracle = stage.cluster.oracle();
    stage.wait_for(2 * ELECTION_TIMEOUT_MS + 5, "end of its leadership", || !oracle.leads(old));
    stage.wait_for(2 * ELECTION_TIMEOUT_MAX_MS, "new leader", || oracle.leader().is_some_and(|led| led.1 > term));
    assert_ne!(stage.leader(), old);
    assert_ne!(survivor.puts(b"asked at a survivor"), kept);

    // The hung node lives on for as long as it is allowed to hope, and not longer.
    let exit_ms = 20_000;
    let rest = exit_ms - stage.now().saturating_sub(hung_at).0 / 1_000_000;
    stage.pass(rest - 10);
    assert_eq!(stage.member(old).ended(), None);
    stage.pass(100);
    let (status, why) = stage.member(old).ended().expect("its process has ended");
    assert_eq!(status, 34, "{why}");
    let after = stage.leader_and_term();
    stage.pass(2_000);
    assert_eq!(stage.leader_and_term(), after, "its end disturbs nobody");
    stage.clear();
}

/// A host that sleeps, or a process that is stopped, has not heard of its disk; that says nothing against the disk.
#[test]
fn e12_a_node_that_was_stopped_with_a_write_under_way_does_not_take_that_for_a_stall() {
    let stage = Stage::new(3);
    let node = stage.others(stage.leader())[0];
    let member = stage.member(node);
    let client = stage.client(stage.leader());
    member.latency.set_stalled(true);
    client.puts(b"its write is under way there");
    stage.pass(50);
    stage.cluster.set_paused(member, true);
    stage.pass(60_000);
    stage.cluster.set_paused(member, false);
    // It goes on before it hears of its write.
    stage.pass(10);
    member.latency.set_stalled(false);
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    assert_eq!(member.ended(), None);
    stage.clear();
}

/// Its thread comes to its turns, each time late by less than a stopped process would be, and hears next to nothing.
#[test]
fn a5_a_node_whose_thread_is_busy_for_a_minute_does_not_take_that_for_a_stall_of_its_disk() {
    let stage = Stage::new(3);
    let node = stage.others(stage.leader())[0];
    let member = stage.member(node);
    member.latency.set_stalled(true);
    stage.client(stage.leader()).puts(b"its write is under way there");
    stage.pass(50);
    for _ in 0..150 {
        stage.cluster.set_paused(member, true);
        stage.pass(400);
        stage.cluster.set_paused(member, false);
        stage.pass(2);
    }
    member.latency.set_stalled(false);
    stage.wait_for(5_000, "agreement", || stage.is_settled());
    assert_eq!(member.ended(), None);
    stage.clear();
}

/// And what it says when it must stop tells the time of its thread from that of its disk.
#[test]
fn a5_a_node_that_was_stopped_while_its_disk_hung_says_how_much_of_that_was_its_own() {
    let stage = Stage::new(3);
    let node = stage.others(stage.leader())[0];
    let member = stage.member(node);
    member.latency.set_stalled(true);
    stage.client(stage.leader()).puts(b"its write never ends there");
    stage.pass(50);
    stage.cluster.set_paused(member, true);
    stage.pass(60_000);
    stage.cluster.set_paused(member, false);
    stage.wait_for(20_000, "end of the node", || member.ended().is_some());
    let (status, why) = member.ended().expect("just seen");
    assert_eq!(status, 34);
    assert!(why.contains("has not completed a write for 200"), "{why}");
    assert!(why.contains("it was busy or stopped for another 60"), "{why}");
    stage.clear();
}

/// Heartbeats overtake appends, and are answered by a node that gets nothing done.
#[test]
fn a5_a_follower_that_answers_and_takes_no_entries_is_reported_by_its_leader_until_it_does() {
    let stage = Stage::new(3);
    let leader = stage.leader();
    let [hung, well] = stage.others(leader)[..] else { unreachable!() };
    let load = stage.load(well);
    let stuck = || {
        let (report, metrics) = stage.member(leader).status().expect("it runs");
        let peers = &report.shards[0].peers;
        let stuck: Vec<u8> = peers.iter().filter(|peer| peer.stuck).map(|peer| peer.node).collect();
        let shown = format!("beaver_raft_peer_stuck{{shard=\"0\",peer=\"{hung}\"}} {}", stuck.len());
        assert!(metrics.contains(&shown), "{metrics}");
        stuck
    };
    stage.pass(1_000);
    assert!(stuck().is_empty());
    stage.member(hung).latency.set_stalled(true);
    let ready = || stage.member(hung).status().expect("it runs").0.ready();
    assert_eq!(ready(), Ok(()));
    stage.pass(4 * ELECTION_TIMEOUT_MS + 1_000);
    assert_eq!(stuck(), [hung.0]);
    let why = ready().expect_err("it gets nothing done");
    assert!(why[0].contains("the disk has not completed a write for 1"), "{why:?}");
    stage.member(hung).latency.set_stalled(false);
    stage.pass(1_000);
    assert!(stuck().is_empty());
    assert_eq!(ready(), Ok(()));
    assert_eq!(stage.leader(), leader);
    load.ends();
    stage.clear();
}

#[test]
fn e12_a_single_answer_late_does_not_cost_the_leadership() {
    let stage = Stage::new(3);
    let before = stage.leader_and_term();
    let client = stage.client(before.0);
    for _ in 0..20 {
        stage.member(before.0).latency.set_stalled(true);
        client.ask(put(b"late"));
        stage.pass(2 * ELECTION_TIMEOUT_MS - 50);
        stage.member(before.0).latency.set_stalled(false);
        stage.pass(20);
    }
    assert_eq!(stage.leader_and_term(), before);
    assert_eq!(client.heard().len(), 20);
    stage.clear();
}

#[test]
fn e13_a_follower_whose_disk_hangs_delays_nobody_and_catches_up_under_the_same_leader() {
    let stage = Stage::new(3);
    let before = stage.leader_and_term();
    let [hung, well] = stage.others(before.0)[..] else { unreachable!() };
    let loads = [stage.load(before.0), stage.load(well)];
    stage.pass(100);

    let begin = stage.now();
    stage.member(hung).latency.set_stalled(true);
    stage.pass(15_000);
    stage.cluster.check_durability();
    for load in &loads {
        load.assert_undelayed(begin, 250, HEALTHY_MS);
    }
    let behind = |stage: &Stage| {
        let oracle = stage.cluster.oracle();
        oracle.committed().get().0 - oracle.applied()[&hung].0
    };
    stage.member(hung).latency.set_stalled(false);
    let took = stage.wait_for(2_000, "follower that has caught up", || behind(&stage) <= 2);
    assert_eq!(stage.leader_and_term(), before);
    // It is in step again, not only caught up once.
    stage.pass(5_000);
    assert!(behind(&stage) <= 5, "{} entries behind after {took} ms and five seconds", behind(&stage));
    for load in &loads {
        load.assert_undelayed(begin, 250, HEALTHY_MS);
    }
    stage.clear();
}

#[test]
fn e13_while_the_disks_of_a_majority_hang_nothing_is_acknowledged() {
    let stage = Stage::new(3);
    let before = stage.leader_and_term();
    let followers = stage.others(before.0);
    let clients: Vec<_> = stage.nodes().into_iter().map(|node| stage.client(node)).collect();
    followers.iter().for_each(|node| stage.member(*node).latency.set_stalled(true));
    clients.iter().for_each(|client| client.ask(put(b"on one disk only")));
    stage.pass(5_000);
    assert!(clients.iter().all(|client| client.heard().is_empty()));
    stage.cluster.check_durability();
    stage.member(followers[0]).latency.set_stalled(false);
    stage.wait_for(1_000, "answers", || clients[0].heard().len() + clients[1].heard().len() >= 1);
    stage.cluster.check_durability();
    stage.member(followers[1]).latency.set_stalled(false);
    stage.wait_for(1_000, "answers", || clients.iter().all(|client| client.heard().len() == 1));
    assert_eq!(stage.leader_and_term(), before);
    stage.clear();
}

#[test]
fn e14_a_follower_whose_every_write_takes_longer_than_its_timeout_seeks_no_election() {
    let stage = Stage::new(3);
    let before = stage.leader_and_term();
    let [slow, well] = stage.others(before.0)[..] else { unreachable!() };
    let load = stage.load(well);
    let begin = stage.now();
    let delay_min = Nanos::from_millis(ELECTION_TIMEOUT_MAX_MS);
    let speed = DiskSpeed { delay_min, delay_max: Nanos(delay_min.0 * 2), ..DiskSpeed::default() };
    stage.member(slow).latency.set_speed(speed);
    stage.pass(30_000);
    stage.cluster.check_durability();
    assert_eq!(stage.leader_and_term(), before);
    assert!(stage.terms().iter().all(|term| *term == before.1), "nobody went on to another term");
    load.assert_undelayed(begin, 500, HEALTHY_MS);
    stage.clear();
}

#[test]
fn e15_a_leader_whose_write_fails_ends_at_the_first_error_and_another_leads_at_once() {
    for faults in [Faults { write_error: 1.0, ..Faults::default() }, Faults { sync_error: 1.0, ..Faults::default() }] {
        let stage = Stage::new(3);
        let (old, term) = stage.leader_and_term();
        let survivor = stage.client(stage.others(old)[1]);
        let kept = survivor.puts(b"acknowledged before");
        stage.member(old).disk().set_faults(faults);
        survivor.ask(put(b"what the leader cannot write"));
        stage.wait_for(20, "end of the node", || stage.member(old).ended().is_some());
        let (status, why) = stage.member(old).ended().unwrap();
        assert_eq!(status, 32, "{why}");
        // Its sockets tell of its end; nobody waits for silence.
        let oracle = stage.cluster.oracle();
        let gap = stage.wait_for(ELECTION_TIMEOUT_MS, "new leader", || oracle.leader().is_some_and(|led| led.1 > term));
        stage.wait_for(1_000, "answer", || survivor.heard().len() == 2);
        assert!(survivor.heard()[1].answer.is_ok(), "{gap} ms without a leader: {:?}", survivor.heard());
        assert_ne!(survivor.puts(b"after"), kept);
        stage.clear();
    }
}

#[test]
fn r14_a_follower_behind_a_slow_link_delays_nobody_also_under_large_jobs() {
    let stage = Stage::with(3, |tunables| tunables.appends_in_flight_bytes_max = 65_536);
    let before = stage.leader_and_term();
    let [slow, well] = stage.others(before.0)[..] else { unreachable!() };
    let loads = [stage.load(before.0), stage.load(well)];
    let large = stage.client(well);
    let begin = stage.now();
    let far = Link { delay_min: Nanos::from_millis(200), delay_max: Nanos::from_millis(400), ..Link::default() };
    for (from, to) in [(before.0, slow), (slow, before.0)] {
        stage.network.set_link(stage.member(from).host, stage.member(to).host, far);
    }
    let body: &'static [u8] = Box::leak(vec![b'x'; 60_000].into_boxed_slice());
    for _ in 0..100 {
        large.ask(put(body));
        stage.pass(20);
    }
    stage.pass(8_000);
    assert_eq!(large.heard().len(), 100);
    assert!(large.heard().iter().all(|heard| heard.answer.is_ok()));
    assert_eq!(stage.leader_and_term(), before);
    for load in &loads {
        load.assert_undelayed(begin, 150, 2 * HEALTHY_MS);
    }
    for (from, to) in [(before.0, slow), (slow, before.0)] {
        stage.network.set_link(stage.member(from).host, stage.member(to).host, Link::default());
    }
    stage.clear();
}
