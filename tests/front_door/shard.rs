//! Shards in memory: the real state machine behind the real front door, with nothing between them. Each command is
//! an entry of its own that is committed at once, and time is the runtime's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use beaver_raft::api::beanstalkd::outbox::ShardRequest;
use beaver_raft::api::beanstalkd::server::{Mailbox, ShardLink};
use beaver_raft::api::{Answer, Operation, ReferenceChange, ShardStats, TubeReferences};
use beaver_raft::io::Runtime;
use beaver_raft::job::codec::{body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Batch, Class, Command, Numbered, Origin, Outcome, TubeList};
use beaver_raft::job::{Enqueued, Machine};
use beaver_raft::types::{BootEpoch, Index, JobId, Nanos, NodeId, SessionId, ShardId, Term, Times};
use bytes::Bytes;

/// A reservation that ends within this time ends soon.
const MARGIN: Nanos = Nanos::from_secs(1);

pub struct MemoryShards<R> {
    runtime: R,
    shards: Vec<RefCell<Shard>>,
    mailboxes: RefCell<BTreeMap<u64, Mailbox>>,
}

#[derive(Default)]
struct Shard {
    machine: Machine,
    jobs: BTreeMap<JobId, Rc<Job>>,
    /// By connection.
    sessions: BTreeMap<u64, OpenSession>,
    sessions_opened: u64,
    /// In the order in which they came.
    waits: Vec<Wait>,
    references: BTreeMap<Bytes, TubeReferences>,
    /// Answers that are due: connection, ticket, answer.
    answers: Vec<(u64, u64, Answer)>,
    entries: u64,
}

/// Numbered when it is opened, not when its client came: an older number than the last cannot be opened any more.
#[derive(Clone, Copy)]
struct OpenSession {
    id: SessionId,
    next_seq: u64,
}

struct Job {
    tube: Bytes,
    priority: u32,
    delay_s: u32,
    ttr_s: u32,
    body: Bytes,
    wall: Nanos,
}

struct Wait {
    connection: u64,
    ticket: u64,
    tubes: Vec<Bytes>,
}

impl Job {
    fn class(&self) -> Class<'_> {
        Class { tube: &self.tube, priority: self.priority, ttr_s: self.ttr_s, delay_s: self.delay_s }
    }
}

impl<R: Runtime> MemoryShards<R> {
    pub fn new(runtime: R, shards: u16) -> Rc<MemoryShards<R>> {
        let shards = (0..shards).map(|_| RefCell::default()).collect();
        Rc::new(MemoryShards { runtime, shards, mailboxes: RefCell::default() })
    }

    /// Lets happen what time brings.
    pub async fn keep_time(self: Rc<Self>) {
        loop {
            self.runtime.sleep(Nanos::from_millis(2)).await;
            for shard in 0..self.shards.len() {
                self.with(shard, Shard::tick);
            }
        }
    }

    fn with(&self, shard: usize, act: impl FnOnce(&mut Shard, Times)) {
        let now = Times { lease: self.runtime.now(), wall: self.runtime.wall() };
        let answers = {
            let mut shard = self.shards[shard].borrow_mut();
            act(&mut shard, now);
            shard.serve_waits(now);
            shard.drop_tubes(now);
            std::mem::take(&mut shard.answers)
        };
        for (connection, ticket, answer) in answers {
            let mailbox = self.mailboxes.borrow().get(&connection).cloned();
            if let Some(mailbox) = mailbox {
                mailbox.deliver(ShardId(u16::try_from(shard).unwrap()), ticket, answer);
            }
        }
    }
}

impl<R: Runtime> ShardLink for MemoryShards<R> {
    fn opened(&self, connection: u64, mailbox: Mailbox) {
        self.mailboxes.borrow_mut().insert(connection, mailbox);
    }

    fn request(&self, connection: u64, request: ShardRequest) {
        let ShardRequest { shard, ticket, operation } = request;
        self.with(usize::from(shard.0), |shard, now| shard.handle(now, connection, ticket, operation));
    }

    fn closed(&self, connection: u64) {
        self.mailboxes.borrow_mut().remove(&connection);
        for shard in 0..self.shards.len() {
            self.with(shard, |shard, now| {
                shard.waits.retain(|wait| wait.connection != connection);
                if shard.sessions.contains_key(&connection) {
                    shard.command(now, connection, Command::SessionClosed);
                    shard.sessions.remove(&connection);
                }
            });
        }
    }
}

impl Shard {
    fn handle(&mut self, now: Times, connection: u64, ticket: u64, operation: Operation) {
        let answer = match operation {
            Operation::Put { tube, priority, delay_s, ttr_s, body } => {
                let job = Job { tube, priority, delay_s, ttr_s, body, wall: now.wall };
                let command = Command::Enqueue { class: job.class(), body_hash: body_hash(&job.body), body: &job.body };
                let outcome = self.command(now, connection, command);
                let Outcome::Enqueued { job: id } = outcome else { panic!("{outcome:?}") };
                self.jobs.insert(id, Rc::new(job));
                Answer::Inserted { job: id }
            }
            Operation::Reserve { tubes, poll } => {
                let wait = Wait { connection, ticket, tubes };
                match self.reserve(now, &wait) {
                    Some(answer) => answer,
                    None if poll => Answer::NothingReady,
                    None => return self.waits.push(wait),
                }
            }
            Operation::Withdraw { ticket } => {
                let place = self.waits.iter().position(|wait| (wait.connection, wait.ticket) == (connection, ticket));
                if let Some(place) = place {
                    self.waits.remove(place);
                    self.answers.push((connection, ticket, Answer::NothingReady));
                }
                return;
            }
            Operation::Reference { tube, change } => return self.refer(tube, change),
            Operation::Leave { used, watched } => {
                used.into_iter().for_each(|tube| self.refer(tube, ReferenceChange::Unuse));
                return watched.into_iter().for_each(|tube| self.refer(tube, ReferenceChange::Unwatch));
            }
            Operation::Unreserve { job, epoch } => {
                self.told(now, connection, job, |_| Command::Unreserve { job, epoch })
            }
            Operation::ReserveJob { job } => {
                self.told(now, connection, job, |class| Command::ReserveJob { job, class: Some(class) })
            }
            Operation::Delete { job } => {
                self.told(now, connection, job, |class| Command::Delete { job, class: Some(class) })
            }
            Operation::Release { job, priority, delay_s } => {
                self.told(now, connection, job, |_| Command::Release { job, priority, delay_s })
            }
            Operation::Bury { job, priority } => self.told(now, connection, job, |_| Command::Bury { job, priority }),
            Operation::Touch { job } => self.told(now, connection, job, |_| Command::Touch { job }),
            Operation::KickJob { job } => self.told(now, connection, job, |_| Command::KickJob { job }),
            Operation::Kick { tube, bound } => {
                let outcome = self.command(now, connection, Command::Kick { tube: &tube, bound });
                self.answer(outcome)
            }
            Operation::Pause { tube, duration_s } => {
                let referenced = self.references.contains_key(&tube);
                let command = Command::Pause { tube: &tube, duration_s, referenced };
                let outcome = self.command(now, connection, command);
                self.answer(outcome)
            }
            Operation::Peek { job } => self.found(Some(job)),
            Operation::PeekReady { tube } => self.found(self.machine.peek_ready(&tube)),
            Operation::PeekDelayed { tube } => self.found(self.machine.peek_delayed(&tube)),
            Operation::PeekBuried { tube } => self.found(self.machine.peek_buried(&tube)),
            Operation::StatsJob { job } => self.job_stats(now, job),
            Operation::StatsTube { tube } => self.tube_stats(now, tube),
            Operation::Stats => Answer::ShardStats(Box::new(ShardStats {
                counts: self.machine.counts(),
                tubes: self.tubes().len() as u64,
                segment_oldest: 1,
                segment_newest: 1,
                entries_written: self.entries,
            })),
            Operation::ListTubes => Answer::Tubes(self.tubes().iter().filter(|tube| &tube[..] != b"default").collect()),
        };
        self.answers.push((connection, ticket, answer));
    }

    fn tick(&mut self, now: Times) {
        if self.machine.next_due().is_reached(now) {
            self.propose(now, Origin::System, Command::Tick);
        }
    }

    /// A job, or the warning that comes instead of one.
    fn reserve(&mut self, now: Times, wait: &Wait) -> Option<Answer> {
        let names = || wait.tubes.iter().map(|tube| &tube[..]);
        if self.machine.has_ready(names()) {
            let encoded = encode_tubes(names());
            let tubes = TubeList::decode(&encoded).unwrap();
            let outcome = self.command(now, wait.connection, Command::Reserve { tubes });
            if outcome != Outcome::NothingReady {
                return Some(self.answer(outcome));
            }
        }
        let session = self.sessions.get(&wait.connection)?;
        let deadline = self.machine.session_soonest_deadline(session.id)?;
        let soon = deadline <= now.lease.saturating_add(MARGIN) && !self.machine.has_ready_even_paused(names());
        soon.then_some(Answer::DeadlineSoon)
    }

    fn serve_waits(&mut self, now: Times) {
        let mut place = 0;
        while place < self.waits.len() {
            let wait = self.waits.remove(place);
            match self.reserve(now, &wait) {
                Some(answer) => self.answers.push((wait.connection, wait.ticket, answer)),
                None => {
                    self.waits.insert(place, wait);
                    place += 1;
                }
            }
        }
    }

    fn drop_tubes(&mut self, now: Times) {
        let is_unwanted = |tube: &Bytes| !self.references.contains_key(tube) && self.machine.is_droppable(tube);
        let unwanted: Vec<Bytes> = self.machine.tubes().filter(|tube| is_unwanted(tube)).cloned().collect();
        for tube in unwanted {
            self.propose(now, Origin::System, Command::TubeDrop { tube: &tube });
        }
    }

    fn refer(&mut self, tube: Bytes, change: ReferenceChange) {
        let references = self.references.entry(tube.clone()).or_default();
        match change {
            ReferenceChange::Use => references.using += 1,
            ReferenceChange::Unuse => references.using -= 1,
            ReferenceChange::Watch => references.watching += 1,
            ReferenceChange::Unwatch => references.watching -= 1,
        }
        if *references == TubeReferences::default() {
            self.references.remove(&tube);
        }
    }

    fn tubes(&self) -> Vec<Bytes> {
        let referenced = self.references.keys().filter(|tube| !self.machine.has_tube(tube));
        self.machine.tubes().chain(referenced).cloned().collect()
    }

    fn told(
        &mut self,
        now: Times,
        connection: u64,
        id: JobId,
        command: impl for<'c> FnOnce(Class<'c>) -> Command<'c>,
    ) -> Answer {
        let job = self.jobs.get(&id).cloned();
        let class = job.as_ref().map_or(Class::OF_NO_JOB, |job| job.class());
        let outcome = self.command(now, connection, command(class));
        self.answer(outcome)
    }

    fn answer(&self, outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Reserved { job, epoch, .. } => Answer::Reserved { job, epoch, body: self.jobs[&job].body.clone() },
            Outcome::NothingReady => Answer::NothingReady,
            Outcome::Deleted => Answer::Deleted,
            Outcome::Released => Answer::Released,
            Outcome::Buried => Answer::Buried,
            Outcome::Touched => Answer::Touched,
            Outcome::Kicked { count } => Answer::Kicked { count },
            Outcome::JobKicked => Answer::JobKicked,
            Outcome::Paused => Answer::Paused,
            Outcome::Unreserved => Answer::Undone,
            Outcome::NotFound => Answer::NotFound,
            other => panic!("{other:?} is no answer"),
        }
    }

    fn live(&self, id: JobId) -> Option<&Rc<Job>> {
        self.jobs.get(&id).filter(|job| self.machine.is_live(id, &job.class()))
    }

    fn found(&self, job: Option<JobId>) -> Answer {
        match job.and_then(|id| Some((id, self.live(id)?))) {
            Some((id, job)) => Answer::Found { job: id, body: job.body.clone() },
            None => Answer::NotFound,
        }
    }

    fn job_stats(&self, now: Times, id: JobId) -> Answer {
        let view = self.jobs.get(&id).and_then(|job| {
            let enqueued = Enqueued { class: job.class(), wall: job.wall };
            self.machine.job_view(id, &enqueued, now)
        });
        view.map_or(Answer::NotFound, |view| Answer::JobStats { view: Box::new(view), file: 1 })
    }

    fn tube_stats(&self, now: Times, tube: Bytes) -> Answer {
        let counts = self.machine.tube_counts(&tube, now);
        let references = self.references.get(&tube).copied();
        if counts.is_none() && references.is_none() {
            return Answer::NotFound;
        }
        let mut references = references.unwrap_or_default();
        references.waiting = self.waits.iter().filter(|wait| wait.tubes.contains(&tube)).count() as u64;
        Answer::TubeStats { tube, counts: Box::new(counts.unwrap_or_default()), references }
    }

    /// A command of a session, which is opened in front of its first one.
    fn command(&mut self, now: Times, connection: u64, command: Command<'_>) -> Outcome {
        let OpenSession { id, next_seq } = self.session(now, connection);
        let origin = Origin::Session { session: id, seq: next_seq };
        let outcome = self.propose(now, origin, command).expect("the next number");
        if outcome != Outcome::NothingReady {
            self.sessions.insert(connection, OpenSession { id, next_seq: next_seq + 1 });
        }
        outcome
    }

    fn session(&mut self, now: Times, connection: u64) -> OpenSession {
        if let Some(&open) = self.sessions.get(&connection) {
            return open;
        }
        self.sessions_opened += 1;
        let id = SessionId { node: NodeId(1), boot: BootEpoch(1), number: self.sessions_opened };
        self.propose(now, Origin::Session { session: id, seq: 0 }, Command::SessionOpen);
        OpenSession { id, next_seq: 1 }
    }

    fn propose(&mut self, now: Times, origin: Origin, command: Command<'_>) -> Option<Outcome> {
        self.entries += 1;
        let mut commands = Vec::new();
        encode(&Numbered { origin, command }, &mut commands);
        let batch = Batch {
            index: Index(self.entries),
            term: Term(1),
            times: now,
            first_job: self.machine.next_job(),
            commands: &commands,
        };
        let mut applied = Vec::new();
        self.machine.apply(batch, &mut applied).expect("what was encoded is applied");
        applied.first().map(|applied| applied.outcome)
    }
}
