//! What each command does to the state. By here it is known that the command's turn has come.

use super::command::{Class, Command, Outcome, TubeList};
use super::machine::Machine;
use super::ready::{ClassKey, Head};
use super::record::{Record, State};
use super::tube::TubeId;
use crate::types::{BootEpoch, JobId, Nanos, NodeId, SessionId};

/// A job that a command named, taken out of the state; or what to answer instead.
type Found = Result<Record, Outcome>;

impl Machine {
    /// `job_if_enqueued`: the id that the job gets if the command is an ENQ.
    pub(super) fn execute(&mut self, session: SessionId, command: &Command<'_>, job_if_enqueued: JobId) -> Outcome {
        let outcome = match *command {
            Command::Enqueue { class, .. } => Ok(self.enqueue(job_if_enqueued, &class)),
            Command::Reserve { tubes } => Ok(self.reserve(session, tubes)),
            Command::ReserveJob { job, class } => self.reserve_job(session, job, class),
            Command::Unreserve { job, epoch } => self.unreserve(session, job, epoch),
            Command::Delete { job, class } => self.delete(session, job, class),
            Command::Release { job, priority, delay_s } => self.release(session, job, priority, delay_s),
            Command::Bury { job, priority } => self.bury(session, job, priority),
            Command::Touch { job } => self.touch(session, job),
            Command::Kick { tube, bound } => Ok(self.kick(tube, bound)),
            Command::KickJob { job } => self.kick_job(job),
            Command::Pause { tube, duration_s, referenced } => Ok(self.pause(tube, duration_s, referenced)),
            Command::SessionClosed => Ok(self.close_session(session)),
            Command::SessionOpen
            | Command::NodeBoot { .. }
            | Command::NodeWentBack { .. }
            | Command::Tick
            | Command::TubeDrop { .. } => {
                unreachable!("an open is no session's next command, and the system's own have no session")
            }
        };
        outcome.unwrap_or_else(|instead| instead)
    }

    pub(super) fn execute_system(&mut self, command: &Command<'_>) {
        match *command {
            Command::NodeBoot { node, boot } => self.boot(node, boot),
            Command::NodeWentBack { node, incarnation } => {
                self.shut_out.insert(node, incarnation);
                self.news.shut_out(node);
            }
            Command::TubeDrop { tube } => self.drop_tube(tube),
            // Its entry's times were all it had to say.
            Command::Tick => {}
            _ => unreachable!("the codec lets no other command come without a session"),
        }
    }

    fn enqueue(&mut self, job: JobId, class: &Class<'_>) -> Outcome {
        let tube = self.tubes.named_or_created(class.tube, &mut self.news);
        tube.total_jobs += 1;
        self.total_jobs += 1;
        let (id, is_first) = (tube.id, tube.is_empty());
        if is_first {
            self.tubes.fill(id);
            self.news.filled(id);
        }
        let record = Record::as_enqueued(id, ClassKey::of(class));
        self.make_ready_after(job, record, class.delay_s);
        Outcome::Enqueued { job }
    }

    fn reserve(&mut self, session: SessionId, tubes: TubeList<'_>) -> Outcome {
        let serving = tubes.iter().filter_map(|name| self.tubes.named(name)).filter(|tube| tube.serves());
        let heads = serving.filter_map(|tube| tube.ready.head().map(|head| (head, tube.id)));
        let Some((head, tube)): Option<(Head, TubeId)> = heads.min() else { return Outcome::NothingReady };
        let record = self.take_head(tube, &head);
        let (epoch, ttr_s) = self.make_reserved(head.job, record, session);
        Outcome::Reserved { job: head.job, epoch, ttr_s }
    }

    fn reserve_job(&mut self, session: SessionId, job: JobId, hint: Option<Class<'_>>) -> Result<Outcome, Outcome> {
        let record = self.take_named(job, hint, |record| record.reservation().is_none())?;
        let (epoch, ttr_s) = self.make_reserved(job, record, session);
        Ok(Outcome::Reserved { job, epoch, ttr_s })
    }

    /// Undoes a reservation, wherever the job was before it: to ready, and the reservation does not count.
    fn unreserve(&mut self, session: SessionId, job: JobId, epoch: u64) -> Result<Outcome, Outcome> {
        let is_this_one = |record: &Record| {
            record.reservation().is_some_and(|reservation| reservation.epoch == epoch && reservation.session == session)
        };
        let record = self.take_record_if(job, is_this_one)?;
        self.make_ready(job, record, |counters| counters.reserves = counters.reserves.saturating_sub(1));
        Ok(Outcome::Unreserved)
    }

    fn delete(&mut self, session: SessionId, job: JobId, hint: Option<Class<'_>>) -> Result<Outcome, Outcome> {
        let is_allowed = |record: &Record| record.reservation().is_none() || record.is_reserved_by(session);
        let record = self.take_named(job, hint, is_allowed)?;
        let tube = self.tubes.existing_mut(record.tube);
        tube.deletes += 1;
        if tube.is_empty() {
            self.tubes.empty(record.tube);
            self.news.emptied(record.tube);
        }
        Ok(Outcome::Deleted)
    }

    fn release(&mut self, session: SessionId, job: JobId, priority: u32, delay_s: u32) -> Result<Outcome, Outcome> {
        let mut record = self.take_record_if(job, |record| record.is_reserved_by(session))?;
        record.priority = priority;
        record.delay_s = delay_s;
        record.counters.releases = record.counters.releases.saturating_add(1);
        self.make_ready_after(job, record, delay_s);
        Ok(Outcome::Released)
    }

    fn bury(&mut self, session: SessionId, job: JobId, priority: u32) -> Result<Outcome, Outcome> {
        let mut record = self.take_record_if(job, |record| record.is_reserved_by(session))?;
        record.priority = priority;
        record.counters.buries = record.counters.buries.saturating_add(1);
        record.state = State::Buried { order: self.next_burial };
        self.next_burial += 1;
        self.place(job, record);
        Ok(Outcome::Buried)
    }

    /// The reservation lasts a whole time to run from now. Its fencing token stays: it is the same reservation.
    fn touch(&mut self, session: SessionId, job: JobId) -> Result<Outcome, Outcome> {
        let mut record = self.take_record_if(job, |record| record.is_reserved_by(session))?;
        let deadline = self.times.lease.saturating_add(Nanos::from_secs(record.ttr_s().into()));
        if let State::Reserved(reservation) = &mut record.state {
            reservation.deadline = deadline;
        }
        self.place(job, record);
        Ok(Outcome::Touched)
    }

    /// Kicks buried jobs, first buried first; only where none is buried, delayed ones, soonest first.
    fn kick(&mut self, name: &[u8], bound: u64) -> Outcome {
        let Some(tube) = self.tubes.named(name) else { return Outcome::Kicked { count: 0 } };
        let bound = usize::try_from(bound).unwrap_or(usize::MAX);
        let kicked: Vec<JobId> = if tube.buried.is_empty() {
            tube.delayed.iter().map(|&(_, job)| job).take(bound).collect()
        } else {
            tube.buried.values().copied().take(bound).collect()
        };
        for &job in &kicked {
            let record = self.take_record(job).expect("a buried or delayed job has a record");
            self.make_kicked(job, record);
        }
        Outcome::Kicked { count: kicked.len() as u64 }
    }

    fn kick_job(&mut self, job: JobId) -> Result<Outcome, Outcome> {
        let can_be_kicked = |record: &Record| matches!(record.state, State::Buried { .. } | State::Delayed { .. });
        let record = self.take_record_if(job, can_be_kicked)?;
        self.make_kicked(job, record);
        Ok(Outcome::JobKicked)
    }

    fn make_kicked(&mut self, job: JobId, record: Record) {
        self.make_ready(job, record, |counters| counters.kicks = counters.kicks.saturating_add(1));
    }

    /// Opens a session unless it was open before; whether it did.
    pub(super) fn open_session(&mut self, session: SessionId) -> bool {
        // A later boot ends the sessions of the earlier, also where its NODE_BOOT comes behind its first session.
        self.boot(session.node, session.boot);
        self.sessions.open(session)
    }

    fn close_session(&mut self, session: SessionId) -> Outcome {
        let reserved = self.sessions.get(session).map(|open| open.reserved.clone()).unwrap_or_default();
        for (_, job) in reserved {
            let record = self.take_record(job).expect("a reserved job has a record");
            self.make_ready(job, record, |_| {});
        }
        self.sessions.close(session);
        Outcome::Closed
    }

    fn boot(&mut self, node: NodeId, boot: BootEpoch) {
        for session in self.sessions.ended_by(node, boot) {
            self.close_session(session);
        }
        self.sessions.enter_boot(node, boot);
    }

    /// Takes a job that has a record and is in a state that the command is for.
    fn take_record_if(&mut self, job: JobId, is_allowed: impl FnOnce(&Record) -> bool) -> Found {
        let record = self.records.get(&job).ok_or(Outcome::NotFound)?;
        if !is_allowed(record) {
            return Err(Outcome::NotFound);
        }
        Ok(self.take_record(job).expect("it was there"))
    }

    /// Takes any job that a command named, also one that is only a bit. Its class says which bit:
    ///
    /// - an id that was never given is no job;
    /// - with a class, a bit that is not set means that the job is gone: a class never changes, and whoever
    ///   proposed the command read it from the log;
    /// - without one, nothing is known, and the proposer must look it up. (One that looked and found no ENQ of
    ///   that id names [`Class::OF_NO_JOB`].)
    fn take_named(&mut self, job: JobId, hint: Option<Class<'_>>, is_allowed: impl FnOnce(&Record) -> bool) -> Found {
        if self.records.contains_key(&job) {
            return self.take_record_if(job, is_allowed);
        }
        if job >= self.next_job {
            return Err(Outcome::NotFound);
        }
        let class = hint.ok_or(Outcome::Again)?;
        let tube = self.tubes.id(class.tube).ok_or(Outcome::NotFound)?;
        self.take_bit(tube, ClassKey::of(&class), job).ok_or(Outcome::NotFound)
    }
}
