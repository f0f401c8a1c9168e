//! The queue as a list of jobs that is searched from end to end: slow, and plain enough to be believed. It knows
//! nothing of classes, bits, records or indexes.

use std::collections::BTreeMap;

use beaver_raft::job::command::{Class, Command, Numbered, Origin, Outcome};
use beaver_raft::job::view::{JobState, JobView};
use beaver_raft::types::{BootEpoch, JobId, Nanos, NodeId, SessionId, Times};
use bytes::Bytes;

#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    pub tube: Vec<u8>,
    pub enqueued: Nanos,
    pub priority: u32,
    pub delay_s: u32,
    pub ttr_s: u32,
    pub counters: [u32; 5],
    pub held: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Ready,
    Delayed(Nanos),
    Reserved { session: SessionId, epoch: u64, deadline: Nanos },
    Buried(u64),
}

#[derive(Debug, Clone)]
pub struct Tube {
    pub name: Vec<u8>,
    pub paused_until: Option<Nanos>,
    pub total_jobs: u64,
    pub deletes: u64,
    pub pauses: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub jobs: Vec<Job>,
    pub tubes: Vec<Tube>,
    pub open: BTreeMap<SessionId, u64>,
    ever_opened: Vec<SessionId>,
    boots: BTreeMap<NodeId, BootEpoch>,
    pub now: Times,
    pub next_job: u64,
    epochs: u64,
    burials: u64,
    pub timeouts: u64,
}

const RESERVES: usize = 0;
const TIMEOUTS: usize = 1;
const RELEASES: usize = 2;
const BURIES: usize = 3;
const KICKS: usize = 4;

fn after(start: Nanos, seconds: u32) -> Nanos {
    start.saturating_add(Nanos::from_secs(seconds.into()))
}

impl Model {
    pub fn new() -> Model {
        let mut model = Model { next_job: 1, ..Model::default() };
        model.tube(b"default");
        model
    }

    fn tube(&mut self, name: &[u8]) -> &mut Tube {
        if self.find_tube(name).is_none() {
            let name = name.to_vec();
            self.tubes.push(Tube { name, paused_until: None, total_jobs: 0, deletes: 0, pauses: 0 });
        }
        self.tubes.iter_mut().find(|tube| tube.name == name).expect("it was created")
    }

    pub fn find_tube(&self, name: &[u8]) -> Option<&Tube> {
        self.tubes.iter().find(|tube| tube.name == name)
    }

    /// The clocks move, and what is due happens.
    pub fn begin_entry(&mut self, times: Times) {
        self.now = times;
        for tube in &mut self.tubes {
            tube.paused_until = tube.paused_until.filter(|&until| until > times.wall);
        }
        for job in &mut self.jobs {
            match job.held {
                Held::Delayed(until) if until <= times.wall => job.held = Held::Ready,
                Held::Reserved { deadline, .. } if deadline <= times.lease => {
                    job.held = Held::Ready;
                    job.counters[TIMEOUTS] += 1;
                    self.timeouts += 1;
                }
                _ => {}
            }
        }
    }

    pub fn apply(&mut self, numbered: &Numbered<'_>) -> Option<Outcome> {
        let job = JobId(self.next_job);
        if let Command::Enqueue { .. } = numbered.command {
            self.next_job += 1;
        }
        let Origin::Session { session, seq } = numbered.origin else {
            match numbered.command {
                Command::NodeBoot { node, boot } => self.boot(node, boot),
                Command::NodeWentBack { .. } => {}
                Command::TubeDrop { tube } if tube != b"default" && self.jobs.iter().all(|job| job.tube != tube) => {
                    self.tubes.retain(|other| other.name != tube);
                }
                _ => {}
            }
            return None;
        };
        if let Command::SessionOpen = numbered.command {
            return self.open(session).then_some(Outcome::Opened);
        }
        let Some(&last) = self.open.get(&session) else { return Some(Outcome::SessionUnknown) };
        if seq != last + 1 {
            return None;
        }
        let outcome = self.execute(session, job, &numbered.command);
        if outcome != Outcome::NothingReady
            && let Some(last) = self.open.get_mut(&session)
        {
            *last = seq;
        }
        Some(outcome)
    }

    fn open(&mut self, session: SessionId) -> bool {
        self.boot(session.node, session.boot);
        let is_current = self.boots[&session.node] == session.boot;
        let same_boot = |other: &&SessionId| (other.node, other.boot) == (session.node, session.boot);
        let is_late = self.ever_opened.iter().filter(same_boot).any(|other| other.number >= session.number);
        if !is_current || is_late {
            return false;
        }
        self.ever_opened.push(session);
        self.open.insert(session, 0);
        true
    }

    fn boot(&mut self, node: NodeId, boot: BootEpoch) {
        let known = self.boots.entry(node).or_insert(boot);
        *known = (*known).max(boot);
        let older: Vec<_> = self.open.keys().copied().filter(|open| open.node == node && open.boot < boot).collect();
        older.into_iter().for_each(|session| self.close(session));
    }

    fn close(&mut self, session: SessionId) {
        self.open.remove(&session);
        for job in &mut self.jobs {
            if matches!(job.held, Held::Reserved { session: by, .. } if by == session) {
                job.held = Held::Ready;
            }
        }
    }

    fn execute(&mut self, session: SessionId, id: JobId, command: &Command<'_>) -> Outcome {
        match *command {
            Command::Enqueue { class, .. } => self.enqueue(id, &class),
            Command::Reserve { tubes } => {
                let is_served = |job: &&Job| {
                    job.held == Held::Ready
                        && tubes.iter().any(|name| name == job.tube)
                        && self.find_tube(&job.tube).is_some_and(|tube| tube.paused_until.is_none())
                };
                let next =
                    self.jobs.iter().filter(is_served).min_by_key(|job| (job.priority, job.id)).map(|job| job.id);
                next.map_or(Outcome::NothingReady, |job| self.reserve(session, job))
            }
            Command::ReserveJob { job, .. } => match self.job(job, |held| !matches!(held, Held::Reserved { .. })) {
                Some(_) => self.reserve(session, job),
                None => Outcome::NotFound,
            },
            Command::Unreserve { job, epoch } => {
                let is_it = |held| matches!(held, Held::Reserved { session: by, epoch: token, .. } if (by, token) == (session, epoch));
                let Some(job) = self.job(job, is_it) else { return Outcome::NotFound };
                job.held = Held::Ready;
                job.counters[RESERVES] -= 1;
                Outcome::Unreserved
            }
            Command::Delete { job, .. } => {
                let may = |held| !matches!(held, Held::Reserved { session: by, .. } if by != session);
                let Some(found) = self.job(job, may) else { return Outcome::NotFound };
                let tube = found.tube.clone();
                self.tube(&tube).deletes += 1;
                self.jobs.retain(|other| other.id != job);
                Outcome::Deleted
            }
            Command::Release { job, priority, delay_s } => {
                let until = after(self.now.wall, delay_s);
                let Some(job) = self.own(session, job) else { return Outcome::NotFound };
                (job.priority, job.delay_s) = (priority, delay_s);
                job.counters[RELEASES] += 1;
                job.held = if delay_s == 0 { Held::Ready } else { Held::Delayed(until) };
                Outcome::Released
            }
            Command::Bury { job, priority } => {
                let order = self.burials;
                let Some(job) = self.own(session, job) else { return Outcome::NotFound };
                job.priority = priority;
                job.counters[BURIES] += 1;
                job.held = Held::Buried(order);
                self.burials += 1;
                Outcome::Buried
            }
            Command::Touch { job } => {
                let now = self.now.lease;
                let Some(job) = self.own(session, job) else { return Outcome::NotFound };
                let ttr_s = job.ttr_s;
                if let Held::Reserved { deadline, .. } = &mut job.held {
                    *deadline = after(now, ttr_s);
                }
                Outcome::Touched
            }
            Command::Kick { tube, bound } => self.kick(tube, bound),
            Command::KickJob { job } => {
                let Some(job) = self.job(job, |held| matches!(held, Held::Delayed(_) | Held::Buried(_))) else {
                    return Outcome::NotFound;
                };
                job.held = Held::Ready;
                job.counters[KICKS] += 1;
                Outcome::JobKicked
            }
            Command::Pause { tube, duration_s, referenced } => {
                if self.find_tube(tube).is_none() && !referenced {
                    return Outcome::NotFound;
                }
                let until = after(self.now.wall, duration_s);
                let tube = self.tube(tube);
                tube.pauses += 1;
                tube.paused_until = (duration_s > 0).then_some(until);
                Outcome::Paused
            }
            Command::SessionClosed => {
                self.close(session);
                Outcome::Closed
            }
            _ => unreachable!("no command of a session"),
        }
    }

    fn enqueue(&mut self, id: JobId, class: &Class<'_>) -> Outcome {
        self.tube(class.tube).total_jobs += 1;
        let held = if class.delay_s == 0 { Held::Ready } else { Held::Delayed(after(self.now.wall, class.delay_s)) };
        self.jobs.push(Job {
            id,
            tube: class.tube.to_vec(),
            enqueued: self.now.wall,
            priority: class.priority,
            delay_s: class.delay_s,
            ttr_s: class.ttr_s.max(1),
            counters: [0; 5],
            held,
        });
        Outcome::Enqueued { job: id }
    }

    fn reserve(&mut self, session: SessionId, id: JobId) -> Outcome {
        self.epochs += 1;
        let (epoch, now) = (self.epochs, self.now.lease);
        let job = self.job(id, |_| true).expect("it was found");
        job.counters[RESERVES] += 1;
        job.held = Held::Reserved { session, epoch, deadline: after(now, job.ttr_s) };
        Outcome::Reserved { job: id, epoch, ttr_s: job.ttr_s }
    }

    fn kick(&mut self, tube: &[u8], bound: u64) -> Outcome {
        let mut buried: Vec<&mut Job> = Vec::new();
        let mut delayed: Vec<&mut Job> = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| job.tube == tube) {
            match job.held {
                Held::Buried(_) => buried.push(job),
                Held::Delayed(_) => delayed.push(job),
                _ => {}
            }
        }
        buried.sort_by_key(|job| if let Held::Buried(order) = job.held { order } else { 0 });
        delayed.sort_by_key(
            |job| if let Held::Delayed(until) = job.held { (until, job.id) } else { (Nanos::ZERO, job.id) },
        );
        let chosen = if buried.is_empty() { delayed } else { buried };
        let mut count = 0;
        for job in chosen.into_iter().take(usize::try_from(bound).expect("small")) {
            job.held = Held::Ready;
            job.counters[KICKS] += 1;
            count += 1;
        }
        Outcome::Kicked { count }
    }

    fn job(&mut self, id: JobId, is_fit: impl FnOnce(Held) -> bool) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id).filter(|job| is_fit(job.held))
    }

    fn own(&mut self, session: SessionId, id: JobId) -> Option<&mut Job> {
        self.job(id, |held| matches!(held, Held::Reserved { session: by, .. } if by == session))
    }

    pub fn view(&self, id: JobId) -> Option<JobView> {
        let job = self.jobs.iter().find(|job| job.id == id)?;
        let (state, left) = match job.held {
            Held::Ready => (JobState::Ready, Nanos::ZERO),
            Held::Delayed(until) => (JobState::Delayed, until.saturating_sub(self.now.wall)),
            Held::Reserved { deadline, .. } => (JobState::Reserved, deadline.saturating_sub(self.now.lease)),
            Held::Buried(_) => (JobState::Buried, Nanos::ZERO),
        };
        let [reserves, timeouts, releases, buries, kicks] = job.counters;
        Some(JobView {
            job: id,
            tube: Bytes::from(job.tube.clone()),
            state,
            priority: job.priority,
            age_s: self.now.wall.saturating_sub(job.enqueued).0 / 1_000_000_000,
            delay_s: job.delay_s,
            ttr_s: job.ttr_s,
            time_left_s: left.0 / 1_000_000_000,
            reserves,
            timeouts,
            releases,
            buries,
            kicks,
        })
    }

    /// The job of a tube with the smallest key; the key is absent for jobs that do not qualify.
    pub fn first<K: Ord>(&self, tube: &[u8], key: impl Fn(&Job) -> Option<K>) -> Option<JobId> {
        let keyed = self.jobs.iter().filter(|job| job.tube == tube).filter_map(|job| Some((key(job)?, job.id)));
        keyed.min().map(|(_, id)| id)
    }
}
