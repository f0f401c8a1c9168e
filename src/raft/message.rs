//! What Raft peers say to each other, and what Raft asks of the room around it. Plain data: bodies of
//! entries never pass through here, only their metadata; the shard attaches the bytes on the way out.

use crate::types::{ChainHash, Index, LogPosition, NodeId, Term};

/// What consensus needs to know of an entry. The bytes stay with the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryMeta {
    pub position: LogPosition,
    pub chain: ChainHash,
    /// Length of the entry's shared part, as it goes over the wire; flow control counts these.
    pub bytes: u32,
    /// Whether the entry changes the membership.
    pub membership: bool,
}

/// Term and vote: what must be durable before an answer that relies on it leaves (Raft 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Vote {
    pub term: Term,
    pub voted_for: Option<NodeId>,
}

/// One message between two members of a shard. Who sent it is known from the connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender's term; for a pre-vote request and its grant, the term that the candidate would have.
    pub term: Term,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// Would you vote for me in `Message::term`? Nothing is changed by asking (Raft thesis 9.6).
    PreVoteRequest {
        last: LogPosition,
    },
    PreVoteReply {
        granted: bool,
    },
    /// `transfer` waives leader stickiness: the leader itself asked for this election (thesis 4.2.3).
    VoteRequest {
        last: LogPosition,
        transfer: bool,
    },
    VoteReply {
        granted: bool,
    },
    /// Entries right after `prev`; without entries a heartbeat or a probe. `round` ascends with every append
    /// a leader sends in its term, so that an acknowledgement proves leadership at a unique moment (D3).
    Append {
        prev: LogPosition,
        entries: Vec<EntryMeta>,
        commit: Index,
        round: u64,
    },
    /// The follower's log matches the leader's and is durable up to `matched`.
    AppendAccepted {
        matched: Index,
        round: u64,
    },
    /// The follower has no entry `prev`. `hint` is the last position at or before `prev.index` where the
    /// logs could agree: the follower's own last entry whose term is at most `prev.term`.
    AppendRejected {
        prev: LogPosition,
        hint: LogPosition,
        round: u64,
    },
    /// Start an election at once: the leader hands over to you (thesis 3.10).
    TimeoutNow,
}

/// When an effect may take place, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// At once: also before the sender's own write is durable.
    Now,
    /// When everything up to this token is durable in the log here. The term is that in which the append was
    /// made: an overwritten append that completes late does not satisfy a later token (R2).
    Durable(Token),
    /// When this vote (or a later one) is durable here.
    Voted(Vote),
}

/// Names one state of the durable log: all entries up to `index`, as appended in `term`.
/// Ordered by term, then index; a completion of an earlier term says nothing about a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token {
    pub term: Term,
    pub index: Index,
}

/// What Raft wants done. Taken with `Raft::poll_effect` in the order in which it must be begun.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make term and vote durable, then call `handle_vote_saved`. Never behind an append.
    SaveVote(Vote),
    /// Drop every entry above `after` (lower the durable mark first, R1), then store `entries`, whose bytes
    /// the shard holds; when all is durable, call `handle_appended(token)`.
    Append {
        truncate_after: Option<Index>,
        entries: Vec<EntryMeta>,
        token: Token,
    },
    Send {
        to: NodeId,
        message: Message,
        when: When,
    },
    /// Everything up to here is committed and may be applied.
    Commit(Index),
    /// This node leads `term` from now on: propose a no-op at once (Raft 5.4.2, 8).
    Lead(Term),
    /// This node follows (or seeks an election); `leader` is the leader of `term`, once one is known.
    Follow {
        term: Term,
        leader: Option<NodeId>,
    },
    /// The read with this number may be answered from a state applied up to `index` (thesis 6.4).
    ReadReady {
        read: u64,
        index: Index,
    },
    /// The read can't be confirmed: this node no longer leads.
    ReadLost {
        read: u64,
    },
    /// An invariant that only a fault outside Raft can break is broken: stop the node.
    Stop(StopReason),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Two entries with the same (index, term) and different chain hashes.
    ChainConflict { position: LogPosition, ours: ChainHash, theirs: ChainHash },
    /// A leader asks to overwrite what is committed here.
    CommittedConflict { position: LogPosition, commit: Index },
    /// Two nodes lead the same term: one of them forgot a vote, or runs twice.
    TwoLeaders { term: Term, leaders: [NodeId; 2] },
}
