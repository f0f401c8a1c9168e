//! Reading files that nobody waits for: directly, a piece at a time, each with the file opened anew, at a rate of their own.
//!
//! It must never keep a file open between two pieces: one that is given up meanwhile is to take no room.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use glommio::io::DmaFile;

use super::rate::Rate;
use super::{device, into_io, whole};
use crate::io::AlignedBuf;

/// Where in a file, and how much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub offset: u64,
    pub bytes: usize,
}

pub(super) async fn read_cold(path: &Path, piece: Piece, rate: Arc<Rate>) -> io::Result<AlignedBuf> {
    let read = if device::is_understood(whole::directory(path)) {
        read_through_ring(path, piece).await
    } else {
        let path = path.to_owned();
        glommio::executor().spawn_blocking(move || read_blocking(&path, piece)).await
    };
    if let Some(ahead) = rate.take(piece.bytes as u64) {
        glommio::timer::sleep(ahead).await;
    }
    read
}

async fn read_through_ring(path: &Path, piece: Piece) -> io::Result<AlignedBuf> {
    let file = DmaFile::open(path).await.map_err(into_io)?;
    let read = file.read_at_aligned(piece.offset, piece.bytes).await.map_err(into_io);
    let closed = file.close().await.map_err(into_io);
    let read = read?;
    closed?;
    let mut buf = AlignedBuf::zeroed(piece.bytes);
    if read.len() < buf.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let bytes = buf.len();
    buf.copy_from_slice(&read[..bytes]);
    Ok(buf)
}

/// The road where glommio cannot open files.
fn read_blocking(path: &Path, piece: Piece) -> io::Result<AlignedBuf> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut buf = AlignedBuf::zeroed(piece.bytes);
    file.read_exact_at(&mut buf, piece.offset)?;
    Ok(buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::BLOCK_BYTES;
    use crate::io::bulk::whole::tests::on_disk;

    #[test]
    fn the_blocking_road_reads_a_piece_and_refuses_one_behind_the_end() {
        let directory = on_disk();
        let path = directory.path().join("cold");
        let content: Vec<u8> = (0..3 * BLOCK_BYTES).map(|at| (at / BLOCK_BYTES) as u8).collect();
        fs::write(&path, &content).unwrap();
        let piece =
            |block: usize, blocks: usize| Piece { offset: (block * BLOCK_BYTES) as u64, bytes: blocks * BLOCK_BYTES };
        assert_eq!(read_blocking(&path, piece(1, 2)).unwrap()[..], content[BLOCK_BYTES..]);
        assert_eq!(
            read_blocking(&path, piece(2, 2)).err().map(|error| error.kind()),
            Some(io::ErrorKind::UnexpectedEof)
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(read_blocking(&path, piece(0, 1)).err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }
}
