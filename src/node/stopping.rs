//! A stop in peace: nobody new comes in, leadership goes where another node can take it, and what was promised is written.
//!
//! The threads of a node take its steps together. A client of one thread is answered by shards of another, so none may
//! end before all clients of all are gone.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::fate::Fate;
use super::front::Front;
use super::host::{Event, Host};
use super::listeners::Listeners;
use super::place::Place;
use super::together::StopStep;
use crate::config::Config;
use crate::io::Runtime;
use crate::types::Nanos;

/// How often a stopping node looks whether it is done.
const STOP_POLL: Nanos = Nanos::from_millis(5);

/// The part of the time for a stop that may go by for a last snapshot.
const MARKING_SHARE: u64 = 4;

/// Asks a running core thread to stop, from the same thread.
#[derive(Debug, Default)]
pub struct StopRequest {
    asked: Cell<bool>,
    changed: Notify,
}

impl StopRequest {
    pub fn ask(&self) {
        self.asked.set(true);
        self.changed.notify_waiters();
    }

    pub async fn wait(&self) {
        let changed = self.changed.notified();
        if !self.asked.get() {
            changed.await;
        }
    }
}

/// What is stopped: one core thread.
pub struct Stopping<'a, R: Runtime> {
    pub rt: &'a R,
    pub config: &'a Config,
    pub place: &'a Place<R::Wire>,
    pub listeners: &'a Listeners<R>,
    pub hosts: &'a [Rc<Host<R>>],
    pub front: &'a Front<R>,
    pub fate: &'a Fate,
}

impl<R: Runtime> Stopping<'_, R> {
    /// Ends the thread's part of the node, in peace if that is possible in time.
    pub async fn stop(&self) {
        if self.place.is_first() {
            tracing::info!("stopping");
        }
        let deadline = self.rt.now().saturating_add(Nanos::from_millis(self.config.tunables.stop_timeout_ms));
        let together = &self.place.together;
        self.listeners.close_clients();
        self.mark().await;
        if self.config.members.len() > 1 {
            for host in self.hosts {
                host.events.push(Event::TransferLeadership);
            }
            self.wait(deadline, || self.hosts.iter().all(|host| !host.leads.get())).await;
        }
        together.reach(StopStep::HandedOver);
        self.wait(deadline, || together.all_reached(StopStep::HandedOver)).await;
        self.front.finish();
        self.wait(deadline, || self.front.connection_count() == 0 && self.place.is_quiet()).await;
        together.reach(StopStep::Emptied);
        self.wait(deadline, || together.all_reached(StopStep::Emptied)).await;
        self.wait(deadline, || self.place.is_quiet() && self.hosts.iter().all(|host| !host.is_busy())).await;
        self.fate.finish();
    }

    /// Whoever leads has the state kept as it is, so that the next start has little to replay. Where that takes long, it is
    /// left: nothing depends on it.
    async fn mark(&self) {
        for host in self.hosts {
            host.is_marking.set(true);
            host.events.push(Event::Stopping);
        }
        let patience = Nanos::from_millis(self.config.tunables.stop_timeout_ms / MARKING_SHARE);
        let deadline = self.rt.now().saturating_add(patience);
        self.wait(deadline, || self.hosts.iter().all(|host| !host.is_marking.get())).await;
    }

    async fn wait(&self, deadline: Nanos, done: impl Fn() -> bool) {
        while !done() && self.rt.now() < deadline && !self.fate.is_sealed() {
            self.rt.sleep(STOP_POLL).await;
        }
    }
}
