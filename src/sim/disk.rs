//! A disk in memory that fails as disks do: a crash keeps, loses, tears or garbles each sector that was not yet durable;
//! names are durable only when their directory was synced; reads fail, bits rot, writes fail or land elsewhere, and the
//! disk fills up. One seed decides everything.
//!
//! It must never make anything durable that a real disk would not have to.

pub mod block_on;
mod content;
mod faults;
mod file;
mod filling;
mod settled;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::io::{AlignedBuf, BLOCK_BYTES, DirEntry, Disk, File, OpenMode, Pieces};
use content::Content;
pub use content::{SECTOR_BYTES, SectorOdds};
pub use faults::{Crash, Faults};
pub use file::SimFile;
pub use settled::{DiskCounts, Settled, SettledWrite};

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read {
        bytes: u64,
    },
    Write {
        bytes: u64,
    },
    Sync,
    /// Names, lengths, directories.
    Metadata,
    /// Writing on the bulk path, which is held to a rate.
    Bulk {
        bytes: u64,
    },
}

/// How long operations take: each waits for this future between taking effect and being done. A stall is a future that
/// does not end.
pub trait Latency {
    fn delay(&self, operation: Operation) -> Pin<Box<dyn Future<Output = ()>>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(u64);

/// A change of names that its directory was not yet synced for.
#[derive(Debug, Clone)]
enum NameChange {
    Link { path: PathBuf, file: FileId },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let (NameChange::Link { path, .. } | NameChange::Unlink { path } | NameChange::Rename { from: path, .. }) =
            self;
        path.parent() == Some(dir)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            NameChange::Link { path, file } => {
                names.insert(path.clone(), *file);
            }
            NameChange::Unlink { path } => {
                names.remove(path);
            }
            NameChange::Rename { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

#[derive(Clone)]
struct World {
    directories: BTreeSet<PathBuf>,
    /// As the running process sees them.
    names: BTreeMap<PathBuf, FileId>,
    durable_names: BTreeMap<PathBuf, FileId>,
    unsynced: Vec<NameChange>,
    files: BTreeMap<FileId, Content>,
    next_file: u64,
    capacity_bytes: u64,
    faults: Faults,
    random: ChaCha8Rng,
    /// Which life of the machine this is; handles of an earlier one do nothing any more.
    life: u64,
    /// Operations so far that change the disk.
    changes: u64,
    /// The machine stops in the middle of this change.
    stop_at: Option<u64>,
    /// Called when so many more changes have begun.
    trap: Option<(u64, Rc<dyn Fn()>)>,
    /// What it holds was damaged from outside.
    was_damaged: bool,
    settled: settled::Log,
    counts: DiskCounts,
}

/// A handle that one life of one machine has on its disk.
#[derive(Clone)]
pub struct SimDisk {
    world: Rc<RefCell<World>>,
    life: u64,
    latency: Option<Rc<dyn Latency>>,
}

impl SimDisk {
    #[must_use]
    pub fn new(seed: u64, capacity_bytes: u64) -> SimDisk {
        let world = World {
            directories: BTreeSet::from([PathBuf::from("/")]),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced: Vec::new(),
            files: BTreeMap::new(),
            next_file: 0,
            capacity_bytes,
            faults: Faults::default(),
            random: ChaCha8Rng::seed_from_u64(seed),
            life: 0,
            changes: 0,
            stop_at: None,
            trap: None,
            was_damaged: false,
            settled: settled::Log::default(),
            counts: DiskCounts::default(),
        };
        SimDisk { world: Rc::new(RefCell::new(world)), life: 0, latency: None }
    }

    #[must_use]
    pub fn with_latency(self, latency: Rc<dyn Latency>) -> SimDisk {
        SimDisk { latency: Some(latency), ..self }
    }

    #[must_use]
    pub fn without_latency(self) -> SimDisk {
        SimDisk { latency: None, ..self }
    }

    async fn delay(&self, operation: Operation) {
        if let Some(latency) = &self.latency {
            latency.delay(operation).await;
        }
    }

    /// Runs an instantaneous part of an operation, if this handle's machine still lives.
    fn act<T>(&self, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.world.borrow_mut();
        if world.life != self.life || world.has_stopped() {
            return Err(io::Error::other("the machine has stopped"));
        }
        act(&mut world)
    }
}

impl World {
    /// Counts a change; the one at which the machine stops takes effect, but is never done.
    fn change(&mut self) {
        self.changes += 1;
        match &mut self.trap {
            Some((0, sprung)) => {
                let sprung = Rc::clone(sprung);
                self.trap = None;
                sprung();
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
    }

    fn has_stopped(&self) -> bool {
        self.stop_at.is_some_and(|stop_at| self.changes >= stop_at)
    }

    fn id(&self, path: &Path) -> io::Result<FileId> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn content(&mut self, file: FileId) -> &mut Content {
        self.files.get_mut(&file).expect("a file lives as long as a name or a handle of this life")
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|id| self.files[id].bytes()).sum()
    }

    fn take_room(&self, bytes: u64) -> io::Result<()> {
        if self.used_bytes() + bytes > self.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn create(&mut self, path: &Path) -> io::Result<FileId> {
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| self.directories.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = FileId(self.next_file);
        self.next_file += 1;
        self.files.insert(file, Content::default());
        self.rename_by(NameChange::Link { path: path.to_owned(), file });
        Ok(file)
    }

    fn rename_by(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced.push(change);
        self.change();
    }

    fn sync_dir(&mut self, dir: &Path) {
        for change in self.unsynced.extract_if(.., |change| change.is_in(dir)) {
            change.apply(&mut self.durable_names);
        }
    }

    /// True with a probability; draws nothing where it is zero, so that runs without faults do not depend on it.
    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random_bool(probability)
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Map = SimMap;

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        let file = self.act(|world| match mode {
            OpenMode::Create => world.create(path),
            OpenMode::Read | OpenMode::Write => world.id(path),
        })?;
        self.delay(Operation::Metadata).await;
        self.act(|_| Ok(SimFile::new(self.clone(), file, mode != OpenMode::Read)))
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.act(|world| {
            if !path.parent().is_some_and(|dir| world.directories.contains(dir)) {
                return Err(io::ErrorKind::NotFound.into());
            }
            world.directories.insert(path.to_owned());
            Ok(())
        })?;
        self.delay(Operation::Metadata).await;
        self.act(|_| Ok(()))
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.delay(Operation::Metadata).await;
        self.act(|world| {
            if !world.directories.contains(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let entry = |(path, id): (&PathBuf, &FileId)| {
                let name = path.file_name()?.to_str()?.to_owned();
                (path.parent() == Some(dir)).then(|| DirEntry { name, bytes: world.files[id].bytes() })
            };
            Ok(world.names.iter().filter_map(entry).collect())
        })
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(|world| {
            let file = world.id(from)?;
            if from.parent() == to.parent() {
                world.rename_by(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
            } else {
                // Each directory is durable by itself: a crash may leave the file in both.
                world.rename_by(NameChange::Link { path: to.to_owned(), file });
                world.rename_by(NameChange::Unlink { path: from.to_owned() });
            }
            Ok(())
        })?;
        self.delay(Operation::Metadata).await;
        self.act(|_| Ok(()))
    }

    async fn unlink(&self, path: &Path) -> io::Result<()> {
        self.act(|world| {
            world.id(path)?;
            world.rename_by(NameChange::Unlink { path: path.to_owned() });
            Ok(())
        })?;
        self.delay(Operation::Metadata).await;
        self.act(|_| Ok(()))
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.act(|world| {
            world.change();
            Ok(())
        })?;
        self.delay(Operation::Metadata).await;
        self.act(|world| {
            world.sync_dir(dir);
            Ok(())
        })
    }

    async fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        self.act(|world| Ok(world.capacity_bytes.saturating_sub(world.used_bytes())))
    }

    async fn read_small(&self, path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let bytes = self.act(|world| Ok(world.id(path).map_or(0, |file| world.files[&file].bytes())))?;
        self.delay(Operation::Read { bytes }).await;
        self.act(|world| {
            let Ok(file) = world.id(path) else { return Ok(None) };
            let content = world.content(file);
            let bytes = usize::try_from(content.bytes()).unwrap_or(usize::MAX);
            if bytes > bytes_max {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut read = vec![0; bytes];
            content.read(0, &mut read)?;
            Ok(Some(read))
        })
    }

    async fn replace_small(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = self.act(|world| {
            world.take_room(content.len() as u64)?;
            let file = match world.id(&temporary) {
                Ok(left_over) => left_over,
                Err(_) => world.create(&temporary)?,
            };
            *world.content(file) = Content::default();
            Ok(file)
        })?;
        self.act(|world| {
            world.content(file).write(0, content);
            world.change();
            Ok(())
        })?;
        self.delay(Operation::Write { bytes: content.len() as u64 }).await;
        self.act(|world| {
            world.content(file).settle(0, content.len());
            Ok(())
        })?;
        self.rename(&temporary, path).await?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/"))).await
    }

    async fn make_zeroed(&self, path: PathBuf, bytes: u64) -> io::Result<()> {
        self.make(&path, bytes, Operation::Bulk { bytes }).await
    }

    async fn make_filled(&self, path: PathBuf, pieces: Pieces) -> io::Result<u64> {
        self.fill(&path, pieces).await
    }

    async fn read_cold(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        self.delay(Operation::Bulk { bytes: bytes as u64 }).await;
        let file = self.open(path, OpenMode::Read).await?;
        let (result, buf) = file.read_at(AlignedBuf::zeroed(bytes), offset).await;
        result.map(|()| buf)
    }

    async fn map(&self, path: &Path) -> io::Result<SimMap> {
        self.delay(Operation::Metadata).await;
        self.act(|world| {
            let file = world.id(path)?;
            let content = world.content(file);
            let bytes = usize::try_from(content.bytes()).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let mut whole = AlignedBuf::zeroed(bytes);
            content.read(0, &mut whole[..bytes])?;
            Ok(SimMap { content: Arc::new(whole), bytes })
        })
    }

    async fn make_allocated(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.make(path, bytes, Operation::Metadata).await
    }
}

/// What a file held when it was mapped.
#[derive(Clone)]
pub struct SimMap {
    content: Arc<AlignedBuf>,
    bytes: usize,
}

impl AsRef<[u8]> for SimMap {
    fn as_ref(&self) -> &[u8] {
        &self.content[..self.bytes]
    }
}

impl SimDisk {
    async fn make(&self, path: &Path, bytes: u64, operation: Operation) -> io::Result<()> {
        assert!(bytes.is_multiple_of(BLOCK_BYTES as u64), "files are whole blocks long");
        let file = self.act(|world| {
            world.take_room(bytes)?;
            let file = world.create(path)?;
            world.content(file).extend(bytes);
            Ok(file)
        })?;
        self.delay(operation).await;
        self.act(|world| {
            world.content(file).sync();
            Ok(())
        })?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/"))).await
    }
}

#[cfg(test)]
mod tests;
