//! The two moves that every change of a job is made of: it is taken out of wherever it is, and placed where its
//! changed record says. Only here do a job's state, the indexes, the counts, the totals and the fingerprint change, so they
//! cannot come to contradict each other.

use super::machine::Machine;
use super::ready::{ClassKey, Head, Kept};
use super::record::{Counters, Record, Reservation, State};
use super::tube::TubeId;
use crate::types::{JobId, Nanos, SessionId};

impl Machine {
    /// Takes a job that has a record out of everything that knows it.
    pub(super) fn take_record(&mut self, job: JobId) -> Option<Record> {
        let record = self.records.remove(&job)?;
        self.totals.subtract(&record.state, record.priority);
        let tube = self.tubes.existing_mut(record.tube);
        tube.fingerprint -= tube.seed.hash_record(job, &record);
        match record.state {
            State::Ready => tube.ready.remove_record(record.priority, job),
            State::Delayed { until } => {
                assert!(tube.delayed.remove(&(until, job)), "a delayed job is in its tube's order");
                assert!(self.delays.remove(&(until, job)), "a delayed job has a due time");
            }
            State::Buried { order } => {
                assert_eq!(tube.buried.remove(&order), Some(job), "a buried job stands in line");
            }
            State::Reserved(reservation) => {
                let due = (reservation.deadline, job);
                tube.reserved -= 1;
                assert!(self.leases.remove(&due), "a reservation has a due time");
                let session = self.sessions.of_reservation(reservation.session);
                assert!(session.reserved.remove(&due), "a reservation is its session's");
            }
        }
        Some(record)
    }

    /// Takes a job that is a bit of this class, if it is one.
    pub(super) fn take_bit(&mut self, tube: TubeId, class: ClassKey, job: JobId) -> Option<Record> {
        let tube = self.tubes.existing_mut(tube);
        if !tube.ready.remove_bit(class, job) {
            return None;
        }
        tube.fingerprint -= tube.seed.hash_bit(job, class);
        self.totals.subtract(&State::Ready, class.priority);
        Some(Record::as_enqueued(tube.id, class))
    }

    /// Takes the job that a tube serves next.
    pub(super) fn take_head(&mut self, tube: TubeId, head: &Head) -> Record {
        let taken = match head.kept {
            Kept::AsBit(class) => self.take_bit(tube, class, head.job),
            Kept::AsRecord => self.take_record(head.job),
        };
        taken.expect("the head of a tube is one of its jobs")
    }

    /// Places a job where its record says; a ready one that does not differ from its ENQ becomes a bit.
    pub(super) fn place(&mut self, job: JobId, record: Record) {
        self.totals.add(&record.state, record.priority);
        let tube = self.tubes.existing_mut(record.tube);
        if record.state == State::Ready {
            self.news.made_ready(record.tube);
            if !record.differs() {
                tube.fingerprint += tube.seed.hash_bit(job, record.class);
                tube.ready.insert_bit(record.class, job);
                return;
            }
        }
        tube.fingerprint += tube.seed.hash_record(job, &record);
        match record.state {
            State::Ready => tube.ready.insert_record(record.priority, job),
            State::Delayed { until } => {
                tube.delayed.insert((until, job));
                self.delays.insert((until, job));
            }
            State::Buried { order } => {
                tube.buried.insert(order, job);
            }
            State::Reserved(reservation) => {
                let due = (reservation.deadline, job);
                tube.reserved += 1;
                self.leases.insert(due);
                self.sessions.of_reservation(reservation.session).reserved.insert(due);
            }
        }
        let before = self.records.insert(job, record);
        assert!(before.is_none(), "a job has one record");
    }

    /// Places a taken job as ready again; `count` says what for.
    pub(super) fn make_ready(&mut self, job: JobId, mut record: Record, count: impl FnOnce(&mut Counters)) {
        count(&mut record.counters);
        record.state = State::Ready;
        self.place(job, record);
    }

    /// Places a taken job as ready, or as delayed from now on.
    pub(super) fn make_ready_after(&mut self, job: JobId, mut record: Record, delay_s: u32) {
        record.state = match delay_s {
            0 => State::Ready,
            _ => State::Delayed { until: self.times.wall.saturating_add(Nanos::from_secs(delay_s.into())) },
        };
        self.place(job, record);
    }

    /// Places a taken job as reserved under a new fencing token, which it gives back with the time to run.
    pub(super) fn make_reserved(&mut self, job: JobId, mut record: Record, session: SessionId) -> (u64, u32) {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let ttr_s = record.ttr_s();
        let deadline = self.times.lease.saturating_add(Nanos::from_secs(ttr_s.into()));
        record.counters.reserves = record.counters.reserves.saturating_add(1);
        record.state = State::Reserved(Reservation { session, epoch, deadline });
        self.place(job, record);
        (epoch, ttr_s)
    }
}
