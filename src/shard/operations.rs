//! What clients of this node ask of the shard, and how each kind of operation is carried out: as a numbered command, as a
//! wait at the leader, or as a read.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::effect::ConnectionId;
use super::leading::LeaderRead;
use super::reads::GivenUp;
use super::references;
use super::sessions::{Expected, LocalWait, Unsent, Withdrawal};
use super::waits::{Ended, WaitKey};
use super::{Moment, Shard, names};
use crate::api::{Answer, Operation, ReferenceChange};
use crate::job::codec;
use crate::job::command::{Class, Command};
use crate::net::message::{PeerMessage, ReferenceDelta, ReferencePart};
use crate::types::{JobId, Nanos, Term};

/// While there is no quorum, so often is looked who has waited for too long.
const LOOKS_PER_TIMEOUT: u64 = 16;

/// A reservation that ends within this time makes a reserve of its session answer DEADLINE_SOON.
const DEADLINE_MARGIN: Nanos = Nanos::from_secs(1);

/// A wait whose time is over lasts on for at most so long while something that was due by then has
/// not ended yet. Half of the protocol's unit of time, so that a wait of 1 s is none of 2.
const DUE_GRACE: Nanos = Nanos::from_millis(500);

impl Shard {
    /// An operation of a client of this node. Per connection, operations are carried out in the order of these calls, and
    /// a reserve comes only when the one before is answered.
    pub fn handle_operation(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, operation: Operation) {
        match operation {
            Operation::Reference { tube, change } => self.note_reference(tube, change),
            Operation::Leave { used, watched } => self.leave(used, watched),
            Operation::Stats => self.ask_for_stats(moment, connection, ticket),
            Operation::ListTubes => self.ask_for_list(moment, connection, ticket),
            Operation::Withdraw { ticket } => self.withdraw(moment, connection, Some(ticket), Withdrawal::Asked),
            operation if is_read(&operation) => self.begin_read(moment, connection, ticket, operation),
            Operation::Put { .. } if !self.cluster_room || self.log_lacks_room => {
                self.counters.refused_no_room += 1;
                self.answer(connection, ticket, Answer::OutOfMemory);
            }
            Operation::Put { .. } if self.sessions.outstanding_bytes() >= self.config.outstanding_bytes_max => {
                self.counters.refused_outstanding += 1;
                self.answer(connection, ticket, Answer::OutOfMemory);
            }
            // Its RESERVE may yet be granted under the number that this operation would get.
            operation if self.sessions.is_waiting(connection) => self.sessions.hold(connection, ticket, operation),
            operation if self.upstream.is_none() => {
                self.sessions.keep_unsent(moment.now, connection, ticket, operation);
            }
            Operation::Reserve { tubes, poll } => self.reserve(moment, connection, ticket, tubes, poll),
            operation => self.hand_over(moment, connection, ticket, operation),
        }
    }

    /// The client is gone: its session is closed on every node, which puts its jobs back.
    pub fn handle_closed(&mut self, moment: Moment, connection: ConnectionId) {
        self.reads.forget(connection);
        self.surveys.forget(connection);
        if !self.sessions.handle_closed(connection) {
            return;
        }
        if self.sessions.wait_mut(connection).is_some() {
            self.withdraw(moment, connection, None, Withdrawal::Closing);
        } else {
            self.close_session(moment, connection);
        }
    }

    pub(super) fn close_session(&mut self, moment: Moment, connection: ConnectionId) {
        self.begin_progress(moment);
        let encoded = self.sessions.hand_over(connection, 0, Expected::Close, Command::SessionClosed);
        self.deliver(encoded);
    }

    /// Numbers a command and gives it to the leader.
    pub(super) fn hand_over(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, operation: Operation) {
        self.begin_progress(moment);
        self.sessions.note_asked(connection, moment.now);
        if let Some(open) = self.sessions.open(connection) {
            self.deliver(open);
        }
        let (what, command) = match &operation {
            Operation::Put { tube, priority, delay_s, ttr_s, body } => {
                let class = Class { tube, priority: *priority, ttr_s: (*ttr_s).max(1), delay_s: *delay_s };
                (Expected::Put, Command::Enqueue { class, body_hash: codec::body_hash(body), body })
            }
            Operation::Unreserve { job, epoch } => (Expected::Plain, Command::Unreserve { job: *job, epoch: *epoch }),
            Operation::ReserveJob { job } => {
                (Expected::ReserveJob(*job), Command::ReserveJob { job: *job, class: None })
            }
            Operation::Delete { job } => (Expected::Delete(*job), Command::Delete { job: *job, class: None }),
            Operation::Release { job, priority, delay_s } => {
                (Expected::Plain, Command::Release { job: *job, priority: *priority, delay_s: *delay_s })
            }
            Operation::Bury { job, priority } => (Expected::Plain, Command::Bury { job: *job, priority: *priority }),
            Operation::Touch { job } => (Expected::Plain, Command::Touch { job: *job }),
            Operation::Kick { tube, bound } => (Expected::Plain, Command::Kick { tube, bound: *bound }),
            Operation::KickJob { job } => (Expected::Plain, Command::KickJob { job: *job }),
            // What other nodes' clients reference, the leader adds.
            Operation::Pause { tube, duration_s } => {
                let referenced = self.references.contains_key(tube);
                (Expected::Plain, Command::Pause { tube, duration_s: *duration_s, referenced })
            }
            _ => unreachable!("waits, reads and references take other ways"),
        };
        let encoded = self.sessions.hand_over(connection, ticket, what, command);
        self.deliver(encoded);
    }

    /// To the leader: this node itself, or the next message to another.
    pub(super) fn deliver(&mut self, encoded: Bytes) {
        match (&mut self.leading, self.upstream) {
            (Some(leading), _) => leading.accept(encoded),
            (None, Some(_)) => self.forward.push(encoded),
            // It is outstanding: the next leader is handed it.
            (None, None) => {}
        }
    }

    fn reserve(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, tubes: Vec<Bytes>, poll: bool) {
        if self.is_deadline_soon(moment, connection) && !self.machine.has_ready_even_paused(names(&tubes)) {
            return self.answer(connection, ticket, Answer::DeadlineSoon);
        }
        if tubes.is_empty() && (poll || self.sessions.session_of(connection).is_none()) {
            return self.answer(connection, ticket, Answer::NothingReady);
        }
        if poll && self.sessions.session_of(connection).is_none() {
            // To look costs no entry: a session is opened only when there is something to take.
            return self.begin_read(moment, connection, ticket, Operation::Reserve { tubes, poll });
        }
        self.wait(moment, connection, ticket, &tubes, poll);
    }

    /// Registers a RESERVE with the leader.
    pub(super) fn wait(&mut self, moment: Moment, connection: ConnectionId, ticket: u64, tubes: &[Bytes], poll: bool) {
        self.begin_progress(moment);
        self.sessions.note_asked(connection, moment.now);
        if let Some(open) = self.sessions.open(connection) {
            self.deliver(open);
        }
        let encoded = Bytes::from(codec::encode_tubes(tubes.iter().map(|tube| &tube[..])));
        self.sessions.begin_wait(connection, ticket, encoded, poll);
        if poll {
            self.sessions.note_ending(connection, moment.now);
        }
        self.warn_of_deadline(connection);
        self.register_wait(moment, connection);
    }

    pub(super) fn register_wait(&mut self, moment: Moment, connection: ConnectionId) {
        let Some((leader, term)) = self.upstream else { return };
        let Some(key) = self.sessions.wait_key(connection) else { return };
        let Some(wait) = self.sessions.wait_mut(connection).filter(|wait| !wait.tubes.is_empty()) else { return };
        self.registrations += 1;
        let registration = self.registrations;
        wait.registered = Some(term);
        wait.registration = registration;
        let (tubes, poll) = (wait.tubes.clone(), wait.poll);
        if leader == self.config.node {
            self.register(moment, key, registration, tubes, poll);
        } else {
            self.send_gathered();
            self.send(leader, PeerMessage::Wait { term, session: key.0, seq: key.1, registration, poll, tubes });
        }
    }

    /// The leader's part: a wait of any node.
    pub(super) fn register(&mut self, moment: Moment, key: WaitKey, registration: u64, tubes: Bytes, poll: bool) {
        let Some(leading) = self.leading.as_mut() else { return };
        if leading.register(key, registration, tubes, poll) {
            self.serve_registered(moment, key);
        }
    }

    /// A wait was registered: there may be a job for it already; a poll is answered by a read if there is none.
    pub(super) fn serve_registered(&mut self, moment: Moment, key: WaitKey) {
        let Some(leading) = self.leading.as_mut() else { return };
        let Some(watched) = leading.waits.tubes(key) else { return };
        if self.machine.session_last_seq(key.0).is_some_and(|last| last >= key.1) {
            // Granted under an earlier leader; its node will see that when it applies it.
            return leading.waits.remove(key);
        }
        if self.machine.has_ready(names(&watched)) {
            leading.reserve_for(key);
        } else if leading.waits.begin_read(key) {
            let read = leading.begin_read(LeaderRead::Poll { key });
            self.raft.request_read(moment.now, read);
            self.follow_raft(moment);
        }
    }

    /// Ends a wait; its answer comes once no RESERVE for it can be in the log any more.
    fn withdraw(&mut self, moment: Moment, connection: ConnectionId, ticket: Option<u64>, why: Withdrawal) {
        if ticket.is_some_and(|ticket| self.sessions.make_unsent_reserve_poll(connection, ticket)) {
            // Nobody could be asked yet. That there is no job is said by a leader, or not at all.
            return;
        }
        let Some(key) = self.sessions.wait_key(connection) else { return };
        let Some(wait) = self.sessions.wait_mut(connection) else { return };
        if ticket.is_some_and(|ticket| ticket != wait.ticket) {
            return;
        }
        // The first reason is the one that the client is told; a client that is gone is told nothing.
        let is_asked_already = wait.withdrawn.is_some();
        if !is_asked_already || why == Withdrawal::Closing {
            wait.withdrawn = Some(why);
        }
        let end = Ended { key, registration: wait.registration };
        if !is_asked_already {
            self.sessions.note_ending(connection, moment.now);
        }
        let Some(wait) = self.sessions.wait_mut(connection) else { return };
        let Some(registered) = wait.registered else { return self.end_wait(moment, connection) };
        if !is_asked_already || why == Withdrawal::Closing {
            self.ask_to_withdraw(moment, end, why, registered);
        }
    }

    /// Tells the leader that knows of a wait to end it. With another leader, the first entry of its term ends it.
    pub(super) fn ask_to_withdraw(&mut self, moment: Moment, end: Ended, why: Withdrawal, registered: Term) {
        // A client that is gone has no use for what is about to become ready.
        let at_once = why == Withdrawal::Closing;
        match self.upstream {
            Some((leader, term)) if term == registered && leader == self.config.node => {
                self.handle_withdraw(moment, end, at_once);
            }
            Some((leader, term)) if term == registered => {
                let Ended { key: (session, seq), registration } = end;
                self.send(leader, PeerMessage::Withdraw { term, session, seq, registration, at_once });
            }
            _ => {}
        }
    }

    /// The leader's part: a wait of any node is to end. What is due by now comes first: a delay, a
    /// pause or a reservation that ends no later than the wait may still give it a job.
    pub(super) fn handle_withdraw(&mut self, moment: Moment, end: Ended, at_once: bool) {
        let due_by = self.clock.foreseen(moment.now, moment.wall);
        let Some(leading) = self.leading.as_mut() else { return };
        let is_due = !at_once && self.machine.next_due().is_reached(due_by);
        // Its node must hear of the end before it gives the wait up.
        let grace = DUE_GRACE.min(Nanos(self.config.no_quorum_timeout.0 / 2));
        let until = moment.now.saturating_add(grace);
        if !is_due || !leading.waits.postpone_end(end, due_by, until) {
            self.end_registered(moment, end);
        }
    }

    /// Ends postponed waits for which nothing is due any more, or which have waited for it for too
    /// long.
    pub(super) fn end_postponed(&mut self, moment: Moment) {
        let Some(leading) = self.leading.as_mut() else { return };
        let due = self.machine.next_due();
        for end in leading.waits.take_postponed(moment.now, |due_by| due.is_reached(due_by)) {
            self.end_registered(moment, end);
        }
    }

    fn end_registered(&mut self, moment: Moment, end: Ended) {
        let Some(leading) = self.leading.as_mut() else { return };
        if leading.withdraw(end.key, end.registration) {
            self.confirm_wait_ended(moment, end);
        }
    }

    pub(super) fn note_reference(&mut self, tube: Bytes, change: ReferenceChange) {
        // Without a leader nothing needs to be kept: the next one is told everything.
        if let Some(delta) = self.count_reference(tube, change).filter(|_| self.upstream.is_some()) {
            self.reference_changes.push(delta);
        }
    }

    /// Counts a change here. What another node that leads is still to be told of it.
    pub(super) fn count_reference(&mut self, tube: Bytes, change: ReferenceChange) -> Option<ReferenceDelta> {
        let (using, watching) = match change {
            ReferenceChange::Use => (1, 0),
            ReferenceChange::Unuse => (-1, 0),
            ReferenceChange::Watch => (0, 1),
            ReferenceChange::Unwatch => (0, -1),
        };
        let delta = ReferenceDelta { tube, using, watching };
        references::change(&mut self.references, &delta);
        if self.steps.reporting.as_ref().is_some_and(|reporting| !reporting.has_told(&delta.tube)) {
            // The report under way will tell.
            None
        } else if self.leads() {
            self.handle_references(self.config.node, ReferencePart::Changes, &[delta]);
            None
        } else {
            Some(delta)
        }
    }

    /// A session that waits and holds a reservation is to be told when that is about to end.
    fn warn_of_deadline(&mut self, connection: ConnectionId) {
        let Some(deadline) = self.soonest_deadline(connection) else { return };
        let Some(wait) = self.sessions.wait_mut(connection) else { return };
        let at = deadline.saturating_sub(DEADLINE_MARGIN);
        wait.warn_at = Some(at);
        self.deadlines_soon.insert((at, connection));
    }

    /// A wait is over: nobody has to be warned any more, and what was held behind it takes its turn.
    pub(super) fn after_wait(&mut self, moment: Moment, connection: ConnectionId, wait: &LocalWait) {
        if let Some(at) = wait.warn_at {
            self.deadlines_soon.remove(&(at, connection));
        }
        for (ticket, operation) in self.sessions.take_held(connection) {
            self.handle_operation(moment, connection, ticket, operation);
        }
    }

    fn soonest_deadline(&self, connection: ConnectionId) -> Option<Nanos> {
        self.machine.session_soonest_deadline(self.sessions.session_of(connection)?)
    }

    fn is_deadline_soon(&self, moment: Moment, connection: ConnectionId) -> bool {
        let lease = self.clock.estimate(moment.now).lease;
        self.soonest_deadline(connection).is_some_and(|deadline| deadline <= lease.saturating_add(DEADLINE_MARGIN))
    }

    pub(super) fn next_deadline_soon(&self, moment: Moment) -> Nanos {
        let Some(&(at, _)) = self.deadlines_soon.first() else { return Nanos(u64::MAX) };
        let lease = self.clock.estimate(moment.now).lease;
        moment.now.saturating_add(at.saturating_sub(lease))
    }

    /// A blocked reserve is told when a reservation of its session is about to end.
    pub(super) fn watch_deadlines(&mut self, moment: Moment) {
        let lease = self.clock.estimate(moment.now).lease;
        while let Some(&(at, connection)) = self.deadlines_soon.first() {
            if at > lease {
                return;
            }
            self.deadlines_soon.pop_first();
            if self.is_deadline_soon(moment, connection) {
                self.withdraw(moment, connection, None, Withdrawal::DeadlineSoon);
            } else {
                self.warn_of_deadline(connection);
            }
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        self.sessions.outstanding_count() > 0 || !self.reads.is_empty() || self.sessions.has_waits()
    }

    /// Before a command is handed over: where none was outstanding, the time to see one applied begins now.
    fn begin_progress(&mut self, moment: Moment) {
        if self.sessions.outstanding_count() == 0 {
            self.last_progress = moment.now;
        }
    }

    /// Since when somebody waits and nothing happens: no leader can be reached; or one can, but nothing that was handed to
    /// it is applied here, as when the disks of a majority take no more.
    fn waits_in_vain_since(&self) -> Option<Nanos> {
        match self.upstream_lost {
            Some(lost) => self.has_pending().then_some(lost),
            None => (self.sessions.outstanding_count() > 0).then_some(self.last_progress),
        }
    }

    /// Since when the first waits whom a leader could answer at once, whether or not anything else goes on: a read, a poll,
    /// a wait that is to end.
    fn owed_at_once_since(&self) -> Option<Nanos> {
        let reads = self.reads.oldest().into_iter().chain(self.surveys.oldest());
        reads.chain(self.sessions.oldest_ending()).min()
    }

    /// When somebody may have waited in vain for too long.
    pub(super) fn next_giving_up(&self) -> Option<Nanos> {
        let since = self.waits_in_vain_since().into_iter().chain(self.owed_at_once_since()).min()?;
        Some(since.saturating_add(self.config.no_quorum_timeout).max(self.given_up_until))
    }

    /// Who has waited for too long cannot be told anything honest: a put that was never handed to a leader is sent elsewhere,
    /// everyone else is hung up on. Whoever is owed an answer at once is, also where a leader can be reached: what it says may
    /// be of a state that never comes here.
    pub(super) fn give_up_waiting(&mut self, moment: Moment) {
        if self.next_giving_up().is_none_or(|at| moment.now < at) {
            return;
        }
        let timeout = self.config.no_quorum_timeout;
        let latest = moment.now.saturating_sub(timeout);
        let mut owed: BTreeSet<ConnectionId> = self.surveys.take_since(latest).into_iter().collect();
        for given_up in self.reads.take_since(latest) {
            match given_up {
                GivenUp::Client(connection) => _ = owed.insert(connection),
                GivenUp::Survey(survey) => owed.extend(self.give_up_survey(moment, &survey)),
            }
        }
        owed.extend(self.sessions.take_ending_since(latest));
        if self.waits_in_vain_since().is_some_and(|since| since <= latest) {
            owed.extend(self.sessions.owed_since(latest));
            for Unsent { connection, ticket, operation, .. } in self.sessions.take_unsent_since(latest) {
                if matches!(operation, Operation::Put { .. }) {
                    self.answer(connection, ticket, Answer::TryElsewhere);
                } else {
                    owed.insert(connection);
                }
            }
        }
        for connection in owed {
            self.answer(connection, 0, Answer::Hangup);
        }
        // Whoever comes later waits for longer. A share of the time passes between two looks, however many wait.
        let reads = self.reads.oldest().into_iter().chain(self.surveys.oldest());
        let oldest = reads.chain(self.sessions.oldest()).min().unwrap_or(moment.now);
        let soonest = moment.now.saturating_add(Nanos(timeout.0 / LOOKS_PER_TIMEOUT));
        self.given_up_until = oldest.saturating_add(timeout).max(soonest);
    }

    pub(super) fn read_body(
        &mut self,
        moment: Moment,
        connection: ConnectionId,
        ticket: u64,
        job: JobId,
        purpose: super::reads::BodyFor,
    ) {
        self.find_body(moment, super::reads::BodyRead { connection, ticket, job, purpose });
    }
}

fn is_read(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Peek { .. }
            | Operation::PeekReady { .. }
            | Operation::PeekDelayed { .. }
            | Operation::PeekBuried { .. }
            | Operation::StatsJob { .. }
            | Operation::StatsTube { .. }
    )
}
