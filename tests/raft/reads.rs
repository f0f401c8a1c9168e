//! Reads without a log entry: they must see everything that was acknowledged before they began. Ids as in the list of
//! faults. That no read index is too small is checked for every read, by the group itself.

use beaver_raft::raft::Raft;
use beaver_raft::raft::message::{Body, Message};
use beaver_raft::types::{Index, Term};

use crate::cluster::Cluster;

fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    cluster.advance(60);
    cluster
}

fn ready(cluster: &Cluster, read: u64) -> Option<Index> {
    cluster.members[&1].ready.get(&read).copied()
}

#[test]
fn a_read_is_confirmed_by_one_round_of_answers() {
    let mut cluster = three();
    cluster.read(1, 1);
    assert_eq!(ready(&cluster, 1), None);
    cluster.settle();
    assert_eq!(ready(&cluster, 1), Some(Index(1)));
}

#[test]
fn reads_that_come_during_a_round_share_the_next() {
    let mut cluster = three();
    let before = cluster.sent["empty append"];
    for read in 1..=100 {
        cluster.read(1, read);
    }
    cluster.settle();
    assert!((1..=100).all(|read| ready(&cluster, read).is_some()));
    assert_eq!(cluster.sent["empty append"] - before, 4, "two rounds to two followers");
}

#[test]
fn d1_a_read_at_a_new_leader_waits_for_the_first_entry_of_its_term() {
    let mut cluster = three();
    cluster.crash(2);
    cluster.crash(3);
    cluster.start(2);
    cluster.start(3);
    cluster.step(1, Raft::step_down);
    let leader = cluster.elect(2_000);
    for id in cluster.ids() {
        cluster.disk(id).holds_appends = true;
    }
    cluster.step(leader, Raft::step_down);
    let mut next = None;
    for _ in 0..2_000 {
        cluster.advance(1);
        next = cluster.leader();
        if next.is_some() {
            break;
        }
    }
    let next = next.expect("a new leader, whose first entry can't commit");
    cluster.read(next, 1);
    cluster.advance(200);
    assert_eq!(cluster.leader(), Some(next));
    assert_eq!(cluster.members[&next].ready.get(&1), None);
    for id in cluster.ids() {
        cluster.disk(id).holds_appends = false;
    }
    cluster.settle();
    let index = cluster.members[&next].ready[&1];
    assert_eq!(cluster.raft(next).log().term_at(index), Some(cluster.raft(next).term()));
}

#[test]
fn d2_a_read_right_after_a_transfer_is_not_stale() {
    let mut cluster = three();
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    cluster.step(1, |raft, now| raft.transfer(now, None)).unwrap();
    cluster.read(1, 1);
    cluster.settle();
    let leader = cluster.leader().unwrap();
    assert_ne!(leader, 1);
    cluster.read(leader, 2);
    cluster.settle();
    assert_eq!(cluster.members[&leader].ready[&2], Index(3));
    assert!(cluster.members[&1].lost.contains(&1) || ready(&cluster, 1).is_some(), "every read is answered");
}

#[test]
fn d3_a_repeated_answer_to_an_earlier_round_confirms_nothing() {
    let mut cluster = three();
    cluster.hold(2, 1);
    cluster.hold(3, 1);
    cluster.read(1, 1);
    cluster.settle();
    let mut answers = cluster.links[&(2, 1)].clone();
    answers.extend(cluster.links[&(3, 1)].clone());
    for answer in answers.iter().cloned() {
        cluster.inject(2, 1, answer);
    }
    assert!(ready(&cluster, 1).is_some());
    // From here on the followers are gone; only old answers arrive, again and again.
    cluster.isolate(1);
    cluster.read(1, 2);
    for answer in answers.iter().chain(&answers).cloned() {
        cluster.inject(2, 1, answer.clone());
        cluster.inject(3, 1, answer);
    }
    assert_eq!(ready(&cluster, 2), None);
    cluster.advance(400);
    assert!(cluster.members[&1].lost.contains(&2));
}

/// There are no reads by lease, so none has to end with the transfer: a round of answers confirms each.
#[test]
fn d4_a_read_while_leadership_is_handed_over_is_never_answered_by_time_alone() {
    let mut cluster = three();
    cluster.hold(2, 1);
    cluster.hold(3, 1);
    cluster.step(1, |raft, now| raft.transfer(now, None)).unwrap();
    cluster.read(1, 1);
    cluster.settle();
    // Another leads by now, and has committed more than this one knows.
    let successor = cluster.leader().unwrap();
    assert_ne!(successor, 1);
    assert_eq!(ready(&cluster, 1), None);
    cluster.release(2, 1);
    cluster.release(3, 1);
    cluster.advance(1_000);
    assert_eq!(ready(&cluster, 1), None);
    assert!(cluster.members[&1].lost.contains(&1), "it is lost, and may be asked anew of the successor");
}

#[test]
fn d7_an_answer_of_an_earlier_term_confirms_nothing() {
    let mut cluster = three();
    cluster.elect_node(2);
    cluster.elect_node(1);
    assert_eq!(cluster.raft(1).term(), Term(3));
    cluster.isolate(1);
    cluster.read(1, 1);
    for term in [1, 2] {
        for from in [2, 3] {
            for round in 0..100 {
                let body = Body::AppendAccepted { matched: Index(1), round };
                cluster.inject(from, 1, Message { term: Term(term), body });
            }
        }
    }
    assert_eq!(ready(&cluster, 1), None);
}

#[test]
fn a_read_where_nobody_leads_is_lost_at_once() {
    let mut cluster = three();
    cluster.read(2, 1);
    assert!(cluster.members[&2].lost.contains(&1));
}

#[test]
fn reads_that_wait_are_lost_with_the_leadership() {
    let mut cluster = three();
    cluster.isolate(1);
    for read in 1..=3 {
        cluster.read(1, read);
    }
    cluster.advance(400);
    assert_eq!(cluster.members[&1].lost.len(), 3);
}

#[test]
fn a_lost_round_is_made_up_for_by_the_next_heartbeat() {
    let mut cluster = three();
    cluster.hold(1, 2);
    cluster.hold(1, 3);
    cluster.read(1, 1);
    cluster.settle();
    cluster.drop_all(1, 2);
    cluster.drop_all(1, 3);
    cluster.heal();
    cluster.advance(60);
    assert!(ready(&cluster, 1).is_some());
}

#[test]
fn a_read_is_confirmed_while_every_disk_hangs() {
    let mut cluster = three();
    for id in cluster.ids() {
        cluster.disk(id).holds_appends = true;
    }
    cluster.propose(1, 1).unwrap();
    cluster.read(1, 1);
    cluster.settle();
    assert_eq!(ready(&cluster, 1), Some(Index(1)));
}
