//! Waits through everything that can happen to them: other leaders, lost answers, other commands behind them.

use super::*;
use crate::api::ReferenceChange;
use crate::shard::steps::NAMES_PER_STEP;

const THIRD: ConnectionId = ConnectionId(3);

fn in_tube(tube: &'static str, priority: u32, body: &str) -> Operation {
    let tube = Bytes::from_static(tube.as_bytes());
    Operation::Put { tube, priority, delay_s: 0, ttr_s: 60, body: Bytes::copy_from_slice(body.as_bytes()) }
}

fn watching(tubes: &[&'static str]) -> Operation {
    Operation::Reserve { tubes: tubes.iter().map(|tube| Bytes::from_static(tube.as_bytes())).collect(), poll: false }
}

fn withdraw(world: &mut World, node: NodeId, connection: ConnectionId, ticket: u64) {
    let moment = world.moment();
    world.with(node, |shard| shard.handle_operation(moment, connection, 0, Operation::Withdraw { ticket }));
}

/// The leader and the two that follow it.
fn roles(world: &World) -> (NodeId, NodeId, NodeId) {
    let leader = world.leader().expect("it leads");
    let followers: Vec<NodeId> = world.nodes.iter().copied().filter(|&node| node != leader).collect();
    (leader, followers[0], followers[1])
}

fn deliver_all(world: &mut World, from: NodeId, to: NodeId) {
    while world.deliver(from, to) {}
}

fn is_reserved(answer: Option<&Answer>) -> bool {
    matches!(answer, Some(Answer::Reserved { .. }))
}

#[test]
fn a_wait_behind_a_command_that_fills_an_entry_is_registered_with_it() {
    let mut world = settled(1);
    let node = NodeId(1);
    world.call(node, SECOND, put("opens the session"));
    world.call(node, SECOND, Operation::Delete { job: JobId(1) });
    world.ask(node, FIRST, in_tube("other", 1, "its write is under way"));
    world.ask(node, FIRST, in_tube("other", 1, &"longer than an entry should be".repeat(20)));
    let wait = world.ask(node, SECOND, watching(&["default"]));
    world.run_dry();
    assert_eq!(world.answer_to(wait), None);
    world.call(node, FIRST, put("here"));
    world.run_until("the job", |world| is_reserved(world.answer_to(wait)));
}

#[test]
fn a_worker_that_was_served_by_an_earlier_leader_takes_no_job_from_one_that_still_waits() {
    let mut world = settled(3);
    let (leader, heir, third) = roles(&world);
    let served = world.ask(third, FIRST, reserve(false));
    world.run_dry();
    // The ENQ and the RESERVE of the one that waits reach the heir, but not the leader's commit index.
    world.ask(leader, SECOND, put("inherited"));
    while world.complete_append(leader) {}
    deliver_all(&mut world, leader, heir);
    while world.complete_append(heir) {}
    world.kill(leader);
    world.run_until("another leader", |world| world.leader() == Some(heir));
    world.run_until("the inherited job", |world| is_reserved(world.answer_to(served)));
    let waits = world.ask(heir, SECOND, reserve(false));
    world.run_dry();
    world.ask(third, SECOND, put("new"));
    world.run_dry();
    assert!(is_reserved(world.answer_to(waits)), "the job is left lying while somebody waits for it");
}

#[test]
fn a_job_that_a_worker_left_for_a_better_one_goes_to_the_next_worker() {
    let mut world = settled(1);
    let node = NodeId(1);
    world.call(node, THIRD, in_tube("a", 1, "left"));
    let Answer::Reserved { job, .. } = world.call(node, THIRD, watching(&["a"])) else { panic!("it is there") };
    let first = world.ask(node, FIRST, watching(&["a", "b"]));
    let second = world.ask(node, SECOND, watching(&["a"]));
    world.run_dry();
    // While the release is being written a better job arrives: it comes before the RESERVE for the released one.
    world.ask(node, THIRD, Operation::Release { job, priority: 1, delay_s: 0 });
    world.ask(node, ConnectionId(4), in_tube("b", 0, "better"));
    world.run_dry();
    assert!(is_reserved(world.answer_to(first)));
    assert!(is_reserved(world.answer_to(second)), "the job is left lying while somebody waits for it");
}

#[test]
fn a_command_behind_a_wait_that_is_not_over_gets_no_number_that_the_wait_may_use() {
    for behind in [put("behind"), reserve(true)] {
        let mut world = settled(3);
        let (leader, follower, _) = roles(&world);
        let wait = world.ask(follower, FIRST, watching(&["a"]));
        world.run_dry();
        // The wait is granted and withdrawn at the same time.
        world.ask(leader, SECOND, in_tube("a", 1, "granted"));
        withdraw(&mut world, follower, FIRST, wait);
        let after = world.ask(follower, FIRST, behind.clone());
        world.run_until("both answers", |world| world.answer_to(wait).is_some() && world.answer_to(after).is_some());
        assert!(is_reserved(world.answer_to(wait)));
        match behind {
            Operation::Put { .. } => assert!(matches!(world.answer_to(after), Some(Answer::Inserted { .. }))),
            _ => assert_eq!(world.answer_to(after), Some(&Answer::NothingReady)),
        }
    }
}

#[test]
fn what_a_leader_answered_on_a_connection_that_broke_is_asked_again() {
    let mut world = settled(3);
    let (leader, follower, _) = roles(&world);
    let wait = world.ask(follower, FIRST, reserve(false));
    world.run_dry();
    withdraw(&mut world, follower, FIRST, wait);
    let look = world.ask(follower, SECOND, Operation::PeekReady { tube: tube() });
    let poll = world.ask(follower, THIRD, reserve(true));
    deliver_all(&mut world, follower, leader);
    // The answers are under way, and only the direction they take is cut.
    world.disconnect(leader, follower, false);
    world.connect(leader, follower);
    for ticket in [wait, look, poll] {
        world.run_until("an answer", |world| world.answer_to(ticket).is_some());
    }
}

/// Who closes a connection has its bodies counted no more, and they stay until they are committed.
#[test]
fn what_closed_connections_have_put_takes_no_memory_without_end() {
    let mut world = settled(3);
    let (_, follower, _) = roles(&world);
    let body = "b".repeat(600_000);
    // The leader is there, and too slow.
    let refused = (10..60).find(|&number| {
        let ticket = world.ask(follower, ConnectionId(number), put(&body));
        world.close(follower, ConnectionId(number));
        world.answer_to(ticket) == Some(&Answer::OutOfMemory)
    });
    assert!(refused.is_some());
    assert!(world.shards[&follower].outstanding_bytes() < (8 << 20) + 700_000);
    let limit = world.shards[&follower].config.outstanding_bytes_max;
    world.run_until("all are put", |world| world.shards[&follower].outstanding_bytes() < limit);
    assert!(matches!(world.call(follower, FIRST, put("x")), Answer::Inserted { .. }));
}

#[test]
fn the_end_of_an_earlier_wait_does_not_end_the_next() {
    let mut world = settled(3);
    let (leader, follower, _) = roles(&world);
    let first = world.ask(follower, FIRST, watching(&["none"]));
    world.run_dry();
    world.call(leader, SECOND, put("there all along"));
    withdraw(&mut world, follower, FIRST, first);
    deliver_all(&mut world, follower, leader);
    // The connection breaks with the withdrawal done, so that it is asked for a second time.
    world.disconnect(follower, leader, false);
    world.connect(follower, leader);
    while world.answer_to(first).is_none() {
        assert!(world.deliver(leader, follower), "the first end is confirmed");
    }
    let second = world.ask(follower, FIRST, reserve(true));
    world.run_until("an answer", |world| world.answer_to(second).is_some());
    assert!(is_reserved(world.answer_to(second)), "{:?}", world.answer_to(second));
}

#[test]
fn a_tube_is_forgotten_each_time_that_it_is_emptied() {
    let mut world = settled(1);
    let node = NodeId(1);
    let name = Bytes::from_static(b"brief");
    for _ in 0..3 {
        let Answer::Inserted { job } = world.call(node, FIRST, in_tube("brief", 1, "x")) else { panic!("it was put") };
        world.call(node, FIRST, Operation::Delete { job });
        world.run_until("it is forgotten", |world| !world.shards[&node].machine.has_tube(&name));
    }
    assert_eq!(listed(&mut world, node), Vec::<String>::new(), "nothing of it is left");
}

#[test]
fn a_tube_is_listed_for_its_only_job_though_its_user_left_before_the_job_was_written() {
    let mut world = settled(1);
    let node = NodeId(1);
    let name = Bytes::from_static(b"left");
    let refer = |change| Operation::Reference { tube: Bytes::from_static(b"left"), change };
    world.ask(node, FIRST, refer(ReferenceChange::Use));
    let delayed = Operation::Put { tube: name.clone(), priority: 1, delay_s: 2000, ttr_s: 60, body: Bytes::new() };
    let put = world.ask(node, FIRST, delayed);
    world.ask(node, FIRST, refer(ReferenceChange::Unuse));
    assert!(world.answer_to(put).is_none(), "the user leaves first");
    world.run_until("an answer", |world| world.answer_to(put).is_some());
    assert_eq!(listed(&mut world, node), ["left"]);
}

/// Of a node that leads alone, all but `default`.
fn listed(world: &mut World, node: NodeId) -> Vec<String> {
    let Answer::Tubes(tubes) = world.call(node, FIRST, Operation::ListTubes) else { panic!("tubes are told") };
    let text = String::from_utf8(tubes.text().to_vec()).expect("names are ASCII");
    text.lines().map(|line| line.strip_prefix("- ").expect("a list").to_owned()).collect()
}

#[test]
fn a_tube_that_only_got_a_pause_after_its_user_left_is_forgotten() {
    let mut world = settled(1);
    let node = NodeId(1);
    let name = Bytes::from_static(b"left");
    let refer = |change| Operation::Reference { tube: Bytes::from_static(b"left"), change };
    world.ask(node, FIRST, refer(ReferenceChange::Use));
    let pause = world.ask(node, FIRST, Operation::Pause { tube: name.clone(), duration_s: 1000 });
    world.ask(node, FIRST, refer(ReferenceChange::Unuse));
    world.run_until("an answer", |world| world.answer_to(pause).is_some());
    assert_eq!(world.answer_to(pause), Some(&Answer::Paused));
    world.run_until("it is forgotten", |world| !world.shards[&node].machine.has_tube(&name));
}

#[test]
fn nothing_is_kept_of_a_wait_that_is_over() {
    let mut world = settled(1);
    let node = NodeId(1);
    world.call(node, FIRST, put("held"));
    let Answer::Reserved { job, .. } = world.call(node, FIRST, reserve(false)) else { panic!("it is there") };
    for _ in 0..5 {
        let wait = world.ask(node, FIRST, reserve(false));
        world.run_dry();
        withdraw(&mut world, node, FIRST, wait);
        world.run_until("an answer", |world| world.answer_to(wait).is_some());
        world.pass_time(Nanos::from_millis(10));
        world.call(node, FIRST, Operation::Touch { job });
    }
    let shard = &world.shards[&node];
    assert!(shard.deadlines_soon.is_empty() && shard.ended_waits.is_empty());
}

#[test]
fn a_wait_is_told_of_a_deadline_that_was_put_off_while_it_waited() {
    let mut world = settled(1);
    let node = NodeId(1);
    let short = Operation::Put { tube: tube(), priority: 1, delay_s: 0, ttr_s: 3, body: Bytes::new() };
    world.call(node, FIRST, short);
    world.call(node, FIRST, reserve(false));
    let wait = world.ask(node, FIRST, reserve(false));
    let begun = world.now;
    world.run_until("the warning", |world| world.answer_to(wait).is_some());
    assert_eq!(world.answer_to(wait), Some(&Answer::DeadlineSoon));
    let waited = world.now.saturating_sub(begun);
    assert!(waited >= Nanos::from_millis(1900) && waited <= Nanos::from_millis(2100), "{waited:?}");
}

#[test]
fn what_is_handed_over_after_a_leader_was_away_fits_into_frames() {
    let mut world = settled(3);
    let (leader, follower, _) = roles(&world);
    world.disconnect(follower, leader, false);
    let body = "b".repeat(600_000);
    for number in 0..6 {
        world.ask(follower, ConnectionId(10 + number), put(&body));
    }
    let moment = world.moment();
    for number in 0..10_000 {
        let tube = Bytes::from(format!("tube-{number}"));
        let operation = Operation::Reference { tube, change: ReferenceChange::Watch };
        let shard = world.shards.get_mut(&follower).expect("it lives");
        shard.handle_operation(moment, FIRST, 0, operation);
    }
    assert_eq!(world.shards[&follower].reference_changes.len(), 0, "the next leader is told everything anyway");
    world.connect(follower, leader);
    for message in &world.wires[&(follower, leader)] {
        match message {
            PeerMessage::Commands { commands, .. } => {
                assert!(commands.len() == 1 || commands.iter().map(Bytes::len).sum::<usize>() <= 1 << 20);
            }
            PeerMessage::References { changes, .. } => assert!(changes.len() <= 4096),
            _ => {}
        }
    }
    world.run_until("all are put", |world| world.asked.values().all(BTreeMap::is_empty));
    let references = &world.shards[&leader].leading.as_ref().expect("it leads").references;
    assert!(references.is_referenced(b"tube-0") && references.is_referenced(b"tube-9999"));
}

/// Its clients are there still, and count on the pause.
#[test]
fn a_pause_outlives_a_break_of_the_connection_to_the_only_node_whose_clients_use_the_tube() {
    let mut world = settled(3);
    let (leader, follower, _) = roles(&world);
    let name = Bytes::from_static(b"closed for now");
    let moment = world.moment();
    for node in world.nodes.clone() {
        let tube = if node == follower { name.clone() } else { tube() };
        let operation = Operation::Reference { tube, change: ReferenceChange::Watch };
        world.with(node, |shard| shard.handle_operation(moment, FIRST, 0, operation));
    }
    let pause = Operation::Pause { tube: name.clone(), duration_s: 600 };
    assert_eq!(world.call(follower, FIRST, pause), Answer::Paused);
    world.disconnect(follower, leader, false);
    world.disconnect(leader, follower, false);
    world.run_dry();
    world.pass_time(Nanos::from_millis(20));
    world.run_dry();
    assert!(world.shards[&leader].machine.is_paused(&name));
    world.connect(follower, leader);
    world.connect(leader, follower);
    let end = Operation::Reference { tube: name.clone(), change: ReferenceChange::Unwatch };
    let moment = world.moment();
    world.with(follower, |shard| shard.handle_operation(moment, FIRST, 0, end));
    world.run_until("it is forgotten", |world| !world.shards[&leader].machine.has_tube(&name));
}

#[test]
fn what_only_a_dead_node_referenced_is_forgotten() {
    let mut world = settled(3);
    let (leader, follower, _) = roles(&world);
    let name = Bytes::from_static(b"brief");
    for node in world.nodes.clone() {
        let tube = if node == follower { name.clone() } else { tube() };
        let moment = world.moment();
        let operation = Operation::Reference { tube, change: ReferenceChange::Watch };
        world.with(node, |shard| shard.handle_operation(moment, FIRST, 0, operation));
    }
    let Answer::Inserted { job } = world.call(leader, FIRST, in_tube("brief", 1, "x")) else { panic!("it was put") };
    world.call(leader, FIRST, Operation::Delete { job });
    world.run_dry();
    assert!(world.shards[&leader].machine.has_tube(&name), "a client of the other node watches it");
    world.kill(follower);
    world.run_until("it is forgotten", |world| !world.shards[&leader].machine.has_tube(&name));
    let leading = world.shards[&leader].leading.as_ref().expect("it leads");
    assert!(!leading.references.is_referenced(&name));
}

/// What clients ask stands behind it at the leader, which takes longer over it than the node that
/// tells it.
#[test]
fn a2_what_a_connection_leaves_behind_is_told_one_step_at_a_time() {
    let mut world = settled(3);
    let (leader, follower, _) = roles(&world);
    let names: Vec<Bytes> = (0..1000).map(|nth| Bytes::from(format!("tube-{nth}"))).collect();
    let moment = world.moment();
    for tube in names.clone() {
        let watch = Operation::Reference { tube, change: ReferenceChange::Watch };
        world.with(follower, |shard| shard.handle_operation(moment, FIRST, 0, watch));
    }
    world.run_dry();
    let referenced = |world: &World| {
        let references = &world.shards[&leader].leading.as_ref().expect("it leads").references;
        names.iter().filter(|name| references.is_referenced(name)).count()
    };
    assert_eq!(referenced(&world), 1000);
    let leave = Operation::Leave { used: None, watched: names.clone() };
    world.with(follower, |shard| shard.handle_operation(moment, FIRST, 0, leave));
    let changes = |message: &PeerMessage| match message {
        PeerMessage::References { changes, .. } => changes.len(),
        _ => 0,
    };
    let told: usize = world.wires[&(follower, leader)].iter().map(changes).sum();
    assert_eq!(told, NAMES_PER_STEP, "the rest waits until the leader has taken that");
    // The leader's word that it has is lost.
    while world.deliver(follower, leader) {}
    assert_eq!(referenced(&world), 1000 - NAMES_PER_STEP);
    world.disconnect(leader, follower, false);
    world.connect(leader, follower);
    world.run_until("all is taken back", |world| referenced(world) == 0);
}
