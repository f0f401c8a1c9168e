//! Draining: a node that refuses puts while everything else goes on, begun by a signal or by the
//! operator's command, and ended by a command or by the next start.

use std::sync::{Arc, OnceLock};

use crate::api::beanstalkd::front_door::FrontDoor;
use crate::metrics::Metrics;

/// The switch, from anywhere in the process.
#[derive(Debug, Clone)]
pub struct Draining {
    /// Made when the first core thread begins.
    pub door: Arc<OnceLock<Arc<FrontDoor>>>,
    pub metrics: Arc<Metrics>,
}

impl Draining {
    /// Whether that changed anything; none where the node has not begun yet.
    #[must_use]
    pub fn set(&self, is_draining: bool) -> Option<bool> {
        let has_changed = switch(self.door.get()?, &self.metrics, is_draining);
        if has_changed {
            let now = if is_draining { "draining: puts are refused from now on" } else { "puts are taken again" };
            tracing::info!("{now}, as the operator asked");
        }
        Some(has_changed)
    }
}

/// Whether that changed anything.
pub fn switch(door: &FrontDoor, metrics: &Metrics, is_draining: bool) -> bool {
    let has_changed = door.set_draining(is_draining);
    if has_changed {
        metrics.node.draining.set(i64::from(is_draining));
    }
    has_changed
}
