//! What clients asked, and what they were told, held against the log.
//!
//! The witness check (Herlihy and Wing's linearizability without a search): every answer must be what the log says that
//! this very command came to, each connection's commands must stand in the log in their order, and a command that was
//! asked after another was answered must stand behind it. What was never answered may stand in the log or not, but in
//! order, and once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use super::queue::{Decided, QueueModel, What};
use crate::job::codec::body_hash;
use crate::job::command::Outcome;
use crate::sim::dialogue::{Asked, Said};
use crate::types::{BodyHash, Index, JobId, Nanos, SessionId};

/// One thing that was asked.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub asked: Asked,
    pub asked_at: Nanos,
    /// The highest index that any node knew committed when it was asked.
    pub committed_when_asked: Index,
    pub answer: Option<Heard>,
}

#[derive(Debug, Clone)]
pub struct Heard {
    pub said: Said,
    pub at: Nanos,
    /// The highest index that any node knew committed when it was heard.
    pub committed: Index,
}

/// Everything that clients saw, by connection. A connection's first command is a put with a body that no other has, which
/// tells its session in the log.
#[derive(Debug, Default)]
pub struct History {
    connections: Vec<Vec<Exchange>>,
}

/// A promise that was broken, told for whoever reads the failed run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("connection {connection}: {asked} was answered {said}, but the log has {log}")]
    AnswerIsNotInTheLog { connection: usize, asked: String, said: String, log: String },
    #[error("connection {connection}: the log has {log}, which was never asked there")]
    NeverAsked { connection: usize, log: String },
    #[error("connection {connection}: {asked} was answered at a time when nobody knew entry {index} committed")]
    AnsweredBeforeCommit { connection: usize, asked: String, index: Index },
    #[error("connection {connection}: {asked} stands at entry {index}, before what was answered when it was asked")]
    OutOfOrder { connection: usize, asked: String, index: Index },
    #[error("connection {connection}: {asked} was answered {said}; that was so at no time between")]
    StaleRead { connection: usize, asked: String, said: String },
    #[error("job {job} was delivered with a body that is not its own")]
    WrongBody { job: u64 },
    #[error("the body of job {job} stands in the log twice")]
    PutTwice { job: JobId },
    #[error("a command of {session} came to be, which is no connection of a client")]
    UnknownSession { session: SessionId },
}

/// What a history held; a run in which nothing happened proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryCounts {
    pub connections: u64,
    pub answered: u64,
    pub unknown: u64,
    pub inserted: u64,
    pub reserved: u64,
    pub deleted: u64,
    /// Unanswered, but in the log.
    pub unknown_done: u64,
}

impl History {
    pub fn connect(&mut self) -> usize {
        self.connections.push(Vec::new());
        self.connections.len() - 1
    }

    pub fn ask(&mut self, connection: usize, asked: Asked, now: Nanos, committed: Index) {
        let exchange = Exchange { asked, asked_at: now, committed_when_asked: committed, answer: None };
        self.connections[connection].push(exchange);
    }

    /// The answer to the first thing asked there that has none.
    pub fn hear(&mut self, connection: usize, said: Said, now: Nanos, committed: Index) {
        let exchanges = &mut self.connections[connection];
        let place = exchanges.partition_point(|exchange| exchange.answer.is_some());
        exchanges[place].answer = Some(Heard { said, at: now, committed });
    }

    /// How many answers were heard.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.connections.iter().map(|exchanges| exchanges.iter().filter(|one| one.answer.is_some()).count()).sum()
    }

    /// Holds everything against the log of the only shard: `decided` is what its commands came to, in order, and
    /// `model` the state behind the last of them.
    ///
    /// # Errors
    /// If a promise was broken.
    pub fn check(&self, decided: &[Decided], model: &QueueModel) -> Result<HistoryCounts, Violation> {
        let log = SessionLogs::new(decided)?;
        let mut counts = HistoryCounts::default();
        let mut stood = Vec::new();
        let mut known = BTreeSet::new();
        for (connection, exchanges) in self.connections.iter().enumerate() {
            counts.connections += 1;
            let session = exchanges.first().and_then(|first| log.session_of(&first.asked));
            known.extend(session);
            let done = session.map_or(&[][..], |session| log.of(session));
            Walk { connection, done, next: 0 }.check(exchanges, &mut counts, &mut stood)?;
            check_reads(connection, exchanges, model)?;
        }
        check_bodies(&self.connections, decided)?;
        check_order(&self.connections, &stood)?;
        match log.sessions().find(|session| !known.contains(session)) {
            Some(session) => Err(Violation::UnknownSession { session }),
            None => Ok(counts),
        }
    }
}

/// One command that stands in the log, with its place among all.
#[derive(Debug, Clone, Copy)]
struct Done<'a> {
    place: usize,
    decided: &'a Decided,
}

/// What each session's commands came to, without what clients don't see: opening and closing, commands that had to be
/// sent afresh, and reservations that were undone before anybody was told.
struct SessionLogs<'a> {
    sessions: BTreeMap<SessionId, Vec<Done<'a>>>,
    puts: BTreeMap<BodyHash, SessionId>,
}

impl<'a> SessionLogs<'a> {
    fn new(decided: &'a [Decided]) -> Result<SessionLogs<'a>, Violation> {
        let mut logs = SessionLogs { sessions: BTreeMap::new(), puts: BTreeMap::new() };
        for (place, one) in decided.iter().enumerate() {
            let done = logs.sessions.entry(one.session).or_default();
            match (&one.what, one.outcome) {
                (What::Open | What::Close, _)
                | (_, Outcome::Again | Outcome::NothingReady | Outcome::SessionUnknown) => {}
                (What::Unreserve(job), _) => {
                    let undone = done.iter().rposition(
                        |done| matches!(done.decided.outcome, Outcome::Reserved { job: of, .. } if of == *job),
                    );
                    undone.map(|undone| done.remove(undone));
                }
                _ => done.push(Done { place, decided: one }),
            }
            if let (What::Enqueue(body), Outcome::Enqueued { job }) = (&one.what, one.outcome)
                && logs.puts.insert(*body, one.session).is_some()
            {
                return Err(Violation::PutTwice { job });
            }
        }
        Ok(logs)
    }

    fn session_of(&self, first: &Asked) -> Option<SessionId> {
        match first {
            Asked::Put { body, .. } => self.puts.get(&body_hash(body)).copied(),
            _ => None,
        }
    }

    fn of(&self, session: SessionId) -> &[Done<'a>] {
        self.sessions.get(&session).map_or(&[], Vec::as_slice)
    }

    /// Sessions for which something was done.
    fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.iter().filter(|(_, done)| !done.is_empty()).map(|(session, _)| *session)
    }
}

/// Where an answered command stands in the log.
#[derive(Debug, Clone, Copy)]
struct Stood {
    connection: usize,
    exchange: usize,
    place: usize,
    index: Index,
}

/// One connection's exchanges beside its session's part of the log.
struct Walk<'a> {
    connection: usize,
    done: &'a [Done<'a>],
    next: usize,
}

impl<'a> Walk<'a> {
    fn check(
        mut self,
        exchanges: &[Exchange],
        counts: &mut HistoryCounts,
        stood: &mut Vec<Stood>,
    ) -> Result<(), Violation> {
        for (place, exchange) in exchanges.iter().enumerate() {
            match &exchange.answer {
                Some(heard) => {
                    counts.count(&heard.said);
                    if let Some(done) = self.take_answered(exchange, heard)? {
                        let (connection, index) = (self.connection, done.decided.index);
                        if index > heard.committed {
                            let asked = told(&exchange.asked);
                            return Err(Violation::AnsweredBeforeCommit { connection, asked, index });
                        }
                        stood.push(Stood { connection, exchange: place, place: done.place, index });
                    }
                }
                None => {
                    counts.unknown += 1;
                    if self.done.get(self.next).is_some_and(|done| is_about(&exchange.asked, &done.decided.what)) {
                        counts.unknown_done += 1;
                        self.next += 1;
                    }
                }
            }
        }
        match self.done.get(self.next) {
            Some(done) => Err(Violation::NeverAsked { connection: self.connection, log: told(&done.decided) }),
            None => Ok(()),
        }
    }

    fn take_answered(&mut self, exchange: &Exchange, heard: &Heard) -> Result<Option<Done<'a>>, Violation> {
        let next = self.done.get(self.next).copied();
        let matching = next.filter(|done| is_about(&exchange.asked, &done.decided.what));
        let agreeing = matching.filter(|done| agrees(&heard.said, done.decided.outcome));
        if agreeing.is_some() {
            self.next += 1;
            return Ok(agreeing);
        }
        if changes_nothing(&heard.said) {
            return Ok(None);
        }
        Err(Violation::AnswerIsNotInTheLog {
            connection: self.connection,
            asked: told(&exchange.asked),
            said: told(&heard.said),
            log: match (next, self.done.last()) {
                (Some(next), _) => told(&next.decided),
                (None, Some(last)) => format!("nothing behind {}", told(&last.decided)),
                (None, None) => "nothing of this connection".to_owned(),
            },
        })
    }
}

impl HistoryCounts {
    fn count(&mut self, said: &Said) {
        self.answered += 1;
        match said {
            Said::Inserted(_) => self.inserted += 1,
            Said::Reserved { .. } => self.reserved += 1,
            Said::Deleted => self.deleted += 1,
            _ => {}
        }
    }
}

/// Job ids of the only shard are those that clients see.
fn is_about(asked: &Asked, what: &What) -> bool {
    match (asked, what) {
        (Asked::Put { body, .. }, What::Enqueue(hash)) => body_hash(body) == *hash,
        (Asked::Reserve { .. }, What::Reserve) | (Asked::Kick(_), What::Kick) | (Asked::Pause { .. }, What::Pause) => {
            true
        }
        (Asked::ReserveJob(id), What::ReserveJob(job))
        | (Asked::Delete(id), What::Delete(job))
        | (Asked::Release { id, .. }, What::Release(job))
        | (Asked::Bury { id, .. }, What::Bury(job))
        | (Asked::Touch(id), What::Touch(job))
        | (Asked::KickJob(id), What::KickJob(job)) => *id == job.0,
        _ => false,
    }
}

fn agrees(said: &Said, outcome: Outcome) -> bool {
    match (said, outcome) {
        (Said::Inserted(id), Outcome::Enqueued { job })
        | (Said::Reserved { id, .. }, Outcome::Reserved { job, .. }) => *id == job.0,
        (Said::Kicked(said), Outcome::Kicked { count }) => *said == count,
        (Said::Deleted, Outcome::Deleted)
        | (Said::Released, Outcome::Released)
        | (Said::Buried, Outcome::Buried)
        | (Said::Touched, Outcome::Touched)
        | (Said::JobKicked, Outcome::JobKicked)
        | (Said::Paused, Outcome::Paused)
        | (Said::NotFound, Outcome::NotFound) => true,
        _ => false,
    }
}

/// Answers that may be given without an entry.
fn changes_nothing(said: &Said) -> bool {
    matches!(
        said,
        Said::NotFound
            | Said::TimedOut
            | Said::DeadlineSoon
            | Said::OutOfMemory
            | Said::Draining
            | Said::Kicked(0)
            | Said::Found { .. }
            | Said::Okay(_)
            | Said::Using(_)
            | Said::Watching(_)
    )
}

/// A peek tells what was so at some entry between its question and its answer.
fn check_reads(connection: usize, exchanges: &[Exchange], model: &QueueModel) -> Result<(), Violation> {
    for exchange in exchanges {
        let (Asked::Peek(id), Some(heard)) = (&exchange.asked, &exchange.answer) else { continue };
        let (from, until) = (exchange.committed_when_asked, heard.committed);
        let life = model.life(JobId(*id));
        let is_possible = match (&heard.said, life) {
            (Said::Found { .. }, Some((begin, end))) => begin <= until && end.is_none_or(|end| end > from),
            (Said::NotFound, Some((begin, end))) => begin > from || end.is_some_and(|end| end <= until),
            (Said::NotFound, None) => true,
            _ => false,
        };
        if !is_possible {
            let (asked, said) = (told(&exchange.asked), told(&heard.said));
            return Err(Violation::StaleRead { connection, asked, said });
        }
    }
    Ok(())
}

/// Whatever body was shown is that of the job.
fn check_bodies(connections: &[Vec<Exchange>], decided: &[Decided]) -> Result<(), Violation> {
    let put = decided.iter().filter_map(|one| match (&one.what, one.outcome) {
        (What::Enqueue(body), Outcome::Enqueued { job }) => Some((job.0, *body)),
        _ => None,
    });
    let put: BTreeMap<u64, BodyHash> = put.collect();
    let shown = |(id, body): (u64, &Bytes)| match put.get(&id) {
        Some(hash) if *hash == body_hash(body) => Ok(()),
        _ => Err(Violation::WrongBody { job: id }),
    };
    let heard = connections.iter().flatten().filter_map(|exchange| exchange.answer.as_ref());
    heard
        .filter_map(|heard| match &heard.said {
            Said::Reserved { id, body } | Said::Found { id, body } => Some((*id, body)),
            _ => None,
        })
        .try_for_each(shown)
}

/// What was asked after an answer was heard stands behind it in the log.
fn check_order(connections: &[Vec<Exchange>], stood: &[Stood]) -> Result<(), Violation> {
    let exchange = |one: &Stood| &connections[one.connection][one.exchange];
    let answered_at = |one: &Stood| exchange(one).answer.as_ref().map_or(Nanos(u64::MAX), |heard| heard.at);
    let mut by_answer: Vec<&Stood> = stood.iter().collect();
    by_answer.sort_by_key(|one| answered_at(one));
    let mut by_question: Vec<&Stood> = stood.iter().collect();
    by_question.sort_by_key(|one| exchange(one).asked_at);
    let mut answered = by_answer.into_iter().peekable();
    let mut highest = None;
    for one in by_question {
        let asked_at = exchange(one).asked_at;
        while let Some(before) = answered.next_if(|before| answered_at(before) < asked_at) {
            highest = highest.max(Some(before.place));
        }
        if highest.is_some_and(|highest| highest >= one.place) {
            let asked = told(&exchange(one).asked);
            return Err(Violation::OutOfOrder { connection: one.connection, asked, index: one.index });
        }
    }
    Ok(())
}

fn told(what: &impl fmt::Debug) -> String {
    let mut text = format!("{what:?}");
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests;
