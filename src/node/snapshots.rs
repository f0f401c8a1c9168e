//! The task that writes snapshots, one after the other, and keeps two.
//!
//! It must never keep the shard waiting, nor remove a snapshot before two newer ones were read back.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use super::host::{Event, Host};
use crate::fatal::Fatal;
use crate::io::Runtime;
use crate::metrics::Histogram;
use crate::shard::effect::SnapshotDraft;
use crate::shard::giving::Kept;
use crate::snapshot::shelf::{KEPT, tidy};
use crate::snapshot::{Contents, write};
use crate::types::{Index, Nanos};

/// The last snapshot that was written or started from.
#[derive(Debug, Clone, Copy, Default)]
pub struct SnapshotView {
    pub index: Index,
    pub bytes: u64,
    /// How many were written since the start.
    pub written: u64,
    /// How long the last one took.
    pub took: Nanos,
    /// Since when there has been none newer.
    pub since: Nanos,
}

pub struct Shelf {
    pub dir: PathBuf,
    /// Those that were verified by this process, ascending.
    pub whole: Vec<Index>,
    pub view: Rc<Cell<SnapshotView>>,
    /// How long each takes.
    pub seconds: Histogram,
}

pub async fn write_snapshots<R: Runtime>(host: Rc<Host<R>>, mut shelf: Shelf) {
    while !host.is_over() {
        host.wait_for(&host.to_snapshot).await;
        for draft in host.to_snapshot.take() {
            write_one(&host, &mut shelf, draft).await;
            host.events.push(Event::SnapshotWritten);
        }
    }
}

async fn write_one<R: Runtime>(host: &Host<R>, shelf: &mut Shelf, draft: SnapshotDraft) {
    let SnapshotDraft { frame, capture } = draft;
    let live = Arc::new(capture.live());
    let begun = host.rt.now();
    let shard = frame.identity.shard;
    let written = match write(host.rt.disk(), &shelf.dir, frame, Contents::Partial(capture)).await {
        Ok(written) => written,
        Err(error) if error.is_lack_of_room() => {
            return tracing::warn!(%shard, "{error}; the next marker has another");
        }
        Err(error) => {
            return host.fate.seal(Fatal::WriteFailed { path: shelf.dir.clone(), why: error.to_string() });
        }
    };
    let now = host.rt.now();
    let took = now.saturating_sub(begun);
    let index = written.position.index;
    tracing::info!(%shard, index = index.0, bytes = written.bytes, took_ms = took.0 / 1_000_000, "wrote a snapshot");
    shelf.seconds.observe(took.duration().as_secs_f64());
    let count = shelf.view.get().written + 1;
    shelf.view.set(SnapshotView { index, bytes: written.bytes, written: count, took, since: now });
    shelf.whole.retain(|index| !host.damaged_snapshots.borrow().contains(index));
    shelf.whole.push(index);
    let pinned = host.pinned.borrow().clone();
    if let Err(error) = tidy(host.rt.disk(), &shelf.dir, &shelf.whole, &pinned).await {
        tracing::warn!(%shard, "an old snapshot could not be removed: {error}");
    }
    let older = shelf.whole.iter().rev().nth(KEPT - 1).copied();
    host.events.push(Event::SnapshotKept { newest: Kept { name: written.name, live }, older });
}
