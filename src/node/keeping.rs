//! The task that keeps a shard's old files: it does what the shard asks for one thing after the other, beside everything else.

use std::rc::Rc;

use super::host::{Event, Host};
use crate::io::Runtime;
use crate::types::Nanos;
use crate::wal::footer::{FooterDraft, Subject};
use crate::wal::keeper::Keeper;

/// What could not be done (the disk is full, say) is tried again after this long.
const RETRY_AFTER: Nanos = Nanos::from_secs(1);

/// What a shard wants done with files that are written no more.
#[derive(Debug)]
pub enum Keep {
    Rows { subject: Subject, rows: FooterDraft },
}

pub async fn keep_files<R: Runtime>(host: Rc<Host<R>>, keeper: Keeper<R::Disk>) {
    while !host.fate.is_sealed() {
        host.to_keep.wait().await;
        for work in host.to_keep.take() {
            match work {
                Keep::Rows { subject, rows } => write_rows(&host, &keeper, &subject, &rows).await,
            }
        }
    }
}

async fn write_rows<R: Runtime>(host: &Host<R>, keeper: &Keeper<R::Disk>, subject: &Subject, rows: &FooterDraft) {
    let mut has_failed = false;
    while !host.fate.is_sealed() {
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
