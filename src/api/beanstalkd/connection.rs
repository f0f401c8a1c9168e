//! One client's connection, without the wire: bytes and answers in, operations and bytes out.
//!
//! ```text
//!   handle_bytes ──> Parser ──> start ──┬─> overlapping: a slot each, replies in order
//!   handle_eof                          └─> alone: one command, nothing beside it
//!   handle_answer ─────────────────────────> slot, command or wait ──> take_output
//!                                                             └─────> poll_request
//! ```
//!
//! - Replies leave in the order of the commands.
//! - Commands overlap only while all of them are puts, change one job each, and not the same, or touch nothing but the connection
//!   itself; any other waits for all before it and blocks all behind it.
//! - Memory is bounded: by commands outstanding, by bytes of bodies outstanding, by output not yet written, and by
//!   input not yet understood. A client that goes beyond is not read from until it is below again. Bodies of all clients together
//!   have a budget: a put beyond it is refused. So has the output of all clients together: while that is used up, whoever has not
//!   taken its own is served no further.
//! - A client whose output makes no progress for a stated time is closed. One that asks nothing may be silent for ever.
//!
//! It must never panic over what a client sends, and never answer what a shard has not said.

mod command;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use self::command::Command;
use self::slots::Slots;
use super::front_door::{CoreCounters, FrontDoor, Gauge};
use super::outbox::{Outbox, ShardRequest};
use super::output::Output;
use super::parser::Parser;
use super::poll::Poll;
use super::reply::{Refusal, Reply};
use super::request::{Parsed, Request};
use super::waits::{Reserved, Waits};
use super::watch_list::{Ignored, WatchList};
use crate::api::routing::shard_of_tube;
use crate::api::{Answer, Operation, ReferenceChange};
use crate::types::{JobId, Nanos, ShardId};

/// Commands that may be under way at once.
pub const OUTSTANDING_MAX: usize = 256;

/// No further put starts while bodies of this many bytes are under way.
const OUTSTANDING_BYTES_MAX: usize = 1 << 20;

/// No further command starts while this much output waits for the client.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// Reading stops while this much input waits to be understood.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// A list of tubes for which there is no room is looked at again after this time.
const ROOM_RETRY: Nanos = Nanos::from_millis(50);

/// Ids of jobs are below 2^53; a larger one names no job and need not be asked for.
const CLIENT_ID_MAX: u64 = (1 << 53) - 1;

const DEFAULT_TUBE: Bytes = Bytes::from_static(b"default");

#[derive(Debug)]
pub struct Connection {
    door: Arc<FrontDoor>,
    core: usize,
    parser: Parser,
    /// Understood, but not to be started before what is under way is done.
    held: Option<Parsed>,
    slots: Slots,
    /// The command that runs alone. Where there is one, `slots` is empty.
    command: Option<Command>,
    waits: Waits,
    outbox: Outbox,
    output: Output,
    /// Of the output, what the core thread's share counts.
    counted_bytes: usize,
    /// Since when output has been with the writer without progress.
    writing_since: Option<Nanos>,
    /// The client took nothing for too long: what is left of its output is dropped.
    has_stalled: bool,
    /// The held command waits for room for its answer, and is tried again then.
    retry_at: Option<Nanos>,
    used: Bytes,
    watched: WatchList,
    /// Jobs this client was given and has not disposed of, as far as known here (expiry is not). Only shards that
    /// hold no watched tube are asked for warnings because of it, so with one shard nothing is kept.
    reserved: BTreeSet<(ShardId, JobId)>,
    polls: usize,
    is_producer: bool,
    is_worker: bool,
    eof: bool,
    /// Nothing more is started or answered; what was written still goes out.
    closing: bool,
    closed: bool,
}

impl Connection {
    /// A new client, counted as one on core thread `core`.
    #[must_use]
    pub fn new(door: Arc<FrontDoor>, core: usize) -> Connection {
        let mut connection = Connection {
            parser: Parser::new(door.body_bytes_max),
            door,
            core,
            held: None,
            slots: Slots::default(),
            command: None,
            waits: Waits::default(),
            outbox: Outbox::default(),
            output: Output::default(),
            counted_bytes: 0,
            writing_since: None,
            has_stalled: false,
            retry_at: None,
            used: DEFAULT_TUBE,
            watched: WatchList::new(DEFAULT_TUBE),
            reserved: BTreeSet::new(),
            polls: 0,
            is_producer: false,
            is_worker: false,
            eof: false,
            closing: false,
            closed: false,
        };
        connection.counters().rise(Gauge::Connections);
        connection.refer(DEFAULT_TUBE, ReferenceChange::Use);
        connection.refer(DEFAULT_TUBE, ReferenceChange::Watch);
        connection
    }

    /// Bytes from the client.
    pub fn handle_bytes(&mut self, now: Nanos, bytes: Bytes) {
        if !self.closing && !self.eof {
            self.parser.push(bytes);
            self.start_commands(now);
        }
    }

    /// The client sends no more, or is listened to no more. It is still told what it asked for, but waits for no job any longer.
    pub fn handle_eof(&mut self, now: Nanos) {
        self.eof = true;
        if self.closing {
            return;
        }
        self.expire_wait();
        self.start_commands(now);
    }

    /// A shard's answer; each ticket of [`Connection::poll_request`] that has one gets it once.
    pub fn handle_answer(&mut self, now: Nanos, shard: ShardId, ticket: u64, answer: Answer) {
        if self.closing {
            return;
        }
        if answer == Answer::Hangup {
            self.closing = true;
            return;
        }
        let answer = match answer {
            Answer::JobStats { view, .. } if !self.door.facts.has_binlog => Answer::JobStats { view, file: 0 },
            other => other,
        };
        if self.waits.owns(shard, ticket) {
            let end = self.waits.handle_answer(shard, answer, &mut self.outbox);
            self.end_wait(end);
        } else if self.command.as_ref().is_some_and(|command| command.awaits(ticket)) {
            self.continue_command(now, shard, answer);
        } else {
            let disposed_of = matches!(answer, Answer::Deleted | Answer::Released | Answer::Buried);
            // Then the reservation ran out.
            let not_found = answer == Answer::NotFound;
            let shards = self.door.shards;
            let body_bytes = self.slots.body_bytes();
            let change = self.slots.answer(ticket, || Reply::from_answer(answer, shard, shards), &mut self.output);
            self.counters().bodies.give_back(body_bytes - self.slots.body_bytes());
            if let Some(change) = change.filter(|change| disposed_of || not_found && change.needs_hold) {
                self.reserved.remove(&(shard, change.job));
            }
        }
        self.start_commands(now);
    }

    /// [`Connection::next_deadline`] has come.
    pub fn handle_time(&mut self, now: Nanos) {
        let is_due = |deadline: Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.stall_deadline()) {
            self.has_stalled = true;
            self.closing = true;
            self.writing_since = None;
            self.counters().count_stalled();
        }
        if self.closing {
            return;
        }
        if is_due(self.waits.deadline()) {
            self.expire_wait();
        }
        if is_due(self.retry_at) {
            self.retry_at = None;
        }
        self.start_commands(now);
    }

    /// Output that was taken is being written from now on.
    pub fn handle_writing(&mut self, now: Nanos) {
        self.writing_since = Some(now);
    }

    /// The client has taken a part of it.
    pub fn handle_progress(&mut self, now: Nanos) {
        self.writing_since = self.writing_since.map(|_| now);
    }

    /// All output that was taken has been written.
    pub fn handle_written(&mut self, now: Nanos) {
        self.writing_since = None;
        self.output.written();
        self.count_output();
        self.start_commands(now);
    }

    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        let waits = if self.closing { None } else { self.waits.deadline().into_iter().chain(self.retry_at).min() };
        waits.into_iter().chain(self.stall_deadline()).min()
    }

    fn stall_deadline(&self) -> Option<Nanos> {
        self.writing_since.map(|since| since.saturating_add(self.door.output_stall))
    }

    /// Whether the client took nothing for too long: its stream is to be shut down, whatever is left to write.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        self.has_stalled
    }

    /// The next operation for a shard. Those for one shard are to arrive in this order.
    pub fn poll_request(&mut self) -> Option<ShardRequest> {
        self.outbox.poll()
    }

    /// Everything that can be written now. [`Connection::handle_written`] follows.
    pub fn take_output(&mut self) -> Vec<Bytes> {
        self.output.take()
    }

    /// Whether [`Connection::take_output`] has something to give.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.output.bytes_waiting() > 0
    }

    /// Nothing will come any more but output that waits already: write it, then close.
    #[must_use]
    pub fn wants_close(&self) -> bool {
        self.closing
    }

    /// Whether more bytes are welcome. While a client waits for a job they are, up to a bound: only a read shows
    /// that it has gone.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        !self.eof && !self.closing && self.parser.input_bytes() < INPUT_BYTES_MAX
    }

    /// What has yet to come of the body that the client is sending.
    #[must_use]
    pub fn body_bytes_left(&self) -> u64 {
        self.parser.body_bytes_left()
    }

    /// The connection ends, whoever wanted it: takes back what shards and counters know of it. Its reservations
    /// end with its session, which is the caller's to close after the last request.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.closing = true;
        self.leave();
        self.end_waiting_command();
        let counters = self.door.core(self.core);
        // A put is never held back: it overlaps with whatever is under way.
        counters.bodies.give_back(self.slots.body_bytes());
        self.parser.close(&counters.bodies);
        counters.fall(Gauge::Connections);
        if self.is_producer {
            counters.fall(Gauge::Producers);
        }
        if self.is_worker {
            counters.fall(Gauge::Workers);
        }
    }

    fn start_commands(&mut self, now: Nanos) {
        self.start_all(now);
        self.count_output();
    }

    fn start_all(&mut self, now: Nanos) {
        while !self.closing && self.command.is_none() && self.has_room() && self.retry_at.is_none() {
            let Some(parsed) = self.next_request() else {
                self.closing = self.eof && self.slots.is_empty();
                return;
            };
            if !self.slots.is_empty() && !self.may_overlap(&parsed.request) {
                self.held = Some(parsed);
                return;
            }
            // Its answer is long, and is made whether or not there is room.
            if parsed.request == Request::ListTubes && !self.counters().outputs.has_room() {
                self.held = Some(parsed);
                self.retry_at = Some(now.saturating_add(ROOM_RETRY));
                return;
            }
            self.start(now, parsed);
            self.count_output();
        }
    }

    fn count_output(&mut self) {
        let bytes = self.output.own_bytes();
        if bytes != self.counted_bytes {
            let before = std::mem::replace(&mut self.counted_bytes, bytes);
            self.counters().outputs.change(before, bytes);
        }
    }

    fn next_request(&mut self) -> Option<Parsed> {
        let budget = &self.door.core(self.core).bodies;
        self.held.take().or_else(|| self.parser.poll_parsed(budget))
    }

    /// Of two changes to one job the second waits for the first. That may make the job ready (a release, a kick), and then it is a
    /// waiting worker's before the second is looked at, as in the original.
    fn may_overlap(&self, request: &Request) -> bool {
        request.overlaps() && !request.changed_job().is_some_and(|id| self.slots.is_changing(id))
    }

    fn has_room(&self) -> bool {
        self.slots.len() < OUTSTANDING_MAX
            && self.slots.body_bytes() < OUTSTANDING_BYTES_MAX
            && self.output.bytes() < OUTPUT_BYTES_MAX
            && (self.output.bytes() == 0 || self.counters().outputs.has_room())
    }

    fn start_put(&mut self, priority: u32, delay_s: u32, ttr_s: u32, body: Bytes) {
        self.become_producer();
        if self.door.is_draining() {
            self.counters().bodies.give_back(body.len());
            self.reply(Reply::Refused(Refusal::Draining));
            return;
        }
        let tube = self.used.clone();
        let body_bytes = body.len();
        let shard = shard_of_tube(&tube, self.door.shards);
        let ticket = self.outbox.send(shard, Operation::Put { tube, priority, delay_s, ttr_s, body });
        self.slots.wait(ticket, body_bytes, None);
    }

    fn use_tube(&mut self, tube: Bytes) {
        if tube != self.used {
            self.refer(tube.clone(), ReferenceChange::Use);
            let before = std::mem::replace(&mut self.used, tube);
            self.refer(before, ReferenceChange::Unuse);
        }
        self.reply(Reply::Using(self.used.clone()));
    }

    fn watch(&mut self, tube: Bytes) {
        if !self.watched.contains(&tube) {
            if !self.watched.add(tube.clone()) {
                self.reply(Reply::Refused(Refusal::OutOfMemory));
                return;
            }
            self.refer(tube, ReferenceChange::Watch);
        }
        self.reply(Reply::Watching(self.watched.names().len()));
    }

    fn ignore(&mut self, tube: &Bytes) {
        match self.watched.ignore(tube) {
            Ignored::Last => return self.reply(Reply::NOT_IGNORED),
            Ignored::WasNotWatched => {}
            Ignored::Removed => self.refer(tube.clone(), ReferenceChange::Unwatch),
        }
        self.reply(Reply::Watching(self.watched.names().len()));
    }

    fn start_reserve(&mut self, now: Nanos, timeout_s: Option<u32>) {
        self.become_worker();
        let targets = self.reserve_targets();
        // Whoever has stopped sending waits for nothing: what is there now is all it can get.
        if timeout_s == Some(0) || self.eof {
            self.command = Some(Command::Poll(Poll::begin(targets, &mut self.outbox)));
        } else {
            let deadline = timeout_s.map(|seconds| now.saturating_add(Nanos::from_secs(seconds.into())));
            self.waits.begin(targets, deadline, &mut self.outbox);
            self.command = Some(Command::Wait);
            self.counters().rise(Gauge::Waiting);
        }
    }

    /// The watched tubes by shard, and shards that hold reservations only. The first shard is another one each time,
    /// so that polls do not starve any.
    fn reserve_targets(&mut self) -> Vec<(ShardId, Vec<Bytes>)> {
        let shards = self.door.shards;
        if shards == 1 {
            return vec![(ShardId(0), self.watched.names().to_vec())];
        }
        let mut targets: Vec<(ShardId, Vec<Bytes>)> = Vec::new();
        for tube in self.watched.names() {
            let shard = shard_of_tube(tube, shards);
            match targets.iter_mut().find(|(target, _)| *target == shard) {
                Some((_, tubes)) => tubes.push(tube.clone()),
                None => targets.push((shard, vec![tube.clone()])),
            }
        }
        self.polls = (self.polls + 1) % targets.len();
        targets.rotate_left(self.polls);
        for &(shard, _) in &self.reserved {
            if !targets.iter().any(|(target, _)| *target == shard) {
                targets.push((shard, Vec::new()));
            }
        }
        targets
    }

    fn expire_wait(&mut self) {
        let end = self.waits.expire(&mut self.outbox);
        self.end_wait(end);
    }

    fn end_wait(&mut self, end: Option<Reserved>) {
        if let Some(end) = end {
            self.end_waiting_command();
            self.end_reserve(end);
        }
    }

    fn end_waiting_command(&mut self) {
        if matches!(self.command, Some(Command::Wait)) {
            self.command = None;
            self.counters().fall(Gauge::Waiting);
        }
    }

    fn end_reserve(&mut self, end: Reserved) {
        let reply = match end {
            Reserved::TimedOut => Reply::TIMED_OUT,
            Reserved::DeadlineSoon => Reply::DEADLINE_SOON,
            Reserved::Job { shard, job, body } => {
                self.note_reserved(shard, job);
                Reply::Reserved { id: job.client_id(shard, self.door.shards), body }
            }
        };
        self.reply(reply);
    }

    fn note_reserved(&mut self, shard: ShardId, job: JobId) {
        if self.door.shards > 1 {
            self.reserved.insert((shard, job));
        }
    }

    fn reply(&mut self, reply: Reply) {
        if self.slots.is_empty() {
            reply.write(&mut self.output);
        } else {
            let ticket = self.outbox.next_ticket();
            self.slots.ready(ticket, reply);
        }
    }

    fn refer(&mut self, tube: Bytes, change: ReferenceChange) {
        let shard = shard_of_tube(&tube, self.door.shards);
        self.outbox.send(shard, Operation::Reference { tube, change });
    }

    /// Whatever it used and watched goes in one request per shard, however much that is.
    fn leave(&mut self) {
        let shards = self.door.shards;
        let used = shard_of_tube(&self.used, shards);
        let mut left: BTreeMap<ShardId, (Option<Bytes>, Vec<Bytes>)> = BTreeMap::new();
        left.entry(used).or_default().0 = Some(self.used.clone());
        for tube in self.watched.names() {
            left.entry(shard_of_tube(tube, shards)).or_default().1.push(tube.clone());
        }
        for (shard, (used, watched)) in left {
            self.outbox.send(shard, Operation::Leave { used, watched });
        }
    }

    fn become_producer(&mut self) {
        if !std::mem::replace(&mut self.is_producer, true) {
            self.counters().rise(Gauge::Producers);
        }
    }

    fn become_worker(&mut self) {
        if !std::mem::replace(&mut self.is_worker, true) {
            self.counters().rise(Gauge::Workers);
        }
    }

    fn counters(&self) -> &CoreCounters {
        self.door.core(self.core)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
        self.counters().outputs.change(self.counted_bytes, 0);
    }
}

#[cfg(test)]
mod any_timing;
#[cfg(test)]
mod tests;
