//! The node's side of its clients' sessions on one shard: numbers their commands, remembers what is not yet seen applied,
//! and turns outcomes into answers.
//!
//! ```text
//!     unsent ──(a leader is reachable: numbered)──> outstanding ──(applied here)──> answered
//! ```
//!
//! After a leader change everything outstanding goes to the new leader again, in order; the state machine skips what it
//! has already applied. So each command happens once, and a failover is a pause.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::effect::ConnectionId;
use crate::api::Operation;
use crate::job::command::{Command, Numbered, Origin};
use crate::job::{Machine, codec};
use crate::types::{BootEpoch, JobId, Nanos, NodeId, SessionId, Term};

/// A command that was given a number and is not yet seen applied.
#[derive(Debug)]
struct Outstanding {
    number: u64,
    seq: u64,
    encoded: Bytes,
}

/// What the session waits to see applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Open,
    Close,
    Put,
    ReserveJob(JobId),
    Delete(JobId),
    Plain,
}

#[derive(Debug, Clone, Copy)]
struct Expect {
    seq: u64,
    ticket: u64,
    what: Expected,
}

/// An operation that no leader was given.
#[derive(Debug)]
pub struct Unsent {
    pub connection: ConnectionId,
    pub ticket: u64,
    pub operation: Operation,
    pub since: Nanos,
}

/// Why a wait is being withdrawn, and so how it is answered when no job came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    Asked,
    DeadlineSoon,
    /// The connection is gone.
    Closing,
}

/// A RESERVE that waits at the leader.
#[derive(Debug)]
pub struct LocalWait {
    pub ticket: u64,
    pub tubes: Bytes,
    pub poll: bool,
    /// The term of the leader that knows of it; a RESERVE of that term may be in the log.
    pub registered: Option<Term>,
    /// Of the last time that it was registered; 0 before the first.
    pub registration: u64,
    pub withdrawn: Option<Withdrawal>,
    /// Under which lease time it stands among those that are to be told of a deadline.
    pub warn_at: Option<Nanos>,
}

#[derive(Debug, Default)]
struct Session {
    /// None until its first command that changes something.
    number: Option<u64>,
    next_seq: u64,
    expects: VecDeque<Expect>,
    wait: Option<LocalWait>,
    /// Since when it has been owed an answer, while it is owed one.
    owed_since: Nanos,
    /// What came while the wait was not over: its RESERVE may still use up the number that the next command would get.
    held: VecDeque<(u64, Operation)>,
    closing: bool,
}

/// Invariants: `outstanding` is in the order of first hand-over; per session its numbers ascend by one; a session that
/// closes has no wait when its SESSION_CLOSED gets its number; no command gets a number while its session waits.
#[derive(Debug)]
pub struct Sessions {
    node: NodeId,
    boot: BootEpoch,
    next_number: u64,
    sessions: BTreeMap<ConnectionId, Session>,
    by_number: BTreeMap<u64, ConnectionId>,
    outstanding: VecDeque<Outstanding>,
    outstanding_bytes: usize,
    unsent: VecDeque<Unsent>,
    /// Waits that are to end, by their tickets, and since when; in the order of time. Those that are over are dropped as they
    /// come to the front.
    ending: VecDeque<(Nanos, ConnectionId, u64)>,
    boot_applied: bool,
}

/// What an applied command means to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub connection: ConnectionId,
    pub ticket: u64,
    pub what: Expected,
}

impl Sessions {
    #[must_use]
    pub fn new(node: NodeId, boot: BootEpoch) -> Sessions {
        Sessions {
            node,
            boot,
            next_number: 1,
            sessions: BTreeMap::new(),
            by_number: BTreeMap::new(),
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            unsent: VecDeque::new(),
            ending: VecDeque::new(),
            boot_applied: false,
        }
    }

    fn id(&self, number: u64) -> SessionId {
        SessionId { node: self.node, boot: self.boot, number }
    }

    #[must_use]
    pub fn is_own(&self, session: SessionId) -> bool {
        session.node == self.node && session.boot == self.boot
    }

    #[must_use]
    pub fn session_of(&self, connection: ConnectionId) -> Option<SessionId> {
        Some(self.id(self.sessions.get(&connection)?.number?))
    }

    /// Sessions and bytes of commands that wait to be applied.
    #[must_use]
    pub fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    #[must_use]
    pub fn outstanding_count(&self) -> usize {
        self.outstanding.len() + self.unsent.len()
    }

    /// Keeps an operation for when there is a leader.
    pub fn keep_unsent(&mut self, now: Nanos, connection: ConnectionId, ticket: u64, operation: Operation) {
        self.unsent.push_back(Unsent { connection, ticket, operation, since: now });
    }

    pub fn take_unsent(&mut self) -> VecDeque<Unsent> {
        std::mem::take(&mut self.unsent)
    }

    /// Those that have waited for a leader since this moment, or longer.
    pub fn take_unsent_since(&mut self, latest: Nanos) -> Vec<Unsent> {
        let count = self.unsent.partition_point(|unsent| unsent.since <= latest);
        self.unsent.drain(..count).collect()
    }

    /// The connection asks something that it will be owed an answer to.
    pub fn note_asked(&mut self, connection: ConnectionId, now: Nanos) {
        let session = self.sessions.entry(connection).or_default();
        if session.expects.is_empty() && session.wait.is_none() {
            session.owed_since = now;
        }
    }

    /// Opens the connection's session if it has none yet: the SESSION_OPEN to hand over.
    #[must_use]
    pub fn open(&mut self, connection: ConnectionId) -> Option<Bytes> {
        let session = self.sessions.entry(connection).or_default();
        if session.number.is_some() {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        session.number = Some(number);
        self.by_number.insert(number, connection);
        Some(self.hand_over(connection, 0, Expected::Open, Command::SessionOpen))
    }

    /// Numbers a command of an open session; its bytes, to hand to the leader.
    ///
    /// # Panics
    /// If the session is not open.
    #[must_use]
    pub fn hand_over(&mut self, connection: ConnectionId, ticket: u64, what: Expected, command: Command<'_>) -> Bytes {
        let (node, boot) = (self.node, self.boot);
        let session = self.sessions.get_mut(&connection).expect("a command's session is open");
        let number = session.number.expect("a command's session is open");
        let seq = session.next_seq;
        session.next_seq += 1;
        session.expects.push_back(Expect { seq, ticket, what });
        let mut encoded = Vec::new();
        let origin = Origin::Session { session: SessionId { node, boot, number }, seq };
        codec::encode(&Numbered { origin, command }, &mut encoded);
        let encoded = Bytes::from(encoded);
        self.outstanding_bytes += encoded.len();
        self.outstanding.push_back(Outstanding { number, seq, encoded: encoded.clone() });
        encoded
    }

    /// Everything that a new leader must be handed again, in order.
    pub fn resend(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.forget_applied();
        self.outstanding.iter().map(|item| item.encoded.clone())
    }

    /// NODE_BOOT, until it is seen applied.
    #[must_use]
    pub fn boot_command(&self) -> Option<Bytes> {
        if self.boot_applied {
            return None;
        }
        let mut encoded = Vec::new();
        let command = Command::NodeBoot { node: self.node, boot: self.boot };
        codec::encode(&Numbered { origin: Origin::System, command }, &mut encoded);
        Some(Bytes::from(encoded))
    }

    pub fn handle_boot_applied(&mut self) {
        self.boot_applied = true;
    }

    fn forget_applied(&mut self) {
        while let Some(front) = self.outstanding.front() {
            let is_awaited = self
                .by_number
                .get(&front.number)
                .and_then(|connection| self.sessions.get(connection))
                .and_then(|session| session.expects.front())
                .is_some_and(|expect| expect.seq <= front.seq);
            if is_awaited {
                return;
            }
            self.outstanding_bytes -= front.encoded.len();
            self.outstanding.pop_front();
        }
    }

    /// A command of one of this node's sessions was applied. None if it is a RESERVE or was not awaited.
    pub fn handle_applied(&mut self, session: SessionId, seq: u64) -> Option<Settled> {
        let connection = *self.by_number.get(&session.number)?;
        let state = self.sessions.get_mut(&connection)?;
        if state.expects.front()?.seq != seq {
            return None;
        }
        let Expect { ticket, what, .. } = state.expects.pop_front()?;
        if what == Expected::Close {
            self.sessions.remove(&connection);
            self.by_number.remove(&session.number);
        }
        self.forget_applied();
        Some(Settled { connection, ticket, what })
    }

    /// A RESERVE of this session was granted: its number is used up. The wait that it ends, and whose it is.
    pub fn handle_granted(&mut self, session: SessionId, seq: u64) -> Option<(ConnectionId, LocalWait)> {
        let connection = *self.by_number.get(&session.number)?;
        let state = self.sessions.get_mut(&connection)?;
        if state.next_seq != seq {
            return None;
        }
        let wait = state.wait.take()?;
        state.next_seq += 1;
        Some((connection, wait))
    }

    /// The session is closed on every node (a later boot of this node came first).
    pub fn handle_unknown(&mut self, session: SessionId) -> Option<ConnectionId> {
        let connection = self.by_number.remove(&session.number)?;
        self.sessions.remove(&connection);
        self.forget_applied();
        Some(connection)
    }

    /// The state jumps ahead to this machine's, past outcomes that nobody here saw: those who waited for one.
    pub fn skip_to(&mut self, machine: &Machine) -> Vec<ConnectionId> {
        self.boot_applied = machine.node_boot(self.node) == Some(self.boot);
        let mut owed = Vec::new();
        for (number, connection) in self.by_number.clone() {
            let (node, boot) = (self.node, self.boot);
            let Some(session) = self.sessions.get_mut(&connection) else { continue };
            let Some(last) = machine.session_last_seq(SessionId { node, boot, number }) else {
                let opens = session.expects.front().is_some_and(|expect| expect.what == Expected::Open);
                if !opens {
                    // It was closed, as it asked to be or by a later boot.
                    let closes = session.closing && session.wait.is_none();
                    self.sessions.remove(&connection);
                    self.by_number.remove(&number);
                    owed.extend((!closes).then_some(connection));
                }
                continue;
            };
            let mut is_owed = false;
            while let Some(skipped) = session.expects.front().filter(|expect| expect.seq <= last) {
                is_owed |= skipped.what != Expected::Open;
                session.expects.pop_front();
            }
            if session.next_seq <= last {
                // The wait was granted a job, which goes back when the session closes.
                session.next_seq = last + 1;
                is_owed |= session.wait.take().is_some();
            }
            owed.extend(is_owed.then_some(connection));
        }
        self.forget_applied();
        owed
    }

    /// Begins a wait of an open session.
    pub fn begin_wait(&mut self, connection: ConnectionId, ticket: u64, tubes: Bytes, poll: bool) {
        let session = self.sessions.get_mut(&connection).expect("a wait's session is open");
        assert!(session.wait.is_none(), "a session waits for one job at a time");
        let wait = LocalWait { ticket, tubes, poll, registered: None, registration: 0, withdrawn: None, warn_at: None };
        session.wait = Some(wait);
    }

    /// The connection's wait is to end as soon as a leader says so.
    pub fn note_ending(&mut self, connection: ConnectionId, now: Nanos) {
        self.drop_ended();
        if let Some(wait) = self.wait_of(connection) {
            self.ending.push_back((now, connection, wait.ticket));
        }
    }

    fn wait_of(&self, connection: ConnectionId) -> Option<&LocalWait> {
        self.sessions.get(&connection)?.wait.as_ref()
    }

    fn drop_ended(&mut self) {
        let is_over = |&(_, connection, ticket): &(Nanos, ConnectionId, u64)| {
            self.wait_of(connection).is_none_or(|wait| wait.ticket != ticket)
        };
        let over = self.ending.iter().take_while(|ending| is_over(ending)).count();
        self.ending.drain(..over);
    }

    /// Since when the first of the waits that are to end has been; perhaps of one that has ended meanwhile.
    #[must_use]
    pub fn oldest_ending(&self) -> Option<Nanos> {
        self.ending.front().map(|(since, ..)| *since)
    }

    /// Connections whose waits have been about to end since this moment, or longer, and still owe them an answer.
    pub fn take_ending_since(&mut self, latest: Nanos) -> Vec<ConnectionId> {
        let due = self.ending.partition_point(|(since, ..)| *since <= latest);
        let due: Vec<_> = self.ending.drain(..due).collect();
        let is_owed = |&(_, connection, ticket): &(Nanos, ConnectionId, u64)| {
            let is_open = self.sessions.get(&connection).is_some_and(|session| !session.closing);
            is_open && self.wait_of(connection).is_some_and(|wait| wait.ticket == ticket)
        };
        due.into_iter().filter(is_owed).map(|(_, connection, _)| connection).collect()
    }

    #[must_use]
    pub fn wait_mut(&mut self, connection: ConnectionId) -> Option<&mut LocalWait> {
        self.sessions.get_mut(&connection)?.wait.as_mut()
    }

    /// The session of a connection with the number that its next command will have, which is also its wait's.
    #[must_use]
    pub fn wait_key(&self, connection: ConnectionId) -> Option<(SessionId, u64)> {
        let session = self.sessions.get(&connection)?;
        Some((self.id(session.number?), session.next_seq))
    }

    #[must_use]
    pub fn connection_of(&self, session: SessionId) -> Option<ConnectionId> {
        self.by_number.get(&session.number).copied()
    }

    pub fn end_wait(&mut self, connection: ConnectionId) -> Option<LocalWait> {
        self.sessions.get_mut(&connection)?.wait.take()
    }

    #[must_use]
    pub fn is_waiting(&self, connection: ConnectionId) -> bool {
        self.sessions.get(&connection).is_some_and(|session| session.wait.is_some())
    }

    /// Keeps an operation of a session that waits until the wait is over.
    pub fn hold(&mut self, connection: ConnectionId, ticket: u64, operation: Operation) {
        if let Some(session) = self.sessions.get_mut(&connection) {
            session.held.push_back((ticket, operation));
        }
    }

    /// What was held, once the wait is over.
    pub fn take_held(&mut self, connection: ConnectionId) -> VecDeque<(u64, Operation)> {
        self.sessions.get_mut(&connection).map(|session| std::mem::take(&mut session.held)).unwrap_or_default()
    }

    #[must_use]
    pub fn has_waits(&self) -> bool {
        self.sessions.values().any(|session| session.wait.is_some())
    }

    /// A RESERVE that was never handed to a leader is to wait for no job, once it is. False if there is none.
    pub fn make_unsent_reserve_poll(&mut self, connection: ConnectionId, ticket: u64) -> bool {
        let unsent = self.unsent.iter_mut().filter(|unsent| unsent.connection == connection);
        let held = self.sessions.get_mut(&connection).map(|session| session.held.iter_mut());
        let all = unsent
            .map(|unsent| (unsent.ticket, &mut unsent.operation))
            .chain(held.into_iter().flatten().map(|(with, operation)| (*with, operation)));
        for (with, operation) in all {
            if with == ticket
                && let Operation::Reserve { poll, .. } = operation
            {
                *poll = true;
                return true;
            }
        }
        false
    }

    /// Connections that wait for a job.
    #[must_use]
    pub fn waiting(&self) -> Vec<ConnectionId> {
        self.sessions.iter().filter(|(_, session)| session.wait.is_some()).map(|(&connection, _)| connection).collect()
    }

    fn owed(&self) -> impl Iterator<Item = (ConnectionId, &Session)> {
        let is_owed = |session: &Session| !session.closing && (session.wait.is_some() || !session.expects.is_empty());
        let all = self.sessions.iter().map(|(&connection, session)| (connection, session));
        all.filter(move |(_, session)| is_owed(session))
    }

    /// Connections that have been owed an answer which needs a leader since this moment, or longer.
    #[must_use]
    pub fn owed_since(&self, latest: Nanos) -> Vec<ConnectionId> {
        let owed = self.owed().filter(|(_, session)| session.owed_since <= latest);
        owed.map(|(connection, _)| connection).collect()
    }

    /// Since when the first of all these has waited, unsent ones included.
    #[must_use]
    pub fn oldest(&self) -> Option<Nanos> {
        let unsent = self.unsent.front().map(|unsent| unsent.since);
        self.owed().map(|(_, session)| session.owed_since).chain(unsent).min()
    }

    /// The client is gone: what it never handed over is forgotten. True if its session now has to be closed.
    pub fn handle_closed(&mut self, connection: ConnectionId) -> bool {
        self.unsent.retain(|unsent| unsent.connection != connection);
        let Some(session) = self.sessions.get_mut(&connection) else { return false };
        if session.number.is_none() {
            self.sessions.remove(&connection);
            return false;
        }
        session.held.clear();
        !std::mem::replace(&mut session.closing, true)
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.by_number.len()
    }
}
