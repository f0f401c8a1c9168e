//! Processes and hosts that stop and go on: killed, without power, stopped by a signal, suspended, under wrong clocks. What
//! comes back must not speak for a time in which it was not there.

use super::stage::{ELECTION_TIMEOUT_MAX_MS, Stage, put};
use crate::sim::dialogue::{Asked, Said};
use crate::sim::disk::{Crash, SectorOdds};
use crate::types::{Nanos, NodeId};

const POWER_CUT: Crash = Crash::Power(SectorOdds::OLD);
const HOUR_NS: i64 = 3_600_000_000_000;

#[test]
fn e10_a_vote_that_is_not_durable_is_given_to_nobody_and_a_power_cut_takes_it_back() {
    let stage = Stage::new(3);
    let (dead, term) = stage.leader_and_term();
    let [candidate, voter] = stage.others(dead)[..] else { unreachable!() };
    stage.member(voter).latency.set_stalled(true);
    let oracle = stage.cluster.oracle();
    let leaders = oracle.counts().leaders;
    stage.cluster.kill(stage.member(dead));
    stage.pass(3_000);
    assert!(oracle.terms()[&voter] > term, "it was asked for its vote");
    assert_eq!(oracle.counts().leaders, leaders, "node {candidate} led by a vote that was never written down");
    stage.cluster.cut_power(stage.member(voter), POWER_CUT);
    stage.member(voter).latency.set_stalled(false);
    stage.cluster.start(stage.member(voter));
    stage.wait_for(3_000, "leader", || oracle.leader().is_some());
    stage.client(voter).puts(b"after");
    stage.clear();
}

#[test]
fn e11_a_restart_of_all_at_once_of_two_or_of_one_after_the_other_serves_again_within_two_seconds() {
    let stage = Stage::new(3);
    let nodes = stage.nodes();
    let leader = stage.leader();
    let two: Vec<NodeId> = stage.others(leader);
    for stopped in [nodes.clone(), two, vec![leader, stage.others(leader)[0]]] {
        let loads: Vec<_> = nodes.iter().map(|node| stage.load(*node)).collect();
        stage.pass(200);
        for node in &stopped {
            stage.cluster.cut_power(stage.member(*node), POWER_CUT);
        }
        stage.pass(500);
        let begin = stage.now();
        for node in &stopped {
            stage.cluster.start(stage.member(*node));
        }
        let serves = || loads.iter().all(|load| load.since(begin).iter().any(|heard| heard.answer.is_ok()));
        stage.wait_for(2_000, "put answered by every node", serves);
        loads.iter().for_each(super::stage::Load::ends);
    }
    for node in nodes {
        stage.cluster.kill(stage.member(node));
        stage.pass(50);
        let begin = stage.now();
        stage.cluster.start(stage.member(node));
        let load = stage.load(node);
        let serves = || load.since(begin).iter().any(|heard| heard.answer.is_ok());
        stage.wait_for(2_000, "put answered by the node", serves);
        load.ends();
    }
    stage.clear();
}

/// A leader that was away, however: for itself no time may seem to have passed. Meanwhile the others went on without it.
fn assert_away_leader_says_nothing_old(away: impl Fn(&Stage, NodeId), back: impl Fn(&Stage, NodeId)) {
    let stage = Stage::new(3);
    let (old, term) = stage.leader_and_term();
    let survivor = stage.client(stage.others(old)[0]);
    let job = survivor.puts(b"deleted while the leader is away");
    let clients: Vec<_> = (0..3).map(|_| stage.client(old)).collect();
    assert!(clients.iter().all(|client| client.says(Asked::Peek(job)).answer.is_ok()));
    // On its way to the disk, or to the others, when everything stops.
    clients[0].ask(put(b"asked just before"));
    stage.executor.run_until(stage.now().saturating_add(Nanos::from_micros(200)));

    away(&stage, old);
    let oracle = stage.cluster.oracle();
    stage.wait_for(3 * ELECTION_TIMEOUT_MAX_MS, "new leader", || oracle.leader().is_some_and(|led| led.1 > term));
    stage.pass(5 * ELECTION_TIMEOUT_MAX_MS);
    assert_eq!(survivor.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
    clients[1].ask(Asked::Peek(job));
    clients[2].ask(put(b"asked while it is away"));
    stage.pass(50);
    assert!(oracle.leads(old), "for all it knows it leads still");
    let heard: usize = clients.iter().map(|client| client.heard().len()).sum();

    back(&stage, old);
    stage.wait_for(20, "end of the old leadership", || !oracle.leads(old));
    stage.wait_for(20_000, "end of all questions", || {
        clients.iter().map(|client| client.heard().len()).sum::<usize>() == heard + 3
            || clients.iter().all(|client| client.heard().len() > 1)
    });
    let answer = |place: usize| clients[place].heard().last().cloned().unwrap().answer;
    assert_ne!(answer(1), Ok(Said::Found { id: job, body: "deleted while the leader is away".into() }), "a stale read");
    let mut ids: Vec<u64> = clients.iter().filter_map(|client| inserted(&client.heard().last()?.answer)).collect();
    let given = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), given, "an id was given twice");
    // What was acknowledged is there; and nothing is there twice.
    let worker = stage.client(stage.leader());
    let mut found = Vec::new();
    while let Ok(Said::Reserved { id, .. }) = worker.says(Asked::Reserve { timeout_s: Some(0) }).answer {
        found.push(id);
    }
    assert!(ids.iter().all(|id| found.contains(id)), "acknowledged {ids:?}, found {found:?}");
    assert!(found.len() <= 2, "two puts became {found:?}");
    stage.clear();
}

fn inserted(answer: &Result<Said, String>) -> Option<u64> {
    match answer {
        Ok(Said::Inserted(id)) => Some(*id),
        _ => None,
    }
}

#[test]
fn e16_c5_a_leader_stopped_by_a_signal_serves_no_read_and_acknowledges_no_write_of_before() {
    assert_away_leader_says_nothing_old(
        |stage, node| stage.cluster.set_paused(stage.member(node), true),
        |stage, node| stage.cluster.set_paused(stage.member(node), false),
    );
}

/// Followers may lose patience before the leader that they don't hear does. As long as both lead, only one may speak.
#[test]
fn c5_of_two_leaders_that_overlap_only_the_newer_serves_reads_and_commits() {
    let mut overlaps = 0;
    for seed in 0..20 {
        let stage = Stage::seeded(seed, 3, |_| {});
        let (old, term) = stage.leader_and_term();
        let survivor = stage.client(stage.others(old)[0]);
        let job = survivor.puts(b"deleted at the newer leader");
        let [reader, writer] = [(); 2].map(|()| stage.client(old));
        assert!([&reader, &writer].into_iter().all(|client| client.says(Asked::Peek(job)).answer.is_ok()));
        stage.isolate(old);
        let oracle = stage.cluster.oracle();
        stage.wait_for(4 * ELECTION_TIMEOUT_MAX_MS, "new leader", || oracle.leader().is_some_and(|led| led.1 > term));
        assert_eq!(survivor.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
        overlaps += u32::from(oracle.leads(old));
        reader.ask(Asked::Peek(job));
        writer.ask(put(b"asked where a leader leads no more"));
        stage.pass(2 * ELECTION_TIMEOUT_MAX_MS);
        assert_eq!((reader.heard().len(), writer.heard().len()), (1, 1), "seed {seed}: nothing true can be said here");
        stage.heal();
        stage.wait_for(5_000, "answers", || reader.heard().len() + writer.heard().len() == 4);
        assert_eq!(reader.heard()[1].answer, Ok(Said::NotFound));
        assert!(inserted(&writer.heard()[1].answer).is_some_and(|id| id > job));
        stage.clear();
    }
    assert!(overlaps > 0, "no two leaders overlapped");
}

#[test]
fn d6_a_leader_whose_host_slept_ten_minutes_serves_no_read_and_acknowledges_no_write_of_before() {
    let since = std::cell::Cell::new(Nanos::ZERO);
    assert_away_leader_says_nothing_old(
        |stage, node| {
            let member = stage.member(node);
            since.set(member.clock.boottime());
            stage.network.set_frozen(member.host, true);
            stage.cluster.set_paused(member, true);
        },
        |stage, node| {
            let member = stage.member(node);
            stage.pass(600_000);
            member.clock.was_suspended(member.clock.boottime().saturating_sub(since.get()));
            stage.network.set_frozen(member.host, false);
            stage.cluster.set_paused(member, false);
        },
    );
}

#[test]
fn d6_a_wall_clock_that_jumps_an_hour_ends_no_reservation_and_no_leadership() {
    for hour in [HOUR_NS, -HOUR_NS] {
        for at_leader in [true, false] {
            let stage = Stage::new(3);
            let before = stage.leader_and_term();
            let follower = stage.others(before.0)[0];
            let [holder, other] = [follower, before.0].map(|node| stage.client(node));
            let job = holder.puts(b"held");
            assert_eq!(holder.reserves(), job);
            let jumps = if at_leader { before.0 } else { follower };
            stage.member(jumps).clock.jump_wall(hour);
            stage.pass(5_000);
            other.puts(b"an entry that carries the time");
            assert_ne!(other.reserves(), job, "it is held for ten minutes yet");
            assert_eq!(other.says(Asked::Reserve { timeout_s: Some(0) }).answer, Ok(Said::TimedOut));
            assert_eq!(holder.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
            assert_eq!(stage.leader_and_term(), before);
            stage.clear();
        }
    }
}

/// A host that led for a while with a clock an hour ahead leaves that hour in the log. What comes after must not wait for it.
#[test]
fn d6_delays_and_pauses_end_in_time_whatever_the_wall_clock_of_an_earlier_leader_said() {
    let stage = Stage::new(3);
    let (dead, term) = stage.leader_and_term();
    stage.nodes().into_iter().for_each(|node| stage.member(node).clock.jump_wall(HOUR_NS));
    stage.cluster.kill(stage.member(dead));
    let oracle = stage.cluster.oracle();
    stage.wait_for(3_000, "new leader", || oracle.leader().is_some_and(|led| led.1 > term));
    stage.cluster.start(stage.member(dead));
    let client = stage.client(stage.leader());
    client.puts(b"an entry with a time to come");
    stage.nodes().into_iter().for_each(|node| stage.member(node).clock.jump_wall(-HOUR_NS));
    assert_eq!(client.says(Asked::Delete(client.reserves())).answer, Ok(Said::Deleted));

    let body = bytes::Bytes::from_static(b"in ten seconds");
    let delayed = Asked::Put { priority: 0, delay_s: 10, ttr_s: 60, body };
    let delayed = inserted(&client.says(delayed).answer).expect("a cluster that serves");
    let ends_in_time = |job| {
        let heard = client.says(Asked::Reserve { timeout_s: Some(60) });
        assert!(matches!(heard.answer, Ok(Said::Reserved { id, .. }) if id == job), "{:?}", heard.answer);
        let waited_ms = heard.waited.0 / 1_000_000;
        assert!((9_900..12_000).contains(&waited_ms), "it took {waited_ms} ms");
        assert_eq!(client.says(Asked::Delete(job)).answer, Ok(Said::Deleted));
    };
    let before = last_index(&stage);
    ends_in_time(delayed);
    assert!(last_index(&stage) < before + 8, "time is not asked for again and again");
    let held_up = client.puts(b"of a tube that is paused");
    assert_eq!(client.says(Asked::Pause { tube: "default", duration_s: 10 }).answer, Ok(Said::Paused));
    ends_in_time(held_up);
    stage.clear();
}

fn last_index(stage: &Stage) -> u64 {
    stage.cluster.oracle().committed().get().0
}

#[test]
fn d6_clocks_that_differ_by_a_tenth_end_no_reservation_earlier_than_that_and_no_leadership() {
    for drift in [100_000, -100_000] {
        let stage = Stage::new(3);
        let before = stage.leader_and_term();
        let follower = stage.others(before.0)[0];
        stage.member(before.0).clock.set_drift(drift);
        stage.member(follower).clock.set_drift(-drift);
        let [holder, other] = [follower, before.0].map(|node| stage.client(node));
        let asked =
            Asked::Put { priority: 0, delay_s: 0, ttr_s: 10, body: bytes::Bytes::from_static(b"held for ten seconds") };
        let job = inserted(&holder.says(asked).answer).expect("a cluster that serves");
        assert_eq!(holder.reserves(), job);
        let heard = other.says(Asked::Reserve { timeout_s: Some(30) });
        assert!(matches!(heard.answer, Ok(Said::Reserved { id, .. }) if id == job), "{:?}", heard.answer);
        let waited_ms = heard.waited.0 / 1_000_000;
        assert!((9_000..11_500).contains(&waited_ms), "delivered again after {waited_ms} ms");
        assert_eq!(holder.says(Asked::Delete(job)).answer, Ok(Said::NotFound));
        stage.pass(10_000);
        assert_eq!(stage.leader_and_term(), before);
        stage.clear();
    }
}
