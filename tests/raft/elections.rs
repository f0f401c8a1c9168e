//! Elections and liveness: who may lead, who may disturb, and how soon somebody does. Ids as in the list of faults.

use beaver_raft::raft::message::{Body, Message, Vote};
use beaver_raft::raft::{Membership, Raft, RoleName};
use beaver_raft::types::{Index, LogPosition, Nanos, NodeId, Term};

use crate::cluster::{Cluster, MS};

/// Three nodes, the first of which leads with a few entries committed.
fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    for payload in 1..=3 {
        cluster.propose(1, payload).unwrap();
    }
    cluster.settle();
    cluster.advance(60);
    cluster
}

#[test]
fn a_group_elects_one_leader_and_keeps_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect(2_000);
    let terms = cluster.terms();
    cluster.advance(60_000);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.terms(), terms);
}

#[test]
fn a_single_voter_leads_without_waiting_and_commits_on_its_own_durability() {
    let mut cluster = Cluster::new(1);
    assert_eq!(cluster.raft(1).role(), RoleName::Candidate);
    cluster.settle();
    assert!(cluster.raft(1).is_leader());
    cluster.disk(1).holds_appends = true;
    cluster.propose(1, 5).unwrap();
    cluster.settle();
    assert_eq!(cluster.committed(1), 1);
    cluster.complete_append(1);
    assert_eq!(cluster.committed(1), 2);
    cluster.read(1, 9);
    assert_eq!(cluster.members[&1].ready.get(&9), Some(&Index(2)));
    cluster.advance(5_000);
    assert!(cluster.raft(1).is_leader());
}

#[test]
fn a_candidates_own_vote_counts_only_when_it_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster.disk(2).holds_votes = true;
    cluster.step(2, |raft, now| raft.handle_message(now, NodeId(1), Message { term: Term(0), body: Body::TimeoutNow }));
    cluster.settle();
    assert_eq!(cluster.raft(2).role(), RoleName::Candidate);
    assert_eq!(cluster.sent.get("vote request"), None, "requests speak of the vote, so they wait for it");
    cluster.disk(2).holds_votes = false;
    cluster.settle();
    assert!(cluster.raft(2).is_leader());
}

#[test]
fn a_vote_is_not_granted_twice_in_a_term() {
    let mut cluster = Cluster::new(3);
    let request = |last| Message { term: Term(5), body: Body::VoteRequest { last, transfer: false } };
    cluster.inject(1, 3, request(LogPosition::ORIGIN));
    cluster.settle();
    cluster.inject(2, 3, request(LogPosition::new(Term(4), Index(9))));
    assert_eq!(cluster.raft(3).vote(), Vote { term: Term(5), voted_for: Some(NodeId(1)) });
}

#[test]
fn a_vote_is_not_granted_to_a_log_that_ends_before_the_voters() {
    let mut cluster = three();
    cluster.crash(1);
    cluster.advance(140);
    let before = LogPosition::new(Term(1), Index(3));
    cluster.inject(2, 3, Message { term: Term(9), body: Body::VoteRequest { last: before, transfer: true } });
    assert_eq!(cluster.raft(3).vote(), Vote { term: Term(9), voted_for: None });
}

#[test]
fn e1_a_follower_that_was_cut_off_comes_back_without_a_new_term() {
    let mut cluster = three();
    let terms = cluster.terms();
    cluster.isolate(3);
    cluster.advance(60_000);
    assert_eq!(cluster.terms(), terms);
    cluster.heal();
    cluster.advance(2_000);
    assert_eq!((cluster.terms(), cluster.leader()), (terms, Some(1)));
}

#[test]
fn e2_a_follower_cut_from_its_leader_only_is_refused_by_those_who_hear_it() {
    let mut cluster = three();
    let terms = cluster.terms();
    cluster.cut_both(1, 3);
    cluster.advance(60_000);
    assert_eq!((cluster.terms(), cluster.leader()), (terms, Some(1)));
    assert_eq!(cluster.raft(3).role(), RoleName::PreCandidate);
    assert_eq!(cluster.raft(3).leader(), None);
}

#[test]
fn e3_a_leader_that_cannot_hear_gives_up_and_another_takes_over() {
    let mut cluster = three();
    cluster.cut(2, 1);
    cluster.cut(3, 1);
    cluster.advance(301);
    assert!(!cluster.raft(1).is_leader());
    cluster.advance(600);
    let leader = cluster.leader().expect("one of the others leads");
    assert_ne!(leader, 1);
}

#[test]
fn e4_a_leader_that_cannot_speak_is_replaced_and_learns_of_it() {
    let mut cluster = three();
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.advance(700);
    let leader = cluster.leader().expect("one of the others leads");
    assert_ne!(leader, 1);
    assert_eq!(cluster.raft(1).leader(), Some(NodeId(leader)));
}

#[test]
fn e5_a_follower_that_cannot_hear_disturbs_nobody() {
    let mut cluster = three();
    let terms = cluster.terms();
    cluster.cut(1, 3);
    cluster.cut(2, 3);
    cluster.advance(60_000);
    assert_eq!((cluster.terms(), cluster.leader()), (terms, Some(1)));
}

#[test]
fn e6_five_nodes_two_of_which_hang_on_one_other_each_have_one_stable_leader() {
    let mut cluster = Cluster::new(5);
    for (one, other) in [(4, 1), (4, 3), (4, 5), (5, 1), (5, 2)] {
        cluster.cut_both(one, other);
    }
    cluster.elect(5_000);
    cluster.advance(5_000);
    let (leader, terms) = (cluster.leader().unwrap(), cluster.raft(1).term());
    assert!(leader <= 3);
    cluster.advance(60_000);
    assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(leader), terms));
}

#[test]
fn e7_a_chain_settles_with_at_most_one_change_wherever_its_leader_stands() {
    for leader in 1..=3 {
        let mut cluster = Cluster::new(3);
        cluster.elect_node(leader);
        cluster.advance(60);
        cluster.cut_both(1, 3);
        cluster.advance(2_000);
        let settled = (cluster.leader().expect("somebody leads"), cluster.raft(2).term());
        assert!(settled.1.0 <= 3, "at most one change from leader {leader}");
        cluster.advance(60_000);
        assert_eq!((cluster.leader().unwrap(), cluster.raft(2).term()), settled);
    }
}

#[test]
fn e8_a_node_stuck_at_a_higher_term_is_let_in_again() {
    let mut cluster = three();
    cluster.crash(3);
    cluster.disk(3).vote = Vote { term: Term(40), voted_for: Some(NodeId(3)) };
    cluster.propose(1, 4).unwrap();
    cluster.settle();
    cluster.start(3);
    cluster.advance(2_000);
    let leader = cluster.leader().expect("somebody leads");
    assert!(cluster.raft(leader).term() > Term(40));
    assert_eq!(cluster.raft(3).last_position(), cluster.raft(leader).last_position());
}

#[test]
fn e9_being_asked_for_a_pre_vote_changes_nothing() {
    let mut cluster = three();
    let before = cluster.raft(2).clone();
    let stale = Message { term: Term(90), body: Body::PreVoteRequest { last: LogPosition::ORIGIN } };
    cluster.inject(3, 2, stale);
    assert_eq!(cluster.raft(2), &before);
    assert!(cluster.disk(2).votes.is_empty());
    // Nor when there is no leader to protect, and the answer is yes.
    cluster.crash(1);
    cluster.now = cluster.now.saturating_add(Nanos(160 * MS));
    let last = cluster.raft(2).last_position();
    cluster.inject(3, 2, Message { term: Term(91), body: Body::PreVoteRequest { last } });
    assert!(cluster.disk(2).votes.is_empty());
    assert_eq!(cluster.raft(2).term(), Term(1));
}

#[test]
fn e10_a_vote_that_was_not_durable_when_the_node_died_was_never_sent() {
    let mut cluster = Cluster::new(3);
    cluster.disk(3).holds_votes = true;
    let request = Message { term: Term(1), body: Body::VoteRequest { last: LogPosition::ORIGIN, transfer: false } };
    cluster.inject(1, 3, request.clone());
    cluster.settle();
    assert_eq!(cluster.sent.get("vote reply"), None);
    cluster.crash(3);
    cluster.disk(3).holds_votes = false;
    cluster.start(3);
    cluster.inject(2, 3, request);
    cluster.settle();
    assert_eq!(cluster.raft(3).vote().voted_for, Some(NodeId(2)));
    assert_eq!(cluster.sent.get("vote reply"), Some(&1));
}

#[test]
fn e11_a_restart_of_all_or_most_or_one_after_the_other_has_a_leader_soon() {
    let mut cluster = three();
    for restarted in [&[1, 2, 3][..], &[1, 2], &[1], &[2], &[3], &[2, 3]] {
        restarted.iter().for_each(|id| cluster.crash(*id));
        restarted.iter().for_each(|id| cluster.start(*id));
        cluster.elect(1_000);
        cluster.advance(500);
    }
    cluster.must_recover();
}

#[test]
fn e12_a_leader_that_steps_down_for_its_disk_is_followed_at_once() {
    let mut cluster = three();
    cluster.disk(1).holds_appends = true;
    cluster.disk(1).holds_votes = true;
    cluster.propose(1, 9).unwrap();
    cluster.settle();
    cluster.step(1, Raft::step_down);
    cluster.settle();
    let leader = cluster.leader().expect("the successor did not wait for silence");
    assert_ne!(leader, 1);
    assert_eq!(cluster.raft(leader).term(), Term(2));
    // What the stalled node can't make durable it does not answer for, but it follows and stands in nobody's way.
    cluster.advance(30_000);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.raft(leader).term(), Term(2));
    cluster.must_recover();
}

#[test]
fn e14_a_follower_that_overslept_its_deadline_listens_before_it_campaigns() {
    let mut cluster = three();
    cluster.members.get_mut(&3).unwrap().suspended = true;
    cluster.advance(10_000);
    let asked_before = cluster.sent.get("pre-vote request").copied();
    cluster.members.get_mut(&3).unwrap().suspended = false;
    // Its timer comes first; the heartbeats of ten seconds are still to be read.
    cluster.step(3, Raft::handle_time);
    assert_eq!(cluster.raft(3).role(), RoleName::Follower);
    cluster.advance(1_000);
    assert_eq!(cluster.sent.get("pre-vote request").copied(), asked_before);
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn e14_a_candidate_whose_vote_is_slow_to_store_does_not_run_up_the_term() {
    let mut cluster = Cluster::new(3);
    cluster.disk(1).holds_votes = true;
    cluster.isolate(2);
    cluster.isolate(3);
    cluster.step(1, |raft, now| raft.handle_message(now, NodeId(2), crate::cluster::timeout_now(Term(0))));
    cluster.advance(10_000);
    assert_eq!(cluster.raft(1).term(), Term(1));
    cluster.must_recover();
}

#[test]
fn e16_a_leader_that_slept_steps_down_before_it_believes_an_old_answer() {
    let mut cluster = three();
    cluster.hold(2, 1);
    cluster.hold(3, 1);
    let position = cluster.propose(1, 4).unwrap();
    cluster.read(1, 1);
    cluster.settle();
    cluster.members.get_mut(&1).unwrap().suspended = true;
    cluster.advance(1_500);
    assert_ne!(cluster.leader(), Some(1));
    cluster.members.get_mut(&1).unwrap().suspended = false;
    // The answers to what it sent before it slept are the first that it sees.
    assert!(cluster.deliver((2, 1), 0));
    assert!(!cluster.raft(1).is_leader());
    assert_eq!(cluster.members[&1].lost.len(), 1);
    assert!(cluster.members[&1].ready.is_empty());
    assert!(cluster.committed(1) < position.index.0);
    cluster.must_recover();
}

#[test]
fn e19_nodes_with_different_timeouts_still_elect() {
    let mut cluster = Cluster::stopped(Membership::new((1..=3).map(NodeId), []).unwrap());
    cluster.tune = |config| {
        let factor = u64::from(config.id.0);
        config.election_timeout_min = Nanos(config.election_timeout_min.0 * factor);
        config.election_timeout_max = Nanos(config.election_timeout_max.0 * factor * 2);
        config.heartbeat_interval = Nanos(config.heartbeat_interval.0 / factor);
    };
    cluster.start_all();
    for round in 0..6 {
        let leader = cluster.elect(10_000);
        cluster.advance(1_000);
        assert_eq!(cluster.leader(), Some(leader), "round {round}");
        cluster.crash(leader);
        cluster.elect(10_000);
        cluster.start(leader);
    }
    cluster.must_recover();
}

#[test]
fn a_dead_leader_whose_port_refuses_is_replaced_without_waiting_for_silence() {
    let mut cluster = three();
    cluster.crash(1);
    for follower in [2, 3] {
        cluster.step(follower, |raft, now| raft.handle_peer_lost(now, NodeId(1), true));
    }
    cluster.advance(50);
    assert!(cluster.leader().is_some());
}

#[test]
fn who_has_evidence_that_its_leader_is_gone_helps_another_candidate_at_once() {
    let mut cluster = three();
    let request = Message { term: Term(2), body: Body::PreVoteRequest { last: cluster.raft(3).last_position() } };
    cluster.hold(2, 3);
    cluster.inject(3, 2, request.clone());
    cluster.step(2, |raft, now| raft.handle_peer_lost(now, NodeId(1), true));
    cluster.inject(3, 2, request);
    let answers: Vec<Body> = cluster.links[&(2, 3)].iter().map(|message| message.body.clone()).collect();
    assert_eq!(answers, [Body::PreVoteReply { granted: false }, Body::PreVoteReply { granted: true }]);
}

#[test]
fn a_broken_connection_alone_is_no_evidence_and_disturbs_nobody() {
    let mut cluster = three();
    let terms = cluster.terms();
    cluster.step(2, |raft, now| raft.handle_peer_lost(now, NodeId(1), false));
    cluster.step(2, |raft, now| raft.handle_peer_lost(now, NodeId(3), true));
    cluster.advance(1_000);
    assert_eq!((cluster.terms(), cluster.leader()), (terms, Some(1)));
}

#[test]
fn one_node_that_believes_its_leader_dead_is_refused_by_the_others() {
    let mut cluster = three();
    let terms = cluster.terms();
    cluster.cut_both(1, 2);
    cluster.step(2, |raft, now| raft.handle_peer_lost(now, NodeId(1), true));
    cluster.advance(5_000);
    assert_eq!((cluster.terms(), cluster.leader()), (terms, Some(1)));
}

#[test]
fn a_candidate_asks_again_who_comes_up_late() {
    let mut cluster = Cluster::new(3);
    cluster.isolate(1);
    cluster.isolate(2);
    cluster.advance(400);
    assert!((1..=3).all(|id| cluster.raft(id).role() == RoleName::PreCandidate));
    cluster.heal();
    cluster.step(1, |raft, now| raft.handle_peer_up(now, NodeId(2)));
    cluster.settle();
    assert!(cluster.raft(1).is_leader(), "no time had to pass");
}

#[test]
fn a_leader_without_a_quorum_steps_down_within_one_election_timeout() {
    let mut cluster = three();
    cluster.crash(2);
    cluster.advance(5_000);
    assert!(cluster.raft(1).is_leader(), "two of three are a quorum");
    cluster.crash(3);
    cluster.advance(301);
    assert_eq!(cluster.raft(1).role(), RoleName::Follower);
}

#[test]
fn a_learner_never_campaigns_but_votes_when_asked() {
    let mut cluster = Cluster::with(Membership::new([NodeId(1), NodeId(2)], [NodeId(3)]).unwrap());
    cluster.elect(2_000);
    cluster.isolate(3);
    cluster.advance(10_000);
    assert_eq!(cluster.raft(3).role(), RoleName::Follower);
    let last = LogPosition::new(Term(8), Index(99));
    cluster.inject(1, 3, Message { term: Term(9), body: Body::VoteRequest { last, transfer: false } });
    assert_eq!(cluster.raft(3).vote().voted_for, Some(NodeId(1)));
}

#[test]
fn a_joint_group_elects_and_commits_only_with_both_majorities() {
    let membership = Membership::joint([1, 2, 3].map(NodeId), [3, 4, 5].map(NodeId), [], []).unwrap();
    let mut cluster = Cluster::with(membership);
    cluster.elect_node(1);
    cluster.crash(4);
    cluster.crash(5);
    let position = cluster.propose(1, 7).unwrap();
    cluster.settle();
    assert!(cluster.committed(1) < position.index.0, "of the outgoing three only one is left");
    cluster.start(4);
    cluster.advance(200);
    assert_eq!(cluster.committed(1), position.index.0);
    cluster.crash(4);
    cluster.advance(400);
    assert_eq!(cluster.leader(), None);
}
