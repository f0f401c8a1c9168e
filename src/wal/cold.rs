//! Looks at files that are written no more, all of them, on the bulk path: whether every byte is what was written.
//!
//! It must never keep a file open between two reads, for it may be given up meanwhile; nor change one.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use super::catalog::PieceName;
use super::entry::LogIdentity;
use super::format::{BLOCK, FirstBlock};
use super::keeper::rows_file_name;
use super::salvage::{Salvaged, salvage_segment, salvage_store};
use super::segment::file_name;
use super::store::store_file_name;
use crate::io::{AlignedBuf, BLOCK_BYTES, Disk, File, OpenMode};
use crate::types::Index;

/// One read: little enough to delay no other for long.
const READ_BYTES: usize = 128 * 1024;

/// A file that is open only while it is read, slowly.
pub struct ColdFile<D> {
    disk: D,
    path: PathBuf,
    bytes: u64,
    read: std::rc::Rc<Cell<u64>>,
}

impl<D: Disk> Clone for ColdFile<D> {
    fn clone(&self) -> ColdFile<D> {
        let ColdFile { disk, path, bytes, read } = self;
        ColdFile { disk: disk.clone(), path: path.clone(), bytes: *bytes, read: read.clone() }
    }
}

impl<D: Disk> ColdFile<D> {
    /// # Errors
    /// There is no such file, or it cannot be opened.
    pub async fn find(disk: &D, path: &Path) -> io::Result<ColdFile<D>> {
        let bytes = disk.open(path, OpenMode::Read).await?.bytes();
        Ok(ColdFile { disk: disk.clone(), path: path.to_owned(), bytes, read: std::rc::Rc::default() })
    }

    /// How many bytes were read of it.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read.get()
    }
}

impl<D: Disk> File for ColdFile<D> {
    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        let mut at = offset;
        for part in buf.chunks_mut(READ_BYTES) {
            match self.disk.read_cold(&self.path, at, part.len()).await {
                Ok(read) => part.copy_from_slice(&read),
                Err(error) => return (Err(error), buf),
            }
            at += part.len() as u64;
            self.read.set(self.read.get() + part.len() as u64);
        }
        (Ok(()), buf)
    }

    async fn write_at(&self, buf: AlignedBuf, _offset: u64) -> (io::Result<()>, AlignedBuf) {
        (Err(io::ErrorKind::PermissionDenied.into()), buf)
    }

    async fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Where the files of a shard that are written no more are.
#[derive(Debug, Clone)]
pub struct ColdPlace {
    pub segments: PathBuf,
    pub stores: PathBuf,
    pub identity: LogIdentity,
}

/// What reading all of a file has shown. One that was given up meanwhile shows whatever it did: who asked must look whether it is
/// still there.
#[derive(Debug, PartialEq, Eq)]
pub struct Examined {
    pub read_bytes: u64,
    /// What is damaged, and where.
    pub fault: Option<String>,
}

impl ColdPlace {
    /// Reads all of a file that has rows. `last`: of its entries that count.
    pub async fn examine<D: Disk>(&self, disk: &D, name: PieceName, last: Index) -> Examined {
        match name {
            PieceName::Log(number) => {
                let path = self.segments.join(file_name(number));
                let file = match ColdFile::find(disk, &path).await {
                    Ok(file) => file,
                    Err(error) => return unreadable(&path, 0, &error),
                };
                let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
                let header = match (result, FirstBlock::read(&block, &self.identity)) {
                    (Ok(()), FirstBlock::Header(header)) => header,
                    _ => return damaged(&path, 0, "its header is damaged", file.read_bytes()),
                };
                let Salvaged { subject, rows, fault } =
                    salvage_segment(file.clone(), header, self.identity, last).await;
                if let Some(fault) = fault {
                    let what = format!("there is no whole entry {}", fault.index);
                    return damaged(&path, fault.offset, &what, file.read_bytes());
                }
                let rows_path = self.segments.join(rows_file_name(number));
                let expected = rows.finish(&subject, &self.identity);
                match ColdFile::find(disk, &rows_path).await {
                    Ok(rows) => compare(&rows_path, &rows, 0, &expected, file.read_bytes()).await,
                    Err(error) => unreadable(&rows_path, file.read_bytes(), &error),
                }
            }
            PieceName::Store(number) => {
                let path = self.stores.join(store_file_name(number));
                let file = match ColdFile::find(disk, &path).await {
                    Ok(file) => file,
                    Err(error) => return unreadable(&path, 0, &error),
                };
                match salvage_store(&file, number, &self.identity).await {
                    None => damaged(&path, 0, "its header is damaged, or no record is whole", file.read_bytes()),
                    Some((_, Salvaged { fault: Some(fault), .. })) => {
                        damaged(&path, fault.offset, "there is no whole record", file.read_bytes())
                    }
                    Some((header, Salvaged { subject, rows, fault: None })) => {
                        let expected = rows.finish(&subject, &self.identity);
                        compare(&path, &file, header.rows_at, &expected, file.read_bytes()).await
                    }
                }
            }
        }
    }
}

/// Whether a file holds this from an offset to its end.
async fn compare<D: Disk>(path: &Path, file: &ColdFile<D>, offset: u64, expected: &[u8], read_before: u64) -> Examined {
    let before = file.read_bytes();
    let mut at = offset;
    let is_long_enough = file.bytes() == offset + expected.len() as u64;
    for part in expected.chunks(READ_BYTES).take_while(|_| is_long_enough) {
        match file.read_at(AlignedBuf::zeroed(part.len()), at).await {
            (Ok(()), read) if read.get(..part.len()) == Some(part) => at += part.len() as u64,
            _ => break,
        }
    }
    let read_bytes = read_before + file.read_bytes() - before;
    if at == offset + expected.len() as u64 {
        return Examined { read_bytes, fault: None };
    }
    damaged(path, at / BLOCK * BLOCK, "its rows are not those of its records", read_bytes)
}

fn damaged(path: &Path, offset: u64, what: &str, read_bytes: u64) -> Examined {
    Examined { read_bytes, fault: Some(format!("{}, offset {offset}: {what}", path.display())) }
}

fn unreadable(path: &Path, read_bytes: u64, error: &io::Error) -> Examined {
    damaged(path, 0, &error.to_string(), read_bytes)
}
