//! Making a file of zeros that are really written: directly, at a bounded rate, durable at the end, or not there at all.
//!
//! It must never leave a file behind that is not what its name says.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use glommio::io::{DmaFile, OpenOptions};

use super::rate::Rate;
use super::whole::{self, CHUNK_BYTES, Failure};
use super::{device, into_io};
use crate::io::AlignedBuf;
use crate::io::uring::{FILE_MODE, allocate};

pub(super) async fn make_zeroed(path: &Path, bytes: u64, rate: Arc<Rate>) -> io::Result<()> {
    let written = if device::is_understood(whole::directory(path)) {
        write_through_ring(path, bytes, &rate).await
    } else {
        let path = path.to_owned();
        glommio::executor().spawn_blocking(move || write_blocking(&path, bytes, &rate)).await
    };
    whole::or_not_at_all(path, written).await
}

async fn write_through_ring(path: &Path, bytes: u64, rate: &Rate) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let file = options.dma_open(path).await.map_err(|error| Failure::NotCreated(into_io(error)))?;
    let written = write_chunks(&file, bytes, rate).await;
    let closed = file.close().await.map_err(into_io);
    written.and(closed).map_err(Failure::NotWritten)
}

async fn write_chunks(file: &DmaFile, bytes: u64, rate: &Rate) -> io::Result<()> {
    // Reserving first makes a full disk show before the first write, and the file one extent where there is one.
    file.pre_allocate(bytes, false).await.map_err(into_io)?;
    let mut chunk = file.alloc_dma_buffer(CHUNK_BYTES);
    chunk.as_bytes_mut().fill(0);
    let chunk = Rc::new(chunk);
    let mut done = 0;
    while done < bytes {
        let length = chunk_bytes(bytes - done);
        let written = if length == CHUNK_BYTES {
            file.write_rc_at(Rc::clone(&chunk), done).await
        } else {
            let mut tail = file.alloc_dma_buffer(length);
            tail.as_bytes_mut().fill(0);
            file.write_at(tail, done).await
        };
        if written.map_err(into_io)? != length {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += length as u64;
        if let Some(ahead) = rate.take(length as u64) {
            glommio::timer::sleep(ahead).await;
        }
    }
    file.fdatasync().await.map_err(into_io)
}

/// The road where glommio cannot open files: the same writes, from a thread that waits for each.
fn write_blocking(path: &Path, bytes: u64, rate: &Rate) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE).custom_flags(libc::O_DIRECT);
    let file = options.open(path).map_err(Failure::NotCreated)?;
    write_chunks_blocking(&file, bytes, rate).map_err(Failure::NotWritten)
}

fn write_chunks_blocking(file: &fs::File, bytes: u64, rate: &Rate) -> io::Result<()> {
    allocate(file, bytes)?;
    let chunk = AlignedBuf::zeroed(CHUNK_BYTES);
    let mut done = 0;
    while done < bytes {
        let length = chunk_bytes(bytes - done);
        file.write_all_at(&chunk[..length], done)?;
        done += length as u64;
        if let Some(ahead) = rate.take(length as u64) {
            std::thread::sleep(ahead);
        }
    }
    file.sync_data()
}

fn chunk_bytes(rest: u64) -> usize {
    usize::try_from(rest).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bulk::whole::tests::on_disk;

    #[test]
    fn the_blocking_road_writes_the_same_zeros() {
        let directory = on_disk();
        let path = directory.path().join("zeroed");
        let bytes = 3 * CHUNK_BYTES as u64 + 4096;
        let rate = Rate::new(u64::MAX);
        write_blocking(&path, bytes, &rate).unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![0; 3 * CHUNK_BYTES + 4096]);
        assert!(matches!(write_blocking(&path, bytes, &rate), Err(Failure::NotCreated(_))));
    }
}
