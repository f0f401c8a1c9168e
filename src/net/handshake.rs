//! Who is at the other end of a connection. Nothing else passes before both sides have told each other cluster, node,
//! shard, members, format, incarnation, start and durable standing, and found that they belong together; until then a peer
//! gets four KiB and five seconds.
//!
//! ```text
//!   the node that dials                     the node that was dialled
//!      Hello   ------------------------------>  check, ask the gate
//!      check, ask the gate  <------------------ Welcome      or Refused { reason }
//!      messages ----------------------------->
//! ```
//!
//! Hello and Welcome begin with the protocol version. Another version is refused before anything behind it is read, and
//! the layouts of `Refused` and of these first two bytes are the same in every version: two nodes of different versions
//! can always tell each other so.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::fmt;
use std::future::Future;

use bytes::{BufMut, Bytes};
use xxhash_rust::xxh3::Xxh3;

use super::fields::{DecodeError, Fields};
use super::frame::{EncodedFrame, FrameBuilder, FrameKind};
pub use super::refusal::{Refusal, RefusalCode, lost_its_disk, outdated, went_back};
use super::standing::{Introduction, Standing, Witnessed};
use crate::types::{BootEpoch, ClusterId, Incarnation, Nanos, NodeId, ShardId, Start, StartId};

/// Version of everything said after the frame header.
pub const PROTOCOL_VERSION: u16 = 1;

/// The longest payload that is read of a peer that has not yet been admitted.
pub const HANDSHAKE_BYTES_MAX: usize = 4096;

/// How long a peer may take until it is admitted or has admitted us.
pub const HANDSHAKE_DEADLINE: Nanos = Nanos::from_secs(5);

/// Which nodes a peer believes to be the cluster's first members: a hash of their ids. Not of their addresses: the same
/// host may be named differently in two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembersDigest(pub u64);

impl MembersDigest {
    /// `members` ascend.
    #[must_use]
    pub fn of(members: &[NodeId]) -> MembersDigest {
        assert!(members.is_sorted(), "the same members in another order are the same members");
        let mut hash = Xxh3::new();
        for node in members {
            hash.update(&[node.0]);
        }
        MembersDigest(hash.digest())
    }
}

/// What a node says of itself, and what must be equal on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub members: MembersDigest,
    /// How many shards the cluster has.
    pub shards: u16,
    /// Format of entries and of everything else that nodes exchange as stored.
    pub format: u16,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub boot: BootEpoch,
    pub start_id: StartId,
}

impl Identity {
    /// The present start of the node.
    #[must_use]
    pub fn start(&self) -> Start {
        Start { boot: self.boot, id: self.start_id }
    }

    fn introduce(&self, shard: ShardId, standing: Standing) -> Introduction {
        Introduction { node: self.node, incarnation: self.incarnation, start: self.start(), shard, standing }
    }
}

/// Which of two connections between the same two nodes, for the same shard, is the newer one. Ascends with every
/// attempt to connect, and over restarts of the node that dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub boot: BootEpoch,
    pub attempt: u64,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.boot, self.attempt)
    }
}

/// The first thing said on a connection, by the node that dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    pub identity: Identity,
    /// The node that was meant: an address may lead to another one.
    pub to: NodeId,
    pub shard: ShardId,
    /// Ascends with each attempt within this boot.
    pub attempt: u64,
    /// Where the node stands in the shard, durably.
    pub standing: Standing,
}

/// The answer of a node that takes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    pub identity: Identity,
    /// Where the node stands in the shard of the connection, durably, when it answers.
    pub standing: Standing,
}

/// What the node knows beyond its own identity: who may be a peer, with which incarnation, and what peers have told.
pub trait Gate: 'static {
    /// Where this node itself stands in the shard, durably. Never less than what any message that left says.
    fn standing(&self, shard: ShardId) -> Standing;

    /// What the peer has told up to now; to be taken before it is asked.
    fn witnessed(&self, node: NodeId, shard: ShardId) -> Witnessed;

    /// Admits this start of this node, or says why not. A start that is newer than any before is durably known before
    /// this returns `Ok`, and so is, before it returns a refusal for it, that the node went back. Called for both
    /// directions: an impostor gets neither votes nor entries.
    ///
    /// `before`: what had been witnessed when the peer was asked, whose answer this is; none where it speaks unasked.
    fn admit(&self, peer: &Introduction, before: Option<&Witnessed>) -> impl Future<Output = Result<(), Refusal>>;

    /// Whether the node was found to have gone back since it was admitted.
    fn is_shut_out(&self, node: NodeId) -> bool;
}

impl Hello {
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        ConnectionId { boot: self.identity.boot, attempt: self.attempt }
    }

    #[must_use]
    pub fn introduction(&self) -> Introduction {
        self.identity.introduce(self.shard, self.standing)
    }

    /// What `own` has against this peer, but for what only the gate knows.
    pub fn check(&self, own: &Identity) -> Result<(), Refusal> {
        check_same(own, &self.identity)?;
        if self.to != own.node {
            let text = format!("this is node {}, not node {}: check the members' addresses", own.node, self.to);
            return Err(Refusal::new(RefusalCode::WrongNode, text));
        }
        if self.identity.node == own.node {
            let text = format!("this is node {} already: two nodes run with the same number", own.node);
            return Err(Refusal::new(RefusalCode::WrongNode, text));
        }
        if self.shard.0 >= own.shards {
            let text = format!("shard {} of a cluster of {} shards", self.shard, own.shards);
            return Err(Refusal::new(RefusalCode::Shard, text));
        }
        Ok(())
    }

    #[must_use]
    pub fn encode(&self) -> EncodedFrame {
        let mut frame = FrameBuilder::new();
        let fields = frame.fields();
        put_identity(&self.identity, fields);
        fields.put_u8(self.to.0);
        fields.put_u16_le(self.shard.0);
        fields.put_u64_le(self.attempt);
        put_standing(self.standing, fields);
        short(frame, FrameKind::Hello)
    }

    pub fn decode(payload: Bytes) -> Result<Hello, HelloError> {
        let mut fields = Fields::new(payload);
        let identity = take_identity(&mut fields)?;
        let (to, shard, attempt) = (fields.node()?, ShardId(fields.u16()?), fields.u64()?);
        let hello = Hello { identity, to, shard, attempt, standing: take_standing(&mut fields)? };
        fields.end()?;
        Ok(hello)
    }
}

impl Welcome {
    #[must_use]
    pub fn introduction(&self, shard: ShardId) -> Introduction {
        self.identity.introduce(shard, self.standing)
    }

    /// What `own`, that dialled `to`, has against the node that answered, but for what only the gate knows.
    pub fn check(&self, own: &Identity, to: NodeId) -> Result<(), Refusal> {
        check_same(own, &self.identity)?;
        if self.identity.node != to {
            let text =
                format!("the address of node {to} leads to node {}: check the members' addresses", self.identity.node);
            return Err(Refusal::new(RefusalCode::WrongNode, text));
        }
        Ok(())
    }

    #[must_use]
    pub fn encode(&self) -> EncodedFrame {
        let mut frame = FrameBuilder::new();
        put_identity(&self.identity, frame.fields());
        put_standing(self.standing, frame.fields());
        short(frame, FrameKind::Welcome)
    }

    pub fn decode(payload: Bytes) -> Result<Welcome, HelloError> {
        let mut fields = Fields::new(payload);
        let identity = take_identity(&mut fields)?;
        let welcome = Welcome { identity, standing: take_standing(&mut fields)? };
        fields.end()?;
        Ok(welcome)
    }
}

/// Why a Hello or a Welcome was not understood.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("the peer speaks version {found} of the protocol, this node version {PROTOCOL_VERSION}")]
    Version { found: u16 },
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Both sides must agree on these.
fn check_same(own: &Identity, peer: &Identity) -> Result<(), Refusal> {
    let (us, them) = (own.node, peer.node);
    let (code, text) = if peer.format != own.format {
        (RefusalCode::Format, format!("node {them} stores format {}, node {us} format {}", peer.format, own.format))
    } else if peer.cluster != own.cluster {
        let (theirs, ours) = (peer.cluster, own.cluster);
        (RefusalCode::Cluster, format!("node {them} belongs to cluster {theirs}, node {us} to cluster {ours}"))
    } else if peer.shards != own.shards {
        (RefusalCode::Shards, format!("node {them} has {} shards, node {us} has {}", peer.shards, own.shards))
    } else if peer.members != own.members {
        (RefusalCode::Members, format!("node {them} was prepared with other members than node {us}"))
    } else {
        return Ok(());
    };
    Err(Refusal::new(code, text))
}

fn put_identity(identity: &Identity, fields: &mut Vec<u8>) {
    fields.put_u16_le(PROTOCOL_VERSION);
    fields.put_u128_le(identity.cluster.0);
    fields.put_u64_le(identity.members.0);
    fields.put_u16_le(identity.shards);
    fields.put_u16_le(identity.format);
    fields.put_u8(identity.node.0);
    fields.put_u128_le(identity.incarnation.0);
    fields.put_u64_le(identity.boot.0);
    fields.put_u64_le(identity.start_id.0);
}

fn put_standing(standing: Standing, fields: &mut Vec<u8>) {
    fields.put_u64_le(standing.term.0);
    fields.put_u64_le(standing.index.0);
}

fn take_standing(fields: &mut Fields) -> Result<Standing, DecodeError> {
    Ok(Standing { term: fields.term()?, index: fields.index()? })
}

fn take_identity(fields: &mut Fields) -> Result<Identity, HelloError> {
    let found = fields.u16()?;
    if found != PROTOCOL_VERSION {
        return Err(HelloError::Version { found });
    }
    Ok(Identity {
        cluster: ClusterId(fields.u128()?),
        members: MembersDigest(fields.u64()?),
        shards: fields.u16()?,
        format: fields.u16()?,
        node: fields.node()?,
        incarnation: Incarnation(fields.u128()?),
        boot: BootEpoch(fields.u64()?),
        start_id: StartId(fields.u64()?),
    })
}

pub(super) fn short(frame: FrameBuilder, kind: FrameKind) -> EncodedFrame {
    frame.finish(kind, HANDSHAKE_BYTES_MAX).expect("fixed fields and a bounded text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(node: u8) -> Identity {
        Identity {
            cluster: ClusterId(77),
            members: MembersDigest::of(&[NodeId(1), NodeId(2), NodeId(3)]),
            shards: 2,
            format: 1,
            node: NodeId(node),
            incarnation: Incarnation(u128::from(node) << 100),
            boot: BootEpoch(5),
            start_id: StartId(55),
        }
    }

    fn standing() -> Standing {
        Standing { term: crate::types::Term(6), index: crate::types::Index(66) }
    }

    fn hello() -> Hello {
        Hello { identity: identity(1), to: NodeId(2), shard: ShardId(1), attempt: 9, standing: standing() }
    }

    fn payload(frame: &EncodedFrame) -> Bytes {
        let bytes = frame.chunks.concat();
        Bytes::copy_from_slice(&bytes[super::super::frame::HEADER_BYTES..])
    }

    #[test]
    fn what_is_said_is_understood() {
        assert_eq!(Hello::decode(payload(&hello().encode())).expect("whole"), hello());
        let welcome = Welcome { identity: identity(2), standing: standing() };
        assert_eq!(Welcome::decode(payload(&welcome.encode())).expect("whole"), welcome);
    }

    #[test]
    fn a_shortened_or_lengthened_hello_is_not_understood() {
        let whole = payload(&hello().encode());
        for length in 0..whole.len() {
            assert!(Hello::decode(whole.slice(..length)).is_err());
        }
        assert!(Hello::decode(Bytes::from([&whole[..], b"x"].concat())).is_err());
    }

    #[test]
    fn another_version_of_the_protocol_is_refused_before_anything_else_is_read() {
        let found = PROTOCOL_VERSION + 1;
        let error = Hello::decode(Bytes::copy_from_slice(&found.to_le_bytes())).expect_err("another version");
        assert!(matches!(error, HelloError::Version { found: 2 }));
    }

    #[test]
    fn each_difference_is_refused_by_its_own_reason() {
        let own = identity(2);
        let refused = |change: &dyn Fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            hello.check(&own).expect_err("must not pass").code
        };
        assert_eq!(hello().check(&own), Ok(()));
        assert_eq!(refused(&|hello| hello.identity.cluster = ClusterId(78)), RefusalCode::Cluster);
        assert_eq!(refused(&|hello| hello.identity.members = MembersDigest(0)), RefusalCode::Members);
        assert_eq!(refused(&|hello| hello.identity.shards = 3), RefusalCode::Shards);
        assert_eq!(refused(&|hello| hello.identity.format = 2), RefusalCode::Format);
        assert_eq!(refused(&|hello| hello.to = NodeId(3)), RefusalCode::WrongNode);
        assert_eq!(refused(&|hello| hello.identity.node = NodeId(2)), RefusalCode::WrongNode);
        assert_eq!(refused(&|hello| hello.shard = ShardId(2)), RefusalCode::Shard);
    }

    #[test]
    fn an_answer_of_another_node_than_the_one_dialled_is_refused() {
        let welcome = Welcome { identity: identity(3), standing: standing() };
        assert_eq!(welcome.check(&identity(1), NodeId(3)), Ok(()));
        assert_eq!(welcome.check(&identity(1), NodeId(2)).expect_err("node 3").code, RefusalCode::WrongNode);
    }

    #[test]
    fn a_later_boot_is_newer_whatever_its_attempts() {
        let id = |boot, attempt| ConnectionId { boot: BootEpoch(boot), attempt };
        assert!(id(1, 9) < id(2, 1) && id(2, 1) < id(2, 2));
    }
}
