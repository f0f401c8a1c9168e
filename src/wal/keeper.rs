//! Keeps a shard's files that are written no more: gives them rows, and below the floor drops those in which no job lives, and
//! moves the jobs that live out of those in which few do. Long work over `io`'s traits, beside the log's writer and reader.
//!
//! It must never remove a file before a manifest that does not name it is durable, and never name one that is not.
//!
//! ```text
//!   a segment is full and committed ──> rows beside it
//!   two snapshots are verified ──> floor ──> live jobs of each file ──> dead: dropped
//!                                                                   └─> mostly dead: store segment ──> manifest ──> dropped
//! ```

mod living;
mod mending;
mod moving;
mod rows;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use roaring::RoaringTreemap;
use thiserror::Error;

use super::catalog::{Piece, PieceName};
use super::compaction::{Bounds, Holding, plan};
use super::directory::DirectoryError;
use super::entry::LogIdentity;
use super::footer::{Footer, FooterDraft, FooterError, Row, Subject};
use super::format::{BLOCK, FirstBlock, SegmentHeader};
use super::index::SegmentNumber;
use super::manifest::{Floor, Manifest};
use super::reader::{LastEntry, LogReader, ReadError};
use super::salvage::{Fault, Salvaged, salvage_segment, salvage_store};
use super::segment::{file_name, parse_file_name};
use super::store::{RecordAt, StoreDraft, StoreReader, StoredJob, open_store, parse_store_file_name, store_file_name};
use crate::io::{AlignedBuf, Disk, File, OpenMode, yield_now};
use crate::job::codec::whole_enqueue;
use crate::types::{ChainHash, Index, JobId, LogPosition, Nanos};
pub use mending::{JobCopy, Mended};

/// So many rows are looked at before other tasks have their turn.
const ROWS_AT_ONCE: usize = 2048;

/// Something that could not be done. What was there before is there still, and it may be tried again.
#[derive(Debug, Error)]
pub enum KeepError {
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Read { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Change { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Manifest(#[from] DirectoryError),
    #[error("the rows in {path} cannot be used: {error}", path = path.display())]
    Rows { path: PathBuf, error: FooterError },
    #[error("{path} is missing, and jobs that live are in it: restore it, or replace this node", path = path.display())]
    Missing { path: PathBuf },
    #[error("jobs that live cannot be moved out of a damaged file: {0}")]
    Damaged(#[from] ReadError),
    #[error("{path}, offset {offset}: there is no whole entry {index}, and jobs that live may be in it", path = path.display())]
    Segment { path: PathBuf, offset: u64, index: Index },
    #[error("{path} is damaged, and what lives in it is not known yet: no snapshot is kept", path = path.display())]
    Unknown { path: PathBuf },
}

impl KeepError {
    /// A file below the floor is damaged or lost: jobs that live may be lacking, and another node has them.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            KeepError::Rows { .. } | KeepError::Missing { .. } | KeepError::Damaged(_) | KeepError::Segment { .. } => {
                true
            }
            KeepError::Read { source, .. } => source.kind() == io::ErrorKind::InvalidData,
            KeepError::Change { .. } | KeepError::Manifest(_) | KeepError::Unknown { .. } => false,
        }
    }
}

fn not_read(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_owned();
    move |source| KeepError::Read { what, path, source }
}

fn not_changed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_owned();
    move |source| KeepError::Change { what, path, source }
}

/// The file with the rows of a segment.
#[must_use]
pub fn rows_file_name(number: SegmentNumber) -> String {
    format!("{:010}.rows", number.0)
}

/// A mapped file lends its bytes.
pub(super) struct Mapped<M>(pub(super) M);

impl<M: AsRef<[u8]>> AsRef<[u8]> for Mapped<M> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// Where a shard's files are, and how they are kept.
#[derive(Debug, Clone)]
pub struct KeeperPlace {
    /// The directory of the segments.
    pub segments: PathBuf,
    /// And that of the store segments.
    pub stores: PathBuf,
    pub manifest: PathBuf,
    pub identity: LogIdentity,
    pub bounds: Bounds,
}

/// Where the log is to count from: the end of a segment that has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFloor {
    pub position: LogPosition,
    pub chain: ChainHash,
    pub next_job: JobId,
}

/// What became of files. The manifest that says so is durable; what was removed is there until [`Keeper::finish`].
#[derive(Debug, Default)]
pub struct Change {
    /// The floor, where it was raised.
    pub floor: Option<Index>,
    pub removed: Vec<PieceName>,
    pub added: Vec<Piece>,
}

/// What a shard's files hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    pub floor: Index,
    /// With rows: of the log, whether above or below the floor, and of the store.
    pub segments: u64,
    pub stores: u64,
    /// Below the floor: all bytes of files, and those of the ENQs of jobs that live, as far as was counted.
    pub bytes: u64,
    pub live_bytes: u64,
    pub damaged: u64,
    /// Since the files were opened: bytes written into store segments, damaged files that were made whole, files given up because
    /// nothing lived in them, and files whose living jobs were moved.
    pub moved_bytes: u64,
    pub mended: u64,
    pub dropped_files: u64,
    pub rewritten_files: u64,
}

impl Census {
    /// With what was done before the files were opened anew.
    #[must_use]
    pub fn counting_on(self, earlier: Census) -> Census {
        Census {
            moved_bytes: self.moved_bytes + earlier.moved_bytes,
            mended: self.mended + earlier.mended,
            dropped_files: self.dropped_files + earlier.dropped_files,
            rewritten_files: self.rewritten_files + earlier.rewritten_files,
            ..self
        }
    }
}

/// One file with rows.
struct Kept {
    footer: Rc<Footer>,
    /// Of the file, and of its rows where they have one of their own.
    file_bytes: u64,
    /// Of a segment of the log.
    ordinal: u32,
    /// Jobs that live, and the bytes of their ENQs, when they were last counted.
    live: Option<(u64, u64)>,
    is_damaged: bool,
}

pub struct Keeper<D: Disk> {
    disk: D,
    place: KeeperPlace,
    manifest: Manifest,
    pieces: BTreeMap<PieceName, Kept>,
    /// The jobs that lived in the newest verified snapshot, once one is known.
    live: Arc<RoaringTreemap>,
    knows_what_lives: bool,
    /// Files that cannot be mended without copies of these jobs; and copies that came.
    lacking: BTreeMap<PieceName, Vec<JobId>>,
    copies: BTreeMap<JobId, JobCopy>,
    found_damaged: Vec<PieceName>,
    reader: LogReader<D>,
    stores: StoreReader<D>,
    moved_bytes: u64,
    mended: u64,
    dropped_files: u64,
    rewritten_files: u64,
}

impl<D: Disk> Keeper<D> {
    /// Takes over what earlier lives left, and removes what they did not complete. Rows that are missing are made again.
    ///
    /// # Errors
    /// If what the manifest names is not there, or the disk fails.
    pub async fn open(disk: D, place: KeeperPlace) -> Result<Keeper<D>, KeepError> {
        let manifest = Manifest::load(&disk, &place.manifest, &place.identity).await?;
        // A process that died may have renamed it, and the name may not be durable yet: what it no longer names must not go
        // before it is.
        let dir = place.manifest.parent().unwrap_or(Path::new("/"));
        disk.sync_dir(dir).await.map_err(not_changed("sync", dir))?;
        disk.create_dir(&place.stores).await.map_err(not_changed("make", &place.stores))?;
        let reader = LogReader::new(disk.clone(), place.segments.clone(), place.identity);
        let stores = StoreReader::new(disk.clone(), place.stores.clone(), place.identity);
        let mut keeper = Keeper {
            disk,
            place,
            manifest,
            pieces: BTreeMap::new(),
            live: Arc::default(),
            knows_what_lives: false,
            lacking: BTreeMap::new(),
            copies: BTreeMap::new(),
            found_damaged: Vec::new(),
            reader,
            stores,
            moved_bytes: 0,
            mended: 0,
            dropped_files: 0,
            rewritten_files: 0,
        };
        keeper.remove_left_over().await?;
        for (number, last) in keeper.manifest.segments.clone() {
            let kept = keeper.take_over_segment(number, last).await?;
            keeper.pieces.insert(PieceName::Log(number), kept);
        }
        for number in keeper.manifest.stores.clone() {
            let kept = match keeper.map_store(number).await {
                Err(KeepError::Rows { error, .. }) => keeper.remake_store(number, error).await?,
                kept => kept?,
            };
            keeper.pieces.insert(PieceName::Store(kept.footer.number()), kept);
        }
        Ok(keeper)
    }

    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The files below the floor.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        self.pieces.iter().map(|(&name, kept)| Piece { name, footer: Rc::clone(&kept.footer) }).collect()
    }

    /// Their names, ascending, and the last of the entries in each that count.
    #[must_use]
    pub fn cold_files(&self) -> Vec<(PieceName, Index)> {
        self.pieces.iter().map(|(&name, kept)| (name, kept.footer.subject().last)).collect()
    }

    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            floor: self.manifest.floor.position.index,
            moved_bytes: self.moved_bytes,
            mended: self.mended,
            dropped_files: self.dropped_files,
            rewritten_files: self.rewritten_files,
            ..Census::default()
        };
        for (name, kept) in &self.pieces {
            match name {
                PieceName::Log(_) => census.segments += 1,
                PieceName::Store(_) => census.stores += 1,
            }
            if self.is_below_floor(*name, kept) {
                census.bytes += kept.file_bytes;
                census.live_bytes += kept.live.map_or(0, |(_, bytes)| bytes);
            }
            census.damaged += u64::from(kept.is_damaged);
        }
        census
    }

    fn is_below_floor(&self, name: PieceName, kept: &Kept) -> bool {
        match name {
            PieceName::Log(_) => kept.footer.subject().last <= self.manifest.floor.position.index,
            PieceName::Store(_) => true,
        }
    }

    fn path(&self, name: PieceName) -> PathBuf {
        match name {
            PieceName::Log(number) => self.place.segments.join(file_name(number)),
            PieceName::Store(number) => self.place.stores.join(store_file_name(number)),
        }
    }

    fn rows_path(&self, number: SegmentNumber) -> PathBuf {
        self.place.segments.join(rows_file_name(number))
    }

    /// Rows that were not completed, or whose segments are gone; store segments that the manifest does not name.
    async fn remove_left_over(&self) -> Result<(), KeepError> {
        let dir = &self.place.segments;
        let files = self.disk.list(dir).await.map_err(not_read("list", dir))?;
        for file in &files {
            let segment = file.name.strip_suffix(".rows").map(|stem| format!("{stem}.seg"));
            let is_orphan = segment.is_some_and(|segment| {
                parse_file_name(&segment).is_some() && !files.iter().any(|file| file.name == segment)
            });
            if is_orphan || file.name.ends_with(".rows.tmp") {
                self.unlink(&dir.join(&file.name)).await?;
            }
        }
        let dir = &self.place.stores;
        for file in self.disk.list(dir).await.map_err(not_read("list", dir))? {
            let number = parse_store_file_name(&file.name);
            if number.is_some_and(|number| !self.manifest.stores.contains(&number)) {
                self.unlink(&dir.join(&file.name)).await?;
            }
        }
        Ok(())
    }

    async fn unlink(&self, path: &Path) -> Result<(), KeepError> {
        self.disk.unlink_if_there(path).await.map_err(not_changed("remove", path))
    }
}

#[cfg(test)]
mod tests;
