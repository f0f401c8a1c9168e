//! Jobs that live and of which something below the log's floor cannot be read here any more: they are looked for at the other nodes, while
//! the files that they are in are mended.
//!
//! It must never take for the job what is not an ENQ of its class with the body that it names, nor say that there is no job which there
//! is; and where nobody has one that a client waits for, the node stops, as for all that was durable and cannot be read.

use std::collections::BTreeMap;

use super::effect::{ConnectionId, Effect, Keep, Stop};
use super::reads::BodyRead;
use super::{Moment, Shard};
use crate::api::Answer;
use crate::job::Enqueued;
use crate::job::codec::whole_enqueue;
use crate::net::message::{Given, GivenJob, JOBS_PER_PULL_MAX, Part, PeerMessage, Pull, Pulled};
use crate::types::{Index, JobId, Nanos, NodeId};
use crate::wal::catalog::{BadRows, EnqueueAt, Found, PieceName};

/// Who did not have it is asked again after this time: its newest snapshot may be another one for a moment.
const ASK_EVERY: Nanos = Nanos::from_millis(200);

/// After this, nobody has it, and no file is mended.
const PATIENCE: Nanos = Nanos::from_secs(10);

/// A file that could not be mended is looked at again after this time, if somebody still finds it damaged.
const MEND_AGAIN_AFTER: Nanos = Nanos::from_secs(60);

/// Who waits for what is missing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waiting {
    Body(BodyRead),
    Stats { connection: ConnectionId, ticket: u64 },
}

impl Waiting {
    fn connection(&self) -> ConnectionId {
        match self {
            Waiting::Body(read) => read.connection,
            Waiting::Stats { connection, .. } => *connection,
        }
    }
}

#[derive(Debug)]
struct Missing {
    waiting: Vec<Waiting>,
    /// A file is mended with it.
    is_for_file: bool,
    /// Where it could not be read; none where that is not known, because rows are damaged.
    at: Option<EnqueueAt>,
    /// Why it cannot be read here.
    why: Stop,
    since: Nanos,
    ask_at: Nanos,
}

#[derive(Debug, Default)]
pub struct Copies {
    missing: BTreeMap<JobId, Missing>,
    /// How often was asked.
    asked: usize,
    /// Files that are being mended, or could not be; and when they may be looked at again.
    mending: BTreeMap<PieceName, Nanos>,
}

impl Copies {
    pub(super) fn next_deadline(&self) -> Nanos {
        self.missing.values().map(|missing| missing.ask_at).min().unwrap_or(Nanos(u64::MAX))
    }

    /// Those who wait for one.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.missing.values().flat_map(|missing| &missing.waiting).map(Waiting::connection)
    }

    fn miss(&mut self, moment: Moment, job: JobId, at: Option<EnqueueAt>, why: Stop) -> &mut Missing {
        let (since, ask_at) = (moment.now, moment.now);
        let missing = Missing { waiting: Vec::new(), is_for_file: false, at, why, since, ask_at };
        self.missing.entry(job).or_insert(missing)
    }
}

impl Shard {
    /// A read of a live job failed, for which a node would stop. Above the floor it does, and repairs its log as it starts again.
    pub(super) fn seek_copy(&mut self, moment: Moment, read: BodyRead, index: Index, why: Stop) {
        if index > self.raft.log().floor().index {
            return self.stop(why);
        }
        if self.peers.is_empty() {
            return self.stop(Stop::JobLost { job: read.job, why: why.to_string() });
        }
        let found = self.catalog.find(read.job).ok().flatten();
        let at = found.and_then(|found| found.at).map(|(_, at)| at);
        if let Some(at) = at {
            self.catalog.note_bad(at.piece());
        }
        self.counters.copies_sought += 1;
        self.copies.miss(moment, read.job, at, why).waiting.push(Waiting::Body(read));
        self.seek_copies(moment);
    }

    /// Where a live job stands is not known as long as these rows are damaged: it is answered when they are made again, or when another
    /// node gives the job.
    pub(super) fn await_rows(&mut self, moment: Moment, job: JobId, waiting: Waiting, rows: BadRows) {
        let BadRows(name) = rows;
        let why = Stop::UnreadableLog { why: format!("the rows of {name} are damaged and could not be made again") };
        self.counters.copies_sought += 1;
        self.copies.miss(moment, job, None, why).waiting.push(waiting);
        self.seek_copies(moment);
    }

    pub(super) fn seek_copies(&mut self, moment: Moment) {
        let is_late = |missing: &Missing| moment.now >= missing.since.saturating_add(PATIENCE);
        let late: Vec<JobId> =
            self.copies.missing.iter().filter(|(_, missing)| is_late(missing)).map(|(&job, _)| job).collect();
        for job in late {
            let Some(Missing { waiting, why, .. }) = self.copies.missing.remove(&job) else { continue };
            if !waiting.is_empty() && self.machine.find_class(job).is_some() {
                return self.stop(Stop::JobLost { job, why: why.to_string() });
            }
            // It has ended meanwhile, also where somebody may have had it; or only a file waits for it, which is damaged as it was.
            for waiting in waiting {
                match waiting {
                    Waiting::Body(read) => self.answer_gone(read),
                    Waiting::Stats { connection, ticket } => self.answer(connection, ticket, Answer::NotFound),
                }
            }
        }
        self.ask_for_copies(moment);
    }

    fn ask_for_copies(&mut self, moment: Moment) {
        let due = self.copies.missing.iter_mut().filter(|(_, missing)| moment.now >= missing.ask_at);
        let mut is_waited_for = false;
        let mut jobs: Vec<JobId> = due
            .map(|(&job, missing)| {
                missing.ask_at = moment.now.saturating_add(ASK_EVERY);
                is_waited_for |= !missing.waiting.is_empty();
                job
            })
            .collect();
        let Some(snapshot) = self.giving.newest_name().filter(|_| !jobs.is_empty()) else { return };
        let connected: Vec<NodeId> = self.connected_peers().map(|(node, _)| node).collect();
        if connected.is_empty() {
            return;
        }
        self.copies.asked += 1;
        // An answer ends before the first that cannot be given: each is the first at some time.
        jobs.drain(..self.copies.asked % jobs.len());
        jobs.truncate(JOBS_PER_PULL_MAX);
        // What nobody waits for need not come twice.
        let first = self.copies.asked % connected.len();
        let asked = if is_waited_for { &connected[..] } else { &connected[first..=first] };
        for &to in asked {
            self.send(to, PeerMessage::Pull(Pull { snapshot, part: Part::Jobs(jobs.clone()) }));
        }
    }

    /// What another node gave: true if it was looked for here, and not by who pulls a snapshot.
    pub fn handle_copy(&mut self, moment: Moment, pulled: &Pulled) -> bool {
        let Given::Jobs(jobs) = &pulled.what else { return false };
        if !jobs.iter().any(|given| self.copies.missing.contains_key(&given.job)) {
            return false;
        }
        let mut for_files = Vec::new();
        for given in jobs {
            if self.take_copy(moment, given) {
                for_files.push(given.clone());
            }
        }
        if !for_files.is_empty() {
            self.effects.push_back(Effect::Keep(Keep::Copies(for_files)));
        }
        true
    }

    /// Whether a file is mended with it.
    fn take_copy(&mut self, moment: Moment, given: &GivenJob) -> bool {
        let job = given.job;
        if !self.copies.missing.contains_key(&job) {
            return false;
        }
        let Some((class, body)) = whole_enqueue(&given.enqueue) else { return false };
        let is_of_class = match self.catalog.find(job) {
            Ok(Some(known)) => known.class == class,
            Ok(None) | Err(_) => self.machine.find_class(job).is_none_or(|known| known == class),
        };
        if !is_of_class {
            return false;
        }
        let Some(missing) = self.copies.missing.remove(&job) else { return false };
        for waiting in missing.waiting {
            match waiting {
                Waiting::Body(read) => {
                    let room = self.config.answers.take(given.enqueue.len());
                    self.hand_out(read, room.hold(given.enqueue.slice_ref(body)));
                }
                Waiting::Stats { connection, ticket } => {
                    let times = self.clock.estimate(moment.now);
                    let view = self.machine.job_view(job, &Enqueued { class, wall: given.wall }, times);
                    let answer =
                        view.map_or(Answer::NotFound, |view| Answer::JobStats { view: Box::new(view), file: 0 });
                    self.answer(connection, ticket, answer);
                }
            }
        }
        missing.is_for_file
    }

    // The files.

    /// A file that is written no more was found damaged.
    pub fn handle_found_damaged(&mut self, name: PieceName) {
        self.catalog.note_bad(name);
    }

    /// Has files mended that were found damaged.
    pub(super) fn mend_files(&mut self, moment: Moment) {
        for name in self.catalog.take_bad() {
            if self.copies.mending.get(&name).is_some_and(|again| moment.now < *again) {
                continue;
            }
            self.copies.mending.insert(name, moment.now.saturating_add(MEND_AGAIN_AFTER));
            // What lives must be known, or nothing may be moved out of the file.
            if let Some(live) = self.giving.live() {
                self.effects.push_back(Effect::Keep(Keep::Retain { floor: None, live }));
            }
            self.effects.push_back(Effect::Keep(Keep::Mend(name)));
        }
    }

    /// Files cannot be mended without these jobs.
    pub fn handle_lacking(&mut self, moment: Moment, jobs: Vec<JobId>, why: &str) {
        for job in jobs {
            let why = Stop::UnreadableLog { why: why.to_owned() };
            self.copies.miss(moment, job, None, why).is_for_file = true;
        }
        self.ask_for_copies(moment);
    }

    /// Other files took the place of some: who waits for what was in them may find it now.
    pub(super) fn look_again(&mut self, moment: Moment, removed: &[PieceName]) {
        self.copies.mending.retain(|name, _| !removed.contains(name));
        let catalog = &self.catalog;
        let is_elsewhere = |job: &JobId, missing: &Missing| match catalog.find(*job) {
            Ok(Some(Found { at: Some((_, at)), .. })) => missing.at != Some(at),
            _ => false,
        };
        let found: Vec<JobId> = self
            .copies
            .missing
            .iter()
            .filter(|(job, missing)| is_elsewhere(job, missing))
            .map(|(&job, _)| job)
            .collect();
        for job in found {
            let Some(missing) = self.copies.missing.remove(&job) else { continue };
            for waiting in missing.waiting {
                match waiting {
                    Waiting::Body(read) => self.find_body(moment, read),
                    Waiting::Stats { connection, ticket } => self.stats_job(moment, connection, ticket, job),
                }
            }
        }
    }
}
