//! The task that keeps a shard's old files: it does what the shard asks for one thing after the other, beside everything else.

use std::rc::Rc;

use prometheus_client::metrics::counter::Counter;

use super::host::{Event, Host, until};
use crate::io::Runtime;
use crate::net::message::{GivenJob, JOBS_PER_PULL_MAX};
use crate::shard::effect::Keep;
use crate::types::Nanos;
use crate::wal::catalog::PieceName;
use crate::wal::footer::{FooterDraft, Subject};
use crate::wal::keeper::{Change, JobCopy, KeepError, Keeper, Mended};

/// What could not be done (the disk is full, say) is tried again after this long.
const RETRY_AFTER: Nanos = Nanos::from_secs(1);

/// Rows of a segment that is full; of one at a time, as the shard closes one after the other.
struct WaitingRows {
    subject: Subject,
    rows: FooterDraft,
    /// That they have to wait.
    is_told: bool,
}

/// `mended`: counts files that were made whole.
pub async fn keep_files<R: Runtime>(host: Rc<Host<R>>, mut keeper: Keeper<R::Disk>, mended: Counter) {
    // The start may have made one whole already.
    let mut before = 0;
    let mut waiting: Option<WaitingRows> = None;
    while !host.is_over() {
        if waiting.is_some() {
            until(host.rt.sleep(RETRY_AFTER), host.wait_for(&host.to_keep)).await;
        } else {
            host.wait_for(&host.to_keep).await;
        }
        for work in host.to_keep.take() {
            match work {
                Keep::Rows { subject, rows } => waiting = Some(WaitingRows { subject, rows, is_told: false }),
                Keep::Retain { floor, live } => {
                    let retained = keeper.retain(floor, live).await;
                    announce(&host, &keeper, retained.map(Some)).await;
                }
                Keep::Mend(name) => mend(&host, &mut keeper, name).await,
                Keep::Copies(jobs) => take_copies(&host, &mut keeper, jobs).await,
            }
            publish(&host, &keeper);
            mended.inc_by(keeper.census().mended.saturating_sub(before));
            before = keeper.census().mended;
            host.measure_log().await;
        }
        // They stay in memory until they are written. What frees room for them is not to wait for them.
        if let Some(rows) = waiting.as_mut()
            && write_rows(&host, &mut keeper, rows).await
        {
            waiting = None;
            publish(&host, &keeper);
            host.measure_log().await;
        }
        // Rows of the newest segments come first: they free memory.
        while host.to_keep.is_empty() && !host.is_over() {
            let compacted = keeper.compact().await;
            if !announce(&host, &keeper, compacted).await {
                break;
            }
            publish(&host, &keeper);
            host.measure_log().await;
        }
        keeper.take_found_damaged().into_iter().for_each(|name| host.events.push(Event::FoundDamaged(name)));
    }
}

/// What there is now, for whoever looks.
pub fn publish<R: Runtime>(host: &Host<R>, keeper: &Keeper<R::Disk>) {
    host.census.set(keeper.census().counting_on(host.earlier_census.get()));
    *host.cold_files.borrow_mut() = keeper.cold_files();
}

async fn mend<R: Runtime>(host: &Host<R>, keeper: &mut Keeper<R::Disk>, name: PieceName) {
    match keeper.mend(name).await {
        Ok(Mended::Whole) => {}
        Ok(Mended::Rows(piece)) => {
            tracing::warn!("the rows of {name} were damaged, and are made again from what they are about");
            host.events.push(Event::FilesChanged(Change { floor: None, removed: vec![name], added: vec![piece] }));
        }
        Ok(Mended::Moved(change)) => {
            tracing::warn!("{name} was damaged, and what lives in it stands in another file now, whole");
            announce(host, keeper, Ok(Some(change))).await;
        }
        Ok(Mended::Lacking { jobs, why }) => {
            tracing::error!(
                "{why}: {} jobs that live are in it; they are looked for at the other nodes; where there are none, or none has them, \
                 restore the file from a backup or delete the jobs by their ids, from {} on",
                jobs.len(),
                jobs[0]
            );
            seek(host, keeper, why);
        }
        Err(error) => tracing::error!("{name} is damaged and stays as it is for now: {error}"),
    }
}

async fn take_copies<R: Runtime>(host: &Host<R>, keeper: &mut Keeper<R::Disk>, jobs: Vec<GivenJob>) {
    let copy = |GivenJob { job, index, wall, enqueue }| JobCopy { job, index, wall, enqueue };
    for name in keeper.take_copies(jobs.into_iter().map(copy).collect()) {
        mend(host, keeper, name).await;
    }
    seek(host, keeper, "a file is damaged".to_owned());
}

fn seek<R: Runtime>(host: &Host<R>, keeper: &Keeper<R::Disk>, why: String) {
    let jobs = keeper.next_lacking(JOBS_PER_PULL_MAX);
    if !jobs.is_empty() {
        host.events.push(Event::Lacking { jobs, why });
    }
}

/// Whether they were written.
async fn write_rows<R: Runtime>(host: &Host<R>, keeper: &mut Keeper<R::Disk>, waiting: &mut WaitingRows) -> bool {
    let WaitingRows { subject, rows, is_told } = waiting;
    match keeper.write_rows(subject, rows).await {
        Ok(footer) => {
            host.events.push(Event::RowsMapped(footer));
            true
        }
        Err(error) => {
            if !std::mem::replace(is_told, true) {
                // The segment's head is damaged, perhaps. A start would be refused for it, so this node had better go on while it can.
                tracing::error!("no file behind this can be given up while rows of a segment have to wait: {error}");
            }
            false
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
    // Before the first of them is gone: a scrubber that finds one missing looks here.
    publish(host, keeper);
    if let Err(error) = keeper.finish(floor, &removed).await {
        tracing::warn!("a file below the log's floor could not be removed yet: {error}");
    }
    true
}
