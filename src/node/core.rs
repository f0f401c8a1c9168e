//! One node on one core thread, from opening its directory to its end. Generic over the world it runs in: the real one
//! and the simulated one run this same code.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::fate::Fate;
use super::front::{Front, Mailboxes, ShardAnswers};
use super::host::{Event, Host, StallLimits, TurnWatch};
use super::log_writer::{Spares, make_spares, write_log, write_votes};
use super::observer::StatusObserver;
use super::opening::{OpenedShard, open_node, open_shard};
use super::peering::{EventSink, IncarnationGate};
use super::queue::Queue;
use crate::api::beanstalkd::front_door::FrontDoor;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::{Disk, Listener, Runtime, Wire, WireOptions};
use crate::metrics::Metrics;
use crate::net::acceptor::{Acceptor, AcceptorCounters, Route};
use crate::net::dialer::Dialer;
use crate::net::handshake::{Identity, MembersDigest};
use crate::net::link::{LinkCounters, LinkLimits, PeerSink};
use crate::net::outbox::Outbox;
use crate::status::Board;
use crate::types::{Nanos, NodeId, ShardId};
use crate::wal::directory::Opened;
use crate::wal::format::FORMAT;

/// How often the free space is looked at.
const ROOM_EVERY: Nanos = Nanos::from_secs(1);

/// How often a stopping node looks whether it is done.
const STOP_POLL: Nanos = Nanos::from_millis(5);

/// What a node needs beside its world.
#[derive(Clone)]
pub struct Setup {
    pub config: Config,
    pub metrics: Arc<Metrics>,
    pub board: Arc<Board>,
    pub door: Arc<FrontDoor>,
    pub watch: Option<Rc<dyn TurnWatch>>,
}

/// Asks a running node to stop, from the same thread.
#[derive(Debug, Default)]
pub struct StopRequest {
    asked: Cell<bool>,
    changed: Notify,
}

impl StopRequest {
    pub fn ask(&self) {
        self.asked.set(true);
        self.changed.notify_waiters();
    }

    async fn wait(&self) {
        let changed = self.changed.notified();
        if !self.asked.get() {
            changed.await;
        }
    }
}

/// Runs the node until it is asked to stop or must.
///
/// # Errors
/// The reason, where the end was not asked for.
pub async fn run_node<R: Runtime>(rt: R, setup: Setup, stop: Rc<StopRequest>) -> Result<(), Fatal> {
    let begun = rt.now();
    // Addresses first: one that is taken is told before a long recovery, not after.
    let listeners = Listeners::bind(&rt, &setup.config)?;
    let opened = open_node(&rt, &setup.config).await?;
    let fate = Rc::new(Fate::default());
    let mailboxes = Rc::new(Mailboxes::default());
    let mut hosts = Vec::new();
    let mut sinks: Vec<Rc<dyn PeerSink>> = Vec::new();
    let members = setup.config.members.keys().copied().collect();
    let gate = IncarnationGate::new(rt.disk().clone(), setup.config.data.clone(), members, opened.peers.clone());
    let gate = Rc::new(gate);
    for shard in (0..setup.config.shards).map(ShardId) {
        let recovered = open_shard(&rt, &setup.config, &opened, shard).await?;
        let elapsed = rt.now().saturating_sub(begun);
        setup.metrics.node.recovery_seconds.observe(elapsed.duration().as_secs_f64());
        tracing::info!(
            %shard,
            "log recovered in {} ms: {} entries, {} of them known to be committed",
            elapsed.0 / 1_000_000,
            recovered.entries,
            recovered.committed
        );
        let events = Rc::new(Queue::default());
        let sink: Rc<dyn PeerSink> = Rc::new(EventSink { events: Rc::clone(&events) });
        let links = dial_peers(&rt, &setup, &opened, shard, &gate, &sink);
        sinks.push(sink);
        let answers = Rc::new(ShardAnswers { shard, mailboxes: Rc::clone(&mailboxes) });
        hosts.push(start_shard(&rt, &setup, recovered, events, links, answers, &fate));
    }
    if let Some(listener) = &listeners.peers {
        let acceptor = accept_peers(&rt, &setup, &opened, &gate, sinks);
        rt.spawn(serve_peers(rt.clone(), Rc::clone(listener), acceptor, Rc::clone(&listeners.closing)));
    }
    let front = Rc::new(Front::new(
        rt.clone(),
        hosts.clone(),
        mailboxes,
        Arc::clone(&setup.door),
        setup.config.tunables.connections_max as usize,
        Arc::clone(&setup.metrics),
    ));
    for listener in &listeners.clients {
        rt.spawn(Rc::clone(&front).accept(Rc::clone(listener), Rc::clone(&listeners.closing)));
    }
    rt.spawn(watch_room(rt.clone(), setup.clone(), hosts.clone(), Rc::clone(&fate)));
    tokio::select! {
        biased;
        () = fate.wait() => {}
        () = stop.wait() => {
            stop_gracefully(&rt, &setup.config, &listeners, &hosts, &front, &fate).await;
        }
    }
    listeners.close();
    for host in &hosts {
        for link in host.links.values() {
            link.close();
        }
    }
    fate.take()
}

struct Listeners<R: Runtime> {
    clients: Vec<Rc<<R::Wire as Wire>::Listener>>,
    peers: Option<Rc<<R::Wire as Wire>::Listener>>,
    closing: Rc<Cell<bool>>,
}

impl<R: Runtime> Listeners<R> {
    fn bind(rt: &R, config: &Config) -> Result<Listeners<R>, Fatal> {
        let listen = |address: &str, purpose, options| {
            rt.wire().listen(address, options).map(Rc::new).map_err(|error| Fatal::PortTaken {
                address: address.to_owned(),
                purpose,
                why: error.to_string(),
            })
        };
        let clients = config.clients.iter().map(|address| listen(address.as_str(), "clients", WireOptions::Client));
        let peers = config.peers.as_ref().filter(|_| config.members.len() > 1);
        Ok(Listeners {
            clients: clients.collect::<Result<_, _>>()?,
            peers: peers.map(|address| listen(address.as_str(), "peers", WireOptions::Peer)).transpose()?,
            closing: Rc::new(Cell::new(false)),
        })
    }

    /// No further client is accepted.
    fn close_clients(&self) {
        self.closing.set(true);
        for listener in &self.clients {
            listener.close();
        }
    }

    fn close(&self) {
        self.close_clients();
        if let Some(peers) = &self.peers {
            peers.close();
        }
    }
}

fn identity(config: &Config, opened: &Opened) -> Identity {
    let members: Vec<NodeId> = config.members.keys().copied().collect();
    Identity {
        cluster: opened.identity.cluster_id,
        members: MembersDigest::of(&members),
        shards: config.shards,
        format: FORMAT,
        node: config.node,
        incarnation: opened.identity.incarnation,
        boot: opened.boot,
    }
}

fn link_limits() -> LinkLimits {
    LinkLimits::default()
}

fn link_counters(setup: &Setup, shard: ShardId, peer: NodeId) -> LinkCounters {
    let metrics = setup.metrics.peer(shard, peer);
    LinkCounters {
        frames_sent: metrics.frames_sent,
        bytes_sent: metrics.bytes_sent,
        frames_received: metrics.frames_received,
        bytes_received: metrics.bytes_received,
        connections_lost: metrics.connections_lost,
        handshakes_refused: setup.metrics.node.handshakes_refused.clone(),
        bad_frames: setup.metrics.node.bad_frames.clone(),
    }
}

type Links = std::collections::BTreeMap<NodeId, Outbox>;

fn dial_peers<R: Runtime>(
    rt: &R,
    setup: &Setup,
    opened: &Opened,
    shard: ShardId,
    gate: &Rc<IncarnationGate<R::Disk>>,
    sink: &Rc<dyn PeerSink>,
) -> Links {
    let peers = setup.config.members.iter().filter(|(node, _)| **node != setup.config.node);
    peers
        .map(|(&peer, address)| {
            let dialer = Dialer {
                runtime: rt.clone(),
                identity: identity(&setup.config, opened),
                peer,
                address: address.as_str().to_owned(),
                shard,
                limits: link_limits(),
                gate: Rc::clone(gate),
                sink: Rc::clone(sink),
                counters: link_counters(setup, shard, peer),
            };
            (peer, dialer.start())
        })
        .collect()
}

fn accept_peers<R: Runtime>(
    rt: &R,
    setup: &Setup,
    opened: &Opened,
    gate: &Rc<IncarnationGate<R::Disk>>,
    sinks: Vec<Rc<dyn PeerSink>>,
) -> Rc<Acceptor<R, IncarnationGate<R::Disk>>> {
    let counters = AcceptorCounters {
        handshakes_refused: setup.metrics.node.handshakes_refused.clone(),
        bad_frames: setup.metrics.node.bad_frames.clone(),
    };
    let own = setup.clone();
    let route = move |shard: ShardId, peer: NodeId| {
        let sink = sinks.get(usize::from(shard.0)).cloned()?;
        Some(Route { sink, counters: link_counters(&own, shard, peer) })
    };
    let identity = identity(&setup.config, opened);
    Acceptor::new(rt.clone(), identity, link_limits(), Rc::clone(gate), route, counters)
}

async fn serve_peers<R: Runtime>(
    rt: R,
    listener: Rc<<R::Wire as Wire>::Listener>,
    acceptor: Rc<Acceptor<R, IncarnationGate<R::Disk>>>,
    closing: Rc<Cell<bool>>,
) {
    loop {
        match listener.accept().await {
            Ok((reader, writer)) => rt.spawn(Rc::clone(&acceptor).serve_incoming(reader, writer)),
            Err(_) if closing.get() => return,
            Err(error) => {
                tracing::warn!("a peer could not be accepted: {error}");
                rt.sleep(Nanos::from_millis(50)).await;
            }
        }
    }
}

fn start_shard<R: Runtime>(
    rt: &R,
    setup: &Setup,
    mut opened: OpenedShard<R::Disk>,
    events: Rc<Queue<Event>>,
    links: Links,
    answers: Rc<ShardAnswers>,
    fate: &Rc<Fate>,
) -> Rc<Host<R>> {
    let shard = answers.shard;
    let tunables = &setup.config.tunables;
    let metrics = setup.metrics.shard(shard);
    let observer = StatusObserver {
        shard,
        board: Arc::clone(&setup.board),
        metrics: metrics.clone(),
        peers: links.keys().map(|&peer| (peer, setup.metrics.peer(shard, peer))).collect(),
        shown: RefCell::default(),
    };
    let host = Rc::new(Host {
        rt: rt.clone(),
        events,
        log_work: Queue::default(),
        votes: Queue::default(),
        links,
        reader: opened.reader,
        answers,
        observer: Rc::new(observer),
        watch: setup.watch.clone(),
        fate: Rc::clone(fate),
        stall: StallLimits {
            step_down: Nanos::from_millis(2 * tunables.election_timeout_ms),
            exit: Nanos::from_millis(tunables.disk_stall_exit_ms),
        },
        writes: Cell::default(),
        log_extent: Cell::default(),
        leads: Cell::default(),
    });
    let spares = Rc::new(Spares::default());
    spares.want(opened.writer.spares_wanted());
    rt.spawn(make_spares(Rc::clone(&host), Rc::clone(&spares)));
    rt.spawn(write_log(Rc::clone(&host), opened.writer, spares, metrics.clone()));
    rt.spawn(write_votes(Rc::clone(&host), opened.vote_file, metrics));
    rt.spawn(Rc::clone(&host).run(opened.shard));
    host
}

/// Tells every shard whether there is room for more jobs.
async fn watch_room<R: Runtime>(rt: R, setup: Setup, hosts: Vec<Rc<Host<R>>>, fate: Rc<Fate>) {
    let mut had_room = true;
    while !fate.is_sealed() {
        let has_room = match rt.disk().free_bytes(&setup.config.data).await {
            Ok(free) => free > setup.config.tunables.disk_reserve_bytes,
            Err(error) => {
                tracing::warn!("the free space can't be read: {error}");
                had_room
            }
        };
        setup.metrics.node.room.set(i64::from(has_room));
        if has_room != had_room {
            if has_room {
                tracing::info!("the disk has room again");
            } else {
                tracing::warn!("the disk is full: less than disk_reserve_bytes are free");
            }
            had_room = has_room;
        }
        for host in &hosts {
            host.events.push(Event::Room(has_room));
        }
        rt.sleep(ROOM_EVERY).await;
    }
}

/// Stops accepting, hands leadership over where another node can take it, lets what was promised be written.
async fn stop_gracefully<R: Runtime>(
    rt: &R,
    config: &Config,
    listeners: &Listeners<R>,
    hosts: &[Rc<Host<R>>],
    front: &Rc<Front<R>>,
    fate: &Rc<Fate>,
) {
    tracing::info!("stopping");
    let deadline = rt.now().saturating_add(Nanos::from_millis(config.tunables.stop_timeout_ms));
    listeners.close_clients();
    if config.members.len() > 1 {
        for host in hosts {
            host.events.push(Event::TransferLeadership);
        }
        while hosts.iter().any(|host| host.leads.get()) && rt.now() < deadline && !fate.is_sealed() {
            rt.sleep(STOP_POLL).await;
        }
    }
    front.finish();
    while (front.connection_count() > 0 || hosts.iter().any(|host| host.is_busy()))
        && rt.now() < deadline
        && !fate.is_sealed()
    {
        rt.sleep(STOP_POLL).await;
    }
    fate.finish();
}
