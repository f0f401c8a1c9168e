//! Applying entries: the one way in which the state changes.

use super::codec::{CodecError, Commands};
use super::command::{Applied, Batch, Command, Numbered, Origin, Outcome};
use super::machine::Machine;
use crate::mutation::{self, Mutation};
use crate::types::{Index, JobId, LogPosition, SessionId, Term, Times};

/// No job has this id or a higher one: clients take ids for numbers that a double holds exactly.
const JOB_ID_LIMIT: JobId = JobId(1 << 53);

/// An entry that this program cannot apply. The state is then not that of any index: the node must stop, for what
/// it would do next could differ from what the others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("entry {index} of the log does not decode: {error}")]
    Undecodable { index: Index, error: CodecError },
    #[error("entry {index} of the log gives a job the id {job}; the next free one is {next_job}")]
    ImpossibleJobId { index: Index, job: JobId, next_job: JobId },
}

impl Machine {
    /// Applies an entry of commands. Outcomes are appended to `out` in the order of the commands; those that
    /// were skipped (a repeat, a gap) and those without a session have none.
    ///
    /// # Panics
    /// If the entry is not the next one.
    pub fn apply(&mut self, batch: Batch<'_>, out: &mut Vec<Applied>) -> Result<(), ApplyError> {
        let index = batch.index;
        self.advance(index, batch.term, batch.times);
        let mut next = batch.first_job;
        for located in Commands::new(batch.commands) {
            let Numbered { origin, command } =
                located.map_err(|error| ApplyError::Undecodable { index, error })?.numbered;
            let job = next;
            if let Command::Enqueue { .. } = command {
                // The id is spent whether the job comes to be or not, so that a segment's ids follow from its bytes.
                self.spend(job).ok_or(ApplyError::ImpossibleJobId { index, job, next_job: self.next_job })?;
                next = self.next_job;
            }
            match origin {
                Origin::System => self.execute_system(&command),
                Origin::Session { session, seq } => {
                    if let Some(outcome) = self.apply_once(session, seq, &command, job) {
                        out.push(Applied { session, seq, outcome });
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies an entry that holds no commands (a no-op, a membership, a marker): the clocks move, and what is
    /// due happens. [`Machine::apply`] begins with it.
    ///
    /// # Panics
    /// If the entry is not the next one.
    pub fn advance(&mut self, index: Index, term: Term, times: Times) {
        assert_eq!(index, self.applied.index.next(), "entries are applied in order, each once");
        assert!(term >= self.applied.term, "terms never descend along a log");
        self.applied = LogPosition { term, index };
        // A new leader's clocks may lag those of the one before; the state's never run backwards.
        self.times = self.times.latest(times);
        self.expire();
    }

    /// Counts an id as given, if it is free and clients can be told of it.
    fn spend(&mut self, job: JobId) -> Option<()> {
        let is_possible = (self.next_job..JOB_ID_LIMIT).contains(&job);
        is_possible.then(|| self.next_job = JobId(job.0 + 1))
    }

    /// Lets a session's command happen if it is the session's next one.
    fn apply_once(&mut self, session: SessionId, seq: u64, command: &Command<'_>, job: JobId) -> Option<Outcome> {
        if let Command::SessionOpen = command {
            return self.open_session(session).then_some(Outcome::Opened);
        }
        let Some(open) = self.sessions.get(session) else { return Some(Outcome::SessionUnknown) };
        let is_repeat = seq <= open.last_seq && !mutation::is_on(Mutation::NoDeduplication);
        if is_repeat || seq > open.last_seq + 1 {
            return None;
        }
        let outcome = self.execute(session, command, job);
        // The number of a RESERVE that found nothing stays free for the one that will. A session that has closed
        // has no number left to keep.
        if outcome != Outcome::NothingReady
            && let Some(open) = self.sessions.get_mut(session)
        {
            open.last_seq = seq;
        }
        Some(outcome)
    }
}
