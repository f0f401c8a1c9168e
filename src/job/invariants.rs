//! What must hold of the state between any two entries, checked from the ground up by tests and by simulation.
//! In proportion to the live jobs: never called on the way of a command.

use std::collections::{BTreeMap, BTreeSet};

use super::fingerprint::Fingerprint;
use super::machine::Machine;
use super::record::State;
use super::totals::Totals;
use super::tube::TubeId;
use crate::types::{JobId, Nanos, SessionId};

impl Machine {
    /// The fingerprint of all live jobs, counted afresh.
    #[must_use]
    pub fn recount(&self) -> Fingerprint {
        let mut sum = Fingerprint::default();
        self.recount_tubes().into_values().for_each(|tube| sum += tube);
        sum
    }

    fn recount_tubes(&self) -> BTreeMap<TubeId, Fingerprint> {
        let mut sums: BTreeMap<TubeId, Fingerprint> = BTreeMap::new();
        for tube in self.tubes.iter() {
            let sum = sums.entry(tube.id).or_default();
            tube.ready.bits().for_each(|(class, job)| *sum += tube.seed.hash_bit(job, class));
        }
        for (&job, record) in &self.records {
            let seed = self.tubes.existing(record.tube).seed;
            *sums.entry(record.tube).or_default() += seed.hash_record(job, record);
        }
        sums
    }

    /// Checks every invariant of the state.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn verify(&self) {
        let mut found = Indexes::default();
        for (&job, record) in &self.records {
            assert!(job < self.next_job, "job {job} was never given");
            assert!(self.tubes.get(record.tube).is_some(), "the tube of job {job} exists");
            let indexes = found.tubes.entry(record.tube).or_default();
            match record.state {
                State::Ready => {
                    assert!(record.differs(), "job {job} is ready as it was put: it should be a bit");
                    indexes.ready.insert((record.priority, job));
                }
                State::Delayed { until } => {
                    indexes.delayed.insert((until, job));
                    found.delays.insert((until, job));
                }
                State::Buried { order } => {
                    assert!(order < self.next_burial);
                    let other = indexes.buried.insert(order, job);
                    assert_eq!(other, None, "two jobs stand at one place in line");
                }
                State::Reserved(reservation) => {
                    assert!(found.epochs.insert(reservation.epoch), "two reservations have one fencing token");
                    assert!(reservation.epoch < self.next_epoch);
                    indexes.reserved += 1;
                    found.leases.insert((reservation.deadline, job));
                    found.sessions.entry(reservation.session).or_default().insert((reservation.deadline, job));
                }
            }
        }
        assert_eq!(found.leases, self.leases, "reservations and their due times");
        assert_eq!(found.delays, self.delays, "delayed jobs and their due times");
        self.verify_tubes(&found);
        self.verify_sessions(&found);
    }

    fn verify_tubes(&self, found: &Indexes) {
        let mut pauses = BTreeSet::new();
        let mut bits = BTreeSet::new();
        let fingerprints = self.recount_tubes();
        let nothing = TubeIndexes::default();
        for tube in self.tubes.iter() {
            let indexes = found.tubes.get(&tube.id).unwrap_or(&nothing);
            tube.ready.verify();
            for (class, job) in tube.ready.bits() {
                assert!(!self.records.contains_key(&job), "job {job} is a bit and a record");
                assert!(job < self.next_job, "job {job} was never given");
                assert!(bits.insert(job), "job {job} is a bit of {class:?} and of another class");
            }
            assert!(tube.ready.records().eq(indexes.ready.iter().copied()), "ready jobs that have records");
            assert_eq!(tube.delayed, indexes.delayed, "delayed jobs");
            assert_eq!(tube.buried, indexes.buried, "buried jobs");
            assert_eq!(tube.reserved, indexes.reserved, "the count of reserved jobs");
            assert_eq!(tube.fingerprint, fingerprints[&tube.id], "the fingerprint of {:?}", tube.name);
            pauses.extend(tube.pause.map(|pause| (pause.until, tube.id)));
        }
        assert_eq!(pauses, self.pauses, "pauses and their due times");
        assert_eq!(self.totals, Totals::of(self.tubes.iter()), "the totals of all tubes");
        assert_eq!(*self.tubes.vacant(), self.tubes.recount_vacant(), "the tubes without a job");
    }

    fn verify_sessions(&self, found: &Indexes) {
        let mut open = 0;
        for (id, session) in self.sessions.iter() {
            open += 1;
            let reserved = found.sessions.get(&id).cloned().unwrap_or_default();
            assert_eq!(session.reserved, reserved, "the reservations of session {id}");
        }
        assert_eq!(open, self.sessions.len(), "the count of open sessions");
        assert!(found.sessions.keys().all(|&id| self.session_open(id)), "a reservation of a session that is closed");
    }
}

/// The indexes as the records imply them.
#[derive(Default)]
struct Indexes {
    tubes: BTreeMap<TubeId, TubeIndexes>,
    leases: BTreeSet<(Nanos, JobId)>,
    delays: BTreeSet<(Nanos, JobId)>,
    sessions: BTreeMap<SessionId, BTreeSet<(Nanos, JobId)>>,
    epochs: BTreeSet<u64>,
}

#[derive(Default)]
struct TubeIndexes {
    ready: BTreeSet<(u32, JobId)>,
    delayed: BTreeSet<(Nanos, JobId)>,
    buried: BTreeMap<u64, JobId>,
    reserved: u64,
}
