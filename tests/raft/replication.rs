//! Replication: what a follower takes over, what counts as durable, what commits. Ids as in the list of faults.

use beaver_raft::raft::message::{Body, Effect, EntryMeta, Message, StopReason, Vote};
use beaver_raft::raft::{Config, Log, Membership, ProgressState, Raft};
use beaver_raft::types::{ChainHash, Index, LogPosition, Nanos, NodeId, Term};

use crate::cluster::{Cluster, entry};
use crate::disk::FIRST_CHAIN;

fn at(term: u64, index: u64) -> LogPosition {
    LogPosition::new(Term(term), Index(index))
}

/// Entries of these terms from index 1 on; `payload` tells them from others at the same positions.
fn entries(terms: &[u64], payload: u64) -> Vec<EntryMeta> {
    let mut chain = FIRST_CHAIN;
    let mut log = Vec::new();
    for (index, &term) in (1..).zip(terms) {
        let meta = entry(at(term, index), chain, payload);
        chain = meta.chain;
        log.push(meta);
    }
    log
}

fn append(term: u64, prev: LogPosition, entries: &[EntryMeta], commit: u64) -> Message {
    let body = Body::Append { prev, entries: entries.to_vec(), commit: Index(commit), round: 1 };
    Message { term: Term(term), body }
}

/// The newest message from one node to another that has not arrived yet.
fn newest(cluster: &Cluster, from: u8, to: u8) -> Body {
    cluster.links[&(from, to)].back().expect("something was sent").body.clone()
}

fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect_node(1);
    cluster
}

#[test]
fn a_leader_sends_before_its_own_write_is_durable_and_does_not_count_itself() {
    let mut cluster = three();
    cluster.disk(1).holds_appends = true;
    cluster.disk(2).holds_appends = true;
    let position = cluster.propose(1, 1).unwrap();
    cluster.settle();
    assert_eq!(cluster.raft(3).durable(), position.index);
    assert!(cluster.committed(1) < position.index.0, "one disk is no majority");
    cluster.complete_append(2);
    cluster.settle();
    assert_eq!(cluster.committed(1), position.index.0, "the two others are, whatever the leader's own disk does");
    assert!(cluster.raft(1).durable() < position.index);
    assert_eq!(cluster.committed(2), position.index.0, "followers are told at once");
}

#[test]
fn an_append_is_acknowledged_only_when_it_is_durable() {
    let mut cluster = three();
    cluster.disk(2).holds_appends = true;
    cluster.propose(1, 1).unwrap();
    let before = cluster.sent["accepted"];
    cluster.settle();
    let accepted_by_three = cluster.sent["accepted"] - before;
    cluster.disk(2).holds_appends = false;
    cluster.settle();
    assert_eq!(cluster.sent["accepted"] - before, accepted_by_three + 2, "the append and the notice of its commit");
}

#[test]
fn an_acknowledgement_waits_for_the_term_as_well() {
    let mut cluster = Cluster::new(3);
    cluster.disk(2).holds_votes = true;
    let log = entries(&[1], 0);
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &log, 0));
    cluster.settle();
    assert_eq!(cluster.raft(2).durable(), Index(1));
    assert_eq!(cluster.sent.get("accepted"), None, "who forgets the term may overwrite what it acknowledged in it");
    cluster.complete_vote(2);
    assert_eq!(newest(&cluster, 2, 1), Body::AppendAccepted { matched: Index(1), round: 1 });
}

#[test]
fn an_acknowledgement_that_waited_for_its_term_goes_with_it() {
    let mut cluster = Cluster::new(3);
    cluster.disk(2).holds_votes = true;
    let log = entries(&[1, 1, 2], 0);
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &log[..2], 0));
    cluster.inject(3, 2, append(2, at(1, 2), &log[2..], 0));
    cluster.hold(2, 1);
    cluster.hold(2, 3);
    cluster.disk(2).holds_votes = false;
    cluster.settle();
    assert_eq!(newest(&cluster, 2, 3), Body::AppendAccepted { matched: Index(3), round: 1 });
    assert!(!cluster.links.contains_key(&(2, 1)), "the leader of the passed term is told nothing");
}

/// The node hears a leader of this term, and the term is durable there: only then does it replace entries.
fn enter_term(cluster: &mut Cluster, node: u8, leader: u8, term: u64) {
    cluster.inject(leader, node, append(term, LogPosition::ORIGIN, &[], 0));
    while cluster.complete_vote(node) {}
}

#[test]
fn r1_after_a_cut_nothing_above_it_counts_as_durable() {
    let mut cluster = Cluster::new(3);
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &entries(&[1, 1, 1], 0), 0));
    cluster.settle();
    assert_eq!(cluster.raft(2).durable(), Index(3));
    cluster.disk(2).holds_appends = true;
    let other = entries(&[1, 2], 0);
    enter_term(&mut cluster, 2, 3, 2);
    cluster.inject(3, 2, append(2, at(1, 1), &other[1..], 0));
    assert_eq!(cluster.raft(2).durable(), Index(1));
    cluster.disk(2).holds_appends = false;
    cluster.settle();
    assert_eq!(cluster.raft(2).durable(), Index(2));
}

#[test]
fn r2_the_late_completion_of_an_overwritten_append_counts_for_nothing_and_blocks_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.disk(2).holds_appends = true;
    // Index 2 is written in term 1, overwritten in term 2, and then again by an entry of term 1 that a leader of
    // term 3 held: the same position as the first, and another entry.
    let first = entries(&[1, 1], 0);
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &first, 0));
    enter_term(&mut cluster, 2, 3, 2);
    cluster.inject(3, 2, append(2, at(1, 1), &[entry(at(2, 2), first[0].chain, 5)], 0));
    enter_term(&mut cluster, 2, 1, 3);
    cluster.inject(1, 2, append(3, at(1, 1), &first[1..], 0));
    cluster.settle();
    let accepted = |cluster: &Cluster| cluster.sent.get("accepted").copied().unwrap_or(0);
    cluster.complete_append(2);
    assert_eq!(cluster.raft(2).durable(), Index(1), "of the first write only the entry before the cut stands");
    let after_first = accepted(&cluster);
    cluster.complete_append(2);
    assert_eq!(cluster.raft(2).durable(), Index(1));
    cluster.complete_append(2);
    assert_eq!(cluster.raft(2).durable(), Index(2));
    assert!(accepted(&cluster) > after_first);
    assert_eq!(newest(&cluster, 2, 1), Body::AppendAccepted { matched: Index(2), round: 1 });
}

#[test]
fn r3_a_leader_that_stepped_down_calls_nothing_committed_because_it_has_it() {
    let mut cluster = three();
    cluster.isolate(1);
    let position = cluster.propose(1, 1).unwrap();
    cluster.advance(1_000);
    assert_eq!(cluster.raft(1).durable(), position.index);
    assert!(cluster.committed(1) < position.index.0);
    cluster.must_recover();
    assert_ne!(cluster.raft(1).log().term_at(position.index), Some(position.term), "the others never had it");
}

#[test]
fn r5_entries_of_earlier_terms_do_not_commit_by_counting() {
    let mut cluster = Cluster::new(3);
    cluster.inject(2, 1, append(1, LogPosition::ORIGIN, &entries(&[1, 1], 0), 0));
    cluster.inject(2, 3, append(1, LogPosition::ORIGIN, &entries(&[1, 1], 0), 0));
    cluster.settle();
    cluster.links.clear();
    cluster.hold(1, 3);
    cluster.hold(1, 2);
    cluster.step(1, |raft, now| raft.handle_message(now, NodeId(2), crate::cluster::timeout_now(Term(1))));
    cluster.settle();
    // The vote requests, but of what follows only what speaks of the old entries.
    cluster.deliver((1, 3), 0);
    cluster.settle();
    assert!(cluster.raft(1).is_leader());
    let old = append(2, at(1, 2), &[], 0);
    cluster.inject(1, 3, old);
    cluster.settle();
    assert_eq!(cluster.committed(1), 0, "a majority has them, and that is not enough");
    cluster.must_recover();
}

#[test]
fn r6_a_late_or_repeated_append_takes_nothing_back() {
    let mut cluster = Cluster::new(3);
    let log = entries(&[1, 1, 1, 1], 0);
    cluster.disk(1).entries = log.clone();
    cluster.disk(3).entries = log.clone();
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &log, 3));
    cluster.settle();
    for (from, to) in [(0, 1), (1, 2), (0, 0), (2, 4), (0, 4)] {
        let prev = if from == 0 { LogPosition::ORIGIN } else { log[from - 1].position };
        cluster.inject(1, 2, append(1, prev, &log[from..to], 0));
        cluster.settle();
        assert_eq!(cluster.raft(2).last_position(), at(1, 4));
    }
    assert_eq!(cluster.committed(2), 3);
}

#[test]
fn r10_long_divergence_is_overcome_in_round_trips_by_terms_not_by_entries() {
    let mut cluster = Cluster::stopped(Cluster::new(3).membership);
    let mut leader_terms = vec![1; 10];
    leader_terms.extend([7; 200]);
    let mut follower_terms = vec![1; 10];
    for term in 2..=6 {
        follower_terms.extend([term; 60]);
    }
    cluster.disk(1).entries = entries(&leader_terms, 0);
    cluster.disk(2).entries = entries(&leader_terms, 0);
    cluster.disk(3).entries = entries(&follower_terms, 0);
    cluster.start_all();
    cluster.elect_node(1);
    assert_eq!(cluster.raft(3).last_position(), cluster.raft(1).last_position());
    assert!(cluster.sent["rejected"] <= 6, "{} refusals", cluster.sent["rejected"]);
}

#[test]
fn r11_what_an_old_connection_still_delivers_does_no_harm() {
    let mut cluster = three();
    cluster.hold(1, 2);
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    let old = cluster.links[&(1, 2)].clone();
    cluster.drop_all(1, 2);
    cluster.release(1, 2);
    cluster.step(1, |raft, now| raft.handle_peer_lost(now, NodeId(2), false));
    cluster.step(1, |raft, now| raft.handle_peer_up(now, NodeId(2)));
    cluster.settle();
    cluster.propose(1, 2).unwrap();
    cluster.settle();
    let last = cluster.raft(1).last_position();
    for message in old {
        cluster.inject(1, 2, message.clone());
        cluster.settle();
        cluster.inject(1, 2, message);
        cluster.settle();
    }
    assert_eq!(cluster.raft(2).last_position(), last);
    assert_eq!(cluster.committed(2), last.index.0);
}

#[test]
fn r12_a_follower_commits_no_further_than_it_compared_with_the_leader() {
    let mut cluster = Cluster::new(3);
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &entries(&[1, 1, 1], 0), 0));
    cluster.settle();
    // The leader of term 2 agrees up to index 1 and has committed 3, but not these 2 and 3.
    cluster.disk(3).entries = entries(&[1], 0);
    cluster.inject(3, 2, append(2, at(1, 1), &[], 3));
    assert_eq!(cluster.committed(2), 1);
}

#[test]
fn a_heartbeat_speaks_only_of_what_the_follower_acknowledged_and_states_what_is_committed() {
    let mut cluster = three();
    cluster.disk(3).holds_appends = true;
    cluster.propose(1, 1).unwrap();
    cluster.settle();
    cluster.hold(1, 3);
    cluster.advance(60);
    let Body::Append { prev, entries, commit, .. } = newest(&cluster, 1, 3) else { panic!("a heartbeat") };
    assert!(entries.is_empty());
    // The follower commits no more than `prev` covers (R12), and learns that it lacks an entry.
    assert_eq!((prev.index, commit), (Index(1), Index(2)));
}

#[test]
fn a_follower_without_the_entry_before_says_where_the_logs_could_agree() {
    let mut cluster = Cluster::new(3);
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &entries(&[1, 1], 0), 0));
    cluster.settle();
    cluster.hold(2, 3);
    cluster.inject(3, 2, append(5, at(4, 9), &[], 0));
    cluster.settle();
    let refusal = Body::AppendRejected { prev: at(4, 9), hint: at(1, 2), round: 1 };
    assert_eq!(newest(&cluster, 2, 3), refusal);
}

#[test]
fn two_different_entries_at_one_position_stop_the_node() {
    let mut cluster = Cluster::new(3);
    let (ours, theirs) = (entries(&[1, 1], 0), entries(&[1, 1], 9));
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &ours, 0));
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &theirs, 0));
    let reason = StopReason::ChainConflict { position: at(1, 1), ours: ours[0].chain, theirs: theirs[0].chain };
    assert_eq!(cluster.members[&2].stopped, Some(reason));
    let before = cluster.raft(2).clone();
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &ours, 2));
    assert_eq!(cluster.raft(2), &before, "a stopped node decides nothing");
    assert_eq!(cluster.raft(2).next_deadline(), Nanos(u64::MAX), "and wants no time");
}

#[test]
fn a_leader_that_takes_back_what_it_brought_in_the_same_term_stops_the_node() {
    let mut cluster = Cluster::new(3);
    let brought = entries(&[1, 3, 3], 0);
    cluster.inject(1, 2, append(3, LogPosition::ORIGIN, &brought, 0));
    let other = entry(at(2, 2), brought[0].chain, 9);
    cluster.inject(1, 2, append(3, at(1, 1), &[other], 0));
    let reason = StopReason::ChainConflict { position: at(3, 2), ours: brought[1].chain, theirs: other.chain };
    assert_eq!(cluster.members[&2].stopped, Some(reason));
}

#[test]
fn a_leader_that_would_overwrite_what_is_committed_stops_the_node() {
    for prev in [1, 2] {
        let mut cluster = Cluster::new(3);
        cluster.disk(1).entries = entries(&[1, 1], 0);
        cluster.disk(3).entries = entries(&[1, 1], 0);
        cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &entries(&[1, 1], 0), 0));
        cluster.settle();
        cluster.inject(1, 2, append(1, at(1, 2), &[], 2));
        let first = entries(&[1], 0)[0];
        let foreign = if prev == 1 {
            append(2, at(1, 1), &[entry(at(2, 2), first.chain, 0)], 0)
        } else {
            append(2, at(2, 2), &[], 0)
        };
        cluster.inject(3, 2, foreign);
        let reason = StopReason::CommittedConflict { position: at(2, 2), commit: Index(2) };
        assert_eq!(cluster.members[&2].stopped, Some(reason));
    }
}

#[test]
fn two_leaders_in_one_term_stop_the_node_that_hears_both() {
    let mut cluster = Cluster::new(3);
    cluster.inject(1, 2, append(1, LogPosition::ORIGIN, &[], 0));
    cluster.inject(3, 2, append(1, LogPosition::ORIGIN, &[], 0));
    let reason = StopReason::TwoLeaders { term: Term(1), leaders: [NodeId(1), NodeId(3)] };
    assert_eq!(cluster.members[&2].stopped, Some(reason));
}

#[test]
fn nothing_that_a_peer_says_makes_a_node_panic() {
    let far = at(u64::MAX, u64::MAX);
    let gap = EntryMeta { position: at(1, 5), chain: ChainHash(1), bytes: 1, membership: false };
    let strange = [
        Body::Append { prev: far, entries: vec![gap], commit: Index(u64::MAX), round: u64::MAX },
        Body::Append { prev: LogPosition::ORIGIN, entries: vec![gap, gap], commit: Index(9), round: 0 },
        Body::Append { prev: at(0, 3), entries: vec![], commit: Index(9), round: 0 },
        Body::Append { prev: at(1, 0), entries: vec![], commit: Index(9), round: 0 },
        Body::AppendAccepted { matched: Index(u64::MAX), round: 1 },
        Body::AppendAccepted { matched: Index(1), round: u64::MAX },
        Body::AppendAccepted { matched: Index(0), round: 0 },
        Body::AppendRejected { prev: far, hint: far, round: 1 },
        Body::AppendRejected { prev: at(1, 1), hint: far, round: 1 },
        Body::AppendRejected { prev: LogPosition::ORIGIN, hint: LogPosition::ORIGIN, round: 1 },
        Body::PreVoteRequest { last: far },
        Body::PreVoteReply { granted: true },
        Body::VoteRequest { last: far, transfer: true },
        Body::VoteReply { granted: true },
        Body::TimeoutNow,
    ];
    for body in strange {
        for (from, term) in [(2, 0), (2, 1), (2, 2), (9, 1), (1, 1)] {
            let mut cluster = three();
            cluster.inject(from, 1, Message { term: Term(term), body: body.clone() });
            let mut cluster = three();
            cluster.inject(from, 3, Message { term: Term(term), body: body.clone() });
        }
    }
}

#[test]
fn r7_a_follower_below_the_floor_is_known_to_be_behind() {
    let mut cluster = three();
    cluster.crash(3);
    for payload in 0..5 {
        cluster.propose(1, payload).unwrap();
        cluster.settle();
    }
    let committed = cluster.raft(1).committed();
    cluster.step(1, |raft, _| raft.raise_floor(committed));
    cluster.start(3);
    cluster.step(1, |raft, now| raft.handle_peer_up(now, NodeId(3)));
    cluster.advance(500);
    let progress = cluster.raft(1).progress().find(|peer| peer.node == NodeId(3)).unwrap();
    assert_eq!(progress.state, ProgressState::Behind);
    assert_eq!(cluster.raft(3).leader(), Some(NodeId(1)), "heartbeats still reach it");
    assert!(cluster.raft(3).committed() < committed);
    cluster.propose(1, 9).unwrap();
    cluster.settle();
    assert_eq!(cluster.committed(1), committed.0 + 1);
}

#[test]
fn s2_a_follower_that_came_over_the_floor_by_other_means_is_noticed_by_its_answers_to_heartbeats() {
    let mut cluster = three();
    cluster.crash(3);
    for payload in 0..5 {
        cluster.propose(1, payload).unwrap();
        cluster.settle();
    }
    let committed = cluster.raft(1).committed();
    cluster.step(1, |raft, _| raft.raise_floor(committed));
    cluster.start(3);
    cluster.step(1, |raft, now| raft.handle_peer_up(now, NodeId(3)));
    cluster.advance(500);
    let state = |cluster: &Cluster| {
        cluster.raft(1).progress().find(|peer| peer.node == NodeId(3)).map(|peer| peer.state).unwrap()
    };
    assert_eq!(state(&cluster), ProgressState::Behind);
    // As a snapshot of another node does; nobody tells the leader.
    cluster.crash(3);
    let disk = cluster.members[&1].disk.clone();
    cluster.members.get_mut(&3).unwrap().disk = disk;
    cluster.start(3);
    cluster.advance(500);
    assert_eq!(state(&cluster), ProgressState::Replicate);
    cluster.propose(1, 9).unwrap();
    cluster.settle();
    assert_eq!(cluster.committed(3), committed.0 + 1);
}

#[test]
fn a_learner_receives_everything_and_counts_for_nothing() {
    let membership = Membership::new([NodeId(1), NodeId(2)], [NodeId(3)]).unwrap();
    let mut cluster = Cluster::with(membership);
    cluster.elect_node(1);
    cluster.crash(2);
    let position = cluster.propose(1, 1).unwrap();
    cluster.settle();
    assert_eq!(cluster.raft(3).durable(), position.index);
    assert!(cluster.committed(1) < position.index.0);
    cluster.start(2);
    cluster.advance(200);
    assert_eq!(cluster.committed(3), position.index.0);
}

#[test]
fn an_entry_that_outlived_its_term_brings_the_term_back() {
    let mut cluster = Cluster::stopped(Cluster::new(3).membership);
    cluster.disk(1).entries = entries(&[1, 4], 0);
    cluster.start(1);
    assert_eq!(cluster.raft(1).term(), Term(4));
    assert_eq!(cluster.raft(1).vote().voted_for, None);
    cluster.settle();
    assert_eq!(cluster.disk(1).vote.term, Term(4));
}

#[test]
fn r15_a_commit_index_beyond_the_log_that_was_found_is_not_believed() {
    let mut log = Log::new(at(1, 3), ChainHash(3));
    log.append(entry(at(1, 4), ChainHash(3), 0));
    for (claimed, believed) in [(0, 3), (4, 4), (9, 4)] {
        let membership = Membership::new([1, 2, 3].map(NodeId), []).unwrap();
        let vote = Vote { term: Term(1), voted_for: None };
        let raft = Raft::new(Config::new(NodeId(1)), membership, vote, log.clone(), Index(claimed), Nanos(0), 1);
        assert_eq!(raft.committed(), Index(believed));
    }
}

#[test]
fn e2_a_node_whose_log_was_replaced_goes_on_hearing_its_leader() {
    let membership = Membership::new([1, 2, 3].map(NodeId), []).unwrap();
    let vote = Vote { term: Term(1), voted_for: None };
    let begin =
        |log: &Log| Raft::new(Config::new(NodeId(1)), membership.clone(), vote, log.clone(), Index::ZERO, Nanos(0), 1);
    let log = Log::new(at(1, 3), ChainHash(3));
    let mut before = begin(&log);
    let (prev, commit) = (at(1, 3), Index(3));
    let heartbeat = Message { term: Term(1), body: Body::Append { prev, entries: Vec::new(), commit, round: 1 } };
    before.handle_message(Nanos(1), NodeId(2), heartbeat);
    assert_eq!(before.leader(), Some(NodeId(2)));
    let asks = |raft: &mut Raft| {
        while raft.poll_effect().is_some() {}
        raft.handle_message(
            Nanos(2),
            NodeId(3),
            Message { term: Term(2), body: Body::PreVoteRequest { last: at(1, 9) } },
        );
        let replies = std::iter::from_fn(|| raft.poll_effect());
        let is_help = |effect: &Effect| {
            matches!(effect, Effect::Send { message: Message { body: Body::PreVoteReply { granted: true }, .. }, .. })
        };
        replies.filter(is_help).count()
    };
    let mut forgetful = begin(&log);
    assert_eq!(asks(&mut forgetful), 1, "who heard nobody helps");
    let mut successor = begin(&log);
    successor.succeed(&before);
    assert_eq!((asks(&mut successor), successor.leader()), (0, Some(NodeId(2))));
}
