//! Core threads and what reaches them from outside: each other, and signals.

use beaver_raft::io::crossing::{Full, crossing};
use beaver_raft::io::signals::{self, Request};
use beaver_raft::io::uring::{UringWire, start_core_thread};
use beaver_raft::io::{Listener, Reader, Runtime, Wire, WireOptions, Writer};
use beaver_raft::node::rings::connect_all;
use beaver_raft::types::Nanos;
use bytes::Bytes;

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
    let mut requests = signals::requests(|| ()).expect("handlers can be set");
    on_core(|_| async move {
        assert_eq!(*requests.borrow_and_update(), Request::Serve);
        signal_hook::low_level::raise(signal_hook::consts::SIGUSR1).expect("a valid signal");
        requests.changed().await.expect("the thread of signals never ends");
        assert_eq!(*requests.borrow_and_update(), Request::Drain);
    });
}

#[test]
fn three_core_threads_that_flood_each_other_lose_nothing_and_keep_the_order_of_each() {
    const ITEMS: u32 = 20_000;
    let threads = connect_all::<(usize, u32)>(3).into_iter().enumerate().map(|(core, rings)| {
        start_core_thread(core, "flooding", options(), move |runtime| async move {
            let (lanes, inbox) = rings.start(&runtime);
            for item in 0..ITEMS {
                for lane in lanes.iter().flatten() {
                    lane.push((core, item));
                }
            }
            let mut next = [0; 3];
            while next.iter().sum::<u32>() < 2 * ITEMS {
                inbox.wait().await;
                for (from, item) in inbox.take() {
                    assert_eq!(item, next[from]);
                    next[from] += 1;
                }
            }
            // The others may still wait for the end of what this thread sends.
            while !lanes.iter().flatten().all(|lane| lane.is_empty()) {
                runtime.sleep(Nanos::from_millis(1)).await;
            }
            runtime.sleep(Nanos::from_millis(200)).await;
            next[core]
        })
    });
    let threads: Vec<_> = threads.collect();
    for thread in threads {
        assert_eq!(thread.expect("a thread").join().expect("no panic").expect("a ring"), 0);
    }
}

#[test]
fn a_stream_that_was_read_on_one_core_goes_on_on_another() {
    let (hand_over, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let serving = start_core_thread(1, "serving", options(), move |runtime| async move {
        let (mut reader, mut writer) = runtime.wire().attach(taken.recv().await.expect("a stream"));
        let (read, heard) = reader.read(Vec::new(), 100).await;
        read.expect("the stream holds");
        writer.write(vec![Bytes::from(heard)]).await.expect("the stream holds");
    });
    on_core(|runtime| async move {
        let listener = runtime.wire().listen("127.0.0.1:0", WireOptions::Peer).expect("a free port");
        let near = runtime.wire().connect(&listener.local_address(), WireOptions::Peer).await;
        let (mut near_reader, mut near_writer) = near.expect("somebody listens");
        let (mut reader, writer) = listener.accept().await.expect("somebody connects");
        near_writer.write(vec![Bytes::from_static(b"hello")]).await.expect("the stream holds");
        let (read, heard) = reader.read(Vec::new(), 5).await;
        assert_eq!((read.expect("the stream holds"), &heard[..]), (5, &b"hello"[..]));
        let close = writer.closer();
        hand_over.send(UringWire::detach(reader, writer).expect("nothing is under way")).expect("a thread");
        // It belongs to the other thread now.
        close();
        near_writer.write(vec![Bytes::from_static(b"again")]).await.expect("the stream holds");
        let (read, heard) = near_reader.read(Vec::new(), 100).await;
        assert_eq!((read.expect("the stream holds"), &heard[..]), (5, &b"again"[..]));
    });
    serving.expect("a thread").join().expect("no panic").expect("a ring");
}
