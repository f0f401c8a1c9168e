//! Where bodies wait that are to be read back for clients, until other clients have taken theirs.
//!
//! It must never let one overtake another of its kind: large ones wait behind large ones, and others behind others.

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
    large: Semaphore,
    other: Semaphore,
}

impl AnswerRooms {
    #[must_use]
    pub fn new(budget: Arc<AnswerBudget>) -> AnswerRooms {
        AnswerRooms { budget, large: Semaphore::new(1), other: Semaphore::new(1) }
    }

    /// Room for a body of so many bytes, when its turn has come and there is some. Clients that take nothing are closed in time, so there
    /// will be.
    pub async fn take<R: Runtime>(&self, rt: &R, bytes: usize) -> AnswerRoom {
        let queue = if self.budget.is_large(bytes) { &self.large } else { &self.other };
        let _turn = queue.acquire().await.expect("it is never closed");
        if let Some(room) = self.budget.try_take(bytes) {
            return room;
        }
        self.budget.note_wait();
        loop {
            rt.sleep(RETRY).await;
            if let Some(room) = self.budget.try_take(bytes) {
                return room;
            }
        }
    }
}
