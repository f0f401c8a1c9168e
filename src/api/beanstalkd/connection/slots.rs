//! Commands that are under way beside each other, in their order: replies leave from the front only.

use std::collections::VecDeque;

use crate::api::beanstalkd::output::Output;
use crate::api::beanstalkd::reply::Reply;
use crate::types::JobId;

#[derive(Debug, Default)]
pub struct Slots {
    /// Tickets ascend. The front waits: what is ready in front has left.
    queue: VecDeque<Slot>,
    body_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    ticket: u64,
    /// Bytes of the body that a shard was given and has not answered.
    body_bytes: usize,
    change: Option<Change>,
    reply: Option<Reply>,
}

/// What a command does to one job that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// As the client names it.
    pub id: u64,
    /// Of the shard that was asked.
    pub job: JobId,
    /// Whether that it is not found means that the client holds it no longer.
    pub needs_hold: bool,
}

impl Slots {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of all bodies that shards have not answered.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// A command that a shard will answer.
    pub fn wait(&mut self, ticket: u64, body_bytes: usize, change: Option<Change>) {
        self.body_bytes += body_bytes;
        self.push(Slot { ticket, body_bytes, change, reply: None });
    }

    /// Whether a command is under way that changes this job.
    #[must_use]
    pub fn is_changing(&self, id: u64) -> bool {
        self.queue.iter().any(|slot| slot.reply.is_none() && slot.change.is_some_and(|change| change.id == id))
    }

    /// A command that is answered already, behind some that are not.
    pub fn ready(&mut self, ticket: u64, reply: Reply) {
        assert!(!self.queue.is_empty(), "a reply that nothing is in front of leaves at once");
        self.push(Slot { ticket, body_bytes: 0, change: None, reply: Some(reply) });
    }

    /// The answer to a ticket, if it is one of these; replies that are due go to the output. What the command
    /// that is over did to a job.
    pub fn answer(&mut self, ticket: u64, reply: impl FnOnce() -> Reply, output: &mut Output) -> Option<Change> {
        let place = self.queue.binary_search_by_key(&ticket, |slot| slot.ticket).ok()?;
        let slot = &mut self.queue[place];
        if slot.reply.is_some() {
            return None;
        }
        let change = slot.change;
        self.body_bytes -= std::mem::take(&mut slot.body_bytes);
        slot.reply = Some(reply());
        while let Some(reply) = self.queue.front().and_then(|slot| slot.reply.as_ref()) {
            reply.write(output);
            self.queue.pop_front();
        }
        change
    }

    fn push(&mut self, slot: Slot) {
        assert!(self.queue.back().is_none_or(|last| last.ticket < slot.ticket), "tickets ascend");
        self.queue.push_back(slot);
    }
}
