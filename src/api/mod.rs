//! What clients speak. Front doors are thin: they turn bytes into [`Operation`]s for shards and [`Answer`]s
//! into bytes, and decide nothing that must be replicated.

pub mod beanstalkd;
pub mod routing;

use bytes::Bytes;

use crate::job::view::{Counts, JobView, TubeCounts};
use crate::types::JobId;

/// What a client's connection asks of one shard. Tube names are valid (1 to 200 legal bytes) by here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put {
        tube: Bytes,
        priority: u32,
        delay_s: u32,
        ttr_s: u32,
        body: Bytes,
    },
    /// Waits for a job in `tubes` (in watch order) until it is granted or withdrawn (`Withdraw`). A poll is
    /// answered at once, `NothingReady` where there is none. With no tubes it only watches for
    /// `DeadlineSoon` among the session's reservations on this shard.
    Reserve {
        tubes: Vec<Bytes>,
        poll: bool,
    },
    /// Ends a `Reserve` of this session: that one is then answered (`Reserved` if it was too late).
    Withdraw {
        ticket: u64,
    },
    /// Undo a `Reserved` that the client will not be told of.
    Unreserve {
        job: JobId,
        epoch: u64,
    },
    ReserveJob {
        job: JobId,
    },
    Delete {
        job: JobId,
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
        tube: Bytes,
        bound: u64,
    },
    KickJob {
        job: JobId,
    },
    Pause {
        tube: Bytes,
        duration_s: u32,
    },
    Peek {
        job: JobId,
    },
    PeekReady {
        tube: Bytes,
    },
    PeekDelayed {
        tube: Bytes,
    },
    PeekBuried {
        tube: Bytes,
    },
    StatsJob {
        job: JobId,
    },
    StatsTube {
        tube: Bytes,
    },
    /// Counts of the whole shard.
    Stats,
    ListTubes,
    /// Soft state: this session uses / watches a tube now, or no longer does. Has no answer.
    Reference {
        tube: Bytes,
        change: ReferenceChange,
    },
    /// Soft state: this session has ended, used this tube if any, and watched those. Has no answer.
    Leave {
        used: Option<Bytes>,
        watched: Vec<Bytes>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceChange {
    Use,
    Unuse,
    Watch,
    Unwatch,
}

/// What a shard says to an operation. Everything in it is committed, or read linearizably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Inserted {
        job: JobId,
    },
    /// `epoch`: the reservation's fencing token.
    Reserved {
        job: JobId,
        epoch: u64,
        body: Bytes,
    },
    /// A poll found nothing, or a wait was withdrawn before it was granted.
    NothingReady,
    /// The session holds a reservation with at most a second left (and no job came).
    DeadlineSoon,
    Deleted,
    Released,
    Buried,
    Touched,
    Kicked {
        count: u64,
    },
    JobKicked,
    Paused,
    Found {
        job: JobId,
        body: Bytes,
    },
    NotFound,
    /// No room on the disks of a majority: the put was not taken.
    OutOfMemory,
    /// The put was never handed to a leader, and there is none: try another server.
    TryElsewhere,
    /// Nothing honest can be said any more: close the connection without a word.
    Hangup,
    /// `file`: the number of the segment that holds the body.
    JobStats {
        view: Box<JobView>,
        file: u64,
    },
    TubeStats {
        tube: Bytes,
        counts: Box<TubeCounts>,
        references: TubeReferences,
    },
    ShardStats(Box<ShardStats>),
    /// All but `default`: those with jobs in the order of their creation, then the others by name.
    Tubes(TubeLines),
    Undone,
}

/// Names of tubes as the lines of a YAML list. All who ask at the same time share one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TubeLines(Bytes);

impl TubeLines {
    #[must_use]
    pub fn of_text(lines: String) -> TubeLines {
        TubeLines(lines.into())
    }

    /// Clones are cheap.
    #[must_use]
    pub fn text(&self) -> &Bytes {
        &self.0
    }
}

impl<'a> FromIterator<&'a Bytes> for TubeLines {
    fn from_iter<T: IntoIterator<Item = &'a Bytes>>(names: T) -> TubeLines {
        let mut lines = String::new();
        names.into_iter().for_each(|name| beanstalkd::stats::push_item(&mut lines, name));
        TubeLines::of_text(lines)
    }
}

/// Soft state about one tube, summed over all nodes by the leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TubeReferences {
    pub using: u64,
    pub watching: u64,
    pub waiting: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardStats {
    pub counts: Counts,
    /// Tubes that have a record or a reference.
    pub tubes: u64,
    /// First and newest segment of the log, and entries written to it by this process.
    pub segment_oldest: u64,
    pub segment_newest: u64,
    pub entries_written: u64,
}
