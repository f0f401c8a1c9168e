//! The plain types every room shares: numbers that must not be mixed, and nothing that decides.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A member of the cluster, 1..=255, as the configuration names it.
    NodeId(u8)
}
number! {
    /// A Raft group of the cluster, 0-based.
    ShardId(u16)
}
number! {
    /// A Raft term. Terms of real leaders start at 1; 0 is the term before any election.
    Term(u64)
}
number! {
    /// The place of an entry in a shard's log. The first entry has index 1; 0 is the place before it.
    Index(u64)
}
number! {
    /// The ordinal of a job within its shard, from 1. What clients see is [`JobId::client_id`].
    JobId(u64)
}
number! {
    /// A durable, ascending count of the starts of one node.
    BootEpoch(u64)
}
number! {
    /// Drawn at random by each start of a node, so that two starts under one boot number are told apart.
    StartId(u64)
}
number! {
    /// Nanoseconds. On which clock, the field that holds it says.
    Nanos(u64)
}
number! {
    /// The identity of a log entry and of all that precede it: a seeded XXH3-128 over its shared header,
    /// which holds the chain hash of the entry before and the hash of its own commands.
    ChainHash(u128)
}
number! {
    /// A seeded XXH3-128 of a job's body; repair trusts it as the body's identity.
    BodyHash(u128)
}
/// Which cluster. Drawn at random when the directory of its first member is prepared; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

/// 32 hexadecimal digits.
impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
number! {
    /// Drawn at random when a node's directory is prepared; another directory is another incarnation.
    Incarnation(u128)
}

impl Term {
    pub const ZERO: Term = Term(0);

    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl Index {
    pub const ZERO: Index = Index(0);

    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; none precedes [`Index::ZERO`].
    #[must_use]
    pub fn prev(self) -> Option<Index> {
        self.0.checked_sub(1).map(Index)
    }
}

impl JobId {
    /// The id that clients see: dense from 1 on one shard, interleaved over several, below 2^53.
    #[must_use]
    pub fn client_id(self, shard: ShardId, shards: u16) -> u64 {
        (self.0 - 1) * u64::from(shards) + u64::from(shard.0) + 1
    }

    /// The shard and ordinal behind an id that a client named; none for 0, which no job has.
    #[must_use]
    pub fn from_client_id(id: u64, shards: u16) -> Option<(ShardId, JobId)> {
        let zero_based = id.checked_sub(1)?;
        let shards = u64::from(shards);
        let shard = u16::try_from(zero_based % shards).ok()?;
        Some((ShardId(shard), JobId(zero_based / shards + 1)))
    }
}

impl Nanos {
    pub const ZERO: Nanos = Nanos(0);

    #[must_use]
    pub const fn from_secs(seconds: u64) -> Nanos {
        Nanos(seconds.saturating_mul(1_000_000_000))
    }

    #[must_use]
    pub const fn from_millis(millis: u64) -> Nanos {
        Nanos(millis.saturating_mul(1_000_000))
    }

    #[must_use]
    pub const fn from_micros(micros: u64) -> Nanos {
        Nanos(micros.saturating_mul(1_000))
    }

    #[must_use]
    pub const fn saturating_add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }

    #[must_use]
    pub const fn saturating_sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }

    #[must_use]
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0)
    }
}

/// The term and index of an entry. Ordered as Raft compares logs: by term, then by index (Raft 5.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPosition {
    pub term: Term,
    pub index: Index,
}

impl LogPosition {
    /// The position before the first entry.
    pub const ORIGIN: LogPosition = LogPosition { term: Term::ZERO, index: Index::ZERO };

    #[must_use]
    pub fn new(term: Term, index: Index) -> LogPosition {
        LogPosition { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// One start of a node. Ordered by boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Start {
    pub boot: BootEpoch,
    pub id: StartId,
}

/// The two times that a leader stamps on each entry (and sends with each heartbeat).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Monotonic; does not count leaderless time. Reservations expire by it.
    pub lease: Nanos,
    /// Nanoseconds since the Unix epoch; never backwards. Delays, pauses and ages go by it.
    pub wall: Nanos,
}

impl Times {
    /// The later of both, on each clock.
    #[must_use]
    pub fn latest(self, other: Times) -> Times {
        Times { lease: self.lease.max(other.lease), wall: self.wall.max(other.wall) }
    }
}

/// One client connection as the replicated state machine knows it. Numbers ascend per (node, boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub node: NodeId,
    pub boot: BootEpoch,
    pub number: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.node, self.boot, self.number)
    }
}

/// Which snapshot: nodes that have one of the same name have the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// The last entry whose effect is in it.
    pub position: LogPosition,
    /// Of its header, which holds the hash of all that follows it.
    pub hash: u128,
    /// Length of the file.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_dense_on_one_shard_and_interleaved_on_several() {
        assert_eq!(JobId(1).client_id(ShardId(0), 1), 1);
        assert_eq!(JobId(7).client_id(ShardId(0), 1), 7);
        let ids: Vec<u64> = (1..=2).flat_map(|n| (0..3).map(move |s| JobId(n).client_id(ShardId(s), 3))).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        for id in 1..100 {
            let (shard, job) = JobId::from_client_id(id, 3).expect("not zero");
            assert_eq!(job.client_id(shard, 3), id);
        }
        assert_eq!(JobId::from_client_id(0, 3), None);
    }

    #[test]
    fn a_log_with_a_later_term_is_more_recent_however_short() {
        assert!(LogPosition::new(Term(2), Index(1)) > LogPosition::new(Term(1), Index(9)));
        assert!(LogPosition::new(Term(2), Index(2)) > LogPosition::new(Term(2), Index(1)));
    }
}
