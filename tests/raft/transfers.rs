//! Handing leadership over, and what must not come of it. Ids as in the list of faults.

use beaver_raft::raft::{Raft, TransferRefused};
use beaver_raft::types::{NodeId, Term};

use crate::cluster::{Cluster, timeout_now};

fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    cluster.advance(60);
    cluster
}

fn transfer(cluster: &mut Cluster, to: Option<u8>) -> Result<(), TransferRefused> {
    cluster.step(1, |raft, now| raft.transfer(now, to.map(NodeId)))
}

#[test]
fn leadership_goes_to_the_one_that_was_named_without_any_time_passing() {
    let mut cluster = three();
    assert_eq!(transfer(&mut cluster, Some(3)), Ok(()));
    cluster.settle();
    assert_eq!(cluster.leader(), Some(3));
    assert_eq!(cluster.terms(), [2, 2, 2]);
    assert_eq!(cluster.raft(1).leader(), Some(NodeId(3)));
    assert_eq!(cluster.sent.get("pre-vote request"), None);
}

#[test]
fn with_nobody_named_it_goes_to_the_voter_that_has_most_of_the_log() {
    let mut cluster = three();
    cluster.disk(2).holds_appends = true;
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    assert_eq!(transfer(&mut cluster, None), Ok(()));
    cluster.settle();
    assert_eq!(cluster.leader(), Some(3));
}

#[test]
fn e17_a_transfer_waits_for_a_lagging_target_and_takes_no_entries_meanwhile() {
    let mut cluster = three();
    cluster.disk(3).holds_appends = true;
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    assert_eq!(transfer(&mut cluster, Some(3)), Ok(()));
    cluster.settle();
    assert_eq!(cluster.leader(), Some(1));
    assert!(!cluster.raft(1).takes_entries());
    assert_eq!(cluster.propose(1, 2), None);
    assert_eq!(transfer(&mut cluster, Some(2)), Err(TransferRefused::UnderWay));
    cluster.disk(3).holds_appends = false;
    cluster.settle();
    assert_eq!(cluster.leader(), Some(3));
}

#[test]
fn e17_a_transfer_to_a_target_that_dies_ends_after_one_election_timeout_and_entries_are_taken_again() {
    let mut cluster = three();
    cluster.disk(3).holds_appends = true;
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    assert_eq!(transfer(&mut cluster, Some(3)), Ok(()));
    cluster.crash(3);
    cluster.advance(299);
    assert_eq!(cluster.propose(1, 2), None);
    cluster.advance(1);
    assert_eq!(cluster.leader(), Some(1));
    let position = cluster.propose(1, 2).expect("entries are taken again");
    cluster.settle();
    assert_eq!(cluster.committed(1), position.index.0);
    cluster.disk(3).holds_appends = false;
    cluster.must_recover();
}

#[test]
fn a_lost_request_to_take_over_is_repeated() {
    let mut cluster = three();
    cluster.hold(1, 3);
    assert_eq!(transfer(&mut cluster, Some(3)), Ok(()));
    cluster.settle();
    cluster.drop_all(1, 3);
    cluster.release(1, 3);
    cluster.advance(60);
    assert_eq!(cluster.leader(), Some(3));
}

#[test]
fn a_transfer_to_nobody_who_could_lead_is_refused() {
    let mut cluster = three();
    assert_eq!(transfer(&mut cluster, Some(1)), Err(TransferRefused::LeadsAlready));
    assert_eq!(transfer(&mut cluster, Some(9)), Err(TransferRefused::NotVoter(NodeId(9))));
    let refused = cluster.step(2, |raft, now| raft.transfer(now, Some(NodeId(3))));
    assert_eq!(refused, Err(TransferRefused::NotLeader));
    cluster.crash(3);
    cluster.advance(500);
    assert_eq!(transfer(&mut cluster, Some(3)), Err(TransferRefused::Unreachable(NodeId(3))));
    let mut alone = Cluster::new(1);
    alone.elect(100);
    assert_eq!(transfer(&mut alone, None), Err(TransferRefused::NobodyReachable));
}

#[test]
fn e18_a_request_to_take_over_that_comes_in_a_later_term_is_void() {
    let mut cluster = three();
    cluster.elect_node(2);
    cluster.advance(10_000);
    let terms = cluster.terms();
    cluster.inject(1, 3, timeout_now(Term(1)));
    cluster.settle();
    assert_eq!((cluster.terms(), cluster.leader()), (terms, Some(2)));
}

#[test]
fn a_request_to_take_over_that_comes_twice_does_not_cost_a_second_term() {
    let mut cluster = three();
    let term = cluster.raft(3).term();
    cluster.inject(1, 3, timeout_now(term));
    cluster.inject(1, 3, timeout_now(term));
    cluster.settle();
    assert_eq!(cluster.leader(), Some(3));
    assert_eq!(cluster.raft(3).term(), term.next());
}

#[test]
fn stepping_down_alone_is_no_end_of_the_group() {
    let mut cluster = Cluster::new(1);
    cluster.elect(100);
    cluster.step(1, Raft::step_down);
    assert_eq!(cluster.leader(), None);
    cluster.elect(1_000);
}
