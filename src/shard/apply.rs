//! What is committed is applied, in order, on every node alike; then outcomes become answers here, and on the leader
//! whoever waits is served.

use super::effect::{Effect, Stop};
use super::sessions::{Expected, Settled, Withdrawal};
use super::waits::Ended;
use super::{EndedWait, Moment, Shard, waits};
use crate::api::{Answer, Operation};
use crate::job::command::{Applied, Batch, Outcome};
use crate::types::{Index, NodeId, Term};
use crate::wal::entry::{Entry, EntryKind};

/// At most this many bytes of committed entries are read back at once.
const READ_BACK_BYTES: u64 = 4 << 20;

impl Shard {
    pub(super) fn apply_committed(&mut self, moment: Moment) {
        while self.applied.index < self.committed && !self.stopped {
            let next = self.applied.index.next();
            let Some(entry) = self.cache.get(next).cloned() else {
                return self.read_back(next);
            };
            self.apply(moment, &entry);
        }
        self.reads.handle_applied(self.applied.index);
        self.answer_reads(moment);
        self.close_segment();
        self.evict();
    }

    fn read_back(&mut self, first: Index) {
        if std::mem::replace(&mut self.reading_back, true) {
            return;
        }
        let placements = self.catalog.range(first, self.committed, READ_BACK_BYTES);
        assert!(!placements.is_empty(), "a committed entry that is not in the cache is durable");
        let read = self.next_read_number(super::reads::LogRead::Apply);
        self.effects.push_back(Effect::ReadEntries { read, placements });
    }

    /// Entries that were read back for apply.
    pub(super) fn handle_read_back(&mut self, moment: Moment, entries: &[Entry]) {
        self.reading_back = false;
        for entry in entries {
            if entry.meta.position.index == self.applied.index.next() && !self.stopped {
                self.apply(moment, entry);
            }
        }
        self.apply_committed(moment);
    }

    fn apply(&mut self, moment: Moment, entry: &Entry) {
        let position = entry.meta.position;
        if entry.kind == EntryKind::Marker && !self.check_marker(entry) {
            return;
        }
        let batch = Batch {
            index: position.index,
            term: position.term,
            times: entry.times,
            first_job: entry.first_job,
            commands: match entry.kind {
                EntryKind::Commands => entry.payload(),
                EntryKind::NoOp | EntryKind::Membership | EntryKind::Marker => &[],
            },
        };
        let mut outcomes = Vec::new();
        if let Err(error) = self.machine.apply(batch, &mut outcomes) {
            return self.stop(Stop::UnreadableCommand { position, why: error.to_string() });
        }
        self.shut_out();
        let is_new_term = position.term > self.applied.term;
        self.applied = position;
        self.last_progress = moment.now;
        self.clock.handle_stamp(moment.now, position.term, entry.times);
        self.counters.handle_applied(position.index, moment.now);
        self.settle(moment, &outcomes);
        self.serve(moment, entry, &outcomes);
        if is_new_term {
            self.end_waits_of_earlier_terms(moment, position.term);
        }
        self.confirm_ended_waits(moment);
        self.count_for_marker(moment, entry);
    }

    /// This node's own clients learn what came of their commands.
    fn settle(&mut self, moment: Moment, outcomes: &[Applied]) {
        for applied in outcomes {
            self.counters.handle_outcome(applied.outcome);
            if !self.sessions.is_own(applied.session) {
                continue;
            }
            match applied.outcome {
                Outcome::SessionUnknown => {
                    if let Some(connection) = self.sessions.handle_unknown(applied.session) {
                        self.answer(connection, 0, Answer::Hangup);
                    }
                }
                Outcome::NothingReady => {}
                outcome => self.settle_one(moment, applied, outcome),
            }
        }
        if self.sessions.boot_command().is_some() && self.machine.node_boot(self.config.node) == Some(self.config.boot)
        {
            self.sessions.handle_boot_applied();
        }
    }

    fn settle_one(&mut self, moment: Moment, applied: &Applied, outcome: Outcome) {
        let Some(settled) = self.sessions.handle_applied(applied.session, applied.seq) else {
            return self.settle_granted(moment, applied, outcome);
        };
        let Settled { connection, ticket, what } = settled;
        let answer = match (outcome, what) {
            (Outcome::Opened | Outcome::Closed, _) => return,
            (Outcome::Reserved { job, epoch, .. }, _) => {
                return self.read_body(moment, connection, ticket, job, super::reads::BodyFor::Reserved { epoch });
            }
            (Outcome::Again, Expected::Delete(job)) => {
                return self.hand_over(moment, connection, ticket, Operation::Delete { job });
            }
            (Outcome::Again, Expected::ReserveJob(job)) => {
                return self.hand_over(moment, connection, ticket, Operation::ReserveJob { job });
            }
            (Outcome::Enqueued { job }, _) => Answer::Inserted { job },
            (Outcome::Deleted, _) => Answer::Deleted,
            (Outcome::Released, _) => Answer::Released,
            (Outcome::Buried, _) => Answer::Buried,
            (Outcome::Touched, _) => Answer::Touched,
            (Outcome::Kicked { count }, _) => Answer::Kicked { count },
            (Outcome::JobKicked, _) => Answer::JobKicked,
            (Outcome::Paused, _) => Answer::Paused,
            (Outcome::Unreserved, _) => Answer::Undone,
            (Outcome::NotFound | Outcome::Again | Outcome::NothingReady, _) => Answer::NotFound,
            (Outcome::SessionUnknown, _) => Answer::Hangup,
        };
        self.answer(connection, ticket, answer);
    }

    /// A RESERVE found a job: the wait that asked for it is over.
    fn settle_granted(&mut self, moment: Moment, applied: &Applied, outcome: Outcome) {
        let Outcome::Reserved { job, epoch, .. } = outcome else { return };
        let Some((connection, wait)) = self.sessions.handle_granted(applied.session, applied.seq) else { return };
        if wait.withdrawn == Some(Withdrawal::Closing) {
            // Closing the session puts the job back.
            self.close_session(moment, connection);
        } else {
            self.read_body(moment, connection, wait.ticket, job, super::reads::BodyFor::Reserved { epoch });
        }
        self.after_wait(moment, connection, &wait);
    }

    /// The leader's part: waits whose RESERVE was decided, workers that wait for what became ready, tubes that are gone.
    fn serve(&mut self, moment: Moment, entry: &Entry, outcomes: &[Applied]) {
        let created = self.machine.take_created();
        let made_ready = self.machine.take_made_ready();
        let filled = self.machine.take_filled();
        let emptied = self.machine.take_emptied();
        self.note_emptied(&emptied);
        let position = entry.meta.position;
        let Some(leading) = self.leading.as_mut() else { return };
        if position.term < leading.term {
            // What an earlier leader proposed is not among this one's proposals.
            for applied in outcomes.iter().filter(|applied| matches!(applied.outcome, Outcome::Reserved { .. })) {
                leading.waits.remove((applied.session, applied.seq));
            }
        }
        let mut ended = Vec::new();
        // A RESERVE takes the best job of its whole watch set, which may not be the one that it was proposed for. That one
        // is then left for whoever else waits.
        let mut left_over: Vec<bytes::Bytes> = Vec::new();
        for key in leading.take_proposed(position.index) {
            if leading.waits.watches_several(key) {
                let watched = leading.waits.tubes(key).unwrap_or_default();
                left_over.extend(watched.into_iter().filter(|tube| self.machine.ready_count(tube) > 0));
            }
            // A session that has used the number, or is closed, waits no more.
            let is_over = self.machine.session_last_seq(key.0).is_none_or(|last| last >= key.1);
            if let waits::Settled::Ended { registration } = leading.waits.handle_applied(key, is_over) {
                ended.push(Ended { key, registration });
            }
        }
        for tube in &filled {
            leading.references.note_inhabited(tube, true);
        }
        for tube in &emptied {
            leading.references.note_inhabited(tube, false);
        }
        if leading.waits.has_idle() {
            for tube in made_ready.iter().chain(&left_over) {
                leading.serve_waits(tube, self.machine.ready_count(tube));
            }
        }
        leading.handle_applied(position.index);
        for tube in leading.take_dropped(position.index).into_iter().chain(emptied).chain(created) {
            self.drop_tube_if_unused(&tube);
        }
        for end in ended {
            self.confirm_wait_ended(moment, end);
        }
        self.settle_term(moment, position.term);
        self.end_postponed(moment);
        self.answer_polls(moment);
    }

    /// The first entry of the leader's own term is applied: nothing of an earlier term is undecided any more.
    fn settle_term(&mut self, moment: Moment, term: Term) {
        let Some(leading) = self.leading.as_mut() else { return };
        if term != leading.term || std::mem::replace(&mut leading.settled, true) {
            return;
        }
        for end in std::mem::take(&mut leading.unconfirmed) {
            self.confirm_wait_ended(moment, end);
        }
    }

    /// Proposes to forget a tube that has neither jobs nor references, once all nodes have told what they reference.
    pub(super) fn drop_tube_if_unused(&mut self, tube: &bytes::Bytes) {
        let Some(leading) = self.leading.as_ref() else { return };
        if leading.references.is_referenced(tube) || !self.machine.is_droppable(tube) {
            return;
        }
        // Whoever is cut off for a while may have clients that count on the pause.
        if !self.may_drop_tubes() || self.machine.is_paused(tube) && self.silent_nodes().next().is_some() {
            return;
        }
        if let Some(leading) = self.leading.as_mut() {
            leading.drop_tube(tube);
        }
    }

    /// The nodes that have not told what they reference.
    fn silent_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.leading.iter().flat_map(|leading| {
            let has_reported = |node: &NodeId| leading.references.has_reported(*node);
            self.config.membership.members().into_iter().filter(move |node| !has_reported(node))
        })
    }

    /// Whether every node has told what it references, or is cut off.
    pub(super) fn may_drop_tubes(&self) -> bool {
        let is_cut_off = |node: NodeId| self.peers.get(&node).is_some_and(|peer| !peer.connected);
        self.silent_nodes().all(is_cut_off)
    }

    /// An entry of a later term is applied: no RESERVE of an earlier one can come any more.
    fn end_waits_of_earlier_terms(&mut self, moment: Moment, term: Term) {
        for connection in self.sessions.waiting() {
            let Some(wait) = self.sessions.wait_mut(connection) else { continue };
            if wait.registered.is_some_and(|registered| registered < term) {
                wait.registered = None;
                if wait.withdrawn.is_some() {
                    self.end_wait(moment, connection);
                }
            }
        }
    }

    /// Waits whose end the leader confirmed, up to an index that is applied here by now.
    pub(super) fn confirm_ended_waits(&mut self, moment: Moment) {
        let applied = self.applied.index;
        let due: Vec<EndedWait> = self.ended_waits.extract_if(.., |ended| ended.index <= applied).collect();
        for EndedWait { term, connection, registration, .. } in due {
            let Some(wait) = self.sessions.wait_mut(connection) else { continue };
            if wait.registration != registration || wait.registered != Some(term) {
                continue;
            }
            wait.registered = None;
            if wait.withdrawn.is_some() || wait.poll {
                self.end_wait(moment, connection);
            } else {
                self.register_wait(moment, connection);
            }
        }
    }

    /// A wait is over without a job.
    pub(super) fn end_wait(&mut self, moment: Moment, connection: super::effect::ConnectionId) {
        let Some(wait) = self.sessions.end_wait(connection) else { return };
        match wait.withdrawn {
            Some(Withdrawal::Closing) => self.close_session(moment, connection),
            Some(Withdrawal::DeadlineSoon) => self.answer(connection, wait.ticket, Answer::DeadlineSoon),
            Some(Withdrawal::Asked) | None => self.answer(connection, wait.ticket, Answer::NothingReady),
        }
        self.after_wait(moment, connection, &wait);
    }
}
