//! Disks without room and disks that hang, as the shard meets them: an append that does not complete.

use std::sync::Arc;

use super::*;
use crate::net::message::{Fetch, Fetched, Held, Soft};
use crate::shard::giving::Kept;
use crate::shard::reads::LogRead;
use crate::types::SnapshotName;
use crate::wal::keeper::Change;

/// Lets time pass in which only these nodes' appends complete.
fn pass_without_appends(world: &mut World, completing: &[NodeId], time: Nanos) {
    let end = world.now.saturating_add(time);
    while world.now < end {
        for node in world.nodes.clone() {
            world.complete_vote(node);
            if completing.contains(&node) {
                world.complete_append(node);
            }
            for peer in world.nodes.clone() {
                while world.deliver(node, peer) {}
            }
        }
        world.pass_time(Nanos::from_millis(20));
    }
}

fn with_timeout(timeout: Nanos) -> World {
    let mut world = settled(3);
    for shard in world.shards.values_mut() {
        shard.config.no_quorum_timeout = timeout;
    }
    world
}

fn others(world: &World, node: NodeId) -> Vec<NodeId> {
    world.nodes.iter().copied().filter(|&other| other != node).collect()
}

#[test]
fn a_leader_that_finds_no_room_hands_over_and_takes_no_put_meanwhile() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    assert_eq!(world.call(leader, FIRST, put("before")), Answer::Inserted { job: JobId(1) });
    let ticket = world.ask(leader, FIRST, put("waits for the disk"));
    let moment = world.moment();
    world.with(leader, |shard| shard.handle_log_lacks_room(moment));
    let refused = world.ask(leader, SECOND, put("refused"));
    assert_eq!(world.answer_to(refused), Some(&Answer::OutOfMemory));
    // Its own disk writes nothing; the two others have a majority.
    let roomy = others(&world, leader);
    pass_without_appends(&mut world, &roomy, Nanos::from_secs(2));
    let next = world.leader().expect("another node leads");
    assert_ne!(next, leader);
    assert_eq!(world.answer_to(ticket), Some(&Answer::Inserted { job: JobId(2) }));
    // Room again: it writes what waited, and takes puts.
    world.run_dry();
    assert!(matches!(world.call(leader, SECOND, put("taken")), Answer::Inserted { .. }));
}

#[test]
fn nobody_is_handed_over_to_who_has_no_room_either() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    for node in others(&world, leader) {
        world.with(node, |shard| shard.handle_room(false));
    }
    pass_without_appends(&mut world, &[], Nanos::from_millis(200));
    let moment = world.moment();
    world.with(leader, |shard| shard.handle_log_lacks_room(moment));
    pass_without_appends(&mut world, &[], Nanos::from_millis(500));
    assert_eq!(world.leader(), Some(leader));
}

#[test]
fn commands_that_no_majority_writes_are_given_up_in_the_end() {
    let mut world = with_timeout(Nanos::from_secs(2));
    let leader = world.leader().expect("it is settled");
    let follower = others(&world, leader)[0];
    let idle = world.ask(follower, SECOND, reserve(false));
    world.run_dry();
    for node in [leader, follower] {
        world.ask(node, FIRST, put("never written"));
    }
    pass_without_appends(&mut world, &[leader], Nanos::from_millis(1500));
    assert_eq!(world.asked.values().filter(|asked| !asked.is_empty()).count(), 3, "they wait");
    pass_without_appends(&mut world, &[leader], Nanos::from_secs(1));
    assert_eq!(world.leader(), Some(leader), "the leader is heard all the time");
    assert!(world.asked.values().all(BTreeMap::is_empty), "still waiting: {:?}", world.asked);
    assert!(world.answer_to(idle).is_none());
}

#[test]
fn each_client_waits_its_own_time_for_a_quorum() {
    let mut world = with_timeout(Nanos::from_secs(2));
    let leader = world.leader().expect("it is settled");
    let follower = others(&world, leader)[0];
    let waits =
        |world: &World, connection| world.asked.get(&(follower, connection)).is_some_and(|asked| !asked.is_empty());
    world.ask(follower, FIRST, put("never written"));
    pass_without_appends(&mut world, &[leader], Nanos::from_millis(1500));
    world.ask(follower, SECOND, put("asked later"));
    pass_without_appends(&mut world, &[leader], Nanos::from_millis(700));
    assert!(!waits(&world, FIRST) && waits(&world, SECOND));
    pass_without_appends(&mut world, &[leader], Nanos::from_millis(1000));
    assert!(waits(&world, SECOND), "it asked 1.7 s ago");
    pass_without_appends(&mut world, &[leader], Nanos::from_millis(600));
    assert!(!waits(&world, SECOND));
}

#[test]
fn an_idle_worker_is_not_given_up_while_nothing_is_outstanding() {
    let mut world = with_timeout(Nanos::from_secs(2));
    let leader = world.leader().expect("it is settled");
    world.ask(leader, SECOND, reserve(false));
    for _ in 0..300 {
        world.run_dry();
        world.pass_time(Nanos::from_millis(20));
    }
    assert_eq!(world.asked[&(leader, SECOND)].len(), 1);
    assert!(matches!(world.call(leader, FIRST, put("at last")), Answer::Inserted { .. }));
}

#[test]
fn a_single_node_with_a_hanging_disk_has_nobody_to_hand_over_to() {
    let mut world = settled(1);
    let moment = world.moment();
    let term = world.shards[&NodeId(1)].raft.term();
    world.with(NodeId(1), |shard| shard.handle_disk_stalled(moment));
    assert!(world.shards[&NodeId(1)].leads());
    assert_eq!(world.shards[&NodeId(1)].raft.term(), term);
}

fn given_up(world: &World) -> u64 {
    world.shards.values().map(|shard| shard.counters().leaderships_given_up).sum()
}

fn stuck_peers(world: &World, leader: NodeId) -> Vec<NodeId> {
    world.shards[&leader].picture().peers.iter().filter(|peer| peer.is_stuck).map(|peer| peer.node).collect()
}

/// It sends heartbeats and hears the answers all the time.
#[test]
fn a5_a_leader_whose_own_append_does_not_complete_gives_way_after_two_election_timeouts() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let limit = Nanos(2 * world.shards[&leader].config.raft.election_timeout_min.0);
    let others = others(&world, leader);
    let ticket = world.ask(leader, FIRST, put("waits for the disk"));
    pass_without_appends(&mut world, &others, Nanos(limit.0 - Nanos::from_millis(60).0));
    assert_eq!((world.leader(), given_up(&world)), (Some(leader), 0));
    pass_without_appends(&mut world, &others, Nanos::from_secs(1));
    assert_eq!(given_up(&world), 1);
    let next = world.leader().expect("another node leads");
    assert_ne!(next, leader);
    assert_eq!(world.answer_to(ticket), Some(&Answer::Inserted { job: JobId(1) }));
}

#[test]
fn a5_a_leader_whose_appends_take_long_and_complete_leads_on() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let others = others(&world, leader);
    for _ in 0..10 {
        world.ask(leader, FIRST, put("late"));
        pass_without_appends(&mut world, &others, Nanos::from_millis(240));
        world.run_dry();
    }
    assert_eq!((world.leader(), given_up(&world)), (Some(leader), 0));
}

#[test]
fn a5_nobody_gives_way_to_others_whose_disks_do_no_better() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    world.ask(leader, FIRST, put("never written"));
    pass_without_appends(&mut world, &[], Nanos::from_secs(3));
    assert_eq!((world.leader(), given_up(&world)), (Some(leader), 0));
}

/// What it has to apply is to be read back, and no read ends.
#[test]
fn a5_a_leader_that_does_not_apply_gives_way_after_two_election_timeouts() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    for shard in world.shards.values_mut() {
        // No snapshots, which a start would need no log for.
        shard.config.marker_bytes = 0;
    }
    for _ in 0..40 {
        assert!(matches!(world.call(leader, FIRST, put("kept in the log")), Answer::Inserted { .. }));
    }
    world.reads_hang = true;
    for node in world.nodes.clone() {
        world.kill(node);
    }
    for node in world.nodes.clone() {
        world.start(node);
    }
    let first = world.now;
    while given_up(&world) == 0 {
        world.run_dry();
        world.pass_time(Nanos::from_millis(20));
        assert!(
            world.now < first.saturating_add(Nanos::from_secs(10)),
            "it leads on: {:?}",
            world.shards.values().find(|shard| shard.leads()).map(|shard| shard.picture())
        );
    }
}

#[test]
fn a5_a_follower_that_answers_and_takes_nothing_is_reported_until_it_does() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let limit = Nanos(2 * world.shards[&leader].config.raft.election_timeout_max.0);
    let [hung, well] = others(&world, leader)[..] else { unreachable!() };
    world.ask(leader, FIRST, put("not written at one"));
    pass_without_appends(&mut world, &[leader, well], Nanos(limit.0 - Nanos::from_millis(60).0));
    assert_eq!(stuck_peers(&world, leader), []);
    pass_without_appends(&mut world, &[leader, well], Nanos::from_millis(200));
    assert_eq!(stuck_peers(&world, leader), [hung]);
    world.run_dry();
    pass_without_appends(&mut world, &[leader, well], Nanos::from_millis(100));
    assert_eq!(stuck_peers(&world, leader), [], "it has taken all there is");
    // One that does not answer at all is not there, which is told elsewhere.
    world.disconnect(leader, hung, false);
    world.ask(leader, FIRST, put("not sent to one"));
    pass_without_appends(&mut world, &[leader, well], Nanos::from_secs(3));
    assert_eq!((stuck_peers(&world, leader), world.leader()), (vec![], Some(leader)));
}

/// As where its link is full: heartbeats overtake the appends, which never arrive.
fn pass_losing_appends(world: &mut World, from: NodeId, to: NodeId, time: Nanos) {
    let end = world.now.saturating_add(time);
    let carries_entries =
        |message: &PeerMessage| matches!(message, PeerMessage::Raft(raft) if !raft.entries.is_empty());
    while world.now < end {
        loop {
            world.wires.get_mut(&(from, to)).expect("they are connected").retain(|message| !carries_entries(message));
            let mut moved = false;
            for node in world.nodes.clone() {
                moved |= world.complete_vote(node) | world.complete_append(node);
                for peer in world.nodes.clone() {
                    moved |= (node, peer) != (from, to) && world.deliver(node, peer);
                }
            }
            world.wires.get_mut(&(from, to)).expect("they are connected").retain(|message| !carries_entries(message));
            moved |= world.deliver(from, to);
            if !moved {
                break;
            }
        }
        world.pass_time(Nanos::from_millis(20));
    }
}

/// What it knows to be committed reaches no further than what it holds.
#[test]
fn a5_a_follower_that_takes_nothing_knows_that_it_is_behind_until_it_is_not() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let hung = others(&world, leader)[0];
    let limit = Nanos(2 * world.shards[&hung].config.raft.election_timeout_max.0);
    assert!(matches!(world.call(leader, FIRST, put("taken")), Answer::Inserted { .. }));
    let shown = |world: &World| {
        let picture = world.shards[&hung].picture();
        assert_eq!(picture.committed, picture.applied, "it has applied all it knows to be committed");
        (picture.is_caught_up, picture.leader_committed.0 - picture.applied.0)
    };
    assert_eq!(shown(&world), (true, 0));
    let ticket = world.ask(leader, FIRST, put("not sent to one"));
    pass_losing_appends(&mut world, leader, hung, Nanos(limit.0 - Nanos::from_millis(100).0));
    assert!(world.answer_to(ticket).is_some(), "the others have it");
    let (is_caught_up, lacks) = shown(&world);
    assert!(is_caught_up && lacks > 0, "it may be on its way");
    pass_losing_appends(&mut world, leader, hung, Nanos::from_millis(1_100));
    assert!(!shown(&world).0);
    let behind = world.shards[&hung].picture().behind.expect("it is");
    assert!(behind > Nanos::from_millis(1_000) && behind < Nanos::from_millis(1_700), "{behind:?}");
    assert_eq!(stuck_peers(&world, leader), [hung], "and its leader sees it too");
    world.disconnect(leader, hung, false);
    world.connect(leader, hung);
    world.run_until("a follower that has caught up", |world| shown(world) == (true, 0));
    assert_eq!(world.leader(), Some(leader));
}

/// It has all that it knows of, which is nothing.
#[test]
fn a5_a_start_is_behind_until_it_has_what_its_leader_had_committed_by_then() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let late = others(&world, leader)[0];
    world.kill(late);
    for _ in 0..40 {
        assert!(matches!(world.call(leader, FIRST, put("while it was away")), Answer::Inserted { .. }));
    }
    world.start(late);
    let mut looks = 0;
    while !world.shards[&late].picture().is_caught_up || world.shards[&late].raft.leader().is_none() {
        pass_losing_appends(&mut world, leader, late, Nanos::from_millis(20));
        looks += 1;
        if looks == 200 {
            break;
        }
    }
    assert_eq!(looks, 200, "it said that it had caught up, with {:?} applied", world.shards[&late].applied);
    world.run_until("a follower that has caught up", |world| {
        let picture = world.shards[&late].picture();
        picture.is_caught_up && picture.applied == world.shards[&leader].applied.index
    });
}

#[test]
fn who_needs_a_snapshot_is_offered_one_whatever_the_floor_and_a_later_one_while_it_asks() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let (moment, to) = (world.moment(), others(&world, leader)[0]);
    let shard = world.shards.get_mut(&leader).expect("it runs");
    assert_eq!(shard.raft.log().floor().index, Index::ZERO);
    let name = SnapshotName { position: shard.applied, hash: 7, bytes: 12_288 };
    shard.handle_snapshot_found(Kept { name, live: Arc::default() });
    shard.config.marker_bytes = 1 << 20;
    let idle = Moment { now: moment.now.saturating_add(Nanos::from_secs(2)), ..moment };
    shard.handle_message(idle, to, PeerMessage::Fetch(Fetch::SNAPSHOT));
    assert!(shard.is_marking(), "its log may reach further than what is offered");
    let offered = std::iter::from_fn(|| shard.poll_effect()).find_map(|effect| match effect {
        Effect::Send { message: PeerMessage::Fetched(fetched), .. } => Some(fetched),
        _ => None,
    });
    assert!(matches!(offered, Some(Fetched { held: Held::Below(offered), .. }) if offered == name));
}

#[test]
fn copies_whose_segment_is_given_up_while_they_are_read_end_no_node() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    assert_eq!(world.call(leader, FIRST, put("before")), Answer::Inserted { job: JobId(1) });
    let (moment, to) = (world.moment(), others(&world, leader)[0]);
    let shard = world.shards.get_mut(&leader).expect("it runs");
    let fetch = Fetch { first: Index(1), last: Index(1), chain: None };
    let read = shard.next_read_number(LogRead::Copies { to, fetch });
    shard.handle_files_changed(moment, Change { floor: Some(Index(1)), removed: Vec::new(), added: Vec::new() });
    shard.handle_entries_read(moment, read, Err("the file is gone".to_owned()));
    world.settle(leader);
    assert!(world.stops.is_empty(), "{:?}", world.stops);
    assert_eq!(world.call(leader, FIRST, put("behind")), Answer::Inserted { job: JobId(2) });
}

/// A follower that a leader answers, and that never comes to what the answer needs, as where no append gets through.
#[test]
fn a_read_whose_index_is_never_applied_here_ends_with_its_connection() {
    let mut world = with_timeout(Nanos::from_secs(2));
    let leader = world.leader().expect("it is settled");
    let follower = others(&world, leader)[0];
    world.ask(follower, FIRST, Operation::StatsTube { tube: tube() });
    let (term, moment) = (world.shards[&leader].raft.term(), world.moment());
    let answer = PeerMessage::ReadAnswer { term, read: 0, index: Index(999), soft: Soft::Nothing };
    world.with(follower, |shard| shard.handle_message(moment, leader, answer));
    let nodes = world.nodes.clone();
    pass_without_appends(&mut world, &nodes, Nanos::from_millis(1_500));
    assert!(world.asked.contains_key(&(follower, FIRST)), "it may yet be applied");
    pass_without_appends(&mut world, &nodes, Nanos::from_secs(1));
    assert!(!world.asked.contains_key(&(follower, FIRST)), "neither answered nor closed");
    assert_eq!(world.leader(), Some(leader), "there was a leader all the while");
}

#[test]
fn a_wait_that_is_to_end_and_a_poll_end_with_their_connections_where_a_leader_does_not_end_them() {
    for poll in [false, true] {
        let mut world = with_timeout(Nanos::from_secs(2));
        let leader = world.leader().expect("it is settled");
        let follower = others(&world, leader)[0];
        for connection in [FIRST, SECOND] {
            world.call(follower, connection, put("opens the session"));
            world.call(follower, connection, Operation::ReserveJob { job: JobId(connection.0) });
        }
        let patient = world.ask(follower, SECOND, reserve(false));
        world.run_dry();
        let ticket = world.ask(follower, FIRST, reserve(poll));
        if poll {
            world.wires.get_mut(&(follower, leader)).expect("they are connected").clear();
        } else {
            world.run_dry();
            let moment = world.moment();
            world.with(follower, |shard| shard.handle_operation(moment, FIRST, 0, Operation::Withdraw { ticket }));
            world.wires.get_mut(&(follower, leader)).expect("they are connected").clear();
        }
        let nodes = world.nodes.clone();
        pass_without_appends(&mut world, &nodes, Nanos::from_secs(3));
        assert!(!world.asked.contains_key(&(follower, FIRST)), "neither answered nor closed");
        assert!(world.asked[&(follower, SECOND)].contains_key(&patient), "a worker that waits for a job may wait");
        assert_eq!(world.leader(), Some(leader), "there was a leader all the while");
    }
}
