//! An open file of the simulated disk.

use std::io;

use super::{AlignedBuf, BLOCK_BYTES, File, FileId, Operation, SimDisk, World};

#[derive(Clone)]
pub struct SimFile {
    disk: SimDisk,
    file: FileId,
    writable: bool,
}

impl SimFile {
    pub(super) fn new(disk: SimDisk, file: FileId, writable: bool) -> SimFile {
        SimFile { disk, file, writable }
    }

    /// Begins a write: readers see it, the medium need not. Returns where it went.
    pub(super) fn begin_write(&self, world: &mut World, bytes: &[u8], offset: u64) -> io::Result<u64> {
        let grown = (offset + bytes.len() as u64).saturating_sub(world.content(self.file).bytes());
        if grown > 0 {
            world.take_room(grown)?;
        }
        let misdirected = world.faults.misdirected_write;
        let target = match world.chance(misdirected) {
            true => world.elsewhere(self.file, bytes.len(), offset),
            false => offset,
        };
        if target != offset {
            world.counts.misdirected += 1;
            world.settled.upheave();
        }
        let failed = world.faults.write_error;
        let fails = world.chance(failed);
        world.content(self.file).write(target, bytes);
        world.change();
        if fails {
            world.counts.failed += 1;
            world.forget(self.file, target, bytes.len());
            return Err(io::Error::other("the write failed"));
        }
        Ok(target)
    }
}

impl File for SimFile {
    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "a direct read starts on a block");
        self.disk.delay(Operation::Read { bytes: buf.len() as u64 }).await;
        let result = self.disk.act(|world| {
            let failed = world.faults.read_error;
            if world.chance(failed) {
                return Err(io::Error::other("the read failed"));
            }
            world.counts.bytes_read += buf.len() as u64;
            world.content(self.file).read(offset, &mut buf)
        });
        (result, buf)
    }

    async fn write_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "a direct write starts on a block");
        if !self.writable {
            return (Err(io::ErrorKind::PermissionDenied.into()), buf);
        }
        let begun = self.disk.act(|world| self.begin_write(world, &buf, offset));
        self.disk.delay(Operation::Write { bytes: buf.len() as u64 }).await;
        let target = match begun {
            Ok(target) => target,
            Err(error) => return (Err(error), buf),
        };
        let result = self.disk.act(|world| {
            let lies = world.faults.lying_flush;
            let failed = world.faults.sync_error;
            if world.chance(failed) {
                world.counts.failed += 1;
                world.forget(self.file, target, buf.len());
                return Err(io::Error::other("the sync failed"));
            }
            if !lies {
                world.content(self.file).settle(target, buf.len());
                world.settled.note(self.file, target, buf.len());
            }
            Ok(())
        });
        (result, buf)
    }

    async fn sync(&self) -> io::Result<()> {
        self.disk.act(|world| {
            world.change();
            Ok(())
        })?;
        self.disk.delay(Operation::Sync).await;
        self.disk.act(|world| {
            let failed = world.faults.sync_error;
            if world.chance(failed) {
                world.counts.failed += 1;
                let bytes = world.content(self.file).bytes();
                world.forget(self.file, 0, usize::try_from(bytes).unwrap_or(usize::MAX));
                return Err(io::Error::other("the sync failed"));
            }
            if !world.faults.lying_flush {
                if world.content(self.file).has_pending() {
                    world.settled.note_all(self.file);
                }
                world.content(self.file).sync();
            }
            Ok(())
        })
    }

    fn bytes(&self) -> u64 {
        self.disk.world.borrow().files.get(&self.file).map_or(0, |content| content.bytes())
    }
}
