//! Core threads and what reaches them from outside: each other, and signals.

use beaver_raft::io::Runtime;
use beaver_raft::io::crossing::{Full, crossing};
use beaver_raft::io::signals::{self, Request};
use beaver_raft::io::uring::start_core_thread;
use beaver_raft::types::Nanos;

use crate::world::{on_core, options};

#[test]
fn two_core_threads_play_ping_pong_over_two_rings() {
    const ROUNDS: u32 = 2000;
    let (mut to_second, mut second_inbox) = crossing::<u32>(16);
    let (mut to_first, mut first_inbox) = crossing::<u32>(16);
    let second = start_core_thread(1, "second", options(), move |_| async move {
        let mut batch = Vec::new();
        while second_inbox.next_batch(&mut batch).await.is_ok() {
            for number in batch.drain(..) {
                to_first.push(number + 1).expect("one at a time fits");
            }
            to_first.wake();
        }
    });
    let first = start_core_thread(0, "first", options(), move |runtime| async move {
        let mut batch = Vec::new();
        let started = runtime.now();
        for round in 0..ROUNDS {
            to_second.push(round).expect("one at a time fits");
            to_second.wake();
            first_inbox.next_batch(&mut batch).await.expect("the second thread is there");
            assert_eq!(batch, [round + 1]);
            batch.clear();
        }
        runtime.now().saturating_sub(started)
    });
    let took = first.expect("a thread").join().expect("no panic").expect("a ring");
    second.expect("a thread").join().expect("no panic").expect("a ring");
    println!("a round trip between two cores takes {} µs", took.0 / u64::from(ROUNDS) / 1000);
}

#[test]
fn a_core_that_floods_another_loses_nothing() {
    const ITEMS: u32 = 100_000;
    let (mut producer, mut consumer) = crossing::<u32>(256);
    let consuming = start_core_thread(1, "consuming", options(), move |_| async move {
        let mut all = Vec::new();
        while consumer.next_batch(&mut all).await.is_ok() {}
        all
    });
    on_core(|runtime| async move {
        for item in 0..ITEMS {
            let mut item = item;
            while let Err(Full(back)) = producer.push(item) {
                item = back;
                producer.wake();
                runtime.sleep(Nanos::from_micros(100)).await;
            }
        }
    });
    let all = consuming.expect("a thread").join().expect("no panic").expect("a ring");
    assert!(all.into_iter().eq(0..ITEMS));
}

#[test]
fn a_signal_reaches_a_core_that_sleeps() {
    let mut requests = signals::requests().expect("handlers can be set");
    on_core(|_| async move {
        assert_eq!(*requests.borrow_and_update(), Request::Serve);
        signal_hook::low_level::raise(signal_hook::consts::SIGUSR1).expect("a valid signal");
        requests.changed().await.expect("the thread of signals never ends");
        assert_eq!(*requests.borrow_and_update(), Request::Drain);
    });
}
