//! What the core threads of one node share beside their rings: what the directory held when it was opened, how far each
//! has come with stopping, and whether one of them has ended the node. Nothing here is touched while a node just serves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use super::contacts::Contacts;
use crate::fatal::Fatal;
use crate::types::NodeId;
use crate::wal::directory::{KnownPeer, KnownPeers, Opened};

/// What is durably known of each peer, on all threads.
#[derive(Debug, Default)]
pub struct Acquaintances {
    /// Never ahead of the disk. Held for moments only.
    known: RwLock<KnownPeers>,
    /// Whether any of them went back: asked for each message, and hardly ever true.
    has_shut_out: AtomicBool,
    /// Held while something is being written: two nodes may be met at one time, also by two threads.
    pub writing: tokio::sync::Mutex<()>,
}

impl Acquaintances {
    #[must_use]
    pub fn new(known: KnownPeers) -> Acquaintances {
        let has_shut_out = AtomicBool::new(known.values().any(|peer| peer.went_back));
        Acquaintances { known: RwLock::new(known), has_shut_out, writing: tokio::sync::Mutex::default() }
    }

    #[must_use]
    pub fn is_shut_out(&self, node: NodeId) -> bool {
        self.has_shut_out.load(Ordering::Acquire) && self.get(node).is_some_and(|known| known.went_back)
    }

    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<KnownPeer> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    #[must_use]
    pub fn all(&self) -> KnownPeers {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This was made durable.
    pub fn handle_saved(&self, node: NodeId, peer: KnownPeer) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(node, peer);
        if peer.went_back {
            self.has_shut_out.store(true, Ordering::Release);
        }
    }
}

/// The directory, opened once per process.
#[derive(Debug)]
pub struct OpenedNode {
    pub directory: Opened,
    pub acquaintances: Arc<Acquaintances>,
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
    pub contacts: Arc<Contacts>,
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
            contacts: Arc::default(),
        }
    }

    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// One thread has opened the directory; the others begin.
    pub fn share_opened(&self, directory: Opened) -> Arc<OpenedNode> {
        let acquaintances = Arc::new(Acquaintances::new(directory.peers.clone()));
        let opened = Arc::new(OpenedNode { directory, acquaintances });
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
