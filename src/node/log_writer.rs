//! The tasks that write: one for the log (group commit), one for the vote, one that has spare segments made. Each write
//! that fails is the end of the node; none is tried again. Where there is no room for a new segment nothing was written,
//! so the log waits for room; the node does not acknowledge meanwhile, and goes on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use super::host::{Event, Host};
use crate::fatal::Fatal;
use crate::io::{Disk, Runtime};
use crate::metrics::ShardMetrics;
use crate::shard::effect::Append;
use crate::types::{Index, Nanos};
use crate::wal::index::{Placement, SegmentNumber};
use crate::wal::segment::SpareWanted;
use crate::wal::vote::VoteFile;
use crate::wal::writer::Writer;

/// The tail is sealed when nothing was written for this long.
const SEAL_AFTER: Nanos = Nanos::from_millis(10);

/// A spare that could not be made (the disk is full, say) is wanted again after this long.
const RETRY_SPARE_AFTER: Nanos = Nanos::from_secs(1);

/// A log that waits for room looks for it this often.
const RETRY_SEGMENT_AFTER: Nanos = Nanos::from_millis(100);

/// Appends wait while one write is under way; the next write takes them all, up to a cut.
pub async fn write_log<R: Runtime>(
    host: Rc<Host<R>>,
    mut writer: Writer<R::Disk>,
    spares: Rc<Spares>,
    metrics: ShardMetrics,
) {
    let mut work: VecDeque<Append> = VecDeque::new();
    let mut committed = Index::ZERO;
    while !host.is_over() {
        work.extend(host.log_work.take());
        spares.hand_over(&mut writer);
        let Some(first) = work.pop_front() else {
            if !writer.seal_is_due() {
                host.wait_for(&host.log_work).await;
                continue;
            }
            tokio::select! {
                biased;
                () = host.wait_for(&host.log_work) => {}
                () = host.rt.sleep(SEAL_AFTER) => {
                    host.begin_write(host.rt.now());
                    let sealed = writer.seal_tail(committed).await;
                    host.end_write();
                    if let Err(error) = sealed {
                        host.fate.seal(Fatal::from(error));
                    }
                }
            }
            continue;
        };
        let group = take_group(first, &mut work);
        committed = group.last().expect("a group is not empty").commit;
        let Some(placements) = write_group(&host, &mut writer, &spares, &group, &metrics).await else { return };
        let mut rest = &placements[..];
        for append in group {
            let (own, others) = rest.split_at(append.entries.len());
            rest = others;
            host.events.push(Event::Appended(own.to_vec()));
        }
        spares.want(writer.spares_wanted());
    }
}

/// Writes a group, as often as it takes to find room; where its entries lie. None where the node stops.
async fn write_group<R: Runtime>(
    host: &Host<R>,
    writer: &mut Writer<R::Disk>,
    spares: &Spares,
    group: &[Append],
    metrics: &ShardMetrics,
) -> Option<Vec<Placement>> {
    let entries: Vec<_> = group.iter().flat_map(|append| append.entries.iter().cloned()).collect();
    let (first, last) = (group.first()?, group.last()?);
    let mut placements = Vec::with_capacity(entries.len());
    loop {
        let begun = host.rt.now();
        host.begin_write(begun);
        let written = writer.append(first.truncate_after, &entries, last.commit, &mut placements).await;
        host.end_write();
        match written {
            Ok(()) => {
                let took = host.rt.now().saturating_sub(begun);
                metrics.write_seconds.observe(took.duration().as_secs_f64());
                host.write_times.borrow_mut().note(took);
                metrics.writes.inc();
                if host.log_lacks_room.take().is_some() {
                    tracing::info!("the log goes on: there is room for a segment again");
                }
                return Some(placements);
            }
            Err(error) if error.is_lack_of_room() => {
                if host.log_lacks_room.replace(error.room_needed()).is_none() {
                    tracing::warn!("the log waits for room, and nothing is acknowledged meanwhile: {error}");
                }
                host.events.push(Event::LogLacksRoom);
                host.rt.sleep(RETRY_SEGMENT_AFTER).await;
                if host.fate.is_sealed() {
                    return None;
                }
                spares.hand_over(writer);
                spares.want(writer.spares_wanted());
            }
            Err(error) => {
                host.fate.seal(Fatal::from(error));
                return None;
            }
        }
    }
}

/// The first append and all that can share its write: those that cut nothing.
fn take_group(first: Append, work: &mut VecDeque<Append>) -> Vec<Append> {
    let mut group = vec![first];
    while work.front().is_some_and(|next| next.truncate_after.is_none()) {
        group.extend(work.pop_front());
    }
    group
}

/// Votes are written beside the log, never behind an append. Only the newest matters.
pub async fn write_votes<R: Runtime>(host: Rc<Host<R>>, mut file: VoteFile<R::Disk>, metrics: ShardMetrics) {
    while !host.is_over() {
        host.wait_for(&host.votes).await;
        for vote in host.votes.take() {
            let begun = host.rt.now();
            host.begin_write(begun);
            let saved = file.save(vote).await;
            host.end_write();
            if let Err(error) = saved {
                return host.fate.seal(Fatal::from(error));
            }
            metrics.vote_write_seconds.observe(host.rt.now().saturating_sub(begun).duration().as_secs_f64());
            host.events.push(Event::VoteSaved(vote));
        }
    }
}

/// Spare segments on their way from the bulk path to the writer.
#[derive(Debug, Default)]
pub struct Spares {
    wanted: RefCell<VecDeque<SpareWanted>>,
    /// Each with whether it could be made.
    done: RefCell<Vec<(SegmentNumber, bool)>>,
    changed: Notify,
}

impl Spares {
    pub fn want(&self, wanted: Vec<SpareWanted>) {
        if !wanted.is_empty() {
            self.wanted.borrow_mut().extend(wanted);
            self.changed.notify_one();
        }
    }

    /// Tells the writer which spares were made, and which could not be.
    fn hand_over<D: Disk>(&self, writer: &mut Writer<D>) {
        for (number, is_made) in self.done.take() {
            if is_made {
                writer.spare_ready(number);
            } else {
                writer.spare_failed(number);
            }
        }
    }
}

/// Has spare segments zeroed on the bulk path, one after the other.
pub async fn make_spares<R: Runtime>(host: Rc<Host<R>>, spares: Rc<Spares>) {
    let mut has_failed = false;
    while !host.is_over() {
        let next = spares.wanted.borrow_mut().pop_front();
        let Some(spare) = next else {
            tokio::select! {
                biased;
                () = spares.changed.notified() => {}
                () = host.life.end() => {}
            }
            continue;
        };
        let made = host.rt.disk().make_zeroed(spare.path.clone(), spare.bytes).await;
        if let Err(error) = &made {
            // The writer takes the emergency road when it needs to; an error there speaks for itself.
            if !has_failed {
                tracing::warn!("no spare segment could be made at {}: {error}", spare.path.display());
            }
            host.rt.sleep(RETRY_SPARE_AFTER).await;
        }
        has_failed = made.is_err();
        host.measure_log().await;
        spares.done.borrow_mut().push((spare.number, made.is_ok()));
    }
}
