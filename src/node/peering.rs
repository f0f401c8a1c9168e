//! The node's links to its peers: who may be one, and how what happens on links reaches the shard.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use tokio::sync::Mutex;

use super::host::Event;
use super::queue::Queue;
use crate::io::Disk;
use crate::net::handshake::{Gate, Refusal, RefusalCode, lost_its_disk};
use crate::net::link::{PeerEvent, PeerSink};
use crate::types::{Incarnation, NodeId};
use crate::wal::directory;

/// Events of one shard's links go into its queue.
pub struct EventSink {
    pub events: Rc<Queue<Event>>,
}

impl PeerSink for EventSink {
    fn handle(&self, event: PeerEvent) {
        self.events.push(match event {
            PeerEvent::Connected { node } => Event::PeerUp(node),
            PeerEvent::Lost { node, refused } => Event::PeerLost { peer: node, refused },
            PeerEvent::Message { node, message } => Event::Message { from: node, message },
            PeerEvent::IncomingLost { node, .. } => Event::IncomingLost(node),
            PeerEvent::IncomingUp { node, .. } => Event::IncomingUp(node),
            PeerEvent::Refused { node, reason } => {
                let peer = node.map_or_else(|| "an unknown node".to_owned(), |node| format!("node {node}"));
                tracing::warn!("{peer}: {reason}");
                return;
            }
        });
    }
}

/// Binds each node, durably, to the incarnation that was met first. A node whose directory was prepared anew is another
/// incarnation: it promised things that it no longer remembers, so it gets neither vote nor acknowledgement.
pub struct IncarnationGate<D: Disk> {
    disk: D,
    data: PathBuf,
    members: BTreeSet<NodeId>,
    /// What is durable. The lock is held while it is being written: two nodes may be met at one time.
    bound: Mutex<BTreeMap<NodeId, Incarnation>>,
}

impl<D: Disk> IncarnationGate<D> {
    #[must_use]
    pub fn new(
        disk: D,
        data: PathBuf,
        members: BTreeSet<NodeId>,
        bound: BTreeMap<NodeId, Incarnation>,
    ) -> IncarnationGate<D> {
        IncarnationGate { disk, data, members, bound: Mutex::new(bound) }
    }
}

impl<D: Disk> Gate for IncarnationGate<D> {
    async fn admit(&self, node: NodeId, incarnation: Incarnation) -> Result<(), Refusal> {
        if !self.members.contains(&node) {
            return Err(Refusal::new(RefusalCode::Stranger, format!("node {node} is no member of this cluster")));
        }
        let mut bound = self.bound.lock().await;
        match bound.get(&node) {
            Some(known) if *known == incarnation => return Ok(()),
            Some(_) => return Err(lost_its_disk(node)),
            None => {}
        }
        let mut peers = bound.clone();
        peers.insert(node, incarnation);
        directory::save_peers(&self.disk, &self.data, &peers).await.map_err(|error| {
            Refusal::new(RefusalCode::Unready, format!("node {node} could not be bound to its incarnation: {error}"))
        })?;
        *bound = peers;
        Ok(())
    }
}
