//! What is due in the moment in which a wait ends.

use super::*;
use crate::api::ReferenceChange;

/// It puts, and holds what is reserved.
const HOLDER: ConnectionId = ConnectionId(9);

/// Each makes a job ready one second later, by what ends then.
#[derive(Debug, Clone, Copy)]
enum Due {
    DelayOfPut,
    DelayOfRelease,
    Reservation,
    Pause,
}

const ALL: [Due; 4] = [Due::DelayOfPut, Due::DelayOfRelease, Due::Reservation, Due::Pause];

fn put_with(delay_s: u32, ttr_s: u32) -> Operation {
    Operation::Put { tube: tube(), priority: 0, delay_s, ttr_s, body: Bytes::from_static(b"due") }
}

/// The job that is ready in a second.
fn prepare(world: &mut World, node: NodeId, due: Due) -> JobId {
    let (delay_s, ttr_s) = match due {
        Due::DelayOfPut => (1, 60),
        Due::Reservation => (0, 1),
        Due::DelayOfRelease | Due::Pause => (0, 60),
    };
    let Answer::Inserted { job } = world.call(node, HOLDER, put_with(delay_s, ttr_s)) else { panic!("it was put") };
    match due {
        Due::DelayOfPut => {}
        Due::Reservation => {
            assert!(matches!(world.call(node, HOLDER, reserve(true)), Answer::Reserved { .. }));
        }
        Due::DelayOfRelease => {
            assert!(matches!(world.call(node, HOLDER, reserve(true)), Answer::Reserved { .. }));
            let release = Operation::Release { job, priority: 0, delay_s: 1 };
            assert_eq!(world.call(node, HOLDER, release), Answer::Released);
        }
        Due::Pause => {
            let pause = Operation::Pause { tube: tube(), duration_s: 1 };
            assert_eq!(world.call(node, HOLDER, pause), Answer::Paused);
        }
    }
    job
}

/// Nodes where a client may be: the leader of three, one that follows it, and one alone.
fn places() -> Vec<(World, NodeId)> {
    let one = settled(1);
    let (follows, leads) = (settled(3), settled(3));
    let leader = leads.leader().expect("it leads");
    let follower = *follows.nodes.iter().find(|node| Some(**node) != follows.leader()).expect("two follow");
    vec![(one, NodeId(1)), (leads, leader), (follows, follower)]
}

/// A second from now, before any node has looked at its clock: in steps, or there would be an election.
fn pass_second(world: &mut World) {
    for _ in 0..199 {
        world.pass_time(Nanos::from_millis(5));
        world.run_dry();
    }
    world.now = world.now.saturating_add(Nanos::from_millis(5));
}

fn withdraw(world: &mut World, node: NodeId, connection: ConnectionId, ticket: u64) {
    let moment = world.moment();
    world.with(node, |shard| shard.handle_operation(moment, connection, 0, Operation::Withdraw { ticket }));
}

/// beanstalkd looks at its delayed jobs before it looks at who waits, so a client that puts with a
/// delay of 1 s and waits for 1 s gets the job each time.
#[test]
fn what_is_due_when_a_wait_ends_ends_before_it() {
    for due in ALL {
        for (mut world, node) in places() {
            let job = prepare(&mut world, node, due);
            let wait = world.ask(node, FIRST, reserve(false));
            world.run_dry();
            assert_eq!(world.answer_to(wait), None, "{due:?}");
            pass_second(&mut world);
            withdraw(&mut world, node, FIRST, wait);
            // Nothing but what is under way: no time passes.
            world.run_dry();
            let answer = world.answer_to(wait);
            assert!(matches!(answer, Some(Answer::Reserved { job: got, .. }) if *got == job), "{due:?}: {answer:?}");
        }
    }
}

/// `reserve-with-timeout 0` is a wait that ends when it begins. A client that has a session already
/// takes another way than one whose first command it is.
#[test]
fn what_is_due_when_somebody_polls_ends_before_the_poll() {
    for due in ALL {
        for connection in [FIRST, SECOND] {
            for (mut world, node) in places() {
                let open = Operation::Delete { job: JobId(1 << 40) };
                assert_eq!(world.call(node, SECOND, open), Answer::NotFound);
                let job = prepare(&mut world, node, due);
                pass_second(&mut world);
                let poll = world.ask(node, connection, reserve(true));
                world.run_until("an answer", |world| world.answer_to(poll).is_some());
                let answer = world.answer_to(poll);
                assert!(
                    matches!(answer, Some(Answer::Reserved { job: got, .. }) if *got == job),
                    "{due:?} {connection:?}: {answer:?}"
                );
            }
        }
    }
}

#[test]
fn a_wait_ends_at_once_while_nothing_is_due() {
    for (mut world, node) in places() {
        world.call(node, HOLDER, put_with(2, 60));
        let wait = world.ask(node, FIRST, reserve(false));
        world.run_dry();
        pass_second(&mut world);
        let before = world.shards[&node].applied.index;
        withdraw(&mut world, node, FIRST, wait);
        world.run_dry();
        assert_eq!(world.answer_to(wait), Some(&Answer::NothingReady));
        assert_eq!(world.shards[&node].applied.index, before, "it cost no entry");
    }
}

/// What is due is somebody else's: the wait ends as soon as that is known.
#[test]
fn a_wait_ends_when_what_was_due_is_another_tubes() {
    for (mut world, node) in places() {
        let elsewhere = Operation::Put {
            tube: Bytes::from_static(b"elsewhere"),
            priority: 0,
            delay_s: 1,
            ttr_s: 60,
            body: Bytes::new(),
        };
        world.call(node, HOLDER, elsewhere);
        let wait = world.ask(node, FIRST, reserve(false));
        world.run_dry();
        pass_second(&mut world);
        withdraw(&mut world, node, FIRST, wait);
        assert_eq!(world.answer_to(wait), None);
        world.run_dry();
        assert_eq!(world.answer_to(wait), Some(&Answer::NothingReady));
    }
}

/// The disk does not complete the write that would make the job ready.
#[test]
fn a_wait_is_not_held_back_for_longer_than_the_grace() {
    let mut world = settled(1);
    let node = NodeId(1);
    world.call(node, HOLDER, put_with(1, 60));
    let wait = world.ask(node, FIRST, reserve(false));
    world.run_dry();
    pass_second(&mut world);
    withdraw(&mut world, node, FIRST, wait);
    world.pass_time(Nanos::from_millis(499));
    assert_eq!(world.answer_to(wait), None);
    let moment = world.moment();
    let deadline = world.shards[&node].next_deadline(moment);
    assert!(deadline <= moment.now.saturating_add(Nanos::from_millis(1)), "the shard asks to be called in time");
    world.pass_time(Nanos::from_millis(1));
    assert_eq!(world.answer_to(wait), Some(&Answer::NothingReady));
    world.run_dry();
    let moment = world.moment();
    assert!(world.shards[&node].next_deadline(moment) > moment.now, "nothing of it is left to be looked at");
    assert!(matches!(world.call(node, SECOND, reserve(true)), Answer::Reserved { .. }));
}

/// It would take the job and give it back, and others wait meanwhile.
#[test]
fn a_client_that_is_gone_takes_nothing_of_what_is_due() {
    for ends_first in [false, true] {
        for (mut world, node) in places() {
            let refer = |change| Operation::Reference { tube: tube(), change };
            world.ask(node, FIRST, refer(ReferenceChange::Watch));
            let job = prepare(&mut world, node, Due::DelayOfPut);
            let wait = world.ask(node, FIRST, reserve(false));
            world.run_dry();
            let other = world.ask(node, SECOND, reserve(false));
            world.run_dry();
            pass_second(&mut world);
            if ends_first {
                withdraw(&mut world, node, FIRST, wait);
            }
            world.close(node, FIRST);
            world.run_dry();
            let answer = world.answer_to(other);
            assert!(matches!(answer, Some(Answer::Reserved { job: got, .. }) if *got == job), "{answer:?}");
            let Answer::JobStats { view, .. } = world.call(node, SECOND, Operation::StatsJob { job }) else {
                panic!("it is there")
            };
            assert_eq!(view.reserves, 1, "only once was it given to somebody");
        }
    }
}

/// The end of a wait that was held back must not be taken for that of the session's next one.
#[test]
fn a_wait_that_begins_after_one_was_held_back_and_ended_waits_on() {
    let mut world = settled(1);
    let node = NodeId(1);
    world.call(node, HOLDER, put_with(1, 60));
    let first = world.ask(node, FIRST, Operation::Reserve { tubes: vec![other_tube()], poll: false });
    world.run_dry();
    pass_second(&mut world);
    withdraw(&mut world, node, FIRST, first);
    world.pass_time(Nanos::from_millis(500));
    assert_eq!(world.answer_to(first), Some(&Answer::NothingReady));
    let second = world.ask(node, FIRST, Operation::Reserve { tubes: vec![other_tube()], poll: false });
    world.run_dry();
    world.pass_time(Nanos::from_secs(5));
    world.run_dry();
    assert_eq!(world.answer_to(second), None);
    let tube = other_tube();
    world.call(node, SECOND, Operation::Put { tube, priority: 0, delay_s: 0, ttr_s: 60, body: Bytes::new() });
    world.run_until("the job", |world| matches!(world.answer_to(second), Some(Answer::Reserved { .. })));
}
