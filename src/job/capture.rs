//! Capturing the state while the shard goes on: sets and records are copied as they are, at once; everything that takes
//! longer is done to the copy, on any thread.
//!
//! It must never cost in proportion to the jobs that wait: of those only their bits are copied.

use bytes::Bytes;
use roaring::RoaringTreemap;

use super::fingerprint::Fingerprint;
use super::image::{
    BootImage, BuriedImage, ClassImage, DelayedImage, IdsImage, Image, InFlightImage, JobImage, PauseImage,
    SessionImage, ShutOutImage, TubeImage, WaitingImage,
};
use super::job_set::JobSet;
use super::machine::Machine;
use super::ready::ClassKey;
use super::record::{Record, State};
use super::tube::{Pause, Tube};
use crate::mutation::{self, Mutation};
use crate::types::{BootEpoch, Incarnation, JobId, LogPosition, NodeId, SessionId, Times};

/// Up to so many ids are listed in an image; more are a bitmap. Any fixed number makes equal sets equal bytes.
const LISTED_MAX: usize = 32;

/// A state as it was at one index. Equal to what the machine held, whatever it does meanwhile.
#[derive(Debug)]
pub struct Capture {
    position: LogPosition,
    times: Times,
    next_job: JobId,
    digest: u128,
    /// The rest of the image's numbers, with empty lists.
    numbers: Numbers,
    tubes: Vec<CapturedTube>,
    records: Vec<(JobId, Record)>,
    boots: Vec<(NodeId, BootEpoch, Option<u64>)>,
    sessions: Vec<(SessionId, u64)>,
    shut_out: Vec<(NodeId, Incarnation)>,
}

#[derive(Debug)]
struct Numbers {
    next_epoch: u64,
    next_burial: u64,
    next_tube: u64,
    timeouts: u64,
    total_jobs: u64,
}

#[derive(Debug)]
struct CapturedTube {
    id: u64,
    name: Bytes,
    sets: Vec<(ClassKey, JobSet)>,
    /// The lowest waiting job that has a record.
    differing_first: Option<JobId>,
    count: u64,
    pause: Option<Pause>,
    totals: [u64; 3],
    fingerprint: Fingerprint,
}

impl CapturedTube {
    fn of(tube: &Tube) -> CapturedTube {
        let mut sets: Vec<(ClassKey, JobSet)> = tube.ready.sets().map(|(class, set)| (class, set.clone())).collect();
        let mut count = tube.ready.count() + tube.reserved + tube.delayed.len() as u64 + tube.buried.len() as u64;
        if mutation::is_on(Mutation::ForgottenHole)
            && let Some((_, set)) = sets.first_mut()
            && let Some(finished) = set.first().0.checked_sub(1).filter(|finished| *finished > 0)
        {
            set.insert(JobId(finished));
            count += 1;
        }
        CapturedTube {
            id: tube.id.0,
            name: tube.name.clone(),
            sets,
            differing_first: tube.ready.records().map(|(_, job)| job).min(),
            count,
            pause: tube.pause,
            totals: [tube.total_jobs, tube.deletes, tube.pauses],
            fingerprint: tube.fingerprint,
        }
    }

    fn image(self) -> TubeImage {
        let firsts = self.sets.iter().map(|(_, set)| set.first());
        let cursor = firsts.chain(self.differing_first).min().map(|job| job.0);
        let [total_jobs, deletes, pauses] = self.totals;
        let waiting = self.sets.into_iter().map(|(class, set)| WaitingImage { class: class.into(), ids: ids(set) });
        TubeImage {
            id: self.id,
            total_jobs,
            deletes,
            pauses,
            cursor,
            count: self.count,
            pause: self.pause.map(|pause| PauseImage { until: pause.until.0, duration_s: pause.duration_s }),
            name: self.name.to_vec(),
            waiting: waiting.collect(),
            fingerprint: self.fingerprint.into(),
        }
    }
}

impl Machine {
    /// The state as it is now.
    #[must_use]
    pub fn capture(&self) -> Capture {
        let mut capture = self.captured();
        if mutation::is_on(Mutation::DroppedRecord)
            && let Some(at) = capture.records.iter().position(|(_, record)| record.state == State::Ready)
        {
            let (_, record) = capture.records.remove(at);
            let tube = capture.tubes.iter_mut().find(|tube| tube.id == record.tube.0);
            tube.into_iter().for_each(|tube| tube.count -= 1);
        }
        capture
    }

    fn captured(&self) -> Capture {
        Capture {
            position: self.applied,
            times: self.times,
            next_job: self.next_job,
            digest: self.digest(),
            numbers: Numbers {
                next_epoch: self.next_epoch,
                next_burial: self.next_burial,
                next_tube: self.tubes.next_id().0,
                timeouts: self.timeouts,
                total_jobs: self.total_jobs,
            },
            tubes: self.tubes.iter().map(CapturedTube::of).collect(),
            records: self.records.iter().map(|(&job, record)| (job, record.clone())).collect(),
            boots: self.sessions.boots().collect(),
            sessions: self.sessions.iter().map(|(id, session)| (id, session.last_seq)).collect(),
            shut_out: self.shut_out.iter().map(|(&node, &incarnation)| (node, incarnation)).collect(),
        }
    }
}

impl Capture {
    /// The last entry that the state holds.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.position
    }

    #[must_use]
    pub fn times(&self) -> Times {
        self.times
    }

    /// The first id that no entry so far has given.
    #[must_use]
    pub fn next_job(&self) -> JobId {
        self.next_job
    }

    /// Of the state, as [`Machine::digest`].
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The jobs that wait and are as their ENQ made them: the partial set.
    pub fn waiting_as_enqueued(&self) -> impl Iterator<Item = JobId> {
        self.tubes.iter().flat_map(|tube| &tube.sets).flat_map(|(_, set)| set.iter())
    }

    /// The ids of all live jobs, ascending.
    #[must_use]
    pub fn live(&self) -> RoaringTreemap {
        let mut live: RoaringTreemap = self.records.iter().map(|(job, _)| job.0).collect();
        for (_, set) in self.tubes.iter().flat_map(|tube| &tube.sets) {
            set.add_to(&mut live);
        }
        live
    }

    /// The image. In proportion to bitmaps and records; for any thread but a core's.
    #[must_use]
    pub fn into_image(self) -> Image {
        let mut image = Image {
            term: self.position.term.0,
            index: self.position.index.0,
            lease: self.times.lease.0,
            wall: self.times.wall.0,
            next_job: self.next_job.0,
            next_epoch: self.numbers.next_epoch,
            next_burial: self.numbers.next_burial,
            next_tube: self.numbers.next_tube,
            timeouts: self.numbers.timeouts,
            total_jobs: self.numbers.total_jobs,
            tubes: self.tubes.into_iter().map(CapturedTube::image).collect(),
            differing: Vec::new(),
            in_flight: Vec::new(),
            delayed: Vec::new(),
            buried: Vec::new(),
            boots: self
                .boots
                .into_iter()
                .map(|(node, epoch, highest)| BootImage { epoch: epoch.0, highest, node: node.0 })
                .collect(),
            sessions: self
                .sessions
                .into_iter()
                .map(|(id, last_seq)| SessionImage { number: id.number, last_seq, node: id.node.0 })
                .collect(),
            shut_out: self
                .shut_out
                .into_iter()
                .map(|(node, incarnation)| ShutOutImage { incarnation: incarnation.0.to_le_bytes(), node: node.0 })
                .collect(),
        };
        for (id, record) in self.records {
            let job = job_image(id, &record);
            match record.state {
                State::Ready => image.differing.push(job),
                State::Delayed { until } => image.delayed.push(DelayedImage { job, until: until.0 }),
                State::Buried { order } => image.buried.push(BuriedImage { job, order }),
                State::Reserved(reservation) => image.in_flight.push(InFlightImage {
                    job,
                    session: reservation.session.number,
                    epoch: reservation.epoch,
                    deadline: reservation.deadline.0,
                    node: reservation.session.node.0,
                }),
            }
        }
        image
    }
}

fn job_image(job: JobId, record: &Record) -> JobImage {
    JobImage {
        job: job.0,
        tube: record.tube.0,
        class: record.class.into(),
        priority: record.priority,
        delay_s: record.delay_s,
        reserves: record.counters.reserves,
        timeouts: record.counters.timeouts,
        releases: record.counters.releases,
        buries: record.counters.buries,
        kicks: record.counters.kicks,
    }
}

impl From<ClassKey> for ClassImage {
    fn from(class: ClassKey) -> ClassImage {
        ClassImage { priority: class.priority, ttr_s: class.ttr_s, delay_s: class.delay_s }
    }
}

/// The kind of a set in the image follows from what it holds and from nothing else.
fn ids(set: JobSet) -> IdsImage {
    if set.len() <= LISTED_MAX {
        return IdsImage::Few(set.iter().map(|job| job.0).collect());
    }
    let mut bitmap = set.into_bitmap();
    // Containers are runs from now on where that is smaller, and lists or bits by their count where it is not.
    bitmap.optimize();
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("memory takes what is written to it");
    IdsImage::Many(bytes)
}
