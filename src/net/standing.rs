//! Whether a peer still stands where it once said that it stands. A data directory that was put back from an older image
//! has forgotten votes and acknowledgements, and cannot know it; whoever was told of them can.
//!
//! A peer is never judged by indexes of different terms: a follower of a later leader may rightly hold less. Nor by what
//! it says unasked: a Hello may have been on its way while a later start of the same node was admitted. Only an answer to
//! something that this node sent after it was told of the promise is proof.

use thiserror::Error;

use super::message::RaftMessage;
use crate::mutation::{self, Mutation};
use crate::raft::message::Body;
use crate::types::{BootEpoch, Incarnation, Index, NodeId, ShardId, Start, Term};

/// How far a node's promises in one shard reach. Said of oneself: the durable term, and up to where the log is durable.
/// Remembered of a peer: the latest term in which it answered, and up to where it said in that term that its log is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Standing {
    pub term: Term,
    pub index: Index,
}

/// Who a peer says it is, and where it says that it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub start: Start,
    pub shard: ShardId,
    pub standing: Standing,
}

/// What a node was told by a peer up to some moment: its newest start, durably known; and where it stood in one shard, as
/// far as this process remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Witnessed {
    pub start: Option<Start>,
    pub standing: Standing,
}

/// How it shows that a node's directory is older than what the node has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Evidence {
    #[error("it says that this is its start {said}, and start {known} of it was admitted")]
    LowerBoot { said: BootEpoch, known: BootEpoch },
    #[error("two different starts of it say that they are its start {boot}")]
    OtherStart { boot: BootEpoch },
    #[error("it is in term {said}, and has answered in term {known}")]
    LowerTerm { said: Term, known: Term },
    #[error("its log ends at entry {said} in term {term}, and it has acknowledged entry {known} in that term")]
    LowerIndex { term: Term, said: Index, known: Index },
}

/// What shows that the peer has forgotten something of what was witnessed.
#[must_use]
pub fn judge(witnessed: &Witnessed, peer: &Introduction) -> Option<Evidence> {
    let evidence = if let Some(known) = witnessed.start.filter(|known| peer.start.boot < known.boot) {
        Evidence::LowerBoot { said: peer.start.boot, known: known.boot }
    } else if witnessed.start.is_some_and(|known| peer.start.boot == known.boot && peer.start.id != known.id) {
        Evidence::OtherStart { boot: peer.start.boot }
    } else if peer.standing.term < witnessed.standing.term {
        Evidence::LowerTerm { said: peer.standing.term, known: witnessed.standing.term }
    } else if peer.standing < witnessed.standing {
        let (Standing { term, index: said }, known) = (peer.standing, witnessed.standing.index);
        Evidence::LowerIndex { term, said, known }
    } else {
        return None;
    };
    (!mutation::is_on(evidence.dropped_by())).then_some(evidence)
}

impl Evidence {
    /// The bug that makes a node blind to it.
    fn dropped_by(self) -> Mutation {
        match self {
            Evidence::LowerBoot { .. } => Mutation::LowerBootAccepted,
            Evidence::OtherStart { .. } => Mutation::OtherStartAccepted,
            Evidence::LowerTerm { .. } => Mutation::LowerTermAccepted,
            Evidence::LowerIndex { .. } => Mutation::LowerIndexAccepted,
        }
    }
}

/// What the sender of a message promised with it. A question whether one would be elected, and a yes to it, name a term
/// that nobody may ever be in.
#[must_use]
pub fn promise(raft: &RaftMessage) -> Option<Standing> {
    let index = match raft.message.body {
        Body::PreVoteRequest { .. } | Body::PreVoteReply { granted: true } => return None,
        Body::AppendAccepted { matched, .. } => matched,
        Body::Append { .. } => raft.durable,
        Body::PreVoteReply { .. }
        | Body::VoteRequest { .. }
        | Body::VoteReply { .. }
        | Body::AppendRejected { .. }
        | Body::TimeoutNow => Index::ZERO,
    };
    Some(Standing { term: raft.message.term, index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::Message;
    use crate::types::{LogPosition, StartId, Times};

    fn start(boot: u64, id: u64) -> Start {
        Start { boot: BootEpoch(boot), id: StartId(id) }
    }

    fn standing(term: u64, index: u64) -> Standing {
        Standing { term: Term(term), index: Index(index) }
    }

    fn peer(start: Start, standing: Standing) -> Introduction {
        Introduction { node: NodeId(3), incarnation: Incarnation(3), start, shard: ShardId(0), standing }
    }

    #[test]
    fn each_kind_of_going_back_is_told_by_its_own_name() {
        let witnessed = Witnessed { start: Some(start(5, 50)), standing: standing(7, 40) };
        let judged = |start, standing| judge(&witnessed, &peer(start, standing));
        assert_eq!(judged(start(5, 50), standing(7, 40)), None);
        assert_eq!(judged(start(6, 1), standing(7, 41)), None);
        let (said, known) = (BootEpoch(4), BootEpoch(5));
        assert_eq!(judged(start(4, 40), standing(9, 99)), Some(Evidence::LowerBoot { said, known }));
        assert_eq!(judged(start(5, 51), standing(9, 99)), Some(Evidence::OtherStart { boot: known }));
        assert_eq!(judged(start(6, 1), standing(6, 99)), Some(Evidence::LowerTerm { said: Term(6), known: Term(7) }));
        let lower = Evidence::LowerIndex { term: Term(7), said: Index(39), known: Index(40) };
        assert_eq!(judged(start(6, 1), standing(7, 39)), Some(lower));
    }

    /// A later leader may have cut off what an earlier one was told is durable.
    #[test]
    fn indexes_of_different_terms_are_not_compared() {
        let witnessed = Witnessed { start: Some(start(5, 50)), standing: standing(7, 40) };
        assert_eq!(judge(&witnessed, &peer(start(6, 1), standing(8, 3))), None);
    }

    #[test]
    fn of_a_stranger_nothing_is_held_against_it() {
        assert_eq!(judge(&Witnessed::default(), &peer(start(1, 1), Standing::default())), None);
    }

    #[test]
    fn what_only_asks_for_a_term_promises_none() {
        let of = |body| {
            let message = Message { term: Term(9), body };
            promise(&RaftMessage { message, entries: vec![], times: Times::default(), room: true, durable: Index(8) })
        };
        let origin = LogPosition::ORIGIN;
        assert_eq!(of(Body::PreVoteRequest { last: origin }), None);
        assert_eq!(of(Body::PreVoteReply { granted: true }), None);
        assert_eq!(of(Body::PreVoteReply { granted: false }), Some(standing(9, 0)));
        assert_eq!(of(Body::VoteReply { granted: true }), Some(standing(9, 0)));
        assert_eq!(of(Body::AppendAccepted { matched: Index(4), round: 1 }), Some(standing(9, 4)));
        let append = Body::Append { prev: origin, entries: vec![], commit: Index(9), round: 1 };
        assert_eq!(of(append), Some(standing(9, 8)));
    }
}
