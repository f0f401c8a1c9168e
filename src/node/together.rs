//! What the core threads of one node share beside their rings: what the directory held when it was opened, how far each
//! has come with stopping, and whether one of them has ended the node. Nothing here is touched while a node just serves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::fatal::Fatal;
use crate::types::{Incarnation, NodeId};
use crate::wal::directory::Opened;

/// The incarnation that each peer is durably bound to. The lock is held while a binding is being written: two nodes may
/// be met at one time, also by two threads.
pub type Bindings = tokio::sync::Mutex<BTreeMap<NodeId, Incarnation>>;

/// The directory, opened once per process.
#[derive(Debug)]
pub struct OpenedNode {
    pub directory: Opened,
    pub bindings: Arc<Bindings>,
}

/// Steps of a graceful stop at which the threads wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStep {
    /// The thread leads no shard any more.
    HandedOver = 0,
    /// The thread has no client any more, and has told every shard so.
    Emptied = 1,
}

#[derive(Debug)]
pub struct Together {
    cores: usize,
    opened: watch::Sender<Option<Arc<OpenedNode>>>,
    is_ended: watch::Sender<bool>,
    /// Invariant: the first reason stays; later ones are only logged.
    reason: Mutex<Option<Fatal>>,
    /// How many threads have reached each step.
    reached: [AtomicUsize; 2],
}

impl Together {
    #[must_use]
    pub fn new(cores: usize) -> Together {
        assert!(cores > 0, "a node has at least one core thread");
        Together {
            cores,
            opened: watch::Sender::new(None),
            is_ended: watch::Sender::new(false),
            reason: Mutex::new(None),
            reached: Default::default(),
        }
    }

    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// One thread has opened the directory; the others begin.
    pub fn share_opened(&self, directory: Opened) -> Arc<OpenedNode> {
        let bindings = Arc::new(Bindings::new(directory.peers.clone()));
        let opened = Arc::new(OpenedNode { directory, bindings });
        self.opened.send_replace(Some(Arc::clone(&opened)));
        opened
    }

    /// Returns once the directory is open.
    pub async fn opened(&self) -> Arc<OpenedNode> {
        let mut opened = self.opened.subscribe();
        let opened = opened.wait_for(Option::is_some).await.expect("the sender is this very object");
        Arc::clone(opened.as_ref().expect("it was waited for"))
    }

    /// The node ends, on all threads. `why`: what its exit status will say, unless another thread was first.
    pub fn end(&self, why: Option<Fatal>) {
        if let Some(why) = why {
            let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            match &*reason {
                None => *reason = Some(why),
                Some(_) => tracing::error!("while stopping: {why}"),
            }
        }
        self.is_ended.send_replace(true);
    }

    /// Returns once a thread has ended the node.
    pub async fn ended(&self) {
        let waited = self.is_ended.subscribe().wait_for(|is_ended| *is_ended).await.map(|_| ());
        waited.expect("the sender is this very object");
    }

    /// # Errors
    /// The first reason, if the node did not end as it was asked to.
    pub fn take_end(&self) -> Result<(), Fatal> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// This thread has come to a step of stopping. Once each.
    pub fn reach(&self, step: StopStep) {
        self.reached[step as usize].fetch_add(1, Ordering::SeqCst);
    }

    #[must_use]
    pub fn all_reached(&self, step: StopStep) -> bool {
        self.reached[step as usize].load(Ordering::SeqCst) >= self.cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_to_end_is_the_one_that_is_told() {
        let together = Together::new(2);
        together.end(None);
        together.end(Some(Fatal::Internal("first".to_owned())));
        together.end(Some(Fatal::FaultyLog("second".to_owned())));
        assert!(matches!(together.take_end(), Err(Fatal::Internal(_))));
    }

    #[test]
    fn a_step_is_reached_when_every_thread_has_come_to_it() {
        let together = Together::new(2);
        together.reach(StopStep::HandedOver);
        assert!(!together.all_reached(StopStep::HandedOver));
        together.reach(StopStep::HandedOver);
        assert!(together.all_reached(StopStep::HandedOver));
        assert!(!together.all_reached(StopStep::Emptied));
    }
}
