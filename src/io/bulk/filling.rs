//! Making a file of what somebody gives piece by piece: directly, at a bounded rate, padded to whole blocks, durable at
//! the end, or not there at all.
//!
//! It must never make a piece on the executor's own thread: that may take long, and spare segments are made there.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use glommio::io::{DmaFile, OpenOptions};

use super::rate::Rate;
use super::whole::{self, CHUNK_BYTES, Failure};
use super::{device, into_io};
use crate::io::uring::FILE_MODE;
use crate::io::{AlignedBuf, BLOCK_BYTES, Pieces};

pub(super) async fn make_filled(path: &Path, pieces: Pieces, rate: Arc<Rate>) -> io::Result<u64> {
    let written = if device::is_understood(whole::directory(path)) {
        write_through_ring(path, pieces, &rate).await
    } else {
        let path = path.to_owned();
        glommio::executor().spawn_blocking(move || write_blocking(&path, pieces, &rate)).await
    };
    whole::or_not_at_all(path, written).await
}

/// Where one piece is cut into the writes of a file, and what is left over waits for the next.
struct Chunks {
    chunk: AlignedBuf,
    filled: usize,
}

impl Chunks {
    fn new() -> Chunks {
        Chunks { chunk: AlignedBuf::zeroed(CHUNK_BYTES), filled: 0 }
    }

    /// Takes from the front of `piece` what still fits; whether the chunk is full now.
    fn take(&mut self, piece: &mut &[u8]) -> bool {
        let (now, later) = piece.split_at(piece.len().min(CHUNK_BYTES - self.filled));
        self.chunk[self.filled..self.filled + now.len()].copy_from_slice(now);
        self.filled += now.len();
        *piece = later;
        self.filled == CHUNK_BYTES
    }

    /// What to write now, in whole blocks; nothing, if nothing was taken. It is used up by this.
    fn cut(&mut self) -> &[u8] {
        let bytes = self.filled.next_multiple_of(BLOCK_BYTES);
        self.chunk[self.filled..bytes].fill(0);
        self.filled = 0;
        &self.chunk[..bytes]
    }
}

async fn write_through_ring(path: &Path, pieces: Pieces, rate: &Rate) -> Result<u64, Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let file = options.dma_open(path).await.map_err(|error| Failure::NotCreated(into_io(error)))?;
    let written = write_pieces(&file, pieces, rate).await;
    let closed = file.close().await.map_err(into_io);
    written.and_then(|bytes| closed.map(|()| bytes)).map_err(Failure::NotWritten)
}

async fn write_pieces(file: &DmaFile, mut pieces: Pieces, rate: &Rate) -> io::Result<u64> {
    let mut chunks = Chunks::new();
    let mut done = 0;
    loop {
        let (asked, piece) = glommio::executor()
            .spawn_blocking(move || {
                let piece = pieces();
                (pieces, piece)
            })
            .await;
        pieces = asked;
        let Some(piece) = piece? else { break };
        let mut rest = &piece[..];
        while chunks.take(&mut rest) {
            done += write_chunk(file, chunks.cut(), done, rate).await?;
        }
    }
    done += write_chunk(file, chunks.cut(), done, rate).await?;
    file.fdatasync().await.map_err(into_io)?;
    Ok(done)
}

async fn write_chunk(file: &DmaFile, chunk: &[u8], offset: u64, rate: &Rate) -> io::Result<u64> {
    if chunk.is_empty() {
        return Ok(0);
    }
    let mut buffer = file.alloc_dma_buffer(chunk.len());
    buffer.as_bytes_mut().copy_from_slice(chunk);
    if file.write_at(buffer, offset).await.map_err(into_io)? != chunk.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let bytes = chunk.len() as u64;
    if let Some(ahead) = rate.take(bytes) {
        glommio::timer::sleep(ahead).await;
    }
    Ok(bytes)
}

/// The road where glommio cannot open files: the same writes, from a thread that waits for each.
fn write_blocking(path: &Path, pieces: Pieces, rate: &Rate) -> Result<u64, Failure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE).custom_flags(libc::O_DIRECT);
    let file = options.open(path).map_err(Failure::NotCreated)?;
    write_pieces_blocking(&file, pieces, rate).map_err(Failure::NotWritten)
}

fn write_pieces_blocking(file: &fs::File, mut pieces: Pieces, rate: &Rate) -> io::Result<u64> {
    let mut chunks = Chunks::new();
    let mut done = 0;
    let mut write = |chunk: &[u8]| {
        file.write_all_at(chunk, done)?;
        done += chunk.len() as u64;
        if let Some(ahead) = rate.take(chunk.len() as u64) {
            std::thread::sleep(ahead);
        }
        io::Result::Ok(())
    };
    while let Some(piece) = pieces()? {
        let mut rest = &piece[..];
        while chunks.take(&mut rest) {
            write(chunks.cut())?;
        }
    }
    write(chunks.cut())?;
    file.sync_data()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bulk::whole::tests::on_disk;

    #[test]
    fn the_blocking_road_writes_pieces_of_any_length_one_behind_the_other() {
        let directory = on_disk();
        let path = directory.path().join("filled");
        let lengths = [0, 1, 2 * CHUNK_BYTES, CHUNK_BYTES - 1, 5000];
        let pieces: Vec<Vec<u8>> = lengths.iter().zip(1..).map(|(&bytes, value)| vec![value; bytes]).collect();
        let mut content = pieces.concat();
        content.resize(content.len().next_multiple_of(BLOCK_BYTES), 0);
        let give = || -> Pieces {
            let mut pieces = pieces.clone().into_iter();
            Box::new(move || Ok(pieces.next()))
        };
        let rate = Rate::new(u64::MAX);
        assert_eq!(write_blocking(&path, give(), &rate).unwrap(), content.len() as u64);
        assert_eq!(fs::read(&path).unwrap(), content);
        assert!(matches!(write_blocking(&path, give(), &rate), Err(Failure::NotCreated(_))));
    }

    #[test]
    fn a_file_of_no_pieces_is_empty() {
        let directory = on_disk();
        let path = directory.path().join("empty");
        assert_eq!(write_blocking(&path, Box::new(|| Ok(None)), &Rate::new(1)).unwrap(), 0);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }
}
