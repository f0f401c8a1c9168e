//! A host that comes back from an older image of its disk: it has forgotten what it acknowledged and voted, and does not
//! know it. Whoever was told of that must not let it take part again, and all others must learn so; and no crash may be
//! taken for it.

use super::stage::{Stage, put};
#[cfg(feature = "mutants")]
use crate::mutation::{self, Mutation};
use crate::sim::cluster::{PutBack, Tell};
use crate::sim::disk::{Crash, SectorOdds, SimDisk};
use crate::types::NodeId;

fn follower(stage: &Stage) -> NodeId {
    stage.others(stage.leader())[0]
}

fn image(stage: &Stage, node: NodeId) -> SimDisk {
    stage.member(node).disk().durable_image()
}

fn put_some(stage: &Stage, node: NodeId) {
    let client = stage.client(node);
    (0..20).for_each(|_| {
        client.puts(b"acknowledged");
    });
}

fn stop(stage: &Stage, node: NodeId) {
    stage.cluster.ask_to_stop(stage.member(node));
    stage.wait_for(10_000, "end of the process", || !stage.cluster.is_running(stage.member(node)));
}

fn start(stage: &Stage, node: NodeId) {
    stage.cluster.start(stage.member(node));
    stage.wait_for(10_000, "agreement of all nodes", || stage.is_settled());
}

/// The image is put back, and must be refused by all others; they go on, also from an election on.
fn must_stay_out(stage: &Stage, node: NodeId, image: &SimDisk) {
    let member = stage.member(node);
    stage.cluster.put_back(member, image, PutBack::All);
    let before = stage.cluster.oracle().counts().leaders;
    stage.cluster.start(member);
    stage.wait_for(20_000, "end of the node that went back", || member.ended().is_some());
    let (status, why) = member.ended().unwrap();
    assert_eq!(status, 16, "{why}");
    assert!(why.contains("older copy of its data directory"), "{why}");
    assert_eq!(stage.cluster.oracle().counts().leaders, before, "nobody was disturbed");
    let others = stage.others(node);
    let all_know = || others.iter().all(|other| stage.cluster.shuts_out(stage.member(*other), node));
    stage.wait_for(5_000, "word of it on all others' disks", all_know);
    // Also whoever has no memory of what it was told refuses it from now on.
    for other in &others {
        stage.cluster.kill(stage.member(*other));
        stage.pass(100);
        stage.cluster.start(stage.member(*other));
        stage.pass(2_000);
    }
    stage.cluster.start(member);
    stage.wait_for(20_000, "second end of the node that went back", || member.starts() > 2 && member.ended().is_some());
    assert_eq!(member.ended().unwrap().0, 16);
    stage.client(others[0]).puts(b"without it");
    stage.pass(200);
    stage.cluster.check_durability();
    assert_eq!(stage.cluster.oracle().broken(), None);
}

#[test]
fn c1_an_image_of_the_start_before_is_refused_as_another_start_of_the_same_number() {
    for nodes in [3, 5] {
        let stage = Stage::new(nodes);
        let node = follower(&stage);
        stop(&stage, node);
        let old = image(&stage, node);
        start(&stage, node);
        put_some(&stage, node);
        stop(&stage, node);
        assert_eq!(stage.cluster.tell_of(stage.member(node), &old), Some(Tell::OtherStart));
        must_stay_out(&stage, node, &old);
    }
}

#[test]
fn c1_an_image_of_an_earlier_start_is_refused_by_its_number() {
    for nodes in [3, 5] {
        let stage = Stage::new(nodes);
        let node = follower(&stage);
        stop(&stage, node);
        let old = image(&stage, node);
        for _ in 0..2 {
            start(&stage, node);
            put_some(&stage, node);
            stop(&stage, node);
        }
        assert_eq!(stage.cluster.tell_of(stage.member(node), &old), Some(Tell::LowerBoot));
        must_stay_out(&stage, node, &old);
    }
}

/// An image of the very start that went on: its number tells nothing.
#[test]
fn c1_an_image_of_the_same_start_is_refused_by_the_term_that_it_has_forgotten() {
    for nodes in [3, 5] {
        let stage = Stage::new(nodes);
        let (leader, term) = stage.leader_and_term();
        let images: Vec<_> = stage.others(leader).into_iter().map(|node| (node, image(&stage, node))).collect();
        stage.isolate(leader);
        let oracle = stage.cluster.oracle();
        stage.wait_for(3_000, "new leader", || oracle.leader().is_some_and(|led| led.1 > term));
        stage.heal();
        stage.wait_for(10_000, "agreement of all nodes", || stage.is_settled());
        // Of a follower only the leader is told in which term it is; of a leader all are.
        let (node, old) = images.into_iter().find(|(node, _)| *node == stage.leader()).unwrap();
        put_some(&stage, node);
        assert_eq!(stage.cluster.tell_of(stage.member(node), &old), Some(Tell::LowerTerm));
        stage.cluster.kill(stage.member(node));
        stage.wait_for(3_000, "leader", || oracle.leader().is_some());
        stage.pass(1_000);
        must_stay_out(&stage, node, &old);
    }
}

/// Not even its term is another.
#[test]
fn c1_an_image_of_the_same_term_is_refused_by_what_it_had_acknowledged() {
    // Of a follower only the leader was told what it holds; of a leader all are.
    for (nodes, of_leader) in [(3, false), (5, false), (3, true), (5, true)] {
        let stage = Stage::new(nodes);
        let node = if of_leader { stage.leader() } else { follower(&stage) };
        put_some(&stage, node);
        let old = image(&stage, node);
        put_some(&stage, node);
        stage.pass(200);
        if of_leader {
            assert_eq!(stage.cluster.tell_of(stage.member(node), &old), Some(Tell::LowerIndex));
            stage.cluster.kill(stage.member(node));
            stage.wait_for(3_000, "leader", || stage.cluster.oracle().leader().is_some());
            stage.pass(1_000);
        }
        must_stay_out(&stage, node, &old);
    }
}

/// Of three, one was told and one was not: that one must not take for a voter whom the other refuses.
#[test]
fn c1_what_one_node_knows_shuts_an_image_out_of_all() {
    let stage = Stage::new(3);
    let node = follower(&stage);
    let leader = stage.leader();
    let other = stage.others(leader).into_iter().find(|other| *other != node).unwrap();
    let old = image(&stage, node);
    put_some(&stage, leader);
    // It forgets what it was told, which is little.
    stage.cluster.kill(stage.member(other));
    stage.cluster.start(stage.member(other));
    stage.wait_for(10_000, "agreement of all nodes", || stage.is_settled());
    assert_eq!(stage.leader(), leader);
    must_stay_out(&stage, node, &old);
}

#[test]
fn c1_a_directory_of_which_a_part_was_put_back_is_not_opened() {
    for part in PutBack::PARTS {
        for nodes in [3, 5] {
            let stage = Stage::new(nodes);
            let node = follower(&stage);
            stop(&stage, node);
            let old = image(&stage, node);
            start(&stage, node);
            put_some(&stage, node);
            stop(&stage, node);
            let member = stage.member(node);
            stage.cluster.put_back(member, &old, part);
            stage.cluster.start(member);
            stage.wait_for(5_000, "end of the node", || member.ended().is_some());
            let (status, why) = member.ended().unwrap();
            assert_eq!(status, 17, "{part:?}: {why}");
            assert!(why.contains("of different times"), "{why}");
            stage.client(stage.leader()).puts(b"without it");
        }
    }
}

/// Starts are cut off at every step, and every node takes part again.
#[test]
fn c1_no_crash_in_a_start_and_no_power_cut_is_taken_for_an_older_image() {
    let stage = Stage::new(3);
    let power_cut = Crash::Power(SectorOdds { new: 0.3, torn: 0.3, garbage: 0.2 });
    for round in 0..60 {
        let node = stage.nodes()[round % 3];
        let member = stage.member(node);
        if round % 2 == 0 {
            stage.cluster.kill(member);
        } else {
            stage.cluster.cut_power(member, power_cut);
        }
        stage.cluster.start(member);
        // It is killed in the midst of what it writes first.
        let disk = member.disk();
        let stop_at = disk.changes() + 1 + round as u64 / 3;
        while disk.changes() < stop_at && member.ended().is_none() {
            stage.pass(1);
        }
        stage.cluster.kill(member);
        stage.cluster.start(member);
        stage.pass(300);
        for member in stage.cluster.members() {
            assert_eq!(member.ended(), None, "round {round}, node {}", member.node);
        }
    }
    stage.clear();
}

/// All at once, after a backup of all: what they have forgotten, they have forgotten together.
#[test]
fn c1_a_backup_of_all_hosts_serves_again() {
    let stage = Stage::new(3);
    let client = stage.client(stage.leader());
    let kept = client.puts(b"in the backup");
    stage.pass(500);
    stage.nodes().into_iter().for_each(|node| stop(&stage, node));
    let images: Vec<_> = stage.nodes().into_iter().map(|node| (node, image(&stage, node))).collect();
    for (node, old) in images {
        stage.cluster.put_back(stage.member(node), &old, PutBack::All);
    }
    stage.cluster.start_all();
    stage.wait_for(5_000, "leader", || stage.cluster.oracle().leader().is_some());
    let client = stage.client(stage.leader());
    assert_eq!(client.reserves(), kept);
    stage.clear();
}

/// Of five, two knew of the start of a node whose image is put back, and they are gone; two were
/// down meanwhile. One of these admits it and has the other's vote: with its vote, too, a majority
/// would lead that has nothing of what was committed.
fn a_start_that_one_node_knows_of_votes_for_nobody() {
    let stage = Stage::new(5);
    let [node, near, far, knows] = stage.others(stage.leader())[..] else { unreachable!() };
    let leader = stage.leader();
    stop(&stage, node);
    let old = image(&stage, node);
    stage.pass(1_000);
    [near, far].iter().for_each(|other| stage.cluster.kill(stage.member(*other)));
    stage.cluster.start(stage.member(node));
    stage.pass(2_000);
    assert_eq!(stage.leader(), leader);
    put_some(&stage, leader);
    [leader, knows].iter().for_each(|other| stage.cluster.kill(stage.member(*other)));
    stage.cluster.put_back(stage.member(node), &old, PutBack::All);
    stage.cut_both(node, far);
    let before = stage.cluster.oracle().counts().leaders;
    [node, near, far].iter().for_each(|other| stage.cluster.start(stage.member(*other)));
    stage.pass(10_000);
    assert_eq!(stage.cluster.oracle().counts().leaders, before, "two of five have elected a leader");
    assert_eq!(stage.member(node).ended(), None, "nobody in its reach knows that it went back");
    // Those that know come back: it is told, and all that was committed is there.
    [leader, knows].iter().for_each(|other| stage.cluster.start(stage.member(*other)));
    stage.wait_for(20_000, "end of the node that went back", || stage.member(node).ended().is_some());
    assert_eq!(stage.member(node).ended().unwrap().0, 16);
    stage.client(leader).puts(b"without it");
    stage.cluster.check_durability();
    assert_eq!(stage.cluster.oracle().broken(), None);
}

#[test]
fn c1_a_start_that_one_node_of_five_knows_of_votes_for_nobody() {
    a_start_that_one_node_knows_of_votes_for_nobody();
}

/// Of five, the leader and a follower have a put, and the disks of the others stand still. What the
/// follower's image has forgotten counts no more when one of the others has the put, too.
fn a_put_is_answered_when_three_hold_it_without_the_node_that_went_back() {
    let stage = Stage::new(5);
    let before = stage.leader_and_term();
    let leader = before.0;
    let [node, slow @ ..] = &stage.others(leader)[..] else { unreachable!() };
    let old = image(&stage, *node);
    slow.iter().for_each(|other| stage.member(*other).latency.set_stalled(true));
    let client = stage.client(leader);
    client.ask(put(b"on two disks"));
    stage.pass(500);
    let member = stage.member(*node);
    stage.cluster.put_back(member, &old, PutBack::All);
    stage.cluster.start(member);
    stage.wait_for(10_000, "end of the node that went back", || member.ended().is_some());
    assert_eq!(member.ended().unwrap().0, 16);
    stage.member(slow[0]).latency.set_stalled(false);
    stage.pass(2_000);
    assert_eq!(stage.leader_and_term(), before);
    assert!(client.heard().is_empty(), "a put was answered that is on two disks of five");
    stage.member(slow[1]).latency.set_stalled(false);
    stage.wait_for(2_000, "answer", || client.heard().len() == 1);
    stage.member(slow[2]).latency.set_stalled(false);
    stage.pass(2_000);
    stage.cluster.check_durability();
    assert_eq!(stage.cluster.oracle().broken(), None);
}

#[test]
fn c1_a_put_is_answered_when_three_hold_it_without_the_node_that_went_back() {
    a_put_is_answered_when_three_hold_it_without_the_node_that_went_back();
}

/// These two rules are guards behind a guard, which no seed gets past: see `sim::mutants`.
#[cfg(feature = "mutants")]
#[test]
fn c1_without_either_rule_the_scenario_that_plays_it_fails() {
    let fails = |mutation, play: fn()| {
        let ended = mutation::with(Some(mutation), || std::panic::catch_unwind(play));
        let why = ended.expect_err("nothing was amiss");
        why.downcast::<String>().map_or_else(|why| (*why.downcast::<&str>().expect("a text")).to_owned(), |why| *why)
    };
    let why = fails(Mutation::UnadmittedStartPromises, a_start_that_one_node_knows_of_votes_for_nobody);
    assert!(why.contains("without committed"), "{why}");
    let why = fails(Mutation::FormerMatchKept, a_put_is_answered_when_three_hold_it_without_the_node_that_went_back);
    assert!(why.contains("a put was answered that is on two disks of five"), "{why}");
}
