//! Opening a snapshot: every chunk is verified with direct reads, then the file is mapped and used in place.
//!
//! No byte of the map may be looked at before.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::archive::{self, NoArchive};
use super::frame::{CHUNK_BYTES, Frame, HASH_BYTES, Header, Invalid, hash};
use crate::io::{AlignedBuf, BLOCK_BYTES, Disk, File, OpenMode};
use crate::job::{ArchivedImage, Machine, RecountError, RestoreError, recount};
use crate::types::SnapshotName;
use crate::wal::entry::LogIdentity;

/// Chunks that one read asks for.
const CHUNKS_PER_READ: usize = 16;

/// Why a snapshot cannot be used. Another one may be.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the snapshot {path} cannot be used: {why}", path = path.display())]
    Invalid { path: PathBuf, why: Invalid },
    #[error("the snapshot {path} cannot be used: {why}", path = path.display())]
    NoArchive { path: PathBuf, why: NoArchive },
    #[error("the snapshot {path} cannot be used: {why}", path = path.display())]
    NotRestored { path: PathBuf, why: RestoreError },
    #[error("the snapshot {path} is of entry {found}, which its name does not say", path = path.display())]
    Misnamed { path: PathBuf, found: crate::types::Index },
}

/// A verified snapshot, mapped.
pub struct Snapshot<Map> {
    pub path: PathBuf,
    pub header: Header,
    map: Map,
}

impl<Map: AsRef<[u8]>> Snapshot<Map> {
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.header.frame
    }

    fn body(&self) -> &[u8] {
        let start = self.header.body_offset() as usize;
        &self.map.as_ref()[start..start + self.header.body_bytes as usize]
    }

    fn image(&self) -> Result<&ArchivedImage, OpenError> {
        let path = || self.path.clone();
        archive::image(self.frame().kind, self.body()).map_err(|why| OpenError::NoArchive { path: path(), why })
    }

    /// The machine at the frame's position.
    ///
    /// # Errors
    /// The file is whole, and yet not what a machine has written.
    pub fn restore(&self) -> Result<Machine, OpenError> {
        Machine::restore(self.image()?, self.frame().digest)
            .map_err(|why| OpenError::NotRestored { path: self.path.clone(), why })
    }

    /// Counts every live job afresh, see [`recount`]; how many there are. To be run behind, on any thread.
    ///
    /// # Errors
    /// They are not those that the fingerprints in it are of.
    pub fn recount(&self) -> Result<u64, RecountError> {
        // It was an archive when the machine was restored from it, and has not changed.
        self.image().map_or(Ok(0), recount)
    }

    /// The bodies in a full snapshot.
    ///
    /// # Errors
    /// It is none.
    pub fn bodies(&self) -> Result<impl Iterator<Item = (crate::types::JobId, &[u8])>, OpenError> {
        archive::bodies(self.body()).map_err(|why| OpenError::NoArchive { path: self.path.clone(), why })
    }
}

/// Verifies a file with direct reads; its header.
///
/// # Errors
/// It is not a whole snapshot of this log.
pub async fn verify<D: Disk>(disk: &D, path: &Path, identity: &LogIdentity) -> Result<Header, Invalid> {
    verify_file(&disk.open(path, OpenMode::Read).await?, identity).await
}

/// Verifies a file that is open.
///
/// # Errors
/// It is not a whole snapshot of this log.
pub async fn verify_file<F: File>(file: &F, identity: &LogIdentity) -> Result<Header, Invalid> {
    let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
    result?;
    let header = Header::decode(&block, identity)?;
    let (expected, found) = (header.file_bytes(), file.bytes());
    // Before memory is taken for the table.
    if found != expected {
        return Err(Invalid::Length { expected, found });
    }
    let table = read(file, BLOCK_BYTES as u64, header.table_bytes()).await?;
    let table = &table[..header.table_bytes() as usize];
    if hash(table) != header.table_hash {
        return Err(Invalid::Table);
    }
    let mut hashes = table.chunks_exact(HASH_BYTES).enumerate();
    let end = header.file_bytes();
    let mut offset = header.body_offset();
    while offset < end {
        let bytes = (end - offset).min((CHUNKS_PER_READ * CHUNK_BYTES) as u64);
        let chunks = read(file, offset, bytes).await?;
        for chunk in chunks.chunks(CHUNK_BYTES) {
            let (number, expected) = hashes.next().ok_or(Invalid::Table)?;
            if hash(chunk).to_le_bytes() != expected {
                return Err(Invalid::Chunk { chunk: number, offset });
            }
            offset += chunk.len() as u64;
        }
    }
    Ok(header)
}

/// How many bytes from its beginning on a file holds of a snapshot that is still being pulled: nothing without its header and table,
/// then whole chunks up to the first that is not as the table says.
///
/// # Errors
/// If the disk fails otherwise than for one sector.
pub async fn whole_prefix<F: File>(file: &F, name: &SnapshotName, identity: &LogIdentity) -> Result<u64, Invalid> {
    let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
    let header = result.ok().and_then(|()| Header::decode(&block, identity).ok());
    let Some(header) = header.filter(|header| header.name() == *name) else { return Ok(0) };
    let Ok(table) = read(file, BLOCK_BYTES as u64, header.table_bytes()).await else { return Ok(0) };
    let table = &table[..header.table_bytes() as usize];
    if hash(table) != header.table_hash {
        return Ok(0);
    }
    let mut done = header.body_offset();
    for expected in table.chunks_exact(HASH_BYTES).take(header.chunks() as usize) {
        let bytes = (header.file_bytes() - done).min(CHUNK_BYTES as u64);
        let Ok(chunk) = read(file, done, bytes).await else { break };
        if hash(&chunk[..bytes as usize]).to_le_bytes() != expected {
            break;
        }
        done += bytes;
    }
    Ok(done)
}

async fn read<F: File>(file: &F, offset: u64, bytes: u64) -> Result<AlignedBuf, Invalid> {
    if bytes == 0 {
        return Ok(AlignedBuf::zeroed(0));
    }
    let bytes = usize::try_from(bytes).map_err(|_| Invalid::Header)?;
    let (result, buf) = file.read_at(AlignedBuf::zeroed(bytes), offset).await;
    result?;
    Ok(buf)
}

/// Verifies a file and maps it.
///
/// # Errors
/// It is not a whole snapshot of this log.
pub async fn open<D: Disk>(disk: &D, path: &Path, identity: &LogIdentity) -> Result<Snapshot<D::Map>, OpenError> {
    let invalid = |why| OpenError::Invalid { path: path.to_path_buf(), why };
    let header = verify(disk, path, identity).await.map_err(invalid)?;
    let map = disk.map(path).await.map_err(|error| invalid(error.into()))?;
    let (expected, found) = (header.file_bytes(), map.as_ref().len() as u64);
    if found != expected {
        return Err(invalid(Invalid::Length { expected, found }));
    }
    Ok(Snapshot { path: path.to_path_buf(), header, map })
}
