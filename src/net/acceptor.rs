//! The receiving end of links: checks who dialled, then hands over what it sends. Of all connections of one node for one
//! shard only the newest is heard; what an older one still delivers is dropped.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use prometheus_client::metrics::counter::Counter;

use super::codec;
use super::fields::DecodeError;
use super::frame::FrameKind;
use super::greeting::Greeted;
use super::handshake::{
    ConnectionId, Gate, HANDSHAKE_BYTES_MAX, Hello, HelloError, Identity, Refusal, RefusalCode, Welcome, went_back,
};
use super::link::{LinkCounters, LinkLimits, PeerEvent, PeerSink};
use super::refused::RefusedPeers;
use super::stream::{Deadline, FrameReader, StreamEnd};
use crate::io::{Reader, Runtime, Wire, Writer};
use crate::types::{Incarnation, NodeId, ShardId};
use crate::wal::entry::LogIdentity;

/// Where what a peer sends for a shard goes.
pub struct Route {
    pub sink: Rc<dyn PeerSink>,
    pub counters: LinkCounters,
}

/// Counters of connections whose peer is not yet known.
#[derive(Debug, Clone, Default)]
pub struct AcceptorCounters {
    pub handshakes_refused: Counter,
    pub bad_frames: Counter,
}

/// Serves every connection that peers dialled for shards of this thread. There is one for each thread, so that one
/// place knows which connection of a node for a shard is the newest.
pub struct Acceptor<R: Runtime, G: Gate> {
    runtime: R,
    identity: Identity,
    limits: LinkLimits,
    gate: Rc<G>,
    /// None where the shard is not ready to hear of this peer.
    route: Box<dyn Fn(ShardId, NodeId) -> Option<Route>>,
    counters: AcceptorCounters,
    unadmitted: Unadmitted,
    newest: RefCell<BTreeMap<(ShardId, NodeId), Newest>>,
    refused: RefCell<RefusedPeers>,
}

/// The newest connection of one node for one shard that was ever admitted. It outlives the connection: an older one
/// that was delayed must not take its place.
struct Newest {
    incarnation: Incarnation,
    connection: ConnectionId,
    /// Shuts it down; none once it ended.
    close: Option<Box<dyn Fn()>>,
}

/// The connections whose handshake is under way, in the order in which it began: what shuts each down.
#[derive(Default)]
struct Unadmitted {
    next: Cell<u64>,
    closers: RefCell<BTreeMap<u64, Box<dyn Fn()>>>,
}

impl Unadmitted {
    /// A place for one more. Where there are too many, the oldest is closed: a peer says who it is at once, so that strangers
    /// who say nothing can keep no peer out, however many they are.
    fn take_place(&self, handshakes_max: usize, writer: &impl Writer) -> UnadmittedPlace<'_> {
        let mut closers = self.closers.borrow_mut();
        if closers.len() >= handshakes_max
            && let Some((_, close)) = closers.pop_first()
        {
            close();
        }
        let number = self.next.replace(self.next.get() + 1);
        closers.insert(number, writer.closer());
        UnadmittedPlace { unadmitted: self, number }
    }
}

/// A connection whose handshake is under way, until it is dropped.
struct UnadmittedPlace<'a> {
    unadmitted: &'a Unadmitted,
    number: u64,
}

impl Drop for UnadmittedPlace<'_> {
    fn drop(&mut self) {
        self.unadmitted.closers.borrow_mut().remove(&self.number);
    }
}

/// Why a connection ended before or after it was admitted.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("no handshake in time")]
    Late,
    #[error(transparent)]
    Stream(#[from] StreamEnd),
    #[error("a frame of kind {found:?} where {expected:?} must be")]
    Kind { expected: FrameKind, found: FrameKind },
    #[error("a message makes no sense: {0}")]
    Decode(#[from] DecodeError),
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("a newer connection took its place")]
    Superseded,
    #[error("the answer to the handshake could not be written: {0}")]
    Answer(std::io::Error),
}

impl ServeError {
    /// Bytes that no peer of ours sends, whose reader can't go on.
    fn is_bad_frame(&self) -> bool {
        matches!(self, ServeError::Stream(StreamEnd::Frame(_)) | ServeError::Kind { .. } | ServeError::Decode(_))
    }
}

/// Best effort: a peer that is gone does not need the reason.
async fn refuse(writer: &mut impl Writer, refusal: Refusal) -> ServeError {
    let _unheard = writer.write(refusal.encode().chunks).await;
    ServeError::Refused(refusal)
}

impl<R: Runtime, G: Gate> Acceptor<R, G> {
    #[must_use]
    pub fn new(
        runtime: R,
        identity: Identity,
        limits: LinkLimits,
        gate: Rc<G>,
        route: impl Fn(ShardId, NodeId) -> Option<Route> + 'static,
        counters: AcceptorCounters,
    ) -> Rc<Acceptor<R, G>> {
        let (unadmitted, newest, refused) = (Unadmitted::default(), RefCell::default(), RefCell::default());
        let route = Box::new(route);
        Rc::new(Acceptor { runtime, identity, limits, gate, route, counters, unadmitted, newest, refused })
    }

    /// Lets whoever dialled say who it is, and decides nothing about it: the shard may be another thread's. None where it
    /// said nothing of sense in time; the connection is closed then.
    pub async fn greet(
        &self,
        reader: <R::Wire as Wire>::Reader,
        mut writer: <R::Wire as Wire>::Writer,
    ) -> Option<Greeted<R::Wire>> {
        let _place = self.unadmitted.take_place(self.limits.handshakes_max, &writer);
        let from = writer.peer_host();
        let mut reader = FrameReader::new(reader, HANDSHAKE_BYTES_MAX);
        match self.read_hello(&mut reader, &mut writer).await {
            Ok(hello) => Some(Greeted { hello, reader, writer }),
            Err(error) => {
                writer.shutdown();
                self.log_unadmitted(&error, None, &from);
                None
            }
        }
    }

    /// Serves a connection for a shard of this thread to its end. Run as a task of its own.
    pub async fn serve(self: Rc<Self>, greeted: Greeted<R::Wire>) {
        let Greeted { hello, mut reader, mut writer } = greeted;
        let place = self.unadmitted.take_place(self.limits.handshakes_max, &writer);
        let from = writer.peer_host();
        let admitted = self.shake_hands(hello, &mut reader, &mut writer).await;
        drop(place);
        let (hello, route) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                writer.shutdown();
                self.log_unadmitted(&error, Some(hello.identity.node), &from);
                return;
            }
        };
        let (node, connection) = (hello.identity.node, hello.connection());
        let welcome = Welcome { identity: self.identity, standing: self.gate.standing(hello.shard) };
        let end = match writer.write(welcome.encode().chunks).await {
            Ok(()) => self.receive(&hello, &route, &mut reader).await,
            Err(error) => ServeError::Answer(error),
        };
        writer.shutdown();
        if end.is_bad_frame() {
            route.counters.bad_frames.inc();
            tracing::warn!(
                peer = %node, shard = %hello.shard, %from, %connection, error = %end, "dropped the connection of a peer"
            );
        } else {
            tracing::debug!(peer = %node, shard = %hello.shard, %connection, end = %end, "the connection of a peer ended");
        }
        // Where a newer connection took its place, its end was reported then.
        if self.is_newest(&hello) {
            self.forget_closer(&hello);
            route.sink.handle(PeerEvent::IncomingLost { node, connection });
        }
    }

    async fn read_hello(
        &self,
        reader: &mut FrameReader<impl Reader>,
        writer: &mut impl Writer,
    ) -> Result<Hello, ServeError> {
        let deadline = Deadline::start(&self.runtime, self.limits.handshake_deadline, writer);
        let frame = reader.next().await.map_err(|end| match end {
            StreamEnd::Frame(_) => ServeError::Stream(end),
            _ if deadline.is_missed() => ServeError::Late,
            _ => ServeError::Stream(end),
        })?;
        if frame.kind != FrameKind::Hello {
            return Err(ServeError::Kind { expected: FrameKind::Hello, found: frame.kind });
        }
        match Hello::decode(frame.payload) {
            Ok(hello) => Ok(hello),
            Err(error @ HelloError::Version { .. }) => {
                Err(refuse(writer, Refusal::new(RefusalCode::Protocol, error.to_string())).await)
            }
            Err(HelloError::Decode(error)) => Err(ServeError::Decode(error)),
        }
    }

    /// Checks who it is; on success the connection is the newest of its node and shard.
    async fn shake_hands(
        &self,
        hello: Hello,
        reader: &mut FrameReader<impl Reader>,
        writer: &mut impl Writer,
    ) -> Result<(Hello, Route), ServeError> {
        let deadline = Deadline::start(&self.runtime, self.limits.handshake_deadline, writer);
        match self.admit(hello, writer.closer()).await {
            Ok(admitted) => {
                // Where the gate took too long the stream is shut down by now, and reading on will say so.
                drop(deadline);
                reader.set_payload_bytes_max(self.limits.payload_bytes_max);
                Ok(admitted)
            }
            Err(refusal) => Err(refuse(writer, refusal).await),
        }
    }

    async fn admit(&self, hello: Hello, close: Box<dyn Fn()>) -> Result<(Hello, Route), Refusal> {
        hello.check(&self.identity)?;
        let node = hello.identity.node;
        let unready = || Refusal::new(RefusalCode::Unready, format!("shard {} is not ready here", hello.shard));
        let route = (self.route)(hello.shard, node).ok_or_else(unready)?;
        let admitted = match self.gate.admit(&hello.introduction(), None).await {
            Ok(()) => self.become_newest(&hello, &route, close),
            Err(refusal) => {
                match refusal.code {
                    RefusalCode::WentBack => {
                        let incarnation = hello.identity.incarnation;
                        route.sink.handle(PeerEvent::WentBack { node, incarnation });
                    }
                    RefusalCode::Superseded => route.sink.handle(PeerEvent::Doubtful { node }),
                    _ => {}
                }
                Err(refusal)
            }
        };
        if let Err(reason) = &admitted
            && reason.code != RefusalCode::Superseded
        {
            route.sink.handle(PeerEvent::Refused { node: Some(node), reason: reason.clone(), by_peer: false });
        }
        admitted.map(|()| (hello, route))
    }

    /// Puts the connection in the place of the one before it, unless that is newer.
    fn become_newest(&self, hello: &Hello, route: &Route, close: Box<dyn Fn()>) -> Result<(), Refusal> {
        let (node, connection) = (hello.identity.node, hello.connection());
        let incarnation = hello.identity.incarnation;
        let newest = Newest { incarnation, connection, close: Some(close) };
        let older = {
            let mut all = self.newest.borrow_mut();
            // Boots count anew in a new incarnation, of which the gate says which one is the node's.
            if let Some(known) = all.get(&(hello.shard, node))
                && known.incarnation == incarnation
                && known.connection >= connection
            {
                let text =
                    format!("connection {connection} is older than {}, which node {node} made", known.connection);
                return Err(Refusal::new(RefusalCode::Superseded, text));
            }
            all.insert((hello.shard, node), newest)
        };
        if let Some(Newest { connection: older, close: Some(close), .. }) = older {
            close();
            route.sink.handle(PeerEvent::IncomingLost { node, connection: older });
        }
        route.sink.handle(PeerEvent::IncomingUp { node, start: hello.identity.start(), connection });
        Ok(())
    }

    async fn receive(&self, hello: &Hello, route: &Route, reader: &mut FrameReader<impl Reader>) -> ServeError {
        let log = LogIdentity { cluster: self.identity.cluster, shard: hello.shard };
        loop {
            let frame = match reader.next().await {
                Ok(frame) => frame,
                Err(end) => return ServeError::Stream(end),
            };
            if !self.is_newest(hello) {
                return ServeError::Superseded;
            }
            if self.gate.is_shut_out(hello.identity.node) {
                return ServeError::Refused(went_back(hello.identity.node));
            }
            if frame.kind != FrameKind::Message {
                return ServeError::Kind { expected: FrameKind::Message, found: frame.kind };
            }
            route.counters.frames_received.inc();
            route.counters.bytes_received.inc_by((super::frame::HEADER_BYTES + frame.payload.len()) as u64);
            match codec::decode(frame.payload, &log) {
                Ok(message) => route.sink.handle(PeerEvent::Message { node: hello.identity.node, message }),
                Err(error) => return ServeError::Decode(error),
            }
        }
    }

    fn is_newest(&self, hello: &Hello) -> bool {
        self.newest.borrow().get(&(hello.shard, hello.identity.node)).is_some_and(|newest| {
            newest.connection == hello.connection() && newest.incarnation == hello.identity.incarnation
        })
    }

    fn forget_closer(&self, hello: &Hello) {
        if let Some(newest) = self.newest.borrow_mut().get_mut(&(hello.shard, hello.identity.node)) {
            newest.close = None;
        }
    }

    /// `node`: who it says it is.
    fn log_unadmitted(&self, error: &ServeError, node: Option<NodeId>, from: &str) {
        if let ServeError::Refused(refusal) = error {
            self.counters.handshakes_refused.inc();
            if let Some(line) = self.refused.borrow_mut().say(self.runtime.now(), node, refusal, from) {
                tracing::warn!("{line}");
            }
        } else if error.is_bad_frame() {
            self.counters.bad_frames.inc();
            tracing::warn!(%from, %error, "dropped a connection that is not of a peer");
        } else {
            tracing::debug!(%from, %error, "a connection to the peer port ended before its handshake");
        }
    }
}
