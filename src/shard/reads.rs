//! Answers that change nothing: linearizable looks at the state (by read index, Raft thesis 6.4), and bodies of jobs, from
//! recent entries or the log.

use std::collections::BTreeMap;

use super::copies::Waiting;
use super::effect::{ConnectionId, Effect, Stop};
use super::leading::{LeaderRead, PageRequest};
use super::surveys::SurveyRead;
use super::waits::Ended;
use super::{Moment, Shard, names};
use crate::api::beanstalkd::output::BODY_BYTES_SHARED_MIN;
use crate::api::{Answer, Operation, TubeReferences};
use crate::job::Enqueued;
use crate::job::codec::{self, Commands};
use crate::job::command::Command;
use crate::net::message::{Fetch, Held, NAMES_PER_PAGE_MAX, PeerMessage, ReadAbout, Soft};
use crate::types::{Index, JobId, LogPosition, Nanos, NodeId, Term};
use crate::wal::catalog::EnqueueAt;
use crate::wal::entry::Entry;

/// What is read.
#[derive(Debug)]
enum Question {
    /// For a client of this node.
    Client {
        connection: ConnectionId,
        ticket: u64,
        operation: Operation,
    },
    Survey(SurveyRead),
}

impl Question {
    fn about(&self) -> ReadAbout {
        match self {
            Question::Client { operation: Operation::StatsTube { tube }, .. } => ReadAbout::Tube(tube.clone()),
            Question::Client { .. } => ReadAbout::State,
            Question::Survey(survey) => survey.about(),
        }
    }

    fn client(&self) -> Option<ConnectionId> {
        match self {
            Question::Client { connection, .. } => Some(*connection),
            Question::Survey(_) => None,
        }
    }
}

#[derive(Debug)]
struct Pending {
    question: Question,
    since: Nanos,
    /// Once the leader said which index it needs, and what it softly knows.
    confirmed: Option<(Index, Soft)>,
}

/// What came to no end in time.
#[derive(Debug)]
pub enum GivenUp {
    Client(ConnectionId),
    Survey(SurveyRead),
}

#[derive(Debug, Default)]
pub struct Reads {
    pending: BTreeMap<u64, Pending>,
    /// Confirmed reads by the index that must be applied first.
    waiting: BTreeMap<(Index, u64), ()>,
    ready: Vec<u64>,
    next: u64,
}

impl Reads {
    fn begin(&mut self, since: Nanos, question: Question) -> u64 {
        let read = self.next;
        self.next += 1;
        self.pending.insert(read, Pending { question, since, confirmed: None });
        read
    }

    /// Reads that no leader has confirmed yet.
    fn unconfirmed(&self) -> Vec<u64> {
        self.pending.iter().filter(|(_, pending)| pending.confirmed.is_none()).map(|(&read, _)| read).collect()
    }

    fn about(&self, read: u64) -> Option<ReadAbout> {
        self.pending.get(&read).map(|pending| pending.question.about())
    }

    fn handle_confirmed(&mut self, read: u64, index: Index, soft: Soft) {
        if let Some(pending) = self.pending.get_mut(&read)
            && pending.confirmed.is_none()
        {
            pending.confirmed = Some((index, soft));
            self.waiting.insert((index, read), ());
        }
    }

    pub fn handle_applied(&mut self, applied: Index) {
        while let Some((&(index, read), ())) = self.waiting.first_key_value() {
            if index > applied {
                return;
            }
            self.waiting.pop_first();
            self.ready.push(read);
        }
    }

    pub fn forget(&mut self, connection: ConnectionId) {
        self.pending.retain(|_, pending| pending.question.client() != Some(connection));
    }

    /// Gives up on every read that has waited since this moment, or longer, be it for a leader to confirm it or for what
    /// it must see to be applied here; whose they were.
    pub fn take_since(&mut self, latest: Nanos) -> Vec<GivenUp> {
        let mut owed = Vec::new();
        // They are numbered as they come.
        while let Some(first) = self.pending.first_entry().filter(|first| first.get().since <= latest) {
            let (read, pending) = first.remove_entry();
            if let Some((index, _)) = pending.confirmed {
                self.waiting.remove(&(index, read));
            }
            owed.push(match pending.question {
                Question::Client { connection, .. } => GivenUp::Client(connection),
                Question::Survey(survey) => GivenUp::Survey(survey),
            });
        }
        owed
    }

    /// Since when the first has waited.
    #[must_use]
    pub fn oldest(&self) -> Option<Nanos> {
        self.pending.first_key_value().map(|(_, pending)| pending.since)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

/// What a body is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFor {
    Reserved { epoch: u64 },
    Found,
}

#[derive(Debug, Clone, Copy)]
pub struct BodyRead {
    pub connection: ConnectionId,
    pub ticket: u64,
    pub job: JobId,
    pub purpose: BodyFor,
}

/// A read of the log that is under way.
#[derive(Debug)]
pub enum LogRead {
    Apply,
    /// Entries that a lagging peer lacks.
    Replicate {
        to: NodeId,
    },
    /// Entries that are damaged at a peer.
    Copies {
        to: NodeId,
        fetch: Fetch,
    },
    Body {
        read: BodyRead,
        position: LogPosition,
        at: EnqueueAt,
    },
}

#[derive(Debug, Default)]
pub struct BodyReads {
    under_way: BTreeMap<u64, LogRead>,
}

impl BodyReads {
    /// Those who wait for a body.
    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        let connection = |read: &LogRead| match read {
            LogRead::Body { read, .. } => Some(read.connection),
            _ => None,
        };
        self.under_way.values().filter_map(connection).collect()
    }
}

impl Shard {
    pub(super) fn next_read_number(&mut self, read: LogRead) -> u64 {
        let number = self.next_read;
        self.next_read += 1;
        self.bodies.under_way.insert(number, read);
        number
    }

    pub(super) fn begin_read(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, operation: Operation) {
        let question = Question::Client { connection, ticket, operation };
        let read = self.reads.begin(moment.now, question);
        self.ask_for_read(moment, read);
    }

    pub(super) fn begin_survey_read(&mut self, moment: Moment, survey: SurveyRead) {
        let read = self.reads.begin(moment.now, Question::Survey(survey));
        self.ask_for_read(moment, read);
    }

    /// After a leader change every read that is not confirmed is asked for again.
    pub(super) fn ask_for_reads(&mut self, moment: Moment) {
        for read in self.reads.unconfirmed() {
            self.ask_for_read(moment, read);
        }
    }

    fn ask_for_read(&mut self, moment: Moment, read: u64) {
        let Some((leader, term)) = self.upstream else { return };
        if let Some(leading) = self.leading.as_mut() {
            let number = leading.begin_read(LeaderRead::Own { read });
            self.raft.request_read(moment.now, number);
            self.follow_raft(moment);
        } else if let Some(about) = self.reads.about(read) {
            self.send_gathered();
            self.send(leader, PeerMessage::Read { term, read, about });
        }
    }

    /// The leader's part: another node's client wants to read.
    pub(super) fn handle_read_request(&mut self, moment: Moment, node: NodeId, read: u64, about: ReadAbout) {
        let Some(leading) = self.leading.as_mut() else { return };
        let number = leading.begin_read(LeaderRead::Peer { node, read, about });
        self.raft.request_read(moment.now, number);
        self.follow_raft(moment);
    }

    /// A majority confirmed that this node still led when the read was asked for.
    pub(super) fn handle_read_confirmed(&mut self, moment: Moment, number: u64, index: Index) {
        let Some(leading) = self.leading.as_mut() else { return };
        let term = leading.term;
        match leading.take_read(number) {
            None => {}
            Some(LeaderRead::Own { read }) => {
                let soft = self.reads.about(read).map_or(Soft::Nothing, |about| self.soft(&about));
                self.handle_read_answer(moment, read, index, soft);
            }
            Some(LeaderRead::Peer { node, read, about: ReadAbout::BareTubes { after } }) => {
                leading.ask_for_page(index, PageRequest { node, read, after });
            }
            Some(LeaderRead::Peer { node, read, about }) => {
                let soft = self.soft(&about);
                self.send(node, PeerMessage::ReadAnswer { term, read, index, soft });
            }
            Some(LeaderRead::Poll { key }) => {
                leading.polls.push((index, key));
                self.answer_polls(moment);
            }
        }
    }

    /// Polls whose read is confirmed and applied: if there is a job by now they may have it, else they are over.
    pub(super) fn answer_polls(&mut self, moment: Moment) {
        let applied = self.applied.index;
        let Some(leading) = self.leading.as_mut() else { return };
        let due: Vec<_> = leading.polls.extract_if(.., |(index, _)| *index <= applied).collect();
        for (_, key) in due {
            let Some(leading) = self.leading.as_mut() else { return };
            let (Some(tubes), Some(registration)) = (leading.waits.tubes(key), leading.waits.registration(key)) else {
                continue;
            };
            if self.machine.has_ready(names(&tubes)) {
                leading.reserve_for(key);
            } else {
                self.handle_withdraw(moment, Ended { key, registration }, false);
            }
        }
    }

    pub(super) fn handle_read_lost(&mut self, number: u64) {
        // Its node asks the next leader.
        if let Some(leading) = self.leading.as_mut() {
            leading.take_read(number);
        }
    }

    pub(super) fn handle_read_answer(&mut self, moment: Moment, read: u64, index: Index, soft: Soft) {
        self.reads.handle_confirmed(read, index, soft);
        self.reads.handle_applied(self.applied.index);
        self.answer_reads(moment);
    }

    pub(super) fn soft(&self, about: &ReadAbout) -> Soft {
        let Some(leading) = self.leading.as_ref() else { return Soft::Nothing };
        match about {
            ReadAbout::State => Soft::Nothing,
            ReadAbout::Tube(tube) => {
                let count = leading.references.count(tube);
                Soft::Tube { using: count.using, watching: count.watching, waiting: leading.waits.waiting_on(tube) }
            }
            ReadAbout::TubeCount => Soft::TubeCount(self.machine.inhabited_tubes() + leading.references.bare_count()),
            ReadAbout::BareTubes { after } => {
                let (names, is_more) = leading.references.bare_after(after.as_ref(), NAMES_PER_PAGE_MAX);
                Soft::BareTubes { names, is_more }
            }
        }
    }

    pub(super) fn answer_reads(&mut self, moment: Moment) {
        for read in std::mem::take(&mut self.reads.ready) {
            let Some(pending) = self.reads.pending.remove(&read) else { continue };
            let Some((_, soft)) = pending.confirmed else { continue };
            match pending.question {
                Question::Client { connection, ticket, operation } => {
                    self.answer_read(moment, connection, ticket, operation, soft);
                }
                Question::Survey(survey) => self.handle_survey_read(moment, survey, soft),
            }
        }
    }

    fn answer_read(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, operation: Operation, soft: Soft) {
        let times = self.clock.estimate(moment.now);
        let answer = match operation {
            Operation::Peek { job } => return self.peek(moment, connection, ticket, self.live(job)),
            Operation::PeekReady { tube } => {
                return self.peek(moment, connection, ticket, self.machine.peek_ready(&tube));
            }
            Operation::PeekDelayed { tube } => {
                return self.peek(moment, connection, ticket, self.machine.peek_delayed(&tube));
            }
            Operation::PeekBuried { tube } => {
                return self.peek(moment, connection, ticket, self.machine.peek_buried(&tube));
            }
            Operation::Reserve { tubes, poll } => {
                // What is due may be ready in a moment: the leader lets it end first.
                if !self.machine.has_ready(names(&tubes)) && !self.machine.next_due().is_reached(times) {
                    Answer::NothingReady
                } else if self.upstream.is_none() {
                    return self.sessions.keep_unsent(
                        moment.now,
                        connection,
                        ticket,
                        Operation::Reserve { tubes, poll },
                    );
                } else {
                    return self.wait(moment, connection, ticket, &tubes, poll);
                }
            }
            Operation::StatsJob { job } => return self.stats_job(moment, connection, ticket, job),
            Operation::StatsTube { tube } => self.tube_stats(&tube, &soft, times),
            _ => unreachable!("only reads are read"),
        };
        self.answer(connection, ticket, answer);
    }

    fn tube_stats(&self, tube: &bytes::Bytes, soft: &Soft, times: crate::types::Times) -> Answer {
        let references = match *soft {
            Soft::Tube { using, watching, waiting } => TubeReferences { using, watching, waiting },
            Soft::Nothing | Soft::TubeCount(_) | Soft::BareTubes { .. } => TubeReferences::default(),
        };
        let is_referenced = references.using > 0 || references.watching > 0;
        let counts = self.machine.tube_counts(tube, times);
        let is_there = is_referenced || &tube[..] == b"default" || !self.machine.is_droppable(tube);
        match counts {
            Some(counts) if is_there => Answer::TubeStats { tube: tube.clone(), counts: Box::new(counts), references },
            None if is_referenced => Answer::TubeStats { tube: tube.clone(), counts: Box::default(), references },
            _ => Answer::NotFound,
        }
    }

    fn live(&self, job: JobId) -> Option<JobId> {
        let is_live = match self.catalog.find(job) {
            Ok(found) => found.is_some_and(|found| self.machine.is_live(job, &found.class)),
            Err(_) => self.machine.find_class(job).is_some(),
        };
        is_live.then_some(job)
    }

    pub(super) fn stats_job(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, job: JobId) {
        let times = self.clock.estimate(moment.now);
        let answer = match self.catalog.find(job) {
            Ok(Some(found)) => {
                let enqueued = Enqueued { class: found.class, wall: found.enqueued_wall };
                let file = found.at.map_or(0, |(_, at)| at.file().0.into());
                let view = self.machine.job_view(job, &enqueued, times);
                view.map_or(Answer::NotFound, |view| Answer::JobStats { view: Box::new(view), file })
            }
            Err(rows) if self.machine.find_class(job).is_some() => {
                return self.await_rows(moment, job, Waiting::Stats { connection, ticket }, rows);
            }
            Ok(None) | Err(_) => Answer::NotFound,
        };
        self.answer(connection, ticket, answer);
    }

    fn peek(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, job: Option<JobId>) {
        match job {
            Some(job) => self.find_body(moment, BodyRead { connection, ticket, job, purpose: BodyFor::Found }),
            None => self.answer(connection, ticket, Answer::NotFound),
        }
    }

    /// The body of a job that is live in the applied state: from a recent entry, else from the log.
    pub(super) fn find_body(&mut self, moment: Moment, read: BodyRead) {
        let found = match self.catalog.find(read.job) {
            Ok(Some(found)) => found,
            Ok(None) => {
                return self.stop(Stop::UnreadableLog { why: format!("no row for live job {}", read.job) });
            }
            Err(rows) => return self.await_rows(moment, read.job, Waiting::Body(read), rows),
        };
        let (offset, bytes, at) = (found.offset, found.bytes, found.at);
        // In a store segment offsets count from the start of the file, though the entry may be in memory still.
        let counts_in_entry = !matches!(at, Some((_, EnqueueAt::Store(_))));
        if let Some(entry) = self.cache.entry_of_job(read.job).filter(|_| counts_in_entry) {
            let payload = entry.payload_bytes();
            let command = payload.slice(offset as usize..(offset + bytes) as usize);
            let position = entry.meta.position;
            if command.len() < BODY_BYTES_SHARED_MIN {
                return self.handle_enqueue_read(moment, read, position, command);
            }
            // A long one is kept until its client has taken it, be it in the cache still or not.
            let room = match self.config.answers.try_take(command.len()) {
                None if at.is_none() => Some(self.config.answers.take(command.len())),
                room => room,
            };
            // Without room it waits, where it can be had again: in the file.
            if let Some(room) = room {
                // It must not keep the whole of a longer entry.
                let is_part = command.len() < payload.len() / 2;
                let command = if is_part { bytes::Bytes::copy_from_slice(&command) } else { command };
                return self.handle_enqueue_read(moment, read, position, room.hold(command));
            }
        }
        let Some((index, at)) = at else {
            return self.stop(Stop::UnreadableLog { why: format!("no entry for live job {}", read.job) });
        };
        let position = LogPosition::new(Term::ZERO, index);
        self.counters.body_reads += 1;
        let number = self.next_read_number(LogRead::Body { read, position, at });
        self.effects.push_back(Effect::ReadCommand { read: number, at });
    }

    /// Part of an entry's payload was read back.
    pub fn handle_command_read(&mut self, moment: Moment, number: u64, command: Result<bytes::Bytes, String>) {
        let Some(LogRead::Body { read, position, at }) = self.bodies.under_way.remove(&number) else { return };
        match command {
            Ok(command) => self.handle_enqueue_read(moment, read, position, command),
            Err(why) => match self.catalog.find(read.job) {
                Ok(Some(found)) if found.at.is_none_or(|(_, now)| now == at) => {
                    self.seek_copy(moment, read, position.index, Stop::UnreadableLog { why });
                }
                // It was moved into another file meanwhile.
                Ok(Some(_)) => self.find_body(moment, read),
                // It has ended meanwhile, and its file is gone.
                Ok(None) => self.answer_gone(read),
                Err(rows) => self.await_rows(moment, read.job, Waiting::Body(read), rows),
            },
        }
    }

    /// A body found no room in the time in which clients must take their output: its client is closed.
    pub fn handle_body_given_up(&mut self, number: u64) {
        if let Some(LogRead::Body { read, .. }) = self.bodies.under_way.remove(&number) {
            self.answer(read.connection, read.ticket, Answer::Hangup);
        }
    }

    pub(super) fn answer_gone(&mut self, read: BodyRead) {
        let answer = match read.purpose {
            BodyFor::Found => Answer::NotFound,
            BodyFor::Reserved { .. } => Answer::Hangup,
        };
        self.answer(read.connection, read.ticket, answer);
    }

    /// Entries were read back from the log.
    pub fn handle_entries_read(&mut self, moment: Moment, number: u64, entries: Result<Vec<Entry>, String>) {
        let Some(read) = self.bodies.under_way.remove(&number) else { return };
        match (entries, read) {
            (Ok(entries), LogRead::Apply) => self.handle_read_back(moment, &entries),
            (Ok(entries), LogRead::Replicate { to }) => self.handle_replicated(moment, to, entries),
            // They may have been cut off meanwhile: then they are not what this node holds.
            (Ok(entries), LogRead::Copies { to, fetch }) => {
                let is_held =
                    entries.last().is_some_and(|last| self.raft.log().chain_at(fetch.last) == Some(last.meta.chain));
                let held = if is_held { Held::Entries(entries) } else { Held::Unknown };
                self.answer_fetch(to, fetch, held);
            }
            (Ok(_), LogRead::Body { .. }) => unreachable!("bodies are read by command"),
            // The peer's entries are below the floor by now: Raft will say that it is behind.
            (Err(_), LogRead::Replicate { to }) if self.replicates_below_floor(to) => {
                self.handle_replicated(moment, to, Vec::new());
            }
            // Their segment may have been given up meanwhile: the peer asks again, and hears that they are below the floor.
            (Err(_), LogRead::Copies { to, fetch }) if fetch.first <= self.raft.log().floor().index => {
                self.answer_fetch(to, fetch, Held::Unknown);
            }
            (Err(why), _) => self.stop(Stop::UnreadableLog { why }),
        }
    }

    /// The command was read as the job's ENQ: its body goes to the client, once its hash is checked.
    fn handle_enqueue_read(&mut self, moment: Moment, read: BodyRead, position: LogPosition, command: bytes::Bytes) {
        let job = read.job;
        let why = match Commands::new(&command).next() {
            Some(Ok(located)) => match located.numbered.command {
                Command::Enqueue { body, body_hash, .. } if codec::body_hash(body) == body_hash => {
                    return self.hand_out(read, command.slice_ref(body));
                }
                Command::Enqueue { .. } => format!("the hash of job {job} differs"),
                _ => format!("job {job} is no ENQ there"),
            },
            Some(Err(error)) => error.to_string(),
            None => "nothing there".to_owned(),
        };
        self.seek_copy(moment, read, position.index, Stop::BodyMismatch { position, why });
    }

    pub(super) fn hand_out(&mut self, read: BodyRead, body: bytes::Bytes) {
        let job = read.job;
        let answer = match read.purpose {
            BodyFor::Reserved { epoch } => Answer::Reserved { job, epoch, body },
            BodyFor::Found => Answer::Found { job, body },
        };
        self.answer(read.connection, read.ticket, answer);
    }
}
