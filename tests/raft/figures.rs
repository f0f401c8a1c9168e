//! The situations that the Raft paper draws, and the ones that implementations of it have been measured by, told anew.

use beaver_raft::raft::message::{Body, Message};
use beaver_raft::raft::{Membership, RoleName};
use beaver_raft::types::{Index, LogPosition, NodeId, Term};

use crate::cluster::{Cluster, entry};
use crate::disk::{Disk, FIRST_CHAIN};

/// A disk with a log of these terms. The entries of equal terms at equal indexes are the same on every disk that is
/// made so, as long as what precedes them is.
fn disk(terms: &[u64]) -> Disk {
    let mut chain = FIRST_CHAIN;
    let mut disk = Disk::default();
    for (index, &term) in (1..).zip(terms) {
        let meta = entry(LogPosition::new(Term(term), Index(index)), chain, 0);
        chain = meta.chain;
        disk.entries.push(meta);
    }
    disk.vote.term = Term(terms.last().copied().unwrap_or(0));
    disk
}

fn prepared(logs: &[&[u64]]) -> Cluster {
    let voters = (1..).take(logs.len()).map(NodeId);
    let mut cluster = Cluster::stopped(Membership::new(voters, []).unwrap());
    for (id, terms) in (1..).zip(logs) {
        *cluster.disk(id) = disk(terms);
    }
    cluster.start_all();
    cluster
}

/// Raft figure 7: whatever followers hold when a leader comes to power, they end up with its log.
#[test]
fn figure_7_every_divergent_follower_is_brought_in_line() {
    let leader: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let mut cluster = prepared(&[
        leader,
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ]);
    // In term 8, as the figure has it: the node with entries of term 7 is the only one that does not vote for it.
    cluster.isolate(5);
    cluster.isolate(4);
    cluster.settle();
    for id in [1, 2, 3, 6, 7] {
        let stale = Message { term: Term(7), body: Body::VoteReply { granted: false } };
        cluster.inject(2, id, stale);
    }
    cluster.elect_node(1);
    cluster.heal();
    cluster.advance(500);
    let mut whole = leader.to_vec();
    whole.push(8);
    for id in cluster.ids() {
        assert_eq!(cluster.log_terms(id), whole, "node {id}");
        assert_eq!(cluster.committed(id), 11);
    }
}

/// Raft figure 8, up to (c): a majority has an entry of an earlier term, and it is not committed.
fn figure_8_c() -> Cluster {
    let mut cluster = Cluster::new(5);
    cluster.elect_node(1);
    // (a) S1 leads and replicates index 2 to S2 only.
    for other in [3, 4, 5] {
        cluster.cut_both(1, other);
    }
    cluster.propose(1, 2).unwrap();
    cluster.settle();
    // (b) S1 dies; S5 is elected by S3 and S4, and takes another entry at index 2: its first, of its own term.
    cluster.crash(1);
    cluster.crash(2);
    cluster.heal();
    cluster.hold(5, 3);
    cluster.hold(5, 4);
    cluster.step(5, |raft, now| raft.handle_message(now, NodeId(1), crate::cluster::timeout_now(Term(1))));
    cluster.settle();
    for voter in [3, 4] {
        cluster.deliver((5, voter), 0);
    }
    cluster.settle();
    assert!(cluster.raft(5).is_leader());
    assert_eq!(cluster.log_terms(5), [1, 2]);
    // (c) S5 dies; S1 comes back, is elected by S2 and S3, and replicates its old index 2 to S3.
    cluster.crash(5);
    cluster.heal();
    cluster.start(1);
    cluster.start(2);
    cluster.settle();
    cluster.isolate(4);
    for id in [1, 2] {
        cluster.inject(3, id, Message { term: Term(2), body: Body::PreVoteReply { granted: false } });
    }
    cluster
}

#[test]
fn figure_8_an_entry_of_an_earlier_term_may_still_be_overwritten_though_a_majority_has_it() {
    let mut cluster = figure_8_c();
    // S1's own entry of the new term goes nowhere yet: only the old one does.
    cluster.hold(1, 2);
    cluster.hold(1, 3);
    cluster.step(1, |raft, now| raft.handle_message(now, NodeId(2), crate::cluster::timeout_now(Term(2))));
    cluster.settle();
    for voter in [2, 3] {
        cluster.deliver((1, voter), 0);
    }
    cluster.settle();
    assert!(cluster.raft(1).is_leader());
    assert_eq!(cluster.log_terms(1), [1, 1, 3]);
    let old = *cluster.raft(1).log().get(Index(2)).unwrap();
    let prev = cluster.raft(1).log().position_at(Index(1)).unwrap();
    for follower in [2, 3] {
        let body = Body::Append { prev, entries: vec![old], commit: Index(1), round: 2 };
        cluster.inject(1, follower, Message { term: Term(3), body });
    }
    cluster.settle();
    assert_eq!(cluster.log_terms(3), [1, 1]);
    assert!(cluster.committed(1) < 2, "three of five hold index 2 of term 1, and it does not commit");
    // (d) S1 dies; S5 is elected by S3, S4 and itself, and overwrites index 2 everywhere.
    cluster.crash(1);
    cluster.crash(2);
    cluster.heal();
    cluster.start(5);
    cluster.settle();
    cluster.inject(3, 5, Message { term: Term(3), body: Body::PreVoteReply { granted: false } });
    cluster.elect_node(5);
    assert_eq!(cluster.log_terms(3), [1, 2, 4]);
    assert_eq!(cluster.committed(3), 3);
    cluster.must_recover();
}

#[test]
fn figure_8_once_an_entry_of_the_own_term_commits_nothing_before_it_is_overwritten() {
    let mut cluster = figure_8_c();
    // (e) S1 replicates its entry of the new term as well.
    cluster.elect_node(1);
    assert_eq!(cluster.log_terms(3), [1, 1, 3]);
    assert_eq!(cluster.committed(1), 3);
    // S5 can't be elected any more: S3 refuses it for its log, and stands itself.
    cluster.crash(1);
    cluster.crash(2);
    cluster.heal();
    cluster.start(5);
    cluster.advance(5_000);
    assert_eq!(cluster.leader(), Some(3));
    cluster.must_recover();
    assert_eq!(cluster.log_terms(5)[..3], [1, 1, 3]);
}

#[test]
fn a_campaign_step_by_step() {
    let mut cluster = Cluster::new(3);
    let kinds = |cluster: &Cluster| cluster.sent.iter().map(|(kind, count)| (*kind, *count)).collect::<Vec<_>>();
    cluster.now = cluster.raft(1).next_deadline().min(cluster.raft(2).next_deadline());
    let first = if cluster.raft(1).next_deadline() == cluster.now { 1 } else { 2 };
    cluster.step(first, beaver_raft::raft::Raft::handle_time);
    assert_eq!(cluster.raft(first).role(), RoleName::PreCandidate);
    assert_eq!(kinds(&cluster), [("pre-vote request", 2)]);
    assert_eq!(cluster.raft(first).term(), Term(0), "asking is not yet a new term");
    let other = 3 - first;
    cluster.deliver((first, other), 0);
    cluster.deliver((other, first), 0);
    assert_eq!(cluster.raft(first).role(), RoleName::Candidate);
    assert_eq!(kinds(&cluster), [("pre-vote reply", 1), ("pre-vote request", 2)]);
    cluster.complete_vote(first);
    assert_eq!(cluster.sent["vote request"], 2);
    cluster.deliver((first, other), 0);
    assert_eq!(cluster.sent.get("vote reply"), None);
    assert!(cluster.complete_vote(other));
    assert!(!cluster.complete_vote(other), "term and vote are saved at once");
    assert_eq!(cluster.sent["vote reply"], 1);
    cluster.deliver((other, first), 0);
    assert!(cluster.raft(first).is_leader());
    cluster.settle();
    assert!(cluster.raft(first).is_leader());
    assert_eq!(cluster.raft(first).last_position(), LogPosition::new(Term(1), Index(1)));
    assert!(cluster.ids().iter().all(|id| cluster.committed(*id) == 1), "the first entry of the term commits");
}

#[test]
fn a_follower_that_missed_the_commit_learns_of_it_by_the_next_heartbeat() {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    cluster.hold(1, 3);
    let position = cluster.propose(1, 1).unwrap();
    let append = cluster.links[&(1, 3)].back().cloned().unwrap();
    cluster.settle();
    cluster.drop_all(1, 3);
    cluster.inject(1, 3, append);
    cluster.settle();
    assert_eq!(cluster.raft(3).durable(), position.index);
    assert!(cluster.committed(3) < position.index.0);
    cluster.heal();
    cluster.settle();
    cluster.advance(60);
    assert_eq!(cluster.committed(3), position.index.0);
}
