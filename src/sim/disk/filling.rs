//! Files that are made of pieces on the bulk path: a crash finds them at any length, and each sector as the odds will.

use std::io;
use std::path::Path;

use super::{BLOCK_BYTES, Disk, File, FileId, Operation, SimDisk, SimFile};
use crate::io::Pieces;

/// What the bulk path writes at once.
const CHUNK_BYTES: usize = 128 * 1024;

impl SimDisk {
    pub(super) async fn fill(&self, path: &Path, pieces: Pieces) -> io::Result<u64> {
        let file = self.act(|world| world.create(path))?;
        match self.write_pieces(file, pieces).await {
            Ok(bytes) => {
                self.sync_dir(path.parent().unwrap_or(Path::new("/"))).await?;
                Ok(bytes)
            }
            Err(error) => {
                // The first error is the one to report.
                let _ = self.unlink(path).await;
                Err(error)
            }
        }
    }

    async fn write_pieces(&self, file: FileId, mut pieces: Pieces) -> io::Result<u64> {
        let open = SimFile::new(self.clone(), file, true);
        let mut waiting = Vec::new();
        let mut offset = 0;
        while let Some(piece) = pieces()? {
            waiting.extend_from_slice(&piece);
            while waiting.len() >= CHUNK_BYTES {
                let rest = waiting.split_off(CHUNK_BYTES);
                offset += self.write_chunk(&open, &waiting, offset).await?;
                waiting = rest;
            }
        }
        waiting.resize(waiting.len().next_multiple_of(BLOCK_BYTES), 0);
        offset += self.write_chunk(&open, &waiting, offset).await?;
        open.sync().await?;
        Ok(offset)
    }

    async fn write_chunk(&self, file: &SimFile, chunk: &[u8], offset: u64) -> io::Result<u64> {
        let bytes = chunk.len() as u64;
        if bytes > 0 {
            self.act(|world| file.begin_write(world, chunk, offset))?;
            self.delay(Operation::Bulk { bytes }).await;
        }
        Ok(bytes)
    }
}
