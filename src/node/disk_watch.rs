//! Looks at the disk of a shard while it writes (E12): a leader whose disk does not answer gives up
//! leadership, and a node whose disk never answers stops. What counts is decided in `shard::write_watch`.

use std::rc::Rc;

use super::host::{Event, Host};
use crate::fatal::Fatal;
use crate::io::Runtime;
use crate::shard::write_watch::Verdict;

/// A task beside the turns of the shard, because a sleep that ends tells what a turn does not: that the
/// thread has asked its ring for completions since.
pub async fn watch_disk<R: Runtime>(host: Rc<Host<R>>) {
    while !host.is_over() {
        if !host.writes.borrow().is_writing() {
            tokio::select! {
                biased;
                () = host.writing.notified() => {}
                () = host.life.end() => {}
            }
            continue;
        }
        let pause = host.writes.borrow().pause();
        host.pause(pause).await;
        let verdict = host.writes.borrow_mut().look(host.rt.now(), pause);
        match verdict {
            Verdict::Well => {}
            Verdict::Slow => host.events.push(Event::DiskIsSlow),
            Verdict::Stalled { waited, away } => host.fate.seal(Fatal::Stalled {
                path: host.reader.directory().to_path_buf(),
                waited_ms: waited.0 / 1_000_000,
                away_ms: away.0 / 1_000_000,
            }),
        }
    }
}
