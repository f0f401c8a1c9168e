//! A `reserve` that waits, over the shards of the watched tubes. The first grant wins; whatever else was granted is
//! given back.
//!
//! Per shard there is at most one wait of a connection:
//!
//! ```text
//!            send Reserve                 send Withdraw
//!   (none) ---------------> Asking ---------------------> Withdrawing
//!      ^                       |  command over: Withdraw        | command over
//!      |                       v                                v
//!      +---- answer ------- Abandoned <------------------- Abandoned
//! ```
//!
//! - A wait that is *asking* or *withdrawing* belongs to the command under way: a grant answers its client.
//! - An *abandoned* one belongs to a command that was answered: a grant is undone. A new command that needs the shard
//!   queues behind it, so that a shard that does not answer cannot be piled up with waits.
//! - The command ends without a job only when no wait of it is left: then no grant can come for it any more.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::outbox::Outbox;
use crate::api::{Answer, Operation};
use crate::types::{JobId, Nanos, ShardId};

#[derive(Debug, Default)]
pub struct Waits {
    shards: BTreeMap<ShardId, Wait>,
    command: Option<Command>,
}

#[derive(Debug)]
struct Wait {
    ticket: u64,
    state: State,
    /// Only while abandoned: what the command under way will ask for as soon as this wait is answered.
    next: Option<Vec<Bytes>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Withdrawing,
    Abandoned,
}

#[derive(Debug)]
struct Command {
    deadline: Option<Nanos>,
    /// Why it ends if no grant comes; set once the waits are being withdrawn.
    ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    TimedOut,
    DeadlineSoon,
}

/// How a reserve ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Reserved {
    Job { shard: ShardId, job: JobId, body: Bytes },
    TimedOut,
    DeadlineSoon,
}

impl Waits {
    /// Starts a command over these shards; there is none under way.
    pub fn begin(
        &mut self,
        targets: impl IntoIterator<Item = (ShardId, Vec<Bytes>)>,
        deadline: Option<Nanos>,
        outbox: &mut Outbox,
    ) {
        assert!(self.command.is_none(), "a connection has one reserve under way");
        self.command = Some(Command { deadline, ending: None });
        for (shard, tubes) in targets {
            match self.shards.get_mut(&shard) {
                Some(abandoned) => abandoned.next = Some(tubes),
                None => self.ask(shard, tubes, outbox),
            }
        }
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let command = self.command.as_ref()?;
        if command.ending.is_some() { None } else { command.deadline }
    }

    #[must_use]
    pub fn owns(&self, shard: ShardId, ticket: u64) -> bool {
        self.shards.get(&shard).is_some_and(|wait| wait.ticket == ticket)
    }

    /// The time is up, or the client can wait no longer.
    pub fn expire(&mut self, outbox: &mut Outbox) -> Option<Reserved> {
        let command = self.command.as_mut()?;
        if command.ending.is_none() {
            command.ending = Some(Ending::TimedOut);
            self.withdraw(outbox);
        }
        self.end_without_waits()
    }

    /// The answer to a wait that [`Waits::owns`] the ticket.
    pub fn handle_answer(&mut self, shard: ShardId, answer: Answer, outbox: &mut Outbox) -> Option<Reserved> {
        let wait = self.shards.remove(&shard)?;
        let ours = self.command.is_some() && wait.state != State::Abandoned;
        match answer {
            Answer::Reserved { job, body, .. } if ours => {
                self.abandon(outbox);
                return Some(Reserved::Job { shard, job, body });
            }
            Answer::Reserved { job, epoch, .. } => {
                outbox.send(shard, Operation::Unreserve { job, epoch });
            }
            Answer::DeadlineSoon if ours => {
                let command = self.command.as_mut().expect("the wait belongs to the command under way");
                command.ending = Some(Ending::DeadlineSoon);
                self.withdraw(outbox);
            }
            _ => {}
        }
        if let Some(tubes) = wait.next {
            self.ask(shard, tubes, outbox);
        }
        self.end_without_waits()
    }

    fn ask(&mut self, shard: ShardId, tubes: Vec<Bytes>, outbox: &mut Outbox) {
        let ticket = outbox.send(shard, Operation::Reserve { tubes, poll: false });
        self.shards.insert(shard, Wait { ticket, state: State::Asking, next: None });
    }

    /// The command wants no job any more but may still get one.
    fn withdraw(&mut self, outbox: &mut Outbox) {
        for (&shard, wait) in &mut self.shards {
            wait.next = None;
            if wait.state == State::Asking {
                wait.state = State::Withdrawing;
                outbox.send(shard, Operation::Withdraw { ticket: wait.ticket });
            }
        }
    }

    /// The command is over.
    fn abandon(&mut self, outbox: &mut Outbox) {
        self.withdraw(outbox);
        self.command = None;
        for wait in self.shards.values_mut() {
            wait.state = State::Abandoned;
        }
    }

    fn end_without_waits(&mut self) -> Option<Reserved> {
        let command = self.command.as_ref()?;
        if self.shards.values().any(|wait| wait.state != State::Abandoned || wait.next.is_some()) {
            return None;
        }
        let end = match command.ending {
            Some(Ending::DeadlineSoon) => Reserved::DeadlineSoon,
            Some(Ending::TimedOut) | None => Reserved::TimedOut,
        };
        self.command = None;
        Some(end)
    }
}

#[cfg(test)]
mod tests;
