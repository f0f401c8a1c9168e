//! Starts of nodes whose disks may be older than what they have promised: who may promise anything, and what a leader
//! still counts.

use beaver_raft::raft::message::{Body, Message};
use beaver_raft::raft::{ProgressState, RoleName};
use beaver_raft::types::{Index, LogPosition, NodeId, Term};

use crate::cluster::Cluster;

/// Five nodes, the first of which leads; the last was started again, and nobody has admitted that yet.
fn five_with_a_new_start() -> Cluster {
    let mut cluster = Cluster::new(5);
    cluster.elect_node(1);
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    cluster.crash(5);
    cluster.start(5);
    cluster.step(5, |raft, _| raft.await_admission());
    cluster
}

#[test]
fn a_start_promises_nothing_before_half_of_the_others_have_admitted_it() {
    let mut cluster = five_with_a_new_start();
    for admitted_by in [None, Some(1)] {
        if let Some(node) = admitted_by {
            cluster.step(5, |raft, now| raft.handle_peer_up(now, NodeId(node)));
        }
        cluster.sent.clear();
        cluster.isolate(2);
        cluster.isolate(3);
        cluster.isolate(4);
        let (last, term) = (LogPosition::new(Term(90), Index(90)), cluster.raft(5).term());
        let asked = [
            Message { term: term.next(), body: Body::PreVoteRequest { last } },
            Message { term: term.next(), body: Body::VoteRequest { last, transfer: true } },
            Message { term: term.next(), body: Body::TimeoutNow },
        ];
        for message in asked {
            cluster.step(5, |raft, now| raft.handle_message(now, NodeId(3), message));
        }
        cluster.settle();
        assert!(!cluster.raft(5).is_admitted());
        assert_eq!(cluster.raft(5).vote().voted_for, None);
        assert_eq!(cluster.raft(5).role(), RoleName::Follower);
        for kind in ["vote reply", "pre-vote reply", "accepted"] {
            assert_eq!(cluster.sent.get(kind), None, "{kind}: {:?}", cluster.sent);
        }
        cluster.heal();
    }
    cluster.step(5, |raft, now| raft.handle_peer_up(now, NodeId(4)));
    assert!(cluster.raft(5).is_admitted());
    cluster.advance(2_000);
    cluster.propose(cluster.leader().unwrap(), 2).unwrap();
    cluster.settle();
    assert_eq!(cluster.committed(5), cluster.committed_anywhere().0);
}

#[test]
fn two_of_three_starts_admit_each_other_and_one_alone_is_its_own_majority() {
    for (voters, others) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let mut cluster = Cluster::new(voters);
        cluster.step(1, |raft, _| raft.await_admission());
        for other in 0..others {
            assert!(!cluster.raft(1).is_admitted(), "{voters} voters, admitted by {other}");
            cluster.step(1, |raft, now| raft.handle_peer_up(now, NodeId(other + 2)));
        }
        assert!(cluster.raft(1).is_admitted(), "{voters} voters");
    }
}

/// Two of three have an entry, and one of the two is started anew: it may have lost it. Then one copy is no majority.
#[test]
fn a_leader_counts_nothing_that_a_former_start_acknowledged() {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    cluster.settle();
    let before = cluster.committed(1);
    cluster.disk(1).holds_appends = true;
    cluster.isolate(3);
    cluster.propose(1, 7).unwrap();
    cluster.settle();
    let matched = |cluster: &Cluster| {
        let peer = cluster.raft(1).progress().find(|peer| peer.node == NodeId(2)).unwrap();
        (peer.matched, peer.state)
    };
    assert_eq!(matched(&cluster).0, cluster.raft(1).last_position().index);
    cluster.step(1, |raft, now| raft.handle_peer_restarted(now, NodeId(2)));
    assert_eq!(matched(&cluster), (Index::ZERO, ProgressState::Probe { paused: false }));
    cluster.cut_both(1, 2);
    cluster.disk(1).holds_appends = false;
    cluster.complete_append(1);
    assert_eq!(cluster.committed(1), before, "its own copy is the only one that is known of");
    cluster.heal();
    cluster.advance(200);
    assert_eq!(cluster.committed(1), cluster.raft(1).last_position().index.0);
}

/// Else a crash could leave a disk with the earlier term and without what was acknowledged in it, as an older image has.
#[test]
fn entries_are_replaced_only_once_the_term_of_who_replaces_them_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    cluster.settle();
    cluster.isolate(1);
    cluster.propose(1, 7).unwrap();
    cluster.settle();
    let (own, term) = (cluster.raft(1).last_position(), cluster.raft(1).term());
    cluster.advance(1_000);
    cluster.disk(1).holds_votes = true;
    cluster.heal();
    cluster.advance(300);
    assert!(cluster.raft(1).term() > term && cluster.raft(1).saved_term() == term);
    assert_eq!(cluster.raft(1).last_position(), own);
    cluster.disk(1).holds_votes = false;
    while cluster.complete_vote(1) {}
    cluster.advance(1_000);
    assert_eq!(cluster.committed(1), cluster.committed_anywhere().0);
    assert!(cluster.raft(1).saved_term() > term);
}
