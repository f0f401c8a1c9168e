//! Writing a snapshot so that it is there as a whole, durable and read back, or is not counted at all.
//!
//! The steps, each of which a crash may follow: a temporary file, written beside the core threads and synced; read back
//! with direct reads and verified; renamed; the directory synced. What is called by its final name is whole.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::archive::{Contents, pieces};
use super::frame::{Frame, Invalid};
use super::reading::verify;
use super::shelf;
use crate::io::Disk;
use crate::types::{LogPosition, SnapshotName};

/// A snapshot that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub position: LogPosition,
    pub path: PathBuf,
    pub bytes: u64,
    pub name: SnapshotName,
}

#[derive(Debug, Error)]
pub enum WriteError {
    #[error("cannot write the snapshot {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the snapshot {path} was written, and is not what was written when it is read back: {why}", path = path.display())]
    NotWhole { path: PathBuf, why: Invalid },
}

impl WriteError {
    /// Only room is missing: there will be a next time.
    #[must_use]
    pub fn is_lack_of_room(&self) -> bool {
        matches!(self, WriteError::Io { source, .. }
            if crate::io::is_full(source))
    }
}

/// Writes a snapshot into `dir`, which exists. One that was there under the same name is replaced by the same bytes.
///
/// # Errors
/// The disk is full or faulty; what was there before is as it was.
pub async fn write<D: Disk>(disk: &D, dir: &Path, frame: Frame, contents: Contents) -> Result<Written, WriteError> {
    let (position, identity) = (frame.position, frame.identity);
    let path = dir.join(shelf::file_name(position.index));
    let temporary = dir.join(shelf::temporary_name(position.index));
    let failed = |source| WriteError::Io { path: path.clone(), source };
    disk.unlink_if_there(&temporary).await.map_err(failed)?;
    let bytes = disk.make_filled(temporary.clone(), pieces(frame, contents)).await.map_err(failed)?;
    let name = match verify(disk, &temporary, &identity).await {
        Ok(header) => header.name(),
        Err(why) => return Err(WriteError::NotWhole { path, why }),
    };
    disk.rename(&temporary, &path).await.map_err(failed)?;
    disk.sync_dir(dir).await.map_err(failed)?;
    Ok(Written { position, path, bytes, name })
}
