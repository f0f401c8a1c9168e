//! Making a file of zeros that are really written: directly, at a bounded rate, durable at the end, or not there at all.
//!
//! It must never leave a file behind that is not what its name says.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::io::{DmaFile, OpenOptions};

use super::{BulkOptions, device, into_io};
use crate::io::AlignedBuf;
use crate::io::uring::{FILE_MODE, allocate, sync_directory};

/// One write: large enough for the device, small enough to delay a log write behind it little.
const CHUNK_BYTES: usize = 128 * 1024;

pub(super) async fn make_zeroed(path: &Path, bytes: u64, options: BulkOptions) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    let pace = Pace { bytes_per_second: options.bytes_per_second, started: Instant::now() };
    let written = if device::is_understood(&directory) {
        write_through_ring(path, bytes, pace).await
    } else {
        let path = path.to_owned();
        glommio::executor().spawn_blocking(move || write_blocking(&path, bytes, pace)).await
    };
    match written {
        Ok(()) => glommio::executor().spawn_blocking(move || sync_directory(&directory)).await,
        Err(Failure::NotCreated(error)) => Err(error),
        Err(Failure::NotWritten(error)) => {
            let path = path.to_owned();
            // The first error is the one to report.
            let _ = glommio::executor().spawn_blocking(move || fs::remove_file(path)).await;
            Err(error)
        }
    }
}

/// How far it came: a file that was there before is not ours to remove.
#[derive(Debug)]
enum Failure {
    NotCreated(io::Error),
    NotWritten(io::Error),
}

/// Keeps the bytes written so far at or below the rate.
#[derive(Clone, Copy)]
struct Pace {
    bytes_per_second: u64,
    started: Instant,
}

impl Pace {
    /// How long to wait before the next write, where that is worth a timer.
    fn ahead(self, bytes_done: u64) -> Option<Duration> {
        let due = Duration::from_secs_f64(bytes_done as f64 / self.bytes_per_second.max(1) as f64);
        let ahead = due.saturating_sub(self.started.elapsed());
        (ahead > Duration::from_millis(1)).then_some(ahead)
    }
}

async fn write_through_ring(path: &Path, bytes: u64, pace: Pace) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let file = options.dma_open(path).await.map_err(|error| Failure::NotCreated(into_io(error)))?;
    let written = write_chunks(&file, bytes, pace).await;
    let closed = file.close().await.map_err(into_io);
    written.and(closed).map_err(Failure::NotWritten)
}

async fn write_chunks(file: &DmaFile, bytes: u64, pace: Pace) -> io::Result<()> {
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
        if let Some(ahead) = pace.ahead(done) {
            glommio::timer::sleep(ahead).await;
        }
    }
    file.fdatasync().await.map_err(into_io)
}

/// The road where glommio cannot open files: the same writes, from a thread that waits for each.
fn write_blocking(path: &Path, bytes: u64, pace: Pace) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE).custom_flags(libc::O_DIRECT);
    let file = options.open(path).map_err(Failure::NotCreated)?;
    write_chunks_blocking(&file, bytes, pace).map_err(Failure::NotWritten)
}

fn write_chunks_blocking(file: &fs::File, bytes: u64, pace: Pace) -> io::Result<()> {
    allocate(file, bytes)?;
    let chunk = AlignedBuf::zeroed(CHUNK_BYTES);
    let mut done = 0;
    while done < bytes {
        let length = chunk_bytes(bytes - done);
        file.write_all_at(&chunk[..length], done)?;
        done += length as u64;
        if let Some(ahead) = pace.ahead(done) {
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

    fn on_disk() -> tempfile::TempDir {
        // Beside the test binary, not in /tmp, which may be a tmpfs.
        let binary = std::env::current_exe().unwrap();
        tempfile::tempdir_in(binary.parent().unwrap()).unwrap()
    }

    const UNBOUNDED: u64 = u64::MAX;

    #[test]
    fn the_blocking_road_writes_the_same_zeros() {
        let directory = on_disk();
        let path = directory.path().join("zeroed");
        let bytes = 3 * CHUNK_BYTES as u64 + 4096;
        let pace = Pace { bytes_per_second: UNBOUNDED, started: Instant::now() };
        write_blocking(&path, bytes, pace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![0; 3 * CHUNK_BYTES + 4096]);
        assert!(matches!(write_blocking(&path, bytes, pace), Err(Failure::NotCreated(_))));
    }

    #[test]
    fn the_pace_waits_for_what_was_written_too_early() {
        let pace = Pace { bytes_per_second: 1 << 20, started: Instant::now() };
        assert_eq!(pace.ahead(0), None);
        let ahead = pace.ahead(10 << 20).unwrap();
        assert!(ahead > Duration::from_secs(9) && ahead <= Duration::from_secs(10), "{ahead:?}");
        assert_eq!(Pace { bytes_per_second: UNBOUNDED, ..pace }.ahead(10 << 20), None);
    }
}
