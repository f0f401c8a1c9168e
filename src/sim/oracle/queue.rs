//! The queue as a sequential model: every job a plain struct, every rule a linear search. It shares no code with the
//! state machine that it judges, only the format of commands.
//!
//! Replaying a log through it tells what every command in it came to. Two live reservations of one job, a delivery behind
//! an ACK or a wrong order cannot be expressed here, so a system that differs from it is wrong (or this model is).

use std::collections::{BTreeMap, BTreeSet};

use crate::job::codec::{CodecError, Commands};
use crate::job::command::{Batch, Class, Command, Numbered, Origin, Outcome};
use crate::types::{BodyHash, BootEpoch, Index, JobId, Nanos, NodeId, SessionId, Times};

/// At most so many transitions are the work of one entry (DESIGN 5).
const DUE_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Ready,
    Delayed { until: Nanos },
    Reserved { session: SessionId, until: Nanos, epoch: u64 },
    Buried { order: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    tube: Vec<u8>,
    /// As it was put.
    put_priority: u32,
    put_delay_s: u32,
    ttr_s: u32,
    body: BodyHash,
    priority: u32,
    delay_s: u32,
    state: State,
    /// How often it was reserved, timed out, released, buried and kicked.
    counters: [u32; 5],
}

const RESERVES: usize = 0;
const TIMEOUTS: usize = 1;
const RELEASES: usize = 2;
const BURIES: usize = 3;
const KICKS: usize = 4;

impl Job {
    /// It waits just as it was put; the system then keeps no record of it, and needs to be told its class.
    fn is_plain(&self) -> bool {
        self.state == State::Ready
            && self.counters == [0; 5]
            && self.priority == self.put_priority
            && self.delay_s == self.put_delay_s
    }

    fn is_of(&self, class: &Class<'_>) -> bool {
        let put = (self.tube.as_slice(), self.put_priority, self.put_delay_s, self.ttr_s);
        put == (class.tube, class.priority, class.delay_s, class.ttr_s)
    }

    fn is_reserved_by(&self, by: SessionId) -> bool {
        matches!(self.state, State::Reserved { session, .. } if session == by)
    }

    fn ttr(&self) -> Nanos {
        Nanos::from_secs(u64::from(self.ttr_s.max(1)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boot {
    epoch: BootEpoch,
    session_highest: Option<u64>,
}

/// What one numbered command came to, and what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub index: Index,
    pub session: SessionId,
    pub seq: u64,
    pub what: What,
    pub outcome: Outcome,
}

/// The part of a command that tells it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Enqueue(BodyHash),
    Reserve,
    ReserveJob(JobId),
    Unreserve(JobId),
    Delete(JobId),
    Release(JobId),
    Bury(JobId),
    Touch(JobId),
    Kick,
    KickJob(JobId),
    Pause,
    Open,
    Close,
}

/// The state of one shard after some entry.
#[derive(Debug, Clone)]
pub struct QueueModel {
    times: Times,
    jobs: BTreeMap<JobId, Job>,
    /// Tubes that have a record, with the end of their pause if they have one.
    tubes: BTreeMap<Vec<u8>, Option<Nanos>>,
    /// In order of creation.
    tube_order: Vec<Vec<u8>>,
    sessions: BTreeMap<SessionId, u64>,
    boots: BTreeMap<NodeId, Boot>,
    next_job: JobId,
    next_epoch: u64,
    next_burial: u64,
    /// No reservation, and no delay or pause, ends before these; spares the search at most entries.
    lease_due: Nanos,
    wall_due: Nanos,
    /// From which entry to which each job existed; the last is none while it does.
    lives: BTreeMap<JobId, (Index, Option<Index>)>,
    index: Index,
}

impl Default for QueueModel {
    fn default() -> QueueModel {
        QueueModel::new()
    }
}

impl QueueModel {
    #[must_use]
    pub fn new() -> QueueModel {
        QueueModel {
            times: Times::default(),
            jobs: BTreeMap::new(),
            tubes: BTreeMap::from([(b"default".to_vec(), None)]),
            tube_order: vec![b"default".to_vec()],
            sessions: BTreeMap::new(),
            boots: BTreeMap::new(),
            next_job: JobId(1),
            next_epoch: 1,
            next_burial: 0,
            lease_due: Nanos(u64::MAX),
            wall_due: Nanos(u64::MAX),
            lives: BTreeMap::new(),
            index: Index::ZERO,
        }
    }

    /// The entry with which the job came to be, and the one that ended it.
    #[must_use]
    pub fn life(&self, job: JobId) -> Option<(Index, Option<Index>)> {
        self.lives.get(&job).copied()
    }

    #[cfg(test)]
    pub(super) fn set_life_for_test(&mut self, job: JobId, begin: Index, end: Option<Index>) {
        self.lives.insert(job, (begin, end));
    }

    #[must_use]
    pub fn body(&self, job: JobId) -> Option<BodyHash> {
        self.jobs.get(&job).map(|job| job.body)
    }

    /// The jobs that exist.
    pub fn live(&self) -> impl Iterator<Item = JobId> + '_ {
        self.jobs.keys().copied()
    }

    /// Counts of ready, reserved, delayed and buried jobs.
    #[must_use]
    pub fn counts(&self) -> [u64; 4] {
        let mut counts = [0; 4];
        for job in self.jobs.values() {
            let place = match job.state {
                State::Ready => 0,
                State::Reserved { .. } => 1,
                State::Delayed { .. } => 2,
                State::Buried { .. } => 3,
            };
            counts[place] += 1;
        }
        counts
    }

    /// An entry without commands.
    pub fn advance(&mut self, index: Index, times: Times) {
        assert_eq!(index, self.index.next(), "a log is replayed entry by entry");
        self.index = index;
        self.times = Times { lease: self.times.lease.max(times.lease), wall: self.times.wall.max(times.wall) };
        if self.times.lease < self.lease_due && self.times.wall < self.wall_due {
            return;
        }
        for _ in 0..DUE_MAX {
            if !self.expire_one() {
                self.find_soonest();
                break;
            }
        }
    }

    fn find_soonest(&mut self) {
        self.lease_due = Nanos(u64::MAX);
        self.wall_due = self.tubes.values().flatten().copied().min().unwrap_or(Nanos(u64::MAX));
        for job in self.jobs.values() {
            match job.state {
                State::Reserved { until, .. } => self.lease_due = self.lease_due.min(until),
                State::Delayed { until } => self.wall_due = self.wall_due.min(until),
                State::Ready | State::Buried { .. } => {}
            }
        }
    }

    /// An entry of commands. What its commands came to; those that were skipped came to nothing.
    ///
    /// # Errors
    /// If the bytes are no commands.
    pub fn apply(&mut self, batch: &Batch<'_>) -> Result<Vec<Decided>, CodecError> {
        self.advance(batch.index, batch.times);
        let mut decided = Vec::new();
        let mut job = batch.first_job;
        for located in Commands::new(batch.commands) {
            let Numbered { origin, command } = located?.numbered;
            let given = job;
            if matches!(command, Command::Enqueue { .. }) {
                job = JobId(job.0 + 1);
                self.next_job = job;
            }
            match origin {
                Origin::System => self.decide_for_system(&command),
                Origin::Session { session, seq } => {
                    if let Some(outcome) = self.decide_once(session, seq, &command, given) {
                        let what = what(&command);
                        decided.push(Decided { index: batch.index, session, seq, what, outcome });
                    }
                }
            }
        }
        Ok(decided)
    }

    // What falls due: pauses, then reservations, then delays, each in the order of (time, tube or job).

    fn expire_one(&mut self) -> bool {
        let pauses = self.tube_order.iter().enumerate().filter_map(|(order, name)| Some((self.tubes[name]?, order)));
        if let Some((_, order)) = pauses.filter(|(until, _)| *until <= self.times.wall).min() {
            self.tubes.insert(self.tube_order[order].clone(), None);
            return true;
        }
        let reserved = self.jobs.iter().filter_map(|(id, job)| match job.state {
            State::Reserved { until, .. } if until <= self.times.lease => Some((until, *id)),
            _ => None,
        });
        if let Some((_, id)) = reserved.min() {
            self.change(id, |job| {
                job.state = State::Ready;
                job.counters[TIMEOUTS] += 1;
            });
            return true;
        }
        let delayed = self.jobs.iter().filter_map(|(id, job)| match job.state {
            State::Delayed { until } if until <= self.times.wall => Some((until, *id)),
            _ => None,
        });
        if let Some((_, id)) = delayed.min() {
            self.change(id, |job| job.state = State::Ready);
            return true;
        }
        false
    }

    fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        change(self.jobs.get_mut(&id).expect("only live jobs change"));
    }

    // Sessions.

    fn decide_once(&mut self, session: SessionId, seq: u64, command: &Command<'_>, given: JobId) -> Option<Outcome> {
        if matches!(command, Command::SessionOpen) {
            return self.open(session).then_some(Outcome::Opened);
        }
        let Some(last) = self.sessions.get(&session).copied() else { return Some(Outcome::SessionUnknown) };
        if seq != last + 1 {
            return None;
        }
        let outcome = self.decide(session, command, given);
        if outcome != Outcome::NothingReady && self.sessions.contains_key(&session) {
            self.sessions.insert(session, seq);
        }
        Some(outcome)
    }

    fn open(&mut self, session: SessionId) -> bool {
        self.boot(session.node, session.boot);
        let boot = self.boots.get_mut(&session.node).expect("just booted");
        if boot.epoch != session.boot || boot.session_highest.is_some_and(|highest| session.number <= highest) {
            return false;
        }
        boot.session_highest = Some(session.number);
        self.sessions.insert(session, 0);
        true
    }

    fn close(&mut self, session: SessionId) {
        for job in self.jobs.values_mut().filter(|job| job.is_reserved_by(session)) {
            job.state = State::Ready;
        }
        self.sessions.remove(&session);
    }

    fn boot(&mut self, node: NodeId, epoch: BootEpoch) {
        if self.boots.get(&node).is_some_and(|boot| boot.epoch >= epoch) {
            return;
        }
        let earlier: Vec<SessionId> = self.sessions.keys().filter(|session| session.node == node).copied().collect();
        earlier.into_iter().for_each(|session| self.close(session));
        self.boots.insert(node, Boot { epoch, session_highest: None });
    }

    // Commands.

    fn decide_for_system(&mut self, command: &Command<'_>) {
        match command {
            Command::NodeBoot { node, boot } => self.boot(*node, *boot),
            // No job and no session is touched by it.
            Command::NodeWentBack { .. } => {}
            Command::TubeDrop { tube } => {
                let is_used = self.jobs.values().any(|job| job.tube == *tube);
                if *tube != b"default" && !is_used && self.tubes.remove(*tube).is_some() {
                    self.tube_order.retain(|name| name != tube);
                }
            }
            _ => {}
        }
    }

    fn create_tube(&mut self, name: &[u8]) {
        if !self.tubes.contains_key(name) {
            self.tubes.insert(name.to_vec(), None);
            self.tube_order.push(name.to_vec());
        }
    }

    fn decide(&mut self, session: SessionId, command: &Command<'_>, given: JobId) -> Outcome {
        match *command {
            Command::Enqueue { class, body_hash, .. } => self.enqueue(given, &class, body_hash),
            Command::Reserve { tubes } => {
                let served: BTreeSet<&[u8]> =
                    tubes.iter().filter(|name| self.tubes.get(*name).is_some_and(Option::is_none)).collect();
                let ready = self.jobs.iter().filter(|(_, job)| job.state == State::Ready);
                let ready = ready.filter(|(_, job)| served.contains(job.tube.as_slice()));
                match ready.map(|(id, job)| (job.priority, *id)).min() {
                    Some((_, id)) => self.reserve(session, id),
                    None => Outcome::NothingReady,
                }
            }
            Command::ReserveJob { job, class } => match self.named(job, class) {
                Err(instead) => instead,
                Ok(found) if matches!(found.state, State::Reserved { .. }) => Outcome::NotFound,
                Ok(_) => self.reserve(session, job),
            },
            Command::Unreserve { job, epoch } => match self.jobs.get_mut(&job) {
                Some(found) if found.is_reserved_by(session) && has_epoch(found, epoch) => {
                    found.state = State::Ready;
                    found.counters[RESERVES] -= 1;
                    Outcome::Unreserved
                }
                _ => Outcome::NotFound,
            },
            Command::Delete { job, class } => match self.named(job, class) {
                Err(instead) => instead,
                Ok(found) if matches!(found.state, State::Reserved { session: by, .. } if by != session) => {
                    Outcome::NotFound
                }
                Ok(_) => {
                    self.jobs.remove(&job);
                    self.lives.get_mut(&job).expect("it lived").1 = Some(self.index);
                    Outcome::Deleted
                }
            },
            Command::Release { job, priority, delay_s } => {
                let state = self.ready_after(delay_s);
                self.change_own(session, job, Outcome::Released, |job| {
                    (job.priority, job.delay_s, job.state) = (priority, delay_s, state);
                    job.counters[RELEASES] += 1;
                })
            }
            Command::Bury { job, priority } => {
                let order = self.next_burial;
                let outcome = self.change_own(session, job, Outcome::Buried, |job| {
                    (job.priority, job.state) = (priority, State::Buried { order });
                    job.counters[BURIES] += 1;
                });
                self.next_burial += u64::from(outcome == Outcome::Buried);
                outcome
            }
            Command::Touch { job } => {
                let now = self.times.lease;
                self.change_own(session, job, Outcome::Touched, |job| {
                    let later = now.saturating_add(job.ttr());
                    if let State::Reserved { until, .. } = &mut job.state {
                        *until = later;
                    }
                })
            }
            Command::Kick { tube, bound } => self.kick(tube, bound),
            Command::KickJob { job } => match self.jobs.get_mut(&job) {
                Some(found) if matches!(found.state, State::Buried { .. } | State::Delayed { .. }) => {
                    found.state = State::Ready;
                    found.counters[KICKS] += 1;
                    Outcome::JobKicked
                }
                _ => Outcome::NotFound,
            },
            Command::Pause { tube, duration_s, referenced } => {
                if !self.tubes.contains_key(tube) && !referenced {
                    return Outcome::NotFound;
                }
                self.create_tube(tube);
                let until = self.times.wall.saturating_add(Nanos::from_secs(u64::from(duration_s)));
                self.wall_due = self.wall_due.min(until);
                self.tubes.insert(tube.to_vec(), (duration_s > 0).then_some(until));
                Outcome::Paused
            }
            Command::SessionClosed => {
                self.close(session);
                Outcome::Closed
            }
            Command::SessionOpen
            | Command::NodeBoot { .. }
            | Command::NodeWentBack { .. }
            | Command::Tick
            | Command::TubeDrop { .. } => {
                unreachable!("decided before")
            }
        }
    }

    fn enqueue(&mut self, id: JobId, class: &Class<'_>, body: BodyHash) -> Outcome {
        self.create_tube(class.tube);
        let state = self.ready_after(class.delay_s);
        let job = Job {
            tube: class.tube.to_vec(),
            put_priority: class.priority,
            put_delay_s: class.delay_s,
            ttr_s: class.ttr_s,
            body,
            priority: class.priority,
            delay_s: class.delay_s,
            state,
            counters: [0; 5],
        };
        assert!(self.jobs.insert(id, job).is_none(), "an id is given once");
        self.lives.insert(id, (self.index, None));
        Outcome::Enqueued { job: id }
    }

    fn ready_after(&mut self, delay_s: u32) -> State {
        if delay_s == 0 {
            return State::Ready;
        }
        let until = self.times.wall.saturating_add(Nanos::from_secs(u64::from(delay_s)));
        self.wall_due = self.wall_due.min(until);
        State::Delayed { until }
    }

    fn reserve(&mut self, session: SessionId, id: JobId) -> Outcome {
        let (epoch, now) = (self.next_epoch, self.times.lease);
        self.next_epoch += 1;
        let job = self.jobs.get_mut(&id).expect("only live jobs are reserved");
        assert!(!matches!(job.state, State::Reserved { .. }), "a job has one reservation");
        let until = now.saturating_add(job.ttr());
        self.lease_due = self.lease_due.min(until);
        job.state = State::Reserved { session, until, epoch };
        job.counters[RESERVES] += 1;
        Outcome::Reserved { job: id, epoch, ttr_s: job.ttr_s.max(1) }
    }

    /// A job that a command names with the class that it may have; or what is answered instead.
    fn named(&self, id: JobId, class: Option<Class<'_>>) -> Result<&Job, Outcome> {
        let job = self.jobs.get(&id);
        match (job, class) {
            (Some(job), _) if !job.is_plain() => Ok(job),
            _ if id >= self.next_job => Err(Outcome::NotFound),
            (_, None) => Err(Outcome::Again),
            (Some(job), Some(class)) if job.is_of(&class) => Ok(job),
            _ => Err(Outcome::NotFound),
        }
    }

    fn change_own(&mut self, session: SessionId, id: JobId, done: Outcome, change: impl FnOnce(&mut Job)) -> Outcome {
        match self.jobs.get_mut(&id).filter(|job| job.is_reserved_by(session)) {
            Some(job) => {
                change(job);
                done
            }
            None => Outcome::NotFound,
        }
    }

    fn kick(&mut self, tube: &[u8], bound: u64) -> Outcome {
        let of_tube = || self.jobs.iter().filter(|(_, job)| job.tube == tube);
        let mut line: Vec<(u64, JobId)> = of_tube()
            .filter_map(|(id, job)| match job.state {
                State::Buried { order } => Some((order, *id)),
                _ => None,
            })
            .collect();
        if line.is_empty() {
            line = of_tube()
                .filter_map(|(id, job)| match job.state {
                    State::Delayed { until } => Some((until.0, *id)),
                    _ => None,
                })
                .collect();
        }
        line.sort_unstable();
        line.truncate(usize::try_from(bound).unwrap_or(usize::MAX));
        for (_, id) in &line {
            self.change(*id, |job| {
                job.state = State::Ready;
                job.counters[KICKS] += 1;
            });
        }
        Outcome::Kicked { count: line.len() as u64 }
    }
}

fn has_epoch(job: &Job, wanted: u64) -> bool {
    matches!(job.state, State::Reserved { epoch, .. } if epoch == wanted)
}

fn what(command: &Command<'_>) -> What {
    match *command {
        Command::Enqueue { body_hash, .. } => What::Enqueue(body_hash),
        Command::Reserve { .. } => What::Reserve,
        Command::ReserveJob { job, .. } => What::ReserveJob(job),
        Command::Unreserve { job, .. } => What::Unreserve(job),
        Command::Delete { job, .. } => What::Delete(job),
        Command::Release { job, .. } => What::Release(job),
        Command::Bury { job, .. } => What::Bury(job),
        Command::Touch { job } => What::Touch(job),
        Command::Kick { .. } => What::Kick,
        Command::KickJob { job } => What::KickJob(job),
        Command::Pause { .. } => What::Pause,
        Command::SessionOpen => What::Open,
        Command::SessionClosed => What::Close,
        Command::NodeBoot { .. } | Command::NodeWentBack { .. } | Command::Tick | Command::TubeDrop { .. } => {
            unreachable!("the system's own commands have no session")
        }
    }
}

#[cfg(test)]
mod tests;
