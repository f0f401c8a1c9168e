//! Puts copies of damaged entries back: the whole segment is written anew beside the old one, made durable, and takes its
//! name in one step. So at any time there is one file of that name, and it holds all that the old one held.
//!
//! It must never write into the file that is in force, nor claim in the new one what was not durable before.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::entry::{Entry, LogIdentity};
use super::format::{BLOCK, PLACEMENT_HEADER_BYTES, Place, Record, RecordKind, SegmentHeader, Testimony, record_bytes};
use super::index::Placement;
use super::keeper::rows_file_name;
use super::reader::{LogReader, ReadError};
use super::segment::file_name;
use crate::io::{AlignedBuf, Disk, File, OpenMode};
use crate::types::{ChainHash, Index};

/// Ends the name of a file that is to replace a segment and does not yet.
pub const UNFINISHED: &str = ".new";

/// Written at once, where no entry is longer.
const WRITE_BYTES: u64 = 1 << 20;

/// What a segment is to hold.
#[derive(Debug, Clone)]
pub struct Plan {
    pub header: SegmentHeader,
    /// Ascending by index and place.
    pub pieces: Vec<Piece>,
    /// The last piece is the segment's last live entry, so that a seal may follow.
    pub is_whole: bool,
    pub commit: Index,
}

#[derive(Debug, Clone)]
pub struct Piece {
    pub index: Index,
    pub chain: ChainHash,
    pub source: Source,
    pub placement: Placement,
}

#[derive(Debug, Clone)]
pub enum Source {
    /// It lies there already.
    Here,
    Given(Entry),
}

#[derive(Debug, Error)]
pub enum RewriteError {
    /// Another entry of the segment was damaged since it was last read.
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("cannot write {path}, which is to replace a damaged segment: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl RewriteError {
    /// Nothing was wrong but that there was no room for another file.
    #[must_use]
    pub fn is_lack_of_room(&self) -> bool {
        matches!(self, RewriteError::Write { source, .. }
            if crate::io::is_full(source))
    }
}

/// Replaces a segment, durably. `reader` must forget the segment afterwards.
///
/// # Errors
/// If something that should be there cannot be read, or the disk fails. The old file is in force then, or the new one.
pub async fn rewrite<D: Disk>(
    disk: &D,
    reader: &LogReader<D>,
    identity: &LogIdentity,
    plan: &Plan,
) -> Result<(), RewriteError> {
    let dir = reader.directory();
    let path = dir.join(file_name(plan.header.number));
    let unfinished = dir.join(format!("{}{UNFINISHED}", file_name(plan.header.number)));
    let failed = |source| RewriteError::Write { path: unfinished.clone(), source };
    remove(disk, dir, &unfinished).await.map_err(failed)?;
    disk.make_allocated(&unfinished, plan.header.bytes).await.map_err(failed)?;
    let file = disk.open(&unfinished, OpenMode::Write).await.map_err(failed)?;
    let mut rest = &plan.pieces[..];
    let mut before = (plan.header.base, plan.header.base_chain);
    let mut offset = 0;
    while offset == 0 || !rest.is_empty() {
        let (batch, others) = rest.split_at(together(rest));
        rest = others;
        let entries = entries_of(reader, batch).await?;
        let is_end = rest.is_empty();
        let buf = lay_out(identity, plan, offset, &mut before, batch, &entries, is_end);
        let bytes = buf.len() as u64;
        file.write_at(buf, offset).await.0.map_err(failed)?;
        offset += bytes;
    }
    // The rows say where each entry lies, and are made again from what is there.
    remove(disk, dir, &dir.join(rows_file_name(plan.header.number))).await.map_err(failed)?;
    disk.rename(&unfinished, &path).await.map_err(failed)?;
    disk.sync_dir(dir).await.map_err(failed)
}

async fn remove<D: Disk>(disk: &D, dir: &Path, path: &Path) -> io::Result<()> {
    let is_it = |name: &str| path.file_name().is_some_and(|of_path| of_path == name);
    if disk.list(dir).await?.iter().any(|file| is_it(&file.name)) {
        disk.unlink(path).await?;
        disk.sync_dir(dir).await?;
    }
    Ok(())
}

/// How many of the first pieces go in one write.
fn together(pieces: &[Piece]) -> usize {
    let Some(first) = pieces.first() else { return 0 };
    let end = |piece: &Piece| piece.placement.offset + record_bytes(piece.placement.bytes);
    let fit = pieces.iter().take_while(|piece| end(piece) - first.placement.offset <= WRITE_BYTES).count();
    fit.max(1)
}

async fn entries_of<D: Disk>(reader: &LogReader<D>, pieces: &[Piece]) -> Result<Vec<Entry>, ReadError> {
    let here = pieces.iter().filter(|piece| matches!(piece.source, Source::Here)).map(|piece| piece.placement);
    let mut read = reader.read_entries(&here.collect::<Vec<_>>()).await?.into_iter();
    let entry = |piece: &Piece| match &piece.source {
        Source::Given(entry) => Some(entry.clone()),
        Source::Here => read.next(),
    };
    Ok(pieces.iter().filter_map(entry).collect())
}

/// The bytes from `offset` to the end of the batch. What is free between two entries that follow each other was a seal, and
/// is one again: zeros there would look like a lost entry.
fn lay_out(
    identity: &LogIdentity,
    plan: &Plan,
    offset: u64,
    before: &mut (Index, ChainHash),
    batch: &[Piece],
    entries: &[Entry],
    is_end: bool,
) -> AlignedBuf {
    let header = &plan.header;
    let start = if offset == 0 { BLOCK } else { offset };
    let batch_end = batch.last().map_or(start, |last| last.placement.offset + record_bytes(last.placement.bytes));
    let seals = is_end && plan.is_whole && batch_end + BLOCK <= header.bytes;
    let end = if seals { batch_end + BLOCK } else { batch_end };
    let mut buf = AlignedBuf::zeroed(usize::try_from(end - offset).expect("bounded by the largest entry"));
    if offset == 0 {
        header.encode(identity, &mut buf);
    }
    let mut put = |at: u64, kind: RecordKind, durable_upto: Index| {
        let place = Place { segment: header.number, epoch: header.epoch, offset: at };
        let testimony = Testimony { durable_upto, commit: plan.commit };
        let from = (at - offset) as usize;
        Record { kind, testimony }.encode(place, &mut buf[from..]);
        from + PLACEMENT_HEADER_BYTES
    };
    let mut at = start;
    let mut shared = Vec::with_capacity(entries.len());
    for (piece, entry) in batch.iter().zip(entries) {
        let (before_index, before_chain) = *before;
        let seal = RecordKind::Seal { last_chain: Some(before_chain) };
        while at < piece.placement.offset {
            if piece.index == before_index.next() {
                put(at, seal, before_index);
            }
            at += BLOCK;
        }
        // What came before it was durable when the damage was found, and is again when this file is in force.
        let kind = RecordKind::Entry { shared_bytes: entry.meta.bytes };
        shared.push(put(at, kind, Index(piece.index.0 - 1)));
        at += record_bytes(entry.meta.bytes);
        *before = (piece.index, piece.chain);
    }
    if seals {
        put(at, RecordKind::Seal { last_chain: Some(before.1) }, before.0);
    }
    for (from, entry) in shared.into_iter().zip(entries) {
        buf[from..from + entry.shared.len()].copy_from_slice(&entry.shared);
    }
    buf
}
