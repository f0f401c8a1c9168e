//! Reading what another node pulls: parts of a snapshot, and jobs. What cannot be read is not given; whoever asks looks elsewhere,
//! or asks again.

use std::rc::Rc;

use bytes::Bytes;

use super::host::{Event, Host};
use crate::io::{AlignedBuf, BLOCK_BYTES, Disk, File, OpenMode, Runtime};
use crate::job::codec::whole_enqueue;
use crate::net::message::{Given, GivenJob, PULLED_BYTES_MAX, PeerMessage, Pulled};
use crate::shard::effect::JobPlace;
use crate::snapshot::shelf;
use crate::types::{NodeId, SnapshotName};
use crate::wal::catalog::EnqueueAt;
use crate::wal::index::Placement;
use crate::wal::reader::{LastEntry, READ_THROUGH_BYTES, ReadError};

pub async fn give_piece<R: Runtime>(host: Rc<Host<R>>, to: NodeId, snapshot: SnapshotName, offset: u64) {
    let what = match read_piece(&host, &snapshot, offset).await {
        Ok(bytes) => Given::Piece { offset, bytes },
        Err(error) => {
            tracing::warn!("node {to} pulls the snapshot of entry {}: {error}", snapshot.position);
            Given::Nothing
        }
    };
    host.send(to, &PeerMessage::Pulled(Pulled { snapshot, what }));
}

async fn read_piece<R: Runtime>(host: &Host<R>, snapshot: &SnapshotName, offset: u64) -> std::io::Result<Bytes> {
    let path = host.snapshots.join(shelf::file_name(snapshot.position.index));
    let file = host.rt.disk().open(&path, OpenMode::Read).await?;
    let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
    result?;
    // Its header begins with the hash of all that follows.
    let is_it = block.first_chunk().is_some_and(|hash| u128::from_le_bytes(*hash) == snapshot.hash);
    if !is_it || file.bytes() != snapshot.bytes {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let bytes = (snapshot.bytes - offset).min(PULLED_BYTES_MAX);
    let buf = AlignedBuf::zeroed(usize::try_from(bytes).expect("a piece is small"));
    let (result, buf) = file.read_at(buf, offset).await;
    result?;
    Ok(Bytes::copy_from_slice(&buf))
}

pub async fn give_jobs<R: Runtime>(host: Rc<Host<R>>, to: NodeId, snapshot: SnapshotName, jobs: Vec<JobPlace>) {
    let mut given = Vec::with_capacity(jobs.len());
    let mut last = LastEntry::default();
    'given: for group in jobs.chunk_by(|one, next| entry_of(one) == entry_of(next)) {
        let is_worth_all =
            entry_of(&group[0]).is_some_and(|entry| group.len() as u64 * READ_THROUGH_BYTES >= u64::from(entry.bytes));
        for place in group {
            let JobPlace { job, index, wall, ref at } = *place;
            match read_enqueue(&host, at, is_worth_all.then_some(&mut last)).await {
                // What was read of a segment was proven to lie in the right record, and no more.
                Ok(enqueue) if whole_enqueue(&enqueue).is_some() => given.push(GivenJob { job, index, wall, enqueue }),
                damaged if given.is_empty() => {
                    let why = damaged.err().map_or("it is damaged".to_owned(), |error| error.to_string());
                    tracing::debug!("node {to} pulls job {job}: {why}");
                    host.events.push(Event::NotGiven { to, snapshot, place: *place });
                    return;
                }
                // If it still cannot be read when it is asked for next, that is told.
                _ => break 'given,
            }
        }
    }
    host.send(to, &PeerMessage::Pulled(Pulled { snapshot, what: Given::Jobs(given) }));
}

/// The entry that a job stands in, where it does.
fn entry_of(place: &JobPlace) -> Option<Placement> {
    match place.at {
        EnqueueAt::Log { placement, .. } => Some(placement),
        EnqueueAt::Store(_) => None,
    }
}

/// `last`: where all of an entry is worth one read. Where another part of it is damaged, this job's may still be whole.
async fn read_enqueue<R: Runtime>(
    host: &Host<R>,
    at: &EnqueueAt,
    last: Option<&mut LastEntry>,
) -> Result<Bytes, ReadError> {
    if let (EnqueueAt::Log { placement, offset, bytes }, Some(last)) = (at, last)
        && let Ok(entry) = last.entry(&host.reader, *placement).await
    {
        let (from, to) = (*offset as usize, *offset as usize + *bytes as usize);
        if let Some(enqueue) = entry.payload_bytes().get(from..to) {
            return Ok(Bytes::copy_from_slice(enqueue));
        }
    }
    host.read_enqueue(at).await
}
