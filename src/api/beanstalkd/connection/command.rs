//! What each command sets in motion, and how those go on that run alone: the ones that ask one shard, and the ones
//! that gather from all.

use bytes::Bytes;

use super::slots::Change;
use super::{CLIENT_ID_MAX, Connection, DEFAULT_TUBE};
use crate::api::beanstalkd::poll::Poll;
use crate::api::beanstalkd::reply::{Refusal, Reply};
use crate::api::beanstalkd::request::{Parsed, Request};
use crate::api::beanstalkd::stats;
use crate::api::routing::shard_of_tube;
use crate::api::{Answer, Operation, ShardStats, TubeLines};
use crate::types::{JobId, Nanos, ShardId};

#[derive(Debug)]
pub enum Command {
    /// One question to one shard.
    Ask {
        ticket: u64,
    },
    Poll(Poll),
    /// A reserve that waits; all about it is in `Waits`.
    Wait,
    Stats(Gather<ShardStats>),
    ListTubes(Gather<TubeLines>),
}

/// One question to every shard. Its tickets follow each other.
#[derive(Debug)]
pub struct Gather<T> {
    first_ticket: u64,
    /// By shard.
    parts: Vec<Option<T>>,
}

impl Command {
    /// Whether an answer to this ticket is for this command. Waits know their own.
    #[must_use]
    pub fn awaits(&self, wanted: u64) -> bool {
        match self {
            Command::Ask { ticket } => *ticket == wanted,
            Command::Poll(poll) => poll.ticket() == wanted,
            Command::Wait => false,
            Command::Stats(gather) => gather.awaits(wanted),
            Command::ListTubes(gather) => gather.awaits(wanted),
        }
    }
}

impl<T> Gather<T> {
    fn awaits(&self, ticket: u64) -> bool {
        let place = ticket.checked_sub(self.first_ticket).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.parts.get(place)).is_some_and(Option::is_none)
    }

    /// All parts in the order of shards, once the last has come.
    fn add(&mut self, shard: ShardId, part: T) -> Option<Vec<T>> {
        *self.parts.get_mut(usize::from(shard.0))? = Some(part);
        if self.parts.iter().any(Option::is_none) {
            return None;
        }
        Some(self.parts.drain(..).flatten().collect())
    }
}

impl Connection {
    /// Starts a command that nothing in front of it forbids.
    pub(super) fn start(&mut self, now: Nanos, parsed: Parsed) {
        if let Some(counted) = parsed.counted {
            self.counters().count(counted);
        }
        match parsed.request {
            Request::Put { priority, delay_s, ttr_s, body } => self.start_put(priority, delay_s, ttr_s, body),
            Request::PutUnterminated => {
                self.become_producer();
                self.reply(Reply::Refused(Refusal::ExpectedCrlf));
            }
            Request::Refused(refusal) => self.reply(Reply::Refused(refusal)),
            Request::Use { tube } => self.use_tube(tube),
            Request::Watch { tube } => self.watch(tube),
            Request::Ignore { tube } => self.ignore(&tube),
            Request::ListTubeUsed => self.reply(Reply::Using(self.used.clone())),
            Request::ListTubesWatched => self.reply(Reply::list(self.watched.names())),

            Request::Delete { id } => self.change_job(id, |job| Operation::Delete { job }),
            Request::Release { id, priority, delay_s } => {
                self.change_job(id, |job| Operation::Release { job, priority, delay_s });
            }
            Request::Bury { id, priority } => self.change_job(id, |job| Operation::Bury { job, priority }),
            Request::Touch { id } => self.change_job(id, |job| Operation::Touch { job }),
            Request::KickJob { id } => self.change_job(id, |job| Operation::KickJob { job }),

            Request::Reserve { timeout_s } => self.start_reserve(now, timeout_s),
            Request::ReserveJob { id } => self.ask_of_job(id, |job| Operation::ReserveJob { job }),
            Request::Peek { id } => self.ask_of_job(id, |job| Operation::Peek { job }),
            Request::StatsJob { id } => self.ask_of_job(id, |job| Operation::StatsJob { job }),

            Request::Kick { bound } => {
                self.ask_of_tube(self.used.clone(), |tube| Operation::Kick { tube, bound: bound.into() });
            }
            Request::PeekReady => self.ask_of_tube(self.used.clone(), |tube| Operation::PeekReady { tube }),
            Request::PeekDelayed => self.ask_of_tube(self.used.clone(), |tube| Operation::PeekDelayed { tube }),
            Request::PeekBuried => self.ask_of_tube(self.used.clone(), |tube| Operation::PeekBuried { tube }),
            Request::PauseTube { tube, duration_s } => {
                self.ask_of_tube(tube, |tube| Operation::Pause { tube, duration_s });
            }
            Request::StatsTube { tube } => self.ask_of_tube(tube, |tube| Operation::StatsTube { tube }),

            Request::Stats => {
                let gather = self.ask_all(&Operation::Stats);
                self.command = Some(Command::Stats(gather));
            }
            Request::ListTubes => {
                let gather = self.ask_all(&Operation::ListTubes);
                self.command = Some(Command::ListTubes(gather));
            }
            Request::Quit => self.closing = true,
        }
    }

    fn ask_of_tube(&mut self, tube: Bytes, operation: impl FnOnce(Bytes) -> Operation) {
        let shard = shard_of_tube(&tube, self.door.shards);
        let ticket = self.outbox.send(shard, operation(tube));
        self.command = Some(Command::Ask { ticket });
    }

    /// The shard of a job, and its id there.
    fn find_job(&self, id: u64) -> Option<(ShardId, JobId)> {
        if id > CLIENT_ID_MAX { None } else { JobId::from_client_id(id, self.door.shards) }
    }

    /// Beside others.
    fn change_job(&mut self, id: u64, operation: impl FnOnce(JobId) -> Operation) {
        let Some((shard, job)) = self.find_job(id) else { return self.reply(Reply::NOT_FOUND) };
        let operation = operation(job);
        // Not found by a kick says nothing of a job that is held: it cannot be kicked.
        let needs_hold = !matches!(operation, Operation::KickJob { .. });
        let ticket = self.outbox.send(shard, operation);
        self.slots.wait(ticket, 0, Some(Change { id, job, needs_hold }));
    }

    fn ask_of_job(&mut self, id: u64, operation: impl FnOnce(JobId) -> Operation) {
        let Some((shard, job)) = self.find_job(id) else { return self.reply(Reply::NOT_FOUND) };
        let ticket = self.outbox.send(shard, operation(job));
        self.command = Some(Command::Ask { ticket });
    }

    fn ask_all<T>(&mut self, operation: &Operation) -> Gather<T> {
        let tickets: Vec<u64> =
            (0..self.door.shards).map(|shard| self.outbox.send(ShardId(shard), operation.clone())).collect();
        let first_ticket = *tickets.first().expect("a cluster has at least one shard");
        Gather { first_ticket, parts: tickets.iter().map(|_| None).collect() }
    }

    /// An answer that the command under way awaits.
    pub(super) fn continue_command(&mut self, now: Nanos, shard: ShardId, answer: Answer) {
        let reply = match self.command.as_mut() {
            None | Some(Command::Wait) => return,
            Some(Command::Poll(poll)) => {
                let Some(end) = poll.handle_answer(shard, answer, &mut self.outbox) else { return };
                self.command = None;
                return self.end_reserve(end);
            }
            Some(Command::Ask { .. }) => {
                if let Answer::Reserved { job, .. } = answer {
                    self.become_worker();
                    self.note_reserved(shard, job);
                }
                Reply::from_answer(answer, shard, self.door.shards)
            }
            Some(Command::Stats(gather)) => match answer {
                Answer::ShardStats(part) => {
                    let Some(parts) = gather.add(shard, *part) else { return };
                    Reply::Document(stats::server(&self.door, now, &stats::sum(&parts)))
                }
                _ => Reply::Refused(Refusal::InternalError),
            },
            Some(Command::ListTubes(gather)) => match answer {
                Answer::Tubes(part) => {
                    let Some(parts) = gather.add(shard, part) else { return };
                    let start = stats::list([&DEFAULT_TUBE]);
                    Reply::Parts(std::iter::once(start).chain(parts.iter().map(|part| part.text().clone())).collect())
                }
                _ => Reply::Refused(Refusal::InternalError),
            },
        };
        self.command = None;
        self.reply(reply);
    }
}
