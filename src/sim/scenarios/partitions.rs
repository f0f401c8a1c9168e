//! Links that are cut: on one side, on one way, for one pair, or so that nobody sees everybody. A partition must end with
//! at most one leader that stays, its clients served, and nobody disturbed when it heals.

use super::stage::{ELECTION_TIMEOUT_MAX_MS, ELECTION_TIMEOUT_MS, Stage, put};
use crate::config::Tunables;
use crate::sim::dialogue::Said;
use crate::types::{NodeId, Term};

/// As long as a partition lasts that a follower must sit through.
const LONG_MS: u64 = 20_000;

/// Three nodes: who leads them in which term, and the two that follow.
fn three(tune: impl FnOnce(&mut Tunables)) -> (Stage, (NodeId, Term), [NodeId; 2]) {
    let stage = Stage::with(3, tune);
    let led = stage.leader_and_term();
    let followers = stage.others(led.0).try_into().expect("two others");
    (stage, led, followers)
}

fn assert_no_term_grew(stage: &Stage, (_, term): (NodeId, Term)) {
    assert!(stage.terms().iter().all(|other| *other == term), "a term grew beyond {term}: {:?}", stage.terms());
}

/// Until somebody leads in a later term.
fn wait_for_another_leader(stage: &Stage, (_, term): (NodeId, Term), limit_ms: u64) {
    let oracle = stage.cluster.oracle();
    stage.wait_for(limit_ms, "new leader", || oracle.leader().is_some_and(|led| led.1 > term));
}

fn wait_until_it_leads_no_more(stage: &Stage, node: NodeId, limit_ms: u64) {
    let oracle = stage.cluster.oracle();
    stage.wait_for(limit_ms, "end of its leadership", || !oracle.leads(node));
}

/// Whoever leads now goes on in the same term for so long; the end of the scenario.
fn clear_after(stage: Stage, ms: u64) {
    let settled = stage.leader_and_term();
    stage.pass(ms);
    assert_eq!(stage.leader_and_term(), settled);
    stage.clear();
}

#[test]
fn e1_a_follower_that_was_cut_off_for_long_comes_back_without_a_new_term() {
    let (stage, before, [cut_off, other]) = three(|_| {});
    let load = stage.load(other);
    let begin = stage.now();
    stage.isolate(cut_off);
    stage.pass(LONG_MS);
    assert_no_term_grew(&stage, before);
    stage.heal();
    stage.pass(5_000);
    assert_eq!(stage.leader_and_term(), before);
    assert_no_term_grew(&stage, before);
    load.assert_undelayed(begin, 300, 10);
    stage.clear();
}

#[test]
fn e2_a_follower_cut_from_its_leader_only_disturbs_nobody_and_its_clients_are_told_in_time() {
    let (stage, before, [cut_off, between]) = three(|tunables| tunables.no_quorum_timeout_ms = 2_000);
    let idle = stage.client(cut_off);
    stage.cut_both(before.0, cut_off);
    // At first nothing is written, so that its log is as good as anybody's.
    stage.pass(5_000);
    assert_no_term_grew(&stage, before);
    let load = stage.load(between);
    let begin = stage.now();
    stage.pass(2_000);
    // It cannot reach the leader, and says so: what no leader saw may be sent elsewhere.
    let heard = idle.says(put(b"at the follower that is cut off"));
    assert_eq!(heard.answer, Ok(Said::Draining));
    assert!(heard.waited.0 / 1_000_000 <= 2_100, "told after {} ms", heard.waited.0 / 1_000_000);
    stage.pass(LONG_MS);
    assert_eq!(stage.leader_and_term(), before);
    assert_no_term_grew(&stage, before);
    load.assert_undelayed(begin, 300, 10);
    stage.heal();
    stage.pass(3_000);
    stage.client(cut_off).puts(b"healed");
    assert_eq!(stage.leader_and_term(), before);
    stage.clear();
}

#[test]
fn e3_a_leader_that_cannot_hear_gives_up_within_one_election_timeout_and_is_replaced_within_three() {
    let (stage, before, followers) = three(|_| {});
    let deaf = before.0;
    let client = stage.client(followers[0]);
    followers.iter().for_each(|other| stage.cut(*other, deaf));
    wait_until_it_leads_no_more(&stage, deaf, ELECTION_TIMEOUT_MAX_MS + 10);
    wait_for_another_leader(&stage, before, 2 * ELECTION_TIMEOUT_MAX_MS);
    assert_ne!(stage.leader(), deaf);
    client.puts(b"after");
    clear_after(stage, LONG_MS);
}

#[test]
fn e4_a_leader_that_cannot_speak_is_replaced_and_learns_of_it() {
    let (stage, before, followers) = three(|_| {});
    let mute = before.0;
    let client = stage.client(followers[0]);
    followers.iter().for_each(|other| stage.cut(mute, *other));
    wait_for_another_leader(&stage, before, 3 * ELECTION_TIMEOUT_MAX_MS);
    assert_ne!(stage.leader(), mute);
    wait_until_it_leads_no_more(&stage, mute, ELECTION_TIMEOUT_MAX_MS);
    client.puts(b"after");
    clear_after(stage, LONG_MS);
}

#[test]
fn e5_a_follower_that_cannot_hear_disturbs_nobody() {
    let (stage, before, [deaf, other]) = three(|_| {});
    let load = stage.load(other);
    let begin = stage.now();
    [before.0, other].iter().for_each(|node| stage.cut(*node, deaf));
    stage.pass(LONG_MS);
    assert_eq!(stage.leader_and_term(), before);
    stage.heal();
    stage.pass(5_000);
    assert_eq!(stage.leader_and_term(), before);
    load.assert_undelayed(begin, 300, 10);
    stage.clear();
}

/// One node is cut from all but one, another from all but another one; whoever led before.
#[test]
fn e6_five_nodes_of_which_two_hang_on_one_other_each_keep_one_leader_of_the_mesh() {
    for turned in 0..5 {
        let stage = Stage::new(5);
        let mut places = stage.nodes();
        let leader_at = places.iter().position(|node| *node == stage.leader()).unwrap();
        places.rotate_left((leader_at + turned) % 5);
        let [a, b, c, d, e] = places[..] else { unreachable!() };
        for (one, other) in [(d, a), (d, c), (d, e), (e, a), (e, b)] {
            stage.cut_both(one, other);
        }
        stage.pass(5_000);
        let settled = stage.leader_and_term();
        assert!([a, b, c].contains(&settled.0), "leader {} with {places:?}", settled.0);
        let load = stage.load(settled.0);
        let begin = stage.now();
        stage.pass(LONG_MS / 2);
        assert_eq!(stage.leader_and_term(), settled);
        load.assert_undelayed(begin, 150, 10);
        stage.clear();
    }
}

#[test]
fn e7_a_chain_settles_with_at_most_one_change_wherever_its_leader_stands() {
    for middle in 0..3 {
        let stage = Stage::new(3);
        let mut places = stage.nodes();
        let (leader, term) = stage.leader_and_term();
        let leader_at = places.iter().position(|node| *node == leader).unwrap();
        // The first and the last of these don't see each other.
        places.rotate_left((leader_at + 3 - middle) % 3);
        stage.cut_both(places[0], places[2]);
        stage.pass(2_000);
        let settled = stage.leader_and_term();
        assert!(settled.1.0 <= term.0 + 1, "leader {leader} at {middle} of {places:?}: {settled:?}");
        let load = stage.load(places[1]);
        let begin = stage.now();
        stage.pass(LONG_MS);
        assert_eq!(stage.leader_and_term(), settled);
        load.assert_undelayed(begin, 300, 10);
        stage.clear();
    }
}

/// Quorum loss (Omni-Paxos): of five, each sees the middle one only, and the leader has lost its majority.
#[test]
fn e7_a_star_is_led_by_the_only_node_that_sees_a_majority() {
    let stage = Stage::new(5);
    let (leader, _) = stage.leader_and_term();
    let others = stage.others(leader);
    let middle = others[0];
    let rim: Vec<NodeId> = stage.others(middle);
    for one in &rim {
        rim.iter().filter(|other| *other != one).for_each(|other| stage.cut(*one, *other));
    }
    stage.pass(5_000);
    assert_eq!(stage.leader(), middle);
    stage.client(middle).puts(b"in the middle");
    clear_after(stage, LONG_MS);
}

#[test]
fn r3_a_leader_that_lost_its_majority_acknowledges_nothing_and_gives_up_within_one_election_timeout() {
    let (stage, before, _) = three(|_| {});
    let lonely = before.0;
    let client = stage.client(lonely);
    client.puts(b"before");
    stage.isolate(lonely);
    client.ask(put(b"asked where no majority is"));
    wait_until_it_leads_no_more(&stage, lonely, ELECTION_TIMEOUT_MAX_MS + 10);
    wait_for_another_leader(&stage, before, 2 * ELECTION_TIMEOUT_MAX_MS + ELECTION_TIMEOUT_MS);
    stage.pass(3_000);
    assert_eq!(client.heard().len(), 1, "{:?}", client.heard());
    stage.heal();
    stage.wait_for(5_000, "answer", || client.heard().len() == 2);
    assert!(matches!(client.heard()[1].answer, Ok(Said::Inserted(_))), "{:?}", client.heard());
    stage.clear();
}
