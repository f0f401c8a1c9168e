//! The task that reads whatever a shard's disk holds and nobody writes any more, again and again, to find what has rotted before somebody
//! needs it: sealed segments, their rows, store segments, snapshots.
//!
//! It must never hold a file that is to be given up, nor read faster than it is told to; and what it finds, others mend.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::host::{Event, Host};
use crate::io::Runtime;
use crate::metrics::ShardMetrics;
use crate::snapshot::{shelf, verify_file};
use crate::types::{Index, Nanos};
use crate::wal::catalog::PieceName;
use crate::wal::cold::{ColdFile, ColdPlace, Examined};

/// A pass begins no sooner than this after the one before it: little data need not be read all the time.
const PASS_EVERY: Nanos = Nanos::from_secs(60);

pub struct Scrubber<R: Runtime> {
    pub host: Rc<Host<R>>,
    pub place: ColdPlace,
    pub snapshots: PathBuf,
    pub metrics: ShardMetrics,
}

impl<R: Runtime> Scrubber<R> {
    /// Never returns: whoever runs it ends it, at any moment.
    pub async fn run(self) {
        loop {
            let begun = self.host.rt.now();
            self.pass().await;
            let took = self.host.rt.now().saturating_sub(begun);
            self.metrics.scrub_passes.inc();
            self.metrics.scrub_pass_seconds.set(seconds(took));
            self.metrics.scrub_last_pass.set(seconds(self.host.rt.wall()));
            self.host.rt.sleep(PASS_EVERY.saturating_sub(took)).await;
        }
    }

    /// Everything once, in the order of the names; what comes to be meanwhile, too.
    async fn pass(&self) {
        let mut done = None;
        while let Some((name, last)) = self.next_file(done) {
            done = Some(name);
            let left = self.host.cold_files.borrow().iter().filter(|(other, _)| *other > name).count();
            self.metrics.scrub_files_left.set(crate::metrics::gauge_value(left as u64));
            let Examined { read_bytes, fault } = self.place.examine(self.host.rt.disk(), name, last).await;
            self.metrics.scrubbed_bytes.inc_by(read_bytes);
            // What was given up meanwhile is none.
            if let Some(fault) = fault.filter(|_| self.is_there(name)) {
                tracing::error!(shard = %self.place.identity.shard, "damage was found by reading what nobody asked for: {fault}");
                self.metrics.scrub_faults.inc();
                self.host.events.push(Event::FoundDamaged(name));
            }
        }
        self.metrics.scrub_files_left.set(0);
        for (index, path) in self.list_snapshots().await {
            self.look_at_snapshot(index, &path).await;
        }
    }

    fn next_file(&self, done: Option<PieceName>) -> Option<(PieceName, Index)> {
        let files = self.host.cold_files.borrow();
        files.iter().find(|(name, _)| done.is_none_or(|done| *name > done)).copied()
    }

    fn is_there(&self, name: PieceName) -> bool {
        self.host.cold_files.borrow().iter().any(|(other, _)| *other == name)
    }

    async fn list_snapshots(&self) -> Vec<(Index, PathBuf)> {
        shelf::list(self.host.rt.disk(), &self.snapshots).await.unwrap_or_default()
    }

    async fn look_at_snapshot(&self, index: Index, path: &Path) {
        let Ok(file) = ColdFile::find(self.host.rt.disk(), path).await else { return };
        let verified = verify_file(&file, &self.place.identity).await;
        self.metrics.scrubbed_bytes.inc_by(file.read_bytes());
        let Err(why) = verified else { return };
        let is_there = self.list_snapshots().await.iter().any(|(other, _)| *other == index);
        if is_there && self.host.damaged_snapshots.borrow_mut().insert(index) {
            self.metrics.scrub_faults.inc();
            tracing::error!(
                shard = %self.place.identity.shard,
                "damage was found by reading what nobody asked for: {}: {why}; the log is kept from the snapshot before it on, until two \
                 newer ones are whole",
                path.display()
            );
        }
    }
}

fn seconds(time: Nanos) -> i64 {
    crate::metrics::gauge_value(time.0 / 1_000_000_000)
}
