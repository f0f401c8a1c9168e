//! Flow control: how far a leader runs ahead of a follower, and how it finds its way back after losses. A slow or
//! silent follower must cost nobody else anything. Ids as in the list of faults.

use beaver_raft::raft::message::Body;
use beaver_raft::raft::{Membership, PeerProgress, ProgressState, Raft};
use beaver_raft::types::{Index, NodeId};

use crate::cluster::Cluster;

fn progress(cluster: &Cluster, node: u8) -> PeerProgress {
    cluster.raft(1).progress().find(|peer| peer.node == NodeId(node)).unwrap()
}

/// At most four appends of one entry in flight; node 1 leads, and has sent something to everybody.
fn narrow() -> Cluster {
    let membership = Membership::new([1, 2, 3].map(NodeId), []).unwrap();
    let mut cluster = Cluster::tuned(membership, |config| config.in_flight_messages_max = 4);
    cluster.elect_node(1);
    cluster.advance(60);
    cluster
}

fn appends_on_the_way(cluster: &Cluster, to: u8) -> usize {
    let queue = cluster.links.get(&(1, to)).into_iter().flatten();
    queue.filter(|message| matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty())).count()
}

#[test]
fn a_leader_streams_ahead_of_the_answers_up_to_its_window() {
    let mut cluster = narrow();
    cluster.hold(1, 3);
    for payload in 0..10 {
        cluster.propose(1, payload).unwrap();
        cluster.settle();
    }
    assert_eq!(appends_on_the_way(&cluster, 3), 4);
    let view = progress(&cluster, 3);
    assert_eq!((view.state, view.in_flight_messages, view.in_flight_bytes), (ProgressState::Replicate, 4, 400));
    assert_eq!(cluster.committed(1), 11, "the other follower is not held up");
    cluster.release(1, 3);
    cluster.settle();
    assert_eq!(cluster.committed(3), 11);
    let view = progress(&cluster, 3);
    assert_eq!((view.matched, view.in_flight_messages, view.in_flight_bytes), (Index(11), 0, 0));
}

#[test]
fn the_window_is_also_bounded_by_bytes_but_lets_any_entry_pass() {
    let membership = Membership::new([1, 2, 3].map(NodeId), []).unwrap();
    let mut cluster = Cluster::tuned(membership, |config| {
        config.in_flight_bytes_max = 150;
        config.append_bytes_max = 10;
    });
    cluster.elect_node(1);
    cluster.hold(1, 3);
    for payload in 0..10 {
        cluster.propose(1, payload).unwrap();
        cluster.settle();
    }
    assert_eq!(appends_on_the_way(&cluster, 3), 2);
    cluster.release(1, 3);
    cluster.settle();
    assert_eq!(cluster.committed(3), 11);
}

#[test]
fn what_waited_for_the_window_goes_in_large_appends() {
    let mut cluster = narrow();
    cluster.hold(1, 3);
    for payload in 0..60 {
        cluster.propose(1, payload).unwrap();
    }
    cluster.settle();
    let before = cluster.sent["append"];
    cluster.release(1, 3);
    cluster.settle();
    assert_eq!(cluster.committed(3), 61);
    assert!(cluster.sent["append"] - before <= 2);
}

#[test]
fn r9_what_was_in_flight_is_forgotten_when_the_connection_breaks() {
    let mut cluster = narrow();
    cluster.hold(1, 3);
    for payload in 0..6 {
        cluster.propose(1, payload).unwrap();
    }
    cluster.settle();
    assert_eq!(progress(&cluster, 3).in_flight_messages, 4);
    cluster.drop_all(1, 3);
    cluster.step(1, |raft, now| raft.handle_peer_lost(now, NodeId(3), true));
    let view = progress(&cluster, 3);
    assert_eq!((view.state, view.in_flight_messages), (ProgressState::Probe { paused: false }, 0));
    cluster.release(1, 3);
    cluster.step(1, |raft, now| raft.handle_peer_up(now, NodeId(3)));
    cluster.settle();
    assert_eq!(cluster.committed(3), 7, "no time had to pass");
}

#[test]
fn a_lost_append_is_noticed_by_the_next_one() {
    let mut cluster = narrow();
    cluster.hold(1, 3);
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    cluster.drop_all(1, 3);
    cluster.release(1, 3);
    cluster.propose(1, 2).unwrap();
    cluster.settle();
    assert_eq!(cluster.committed(3), 3, "no time had to pass");
    assert_eq!(progress(&cluster, 3).state, ProgressState::Replicate);
}

#[test]
fn a_lost_last_append_is_noticed_by_asking() {
    let mut cluster = narrow();
    cluster.hold(1, 3);
    for payload in 0..3 {
        cluster.propose(1, payload).unwrap();
    }
    cluster.settle();
    cluster.drop_all(1, 3);
    cluster.release(1, 3);
    cluster.settle();
    assert_eq!(cluster.committed(3), 1);
    cluster.advance(300);
    assert_eq!(cluster.committed(3), 4);
    assert_eq!(progress(&cluster, 3).state, ProgressState::Replicate);
}

#[test]
fn lost_acknowledgements_are_made_up_for() {
    let mut cluster = narrow();
    cluster.hold(3, 1);
    for payload in 0..10 {
        cluster.propose(1, payload).unwrap();
    }
    cluster.settle();
    cluster.drop_all(3, 1);
    cluster.release(3, 1);
    cluster.advance(300);
    assert_eq!(cluster.committed(3), 11);
    assert_eq!(progress(&cluster, 3).matched, Index(11));
}

#[test]
fn e13_a_follower_whose_disk_hangs_delays_nobody_and_catches_up_without_being_sent_everything_again() {
    let mut cluster = narrow();
    cluster.disk(3).holds_appends = true;
    for payload in 0..10 {
        cluster.propose(1, payload).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.committed(1), 11);
    let before = cluster.sent["append"];
    cluster.advance(10_000);
    let asked = cluster.sent["append"] - before;
    assert!(asked <= 10_000 / 150 + 1, "it is asked now and then, with one entry: {asked}");
    assert_eq!(progress(&cluster, 3).state, ProgressState::Replicate, "slow is not lost");
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(cluster.raft(3).leader(), Some(NodeId(1)), "it hears its leader all the while");
    cluster.disk(3).holds_appends = false;
    cluster.settle();
    assert_eq!(cluster.committed(3), 11, "no time had to pass");
    assert_eq!(progress(&cluster, 3).matched, Index(11));
}

#[test]
fn r14_heartbeats_do_not_wait_for_room_in_the_window() {
    let mut cluster = narrow();
    cluster.disk(2).holds_appends = true;
    cluster.disk(3).holds_appends = true;
    for payload in 0..20 {
        cluster.propose(1, payload).unwrap();
    }
    cluster.advance(5_000);
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(cluster.terms(), [1, 1, 1]);
}

#[test]
fn a_probed_follower_is_asked_again_when_it_answers_heartbeats() {
    let mut cluster = narrow();
    cluster.isolate(3);
    cluster.propose(1, 1).unwrap();
    cluster.step(1, |raft, now| raft.handle_peer_lost(now, NodeId(3), false));
    cluster.propose(1, 2).unwrap();
    cluster.settle();
    assert_eq!(progress(&cluster, 3).state, ProgressState::Probe { paused: true }, "one message at a time");
    let before = cluster.sent["append"];
    cluster.propose(1, 3).unwrap();
    cluster.settle();
    assert_eq!(cluster.sent["append"] - before, 1, "nothing more goes to the one that is probed");
    cluster.heal();
    cluster.advance(60);
    assert_eq!(cluster.committed(3), 4);
    assert_eq!(progress(&cluster, 3).state, ProgressState::Replicate);
}

#[test]
fn r13_what_is_sent_next_never_falls_to_what_is_matched() {
    let mut cluster = narrow();
    for payload in 0..5 {
        cluster.propose(1, payload).unwrap();
        cluster.settle();
    }
    // A refusal from long ago, of a position that the follower has acknowledged since.
    let prev = cluster.raft(1).log().position_at(Index(3)).unwrap();
    let hint = cluster.raft(1).log().position_at(Index(1)).unwrap();
    for round in 1..40 {
        let body = Body::AppendRejected { prev, hint, round };
        let term = cluster.raft(1).term();
        cluster.inject(3, 1, beaver_raft::raft::message::Message { term, body });
    }
    let view = progress(&cluster, 3);
    assert_eq!((view.state, view.matched, view.next), (ProgressState::Replicate, Index(6), Index(7)));
}

#[test]
fn a_notice_that_overtakes_its_entries_is_not_taken_for_a_loss() {
    let mut cluster = narrow();
    cluster.hold(1, 3);
    cluster.propose(1, 1).unwrap();
    cluster.propose(1, 2).unwrap();
    cluster.settle();
    // The entries are still under way when what was sent last arrives: the notice of their commit.
    let newest = cluster.links[&(1, 3)].len() - 1;
    cluster.deliver((1, 3), newest);
    cluster.settle();
    assert_eq!(cluster.sent["rejected"], 1);
    assert_eq!(progress(&cluster, 3).state, ProgressState::Replicate);
    let before = cluster.sent["append"];
    cluster.release(1, 3);
    cluster.settle();
    assert_eq!(cluster.sent["append"], before, "nothing is sent twice");
    assert_eq!(cluster.committed(3), 3, "and the commit is told anew");
}

#[test]
fn a_commit_that_the_next_entry_carries_is_not_told_apart() {
    let mut cluster = narrow();
    cluster.propose(1, 1).unwrap();
    cluster.complete_append(1);
    let raft = cluster.raft(1).clone();
    let meta = crate::cluster::next_entry(&raft, 2);
    let empty = cluster.sent["empty append"];
    let link = (2, 1);
    while cluster.deliver((1, 2), 0) {}
    cluster.complete_append(2);
    let answer = cluster.links.get_mut(&link).unwrap().pop_front().unwrap();
    // The shard proposes again before it has taken all effects of the commit.
    cluster.step(1, |raft, now| {
        raft.handle_message(now, NodeId(2), answer);
        raft.propose(now, meta).unwrap();
    });
    assert_eq!(cluster.sent["empty append"], empty);
    cluster.settle();
    assert_eq!(cluster.committed(2), 3);
}

#[test]
fn twenty_thousand_entries_need_three_messages_each_way_at_most() {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    for payload in 0..2_000 {
        cluster.propose(1, payload).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.committed(1), 2_001);
    let sent: u64 = cluster.sent.values().sum();
    assert!(sent <= 2_001 * 2 * 4 + 100, "{:?}", cluster.sent);
    cluster.step(1, Raft::handle_time);
}
