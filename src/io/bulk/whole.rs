//! Files of the bulk path are there as a whole and durable, or not there at all.
//!
//! It must never leave a file behind that is not what its name says, nor remove one that was there before.

use std::fs;
use std::io;
use std::path::Path;

use crate::io::uring::sync_directory;

/// One write: large enough for the device, small enough to delay a log write behind it little.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// How far it came: a file that was there before is not ours to remove.
#[derive(Debug)]
pub(super) enum Failure {
    NotCreated(io::Error),
    NotWritten(io::Error),
}

pub(super) fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Makes the name of a file durable that is written, or removes what is left of one that is not.
pub(super) async fn or_not_at_all<T>(path: &Path, written: Result<T, Failure>) -> io::Result<T> {
    match written {
        Ok(made) => {
            let directory = directory(path).to_owned();
            glommio::executor().spawn_blocking(move || sync_directory(&directory)).await?;
            Ok(made)
        }
        Err(Failure::NotCreated(error)) => Err(error),
        Err(Failure::NotWritten(error)) => {
            let path = path.to_owned();
            // The first error is the one to report.
            let _ = glommio::executor().spawn_blocking(move || fs::remove_file(path)).await;
            Err(error)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    pub(in crate::io::bulk) fn on_disk() -> tempfile::TempDir {
        // Beside the test binary, not in /tmp, which may be a tmpfs.
        let binary = std::env::current_exe().unwrap();
        tempfile::tempdir_in(binary.parent().unwrap()).unwrap()
    }
}
