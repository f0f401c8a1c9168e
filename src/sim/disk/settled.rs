//! What becomes durable, as it does: so that an oracle can keep up with the medium without reading all of it again.

use std::path::{Path, PathBuf};

use super::{FileId, SimDisk};

/// What a disk did to what it held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Sectors of which a power cut left some bytes new and some old.
    pub sectors_torn: u64,
    pub sectors_garbled: u64,
    /// Writes and syncs that reported an error.
    pub failed: u64,
    pub misdirected: u64,
    /// Through open files.
    pub bytes_read: u64,
}

/// What happened to the medium since it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Only these writes became durable, in this order.
    Writes(Vec<SettledWrite>),
    /// Other things happened: a crash, a sync of what an earlier life wrote, damage. All of it must be read again.
    Upheaval,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledWrite {
    pub path: PathBuf,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// Kept only while somebody asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    asked: bool,
    upheaval: bool,
    writes: Vec<(FileId, Part)>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Write {
        offset: u64,
        bytes: usize,
    },
    /// Whatever of it an earlier life may have written.
    All,
}

impl Log {
    pub(super) fn note(&mut self, file: FileId, offset: u64, bytes: usize) {
        if self.asked && !self.upheaval {
            self.writes.push((file, Part::Write { offset, bytes }));
        }
    }

    pub(super) fn note_all(&mut self, file: FileId) {
        if self.asked && !self.upheaval {
            self.writes.push((file, Part::All));
        }
    }

    pub(super) fn upheave(&mut self) {
        self.upheaval = true;
        self.writes.clear();
    }
}

impl SimDisk {
    /// What became durable since the last call; an upheaval at the first. Only of files that satisfy the condition.
    #[must_use]
    pub fn take_settled(&self, chosen: impl Fn(&Path) -> bool) -> Settled {
        let mut world = self.world.borrow_mut();
        let asked = std::mem::replace(&mut world.settled.asked, true);
        if std::mem::take(&mut world.settled.upheaval) || !asked {
            return Settled::Upheaval;
        }
        let writes = std::mem::take(&mut world.settled.writes);
        let of_chosen = writes.into_iter().filter_map(|(file, part)| {
            let (path, _) = world.names.iter().find(|(path, named)| **named == file && chosen(path))?;
            Some((path.clone(), file, part))
        });
        let read = |(path, file, part): (PathBuf, FileId, Part)| match part {
            Part::Write { offset, bytes } => {
                let mut read = vec![0; bytes];
                world.files[&file].peek_medium(offset, &mut read);
                Some(SettledWrite { path, offset, bytes: read })
            }
            Part::All => None,
        };
        of_chosen.map(read).collect::<Option<Vec<_>>>().map_or(Settled::Upheaval, Settled::Writes)
    }

    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.world.borrow().counts
    }

    /// Reads the medium without faults, delays and alignment.
    #[must_use]
    pub fn peek_medium(&self, path: &Path, offset: u64, bytes: usize) -> Option<Vec<u8>> {
        let world = self.world.borrow();
        let mut read = vec![0; bytes];
        world.files[&world.id(path).ok()?].peek_medium(offset, &mut read);
        Some(read)
    }
}
