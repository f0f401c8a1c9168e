//! A queue between tasks of one core thread: many may push, one takes all there is at once.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::Notify;

/// Unbounded in itself; whoever pushes is bounded (outstanding operations per connection, in-flight appends per peer).
#[derive(Debug)]
pub struct Queue<T> {
    items: RefCell<VecDeque<T>>,
    pushed: Notify,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { items: RefCell::new(VecDeque::new()), pushed: Notify::new() }
    }
}

impl<T> Queue<T> {
    pub fn push(&self, item: T) {
        let was_empty = {
            let mut items = self.items.borrow_mut();
            items.push_back(item);
            items.len() == 1
        };
        if was_empty {
            self.pushed.notify_one();
        }
    }

    /// Everything that was pushed so far.
    pub fn take(&self) -> VecDeque<T> {
        std::mem::take(&mut self.items.borrow_mut())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.borrow().is_empty()
    }

    /// Returns when there may be something to take.
    pub async fn wait(&self) {
        while self.is_empty() {
            self.pushed.notified().await;
        }
    }
}
