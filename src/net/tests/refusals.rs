//! Who is not let in, and what is done with bytes that no peer sends.

use std::rc::Rc;

use bytes::Bytes;

use super::links::{ADDRESS, Pair, identity};
use crate::io::{Listener, Reader, Runtime, Wire, WireOptions, Writer};
use crate::net::frame::{EncodedFrame, FrameBuilder, FrameKind};
use crate::net::handshake::{HANDSHAKE_DEADLINE, Hello, Identity, MembersDigest, Welcome};
use crate::net::link::LinkLimits;
use crate::net::standing::Standing;
use crate::types::{BootEpoch, ClusterId, Incarnation, Nanos, NodeId, ShardId};

/// What each side says when node 1 dials node 2 as these identities.
fn meeting(dialer: Identity, acceptor: Identity) -> (Vec<String>, Vec<String>, Pair) {
    let pair = Pair::new();
    pair.listen_as(acceptor);
    let outbox = pair.dial_as(dialer);
    pair.run_ms(5000);
    assert!(!outbox.is_up());
    (pair.dialer.take(), pair.acceptor.take(), pair)
}

#[test]
fn a_peer_of_another_kind_is_refused_on_both_sides_by_the_reason() {
    let cases = [
        (Identity { cluster: ClusterId(1), ..identity(1) }, "cluster"),
        (Identity { members: MembersDigest(1), ..identity(1) }, "members"),
        (Identity { shards: 2, ..identity(1) }, "shards"),
        (Identity { format: 2, ..identity(1) }, "format"),
        (Identity { node: NodeId(2), ..identity(1) }, "wrong-node"),
    ];
    for (dialer, reason) in cases {
        let (dialer, _, pair) = meeting(dialer, identity(2));
        // Said once, though it is tried again and again.
        assert_eq!(dialer, [format!("refused by 2 {reason}"), "lost 2 refused=false".to_owned()]);
        let refused = pair.dialer_counters.handshakes_refused.get();
        assert!((4..=11).contains(&refused), "{refused} attempts in five seconds");
        assert_eq!(pair.strangers.handshakes_refused.get(), refused);
    }
}

#[test]
fn a_node_whose_disk_was_lost_is_refused_by_who_it_dials_and_by_who_dials_it() {
    let wiped = |node| Identity { incarnation: Incarnation(77), ..identity(node) };
    let (dialer, acceptor, _) = meeting(wiped(1), identity(2));
    assert_eq!(dialer, ["refused by 2 incarnation", "lost 2 refused=false"]);
    assert_eq!(acceptor[0], "refused 1 incarnation");
    let (dialer, _, _) = meeting(identity(1), wiped(2));
    assert_eq!(dialer, ["refused 2 incarnation", "lost 2 refused=false"]);
}

#[test]
fn an_address_that_leads_to_another_node_is_refused() {
    let (dialer, ..) = meeting(identity(1), identity(3));
    assert_eq!(dialer, ["refused by 2 wrong-node", "lost 2 refused=false"]);
}

#[test]
fn a_node_that_welcomes_whom_it_should_not_is_refused_by_the_dialler() {
    let cases = [
        (identity(3), "wrong-node"),
        (Identity { cluster: ClusterId(1), ..identity(2) }, "cluster"),
        (Identity { incarnation: Incarnation(77), ..identity(2) }, "incarnation"),
    ];
    for (welcoming, reason) in cases {
        let pair = Pair::new();
        answer_dialler(&pair, Welcome { identity: welcoming, standing: Standing::default() }.encode());
        let outbox = pair.dial();
        pair.run_ms(10);
        assert!(!outbox.is_up());
        assert_eq!(pair.dialer.take(), [format!("refused 2 {reason}"), "lost 2 refused=false".to_owned()]);
    }
}

#[test]
fn an_answer_to_the_handshake_that_makes_no_sense_is_counted_and_dialled_again() {
    let mut hostile = FrameBuilder::new();
    hostile.fields().extend_from_slice(&[1, 0, 7]);
    let message = FrameBuilder::new().finish(FrameKind::Message, 5000).expect("fits");
    for answer in [hostile.finish(FrameKind::Welcome, 5000).expect("fits"), message] {
        let pair = Pair::new();
        answer_dialler(&pair, answer);
        let outbox = pair.dial();
        pair.run_ms(100);
        assert!(!outbox.is_up());
        assert!(pair.dialer_counters.bad_frames.get() > 1);
        assert_eq!(pair.dialer.take(), ["lost 2 refused=false"]);
    }
}

#[test]
fn a_peer_that_speaks_on_a_connection_it_may_only_listen_to_loses_it() {
    let pair = Pair::new();
    let welcome = Welcome { identity: identity(2), standing: Standing::default() }.encode();
    let message = FrameBuilder::new().finish(FrameKind::Message, 5000).expect("fits");
    let bytes = [welcome.chunks, message.chunks].concat().concat();
    answer_dialler(&pair, EncodedFrame { bytes: bytes.len(), chunks: vec![Bytes::from(bytes)] });
    let _outbox = pair.dial();
    pair.run_ms(2);
    assert_eq!(pair.dialer.take()[..2], ["connected 2", "lost 2 refused=false"]);
    assert!(pair.dialer_counters.bad_frames.get() > 0);
}

/// Stands in for node 2: answers every Hello with these bytes and keeps the connection.
fn answer_dialler(pair: &Pair, answer: EncodedFrame) {
    let listener = pair.world.listen(ADDRESS, WireOptions::Peer).expect("free");
    pair.world.spawn(async move {
        while let Ok((_reader, mut writer)) = listener.accept().await {
            writer.write(answer.chunks.clone()).await.expect("open");
        }
    });
}

#[test]
fn a_shard_that_is_not_ready_is_tried_again_soon() {
    let pair = Pair::new();
    pair.listen_as(Identity { shards: 2, ..identity(2) });
    let (identity, standing) = (Identity { shards: 2, ..identity(1) }, Standing::default());
    let hello = Hello { identity, to: NodeId(2), shard: ShardId(1), attempt: 1, standing };
    assert!(answer(&pair, hello.encode().chunks.concat()).is_some_and(|answer| answer.contains("not ready")));
}

/// Sends bytes to node 2 and gives what it answers before it closes the connection; none where it keeps it open.
fn answer(pair: &Pair, bytes: Vec<u8>) -> Option<String> {
    let answered = Rc::new(std::cell::RefCell::new(None));
    let (world, result) = (pair.world.clone(), answered.clone());
    pair.world.spawn(async move {
        let (mut reader, mut writer) = world.wire().connect(ADDRESS, WireOptions::Peer).await.expect("listening");
        writer.write(vec![Bytes::from(bytes)]).await.expect("open");
        let mut answer = Vec::new();
        loop {
            let (read, buffer) = reader.read(answer, 10_000).await;
            answer = buffer;
            if read.expect("no error in this world") == 0 {
                break;
            }
        }
        result.replace(Some(String::from_utf8_lossy(&answer).into_owned()));
    });
    pair.run_ms(10);
    answered.take()
}

#[test]
fn bytes_that_are_no_frame_drop_the_connection_with_a_count_and_no_answer() {
    let pair = Pair::new();
    pair.listen();
    // Shorter than a header.
    assert_eq!(answer(&pair, b"GET / HTTP/1.1\r\n".to_vec()), Some(String::new()));
    let mut damaged =
        Hello { identity: identity(1), to: NodeId(2), shard: ShardId(0), attempt: 1, standing: Standing::default() }
            .encode()
            .chunks
            .concat();
    *damaged.last_mut().expect("not empty") ^= 1;
    assert_eq!(answer(&pair, damaged), Some(String::new()));
    let mut long = FrameBuilder::new();
    long.attach(Bytes::from(vec![0; 5000]));
    let long = long.finish(FrameKind::Hello, 5000).expect("fits").chunks.concat();
    assert_eq!(answer(&pair, long), Some(String::new()));
    let early = FrameBuilder::new().finish(FrameKind::Message, 5000).expect("fits").chunks.concat();
    assert_eq!(answer(&pair, early), Some(String::new()));
    assert_eq!(pair.strangers.bad_frames.get(), 4);
    assert_eq!(pair.acceptor.take(), Vec::<String>::new());
}

#[test]
fn a_message_that_makes_no_sense_ends_the_connection_of_an_admitted_peer() {
    let pair = Pair::new();
    pair.listen();
    let mut bytes =
        Hello { identity: identity(1), to: NodeId(2), shard: ShardId(0), attempt: 1, standing: Standing::default() }
            .encode()
            .chunks
            .concat();
    let mut nonsense = FrameBuilder::new();
    nonsense.fields().push(99);
    bytes.extend(nonsense.finish(FrameKind::Message, 5000).expect("fits").chunks.concat());
    assert!(answer(&pair, bytes).is_some());
    assert_eq!(pair.acceptor.take(), ["incoming 1 1.1", "incoming lost 1 1.1"]);
    assert_eq!(pair.acceptor_counters.bad_frames.get(), 1);
}

#[test]
fn a_stranger_that_says_nothing_is_closed_when_its_time_is_up() {
    let pair = Pair::new();
    pair.listen();
    assert_eq!(answer(&pair, Vec::new()), None);
    let stream = pair.world.network().newest();
    pair.world.run(Nanos(HANDSHAKE_DEADLINE.0 - Nanos::from_millis(20).0));
    assert!(!stream.to_listener.is_closed());
    pair.run_ms(20);
    assert!(stream.to_listener.is_closed());
}

#[test]
fn strangers_who_say_nothing_keep_no_peer_out_however_many_they_are() {
    let pair = Pair::new();
    pair.listen();
    let outbox = pair.dial();
    pair.run_ms(10);
    let handshakes_max = LinkLimits::default().handshakes_max;
    let mut strangers = Vec::new();
    for _ in 0..2 * handshakes_max {
        let world = pair.world.clone();
        pair.world.spawn(async move {
            let _halves = world.wire().connect(ADDRESS, WireOptions::Peer).await.expect("listening");
            std::future::pending::<()>().await;
        });
        pair.run_ms(1);
        strangers.push(pair.world.network().newest());
    }
    // The newest wait for what is theirs: the time that a peer has to say who it is.
    for (number, stranger) in strangers.iter().enumerate() {
        assert_eq!(stranger.to_listener.is_closed(), number < handshakes_max, "stranger {number}");
    }
    assert!(outbox.is_up());
    let again = pair.dial_as(Identity { boot: BootEpoch(2), ..identity(1) });
    pair.run_ms(10);
    assert!(again.is_up());
}

#[test]
fn a_peer_that_does_not_answer_the_handshake_is_given_up_and_dialled_again() {
    let pair = Pair::new();
    let _listener = pair.world.listen(ADDRESS, WireOptions::Peer).expect("free");
    let outbox = pair.dial();
    pair.run_ms(4999);
    assert_eq!(pair.world.network().streams().len(), 1);
    pair.run_ms(100);
    assert_eq!(pair.world.network().streams().len(), 2);
    assert_eq!(pair.dialer.take(), ["lost 2 refused=false"]);
    assert!(!outbox.is_up());
}
