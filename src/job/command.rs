//! Commands, as the log holds them, and the outcomes of applying them. Their byte format lives in
//! `codec.rs`; a command that was decoded is valid in form, whatever the state says to it.

use crate::types::{BodyHash, BootEpoch, Incarnation, Index, JobId, NodeId, SessionId, Term, Times};

/// A command together with the session and number that make it happen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered<'a> {
    pub origin: Origin,
    pub command: Command<'a>,
}

/// Where a command comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A client's: applied if `seq` is the session's last number plus one, skipped if it is not.
    Session { session: SessionId, seq: u64 },
    /// The leader's own (TICK, TUBE_DROP) or a node's (NODE_BOOT, NODE_WENT_BACK): happens once by its content.
    System,
}

/// The class of a job: everything that its ENQ says about it but its body. Immutable; a waiting job that
/// does not differ from its ENQ is one bit in the bitmap of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class<'a> {
    pub tube: &'a [u8],
    pub priority: u32,
    pub ttr_s: u32,
    pub delay_s: u32,
}

impl Class<'static> {
    /// The class that no job has (no tube may be called so): the hint for an id of which the log holds no ENQ. The
    /// command is then answered `NotFound` instead of `Again`.
    pub const OF_NO_JOB: Class<'static> = Class { tube: b"-", priority: 0, ttr_s: 0, delay_s: 0 };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// ENQ. Gets the entry's next job id whether it happens or not.
    Enqueue {
        class: Class<'a>,
        body_hash: BodyHash,
        body: &'a [u8],
    },
    /// RESERVE the job with the smallest (priority, id) in tubes that are not paused. One that finds nothing
    /// changes nothing and uses up no number.
    Reserve {
        tubes: TubeList<'a>,
    },
    /// Reserve this very job if it is ready, delayed or buried. `class`: the hint, see `Outcome::Again`.
    ReserveJob {
        job: JobId,
        class: Option<Class<'a>>,
    },
    /// Undo a reservation that nobody took delivery of: no counter moves, same priority.
    Unreserve {
        job: JobId,
        epoch: u64,
    },
    /// ACK: delete a job that is reserved by this session, ready, delayed or buried.
    Delete {
        job: JobId,
        class: Option<Class<'a>>,
    },
    Release {
        job: JobId,
        priority: u32,
        delay_s: u32,
    },
    Bury {
        job: JobId,
        priority: u32,
    },
    Touch {
        job: JobId,
    },
    Kick {
        tube: &'a [u8],
        bound: u64,
    },
    KickJob {
        job: JobId,
    },
    /// `referenced`: some connection uses or watches the tube, so it exists even without a record.
    Pause {
        tube: &'a [u8],
        duration_s: u32,
        referenced: bool,
    },
    /// First command of a session, number 0.
    SessionOpen,
    /// Last command of a session: its reservations go back to ready, no counter moves.
    SessionClosed,
    /// Closes every session of an older boot of this node.
    NodeBoot {
        node: NodeId,
        boot: BootEpoch,
    },
    /// A node's directory was seen to be older than what the node had told: nobody admits this incarnation any more.
    NodeWentBack {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// Carries the leader's clock; due transitions take place.
    Tick,
    /// Forget the tube's record if it has no jobs.
    TubeDrop {
        tube: &'a [u8],
    },
}

/// Tube names, in watch order, still encoded: one length byte, then the name, for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TubeList<'a> {
    /// Checked when decoded: lengths sum up, no name is empty, none longer than 200 bytes.
    pub encoded: &'a [u8],
}

/// What applying one command of a session came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Enqueued {
        job: JobId,
    },
    /// `epoch` is the fencing token of this reservation; `ttr_s` how long it lasts from the entry's lease time.
    Reserved {
        job: JobId,
        epoch: u64,
        ttr_s: u32,
    },
    /// A RESERVE found no job: the number is still free.
    NothingReady,
    Deleted,
    Released,
    Buried,
    Touched,
    Kicked {
        count: u64,
    },
    JobKicked,
    Paused,
    Unreserved,
    Opened,
    Closed,
    /// No such job, or not one that this session may touch.
    NotFound,
    /// No class was given for a job that may wait as a bit: look it up in the log and send the command afresh,
    /// under the next number (this one is used up). A class that was given is trusted: the command of a job
    /// that is no bit of it is answered `NotFound`.
    Again,
    /// The command's session is not open (closed by a later boot of its node).
    SessionUnknown,
}

/// An outcome and whose it is; commands that were skipped (a repeat, a gap) have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub session: SessionId,
    pub seq: u64,
    pub outcome: Outcome,
}

/// One log entry as the state machine reads it.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub index: Index,
    pub term: Term,
    pub times: Times,
    /// The id of the first ENQ in `commands`; the k-th has `first_job + k`.
    pub first_job: JobId,
    /// Encoded commands, end to end (`codec::Commands`).
    pub commands: &'a [u8],
}
