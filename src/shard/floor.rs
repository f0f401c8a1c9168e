//! The log's floor: how far back it is needed. Two verified snapshots stand for everything below the older of them; what lives
//! of it is kept by job, not by entry.
//!
//! It must never raise the floor above what the older snapshot covers, nor into the middle of a segment, nor above what a
//! node goes on from that pulls a snapshot.

use super::effect::{Effect, Keep};
use super::giving::Kept;
use super::{Moment, Shard};
use crate::mutation::{self, Mutation};
use crate::raft::ProgressState;
use crate::types::Index;
use crate::wal::format::record_bytes;
use crate::wal::keeper::{Change, NewFloor};

impl Shard {
    /// This node has a new verified snapshot; `older`: where the one before it stands, if that is verified too.
    pub fn handle_snapshot_kept(&mut self, moment: Moment, newest: Kept, older: Option<Index>) {
        self.giving.note_newest(newest);
        self.giving.forget_old_pins(moment.now);
        let (Some(older), Some(live)) = (older, self.giving.live()) else { return };
        let older = if mutation::is_on(Mutation::FloorAboveSnapshots) { self.applied.index } else { older };
        let limit = self.needed_by_peers().into_iter().chain(self.giving.lowest_pinned()).fold(older, Index::min);
        let floor = self.catalog.closed_end(limit).and_then(|(index, next_job)| {
            let log = self.raft.log();
            let (position, chain) = (log.position_at(index)?, log.chain_at(index)?);
            (index > log.floor().index).then_some(NewFloor { position, chain, next_job })
        });
        self.effects.push_back(Effect::Keep(Keep::Retain { floor, live }));
    }

    /// The leader's part: the last entry that a peer has, of those that lag by no more than the log is kept for. Others get a
    /// snapshot, if they come back. Where the disk has no room for more, the log is kept for nobody who is not there.
    fn needed_by_peers(&self) -> Option<Index> {
        let mut bytes = 0;
        let kept = self.raft.log().iter().rev().take_while(|meta| {
            bytes += record_bytes(meta.bytes);
            bytes <= self.config.lagging_bytes_max
        });
        let oldest_kept = kept.last().map_or(self.raft.last_position().index, |meta| Index(meta.position.index.0 - 1));
        let is_there = |node| self.own_room || self.peers.get(&node).is_some_and(|peer| peer.connected);
        let lagging = self.raft.progress().filter(|peer| peer.state != ProgressState::Behind && is_there(peer.node));
        lagging.map(|peer| peer.matched).filter(|matched| *matched >= oldest_kept).min()
    }

    /// Files below the floor were given up, or replaced by others.
    pub fn handle_files_changed(&mut self, moment: Moment, change: Change) {
        let Change { floor, removed, added } = change;
        self.catalog.replace(&removed, added);
        self.look_again(moment, &removed);
        if let Some(index) = floor {
            self.raft.raise_floor(index);
        }
        self.follow_raft(moment);
    }
}
