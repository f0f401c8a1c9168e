//! A 128-bit hash of a set of live jobs that does not depend on their order: the wrapping sum of one seeded hash
//! per job. Kept up to date at apply from memory alone; a recount must find the same.

use std::fmt;
use std::ops::{AddAssign, SubAssign};

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::ready::ClassKey;
use super::record::{Record, State};
use crate::types::JobId;

const SEED: u64 = u64::from_le_bytes(*b"beaverFP");

/// The fingerprint of some live jobs; zero for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Fingerprint) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl SubAssign for Fingerprint {
    fn sub_assign(&mut self, other: Fingerprint) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

/// Stands for the tube's name in the hashes of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TubeSeed(pub(super) u64);

impl TubeSeed {
    pub(super) fn of(name: &[u8]) -> TubeSeed {
        TubeSeed(xxh3_64_with_seed(name, SEED))
    }

    /// The hash of a job that is a bit.
    pub(super) fn hash_bit(self, job: JobId, class: ClassKey) -> Fingerprint {
        Fingerprint(xxh3_128_with_seed(Identity::of(job, class).as_bytes(), self.0))
    }

    /// The hash of a job that has a record: all of it, so that two nodes on which a deadline differs differ.
    pub(super) fn hash_record(self, job: JobId, record: &Record) -> Fingerprint {
        let (tag, state) = match record.state {
            State::Ready => (1, [0; 5]),
            State::Delayed { until } => (2, [until.0, 0, 0, 0, 0]),
            State::Reserved(reservation) => {
                let session = reservation.session;
                let node = u64::from(session.node.0);
                (3, [reservation.deadline.0, reservation.epoch, node, session.boot.0, session.number])
            }
            State::Buried { order } => (4, [order, 0, 0, 0, 0]),
        };
        let counters = record.counters;
        let differing = Differing {
            identity: Identity::of(job, record.class),
            tag: U32::new(tag),
            state: state.map(U64::new),
            attributes: [
                record.priority,
                record.delay_s,
                counters.reserves,
                counters.timeouts,
                counters.releases,
                counters.buries,
                counters.kicks,
            ]
            .map(U32::new),
        };
        Fingerprint(xxh3_128_with_seed(differing.as_bytes(), self.0))
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Identity {
    job: U64,
    class: [U32; 3],
}

impl Identity {
    fn of(job: JobId, class: ClassKey) -> Identity {
        Identity { job: job.0.into(), class: [class.priority, class.ttr_s, class.delay_s].map(U32::new) }
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Differing {
    identity: Identity,
    tag: U32,
    state: [U64; 5],
    attributes: [U32; 7],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::record::Reservation;
    use crate::job::tube::TubeId;
    use crate::types::{BootEpoch, Nanos, NodeId, SessionId};

    const CLASS: ClassKey = ClassKey { priority: 1, ttr_s: 60, delay_s: 0 };

    fn hash(change: impl FnOnce(&mut Record)) -> Fingerprint {
        let mut record = Record::as_enqueued(TubeId(0), CLASS);
        change(&mut record);
        TubeSeed::of(b"t").hash_record(JobId(1), &record)
    }

    fn reserved(node: u8, boot: u64, number: u64, epoch: u64, deadline: u64) -> State {
        let session = SessionId { node: NodeId(node), boot: BootEpoch(boot), number };
        State::Reserved(Reservation { session, epoch, deadline: Nanos(deadline) })
    }

    #[test]
    fn whatever_is_changed_in_a_job_changes_its_hash() {
        let hashes = [
            TubeSeed::of(b"t").hash_bit(JobId(1), CLASS),
            TubeSeed::of(b"t").hash_bit(JobId(2), CLASS),
            TubeSeed::of(b"u").hash_bit(JobId(1), CLASS),
            TubeSeed::of(b"t").hash_bit(JobId(1), ClassKey { ttr_s: 61, ..CLASS }),
            hash(|_| {}),
            hash(|record| record.class.ttr_s = 61),
            hash(|record| record.priority = 2),
            hash(|record| record.delay_s = 2),
            hash(|record| record.counters.reserves = 1),
            hash(|record| record.counters.timeouts = 1),
            hash(|record| record.counters.releases = 1),
            hash(|record| record.counters.buries = 1),
            hash(|record| record.counters.kicks = 1),
            hash(|record| record.state = State::Delayed { until: Nanos(1) }),
            hash(|record| record.state = State::Delayed { until: Nanos(2) }),
            hash(|record| record.state = State::Buried { order: 1 }),
            hash(|record| record.state = reserved(1, 1, 1, 1, 1)),
            hash(|record| record.state = reserved(2, 1, 1, 1, 1)),
            hash(|record| record.state = reserved(1, 2, 1, 1, 1)),
            hash(|record| record.state = reserved(1, 1, 2, 1, 1)),
            hash(|record| record.state = reserved(1, 1, 1, 2, 1)),
            hash(|record| record.state = reserved(1, 1, 1, 1, 2)),
        ];
        let unique: std::collections::BTreeSet<Fingerprint> = hashes.into_iter().collect();
        assert_eq!(unique.len(), hashes.len());
    }

    #[test]
    fn the_order_of_jobs_does_not_matter_and_none_leave_nothing() {
        let jobs = [1, 2, 3].map(|job| TubeSeed::of(b"t").hash_bit(JobId(job), CLASS));
        let (mut forth, mut back) = (Fingerprint::default(), Fingerprint::default());
        jobs.iter().for_each(|&job| forth += job);
        jobs.iter().rev().for_each(|&job| back += job);
        assert_eq!(forth, back);
        jobs.iter().for_each(|&job| forth -= job);
        assert_eq!(forth, Fingerprint::default());
    }

    /// Nodes of two versions compare fingerprints with each other, and with what is on their disks.
    #[test]
    fn the_hashes_are_the_same_in_every_version_of_the_program() {
        let bit = TubeSeed::of(b"t").hash_bit(JobId(1), CLASS);
        let record = hash(|record| record.state = reserved(1, 2, 3, 4, 5));
        assert_eq!(bit.to_string(), "bceaeb62b62c0496258fbf9b1d09bdbe");
        assert_eq!(record.to_string(), "67cca302ee895f4e5fdb5e4fcab3db51");
    }
}
