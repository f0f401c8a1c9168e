//! The sending end of a link: dials a peer for one shard, says who it is, writes what is pushed, and dials again for
//! as long as the outbox lives. It learns of a dead peer from its socket: the first attempt after a loss is made at
//! once, and what comes of it is reported.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::backoff::Backoff;
use super::fields::DecodeError;
use super::frame::FrameKind;
use super::handshake::{Gate, HANDSHAKE_BYTES_MAX, Hello, HelloError, Identity, Refusal, RefusalCode, Welcome};
use super::link::{LinkCounters, LinkLimits, LinkNews, LinkReport, PeerEvent, PeerSink};
use super::outbox::Outbox;
use super::stream::{Deadline, FrameReader, StreamEnd};
use crate::io::{Runtime, Wire, WireOptions, Writer};
use crate::types::{Nanos, NodeId, ShardId, Start};

/// A connection that was up for this long was a good one: when it is lost, the peer is dialled again at once. A peer that
/// takes connections and drops them is not dialled in a tight loop.
const STEADY: Nanos = Nanos::from_millis(100);

/// One peer, for one shard, from this node's side.
pub struct Dialer<R: Runtime, G: Gate> {
    pub runtime: R,
    /// This node.
    pub identity: Identity,
    pub peer: NodeId,
    /// `host:port`.
    pub address: String,
    pub shard: ShardId,
    pub limits: LinkLimits,
    pub gate: Rc<G>,
    pub sink: Rc<dyn PeerSink>,
    pub counters: LinkCounters,
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("connecting failed: {0}")]
    Connect(io::Error),
    #[error("no answer to the handshake in time")]
    Late,
    #[error("the handshake broke off: {0}")]
    Broken(StreamEnd),
    #[error("the handshake failed: {0}")]
    Write(io::Error),
    #[error("a handshake was answered with {0:?}")]
    Unexpected(FrameKind),
    #[error("the peer's answer makes no sense: {0}")]
    Decode(#[from] DecodeError),
    #[error("the peer refused: {0}")]
    RefusedByPeer(Refusal),
    #[error("refused the peer: {0}")]
    RefusedByUs(Refusal),
}

impl DialError {
    /// Nothing listens at the peer's address, and its host says so.
    fn is_connection_refused(&self) -> bool {
        matches!(self, DialError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    fn refusal(&self) -> Option<&Refusal> {
        match self {
            DialError::RefusedByPeer(refusal) | DialError::RefusedByUs(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// For the operator: who could not be reached where, and why.
    fn clause(&self, peer: NodeId, address: &str) -> String {
        let (text, advice) = match self {
            DialError::RefusedByPeer(refusal) => {
                (format!("node {peer} at {address} refuses this node: {refusal}"), refusal.code.advice())
            }
            DialError::RefusedByUs(refusal) => {
                (format!("this node refuses node {peer} at {address}: {refusal}"), refusal.code.advice())
            }
            DialError::Connect(error) => (format!("cannot reach node {peer} at {address}: {}", plain(error)), None),
            error => (format!("cannot reach node {peer} at {address}: {error}"), None),
        };
        advice.map_or_else(|| text.clone(), |advice| format!("{text}; {advice}"))
    }

    fn is_bad_frame(&self) -> bool {
        matches!(self, DialError::Broken(StreamEnd::Frame(_)) | DialError::Unexpected(_) | DialError::Decode(_))
    }
}

/// Why there was no connection, in the words of an operator.
fn plain(error: &io::Error) -> String {
    const LOOKUP: &str = "failed to lookup address information: ";
    let text = error.to_string();
    if let Some((_, why)) = text.split_once(LOOKUP) {
        let is_unknown = ["Name or service not known", "No address associated"].iter().any(|known| why.contains(known));
        return if is_unknown { "name not known".to_owned() } else { format!("its name cannot be looked up: {why}") };
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        io::ErrorKind::HostUnreachable => "its host cannot be reached".to_owned(),
        io::ErrorKind::NetworkUnreachable => "its network cannot be reached".to_owned(),
        _ => text,
    }
}

/// What was last said about a peer that can't be reached: only news is said again.
#[derive(Debug, Default)]
struct Said {
    /// Of `Lost`: whether it was refused. None while the peer is believed to be up, or nothing is known.
    lost: Option<bool>,
    refusal: Option<RefusalCode>,
}

/// A connection whose handshake is done.
struct Admitted<W: Wire> {
    start: Start,
    reader: FrameReader<W::Reader>,
    writer: W::Writer,
}

impl<R: Runtime, G: Gate> Dialer<R, G> {
    /// Starts the link's task; it ends when the outbox is closed.
    #[must_use]
    pub fn start(self) -> Outbox {
        let outbox = Outbox::new(self.limits);
        self.runtime.clone().spawn(self.run(outbox.clone()));
        outbox
    }

    async fn run(self, outbox: Outbox) {
        let mut backoff = Backoff::new(&self.limits);
        let mut said = Said::default();
        let mut attempt = 0;
        while !outbox.is_closed() {
            attempt += 1;
            match self.connect(attempt).await {
                Ok(admitted) => {
                    said = Said::default();
                    let up_since = self.runtime.now();
                    self.carry(admitted, &outbox).await;
                    if outbox.is_closed() {
                        return;
                    }
                    self.counters.connections_lost.inc();
                    self.report(LinkNews::Lost);
                    self.report_lost(false, &mut said);
                    if self.runtime.now().saturating_sub(up_since) >= STEADY {
                        backoff.reset();
                        continue;
                    }
                }
                Err(error) => self.report_failure(&error, &mut said, &mut backoff),
            }
            let delay = backoff.take_delay(self.runtime.random());
            self.wait_to_dial(delay, &outbox).await;
        }
    }

    async fn connect(&self, attempt: u64) -> Result<Admitted<R::Wire>, DialError> {
        let connecting = self.runtime.wire().connect(&self.address, WireOptions::Peer);
        let (reader, mut writer) = connecting.await.map_err(DialError::Connect)?;
        let deadline = Deadline::start(&self.runtime, self.limits.handshake_deadline, &writer);
        let mut reader = FrameReader::new(reader, HANDSHAKE_BYTES_MAX);
        let admitted = self.introduce(attempt, &mut reader, &mut writer).await;
        match admitted {
            Ok(start) if !deadline.is_missed() => Ok(Admitted { start, reader, writer }),
            Ok(_) => Err(DialError::Late),
            Err(error) => {
                writer.shutdown();
                let is_late = deadline.is_missed() && matches!(error, DialError::Broken(_) | DialError::Write(_));
                Err(if is_late { DialError::Late } else { error })
            }
        }
    }

    async fn introduce(
        &self,
        attempt: u64,
        reader: &mut FrameReader<<R::Wire as Wire>::Reader>,
        writer: &mut <R::Wire as Wire>::Writer,
    ) -> Result<Start, DialError> {
        // Before anything is sent: what the peer says from then on must not fall behind it.
        let before = self.gate.witnessed(self.peer, self.shard);
        let standing = self.gate.standing(self.shard);
        let hello = Hello { identity: self.identity, to: self.peer, shard: self.shard, attempt, standing };
        writer.write(hello.encode().chunks).await.map_err(DialError::Write)?;
        let answer = reader.next().await.map_err(DialError::Broken)?;
        match answer.kind {
            FrameKind::Welcome => {
                let welcome = Welcome::decode(answer.payload).map_err(|error| match error {
                    HelloError::Version { .. } => {
                        DialError::RefusedByUs(Refusal::new(RefusalCode::Protocol, error.to_string()))
                    }
                    HelloError::Decode(error) => DialError::Decode(error),
                })?;
                welcome.check(&self.identity, self.peer).map_err(DialError::RefusedByUs)?;
                let peer = welcome.introduction(self.shard);
                if let Err(refusal) = self.gate.admit(&peer, Some(&before)).await {
                    if refusal.code == RefusalCode::WentBack {
                        let incarnation = peer.incarnation;
                        self.sink.handle(PeerEvent::WentBack { node: self.peer, incarnation });
                    }
                    return Err(DialError::RefusedByUs(refusal));
                }
                Ok(peer.start)
            }
            FrameKind::Refused => Err(DialError::RefusedByPeer(Refusal::decode(answer.payload)?)),
            other => Err(DialError::Unexpected(other)),
        }
    }

    /// Writes what is pushed until the connection is lost, or the outbox is closed and empty.
    async fn carry(&self, admitted: Admitted<R::Wire>, outbox: &Outbox) {
        let Admitted { start, reader, mut writer } = admitted;
        let connection = outbox.begin_connection();
        self.report(LinkNews::Connected);
        self.sink.handle(PeerEvent::Connected { node: self.peer, start });
        self.runtime.spawn(self.watch(reader, outbox.clone(), connection, writer.closer()));
        while let Some(batch) = outbox.next_batch().await {
            let (frames, bytes) = (batch.frames, batch.bytes as u64);
            if let Err(error) = writer.write(batch.chunks).await {
                tracing::debug!(peer = %self.peer, shard = %self.shard, %error, "writing to a peer failed");
                break;
            }
            self.counters.frames_sent.inc_by(frames);
            self.counters.bytes_sent.inc_by(bytes);
        }
        writer.shutdown();
        outbox.end_connection(connection);
    }

    fn report(&self, what: LinkNews<'_>) {
        let (at, address) = (self.runtime.now(), self.address.as_str());
        self.sink.report(LinkReport { at, node: self.peer, shard: self.shard, address, what });
    }

    fn report_lost(&self, refused: bool, said: &mut Said) {
        if said.lost != Some(refused) {
            said.lost = Some(refused);
            self.sink.handle(PeerEvent::Lost { node: self.peer, refused });
        }
    }

    fn report_failure(&self, error: &DialError, said: &mut Said, backoff: &mut Backoff) {
        tracing::debug!(peer = %self.peer, shard = %self.shard, address = self.address, %error, "dialling a peer failed");
        let is_passing = error.refusal().is_some_and(|refusal| refusal.code.is_passing());
        self.report(LinkNews::Failed { why: &error.clause(self.peer, &self.address), is_passing });
        if error.is_bad_frame() {
            self.counters.bad_frames.inc();
        }
        if let Some(refusal) = error.refusal() {
            self.counters.handshakes_refused.inc();
            if !refusal.code.is_passing() {
                backoff.skip_to_longest();
            }
            if said.refusal != Some(refusal.code) {
                said.refusal = Some(refusal.code);
                let by_peer = matches!(error, DialError::RefusedByPeer(_));
                self.sink.handle(PeerEvent::Refused { node: Some(self.peer), reason: refusal.clone(), by_peer });
            }
        }
        self.report_lost(error.is_connection_refused(), said);
    }

    async fn wait_to_dial(&self, delay: Nanos, outbox: &Outbox) {
        let mut sleep = pin!(self.runtime.sleep(delay));
        poll_fn(|context| {
            if outbox.poll_nudged(context).is_ready() {
                return Poll::Ready(());
            }
            sleep.as_mut().poll(context)
        })
        .await;
    }

    /// Waits for the end of a connection on which the peer has nothing more to say, and makes a write that hangs on it
    /// end.
    fn watch(
        &self,
        mut reader: FrameReader<<R::Wire as Wire>::Reader>,
        outbox: Outbox,
        connection: u64,
        close: Box<dyn Fn()>,
    ) -> impl Future<Output = ()> + use<R, G> {
        let (peer, shard, bad_frames) = (self.peer, self.shard, self.counters.bad_frames.clone());
        async move {
            match reader.next().await {
                Err(StreamEnd::Frame(error)) => {
                    bad_frames.inc();
                    tracing::warn!(%peer, %shard, %error, "dropped a connection to a peer");
                }
                Err(end) => tracing::debug!(%peer, %shard, %end, "a connection to a peer ended"),
                Ok(frame) => {
                    bad_frames.inc();
                    tracing::warn!(%peer, %shard, kind = ?frame.kind, "dropped a connection to a peer that has no word");
                }
            }
            outbox.end_connection(connection);
            close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clause(error: DialError) -> String {
        error.clause(NodeId(2), "two:24122")
    }

    #[test]
    fn why_a_peer_cannot_be_reached_is_said_in_plain_words() {
        let said = |error| clause(DialError::Connect(error));
        let lookup = |why: &str| said(io::Error::other(format!("failed to lookup address information: {why}")));
        let kind = |kind: io::ErrorKind| said(kind.into());
        assert_eq!(lookup("Name or service not known"), "cannot reach node 2 at two:24122: name not known");
        let later = lookup("Temporary failure in name resolution");
        assert!(later.ends_with("its name cannot be looked up: Temporary failure in name resolution"), "{later}");
        assert_eq!(
            said(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
            "cannot reach node 2 at two:24122: connection refused"
        );
        assert_eq!(kind(io::ErrorKind::TimedOut), "cannot reach node 2 at two:24122: no answer");
    }

    #[test]
    fn a_refusal_says_who_refuses_whom_and_what_to_do() {
        let refusal = || Refusal::new(RefusalCode::Cluster, "node 2 belongs to another cluster than node 1");
        let by_peer = clause(DialError::RefusedByPeer(refusal()));
        assert!(by_peer.starts_with("node 2 at two:24122 refuses this node: node 2 belongs to another"), "{by_peer}");
        assert!(by_peer.contains("check `members`"), "{by_peer}");
        let by_us = clause(DialError::RefusedByUs(refusal()));
        assert!(by_us.starts_with("this node refuses node 2 at two:24122: node 2 belongs"), "{by_us}");
    }
}
