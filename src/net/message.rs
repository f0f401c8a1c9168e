//! What the shards of two nodes say to each other. One connection carries one shard.

use bytes::Bytes;

use crate::raft::message::Message;
use crate::types::{ChainHash, Index, JobId, Nanos, SessionId, SnapshotName, Term, Times};
use crate::wal::entry::Entry;

#[derive(Debug, Clone)]
pub enum PeerMessage {
    Raft(RaftMessage),
    /// Encoded commands (`job::codec`) for the leader of `term`, in the order in which the sender's sessions gave them.
    Commands {
        term: Term,
        commands: Vec<Bytes>,
    },
    /// Register a wait with the leader of `term`: propose a RESERVE with this session and number when there may be a job.
    /// `registration` ascends with each of these messages of a node, so that what is said of an earlier one, which a
    /// broken connection may have repeated or outlived, is not taken for this one's.
    Wait {
        term: Term,
        session: SessionId,
        seq: u64,
        registration: u64,
        poll: bool,
        tubes: Bytes,
    },
    /// Ends a wait. Without `at_once` what is due by now ends first, and may yet give it a job.
    Withdraw {
        term: Term,
        session: SessionId,
        seq: u64,
        registration: u64,
        at_once: bool,
    },
    /// The wait is no longer registered and nothing proposed for it is above `applied`.
    WaitEnded {
        term: Term,
        session: SessionId,
        seq: u64,
        registration: u64,
        applied: Index,
    },
    /// Which index must be applied for a read that begins now, and what the leader softly knows.
    Read {
        term: Term,
        read: u64,
        about: ReadAbout,
    },
    ReadAnswer {
        term: Term,
        read: u64,
        index: Index,
        soft: Soft,
    },
    /// The digest of the sender's state at the last marker that it applied.
    MarkerDigest {
        term: Term,
        marker: Index,
        digest: u128,
    },
    /// References of the sender's connections to tubes: a piece of all of them, or what changed.
    References {
        term: Term,
        part: ReferencePart,
        changes: Vec<ReferenceDelta>,
    },
    /// The leader of `term` has handled references that connections left behind: the next ones may
    /// come.
    LeftTaken {
        term: Term,
    },
    Fetch(Fetch),
    Fetched(Fetched),
    /// From the leader of `term` to a node that needs entries that its log no longer has: this snapshot can be had from it.
    Offer {
        term: Term,
        snapshot: SnapshotName,
    },
    Pull(Pull),
    Pulled(Pulled),
}

/// Asks for a part of a snapshot, or for jobs that live in it. Whoever is asked keeps both for a while from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    pub snapshot: SnapshotName,
    pub part: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The file from this offset on, a multiple of [`PIECE_ALIGNMENT`].
    File { offset: u64 },
    /// The ENQs of these jobs, ascending, at least one and at most [`JOBS_PER_PULL_MAX`].
    Jobs(Vec<JobId>),
}

/// Pieces of a snapshot begin, and but for its end also end, at multiples of this.
pub const PIECE_ALIGNMENT: u64 = 4096;

/// The longest piece of a snapshot in one answer, and about how many bytes of ENQs go in one, unless a single one is longer.
pub const PULLED_BYTES_MAX: u64 = 256 * 1024;

pub const JOBS_PER_PULL_MAX: usize = 1024;

/// The answer to a [`Pull`] from this snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    pub snapshot: SnapshotName,
    pub what: Given,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// The bytes of the file from `offset` on.
    Piece { offset: u64, bytes: Bytes },
    /// The first so many of the jobs that were asked for, in that order; at least one.
    Jobs(Vec<GivenJob>),
    /// This node does not have the snapshot, or not the first of the jobs.
    Nothing,
}

/// A job as it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenJob {
    pub job: JobId,
    /// Of the entry that it came with, and that entry's wall time.
    pub index: Index,
    pub wall: Nanos,
    /// As its entry held it.
    pub enqueue: Bytes,
}

/// Asks for a copy of an entry that is damaged at the sender, and of those before it down to `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    pub first: Index,
    pub last: Index,
    /// Which entry it was. Where not even that can be read any more, only a leader can tell.
    pub chain: Option<ChainHash>,
}

impl Fetch {
    /// No entry is looked for, but a snapshot in the place of the whole log, from whoever has one.
    pub const SNAPSHOT: Fetch = Fetch { first: Index::ZERO, last: Index::ZERO, chain: None };
}

/// The answer to a [`Fetch`] of this entry.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub last: Index,
    pub chain: Option<ChainHash>,
    /// The term that the sender leads: then its log holds whatever was committed before, and what is not in it never was.
    pub leads: Option<Term>,
    pub held: Held,
}

/// What a node holds of an entry that it is asked for.
#[derive(Debug, Clone)]
pub enum Held {
    /// The entry, behind as many of those before it as one message takes; contiguous and chained.
    Entries(Vec<Entry>),
    /// It may be damaged here too. That says nothing of whether it was ever here.
    Faulty,
    /// The log here holds another entry in its place, or ends before it.
    Absent,
    /// The log here begins behind it, and this snapshot can be had in the place of all that comes before.
    Below(SnapshotName),
    /// Which entry is meant is not known, or it can't be given.
    Unknown,
}

#[derive(Debug, Clone)]
pub struct RaftMessage {
    pub message: Message,
    /// The entries of an append, in the order of the message's metadata; else empty.
    pub entries: Vec<Entry>,
    /// The sender's clocks: the leader's stamps for entries; ignored from others.
    pub times: Times,
    /// In answers: the sender's disk has room for more enqueues. From the leader: a majority has.
    pub room: bool,
    /// From the leader of the message's term: its own log is durable up to here. Nothing from others.
    pub durable: Index,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadAbout {
    State,
    Tube(Bytes),
    /// How many tubes there are.
    TubeCount,
    /// The tubes without a job that are used or watched, by name: a page of them, behind this name or from the first on.
    BareTubes {
        after: Option<Bytes>,
    },
}

/// The longest page.
pub const NAMES_PER_PAGE_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soft {
    Nothing,
    Tube {
        using: u64,
        watching: u64,
        waiting: u64,
    },
    /// Tubes that have jobs, or are used or watched.
    TubeCount(u64),
    BareTubes {
        names: Vec<Bytes>,
        is_more: bool,
    },
}

/// What a message with references is. A whole report comes in one piece or in several, and replaces what its sender reported before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferencePart {
    /// What changed.
    Changes,
    /// What connections that are gone no longer reference; to be acknowledged before more of it is
    /// sent.
    Left,
    /// A whole report in one piece.
    Whole,
    /// The first piece of several, one behind it, and the last.
    Begin,
    Middle,
    End,
}

impl ReferencePart {
    /// Of a whole report: by whether it is its first piece, and its last.
    #[must_use]
    pub fn of_report(is_first: bool, is_last: bool) -> ReferencePart {
        match (is_first, is_last) {
            (true, true) => ReferencePart::Whole,
            (true, false) => ReferencePart::Begin,
            (false, false) => ReferencePart::Middle,
            (false, true) => ReferencePart::End,
        }
    }

    /// Whether a whole report begins with it.
    #[must_use]
    pub fn begins(self) -> bool {
        matches!(self, ReferencePart::Whole | ReferencePart::Begin)
    }

    /// Whether a whole report ends with it.
    #[must_use]
    pub fn ends(self) -> bool {
        matches!(self, ReferencePart::Whole | ReferencePart::End)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceDelta {
    pub tube: Bytes,
    pub using: i64,
    pub watching: i64,
}
