//! Bodies that wait until clients have taken others.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::api::beanstalkd::output_budget::AnswerBudget;
use crate::io::Runtime;
use crate::node::answer_rooms::AnswerRooms;
use crate::sim::clock::Clock;
use crate::sim::disk::SimDisk;
use crate::sim::executor::Executor;
use crate::sim::network::Network;
use crate::sim::runtime::SimRuntime;
use crate::types::Nanos;

/// However many wait, and whatever those do in front of them.
#[test]
fn b3_a_body_waits_for_room_no_longer_than_a_client_may_leave_its_output_unread() {
    const PATIENCE: Nanos = Nanos::from_secs(5);
    let executor = Executor::new(3);
    let network = Network::new(&executor);
    let clock = Clock::new(&executor, &executor.fork_random());
    let rt = SimRuntime::new(&executor, &network, network.add_host("n1"), &clock, SimDisk::new(1, 1 << 30));
    let budget = Arc::new(AnswerBudget::new(1000));
    let crowd = budget.try_take(1000).expect("it is the only one");
    let rooms = Rc::new(AnswerRooms::new(Arc::clone(&budget), PATIENCE));

    let ended = Rc::new(RefCell::new(Vec::new()));
    let ask = |bytes| {
        let (own, rooms, ended) = (rt.clone(), Rc::clone(&rooms), Rc::clone(&ended));
        rt.spawn(async move {
            let room = rooms.take(&own, bytes).await;
            ended.borrow_mut().push(room.is_some());
        });
    };
    (0..100).for_each(|n| ask(1 + n % 10));
    executor.run_until(Nanos::from_millis(4_900));
    assert!(ended.borrow().is_empty());
    executor.run_until(Nanos::from_millis(5_100));
    assert_eq!((ended.borrow().len(), budget.given_up()), (100, 100));
    assert!(ended.borrow().iter().all(|has_room| !has_room));

    (0..100).for_each(|n| ask(1 + n % 10));
    executor.call_in(Nanos::from_secs(4), move || drop(crowd));
    executor.run_until(Nanos::from_secs(12));
    assert_eq!(ended.borrow().iter().filter(|has_room| **has_room).count(), 100, "who can have room has it");
    assert_eq!((budget.taken_bytes(), budget.given_up()), (0, 100));
    executor.end();
}
