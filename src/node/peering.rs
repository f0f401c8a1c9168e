//! The node's links to its peers: who may be one, who dials and who is dialled, and how what happens reaches the shard.
//!
//! Every thread dials for its own shards. The first thread accepts for all; a connection for a shard of another thread is
//! handed over as soon as its Hello says so, and everything else happens there.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::acquaintance::{Ledger, NodeGate};
use super::contacts::{Contacts, Line};
use super::core::Setup;
use super::fate::Fate;
use super::host::Event;
use super::intake::Intake;
use super::place::{Crossing, Home, Place};
use super::together::OpenedNode;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::{Listener, Runtime, Wire};
use crate::net::acceptor::{Acceptor, AcceptorCounters, Route};
use crate::net::dialer::Dialer;
use crate::net::handshake::{Identity, MembersDigest, RefusalCode};
use crate::net::link::{LinkCounters, LinkLimits, LinkNews, LinkReport, PeerEvent, PeerSink};
use crate::net::message::PeerMessage;
use crate::net::outbox::Outbox;
use crate::net::standing::promise;
use crate::status::Board;
use crate::types::{Nanos, NodeId, ShardId};
use crate::wal::directory::Opened;
use crate::wal::format::FORMAT;

/// After an `accept` that failed (no file descriptors left, say) the next one waits this long.
const ACCEPT_RETRY: Nanos = Nanos::from_millis(50);

/// Events of one shard's links go into its queue.
pub struct EventSink {
    pub events: Rc<Intake>,
    pub ledger: Rc<Ledger>,
    pub fate: Rc<Fate>,
    pub board: Arc<Board>,
    pub contacts: Arc<Contacts>,
}

impl EventSink {
    /// Ends the node where nothing can come of it: each peer may say so.
    fn end_refused(&self, why: String) {
        if !self.fate.is_sealed() {
            self.fate.seal(Fatal::Refused { why });
        }
    }
}

/// Whether two nodes that refuse each other for this go on doing so until an operator changes one of them. An address
/// that leads to another node may be a name that is about to change.
fn is_lasting(code: RefusalCode) -> bool {
    match code {
        RefusalCode::Protocol
        | RefusalCode::Cluster
        | RefusalCode::Members
        | RefusalCode::Shards
        | RefusalCode::Format
        | RefusalCode::Stranger
        | RefusalCode::Incarnation
        | RefusalCode::WentBack => true,
        RefusalCode::Other
        | RefusalCode::WrongNode
        | RefusalCode::Shard
        | RefusalCode::Superseded
        | RefusalCode::Unready => false,
    }
}

impl PeerSink for EventSink {
    fn report(&self, report: LinkReport<'_>) {
        let LinkReport { at, node, shard, address, what } = report;
        let line = match what {
            LinkNews::Connected => self.contacts.connected(at, node, shard, address),
            LinkNews::Lost => self.contacts.lost(at, node, shard, address),
            LinkNews::Failed { why, is_passing } => self.contacts.failed(at, node, shard, why, is_passing),
        };
        match line {
            Some(Line::Info(text)) => tracing::info!("{text}"),
            Some(Line::Warn(text)) => tracing::warn!("{text}"),
            None => {}
        }
    }

    fn handle(&self, event: PeerEvent) {
        self.events.push(match event {
            PeerEvent::Connected { node, start } => {
                self.board.note_admitted(node.0);
                Event::PeerUp { peer: node, start }
            }
            PeerEvent::Lost { node, refused } => Event::PeerLost { peer: node, refused },
            PeerEvent::Message { node, message } => {
                if let PeerMessage::Raft(raft) = &message
                    && let Some(standing) = promise(raft)
                {
                    self.ledger.remember(node, standing);
                }
                Event::Message { from: node, message }
            }
            PeerEvent::IncomingLost { node, .. } => Event::IncomingLost(node),
            PeerEvent::IncomingUp { node, start, .. } => Event::IncomingUp { peer: node, start },
            PeerEvent::WentBack { node, incarnation } => Event::WentBack { node, incarnation },
            PeerEvent::Doubtful { node } => Event::Doubtful(node),
            // This node forgot what it promised under this name. One peer that knows is enough: others may not have met the
            // former node, and would count a vote that it gave twice.
            PeerEvent::Refused { reason, by_peer: true, .. }
                if matches!(reason.code, RefusalCode::Incarnation | RefusalCode::WentBack) =>
            {
                self.end_refused(reason.text);
                return;
            }
            PeerEvent::Refused { node: Some(node), reason, by_peer: true } => {
                if let Some(why) = self.board.note_refused(node.0, &reason.text, is_lasting(reason.code)) {
                    self.end_refused(why);
                }
                return;
            }
            // The link has told the operator; the shard has no use for it.
            PeerEvent::Refused { .. } => return,
        });
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
        start_id: opened.start_id,
    }
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

/// By peer.
pub type Links = BTreeMap<NodeId, Outbox>;

/// Starts the links of one shard of this thread.
pub fn dial_peers<R: Runtime>(
    rt: &R,
    setup: &Setup,
    opened: &OpenedNode,
    shard: ShardId,
    gate: &Rc<NodeGate<R::Disk>>,
    sink: &Rc<dyn PeerSink>,
) -> Links {
    let peers = setup.config.members.iter().filter(|(node, _)| **node != setup.config.node);
    peers
        .map(|(&peer, address)| {
            let dialer = Dialer {
                runtime: rt.clone(),
                identity: identity(&setup.config, &opened.directory),
                peer,
                address: address.as_str().to_owned(),
                shard,
                limits: LinkLimits::default(),
                gate: Rc::clone(gate),
                sink: Rc::clone(sink),
                counters: link_counters(setup, shard, peer),
            };
            (peer, dialer.start())
        })
        .collect()
}

/// Takes the connections that peers dialled for the shards of this thread; `sinks` are theirs, in order.
pub fn accept_peers<R: Runtime>(
    rt: &R,
    setup: &Setup,
    opened: &OpenedNode,
    place: &Rc<Place<R::Wire>>,
    gate: &Rc<NodeGate<R::Disk>>,
    sinks: Vec<Rc<dyn PeerSink>>,
) -> Rc<PeerAcceptor<R>> {
    let counters = AcceptorCounters {
        handshakes_refused: setup.metrics.node.handshakes_refused.clone(),
        bad_frames: setup.metrics.node.bad_frames.clone(),
    };
    let (own, place) = (setup.clone(), Rc::clone(place));
    let route = move |shard: ShardId, peer: NodeId| match place.find(shard) {
        Home::Here(nth) => Some(Route { sink: sinks.get(nth).cloned()?, counters: link_counters(&own, shard, peer) }),
        Home::There(_) => None,
    };
    let identity = identity(&setup.config, &opened.directory);
    Acceptor::new(rt.clone(), identity, LinkLimits::default(), Rc::clone(gate), route, counters)
}

pub type PeerAcceptor<R> = Acceptor<R, NodeGate<<R as Runtime>::Disk>>;

/// Accepts peers for the shards of all threads until the listener is closed.
pub async fn serve_peers<R: Runtime>(
    rt: R,
    listener: Rc<<R::Wire as Wire>::Listener>,
    acceptor: Rc<PeerAcceptor<R>>,
    place: Rc<Place<R::Wire>>,
    closing: Rc<Cell<bool>>,
) {
    // What lasts is said once.
    let mut told = None;
    loop {
        match listener.accept().await {
            Ok((reader, writer)) => {
                told = None;
                rt.spawn(welcome_or_hand_over(Rc::clone(&acceptor), Rc::clone(&place), reader, writer));
            }
            Err(_) if closing.get() => return,
            Err(error) => {
                if told.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!("peers cannot be accepted, it is tried again and again: {error}");
                }
                rt.sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn welcome_or_hand_over<R: Runtime>(
    acceptor: Rc<PeerAcceptor<R>>,
    place: Rc<Place<R::Wire>>,
    reader: <R::Wire as Wire>::Reader,
    writer: <R::Wire as Wire>::Writer,
) {
    let Some(greeted) = acceptor.greet(reader, writer).await else { return };
    let shard = greeted.shard();
    match place.find(shard) {
        Home::Here(_) => acceptor.serve(greeted).await,
        Home::There(lane) => match greeted.detach() {
            Ok(detached) => lane.push(Crossing::Peer(Box::new(detached))),
            Err(error) => tracing::warn!(%shard, %error, "the connection of a peer could not be handed over"),
        },
    }
}
