//! What clients are served with while nothing goes wrong.

use super::*;

#[test]
fn a_single_node_stores_a_job_and_gives_it_back() {
    let mut world = settled(1);
    let node = NodeId(1);
    assert_eq!(world.call(node, FIRST, put("one")), Answer::Inserted { job: JobId(1) });
    let got = world.call(node, FIRST, reserve(false));
    assert!(matches!(got, Answer::Reserved { job: JobId(1), ref body, .. } if &body[..] == b"one"), "{got:?}");
    assert_eq!(world.call(node, FIRST, reserve(true)), Answer::NothingReady);
    assert_eq!(world.call(node, FIRST, Operation::Delete { job: JobId(1) }), Answer::Deleted);
    assert_eq!(world.call(node, FIRST, Operation::Delete { job: JobId(1) }), Answer::NotFound);
}

#[test]
fn an_idle_worker_gets_a_new_job_after_one_entry() {
    let mut world = settled(3);
    let follower = *world.nodes.iter().find(|node| Some(**node) != world.leader()).expect("two follow");
    let wait = world.ask(follower, FIRST, reserve(false));
    world.run_dry();
    let before = world.shards[&follower].applied.index;
    world.call(follower, SECOND, put("now"));
    world.run_dry();
    assert!(matches!(world.answer_to(wait), Some(Answer::Reserved { .. })));
    // The second connection's SESSION_OPEN, the ENQ and the RESERVE: at most two entries.
    assert!(world.shards[&follower].applied.index.0 - before.0 <= 2);
}

#[test]
fn a_ready_job_that_was_never_reserved_is_deleted_by_anyone() {
    let mut world = settled(3);
    let Answer::Inserted { job } = world.call(NodeId(1), FIRST, put("x")) else { panic!("it was put") };
    assert_eq!(world.call(NodeId(2), FIRST, Operation::Delete { job }), Answer::Deleted);
}

#[test]
fn a_closed_connection_puts_its_jobs_back_and_withdraws_its_wait() {
    let mut world = settled(3);
    let Answer::Inserted { job } = world.call(NodeId(1), FIRST, put("x")) else { panic!("it was put") };
    world.call(NodeId(2), FIRST, reserve(false));
    world.ask(NodeId(2), FIRST, reserve(false));
    world.run_dry();
    world.close(NodeId(2), FIRST);
    let again = world.call(NodeId(3), SECOND, reserve(false));
    assert!(matches!(again, Answer::Reserved { job: same, .. } if same == job), "{again:?}");
    world.run_until("all sessions but the two that live are closed", |world| {
        world.shards.values().all(|shard| shard.machine.counts().sessions == 2)
    });
}

#[test]
fn a_withdrawn_wait_is_answered_once_and_gets_no_job_after() {
    let mut world = settled(3);
    let wait = world.ask(NodeId(1), FIRST, reserve(false));
    world.run_dry();
    let moment = world.moment();
    world.with(NodeId(1), |shard| {
        shard.handle_operation(moment, FIRST, 0, Operation::Withdraw { ticket: wait });
    });
    world.run_until("an answer", |world| world.answer_to(wait).is_some());
    assert_eq!(world.answer_to(wait), Some(&Answer::NothingReady));
    world.call(NodeId(2), SECOND, put("later"));
    let got = world.call(NodeId(3), SECOND, reserve(true));
    assert!(matches!(got, Answer::Reserved { .. }), "{got:?}");
}

#[test]
fn a_tube_that_nobody_uses_is_forgotten() {
    let mut world = settled(3);
    let name = Bytes::from_static(b"brief");
    let put = Operation::Put { tube: name.clone(), priority: 1, delay_s: 0, ttr_s: 60, body: Bytes::new() };
    let Answer::Inserted { job } = world.call(NodeId(1), FIRST, put) else { panic!("it was put") };
    assert!(world.shards[&NodeId(1)].machine.has_tube(&name));
    world.call(NodeId(1), FIRST, Operation::Delete { job });
    world.run_until("it is forgotten", |world| world.shards.values().all(|shard| !shard.machine.has_tube(&name)));
}

/// Put behind it is what comes first in the order of serving; it was reserved and given back, and is a record now.
#[test]
fn the_deepest_tubes_are_shown_with_the_age_of_their_oldest_ready_job() {
    let mut world = settled(1);
    let node = NodeId(1);
    let client = ConnectionId(1);
    let shown = |world: &mut World| {
        let now = world.now;
        let shard = world.shards.get_mut(&node).expect("it runs");
        let oldest = shard.deepest_tubes(20).first().and_then(|depth| depth.oldest_ready);
        oldest.map(|job| (job, shard.age(now, job).expect("it has a row").0 / 1_000_000_000))
    };
    assert_eq!(shown(&mut world), None);
    let Answer::Inserted { job: older } = world.call(node, client, put("older")) else { panic!("it was put") };
    world.pass_time(Nanos::from_secs(40));
    let urgent = Operation::Put { tube: tube(), priority: 0, delay_s: 0, ttr_s: 60, body: Bytes::new() };
    let Answer::Inserted { job: newer } = world.call(node, client, urgent) else { panic!("it was put") };
    world.pass_time(Nanos::from_secs(30));
    assert_eq!(shown(&mut world), Some((older, 70)));
    for _ in 0..2 {
        assert!(matches!(world.call(node, client, reserve(true)), Answer::Reserved { .. }));
    }
    assert_eq!(shown(&mut world), None, "both are held");
    for job in [newer, older] {
        let release = Operation::Release { job, priority: 5, delay_s: 0 };
        assert_eq!(world.call(node, client, release), Answer::Released);
    }
    assert_eq!(shown(&mut world), Some((older, 70)));
}
