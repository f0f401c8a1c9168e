//! What a node does for one that is behind the log: a leader offers its newest snapshot, and any node gives parts of its own, and the
//! jobs that live in it.
//!
//! It must never offer what it may not be able to give: a snapshot that is offered or pulled is pinned for a while, with every
//! job in it and the log above it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::effect::{Effect, JobPlace};
use super::{Moment, Shard};
use crate::net::message::{Given, PULLED_BYTES_MAX, Part, PeerMessage, Pull, Pulled};
use crate::raft::ProgressState;
use crate::types::{Index, JobId, Nanos, NodeId, SnapshotName};

/// Who does not pull for so long has given up, or has all of it.
const PINNED_FOR: Nanos = Nanos::from_secs(60);

/// A follower that is behind is told again what it can have.
const OFFER_EVERY: Nanos = Nanos::from_secs(1);

/// Who pulls a snapshot from its beginning again and again finds it damaged each time: it has rotted here since it was verified.
const STARTS_MAX: u32 = 3;

/// A verified snapshot of this node, and the jobs that live in it.
#[derive(Debug, Clone)]
pub struct Kept {
    pub name: SnapshotName,
    pub live: Arc<RoaringTreemap>,
}

#[derive(Debug)]
struct Pin {
    kept: Kept,
    until: Nanos,
    /// How often it was pulled from its beginning.
    starts: u32,
}

#[derive(Debug, Default)]
pub struct Giving {
    newest: Option<Kept>,
    /// What each node was offered, or pulls.
    pins: BTreeMap<NodeId, Pin>,
    /// When each was last offered something.
    offered: BTreeMap<NodeId, Nanos>,
}

impl Giving {
    pub(super) fn newest_name(&self) -> Option<SnapshotName> {
        self.newest.as_ref().map(|kept| kept.name)
    }

    pub(super) fn note_newest(&mut self, kept: Kept) {
        self.newest = Some(kept);
    }

    pub(super) fn forget_old_pins(&mut self, now: Nanos) {
        self.pins.retain(|_, pin| now < pin.until);
    }

    /// The lowest index at which somebody will go on from a snapshot of this node.
    pub(super) fn lowest_pinned(&self) -> Option<Index> {
        self.pins.values().map(|pin| pin.kept.name.position.index).min()
    }

    /// All jobs that live in the newest snapshot, or in one that is pinned.
    pub(super) fn live(&self) -> Option<Arc<RoaringTreemap>> {
        let newest = self.newest.as_ref()?;
        let mut others = self.pins.values().filter(|pin| pin.kept.name != newest.name).peekable();
        if others.peek().is_none() {
            return Some(Arc::clone(&newest.live));
        }
        let mut live = (*newest.live).clone();
        others.for_each(|pin| live |= &*pin.kept.live);
        Some(Arc::new(live))
    }
}

impl Shard {
    /// This node has a verified snapshot from its start on.
    pub fn handle_snapshot_found(&mut self, kept: Kept) {
        self.giving.note_newest(kept);
    }

    /// The indexes of the snapshots that other nodes may be pulling.
    #[must_use]
    pub fn pinned_snapshots(&self) -> BTreeSet<Index> {
        self.giving.pins.values().map(|pin| pin.kept.name.position.index).collect()
    }

    /// The leader's part: whoever is behind the log is offered a snapshot; one that is being pulled, rather than a newer one.
    pub(super) fn offer_snapshots(&mut self, moment: Moment) {
        let Some(term) = self.leading.as_ref().map(|leading| leading.term) else { return };
        let is_connected = |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.connected);
        let behind = self.raft.progress().filter(|peer| peer.state == ProgressState::Behind).map(|peer| peer.node);
        let behind: Vec<NodeId> = behind.filter(is_connected).collect();
        for node in behind {
            let is_due = |at: &Nanos| moment.now >= at.saturating_add(OFFER_EVERY);
            if !self.giving.offered.get(&node).is_none_or(is_due) {
                continue;
            }
            let floor = self.raft.log().floor().index;
            let pinned = self.giving.pins.get(&node).map(|pin| pin.kept.clone());
            let Some(kept) = pinned.or_else(|| self.giving.newest.clone()) else { continue };
            if kept.name.position.index < floor {
                // It was pinned under another leader, perhaps, and the log above it is gone here.
                self.giving.pins.remove(&node);
                continue;
            }
            self.giving.offered.insert(node, moment.now);
            let snapshot = kept.name;
            self.pin(moment, node, kept);
            self.send(node, PeerMessage::Offer { term, snapshot });
        }
    }

    /// Another node looks for an entry that is not in the log here any more: what it can have instead.
    pub(super) fn offer_in_place_of_entries(&mut self, moment: Moment, to: NodeId) -> Option<SnapshotName> {
        // Its log may reach further than the newest snapshot, and further than the log here. Under load there will be another.
        self.mark_where_idle(moment);
        let kept = self.giving.newest.clone()?;
        let name = kept.name;
        self.pin(moment, to, kept);
        Some(name)
    }

    fn pin(&mut self, moment: Moment, node: NodeId, kept: Kept) {
        let before = self.giving.pins.get(&node).filter(|pin| pin.kept.name == kept.name);
        let starts = before.map_or(0, |pin| pin.starts);
        self.giving.pins.insert(node, Pin { kept, until: moment.now.saturating_add(PINNED_FOR), starts });
    }

    /// Another node pulls a part of a snapshot, or jobs that live in it.
    pub(super) fn handle_pull(&mut self, moment: Moment, from: NodeId, pull: Pull) {
        let Pull { snapshot, part } = pull;
        let pinned = self.giving.pins.get(&from).map(|pin| &pin.kept);
        let kept = pinned.into_iter().chain(&self.giving.newest).find(|kept| kept.name == snapshot).cloned();
        let Some(kept) = kept else { return self.give_nothing(from, snapshot) };
        let live = Arc::clone(&kept.live);
        self.pin(moment, from, kept);
        if part == (Part::File { offset: 0 }) && self.is_pulled_in_vain(from) {
            return self.give_nothing(from, snapshot);
        }
        match part {
            Part::File { offset } => self.effects.push_back(Effect::GivePiece { to: from, snapshot, offset }),
            Part::Jobs(jobs) => {
                let places = self.places_of(&jobs, &live);
                if places.is_empty() {
                    return self.give_nothing(from, snapshot);
                }
                self.effects.push_back(Effect::GiveJobs { to: from, snapshot, jobs: places });
            }
        }
    }

    /// Counts that a node begins to pull what is pinned for it. True where it did so too often: it is offered the newest instead, and
    /// where that is it, the leader has another one made.
    fn is_pulled_in_vain(&mut self, from: NodeId) -> bool {
        let Some(pin) = self.giving.pins.get_mut(&from) else { return false };
        pin.starts += 1;
        let in_vain = pin.starts > STARTS_MAX;
        if in_vain {
            let name = pin.kept.name;
            self.giving.pins.remove(&from);
            if self.giving.newest_name() == Some(name) {
                self.ask_for_marker();
            }
        }
        in_vain
    }

    /// The first job that a peer asked for could not be read.
    pub fn handle_not_given(&mut self, to: NodeId, snapshot: SnapshotName, place: JobPlace) {
        let now_at = self.catalog.find(place.job).ok().flatten().and_then(|found| found.at);
        match now_at {
            // It was moved into another file meanwhile.
            Some((_, at)) if at != place.at => {
                let jobs = vec![JobPlace { at, ..place }];
                self.effects.push_back(Effect::GiveJobs { to, snapshot, jobs });
            }
            // It is damaged here. Who asks may find it elsewhere; if not, a newer snapshot may do without it.
            _ => {
                self.catalog.note_bad(place.at.piece());
                self.giving.pins.retain(|node, pin| *node != to || pin.kept.name != snapshot);
                self.give_nothing(to, snapshot);
            }
        }
    }

    fn give_nothing(&mut self, to: NodeId, snapshot: SnapshotName) {
        self.send(to, PeerMessage::Pulled(Pulled { snapshot, what: Given::Nothing }));
    }

    /// Where the first of these jobs stand, as many as one answer takes.
    fn places_of(&self, jobs: &[JobId], live: &RoaringTreemap) -> Vec<JobPlace> {
        let mut places = Vec::new();
        let mut bytes = 0;
        for &job in jobs.iter().take_while(|job| live.contains(job.0)) {
            let Ok(Some(found)) = self.catalog.find(job) else { break };
            let Some((index, at)) = found.at else { break };
            bytes += u64::from(found.bytes);
            if bytes > PULLED_BYTES_MAX && !places.is_empty() {
                break;
            }
            places.push(JobPlace { job, index, wall: found.enqueued_wall, at });
        }
        places
    }
}
