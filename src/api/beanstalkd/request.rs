//! What a client asks, once its bytes have been understood. A [`Request`] is valid in form, whatever the shards say
//! to it.

use bytes::Bytes;

use super::reply::Refusal;

/// The longest job body that a server can be configured to take: 16 MiB.
pub const BODY_BYTES_MAX_LIMIT: u32 = 16 << 20;

/// The longest job body that a server takes unless told otherwise, as in the original.
pub const BODY_BYTES_MAX_DEFAULT: u32 = 65_535;

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `ttr_s` is at least 1.
    Put {
        priority: u32,
        delay_s: u32,
        ttr_s: u32,
        body: Bytes,
    },
    /// A put whose body was not followed by CRLF. It makes its client a producer, and is refused.
    PutUnterminated,
    /// Waits for at most `timeout_s`, or without end.
    Reserve {
        timeout_s: Option<u32>,
    },
    ReserveJob {
        id: u64,
    },
    Delete {
        id: u64,
    },
    Release {
        id: u64,
        priority: u32,
        delay_s: u32,
    },
    Bury {
        id: u64,
        priority: u32,
    },
    Touch {
        id: u64,
    },
    Kick {
        bound: u32,
    },
    KickJob {
        id: u64,
    },
    PauseTube {
        tube: Bytes,
        duration_s: u32,
    },
    Peek {
        id: u64,
    },
    PeekReady,
    PeekDelayed,
    PeekBuried,
    Use {
        tube: Bytes,
    },
    Watch {
        tube: Bytes,
    },
    Ignore {
        tube: Bytes,
    },
    ListTubes,
    ListTubeUsed,
    ListTubesWatched,
    Stats,
    StatsJob {
        id: u64,
    },
    StatsTube {
        tube: Bytes,
    },
    Quit,
    /// Not a command, or a malformed one: refused without any effect.
    Refused(Refusal),
}

impl Request {
    /// Whether this may be under way beside others of its kind. Puts are, and what is done to one job by its id: each is one
    /// command of its shard, which carries out those of a connection in their order. So are requests that touch nothing but the
    /// connection's own state. What reads, or gives out a job, sees all that came before it, and so comes alone.
    #[must_use]
    pub fn overlaps(&self) -> bool {
        if self.changed_job().is_some() {
            return true;
        }
        matches!(
            self,
            Request::Put { .. }
                | Request::PutUnterminated
                | Request::Use { .. }
                | Request::Watch { .. }
                | Request::Ignore { .. }
                | Request::ListTubeUsed
                | Request::ListTubesWatched
                | Request::Refused(_)
        )
    }

    /// The id of the one job that this changes.
    #[must_use]
    pub fn changed_job(&self) -> Option<u64> {
        match *self {
            Request::Delete { id }
            | Request::Release { id, .. }
            | Request::Bury { id, .. }
            | Request::Touch { id }
            | Request::KickJob { id } => Some(id),
            _ => None,
        }
    }
}

/// Commands that `stats` counts, in its order. `reserve-job`, `kick-job` and `quit` have no counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    Put,
    Peek,
    PeekReady,
    PeekDelayed,
    PeekBuried,
    Reserve,
    ReserveWithTimeout,
    Delete,
    Release,
    Use,
    Watch,
    Ignore,
    Bury,
    Kick,
    Touch,
    Stats,
    StatsJob,
    StatsTube,
    ListTubes,
    ListTubeUsed,
    ListTubesWatched,
    PauseTube,
}

impl Counted {
    pub const ALL: [Counted; 22] = [
        Counted::Put,
        Counted::Peek,
        Counted::PeekReady,
        Counted::PeekDelayed,
        Counted::PeekBuried,
        Counted::Reserve,
        Counted::ReserveWithTimeout,
        Counted::Delete,
        Counted::Release,
        Counted::Use,
        Counted::Watch,
        Counted::Ignore,
        Counted::Bury,
        Counted::Kick,
        Counted::Touch,
        Counted::Stats,
        Counted::StatsJob,
        Counted::StatsTube,
        Counted::ListTubes,
        Counted::ListTubeUsed,
        Counted::ListTubesWatched,
        Counted::PauseTube,
    ];

    /// The command's name, as in `cmd-<name>`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Counted::Put => "put",
            Counted::Peek => "peek",
            Counted::PeekReady => "peek-ready",
            Counted::PeekDelayed => "peek-delayed",
            Counted::PeekBuried => "peek-buried",
            Counted::Reserve => "reserve",
            Counted::ReserveWithTimeout => "reserve-with-timeout",
            Counted::Delete => "delete",
            Counted::Release => "release",
            Counted::Use => "use",
            Counted::Watch => "watch",
            Counted::Ignore => "ignore",
            Counted::Bury => "bury",
            Counted::Kick => "kick",
            Counted::Touch => "touch",
            Counted::Stats => "stats",
            Counted::StatsJob => "stats-job",
            Counted::StatsTube => "stats-tube",
            Counted::ListTubes => "list-tubes",
            Counted::ListTubeUsed => "list-tube-used",
            Counted::ListTubesWatched => "list-tubes-watched",
            Counted::PauseTube => "pause-tube",
        }
    }
}

/// A request, and which counter it moves. A few malformed commands are counted too, as in the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub counted: Option<Counted>,
    pub request: Request,
}

impl Parsed {
    #[must_use]
    pub fn refused(refusal: Refusal) -> Parsed {
        Parsed { counted: None, request: Request::Refused(refusal) }
    }
}
