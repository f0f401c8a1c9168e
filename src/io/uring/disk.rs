//! The files of a data directory. Bytes of open files go through the ring; everything that touches a directory is a
//! blocking call on the side threads of this core thread's runtime, because the journal may make it wait.
//!
//! It must never block the core thread on a directory, an allocation or an open.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::file::{Durability, UringFile};
use super::map::FileMap;
use crate::io::bulk::Bulk;
use crate::io::{AlignedBuf, BLOCK_BYTES, DirEntry, Disk, OpenMode, Pieces};

#[derive(Clone)]
pub struct UringDisk {
    bulk: Bulk,
    durability: Durability,
}

impl UringDisk {
    pub(super) fn new(bulk: Bulk, durability: Durability) -> UringDisk {
        UringDisk { bulk, durability }
    }

    pub(super) fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    fn open_flags(&self, mode: OpenMode) -> i32 {
        match (mode, self.durability) {
            (OpenMode::Read, _) | (_, Durability::WriteThenSync) => libc::O_DIRECT,
            (_, Durability::SyncedWrite) => libc::O_DIRECT | libc::O_DSYNC,
        }
    }
}

impl Disk for UringDisk {
    type File = UringFile;
    type Map = FileMap;

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<UringFile> {
        let writes = mode != OpenMode::Read;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(writes).create_new(mode == OpenMode::Create);
        options.mode(FILE_MODE).custom_flags(self.open_flags(mode));
        let (file, bytes) = beside(path, move |path| {
            let file = options.open(path)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        })
        .await?;
        Ok(UringFile::new(file, bytes, writes && self.durability == Durability::WriteThenSync))
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        beside(path, create_directory).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        beside(dir, list_files).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let to = to.to_owned();
        beside(from, move |from| fs::rename(from, to)).await
    }

    async fn unlink(&self, path: &Path) -> io::Result<()> {
        beside(path, |path| fs::remove_file(path)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        beside(dir, sync_directory).await
    }

    async fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        beside(path, crate::io::startup::free_bytes).await
    }

    async fn read_small(&self, path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        beside(path, move |path| read_at_most(path, bytes_max)).await
    }

    async fn replace_small(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let content = content.to_vec();
        beside(path, move |path| replace_file(path, &content)).await
    }

    async fn make_zeroed(&self, path: PathBuf, bytes: u64) -> io::Result<()> {
        assert!(bytes.is_multiple_of(BLOCK_BYTES as u64), "files are whole blocks long");
        self.bulk.make_zeroed(path, bytes).await
    }

    async fn make_filled(&self, path: PathBuf, pieces: Pieces) -> io::Result<u64> {
        self.bulk.make_filled(path, pieces).await
    }

    async fn read_cold(&self, path: &Path, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        self.bulk.read_cold(path.to_owned(), offset, bytes).await
    }

    async fn map(&self, path: &Path) -> io::Result<FileMap> {
        beside(path, FileMap::of).await
    }

    async fn make_allocated(&self, path: &Path, bytes: u64) -> io::Result<()> {
        assert!(bytes.is_multiple_of(BLOCK_BYTES as u64), "files are whole blocks long");
        beside(path, move |path| allocate_file(path, bytes)).await
    }
}

/// Data files hold what clients put into the queue: the owner and its group read them, nobody else.
pub(in crate::io) const FILE_MODE: u32 = 0o640;

/// Runs a blocking call on a side thread. Its affinity is that of the core thread, so it costs this core and no other.
async fn beside<T: Send + 'static>(
    path: &Path,
    call: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    match tokio::task::spawn_blocking(move || call(&path)).await {
        Ok(result) => result,
        Err(failure) => match failure.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(io::Error::other("the core thread is stopping")),
        },
    }
}

fn list_files(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // A name that is not UTF-8 is not one of ours.
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            files.push(DirEntry { name, bytes: metadata.len() });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Makes creations, renames and unlinks in a directory durable.
pub(in crate::io) fn sync_directory(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Creates a directory and syncs its parent; one that exists already is fine.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        // Synced here, too: whoever made it may not have come so far. But who may not even look into the parent has not made it:
        // it was there before this program.
        Err(_) if path.is_dir() => match sync_parent(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        },
        Err(error) => Err(error),
        Ok(()) => sync_parent(path),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

fn read_at_most(path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    file.take(bytes_max as u64 + 1).read_to_end(&mut content)?;
    if content.len() > bytes_max {
        let text = format!("{} is longer than {bytes_max} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(content))
}

/// A crash at any point leaves the old content or the new one, and perhaps a temporary file that the next call
/// overwrites.
fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

fn allocate_file(path: &Path, bytes: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    let done = allocate(&file, bytes).and_then(|()| file.sync_data()).and_then(|()| sync_parent(path));
    if done.is_err() {
        // A file that is not what its name says is worse than none; the first error is the one to report.
        let _ = fs::remove_file(path);
    }
    done
}

/// Reserves the blocks of a file and sets its length; they read as zero and are not written.
pub(in crate::io) fn allocate(file: &fs::File, bytes: u64) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    loop {
        // SAFETY: the descriptor is open for the length of the call, and no memory is passed.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
