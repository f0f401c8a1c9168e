//! What a shard's files hold, looked at from outside while no node runs on them. It must never change a byte, and never stop at
//! the first fault: whoever looks wants to see all of them.

use std::path::Path;

use bytes::Bytes;
use serde::Serialize;

use super::directory::{DirectoryError, NodeIdentity, manifest_path, segments_dir, stores_dir};
use super::entry::LogIdentity;
use super::footer::Footer;
use super::format::{BLOCK, FirstBlock, SegmentHeader};
use super::index::SegmentNumber;
use super::keeper::{Mapped, rows_file_name};
use super::manifest::Manifest;
use super::recovery::scan::{Scan, Seen};
use super::segment::{file_name, parse_file_name};
use super::store::{RecordAt, StoreReader, open_store, parse_store_file_name, store_file_name};
use crate::io::{AlignedBuf, Disk, File, OpenMode};
use crate::types::{JobId, ShardId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A segment of the log.
    Segment,
    /// Made ahead, and never used.
    Spare,
    Store,
}

/// One file.
#[derive(Debug, Clone, Serialize)]
pub struct FileFound {
    pub name: String,
    pub kind: FileKind,
    pub bytes: u64,
    /// The entry before its first, where it is a segment in use.
    pub base: Option<u64>,
    /// The last of its entries that counts, where rows or a full look tell.
    pub last: Option<u64>,
    pub below_floor: bool,
    /// From its rows: jobs that were put in it and are not moved away, and the bytes of their ENQs.
    pub jobs: Option<u64>,
    pub enqueue_bytes: Option<u64>,
}

/// A shard's files.
#[derive(Debug, Clone, Serialize)]
pub struct ShardFound {
    pub shard: u16,
    /// The log counts from the entry above this one.
    pub floor: u64,
    pub floor_term: u64,
    pub files: Vec<FileFound>,
    /// With path and place.
    pub faults: Vec<String>,
}

struct Inspection<'a, D: Disk> {
    disk: &'a D,
    data: &'a Path,
    shard: ShardId,
    identity: LogIdentity,
    /// Read everything.
    verify: bool,
    faults: Vec<String>,
}

/// Looks at all files of a shard; `verify`: reads all that they hold, too.
///
/// # Errors
/// If its directories or its manifest cannot be read.
pub async fn inspect<D: Disk>(
    disk: &D,
    data: &Path,
    node: &NodeIdentity,
    shard: ShardId,
    verify: bool,
) -> Result<ShardFound, DirectoryError> {
    let identity = node.log(shard);
    let manifest = Manifest::load(disk, &manifest_path(data, shard), &identity).await?;
    let mut look = Inspection { disk, data, shard, identity, verify, faults: Vec::new() };
    let mut files = Vec::new();
    let dir = segments_dir(data, shard);
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| DirectoryError::Io { path, source }
    };
    for file in disk.list(&dir).await.map_err(unreadable(&dir))? {
        if let Some(number) = parse_file_name(&file.name) {
            files.extend(look.segment(number, file.bytes, &manifest).await);
        }
    }
    for (number, _) in &manifest.segments {
        look.expect(&files, &file_name(*number), &dir);
    }
    let dir = stores_dir(data, shard);
    // Made when a node first starts.
    for file in disk.list(&dir).await.unwrap_or_default() {
        if let Some(number) = parse_store_file_name(&file.name).filter(|number| manifest.stores.contains(number)) {
            files.push(look.store(number, file.bytes).await);
        }
    }
    for number in &manifest.stores {
        look.expect(&files, &store_file_name(*number), &dir);
    }
    let floor = manifest.floor.position;
    Ok(ShardFound { shard: shard.0, floor: floor.index.0, floor_term: floor.term.0, files, faults: look.faults })
}

impl<D: Disk> Inspection<'_, D> {
    fn fault(&mut self, path: &Path, what: impl std::fmt::Display) {
        self.faults.push(format!("{}: {what}", path.display()));
    }

    fn expect(&mut self, files: &[FileFound], name: &str, dir: &Path) {
        if !files.iter().any(|file| file.name == name) {
            self.fault(&dir.join(name), "the manifest names it, and it is missing");
        }
    }

    async fn segment(&mut self, number: SegmentNumber, bytes: u64, manifest: &Manifest) -> Option<FileFound> {
        let path = segments_dir(self.data, self.shard).join(file_name(number));
        let kept = manifest.segments.iter().find(|(kept, _)| *kept == number);
        let mut found = FileFound {
            name: file_name(number),
            kind: FileKind::Segment,
            bytes,
            base: None,
            last: kept.map(|(_, last)| last.0),
            below_floor: kept.is_some(),
            jobs: None,
            enqueue_bytes: None,
        };
        match self.first_block(&path).await {
            Ok(FirstBlock::Header(header)) => {
                if kept.is_none() && header.epoch.ordinal() < manifest.floor.ordinal {
                    // Given up; the next start removes it.
                    return None;
                }
                found.base = Some(header.base.0);
                self.rows(&header, &mut found).await;
                if self.verify {
                    self.read_segment(&path, header, &mut found).await;
                }
            }
            Ok(FirstBlock::Zero) => found.kind = FileKind::Spare,
            Ok(other) => self.fault(&path, format!("its header cannot be used: {other:?}")),
            Err(error) => self.fault(&path, error),
        }
        Some(found)
    }

    async fn first_block(&self, path: &Path) -> std::io::Result<FirstBlock> {
        let file = self.disk.open(path, OpenMode::Read).await?;
        if file.bytes() < BLOCK {
            return Ok(FirstBlock::Zero);
        }
        let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK as usize), 0).await;
        result.map(|()| FirstBlock::read(&block, &self.identity))
    }

    async fn rows(&mut self, header: &SegmentHeader, found: &mut FileFound) {
        let path = segments_dir(self.data, self.shard).join(rows_file_name(header.number));
        // None yet, or to be made again.
        let Ok(map) = self.disk.map(&path).await else { return };
        match Footer::open(Bytes::from_owner(Mapped(map)), &self.identity) {
            Ok(rows) if (rows.subject().base, rows.subject().base_chain) == (header.base, header.base_chain) => {
                if self.verify
                    && let Err(error) = rows.verify()
                {
                    return self.fault(&path, error);
                }
                found.last = Some(rows.subject().last.0);
                (found.jobs, found.enqueue_bytes) = (Some(rows.jobs() as u64), Some(rows.enqueue_bytes()));
            }
            Ok(_) => self.fault(&path, "it is about another segment than the one beside it"),
            Err(error) => self.fault(&path, error),
        }
    }

    /// All entries up to the last that is known to count; where none is, up to the first place without one.
    async fn read_segment(&mut self, path: &Path, header: SegmentHeader, found: &mut FileFound) {
        let file = match self.disk.open(path, OpenMode::Read).await {
            Ok(file) => file,
            Err(error) => return self.fault(path, error),
        };
        let mut scan = Scan::new(file, header, self.identity);
        let (mut offset, mut at) = (BLOCK, header.base.0);
        while found.last.is_none_or(|last| at < last) {
            match scan.see(offset).await {
                Seen::Seal { .. } => offset += BLOCK,
                Seen::Entry { entry, .. } => {
                    at += 1;
                    offset += super::format::record_bytes(entry.meta.bytes);
                }
                other => {
                    if let Some(last) = found.last {
                        self.fault(
                            path,
                            format!("offset {offset}: entry {} of {last} is not whole: {other:?}", at + 1),
                        );
                    } else {
                        // The log's end, or a torn write: recovery tells which.
                        found.last = Some(at);
                    }
                    return;
                }
            }
        }
    }

    async fn store(&mut self, number: SegmentNumber, bytes: u64) -> FileFound {
        let dir = stores_dir(self.data, self.shard);
        let path = dir.join(store_file_name(number));
        let mut found = FileFound {
            name: store_file_name(number),
            kind: FileKind::Store,
            bytes,
            base: None,
            last: None,
            below_floor: true,
            jobs: None,
            enqueue_bytes: None,
        };
        let rows = match self.disk.map(&path).await {
            Ok(map) => open_store(&Bytes::from_owner(Mapped(map)), number, &self.identity),
            Err(error) => {
                self.fault(&path, error);
                return found;
            }
        };
        match rows {
            Ok(rows) => {
                (found.jobs, found.enqueue_bytes) = (Some(rows.jobs() as u64), Some(rows.enqueue_bytes()));
                if self.verify {
                    self.read_store(&dir, &path, &rows).await;
                }
            }
            Err(error) => self.fault(&path, error),
        }
        found
    }

    async fn read_store(&mut self, dir: &Path, path: &Path, rows: &Footer) {
        if let Err(error) = rows.verify() {
            return self.fault(path, error);
        }
        let reader = StoreReader::new(self.disk.clone(), dir.to_owned(), self.identity);
        for row in rows.rows_from(JobId(0)) {
            let at = RecordAt { number: rows.number(), offset: row.offset, bytes: row.bytes, job: row.job };
            if let Err(error) = reader.read(&at).await {
                self.faults.push(format!("job {}: {error}", row.job));
            }
        }
    }
}
