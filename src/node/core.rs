//! One core thread of a node, from opening the directory to its end. Generic over the world it runs in: the real one and
//! the simulated one run this same code.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};

use super::acquaintance::{Ledger, NodeGate};
use super::answer_rooms::AnswerRooms;
use super::fate::Fate;
use super::front::{Front, Mailboxes, ShardAnswers};
use super::host::{BODY_READS_MAX, Event, Host, Life, TurnWatch};
use super::intake::Intake;
use super::listeners::{Listeners, tell_where};
use super::living::Lives;
use super::observer::StatusObserver;
use super::opening::{Readers, open_node, open_shard, readers};
use super::peering::{EventSink, Links, PeerAcceptor, accept_peers, dial_peers, serve_peers};
use super::place::{Crossing, Home, Place};
use super::queue::Queue;
pub use super::stopping::StopRequest;
use super::stopping::Stopping;
use crate::api::beanstalkd::front_door::FrontDoor;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::threads::THREAD_PATIENCE;
use crate::io::{Disk, Runtime, Wire};
use crate::metrics::Metrics;
use crate::net::link::PeerSink;
use crate::shard::write_watch::{StallLimits, WriteWatch};
use crate::status::{Board, needed_bytes};
use crate::types::Nanos;
use crate::wal::directory::{self, snapshots_dir};

/// How often the free space is looked at.
const ROOM_EVERY: Nanos = Nanos::from_secs(1);

/// How much longer than one write the first core thread may take to open the directory, which is a few small
/// reads and writes: the others wait for it.
const OPENING_PATIENCE: Nanos = Nanos::from_secs(THREAD_PATIENCE.as_secs());

/// What a node needs beside its world.
#[derive(Clone)]
pub struct Setup {
    pub config: Config,
    pub metrics: Arc<Metrics>,
    pub board: Arc<Board>,
    pub door: Arc<FrontDoor>,
    pub watch: Option<Rc<dyn TurnWatch>>,
}

/// Runs a node of one core thread until it is asked to stop or must.
///
/// # Errors
/// The reason, where the end was not asked for.
pub async fn run_node<R: Runtime>(rt: R, setup: Setup, stop: Rc<StopRequest>) -> Result<(), Fatal> {
    run_core(rt, setup, Rc::new(Place::alone()), stop).await
}

/// Runs one core thread of a node until it is asked to stop or must, or another thread has ended the node.
///
/// # Errors
/// The reason, where the end was not asked for and began here.
pub async fn run_core<R: Runtime>(
    rt: R,
    setup: Setup,
    place: Rc<Place<R::Wire>>,
    stop: Rc<StopRequest>,
) -> Result<(), Fatal> {
    // Addresses first: one that is taken is told before a long recovery, not after.
    let listeners = Listeners::bind(&rt, &setup.config, &place)?;
    if place.is_first() {
        tell_where(&rt, &setup.config, &listeners);
    }
    let fate = Rc::new(Fate::default());
    let started = tokio::select! {
        biased;
        () = place.together.ended() => return Ok(()),
        started = start_shards(&rt, &setup, &place, &fate) => started?,
    };
    let Started { hosts, mailboxes, acceptor } = started;
    let front = Rc::new(Front::new(rt.clone(), &setup, Rc::clone(&place), hosts.clone(), Rc::clone(&mailboxes)));
    if place.cores() > 1 {
        rt.spawn(take_in(rt.clone(), Rc::clone(&place), hosts.clone(), mailboxes, Rc::clone(&acceptor)));
        rt.spawn(share_fate(Rc::clone(&place), Rc::clone(&fate)));
    }
    if let Some(listener) = &listeners.peers {
        let closing = Rc::clone(&listeners.closing);
        rt.spawn(serve_peers(rt.clone(), Rc::clone(listener), acceptor, Rc::clone(&place), closing));
    }
    for listener in &listeners.clients {
        rt.spawn(Rc::clone(&front).accept(Rc::clone(listener), Rc::clone(&listeners.closing)));
    }
    rt.spawn(watch_room(rt.clone(), setup.clone(), place.is_first(), hosts.clone(), Rc::clone(&fate)));
    tokio::select! {
        biased;
        () = fate.wait() => {}
        () = stop.wait() => {
            let (config, listeners, hosts) = (&setup.config, &listeners, &hosts[..]);
            Stopping { rt: &rt, config, place: &place, listeners, hosts, front: &front, fate: &fate }.stop().await;
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

/// The shards of one thread, running.
struct Started<R: Runtime> {
    /// In order.
    hosts: Vec<Rc<Host<R>>>,
    mailboxes: Rc<Mailboxes>,
    acceptor: Rc<PeerAcceptor<R>>,
}

async fn start_shards<R: Runtime>(
    rt: &R,
    setup: &Setup,
    place: &Rc<Place<R::Wire>>,
    fate: &Rc<Fate>,
) -> Result<Started<R>, Fatal> {
    let begun = rt.now();
    let opened = if place.is_first() {
        place.together.share_opened(open_node(rt, &setup.config).await?)
    } else {
        let tunables = &setup.config.tunables;
        let limit = Nanos::from_millis(tunables.disk_stall_exit_ms).saturating_add(OPENING_PATIENCE);
        tokio::select! {
            biased;
            opened = place.together.opened() => opened,
            () = rt.sleep(limit) => {
                let what = format!("the first core thread has not opened the data directory after {} ms", limit.0 / 1_000_000);
                return Err(Fatal::ThreadLate { what });
            }
        }
    };
    let identity = &opened.directory.identity;
    setup.board.identify(identity.cluster_id.0, identity.incarnation.0);
    let (incarnation, acquaintances) = (identity.incarnation, Arc::clone(&opened.acquaintances));
    let gate = Rc::new(NodeGate::new(rt.disk().clone(), &setup.config, incarnation, acquaintances));
    let mailboxes = Rc::new(Mailboxes::default());
    let mut hosts = Vec::new();
    let mut sinks: Vec<Rc<dyn PeerSink>> = Vec::new();
    for shard in place.own_shards(setup.config.shards) {
        let opening = open_shard(rt, setup, &opened.directory, shard, None).await?;
        let events = Rc::new(Intake::default());
        let ledger = gate.ledger(shard);
        ledger.set_own(opening.standing());
        let sink = EventSink {
            events: Rc::clone(&events),
            ledger: Rc::clone(&ledger),
            fate: Rc::clone(fate),
            board: Arc::clone(&setup.board),
            contacts: Arc::clone(&place.together.contacts),
        };
        let sink: Rc<dyn PeerSink> = Rc::new(sink);
        let links = dial_peers(rt, setup, &opened, shard, &gate, &sink);
        sinks.push(sink);
        let answers = ShardAnswers { shard, mailboxes: Rc::clone(&mailboxes), place: Rc::clone(place) };
        let readers = readers(rt, &setup.config, &opened.directory, shard);
        let ways = Ways { events, links, gate: Rc::clone(&gate), ledger };
        let host = make_host(rt, setup, readers, ways, answers, fate);
        let (directory, setup) = (opened.directory.clone(), setup.clone());
        let lives = Lives { host: Rc::clone(&host), setup, directory, shard, begun };
        rt.spawn(lives.live(opening));
        hosts.push(host);
    }
    let acceptor = accept_peers(rt, setup, &opened, place, &gate, sinks);
    Ok(Started { hosts, mailboxes, acceptor })
}

/// Passes on what other threads send.
async fn take_in<R: Runtime>(
    rt: R,
    place: Rc<Place<R::Wire>>,
    hosts: Vec<Rc<Host<R>>>,
    mailboxes: Rc<Mailboxes>,
    acceptor: Rc<PeerAcceptor<R>>,
) {
    loop {
        place.inbox.wait().await;
        for crossing in place.inbox.take() {
            match crossing {
                Crossing::Operation { shard, connection, ticket, operation } => match place.find(shard) {
                    Home::Here(nth) => hosts[nth].events.push(Event::Operation { connection, ticket, operation }),
                    Home::There(_) => unreachable!("an operation crosses to the home of its shard"),
                },
                Crossing::Closed(connection) => {
                    for host in &hosts {
                        host.events.push(Event::Closed(connection));
                    }
                }
                Crossing::Answer { shard, connection, ticket, answer } => {
                    mailboxes.deliver(shard, connection, ticket, answer);
                }
                Crossing::Peer(detached) => rt.spawn(Rc::clone(&acceptor).serve(detached.attach(rt.wire()))),
            }
        }
    }
}

/// The end of the node on another thread is its end on this one.
async fn share_fate<W: Wire>(place: Rc<Place<W>>, fate: Rc<Fate>) {
    place.together.ended().await;
    fate.finish();
}

/// How a shard and its peers reach each other.
struct Ways<D: Disk> {
    events: Rc<Intake>,
    links: Links,
    gate: Rc<NodeGate<D>>,
    ledger: Rc<Ledger>,
}

fn make_host<R: Runtime>(
    rt: &R,
    setup: &Setup,
    readers: Readers<R::Disk>,
    ways: Ways<R::Disk>,
    answers: ShardAnswers<R::Wire>,
    fate: &Rc<Fate>,
) -> Rc<Host<R>> {
    let Ways { events, links, gate, ledger } = ways;
    let shard = answers.shard;
    let tunables = &setup.config.tunables;
    let metrics = setup.metrics.shard(shard);
    let observer = StatusObserver {
        node: setup.config.node,
        shard,
        board: Arc::clone(&setup.board),
        contacts: Arc::clone(&answers.place.together.contacts),
        metrics,
        peers: links.keys().map(|&peer| (peer, setup.metrics.peer(shard, peer))).collect(),
        shown: RefCell::default(),
        longest: Cell::default(),
    };
    Rc::new(Host {
        rt: rt.clone(),
        events,
        log_work: Queue::default(),
        votes: Queue::default(),
        to_snapshot: Queue::default(),
        last_snapshot: Rc::default(),
        install: Cell::default(),
        to_keep: Queue::default(),
        wanted: Queue::default(),
        pulled: Queue::default(),
        is_pulling: Cell::new(false),
        body_reads: Semaphore::new(BODY_READS_MAX),
        answer_rooms: AnswerRooms::new(Arc::clone(&setup.door.answers), Nanos::from_millis(tunables.output_stall_ms)),
        staged: RefCell::default(),
        giving: RefCell::default(),
        snapshots: snapshots_dir(&setup.config.data, shard),
        life: Life::default(),
        links,
        gate,
        ledger,
        reader: readers.log,
        stores: readers.stores,
        answers: Rc::new(answers),
        observer: Rc::new(observer),
        watch: setup.watch.clone(),
        fate: Rc::clone(fate),
        writes: RefCell::new(WriteWatch::new(StallLimits {
            step_down: Nanos::from_millis(2 * tunables.election_timeout_ms),
            exit: Nanos::from_millis(tunables.disk_stall_exit_ms),
        })),
        writing: Notify::new(),
        log_lacks_room: Cell::default(),
        write_times: RefCell::default(),
        log_extent: Cell::default(),
        census: Cell::default(),
        earlier_census: Cell::default(),
        cold_files: RefCell::default(),
        damaged_snapshots: RefCell::default(),
        leads: Cell::default(),
        is_marking: Cell::default(),
        committed: Cell::default(),
        pinned: RefCell::default(),
    })
}

/// What all core threads together hold of clients' bodies and answers, for whoever reads the metrics.
fn show_bodies(setup: &Setup) {
    let (counts, metrics) = (setup.door.counts(), &setup.metrics.node);
    metrics.body_bytes.set(crate::metrics::gauge_value(counts.body_bytes));
    metrics.refused_no_memory.inc_by(counts.puts_refused - metrics.refused_no_memory.get());
    metrics.output_bytes.set(crate::metrics::gauge_value(counts.output_bytes));
    metrics.answers_waited.inc_by(counts.answers_waited - metrics.answers_waited.get());
    metrics.answers_given_up.inc_by(counts.answers_given_up - metrics.answers_given_up.get());
    metrics.connections_stalled.inc_by(counts.stalled - metrics.connections_stalled.get());
}

/// Tells every shard of the thread whether there is room for more jobs. `tells`: this thread tells the operator, too, and what
/// memory bodies take.
async fn watch_room<R: Runtime>(rt: R, setup: Setup, tells: bool, hosts: Vec<Rc<Host<R>>>, fate: Rc<Fate>) {
    let (mut had_room, mut holds_room) = (true, !tells);
    let (data, reserve) = (&setup.config.data, setup.config.tunables.disk_reserve_bytes);
    while !fate.is_sealed() {
        let (mut has_room, mut free, mut needed) = (had_room, 0, 0);
        match rt.disk().free_bytes(data).await {
            Ok(found) => {
                let log_needs = hosts.iter().filter_map(|host| host.log_lacks_room.get()).max().unwrap_or(0);
                (free, needed) = (found, needed_bytes(found, reserve, log_needs));
                has_room = needed == 0;
                setup.board.note_free(free);
            }
            Err(error) => tracing::warn!("the free space can't be read: {error}"),
        }
        if tells {
            setup.metrics.node.room.set(i64::from(has_room));
            setup.metrics.node.disk_free_bytes.set(crate::metrics::gauge_value(free));
            show_bodies(&setup);
        }
        match (had_room, has_room) {
            (false, true) if tells => tracing::info!("the disk has room again: {free} bytes are free"),
            (true, false) if tells => {
                tracing::warn!(
                    "the disk of {} is full: {free} bytes are free, {needed} are needed to take new jobs \
                     (disk_reserve_bytes is {reserve}); everything else goes on",
                    data.display()
                );
            }
            _ => {}
        }
        had_room = has_room;
        // On a full disk nobody else is to have what the start needed.
        if !holds_room {
            holds_room = directory::hold_room(rt.disk(), data).await.is_ok();
        }
        for host in &hosts {
            host.events.push(Event::Room(has_room));
        }
        rt.sleep(ROOM_EVERY).await;
    }
}
