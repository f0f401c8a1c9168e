//! The pages of a file that never changes, mapped for reading.
//!
//! It must never be made of a file that anybody may write to, cut or extend.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// Clones share the mapping; it ends with the last one, also where the file was unlinked long before.
#[derive(Debug, Clone)]
pub struct FileMap(Arc<Mmap>);

impl FileMap {
    pub(super) fn of(path: &Path) -> io::Result<FileMap> {
        let file = fs::File::open(path)?;
        // SAFETY: the files that are mapped are written under a temporary name, renamed when they are complete, and never
        // opened for writing again; the lock on the data directory keeps other processes of ours out of it. So no byte
        // changes under the slice, and no page of it goes: unlinking keeps the pages of a mapped file.
        let map = unsafe { Mmap::map(&file)? };
        Ok(FileMap(Arc::new(map)))
    }
}

impl AsRef<[u8]> for FileMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
