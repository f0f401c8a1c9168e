//! The body of a snapshot: an archive that is used where it lies. The partial one is the image of the machine; the full one
//! holds the bodies of all live jobs besides, as snapshots elsewhere do, to measure the partial one by.

use std::io;

use rkyv::api::high::to_bytes_in;
use rkyv::rancor;
use rkyv::{Archive, Serialize};

use super::frame::{CHUNK_BYTES, Frame, HASH_BYTES, Header, Kind, hash};
use crate::io::{BLOCK_BYTES, Pieces};
use crate::job::{ArchivedImage, Capture, Image};
use crate::types::JobId;

/// Gives the body of a live job.
pub type Bodies = Box<dyn FnMut(JobId) -> io::Result<Vec<u8>> + Send>;

#[derive(Archive, Serialize)]
struct Full {
    image: Image,
    /// By job.
    bodies: Vec<Body>,
}

#[derive(Archive, Serialize)]
struct Body {
    job: u64,
    body: Vec<u8>,
}

/// What goes into a snapshot.
pub enum Contents {
    Partial(Capture),
    Full(Capture, Bodies),
}

impl Contents {
    /// The body of the snapshot. For any thread but a core's.
    ///
    /// # Errors
    /// A body cannot be had.
    pub fn archive(self) -> io::Result<Vec<u8>> {
        match self {
            Contents::Partial(capture) => archive(&capture.into_image()),
            Contents::Full(capture, mut body) => {
                let live = capture.live();
                let bodies = live.iter().map(|job| Ok(Body { job, body: body(JobId(job))? }));
                let bodies = bodies.collect::<io::Result<Vec<Body>>>()?;
                archive(&Full { image: capture.into_image(), bodies })
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Contents::Partial(_) => Kind::Partial,
            Contents::Full(..) => Kind::Full,
        }
    }
}

fn archive<T>(value: &T) -> io::Result<Vec<u8>>
where
    T: for<'a> Serialize<
        rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, rancor::Error>,
    >,
{
    to_bytes_in::<_, rancor::Error>(value, Vec::new()).map_err(io::Error::other)
}

/// The whole file. It is made when the first piece is asked for, by the thread that asks.
#[must_use]
pub fn pieces(frame: Frame, contents: Contents) -> Pieces {
    assert_eq!(frame.kind, contents.kind(), "a frame says what is in the file");
    let mut waiting = Some((frame, contents));
    let mut body = None;
    Box::new(move || {
        let Some((frame, contents)) = waiting.take() else { return Ok(body.take()) };
        let (front, rest) = lay_out(frame, contents.archive()?);
        body = Some(rest);
        Ok(Some(front))
    })
}

/// Header and table, and the padded body.
fn lay_out(frame: Frame, mut body: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let body_bytes = body.len() as u64;
    body.resize(body.len().next_multiple_of(BLOCK_BYTES), 0);
    let mut table = Vec::with_capacity(body.len() / CHUNK_BYTES * HASH_BYTES);
    body.chunks(CHUNK_BYTES).for_each(|chunk| table.extend(hash(chunk).to_le_bytes()));
    table.resize(table.len().next_multiple_of(BLOCK_BYTES), 0);
    let header = Header { frame, body_bytes, table_hash: hash(&table) };
    let mut front = header.encode();
    front.append(&mut table);
    (front, body)
}

/// A body that is not the archive that its frame says, though its chunks are whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its chunks are whole, but its archive is not: {why}")]
pub struct NoArchive {
    why: String,
}

/// The image in a body, where it lies.
///
/// # Errors
/// There is none.
pub fn image(kind: Kind, body: &[u8]) -> Result<&ArchivedImage, NoArchive> {
    let no_archive = |error: rancor::Error| NoArchive { why: error.to_string() };
    match kind {
        Kind::Partial => rkyv::access::<ArchivedImage, rancor::Error>(body).map_err(no_archive),
        Kind::Full => rkyv::access::<ArchivedFull, rancor::Error>(body).map_err(no_archive).map(|full| &full.image),
    }
}

/// The bodies in the body of a full snapshot, by job.
///
/// # Errors
/// It is none.
pub fn bodies(body: &[u8]) -> Result<impl Iterator<Item = (JobId, &[u8])>, NoArchive> {
    let full = rkyv::access::<ArchivedFull, rancor::Error>(body);
    let full = full.map_err(|error| NoArchive { why: error.to_string() })?;
    Ok(full.bodies.iter().map(|body| (JobId(body.job.to_native()), &body.body[..])))
}
