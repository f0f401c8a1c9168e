//! Operations on their way from a connection to shards. Tickets ascend within a connection and are never reused, so
//! a late answer cannot be taken for another's.

use std::collections::VecDeque;

use crate::api::Operation;
use crate::types::ShardId;

/// One operation for one shard. Those that have no answer (`Reference`, `Withdraw`) carry a ticket too, which nothing
/// waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRequest {
    pub shard: ShardId,
    pub ticket: u64,
    pub operation: Operation,
}

#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<ShardRequest>,
    tickets_given: u64,
}

impl Outbox {
    pub fn send(&mut self, shard: ShardId, operation: Operation) -> u64 {
        let ticket = self.next_ticket();
        self.queue.push_back(ShardRequest { shard, ticket, operation });
        ticket
    }

    /// A ticket for something that needs a place in the order of tickets, and no shard.
    pub fn next_ticket(&mut self) -> u64 {
        self.tickets_given += 1;
        self.tickets_given
    }

    pub fn poll(&mut self) -> Option<ShardRequest> {
        self.queue.pop_front()
    }
}
