//! What the state machine shows to those who only look. Nothing here changes it, or looks past it: what only
//! the log knows of a job (its class, when it was put), the caller brings along.

use bytes::Bytes;

use super::command::Class;
use super::fingerprint::Fingerprint;
use super::machine::Machine;
use super::ready::ClassKey;
use super::record::{Counters, State};
use super::totals::Totals;
use super::tube::Tube;
use super::view::{Counts, JobState, JobView, TubeCounts};
use crate::types::{BootEpoch, Incarnation, JobId, LogPosition, Nanos, NodeId, SessionId, Times};

/// What the log says of a job: its ENQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued<'a> {
    pub class: Class<'a>,
    /// The wall time of its entry.
    pub wall: Nanos,
}

impl Machine {
    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// The latest times that the applied entries carried.
    #[must_use]
    pub fn last_times(&self) -> Times {
        self.times
    }

    /// The lowest id that no applied entry has given.
    #[must_use]
    pub fn next_job(&self) -> JobId {
        self.next_job
    }

    /// Costs the same however many tubes there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Totals { urgent, ready, reserved, delayed, buried } = self.totals;
        Counts {
            urgent,
            ready,
            reserved,
            delayed,
            buried,
            timeouts: self.timeouts,
            total_jobs: self.total_jobs,
            tubes: self.tubes.len() as u64,
            sessions: self.sessions.len() as u64,
        }
    }

    /// The counts of a tube that has a record.
    #[must_use]
    pub fn tube_counts(&self, tube: &[u8], now: Times) -> Option<TubeCounts> {
        let tube = self.tubes.named(tube)?;
        let (pause_s, pause_left_s) = match tube.pause {
            Some(pause) => (pause.duration_s, whole_seconds(pause.until.saturating_sub(now.wall))),
            None => (0, 0),
        };
        Some(TubeCounts {
            urgent: tube.ready.urgent(),
            ready: tube.ready.count(),
            reserved: tube.reserved,
            delayed: tube.delayed.len() as u64,
            buried: tube.buried.len() as u64,
            total_jobs: tube.total_jobs,
            deletes: tube.deletes,
            pauses: tube.pauses,
            pause_s,
            pause_left_s,
        })
    }

    /// How many tubes have a record and are more than one that only waits to be dropped.
    #[must_use]
    pub fn inhabited_tubes(&self) -> u64 {
        (self.tubes.len() - self.tubes.vacant().len()) as u64
    }

    /// Whether the tube has a record and is more than one that only waits to be dropped: it has jobs, or is the default one.
    #[must_use]
    pub fn is_inhabited(&self, tube: &[u8]) -> bool {
        self.tubes.named(tube).is_some_and(|tube| !tube.is_droppable())
    }

    /// The names of all tubes that have a record, in order of creation.
    pub fn tubes(&self) -> impl Iterator<Item = &Bytes> {
        self.tubes.iter().map(|tube| &tube.name)
    }

    /// Whether the tube has a record.
    #[must_use]
    pub fn has_tube(&self, tube: &[u8]) -> bool {
        self.tubes.named(tube).is_some()
    }

    /// Whether a TUBE_DROP would forget the tube: it has a record and no jobs, and is not the default one.
    #[must_use]
    pub fn is_droppable(&self, tube: &[u8]) -> bool {
        self.tubes.named(tube).is_some_and(Tube::is_droppable)
    }

    /// Whether the tube has a pause that has not ended.
    #[must_use]
    pub fn is_paused(&self, tube: &[u8]) -> bool {
        self.tubes.named(tube).is_some_and(|tube| tube.pause.is_some())
    }

    /// Whether a RESERVE of these tubes would find a job.
    #[must_use]
    pub fn has_ready<'a>(&self, tubes: impl IntoIterator<Item = &'a [u8]>) -> bool {
        tubes.into_iter().filter_map(|name| self.tubes.named(name)).any(Tube::serves)
    }

    /// Whether a job is ready in these tubes, paused or not; DEADLINE_SOON does not care for pauses.
    #[must_use]
    pub fn has_ready_even_paused<'a>(&self, tubes: impl IntoIterator<Item = &'a [u8]>) -> bool {
        tubes.into_iter().filter_map(|name| self.tubes.named(name)).any(|tube| tube.ready.count() > 0)
    }

    /// How many jobs RESERVEs of this tube would find: none while it is paused.
    #[must_use]
    pub fn ready_count(&self, tube: &[u8]) -> u64 {
        self.tubes.named(tube).filter(|tube| tube.serves()).map_or(0, |tube| tube.ready.count())
    }

    /// The latest boot of a node that is known.
    #[must_use]
    pub fn node_boot(&self, node: NodeId) -> Option<BootEpoch> {
        self.sessions.node_boot(node)
    }

    /// The directory with which a node went back, and is shut out for it.
    #[must_use]
    pub fn shut_out(&self, node: NodeId) -> Option<Incarnation> {
        self.shut_out.get(&node).copied()
    }

    /// The job that the tube serves next, also while it is paused.
    #[must_use]
    pub fn peek_ready(&self, tube: &[u8]) -> Option<JobId> {
        self.tubes.named(tube)?.ready.head().map(|head| head.job)
    }

    /// The delayed job of the tube that becomes ready first.
    #[must_use]
    pub fn peek_delayed(&self, tube: &[u8]) -> Option<JobId> {
        self.tubes.named(tube)?.delayed.first().map(|&(_, job)| job)
    }

    /// The job of the tube that was buried first.
    #[must_use]
    pub fn peek_buried(&self, tube: &[u8]) -> Option<JobId> {
        self.tubes.named(tube)?.buried.first_key_value().map(|(_, &job)| job)
    }

    /// Whether commands that name this job must carry its class: it has no record, and may be a bit.
    #[must_use]
    pub fn needs_class(&self, job: JobId) -> bool {
        job < self.next_job && !self.records.contains_key(&job)
    }

    /// Whether the job exists. `class`: its class, as the log says.
    #[must_use]
    pub fn is_live(&self, job: JobId, class: &Class<'_>) -> bool {
        self.records.contains_key(&job) || self.is_bit(job, class)
    }

    /// The class of a live job, found without the log, by asking every class of every tube where the job is only a bit. The log's
    /// rows say it at once; this is for the time in which they are damaged.
    #[must_use]
    pub fn find_class(&self, job: JobId) -> Option<Class<'_>> {
        let (tube, key) = match self.records.get(&job) {
            Some(record) => (self.tubes.existing(record.tube), record.class),
            None => self.tubes.iter().find_map(|tube| Some((tube, tube.ready.class_of_bit(job)?)))?,
        };
        let ClassKey { priority, ttr_s, delay_s } = key;
        Some(Class { tube: &tube.name, priority, ttr_s, delay_s })
    }

    fn is_bit(&self, job: JobId, class: &Class<'_>) -> bool {
        self.tubes.named(class.tube).is_some_and(|tube| tube.ready.has_bit(ClassKey::of(class), job))
    }

    /// A live job. `enqueued`: what the log says of it.
    #[must_use]
    pub fn job_view(&self, job: JobId, enqueued: &Enqueued<'_>, now: Times) -> Option<JobView> {
        let age_s = whole_seconds(now.wall.saturating_sub(enqueued.wall));
        let Some(record) = self.records.get(&job) else {
            let class = &enqueued.class;
            return self.is_bit(job, class).then(|| JobView {
                job,
                tube: Bytes::copy_from_slice(class.tube),
                state: JobState::Ready,
                priority: class.priority,
                age_s,
                delay_s: class.delay_s,
                ttr_s: class.ttr_s.max(1),
                time_left_s: 0,
                reserves: 0,
                timeouts: 0,
                releases: 0,
                buries: 0,
                kicks: 0,
            });
        };
        let (state, time_left) = match record.state {
            State::Ready => (JobState::Ready, Nanos::ZERO),
            State::Delayed { until } => (JobState::Delayed, until.saturating_sub(now.wall)),
            State::Reserved(reservation) => (JobState::Reserved, reservation.deadline.saturating_sub(now.lease)),
            State::Buried { .. } => (JobState::Buried, Nanos::ZERO),
        };
        let Counters { reserves, timeouts, releases, buries, kicks } = record.counters;
        Some(JobView {
            job,
            tube: self.tubes.existing(record.tube).name.clone(),
            state,
            priority: record.priority,
            age_s,
            delay_s: record.delay_s,
            ttr_s: record.ttr_s(),
            time_left_s: whole_seconds(time_left),
            reserves,
            timeouts,
            releases,
            buries,
            kicks,
        })
    }

    #[must_use]
    pub fn session_open(&self, session: SessionId) -> bool {
        self.sessions.get(session).is_some()
    }

    /// The number of the session's last command that happened, while it is open.
    #[must_use]
    pub fn session_last_seq(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(session).map(|open| open.last_seq)
    }

    /// How many jobs the session has reserved.
    #[must_use]
    pub fn session_reservations(&self, session: SessionId) -> usize {
        self.sessions.get(session).map_or(0, |open| open.reserved.len())
    }

    /// The lease time at which the session's first reservation to end ends.
    #[must_use]
    pub fn session_soonest_deadline(&self, session: SessionId) -> Option<Nanos> {
        self.sessions.get(session)?.reserved.first().map(|&(deadline, _)| deadline)
    }

    /// All open sessions, in order.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.iter().map(|(id, _)| id)
    }

    /// Who holds the job, and under which fencing token.
    #[must_use]
    pub fn reservation(&self, job: JobId) -> Option<(SessionId, u64)> {
        let reservation = self.records.get(&job)?.reservation()?;
        Some((reservation.session, reservation.epoch))
    }

    /// Over all live jobs.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut sum = Fingerprint::default();
        self.tubes.iter().for_each(|tube| sum += tube.fingerprint);
        sum
    }
}

/// Seconds that are over, as stats show them.
fn whole_seconds(nanos: Nanos) -> u64 {
    nanos.0 / Nanos::from_secs(1).0
}
