//! Which peers this node knows, and what they have told it: durably which incarnation and which newest start of each, in
//! memory how far each has promised something. Decides with that whom it admits.
//!
//! It must never admit a start before it is durably known, nor refuse a directory for good before that is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use super::fate::Fate;
use super::together::Acquaintances;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::{Disk, is_full};
use crate::net::handshake::{Gate, Refusal, RefusalCode, lost_its_disk, outdated, went_back};
use crate::net::standing::{Evidence, Introduction, Standing, Witnessed, judge};
use crate::types::{Incarnation, NodeId, ShardId, Start};
use crate::wal::directory::{self, DirectoryError, KnownPeer};

/// How far the promises in one shard reach: this node's own, and those that peers made to this process.
#[derive(Debug, Default)]
pub struct Ledger {
    own: Cell<Standing>,
    peers: RefCell<BTreeMap<NodeId, Standing>>,
}

impl Ledger {
    /// To be told before anything leaves that relies on it.
    pub fn set_own(&self, standing: Standing) {
        self.own.set(standing);
    }

    pub fn remember(&self, peer: NodeId, standing: Standing) {
        let mut peers = self.peers.borrow_mut();
        let remembered = peers.entry(peer).or_default();
        *remembered = standing.max(*remembered);
    }
}

/// The gate of one core thread.
pub struct NodeGate<D: Disk> {
    disk: D,
    data: PathBuf,
    own: (NodeId, Incarnation),
    members: BTreeSet<NodeId>,
    acquaintances: Arc<Acquaintances>,
    ledgers: RefCell<BTreeMap<ShardId, Rc<Ledger>>>,
}

/// What is to be done about a peer.
enum Verdict {
    Admitted,
    Refused(Refusal),
    /// To be made durable; then it is admitted.
    IsNew(KnownPeer),
    /// To be made durable; then it is refused, for good.
    WentBack(KnownPeer, Evidence),
}

impl<D: Disk> NodeGate<D> {
    #[must_use]
    pub fn new(disk: D, config: &Config, incarnation: Incarnation, acquaintances: Arc<Acquaintances>) -> NodeGate<D> {
        NodeGate {
            disk,
            data: config.data.clone(),
            own: (config.node, incarnation),
            members: config.members.keys().copied().collect(),
            acquaintances,
            ledgers: RefCell::default(),
        }
    }

    /// The ledger of a shard of this thread.
    #[must_use]
    pub fn ledger(&self, shard: ShardId) -> Rc<Ledger> {
        Rc::clone(self.ledgers.borrow_mut().entry(shard).or_default())
    }

    fn look(&self, peer: &Introduction, before: Option<&Witnessed>) -> Verdict {
        let node = peer.node;
        if !self.members.contains(&node) {
            let text = format!("node {node} is no member of this cluster");
            return Verdict::Refused(Refusal::new(RefusalCode::Stranger, text));
        }
        let known = self.acquaintances.get(node);
        match known {
            Some(known) if known.incarnation != peer.incarnation => return Verdict::Refused(lost_its_disk(node)),
            Some(known) if known.went_back => return Verdict::Refused(went_back(node)),
            _ => {}
        }
        let incarnation = peer.incarnation;
        if judge(&self.witnessed(node, peer.shard), peer).is_some() {
            // What it says may be from before the rest. Only where it was asked afterwards it is not.
            return match before.and_then(|before| judge(before, peer)) {
                Some(evidence) => {
                    let start = known.map_or(peer.start, |known| known.start);
                    Verdict::WentBack(KnownPeer { incarnation, start, went_back: true }, evidence)
                }
                None => Verdict::Refused(outdated(node)),
            };
        }
        match known {
            Some(known) if known.start == peer.start => Verdict::Admitted,
            _ => Verdict::IsNew(KnownPeer { incarnation, start: peer.start, went_back: false }),
        }
    }

    /// Makes durable what is known of a peer. The lock must be held.
    async fn save(&self, node: NodeId, peer: KnownPeer) -> Result<(), DirectoryError> {
        let mut peers = self.acquaintances.all();
        peers.insert(node, peer);
        let saved = match directory::save_peers(&self.disk, &self.data, &peers).await {
            // A node that starts on a full disk must be met by others whose disks are full, too.
            Err(DirectoryError::Io { source, .. }) if is_full(&source) => {
                directory::give_up_room(&self.disk, &self.data).await?;
                let saved = directory::save_peers(&self.disk, &self.data, &peers).await;
                // Where it cannot be held again, the next start does without.
                let _ = directory::hold_room(&self.disk, &self.data).await;
                saved
            }
            saved => saved,
        };
        saved?;
        self.acquaintances.handle_saved(node, peer);
        Ok(())
    }

    /// The cluster has decided that this directory of a node went back: durably, it is not admitted any more. Where it is
    /// this node's own, the node ends.
    pub async fn shut_out(&self, node: NodeId, incarnation: Incarnation, fate: &Fate) {
        if (node, incarnation) == self.own {
            if !fate.is_sealed() {
                fate.seal(Fatal::Refused { why: went_back(node).text });
            }
            return;
        }
        let _writing = self.acquaintances.writing.lock().await;
        let known = self.acquaintances.get(node);
        if known.is_some_and(|known| known.went_back || known.incarnation != incarnation) {
            return;
        }
        let start = known.map_or(Start::default(), |known| known.start);
        match self.save(node, KnownPeer { incarnation, start, went_back: true }).await {
            Ok(()) => tracing::error!(
                "node {node} is refused from now on, as another member found: {}; what only one member and node {node} \
                 had stored has one copy now: bring up all other members before anything else",
                went_back(node)
            ),
            Err(error) => tracing::warn!("that node {node} went back could not be written down: {error}"),
        }
    }
}

impl<D: Disk> Gate for NodeGate<D> {
    fn standing(&self, shard: ShardId) -> Standing {
        self.ledger(shard).own.get()
    }

    fn witnessed(&self, node: NodeId, shard: ShardId) -> Witnessed {
        let start = self.acquaintances.get(node).map(|known| known.start);
        let standing = self.ledger(shard).peers.borrow().get(&node).copied().unwrap_or_default();
        Witnessed { start, standing }
    }

    async fn admit(&self, peer: &Introduction, before: Option<&Witnessed>) -> Result<(), Refusal> {
        match self.look(peer, before) {
            Verdict::Admitted => return Ok(()),
            Verdict::Refused(refusal) => return Err(refusal),
            Verdict::IsNew(_) | Verdict::WentBack(..) => {}
        }
        let node = peer.node;
        let unready = |error: DirectoryError| {
            let text = format!("what is known of node {node} could not be written down: {error}");
            Refusal::new(RefusalCode::Unready, text)
        };
        let _writing = self.acquaintances.writing.lock().await;
        // Another connection may have been quicker.
        match self.look(peer, before) {
            Verdict::Admitted => Ok(()),
            Verdict::Refused(refusal) => Err(refusal),
            Verdict::IsNew(known) => self.save(node, known).await.map_err(unready),
            Verdict::WentBack(known, evidence) => {
                self.save(node, known).await.map_err(unready)?;
                tracing::error!(
                    "node {node} came back with an older copy of its data directory ({evidence}): it is refused from now on; \
                     what only this node and node {node} had stored has one copy now: bring up all other members before \
                     anything else, then replace node {node} under a new number"
                );
                Err(went_back(node))
            }
        }
    }

    fn is_shut_out(&self, node: NodeId) -> bool {
        self.acquaintances.is_shut_out(node)
    }
}
