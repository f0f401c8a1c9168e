//! Where bodies wait that are to be read back for clients, until other clients have taken theirs.
//!
//! It must never let one overtake another of its kind: large ones wait behind large ones, and others behind others. Nor may
//! one wait for ever: a crowd that takes nothing is closed a few at a time, and keeps whoever is behind it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::api::beanstalkd::output_budget::{AnswerBudget, AnswerRoom};
use crate::io::Runtime;
use crate::types::Nanos;

/// How often the first that waits looks for room. Who gives room back, maybe on another thread, tells nobody.
const RETRY: Nanos = Nanos::from_millis(5);

/// The waiting rooms of one shard.
#[derive(Debug)]
pub struct AnswerRooms {
    budget: Arc<AnswerBudget>,
    patience: Nanos,
    large: Semaphore,
    other: Semaphore,
}

impl AnswerRooms {
    /// `patience`: how long a body may wait for room.
    #[must_use]
    pub fn new(budget: Arc<AnswerBudget>, patience: Nanos) -> AnswerRooms {
        AnswerRooms { budget, patience, large: Semaphore::new(1), other: Semaphore::new(1) }
    }

    /// Room for a body of so many bytes, when its turn has come and there is some; none where that
    /// takes too long.
    pub async fn take<R: Runtime>(&self, rt: &R, bytes: usize) -> Option<AnswerRoom> {
        let queue = if self.budget.is_large(bytes) { &self.large } else { &self.other };
        let deadline = rt.now().saturating_add(self.patience);
        let _turn = match queue.try_acquire() {
            Ok(turn) => turn,
            Err(_) => tokio::select! {
                biased;
                turn = queue.acquire() => turn.expect("it is never closed"),
                () = rt.sleep(self.patience) => return self.give_up(),
            },
        };
        if let Some(room) = self.budget.try_take(bytes) {
            return Some(room);
        }
        self.budget.note_wait();
        while rt.now() < deadline {
            rt.sleep(RETRY).await;
            if let Some(room) = self.budget.try_take(bytes) {
                return Some(room);
            }
        }
        self.give_up()
    }

    fn give_up(&self) -> Option<AnswerRoom> {
        self.budget.note_given_up();
        None
    }
}
