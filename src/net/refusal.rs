//! A refusal: why two nodes can't work together, as a number for programs and a sentence for the operator. Its layout is
//! the same in every version of the protocol.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use bytes::{BufMut, Bytes};

use super::fields::{DecodeError, Fields, PutFields};
use super::frame::{EncodedFrame, FrameBuilder, FrameKind};
use super::handshake::short;
use crate::types::NodeId;

/// The longest reason given with a refusal.
const REASON_BYTES_MAX: usize = 1024;

/// The answer of a node that does not: an operator reads the text, a program the code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub code: RefusalCode,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalCode {
    /// A reason of a later version, which only its text explains.
    Other = 0,
    /// Another version of the protocol.
    Protocol = 1,
    Cluster = 2,
    Members = 3,
    Shards = 4,
    Format = 5,
    /// The address leads to another node than the one that was meant, or to the node itself.
    WrongNode = 6,
    /// Not a member of the cluster.
    Stranger = 7,
    /// A known node with another incarnation: it lost its disk.
    Incarnation = 8,
    /// No such shard here.
    Shard = 9,
    /// A newer connection of the same node for the same shard exists.
    Superseded = 10,
    /// Not now: the node starts or stops.
    Unready = 11,
    /// A known node whose directory is older than what it has told.
    WentBack = 12,
}

impl RefusalCode {
    const ALL: [RefusalCode; 13] = [
        RefusalCode::Other,
        RefusalCode::Protocol,
        RefusalCode::Cluster,
        RefusalCode::Members,
        RefusalCode::Shards,
        RefusalCode::Format,
        RefusalCode::WrongNode,
        RefusalCode::Stranger,
        RefusalCode::Incarnation,
        RefusalCode::Shard,
        RefusalCode::Superseded,
        RefusalCode::Unready,
        RefusalCode::WentBack,
    ];

    /// One lower-case word, for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RefusalCode::Other => "other",
            RefusalCode::Protocol => "protocol",
            RefusalCode::Cluster => "cluster",
            RefusalCode::Members => "members",
            RefusalCode::Shards => "shards",
            RefusalCode::Format => "format",
            RefusalCode::WrongNode => "wrong-node",
            RefusalCode::Stranger => "stranger",
            RefusalCode::Incarnation => "incarnation",
            RefusalCode::Shard => "shard",
            RefusalCode::Superseded => "superseded",
            RefusalCode::Unready => "unready",
            RefusalCode::WentBack => "went-back",
        }
    }
}

impl RefusalCode {
    /// Whether a start or a stop of the peer brings it along.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(self, RefusalCode::Unready | RefusalCode::Superseded)
    }

    /// What an operator can do about it, where the text does not say so.
    #[must_use]
    pub fn advice(self) -> Option<&'static str> {
        match self {
            RefusalCode::Cluster => Some(
                "check `members` of both nodes, and which data directory each has; members of one cluster are \
                 prepared with the same `cluster_id`",
            ),
            RefusalCode::Members | RefusalCode::Shards => {
                Some("check `members` and `shards` of both nodes, and which data directory each has")
            }
            RefusalCode::Superseded => Some(
                "if that goes on, two processes run as this node with the same data, as a cloned machine does: stop one",
            ),
            RefusalCode::Protocol | RefusalCode::Format => Some("run the same version on both"),
            _ => None,
        }
    }
}

impl Refusal {
    #[must_use]
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into() }
    }
}

impl Refusal {
    #[must_use]
    pub fn encode(&self) -> EncodedFrame {
        let mut frame = FrameBuilder::new();
        let fields = frame.fields();
        fields.put_u8(self.code as u8);
        let mut text = self.text.as_bytes();
        text = text.get(..REASON_BYTES_MAX).unwrap_or(text);
        fields.put_length(text.len());
        fields.put_slice(text);
        short(frame, FrameKind::Refused)
    }

    /// The text is a stranger's: it comes out short and without control characters, fit for a log line.
    pub fn decode(payload: Bytes) -> Result<Refusal, DecodeError> {
        let mut fields = Fields::new(payload);
        let value = fields.u8()?;
        let code = RefusalCode::ALL.into_iter().find(|&code| code as u8 == value).unwrap_or(RefusalCode::Other);
        let length = fields.u32()? as usize;
        let mut text = fields.bytes(length)?;
        fields.end()?;
        text.truncate(REASON_BYTES_MAX);
        let text = String::from_utf8_lossy(&text);
        let is_clean = |c: &char| !c.is_control() && *c != char::REPLACEMENT_CHARACTER;
        Ok(Refusal { code, text: text.chars().filter(is_clean).collect() })
    }
}

/// The refusal of a node that forgot what it promised, for its directory was put back from an older image.
#[must_use]
pub fn went_back(node: NodeId) -> Refusal {
    Refusal::new(
        RefusalCode::WentBack,
        format!(
            "node {node} came back with an older copy of its data directory, as from a backup or an image of its host, and has \
             forgotten what it acknowledged and voted; it may not take part again: replace this member under a new number"
        ),
    )
}

/// The refusal of what was said before a later start of the same node was admitted, or is not proven yet.
#[must_use]
pub fn outdated(node: NodeId) -> Refusal {
    Refusal::new(RefusalCode::Superseded, format!("node {node} has told this node more than that before"))
}

/// The usual refusal of a gate.
#[must_use]
pub fn lost_its_disk(node: NodeId) -> Refusal {
    Refusal::new(
        RefusalCode::Incarnation,
        format!(
            "node {node} lost its disk: its directory was prepared anew and is not the one its peers know; start it on its \
             former directory, or replace this member"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::frame::HEADER_BYTES;
    use super::*;

    fn payload(frame: &EncodedFrame) -> Bytes {
        Bytes::from(frame.chunks.concat()).slice(HEADER_BYTES..)
    }

    #[test]
    fn every_reason_is_understood() {
        for code in RefusalCode::ALL {
            let refusal = Refusal::new(code, code.name());
            assert_eq!(Refusal::decode(payload(&refusal.encode())).expect("whole"), refusal);
        }
    }

    #[test]
    fn a_reason_of_a_later_version_is_still_read_to_the_operator() {
        let mut frame = FrameBuilder::new();
        frame.fields().extend_from_slice(&[200, 5, 0, 0, 0]);
        frame.fields().extend_from_slice(b"later");
        let refusal = Refusal::decode(payload(&short(frame, FrameKind::Refused))).expect("whole");
        assert_eq!(refusal, Refusal::new(RefusalCode::Other, "later"));
    }

    #[test]
    fn a_long_or_dirty_reason_comes_out_short_and_clean() {
        let refusal = Refusal::new(RefusalCode::Unready, "é\n".repeat(2000));
        let decoded = Refusal::decode(payload(&refusal.encode())).expect("whole");
        assert!(decoded.text.len() <= REASON_BYTES_MAX && decoded.text.chars().all(|c| c == 'é'));
    }
}
