//! A shard's files as the next start will have them: where an install was decided on, all that it moves counts as if it were in its
//! place. For whoever looks from outside, while no node runs.
//!
//! It must never change a byte: whatever would is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::completion::{Decision, MANIFEST, Move, decision, former_log};
use super::install::{InstallError, InstallPlace};
use crate::io::{AlignedBuf, DirEntry, Disk, OpenMode, Pieces};
use crate::types::LogPosition;
use crate::wal::inspection::Fault;

#[derive(Debug, Default)]
struct Ahead {
    /// Of the snapshot that takes the log's place.
    position: Option<LogPosition>,
    /// By where they will be: where they are. The shard's manifest is one of them.
    now_at: BTreeMap<PathBuf, PathBuf>,
    /// The files that will be moved.
    moves: Vec<Move>,
    removed: BTreeSet<PathBuf>,
}

/// An install that the next start completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// What the snapshot is of.
    pub position: LogPosition,
    pub files_to_move: usize,
    /// Of the log before.
    pub files_to_remove: usize,
}

/// A disk that is looked at.
#[derive(Clone)]
pub struct Foreseen<D: Disk> {
    disk: D,
    ahead: Rc<Ahead>,
}

impl<D: Disk> Foreseen<D> {
    /// With all that the next start completes.
    ///
    /// # Errors
    /// If what was decided on is damaged, or the disk fails: that start fails, too.
    pub async fn new(disk: D, place: &InstallPlace) -> Result<Foreseen<D>, InstallError> {
        let Some(Decision { manifest, moves }) = decision(&disk, place).await? else {
            return Ok(Foreseen::as_it_is(disk));
        };
        let removed = former_log(&disk, place, &manifest).await?.into_iter().collect();
        let mut now_at: BTreeMap<_, _> = moves.iter().map(|Move { from, to, .. }| (to.clone(), from.clone())).collect();
        now_at.insert(place.manifest.clone(), place.dir.join(MANIFEST));
        let ahead = Ahead { position: Some(manifest.floor.position), now_at, moves, removed };
        Ok(Foreseen { disk, ahead: Rc::new(ahead) })
    }

    /// As the disk is, though nothing can be changed.
    #[must_use]
    pub fn as_it_is(disk: D) -> Foreseen<D> {
        Foreseen { disk, ahead: Rc::default() }
    }

    /// The install that the next start completes.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        let Ahead { position, moves, removed, .. } = &*self.ahead;
        let (files_to_move, files_to_remove) = (moves.len(), removed.len());
        position.map(|position| Pending { position, files_to_move, files_to_remove })
    }

    /// Says of a fault where its file is now.
    pub fn correct(&self, fault: &mut Fault) {
        for (to, from) in &self.ahead.now_at {
            let (to, from) = (to.display().to_string(), from.display().to_string());
            if fault.file == to {
                fault.file = from.clone();
            }
            fault.what = fault.what.replace(&to, &from);
        }
    }

    fn now_at<'a>(&'a self, path: &'a Path) -> &'a Path {
        self.ahead.now_at.get(path).map_or(path, PathBuf::as_path)
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl<D: Disk> Disk for Foreseen<D> {
    type File = D::File;
    type Map = D::Map;

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<D::File> {
        if mode == OpenMode::Read { self.disk.open(self.now_at(path), mode).await } else { refused() }
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let Ahead { moves, removed, .. } = &*self.ahead;
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // They were listed in the order of their names.
        let arriving = moves.iter().filter(|coming| coming.to.parent() == Some(dir));
        let mut arriving: Vec<DirEntry> =
            arriving.map(|coming| DirEntry { name: name(&coming.to), bytes: coming.bytes }).collect();
        let mut there = match self.disk.list(dir).await {
            // It is made when they are moved.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !arriving.is_empty() => Vec::new(),
            listed => listed?,
        };
        there.retain(|file| {
            !removed.contains(&dir.join(&file.name))
                && arriving.binary_search_by(|coming| coming.name.cmp(&file.name)).is_err()
        });
        arriving.append(&mut there);
        arriving.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(arriving)
    }

    async fn read_small(&self, path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        self.disk.read_small(self.now_at(path), bytes_max).await
    }

    async fn read_cold(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        self.disk.read_cold(self.now_at(path), offset, bytes).await
    }

    async fn map(&self, path: &Path) -> io::Result<D::Map> {
        self.disk.map(self.now_at(path)).await
    }

    async fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path).await
    }

    async fn create_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    async fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    async fn unlink(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    async fn sync_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    async fn replace_small(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        refused()
    }

    async fn make_zeroed(&self, _: PathBuf, _: u64) -> io::Result<()> {
        refused()
    }

    async fn make_filled(&self, _: PathBuf, _: Pieces) -> io::Result<u64> {
        refused()
    }

    async fn make_allocated(&self, _: &Path, _: u64) -> io::Result<()> {
        refused()
    }
}
