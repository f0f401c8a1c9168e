//! One process per data directory: an exclusive lock on its file `LOCK`, held until the process ends however it ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::uring::FILE_MODE;

#[derive(Debug, Error)]
pub enum LockError {
    #[error("{directory} is in use by process {holder}; a data directory belongs to one process")]
    Held { directory: PathBuf, holder: String },
    #[error("cannot lock {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// Holds the lock as long as it lives.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// # Errors
    ///
    /// Another process holds the lock, or the file cannot be made.
    pub fn acquire(directory: &Path) -> Result<DirectoryLock, LockError> {
        let path = directory.join("LOCK");
        let failed = |error| LockError::Io { path: path.clone(), error };
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { directory: directory.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The number is for people who read the error of a second process; the lock is what counts. A full disk may take none.
        let _unknown = write_holder(&mut file);
        Ok(DirectoryLock { _file: file })
    }
}

/// Who holds the lock of a directory, if anyone does. Nothing is written, and nothing is kept locked.
///
/// # Errors
///
/// The lock cannot be looked at.
pub fn holder_of(directory: &Path) -> Result<Option<String>, LockError> {
    let path = directory.join("LOCK");
    let failed = |error| LockError::Io { path: path.clone(), error };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        // No process has ever run here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(holder(&mut file))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(20).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        // It has the lock but has not come to write its number yet, or the file is not ours.
        _ => "(unknown)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_is_first_and_may_have_it_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::acquire(directory.path()).unwrap();
        // A lock belongs to the open file, so another open in the same process stands for another process.
        let refused = DirectoryLock::acquire(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        DirectoryLock::acquire(directory.path()).unwrap();
    }

    #[test]
    fn who_only_asks_for_the_holder_keeps_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder_of(directory.path()).unwrap(), None);
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        assert_eq!(holder_of(directory.path()).unwrap(), Some(std::process::id().to_string()));
        drop(lock);
        assert_eq!(holder_of(directory.path()).unwrap(), None);
        DirectoryLock::acquire(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = DirectoryLock::acquire(Path::new("/no/such/directory")).unwrap_err().to_string();
        assert!(error.contains("/no/such/directory/LOCK"), "{error}");
    }
}
