//! The log's floor: how far back it is needed. Two verified snapshots stand for everything below the older of them; what lives
//! of it is kept by job, not by entry.
//!
//! It must never raise the floor above what the older snapshot covers, nor into the middle of a segment.

use std::sync::Arc;

use roaring::RoaringTreemap;

use super::effect::Effect;
use super::{Moment, Shard};
use crate::types::Index;
use crate::wal::keeper::{Change, NewFloor};

impl Shard {
    /// Two snapshots are verified, the older of them at `older`; `live` are the jobs that live in the newer one.
    pub fn handle_snapshots_kept(&mut self, older: Index, live: Arc<RoaringTreemap>) {
        if !self.peers.is_empty() {
            // A member that is away comes back by the log alone, so all of it stays.
            return;
        }
        let limit = self.needed_by_peers().map_or(older, |needed| older.min(needed));
        let floor = self.catalog.closed_end(limit).and_then(|(index, next_job)| {
            let log = self.raft.log();
            let (position, chain) = (log.position_at(index)?, log.chain_at(index)?);
            (index > log.floor().index).then_some(NewFloor { position, chain, next_job })
        });
        self.effects.push_back(Effect::Retain { floor, live });
    }

    /// The leader's part: the last entry that a connected peer has, where it lags by no more than what is kept for such.
    fn needed_by_peers(&self) -> Option<Index> {
        let is_connected = |node| self.peers.get(&node).is_some_and(|peer| peer.connected);
        let matched = self.raft.progress().filter(|peer| is_connected(peer.node)).map(|peer| peer.matched).min()?;
        let behind = self.raft.log().iter().rev().take_while(|meta| meta.position.index > matched);
        let bytes: u64 = behind.map(|meta| u64::from(meta.bytes)).sum();
        (bytes <= self.config.lagging_bytes_max).then_some(matched)
    }

    /// Files below the floor were given up, or replaced by others.
    pub fn handle_files_changed(&mut self, moment: Moment, change: Change) {
        let Change { floor, removed, added } = change;
        self.catalog.replace(&removed, added);
        if let Some(index) = floor {
            self.raft.raise_floor(index);
        }
        self.follow_raft(moment);
    }
}
