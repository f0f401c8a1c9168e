//! Links between nodes over real sockets and the real runtime. Nothing here asserts how fast something is.

use std::cell::RefCell;
use std::rc::Rc;

use beaver_raft::io::bulk::{Bulk, BulkOptions};
use beaver_raft::io::uring::{CoreOptions, UringRuntime, block_on_core};
use beaver_raft::io::{Listener, Runtime, Wire, WireOptions, Writer};
use beaver_raft::net::acceptor::{Acceptor, AcceptorCounters, Route};
use beaver_raft::net::dialer::Dialer;
use beaver_raft::net::handshake::{Gate, Identity, MembersDigest, Refusal};
use beaver_raft::net::link::{LinkCounters, LinkLimits, PeerEvent, PeerSink};
use beaver_raft::net::message::{PeerMessage, ReadAbout};
use beaver_raft::net::outbox::{Outbox, PushError};
use beaver_raft::net::standing::{Introduction, Standing, Witnessed};
use beaver_raft::types::{BootEpoch, ClusterId, Incarnation, Nanos, NodeId, ShardId, StartId, Term};
use bytes::Bytes;

/// Every event, in order.
#[derive(Default)]
struct Events(RefCell<Vec<PeerEvent>>);

impl PeerSink for Events {
    fn handle(&self, event: PeerEvent) {
        self.0.borrow_mut().push(event);
    }
}

struct Open;

impl Gate for Open {
    fn standing(&self, _: ShardId) -> Standing {
        Standing::default()
    }

    fn witnessed(&self, _: NodeId, _: ShardId) -> Witnessed {
        Witnessed::default()
    }

    async fn admit(&self, _: &Introduction, _: Option<&Witnessed>) -> Result<(), Refusal> {
        Ok(())
    }

    fn is_shut_out(&self, _: NodeId) -> bool {
        false
    }
}

fn identity(node: u8) -> Identity {
    Identity {
        cluster: ClusterId(1),
        members: MembersDigest::of(&[NodeId(1), NodeId(2)]),
        shards: 1,
        format: 1,
        node: NodeId(node),
        incarnation: Incarnation(node.into()),
        boot: BootEpoch(1),
        start_id: StartId(1),
    }
}

type Closers = Rc<RefCell<Vec<Box<dyn Fn()>>>>;

/// Node 1 dials node 2, both on this thread.
struct Pair {
    runtime: UringRuntime,
    address: String,
    dialer: Rc<Events>,
    acceptor: Rc<Events>,
    listener: Rc<<<UringRuntime as Runtime>::Wire as Wire>::Listener>,
    /// Of every connection that was accepted.
    closers: Closers,
}

impl Pair {
    fn new(runtime: UringRuntime, address: &str) -> Pair {
        let acceptor = Rc::<Events>::default();
        let sink = acceptor.clone();
        let route = move |_, _| Some(Route { sink: sink.clone(), counters: LinkCounters::default() });
        let limits = LinkLimits::default();
        let counters = AcceptorCounters::default();
        let serve = Acceptor::new(runtime.clone(), identity(2), limits, Rc::new(Open), route, counters);
        let listener = Rc::new(runtime.wire().listen(address, WireOptions::Peer).expect("a free port"));
        let closers = Closers::default();
        let (accepting, ends, tasks) = (listener.clone(), closers.clone(), runtime.clone());
        runtime.spawn(async move {
            while let Ok((reader, writer)) = accepting.accept().await {
                ends.borrow_mut().push(writer.closer());
                let serve = serve.clone();
                tasks.spawn(async move {
                    if let Some(greeted) = serve.greet(reader, writer).await {
                        serve.serve(greeted).await;
                    }
                });
            }
        });
        let address = listener.local_address();
        Pair { runtime, address, dialer: Rc::default(), acceptor, listener, closers }
    }

    fn dial(&self) -> Outbox {
        let dialer = Dialer {
            runtime: self.runtime.clone(),
            identity: identity(1),
            peer: NodeId(2),
            address: self.address.clone(),
            shard: ShardId(0),
            limits: LinkLimits::default(),
            gate: Rc::new(Open),
            sink: self.dialer.clone(),
            counters: LinkCounters::default(),
        };
        dialer.start()
    }
}

/// Waits until the events at one end say so, a minute at most.
async fn until(runtime: &UringRuntime, end: &Events, told: impl Fn(&[PeerEvent]) -> bool) {
    for _ in 0..60_000 {
        if told(&end.0.borrow()) {
            return;
        }
        runtime.sleep(Nanos::from_millis(1)).await;
    }
    panic!("not told in a minute: {:?}", end.0.borrow());
}

fn on_core<F: Future>(main: impl FnOnce(UringRuntime) -> F) -> F::Output {
    let bulk = Bulk::start(BulkOptions::default()).expect("glommio starts");
    block_on_core(&CoreOptions::new(bulk), main).expect("io_uring works here")
}

fn is_connected(events: &[PeerEvent]) -> bool {
    matches!(events.last(), Some(PeerEvent::Connected { node: NodeId(2), .. }))
}

fn lengths_of_commands(events: &[PeerEvent]) -> Vec<usize> {
    let lengths = |event: &PeerEvent| match event {
        PeerEvent::Message { message: PeerMessage::Commands { commands, .. }, .. } => {
            let whole = |command: &Bytes| command.iter().all(|&byte| byte == command.len() as u8);
            assert!(commands.iter().all(whole), "bytes arrive as they were sent");
            Some(commands.iter().map(Bytes::len).sum())
        }
        _ => None,
    };
    events.iter().filter_map(lengths).collect()
}

#[test]
fn messages_of_every_length_arrive_in_order_and_whole() {
    on_core(|runtime| async move {
        let pair = Pair::new(runtime.clone(), "127.0.0.1:0");
        let outbox = pair.dial();
        until(&runtime, &pair.dialer, is_connected).await;
        let sent: Vec<usize> =
            (0..200).map(|n| 1 + n * 7919 % 60_000).chain([16 << 20, 1, 3 << 20, 31 << 20]).collect();
        for &length in &sent {
            let commands = vec![Bytes::from(vec![length as u8; length])];
            outbox.push(&PeerMessage::Commands { term: Term(1), commands }).expect("room");
        }
        until(&runtime, &pair.acceptor, |events| events.len() == 1 + sent.len()).await;
        assert_eq!(lengths_of_commands(&pair.acceptor.0.borrow()), sent);
        outbox.close();
        until(&runtime, &pair.acceptor, |events| matches!(events.last(), Some(PeerEvent::IncomingLost { .. }))).await;
    });
}

#[test]
fn a_peer_whose_process_ends_is_lost_then_refused_then_found_again() {
    on_core(|runtime| async move {
        let pair = Pair::new(runtime.clone(), "127.0.0.1:0");
        let outbox = pair.dial();
        until(&runtime, &pair.dialer, is_connected).await;
        runtime.sleep(Nanos::from_millis(150)).await;
        // The end of a process, as its kernel plays it to others.
        pair.listener.close();
        pair.closers.borrow().iter().for_each(|close| close());
        let Pair { address, dialer, listener, .. } = pair;
        drop(listener);
        until(&runtime, &dialer, |events| matches!(events.last(), Some(PeerEvent::Lost { refused: true, .. }))).await;
        let read = PeerMessage::Read { term: Term(1), read: 1, about: ReadAbout::State };
        assert_eq!(outbox.push(&read), Err(PushError::Down));
        let again = Pair::new(runtime.clone(), &address);
        until(&runtime, &dialer, is_connected).await;
        outbox.push(&read).expect("up");
        let is_read = |event: &PeerEvent| matches!(event, PeerEvent::Message { .. });
        until(&runtime, &again.acceptor, |events| events.last().is_some_and(is_read)).await;
        let told: Vec<_> = dialer.0.borrow().iter().map(|event| format!("{event:?}")).collect();
        assert_eq!(told.len(), 4, "connected, lost, refused, connected; and nothing twice: {told:?}");
    });
}

#[test]
fn bytes_of_anything_else_are_dropped_and_peers_live_on() {
    on_core(|runtime| async move {
        let pair = Pair::new(runtime.clone(), "127.0.0.1:0");
        let outbox = pair.dial();
        until(&runtime, &pair.dialer, is_connected).await;
        for stranger in [&b"put 0 0 60 5\r\nhello\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 100_000], &[0xff; 64]] {
            let (mut reader, mut writer) =
                runtime.wire().connect(&pair.address, WireOptions::Client).await.expect("listening");
            // It may be shut out before it has said everything.
            let _cut_short = writer.write(vec![Bytes::copy_from_slice(stranger)]).await;
            let (end, answer) = beaver_raft::io::Reader::read(&mut reader, Vec::new(), 1000).await;
            assert!(!end.is_ok_and(|bytes| bytes > 0), "nothing is said to strangers: {answer:?}");
        }
        outbox.push(&PeerMessage::Read { term: Term(1), read: 1, about: ReadAbout::State }).expect("up");
    });
}
