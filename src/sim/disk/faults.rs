//! What can be done to a simulated disk: crashes, chances of faults, and damage in chosen places.

use std::io;
use std::path::{Path, PathBuf};

use rand::RngExt;

use super::{FileId, SECTOR_BYTES, SectorOdds, SimDisk, World};
use crate::io::BLOCK_BYTES;

/// Chances, each per operation; all zero at first.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    pub read_error: f64,
    /// The write reports an error; any of its sectors may be lost.
    pub write_error: f64,
    /// As `write_error`, but found only when the write is made durable.
    pub sync_error: f64,
    /// The write lands in another place of the same file and reports success.
    pub misdirected_write: f64,
    /// Writes and syncs report success and make nothing durable. To be detected, not survived.
    pub lying_flush: bool,
}

/// How a machine stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crash {
    /// The process dies and the machine goes on: names stay, a write in flight may have reached the device's cache
    /// in part, and what is there is still not durable.
    Process,
    /// The power goes: of the changes of names, the first few survive; each sector meets its own fate.
    Power(SectorOdds),
}

impl SimDisk {
    pub fn set_faults(&self, faults: Faults) {
        self.world.borrow_mut().faults = faults;
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.world.borrow_mut().capacity_bytes = bytes;
    }

    /// What all files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.world.borrow().used_bytes()
    }

    /// Operations so far that changed the disk.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.world.borrow().changes
    }

    /// Stops the machine in the middle of the change that brings [`SimDisk::changes`] to this number: it takes effect, but
    /// neither it nor anything after it is ever done.
    pub fn stop_at(&self, changes: u64) {
        self.world.borrow_mut().stop_at = Some(changes);
    }

    /// Calls this in the midst of a change of the disk, once `changes` more have begun. It must not use the disk at once.
    pub fn set_trap(&self, changes: u64, sprung: impl Fn() + 'static) {
        self.world.borrow_mut().trap = Some((changes, std::rc::Rc::new(sprung)));
    }

    /// Ends this life of the machine; the handle that the next one has.
    #[must_use]
    pub fn crash(&self, how: Crash) -> SimDisk {
        let mut world = self.world.borrow_mut();
        match how {
            Crash::Process => world.kill(),
            Crash::Power(odds) => world.cut_power(odds),
        }
        world.life += 1;
        world.stop_at = None;
        world.settled.upheave();
        SimDisk { world: self.world.clone(), life: world.life, latency: self.latency.clone() }
    }

    /// A disk of its own with the same content, durable and not.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        let mut world = self.world.borrow().clone();
        world.trap = None;
        SimDisk {
            world: std::rc::Rc::new(std::cell::RefCell::new(world)),
            life: self.life,
            latency: self.latency.clone(),
        }
    }

    /// A disk of its own with what is durable here and nothing else, without delays and faults: the truth that oracles compare claims with.
    #[must_use]
    pub fn durable_image(&self) -> SimDisk {
        let image = self.fork();
        image.world.borrow_mut().unsynced.clear();
        image.set_faults(Faults::default());
        SimDisk { latency: None, ..image.crash(Crash::Power(SectorOdds::OLD)) }
    }

    /// A disk of its own as a process that starts now would find it, without delays and faults.
    #[must_use]
    pub fn image(&self) -> SimDisk {
        let image = self.fork();
        image.set_faults(Faults::default());
        SimDisk { latency: None, ..image }
    }

    /// Puts the files that are chosen, of this disk and of another, in the state in which they durably are on the other.
    /// Both must be at rest.
    pub fn put_back(&self, from: &SimDisk, chosen: impl Fn(&Path) -> bool) {
        let (mut world, from) = (self.world.borrow_mut(), from.world.borrow());
        let gone: Vec<PathBuf> = world.names.keys().filter(|path| chosen(path)).cloned().collect();
        for path in gone {
            world.names.remove(&path);
        }
        for (path, id) in from.names.iter().filter(|(path, _)| chosen(path)) {
            let file = FileId(world.next_file);
            world.next_file += 1;
            world.files.insert(file, from.files[id].clone());
            world.names.insert(path.clone(), file);
        }
        world.durable_names = world.names.clone();
        world.unsynced.clear();
        world.settled.upheave();
    }

    /// Every file as the running process sees it, with its length.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let world = self.world.borrow();
        world.names.iter().map(|(path, id)| (path.clone(), world.files[id].bytes())).collect()
    }

    /// Reads without faults, delays and alignment.
    ///
    /// # Errors
    /// If there is no such file, or it is shorter.
    pub fn peek(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let world = self.world.borrow();
        let id = world.id(path)?;
        let mut read = vec![0; bytes];
        world.files[&id].read(offset, &mut read)?;
        Ok(read)
    }

    /// Whether what it holds was damaged from outside, at any time.
    #[must_use]
    pub fn was_damaged(&self) -> bool {
        self.world.borrow().was_damaged
    }

    /// Overwrites what the medium holds.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn poke(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        world.was_damaged = true;
        let id = world.id(path)?;
        world.content(id).poke(offset, bytes);
        world.settled.upheave();
        Ok(())
    }

    /// Flips one bit of the medium.
    ///
    /// # Errors
    /// If there is no such file, or it is shorter.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut byte = self.peek(path, bit / 8, 1)?;
        byte[0] ^= 1 << (bit % 8);
        self.poke(path, bit / 8, &byte)
    }

    /// Reads of this range fail until it is written again.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn make_unreadable(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        world.was_damaged = true;
        let id = world.id(path)?;
        world.content(id).make_unreadable(offset, bytes);
        Ok(())
    }

    /// Takes a file away for good, as a damaged file system does.
    pub fn lose(&self, path: &Path) {
        let mut world = self.world.borrow_mut();
        world.was_damaged = true;
        world.names.remove(path);
        world.durable_names.remove(path);
        world.settled.upheave();
    }

    /// Rots one bit of one non-zero sector of one file whose path satisfies a condition; where.
    pub fn rot(&self, chosen: impl Fn(&Path) -> bool) -> Option<(PathBuf, u64)> {
        let files: Vec<(PathBuf, u64)> =
            self.files().into_iter().filter(|(path, bytes)| chosen(path) && *bytes > 0).collect();
        let mut world = self.world.borrow_mut();
        let (path, bytes) = files.get(world.random.random_range(0..files.len().max(1)))?;
        let bit = world.random.random_range(0..bytes * 8);
        drop(world);
        self.flip_bit(path, bit).ok()?;
        Some((path.clone(), bit / 8 / SECTOR_BYTES as u64 * SECTOR_BYTES as u64))
    }
}

impl World {
    fn kill(&mut self) {
        let World { files, random, .. } = self;
        for content in files.values_mut().filter(|content| content.has_pending()) {
            // As often as not the last of it had come to the cache, and whoever starts next reads what no power cut would leave.
            if random.random_bool(0.5) {
                let bytes = usize::try_from(content.bytes()).unwrap_or(usize::MAX);
                content.forget(random, 0, bytes, 0.5);
            }
        }
    }

    fn cut_power(&mut self, odds: SectorOdds) {
        let survive = self.random.random_range(0..=self.unsynced.len());
        for change in std::mem::take(&mut self.unsynced).iter().take(survive) {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        let World { files, names, random, counts, .. } = self;
        files.retain(|id, _| names.values().any(|named| named == id));
        for content in files.values_mut() {
            let [torn, garbled] = content.cut_power(random, odds);
            counts.sectors_torn += torn;
            counts.sectors_garbled += garbled;
        }
    }

    pub(super) fn forget(&mut self, file: FileId, offset: u64, bytes: usize) {
        let World { files, random, .. } = self;
        if let Some(content) = files.get_mut(&file) {
            content.forget(random, offset, bytes, 0.5);
        }
    }

    /// Where a misdirected write of `bytes` goes instead.
    pub(super) fn elsewhere(&mut self, file: FileId, bytes: usize, offset: u64) -> u64 {
        let block = BLOCK_BYTES as u64;
        let blocks = self.content(file).bytes().saturating_sub(bytes as u64) / block;
        match self.random.random_range(0..=blocks) * block {
            other if other != offset => other,
            _ if offset >= block => offset - block,
            _ => offset,
        }
    }
}
