//! From an archived image back to a machine. In proportion to bitmaps and records; what is proportional to jobs, the recount,
//! runs behind (`recount`).
//!
//! An image comes from a disk or from another node: whatever it says, nothing here may panic.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rkyv::rend::u64_le;
use roaring::RoaringTreemap;

use super::image::{ArchivedClassImage, ArchivedIdsImage, ArchivedImage, ArchivedJobImage, ArchivedTubeImage};
use super::job_set::JobSet;
use super::machine::{Machine, News};
use super::ready::{ClassKey, Ready};
use super::record::{Counters, Record, Reservation, State};
use super::sessions::Sessions;
use super::totals::Totals;
use super::tube::{Pause, Tube, TubeId, Tubes};
use crate::types::{BootEpoch, Incarnation, Index, JobId, LogPosition, Nanos, NodeId, SessionId, Term, Times};

/// An image that no machine ever had. Its bytes are whole, so it was written by another program or a faulty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("tubes are not in order, share a name, or the default tube is missing")]
    Tubes,
    #[error("the waiting jobs of tube {tube} are not a set of jobs that were ever given")]
    Waiting { tube: u64 },
    #[error("tube {tube} says that it has {said} jobs, and has {found}")]
    Count { tube: u64, said: u64, found: u64 },
    #[error("the record of job {job} contradicts what else the image says")]
    Record { job: u64 },
    #[error("sessions are not in order, or of no boot that is known")]
    Sessions,
    #[error("the restored state has the digest {found:032x}, and was written with {expected:032x}")]
    Digest { expected: u128, found: u128 },
}

impl Machine {
    /// The machine that an image is of; `digest` is what [`Machine::digest`] said of it.
    ///
    /// # Errors
    /// The image contradicts itself.
    pub fn restore(image: &ArchivedImage, digest: u128) -> Result<Machine, RestoreError> {
        let next_job = JobId(image.next_job.to_native());
        let mut machine = Machine {
            applied: LogPosition::new(Term(image.term.to_native()), Index(image.index.to_native())),
            times: Times { lease: Nanos(image.lease.to_native()), wall: Nanos(image.wall.to_native()) },
            next_job,
            next_epoch: image.next_epoch.to_native(),
            next_burial: image.next_burial.to_native(),
            timeouts: image.timeouts.to_native(),
            total_jobs: image.total_jobs.to_native(),
            tubes: restore_tubes(image, next_job)?,
            totals: Totals::default(),
            records: BTreeMap::new(),
            sessions: restore_sessions(image)?,
            leases: BTreeSet::new(),
            delays: BTreeSet::new(),
            pauses: BTreeSet::new(),
            shut_out: BTreeMap::new(),
            news: News::default(),
        };
        for image in image.shut_out.iter() {
            let node = NodeId(image.node);
            machine.shut_out.insert(node, Incarnation(u128::from_le_bytes(image.incarnation)));
            machine.news.shut_out(node);
        }
        machine.pauses = machine.tubes.iter().filter_map(|tube| Some((tube.pause.as_ref()?.until, tube.id))).collect();
        machine.restore_records(image)?;
        machine.check_counts(image)?;
        machine.totals = Totals::of(machine.tubes.iter());
        machine.tubes.restore_vacant();
        let found = machine.digest();
        if found != digest {
            return Err(RestoreError::Digest { expected: digest, found });
        }
        Ok(machine)
    }

    fn restore_records(&mut self, image: &ArchivedImage) -> Result<(), RestoreError> {
        let mut all: Vec<(JobId, Record)> = Vec::with_capacity(
            image.differing.len() + image.in_flight.len() + image.delayed.len() + image.buried.len(),
        );
        let mut take = |job: &ArchivedJobImage, state| {
            all.push((JobId(job.job.to_native()), record(job, state)));
        };
        image.differing.iter().for_each(|job| take(job, State::Ready));
        for delayed in image.delayed.iter() {
            take(&delayed.job, State::Delayed { until: Nanos(delayed.until.to_native()) });
        }
        for buried in image.buried.iter() {
            take(&buried.job, State::Buried { order: buried.order.to_native() });
        }
        for reserved in image.in_flight.iter() {
            let node = NodeId(reserved.node);
            let boot = self.sessions.node_boot(node).ok_or(RestoreError::Sessions)?;
            let session = SessionId { node, boot, number: reserved.session.to_native() };
            let (epoch, deadline) = (reserved.epoch.to_native(), Nanos(reserved.deadline.to_native()));
            take(&reserved.job, State::Reserved(Reservation { session, epoch, deadline }));
        }
        all.sort_unstable_by_key(|(job, _)| *job);
        for (job, record) in &all {
            self.index_record(*job, record).ok_or(RestoreError::Record { job: job.0 })?;
        }
        if let Some(twice) = all.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(RestoreError::Record { job: twice[0].0.0 });
        }
        // Ascending, so that the tree is built from its leaves up.
        self.records = all.into_iter().collect();
        Ok(())
    }

    /// Enters a record into everything that its state names; none where that cannot be.
    fn index_record(&mut self, job: JobId, record: &Record) -> Option<()> {
        let is_given = (JobId(1)..self.next_job).contains(&job);
        let tube = self.tubes.get_mut(record.tube).filter(|_| is_given)?;
        let is_new = match record.state {
            State::Ready => record.differs() && tube.ready.restore_record(record.priority, job),
            State::Delayed { until } => tube.delayed.insert((until, job)) && self.delays.insert((until, job)),
            State::Buried { order } => order < self.next_burial && tube.buried.insert(order, job).is_none(),
            State::Reserved(reservation) => {
                let due = (reservation.deadline, job);
                tube.reserved += 1;
                let session = self.sessions.get_mut(reservation.session)?;
                reservation.epoch < self.next_epoch && self.leases.insert(due) && session.reserved.insert(due)
            }
        };
        is_new.then_some(())
    }

    fn check_counts(&self, image: &ArchivedImage) -> Result<(), RestoreError> {
        for (tube, image) in self.tubes.iter().zip(image.tubes.iter()) {
            let found = tube.ready.count() + tube.reserved + tube.delayed.len() as u64 + tube.buried.len() as u64;
            let said = image.count.to_native();
            if found != said {
                return Err(RestoreError::Count { tube: tube.id.0, said, found });
            }
        }
        Ok(())
    }
}

fn restore_tubes(image: &ArchivedImage, next_job: JobId) -> Result<Tubes, RestoreError> {
    let tubes = image.tubes.iter().map(|tube| restore_tube(tube, next_job));
    let tubes = tubes.collect::<Result<Vec<Tube>, RestoreError>>()?;
    Tubes::restore(TubeId(image.next_tube.to_native()), tubes).ok_or(RestoreError::Tubes)
}

fn restore_tube(image: &ArchivedTubeImage, next_job: JobId) -> Result<Tube, RestoreError> {
    let wrong = RestoreError::Waiting { tube: image.id.to_native() };
    let mut tube = Tube::new(TubeId(image.id.to_native()), Bytes::copy_from_slice(&image.name));
    let mut sets = Vec::with_capacity(image.waiting.len());
    for waiting in image.waiting.iter() {
        let set = restore_set(&waiting.ids).ok_or(wrong)?;
        if set.first() < JobId(1) || set.last() >= next_job {
            return Err(wrong);
        }
        sets.push((ClassKey::from(&waiting.class), set));
    }
    if !sets.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(wrong);
    }
    tube.ready = Ready::restore(sets);
    tube.pause = image
        .pause
        .as_ref()
        .map(|pause| Pause { until: Nanos(pause.until.to_native()), duration_s: pause.duration_s.to_native() });
    tube.total_jobs = image.total_jobs.to_native();
    tube.deletes = image.deletes.to_native();
    tube.pauses = image.pauses.to_native();
    tube.fingerprint = (&image.fingerprint).into();
    Ok(tube)
}

/// None for what is no set of two forms: empty, not ascending, or no bitmap.
fn restore_set(ids: &ArchivedIdsImage) -> Option<JobSet> {
    let bitmap = match ids {
        ArchivedIdsImage::Few(ids) => {
            let is_ascending = ids.is_sorted_by(|one, next| one.to_native() < next.to_native());
            return JobSet::from_ascending(ids.iter().copied().map(u64_le::to_native).map(JobId))
                .filter(|_| is_ascending);
        }
        ArchivedIdsImage::Many(bytes) => bitmap(bytes)?,
    };
    JobSet::from_bitmap(bitmap)
}

/// A bitmap in the form in which the machine keeps one.
pub(super) fn bitmap(bytes: &[u8]) -> Option<RoaringTreemap> {
    let packed = RoaringTreemap::deserialize_from(bytes).ok()?;
    let unpacked = packed.bitmaps().map(|(high, bitmap)| {
        let mut bitmap = bitmap.clone();
        bitmap.remove_run_compression();
        (high, bitmap)
    });
    Some(RoaringTreemap::from_bitmaps(unpacked))
}

fn restore_sessions(image: &ArchivedImage) -> Result<Sessions, RestoreError> {
    let mut sessions = Sessions::default();
    for boot in image.boots.iter() {
        let highest = boot.highest.as_ref().map(|highest| highest.to_native());
        let epoch = BootEpoch(boot.epoch.to_native());
        sessions.restore_boot(NodeId(boot.node), epoch, highest).ok_or(RestoreError::Sessions)?;
    }
    for session in image.sessions.iter() {
        let (node, number) = (NodeId(session.node), session.number.to_native());
        sessions.restore_session(node, number, session.last_seq.to_native()).ok_or(RestoreError::Sessions)?;
    }
    Ok(sessions)
}

pub(super) fn record(image: &ArchivedJobImage, state: State) -> Record {
    Record {
        tube: TubeId(image.tube.to_native()),
        class: ClassKey::from(&image.class),
        priority: image.priority.to_native(),
        delay_s: image.delay_s.to_native(),
        counters: Counters {
            reserves: image.reserves.to_native(),
            timeouts: image.timeouts.to_native(),
            releases: image.releases.to_native(),
            buries: image.buries.to_native(),
            kicks: image.kicks.to_native(),
        },
        state,
    }
}

impl From<&ArchivedClassImage> for ClassKey {
    fn from(class: &ArchivedClassImage) -> ClassKey {
        ClassKey {
            priority: class.priority.to_native(),
            ttr_s: class.ttr_s.to_native(),
            delay_s: class.delay_s.to_native(),
        }
    }
}
