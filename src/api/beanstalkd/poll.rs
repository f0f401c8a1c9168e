//! A `reserve-with-timeout 0`: shards are asked one after the other, so that never more than one job is granted.

use std::collections::VecDeque;

use bytes::Bytes;

use super::outbox::Outbox;
use super::waits::Reserved;
use crate::api::{Answer, Operation};
use crate::types::ShardId;

#[derive(Debug)]
pub struct Poll {
    /// Of the question that is out.
    ticket: u64,
    rest: VecDeque<(ShardId, Vec<Bytes>)>,
    deadline_soon: bool,
}

impl Poll {
    /// Asks the first shard; there is at least one.
    pub fn begin(targets: impl IntoIterator<Item = (ShardId, Vec<Bytes>)>, outbox: &mut Outbox) -> Poll {
        let mut rest: VecDeque<_> = targets.into_iter().collect();
        let (shard, tubes) = rest.pop_front().expect("a watch list is never empty");
        Poll { ticket: ask(shard, tubes, outbox), rest, deadline_soon: false }
    }

    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// The answer to the question that is out.
    pub fn handle_answer(&mut self, shard: ShardId, answer: Answer, outbox: &mut Outbox) -> Option<Reserved> {
        if let Answer::Reserved { job, body, .. } = answer {
            return Some(Reserved::Job { shard, job, body });
        }
        // A ready job elsewhere comes before the warning.
        self.deadline_soon |= answer == Answer::DeadlineSoon;
        match self.rest.pop_front() {
            Some((shard, tubes)) => {
                self.ticket = ask(shard, tubes, outbox);
                None
            }
            None if self.deadline_soon => Some(Reserved::DeadlineSoon),
            None => Some(Reserved::TimedOut),
        }
    }
}

fn ask(shard: ShardId, tubes: Vec<Bytes>, outbox: &mut Outbox) -> u64 {
    outbox.send(shard, Operation::Reserve { tubes, poll: true })
}
