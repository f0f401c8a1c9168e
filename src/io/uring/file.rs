//! One open file: whole buffers in and out through the ring, never through the page cache.
//!
//! It must never report a write before it is durable, and never retry one that failed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::opcode;
use io_uring::types::FsyncFlags;

use super::op::{self, Phase};
use crate::io::{AlignedBuf, BLOCK_BYTES, File};

/// How a write becomes durable. `docs/decisions/durable-writes.md` has the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A plain direct write, then fdatasync: two operations per write, both finished by threads of this process.
    #[default]
    WriteThenSync,
    /// The file is opened with O_DSYNC: one operation per write, finished by a kernel worker that queues for a
    /// processor behind whatever else the host runs.
    SyncedWrite,
}

/// A regular file's descriptor. Closing the last one of an unlinked file frees its extents, which takes a journal
/// transaction: that happens beside the core thread.
#[derive(Debug)]
struct FileDescriptor(Option<OwnedFd>);

impl AsRawFd for FileDescriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_ref().expect("only drop takes the descriptor").as_raw_fd()
    }
}

impl Drop for FileDescriptor {
    fn drop(&mut self) {
        if let (Some(descriptor), Phase::Running) = (self.0.take(), op::phase()) {
            tokio::task::spawn_blocking(move || drop(descriptor));
        }
    }
}

#[derive(Debug, Clone)]
pub struct UringFile {
    descriptor: Rc<FileDescriptor>,
    bytes: u64,
    sync_after_write: bool,
}

impl UringFile {
    /// `file` was opened with O_DIRECT and, unless `sync_after_write`, with O_DSYNC where it is written.
    pub(super) fn new(file: fs::File, bytes: u64, sync_after_write: bool) -> UringFile {
        UringFile { descriptor: Rc::new(FileDescriptor(Some(file.into()))), bytes, sync_after_write }
    }

    async fn fill(&self, mut buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        let mut done = 0;
        while done < buf.len() {
            let (result, returned) = self.read_once(buf, done, offset).await;
            buf = returned;
            match result {
                Ok(0) => return (Err(end_of_file(offset, done)), buf),
                Ok(count) => done += count,
                Err(error) if op::is_transient(&error) => tokio::task::yield_now().await,
                Err(error) => return (Err(error), buf),
            }
            // Only the end of the file cuts a block in two; going on from there would be refused as misaligned.
            if !done.is_multiple_of(BLOCK_BYTES) {
                return (Err(end_of_file(offset, done)), buf);
            }
        }
        (Ok(()), buf)
    }

    fn read_once(&self, buf: AlignedBuf, done: usize, offset: u64) -> op::Operation<AlignedBuf, FileDescriptor> {
        let length = operation_bytes(buf.len() - done);
        let at = offset + done as u64;
        // SAFETY: the address lies `done` bytes into the heap memory that `buf` owns alone, with `length` bytes behind
        // it; an `AlignedBuf` does not move its memory when it is moved.
        unsafe {
            op::submit(&self.descriptor, buf, |fd, buf| {
                let start = buf.as_ptr().cast_mut().wrapping_add(done);
                opcode::Read::new(fd, start, length).offset(at).build()
            })
        }
    }

    async fn drain(&self, mut buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        let mut done = 0;
        while done < buf.len() {
            let (result, returned) = self.write_once(buf, done, offset).await;
            buf = returned;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buf),
                Ok(count) => done += count,
                Err(error) if op::is_transient(&error) => tokio::task::yield_now().await,
                Err(error) => return (Err(error), buf),
            }
            // A device that stops inside a block cannot be gone on with: what it wrote is not known.
            if !done.is_multiple_of(BLOCK_BYTES) {
                return (Err(io::ErrorKind::WriteZero.into()), buf);
            }
        }
        (Ok(()), buf)
    }

    fn write_once(&self, buf: AlignedBuf, done: usize, offset: u64) -> op::Operation<AlignedBuf, FileDescriptor> {
        let length = operation_bytes(buf.len() - done);
        let at = offset + done as u64;
        // SAFETY: as in `read_once`; the kernel only reads.
        unsafe {
            op::submit(&self.descriptor, buf, |fd, buf| {
                let start = buf.as_ptr().wrapping_add(done);
                opcode::Write::new(fd, start, length).offset(at).build()
            })
        }
    }

    async fn sync_data(&self) -> io::Result<()> {
        // SAFETY: the entry holds no address.
        let operation = unsafe {
            op::submit(&self.descriptor, (), |fd, ()| opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build())
        };
        // An fdatasync that failed has marked pages clean: asking again would be told a lie.
        operation.await.0.map(|_| ())
    }
}

impl File for UringFile {
    async fn read_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "a direct read starts on a block");
        self.fill(buf, offset).await
    }

    async fn write_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "a direct write starts on a block");
        let (result, buf) = self.drain(buf, offset).await;
        if result.is_err() || !self.sync_after_write {
            return (result, buf);
        }
        (self.sync_data().await, buf)
    }

    async fn sync(&self) -> io::Result<()> {
        self.sync_data().await
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// One operation takes at most a gibibyte, so that its length fits the ring's 32 bits; the rest follows in another.
fn operation_bytes(bytes: usize) -> u32 {
    bytes.min(1 << 30) as u32
}

fn end_of_file(offset: u64, done: usize) -> io::Error {
    let end = offset + done as u64;
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends at or before byte {end}"))
}
