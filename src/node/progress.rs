//! How far the reading of a shard's log is, for whoever waits for it: on the status board, in the metrics, and in the log.

use std::sync::Arc;

use super::core::Setup;
use crate::io::{Disk, Runtime};
use crate::status::{Board, ShardStatus};
use crate::types::{Nanos, ShardId};
use crate::wal::entry::Entry;
use crate::wal::format::record_bytes;
use crate::wal::recovery::LogPlace;
use crate::wal::segment::parse_file_name;

/// The board is told each time so much more was read, and the operator after so long.
const SHOWN_EVERY_BYTES: u64 = 4 << 20;
const TOLD_EVERY: Nanos = Nanos::from_secs(5);

pub struct Progress<R: Runtime> {
    rt: R,
    board: Arc<Board>,
    shard: ShardId,
    /// Of all segments above the floor, the end of the last one included, which nobody has written yet.
    all_bytes: u64,
    read_bytes: u64,
    shown_bytes: u64,
    told: Nanos,
}

impl<R: Runtime> Progress<R> {
    pub async fn new(rt: &R, setup: &Setup, shard: ShardId, place: &LogPlace) -> Progress<R> {
        // Where it cannot be listed, recovery says so itself.
        let files = rt.disk().list(&place.dir).await.unwrap_or_default();
        let is_above = |name: &str| parse_file_name(name).is_some_and(|number| !place.kept.contains(&number));
        let all_bytes = files.iter().filter(|file| is_above(&file.name)).map(|file| file.bytes).sum();
        let board = Arc::clone(&setup.board);
        let progress =
            Progress { rt: rt.clone(), board, shard, all_bytes, read_bytes: 0, shown_bytes: 0, told: rt.now() };
        progress.show();
        progress
    }

    pub fn note_read(&mut self, entry: &Entry) {
        self.read_bytes += record_bytes(entry.meta.bytes);
        if self.read_bytes - self.shown_bytes < SHOWN_EVERY_BYTES {
            return;
        }
        self.shown_bytes = self.read_bytes;
        self.show();
        let now = self.rt.now();
        if now >= self.told.saturating_add(TOLD_EVERY) {
            self.told = now;
            let (read, all) = (self.read_bytes >> 20, self.all_bytes >> 20);
            let index = entry.meta.position.index;
            tracing::info!(shard = %self.shard, "reading the log: entry {index}, {read} of at most {all} MiB");
        }
    }

    fn show(&self) {
        let (recovered_bytes, recovery_bytes) = (self.read_bytes, self.all_bytes);
        self.board.publish(ShardStatus {
            shard: self.shard.0,
            recovered_bytes,
            recovery_bytes,
            ..ShardStatus::default()
        });
    }
}
