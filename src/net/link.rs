//! What the two ends of a link between nodes have in common: the events they report, their limits and their counters.

use prometheus_client::metrics::counter::Counter;

use super::handshake::{ConnectionId, HANDSHAKE_DEADLINE, Refusal};
use super::message::PeerMessage;
use crate::types::{Incarnation, Nanos, NodeId, ShardId, Start};
use crate::wal::entry::ENTRY_BYTES_MAX;

/// What happens on the links of one shard to its peers, in the order in which it happens.
#[derive(Debug)]
pub enum PeerEvent {
    /// The connection that this node dialled is up: what is pushed from now on is sent. Everything queued before is gone.
    Connected {
        node: NodeId,
        start: Start,
    },
    /// The connection that this node dialled was lost, or (`refused` changed) what came of dialling anew.
    /// `refused`: nothing listens there any more, the peer's host said so; else only silence or trouble on the way.
    Lost {
        node: NodeId,
        refused: bool,
    },
    /// A message on the newest connection that the peer dialled.
    Message {
        node: NodeId,
        message: PeerMessage,
    },
    /// The peer's connection to this node is up; an older one was reported lost before.
    IncomingUp {
        node: NodeId,
        start: Start,
        connection: ConnectionId,
    },
    IncomingLost {
        node: NodeId,
        connection: ConnectionId,
    },
    /// One side refused the other. `node` is the peer: the one that was dialled, or who it says it is. `by_peer`: it was the
    /// peer that refused this node.
    Refused {
        node: Option<NodeId>,
        reason: Refusal,
        by_peer: bool,
    },
    /// The peer is not admitted any more: this directory of it is older than what it has told.
    WentBack {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// The peer said less than it had told before, on a connection that may be an old one. Dial it: its answer will tell.
    Doubtful {
        node: NodeId,
    },
}

/// Takes the events of one shard, on the thread of the links. It must not push back: what it can't take is lost.
pub trait PeerSink {
    fn handle(&self, event: PeerEvent);
    /// Something that only the operator needs to know.
    fn report(&self, _report: LinkReport<'_>) {}
}

/// What came of dialling a peer, each time.
#[derive(Debug)]
pub struct LinkReport<'a> {
    pub at: Nanos,
    pub node: NodeId,
    pub shard: ShardId,
    /// Where it was dialled.
    pub address: &'a str,
    pub what: LinkNews<'a>,
}

#[derive(Debug)]
pub enum LinkNews<'a> {
    Connected,
    /// A connection that was up broke.
    Lost,
    /// `why`: a clause that names the peer. `is_passing`: a start or a stop of the peer brings it along.
    Failed {
        why: &'a str,
        is_passing: bool,
    },
}

const PAYLOAD_BYTES_MAX_DEFAULT: usize = 32 << 20;

const _: () = assert!(PAYLOAD_BYTES_MAX_DEFAULT >= SMALLEST_LIMIT);

/// The largest entry, and the append around it.
pub const SMALLEST_LIMIT: usize = ENTRY_BYTES_MAX + 256;

/// Limits of a link; both ends of all links of a cluster should have the same `payload_bytes_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// The longest message that is sent or read: at least `SMALLEST_LIMIT`, so that every entry can be sent alone.
    pub payload_bytes_max: usize,
    /// Messages that wait for the writer, beside the batch being written and without commands, which their sessions hold.
    pub queued_bytes_max: usize,
    /// Appends that wait with them.
    pub queued_frames_max: usize,
    /// Small messages that wait in their own lane.
    pub queued_control_frames_max: usize,
    pub handshake_deadline: Nanos,
    /// Accepted connections that have not yet been admitted; for each further one the oldest is closed.
    pub handshakes_max: usize,
    /// Between attempts to connect: the first delay, which doubles up to the last.
    pub retry_delay_min: Nanos,
    pub retry_delay_max: Nanos,
}

impl Default for LinkLimits {
    fn default() -> LinkLimits {
        LinkLimits {
            payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT,
            queued_bytes_max: 64 << 20,
            queued_frames_max: 4096,
            queued_control_frames_max: 1024,
            handshake_deadline: HANDSHAKE_DEADLINE,
            handshakes_max: 128,
            retry_delay_min: Nanos::from_millis(5),
            retry_delay_max: Nanos::from_secs(1),
        }
    }
}

/// Counters of the links to one peer for one shard, in both directions; the node registers them.
#[derive(Debug, Clone, Default)]
pub struct LinkCounters {
    pub frames_sent: Counter,
    pub bytes_sent: Counter,
    pub frames_received: Counter,
    pub bytes_received: Counter,
    /// Connections that were up and broke.
    pub connections_lost: Counter,
    /// Handshakes that either side refused.
    pub handshakes_refused: Counter,
    /// Frames and messages that were wrong, each with its connection.
    pub bad_frames: Counter,
}
