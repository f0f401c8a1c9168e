//! What two nodes see of each other: up, lost, refused, superseded; and what arrives of what was pushed.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;

use super::memory::World;
use crate::io::{Listener, Runtime, Wire, WireOptions};
use crate::net::acceptor::{Acceptor, AcceptorCounters, Route};
use crate::net::dialer::Dialer;
use crate::net::handshake::{ConnectionId, Gate, Identity, MembersDigest, Refusal, lost_its_disk};
use crate::net::link::{LinkCounters, LinkLimits, PeerEvent, PeerSink};
use crate::net::message::{PeerMessage, RaftMessage, ReadAbout};
use crate::net::outbox::{Outbox, PushError};
use crate::net::standing::{Introduction, Standing, Witnessed};
use crate::raft::message::{Body, Message};
use crate::types::{
    BootEpoch, ChainHash, ClusterId, Incarnation, Index, JobId, LogPosition, Nanos, NodeId, ShardId, StartId, Term,
    Times,
};
use crate::wal::entry::{Draft, Entry, EntryKind, LogIdentity};

pub const ADDRESS: &str = "two:7301";

/// Writes events down, one line each.
#[derive(Default)]
pub struct Journal(RefCell<Vec<String>>);

impl Journal {
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

impl PeerSink for Journal {
    fn handle(&self, event: PeerEvent) {
        let line = match event {
            PeerEvent::Connected { node, .. } => format!("connected {node}"),
            PeerEvent::Lost { node, refused } => format!("lost {node} refused={refused}"),
            PeerEvent::Message { node, message: PeerMessage::Read { read, .. } } => format!("read {read} of {node}"),
            PeerEvent::Message { node, message: PeerMessage::Commands { commands, .. } } => {
                format!("commands {} of {node}", commands.iter().map(Bytes::len).sum::<usize>())
            }
            PeerEvent::Message { node, message: PeerMessage::Raft(raft) } => match raft.message.body {
                Body::Append { prev, entries, .. } => format!("append {}+{} of {node}", prev.index, entries.len()),
                body => format!("{body:?} of {node}"),
            },
            PeerEvent::Message { node, message } => format!("{message:?} of {node}"),
            PeerEvent::IncomingUp { node, connection, .. } => format!("incoming {node} {connection}"),
            PeerEvent::IncomingLost { node, connection } => format!("incoming lost {node} {connection}"),
            PeerEvent::WentBack { node, .. } => format!("went back {node}"),
            PeerEvent::Doubtful { node } => format!("doubtful {node}"),
            PeerEvent::Refused { node, reason, by_peer } => {
                format!(
                    "refused {}{} {}",
                    if by_peer { "by " } else { "" },
                    node.map_or_else(|| "?".to_owned(), |node| node.to_string()),
                    reason.code.name()
                )
            }
        };
        self.0.borrow_mut().push(line);
    }
}

/// Knows the incarnation of each node: its number.
pub struct Numbers;

impl Gate for Numbers {
    fn standing(&self, _: ShardId) -> Standing {
        Standing::default()
    }

    fn witnessed(&self, _: NodeId, _: ShardId) -> Witnessed {
        Witnessed::default()
    }

    async fn admit(&self, peer: &Introduction, _: Option<&Witnessed>) -> Result<(), Refusal> {
        if peer.incarnation == Incarnation(peer.node.0.into()) { Ok(()) } else { Err(lost_its_disk(peer.node)) }
    }

    fn is_shut_out(&self, _: NodeId) -> bool {
        false
    }
}

pub fn identity(node: u8) -> Identity {
    Identity {
        cluster: ClusterId(9),
        members: MembersDigest::of(&[NodeId(1), NodeId(2)]),
        shards: 1,
        format: 1,
        node: NodeId(node),
        incarnation: Incarnation(node.into()),
        boot: BootEpoch(1),
        start_id: StartId(node.into()),
    }
}

/// Node 1 dials node 2.
pub struct Pair {
    pub world: World,
    pub dialer: Rc<Journal>,
    pub acceptor: Rc<Journal>,
    pub dialer_counters: LinkCounters,
    pub acceptor_counters: LinkCounters,
    pub strangers: AcceptorCounters,
}

impl Pair {
    pub fn new() -> Pair {
        Pair {
            world: World::new(),
            dialer: Rc::default(),
            acceptor: Rc::default(),
            dialer_counters: LinkCounters::default(),
            acceptor_counters: LinkCounters::default(),
            strangers: AcceptorCounters::default(),
        }
    }

    pub fn listen(&self) -> Rc<Acceptor<World, Numbers>> {
        self.listen_as(identity(2))
    }

    pub fn listen_as(&self, identity: Identity) -> Rc<Acceptor<World, Numbers>> {
        let acceptor = self.acceptor_as(identity);
        self.accept_with(&acceptor);
        acceptor
    }

    fn acceptor_as(&self, identity: Identity) -> Rc<Acceptor<World, Numbers>> {
        let (sink, counters) = (self.acceptor.clone(), self.acceptor_counters.clone());
        let route = move |shard: ShardId, _| {
            (shard == ShardId(0)).then(|| Route { sink: sink.clone(), counters: counters.clone() })
        };
        let limits = LinkLimits::default();
        Acceptor::new(self.world.clone(), identity, limits, Rc::new(Numbers), route, self.strangers.clone())
    }

    /// Listens anew, with an acceptor that may have served before.
    pub fn accept_with(&self, acceptor: &Rc<Acceptor<World, Numbers>>) {
        let listener = self.world.listen(ADDRESS, WireOptions::Peer).expect("free");
        let (world, acceptor) = (self.world.clone(), acceptor.clone());
        self.world.spawn(async move {
            while let Ok((reader, writer)) = listener.accept().await {
                let acceptor = acceptor.clone();
                world.spawn(async move {
                    if let Some(greeted) = acceptor.greet(reader, writer).await {
                        acceptor.serve(greeted).await;
                    }
                });
            }
        });
    }

    /// Listens with one acceptor that reads every Hello, and another, as if of another thread, that serves.
    fn listen_and_hand_over(&self) {
        let (listening, serving) = (self.acceptor_as(identity(2)), self.acceptor_as(identity(2)));
        let world = self.world.clone();
        let listener = self.world.listen(ADDRESS, WireOptions::Peer).expect("free");
        self.world.spawn(async move {
            while let Ok((reader, writer)) = listener.accept().await {
                let greeted = listening.greet(reader, writer).await.expect("a peer that says who it is");
                assert_eq!(greeted.shard(), ShardId(0));
                let detached = greeted.detach().expect("nothing is under way");
                world.spawn(serving.clone().serve(detached.attach(&world)));
            }
        });
    }

    pub fn dial(&self) -> Outbox {
        self.dial_as(identity(1))
    }

    pub fn dial_as(&self, identity: Identity) -> Outbox {
        let dialer = Dialer {
            runtime: self.world.clone(),
            identity,
            peer: NodeId(2),
            address: ADDRESS.to_owned(),
            shard: ShardId(0),
            limits: LinkLimits::default(),
            gate: Rc::new(Numbers),
            sink: self.dialer.clone(),
            counters: self.dialer_counters.clone(),
        };
        dialer.start()
    }

    /// Both nodes, connected.
    pub fn connected() -> (Pair, Outbox) {
        let pair = Pair::new();
        pair.listen();
        let outbox = pair.dial();
        pair.run_ms(1);
        assert_eq!(pair.dialer.take(), ["connected 2"]);
        assert_eq!(pair.acceptor.take(), ["incoming 1 1.1"]);
        (pair, outbox)
    }

    pub fn run_ms(&self, millis: u64) {
        self.world.run(Nanos::from_millis(millis));
    }
}

pub fn read(read: u64) -> PeerMessage {
    PeerMessage::Read { term: Term(1), read, about: ReadAbout::State }
}

pub fn commands(bytes: usize) -> PeerMessage {
    PeerMessage::Commands { term: Term(1), commands: vec![Bytes::from(vec![b'c'; bytes])] }
}

fn raft(body: Body, entries: Vec<Entry>) -> PeerMessage {
    let message = Message { term: Term(1), body };
    PeerMessage::Raft(RaftMessage { message, entries, times: Times::default(), room: true, durable: Index::ZERO })
}

/// An append of one entry of this length, or of none, behind this index.
fn append(prev: u64, payload_bytes: Option<usize>) -> PeerMessage {
    let prev = LogPosition::new(Term(1), Index(prev));
    let entry = payload_bytes.map(|bytes| {
        let draft = Draft {
            position: LogPosition::new(Term(1), prev.index.next()),
            prev_chain: ChainHash(1),
            kind: EntryKind::Commands,
            times: Times::default(),
            first_job: JobId(1),
            job_count: 0,
            payload: &vec![b'e'; bytes],
        };
        Entry::encode(draft, &LogIdentity { cluster: ClusterId(9), shard: ShardId(0) })
    });
    let entries: Vec<Entry> = entry.into_iter().collect();
    let metas = entries.iter().map(|entry| entry.meta).collect();
    raft(Body::Append { prev, entries: metas, commit: Index(0), round: 1 }, entries)
}

#[test]
fn what_is_pushed_arrives_in_order() {
    let (pair, outbox) = Pair::connected();
    for number in 0..100 {
        outbox.push(&read(number)).expect("room");
    }
    outbox.push(&commands(1_000_000)).expect("room");
    outbox.push(&append(4, Some(500_000))).expect("room");
    pair.world.settle();
    let mut expected: Vec<String> = (0..100).map(|number| format!("read {number} of 1")).collect();
    expected.extend(["commands 1000000 of 1".to_owned(), "append 4+1 of 1".to_owned()]);
    assert_eq!(pair.acceptor.take(), expected);
    assert_eq!(outbox.queued_bytes(), 0);
    let (sent, received) = (&pair.dialer_counters, &pair.acceptor_counters);
    assert_eq!(sent.frames_sent.get(), 102);
    assert_eq!(received.frames_received.get(), 102);
    assert_eq!(sent.bytes_sent.get(), received.bytes_received.get());
    assert!(sent.bytes_sent.get() > 1_500_000);
}

#[test]
fn votes_and_heartbeats_pass_what_is_queued_and_nothing_else_does() {
    let (pair, outbox) = Pair::connected();
    let stream = pair.world.network().newest();
    stream.to_listener.set_full(true);
    outbox.push(&commands(300_000)).expect("room");
    pair.world.settle();
    // The first batch is being written; these wait.
    outbox.push(&commands(1)).expect("room");
    outbox.push(&append(10, Some(300_000))).expect("room");
    outbox.push(&read(7)).expect("room");
    outbox.push(&append(10, None)).expect("room");
    outbox.push(&append(11, None)).expect("room");
    outbox.push(&raft(Body::TimeoutNow, vec![])).expect("room");
    stream.to_listener.set_full(false);
    pair.world.settle();
    let expected = [
        "commands 300000 of 1",
        "append 10+0 of 1",
        "TimeoutNow of 1",
        "commands 1 of 1",
        "append 10+1 of 1",
        "read 7 of 1",
        // It speaks of the queued entry, so it came behind it.
        "append 11+0 of 1",
    ];
    assert_eq!(pair.acceptor.take(), expected);
}

#[test]
fn nothing_is_taken_without_a_connection() {
    let pair = Pair::new();
    let outbox = pair.dial();
    assert_eq!(outbox.push(&read(1)), Err(PushError::Down));
    assert!(!outbox.is_up());
}

#[test]
fn a_peer_that_does_not_read_fills_its_own_queue_and_heartbeats_have_another() {
    let (pair, outbox) = Pair::connected();
    pair.world.network().newest().to_listener.set_full(true);
    outbox.push(&commands(1)).expect("room");
    pair.world.settle();
    let limits = LinkLimits::default();
    let mut pushed = 0;
    while outbox.push(&append(9, Some(8 << 20))).is_ok() {
        pushed += 1;
    }
    assert_eq!(pushed, 7);
    assert!(outbox.queued_bytes() <= limits.queued_bytes_max);
    assert_eq!(outbox.push(&append(9, Some(8 << 20))), Err(PushError::Full));
    outbox.push(&append(0, None)).expect("heartbeats have a lane of their own");
    for _ in 1..limits.queued_control_frames_max {
        outbox.push(&append(0, None)).expect("room");
    }
    assert_eq!(outbox.push(&append(0, None)), Err(PushError::Full));
    for _ in pushed..limits.queued_frames_max {
        outbox.push(&append(9, Some(1))).expect("room for short ones");
    }
    assert_eq!(outbox.push(&append(9, Some(1))), Err(PushError::Full));
}

#[test]
fn everything_that_sessions_hold_can_be_handed_over_at_once() {
    let (pair, outbox) = Pair::connected();
    pair.world.network().newest().to_listener.set_full(true);
    let limits = LinkLimits::default();
    for _ in 0..=2 * limits.queued_bytes_max / (8 << 20) {
        outbox.push(&commands(8 << 20)).expect("their memory is the sessions'");
    }
    for number in 0..2 * limits.queued_frames_max as u64 {
        outbox.push(&read(number)).expect("as many as there are connections");
    }
}

#[test]
fn a_message_longer_than_a_frame_is_refused_at_once_and_the_link_lives() {
    let (pair, outbox) = Pair::connected();
    assert!(matches!(outbox.push(&commands(33 << 20)), Err(PushError::TooLong(_))));
    outbox.push(&read(1)).expect("room");
    pair.world.settle();
    assert_eq!(pair.acceptor.take(), ["read 1 of 1"]);
}

#[test]
fn a_peer_that_dies_is_reported_lost_and_then_refused_and_no_more() {
    let (pair, outbox) = Pair::connected();
    pair.run_ms(2000);
    pair.world.network().kill(ADDRESS);
    // The first attempt follows the loss at once.
    pair.world.run(Nanos::from_micros(100));
    assert_eq!(pair.dialer.take(), ["lost 2 refused=false", "lost 2 refused=true"]);
    assert_eq!(pair.dialer_counters.connections_lost.get(), 1);
    assert!(!outbox.is_up());
    pair.run_ms(10_000);
    assert!(pair.dialer.take().is_empty());
    assert_eq!(pair.acceptor.take(), ["incoming lost 1 1.1"]);
    pair.listen();
    pair.run_ms(1001);
    assert_eq!(pair.dialer.take(), ["connected 2"]);
    outbox.push(&read(1)).expect("up");
    pair.world.settle();
    assert_eq!(pair.acceptor.take().last().map(String::as_str), Some("read 1 of 1"));
}

#[test]
fn a_nudge_dials_without_waiting_for_the_backoff() {
    let pair = Pair::new();
    let outbox = pair.dial();
    pair.run_ms(20_000);
    assert_eq!(pair.dialer.take(), ["lost 2 refused=true"]);
    pair.listen();
    outbox.nudge();
    pair.world.run(Nanos::from_micros(100));
    assert_eq!(pair.dialer.take(), ["connected 2"]);
}

#[test]
fn a_connection_cut_inside_a_frame_delivers_no_part_of_it_and_the_next_starts_clean() {
    let (pair, outbox) = Pair::connected();
    pair.run_ms(2000);
    outbox.push(&read(1)).expect("up");
    pair.world.settle();
    pair.world.network().newest().to_listener.break_after(50_000);
    outbox.push(&commands(100_000)).expect("up");
    outbox.push(&read(2)).expect("up");
    pair.run_ms(1);
    pair.world.network().streams()[0].cut();
    pair.run_ms(10);
    let lost_with_the_connection = ["read 1 of 1", "incoming lost 1 1.1", "incoming 1 1.2"];
    assert_eq!(pair.acceptor.take(), lost_with_the_connection);
    assert_eq!(pair.dialer.take(), ["lost 2 refused=false", "connected 2"]);
    outbox.push(&read(3)).expect("up again");
    pair.world.settle();
    assert_eq!(pair.acceptor.take(), ["read 3 of 1"]);
    assert_eq!(pair.acceptor_counters.bad_frames.get(), 0);
}

#[test]
fn what_waited_for_a_lost_connection_is_not_sent_on_the_next() {
    let (pair, outbox) = Pair::connected();
    pair.run_ms(2000);
    let stream = pair.world.network().newest();
    stream.to_listener.set_full(true);
    for number in 0..10 {
        outbox.push(&read(number)).expect("up");
        outbox.push(&append(0, None)).expect("up");
        pair.world.settle();
    }
    stream.cut();
    pair.run_ms(10);
    outbox.push(&read(99)).expect("up again");
    pair.world.settle();
    assert_eq!(pair.acceptor.take(), ["incoming lost 1 1.1", "incoming 1 1.2", "read 99 of 1"]);
    assert_eq!(outbox.queued_bytes(), 0);
}

#[test]
fn the_late_end_of_an_old_connection_does_not_end_the_new_one() {
    let (pair, outbox) = Pair::connected();
    pair.run_ms(2000);
    let old = pair.world.network().newest();
    // A write fails, while the reader of the same connection has not seen its end.
    old.to_dialer.hold();
    old.to_listener.close();
    outbox.push(&read(1)).expect("up");
    pair.run_ms(10);
    assert_eq!(pair.dialer.take(), ["lost 2 refused=false", "connected 2"]);
    old.to_dialer.release();
    pair.run_ms(10);
    assert_eq!(pair.dialer.take(), Vec::<String>::new());
    assert!(outbox.is_up());
}

#[test]
fn a_newer_connection_silences_the_older_one() {
    // R11: bytes of the old connection are still under way when the new one is up.
    let (pair, outbox) = Pair::connected();
    pair.run_ms(2000);
    let old = pair.world.network().newest();
    old.to_listener.hold();
    outbox.push(&read(1)).expect("up");
    pair.world.settle();
    // Only the dialler sees the old one break.
    old.to_dialer.close();
    pair.run_ms(10);
    outbox.push(&read(2)).expect("up again");
    pair.world.settle();
    old.to_listener.release();
    pair.run_ms(10);
    assert_eq!(pair.acceptor.take(), ["incoming lost 1 1.1", "incoming 1 1.2", "read 2 of 1"]);
}

#[test]
fn connections_that_are_handed_over_supersede_each_other_as_if_accepted_where_they_are_served() {
    let pair = Pair::new();
    pair.listen_and_hand_over();
    let outbox = pair.dial();
    pair.run_ms(2000);
    outbox.push(&read(1)).expect("up");
    pair.world.settle();
    let old = pair.world.network().newest();
    old.to_listener.hold();
    outbox.push(&read(2)).expect("up");
    pair.world.settle();
    old.to_dialer.close();
    pair.run_ms(10);
    outbox.push(&read(3)).expect("up again");
    pair.world.settle();
    old.to_listener.release();
    pair.run_ms(10);
    let expected = ["incoming 1 1.1", "read 1 of 1", "incoming lost 1 1.1", "incoming 1 1.2", "read 3 of 1"];
    assert_eq!(pair.acceptor.take(), expected);
}

#[test]
fn an_older_connection_that_comes_late_does_not_take_the_newer_ones_place() {
    let (pair, outbox) = Pair::connected();
    let connection = ConnectionId { boot: BootEpoch(1), attempt: 1 };
    assert_eq!(connection.to_string(), "1.1");
    let late = identity(1);
    let second = pair.dial_as(Identity { boot: BootEpoch(0), ..late });
    pair.run_ms(1);
    assert!(!second.is_up());
    assert!(outbox.is_up());
    assert_eq!(pair.acceptor.take(), Vec::<String>::new());
    assert_eq!(pair.dialer.take(), ["refused by 2 superseded", "lost 2 refused=false"]);
}

#[test]
fn a_later_boot_takes_the_place_of_the_former() {
    let (pair, outbox) = Pair::connected();
    outbox.close();
    let second = pair.dial_as(Identity { boot: BootEpoch(2), ..identity(1) });
    pair.run_ms(1);
    second.push(&read(5)).expect("up");
    pair.world.settle();
    assert_eq!(pair.acceptor.take(), ["incoming lost 1 1.1", "incoming 1 2.1", "read 5 of 1"]);
}

#[test]
fn closing_sends_what_is_queued_and_ends_the_link() {
    let (pair, outbox) = Pair::connected();
    outbox.push(&raft(Body::TimeoutNow, vec![])).expect("up");
    outbox.push(&commands(1_000_000)).expect("up");
    outbox.close();
    assert_eq!(outbox.push(&read(1)), Err(PushError::Down));
    pair.run_ms(10_000);
    assert_eq!(pair.acceptor.take(), ["TimeoutNow of 1", "commands 1000000 of 1", "incoming lost 1 1.1"]);
    assert_eq!(pair.dialer.take(), Vec::<String>::new());
}

#[test]
fn a_peer_that_drops_every_connection_is_not_dialled_in_a_tight_loop() {
    let pair = Pair::new();
    let _outbox = pair.dial();
    let listener = pair.world.listen(ADDRESS, WireOptions::Peer).expect("free");
    pair.world.spawn(async move {
        while let Ok((_reader, writer)) = listener.accept().await {
            crate::io::Writer::shutdown(&writer);
        }
    });
    pair.run_ms(10_000);
    let attempts = pair.world.network().streams().len();
    assert!((10..40).contains(&attempts), "{attempts} attempts in ten seconds");
}
