//! The task that keeps a shard's old files: it does what the shard asks for one thing after the other, beside everything else.

use std::rc::Rc;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::host::{Event, Host};
use crate::io::Runtime;
use crate::types::Nanos;
use crate::wal::footer::{FooterDraft, Subject};
use crate::wal::keeper::{Change, KeepError, Keeper, NewFloor};

/// What could not be done (the disk is full, say) is tried again after this long.
const RETRY_AFTER: Nanos = Nanos::from_secs(1);

/// What a shard wants done with files that are written no more.
#[derive(Debug)]
pub enum Keep {
    Rows { subject: Subject, rows: FooterDraft },
    Retain { floor: Option<NewFloor>, live: Arc<RoaringTreemap> },
}

pub async fn keep_files<R: Runtime>(host: Rc<Host<R>>, mut keeper: Keeper<R::Disk>) {
    while !host.is_over() {
        host.wait_for(&host.to_keep).await;
        for work in host.to_keep.take() {
            match work {
                Keep::Rows { subject, rows } => write_rows(&host, &mut keeper, &subject, &rows).await,
                Keep::Retain { floor, live } => {
                    let retained = keeper.retain(floor, live).await;
                    announce(&host, &keeper, retained.map(Some)).await;
                }
            }
            host.census.set(keeper.census());
        }
        // Rows of the newest segments come first: they free memory.
        while host.to_keep.is_empty() && !host.is_over() {
            let compacted = keeper.compact().await;
            if !announce(&host, &keeper, compacted).await {
                break;
            }
            host.census.set(keeper.census());
        }
    }
}

async fn write_rows<R: Runtime>(host: &Host<R>, keeper: &mut Keeper<R::Disk>, subject: &Subject, rows: &FooterDraft) {
    let mut has_failed = false;
    while !host.is_over() {
        match keeper.write_rows(subject, rows).await {
            Ok(footer) => return host.events.push(Event::RowsMapped(footer)),
            Err(error) => {
                // They stay in memory meanwhile.
                if !has_failed {
                    tracing::warn!("rows of a segment have to wait: {error}");
                }
                has_failed = true;
                host.rt.sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Tells the shard what became of files, and removes those that were given up. False where nothing changed.
async fn announce<R: Runtime>(
    host: &Host<R>,
    keeper: &Keeper<R::Disk>,
    changed: Result<Option<Change>, KeepError>,
) -> bool {
    let change = match changed {
        Ok(Some(change)) => change,
        Ok(None) => return false,
        Err(error) => {
            // With the next snapshot it is tried again.
            tracing::warn!("files below the log's floor stay as they are: {error}");
            return false;
        }
    };
    let (floor, removed) = (change.floor, change.removed.clone());
    host.events.push(Event::FilesChanged(change));
    if let Err(error) = keeper.finish(floor, &removed).await {
        tracing::warn!("a file below the log's floor could not be removed yet: {error}");
    }
    true
}
