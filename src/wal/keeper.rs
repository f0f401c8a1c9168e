//! Keeps a shard's files that are written no more: gives them rows, and (below the floor) decides how long they stay. Long work
//! over `io`'s traits, beside the log's writer and reader; nothing of it may be waited for by a client.
//!
//! It must never remove a file before whatever takes its place is durable.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use thiserror::Error;

use super::entry::LogIdentity;
use super::footer::{Footer, FooterDraft, FooterError, Subject};
use super::index::SegmentNumber;
use super::segment::parse_file_name;
use crate::io::Disk;

/// Something that could not be done. What was there before is there still.
#[derive(Debug, Error)]
pub enum KeepError {
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the rows in {path} cannot be used: {error}", path = path.display())]
    Rows { path: PathBuf, error: FooterError },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_owned();
    move |source| KeepError::Io { what, path, source }
}

/// The file with the rows of a segment.
#[must_use]
pub fn rows_file_name(number: SegmentNumber) -> String {
    format!("{:010}.rows", number.0)
}

/// A mapped file lends its bytes.
struct Mapped<M>(M);

impl<M: AsRef<[u8]>> AsRef<[u8]> for Mapped<M> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

pub struct Keeper<D: Disk> {
    disk: D,
    /// The directory of the segments.
    segments: PathBuf,
    identity: LogIdentity,
}

impl<D: Disk> Keeper<D> {
    /// Takes over what earlier lives left, and removes what they did not complete.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn open(disk: D, segments: PathBuf, identity: LogIdentity) -> Result<Keeper<D>, KeepError> {
        let keeper = Keeper { disk, segments, identity };
        keeper.remove_left_over().await?;
        Ok(keeper)
    }

    /// Rows that were not completed, and those of segments that are gone.
    async fn remove_left_over(&self) -> Result<(), KeepError> {
        let files = self.disk.list(&self.segments).await.map_err(failed("list", &self.segments))?;
        let is_left_over = |name: &str| {
            let segment = name.strip_suffix(".rows").map(|stem| format!("{stem}.seg"));
            let is_orphan = segment.is_some_and(|segment| {
                parse_file_name(&segment).is_some() && !files.iter().any(|file| file.name == segment)
            });
            is_orphan || name.ends_with(".rows.tmp")
        };
        for file in files.iter().filter(|file| is_left_over(&file.name)) {
            let path = self.segments.join(&file.name);
            self.disk.unlink(&path).await.map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    /// Makes the file with a segment's rows, durable under its name only when it is complete; or finds that an earlier life has.
    ///
    /// # Errors
    /// If the disk is full or fails. To be tried again: nothing depends on the file.
    pub async fn write_rows(&self, subject: &Subject, draft: &FooterDraft) -> Result<Rc<Footer>, KeepError> {
        let path = self.segments.join(rows_file_name(subject.number));
        if let Ok(known) = self.map_rows(&path).await
            && known.subject() == *subject
            && known.is_proven()
        {
            return Ok(known);
        }
        let temporary = path.with_extension("rows.tmp");
        match self.disk.unlink(&temporary).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &temporary)(error)),
            _ => {}
        }
        let mut content = Some(draft.finish(subject, &self.identity));
        let pieces = Box::new(move || Ok(content.take()));
        self.disk.make_filled(temporary.clone(), pieces).await.map_err(failed("write", &temporary))?;
        self.disk.rename(&temporary, &path).await.map_err(failed("rename", &temporary))?;
        self.disk.sync_dir(&self.segments).await.map_err(failed("sync", &self.segments))?;
        self.map_rows(&path).await
    }

    async fn map_rows(&self, path: &Path) -> Result<Rc<Footer>, KeepError> {
        let map = self.disk.map(path).await.map_err(failed("map", path))?;
        let footer = Footer::open(Bytes::from_owner(Mapped(map)), &self.identity);
        footer.map(Rc::new).map_err(|error| KeepError::Rows { path: path.to_owned(), error })
    }
}
