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
    for place in jobs {
        let JobPlace { job, index, wall, at } = place;
        match host.read_enqueue(&at).await {
            // What was read of a segment was proven to lie in the right record, and no more.
            Ok(enqueue) if whole_enqueue(&enqueue).is_some() => given.push(GivenJob { job, index, wall, enqueue }),
            damaged if given.is_empty() => {
                let why = damaged.err().map_or("it is damaged".to_owned(), |error| error.to_string());
                tracing::debug!("node {to} pulls job {job}: {why}");
                host.events.push(Event::NotGiven { to, snapshot, place });
                return;
            }
            // If it still cannot be read when it is asked for next, that is told.
            _ => break,
        }
    }
    host.send(to, &PeerMessage::Pulled(Pulled { snapshot, what: Given::Jobs(given) }));
}
