//! The files of a log one by one: segments, their rows, store segments.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use super::{Fault, FileFound, FileKind, Living};
use crate::io::{AlignedBuf, Disk, File, OpenMode};
use crate::types::JobId;
use crate::wal::catalog::lowest_uncovered;
use crate::wal::directory::DirectoryError;
use crate::wal::entry::LogIdentity;
use crate::wal::footer::Footer;
use crate::wal::format::{BLOCK, FirstBlock, SegmentHeader, record_bytes};
use crate::wal::index::SegmentNumber;
use crate::wal::keeper::{Mapped, rows_file_name};
use crate::wal::manifest::Manifest;
use crate::wal::recovery::scan::{Scan, Seen};
use crate::wal::recovery::{LogPlace, Survey, survey};
use crate::wal::segment::{file_name, parse_file_name};
use crate::wal::store::{RecordAt, StoreReader, open_store, parse_store_file_name, store_file_name};

pub(super) struct Look<'a, D: Disk> {
    pub disk: &'a D,
    /// The directories of segments and of store segments.
    pub dir: &'a Path,
    pub stores: &'a Path,
    pub identity: LogIdentity,
    pub living: Option<&'a Living>,
    /// Read everything.
    pub verify: bool,
    /// The ids between which the jobs in each file below the floor lie, as far as its rows say so.
    pub held: Vec<(String, Range<JobId>)>,
    pub faults: Vec<Fault>,
}

impl<D: Disk> Look<'_, D> {
    pub(super) fn fault(&mut self, path: &Path, offset: Option<u64>, what: impl Display) {
        self.faults.push(Fault::new(path, offset, what));
    }

    pub(super) fn expect(&mut self, files: &[FileFound], name: &str, dir: &Path) {
        if !files.iter().any(|file| file.name == name) {
            self.fault(&dir.join(name), None, "the manifest names it, and it is missing");
        }
    }

    /// As a start does: every job that lives in the newest snapshot can be in a file, or in an entry above the floor. Not where rows
    /// are still to be made again, nor where the newest cannot be used.
    pub(super) fn expect_jobs(&mut self, manifest: &Manifest, dir: &Path) {
        let Some(living) = self.living.filter(|living| living.is_newest) else { return };
        let known: BTreeSet<&str> = self.held.iter().map(|(name, _)| name.as_str()).collect();
        let segments = manifest.segments.iter().map(|(number, _)| file_name(*number));
        let mut named = segments.chain(manifest.stores.iter().map(|number| store_file_name(*number)));
        if !named.all(|name| known.contains(name.as_str())) {
            return;
        }
        let held = self.held.iter().map(|(_, ids)| ids.clone()).chain([manifest.floor.next_job..JobId(u64::MAX)]);
        if let Some(job) = lowest_uncovered(held.collect(), &living.jobs) {
            let what = "lives in the newest snapshot, and by the ranges of ids that they state no file can hold it";
            self.fault(dir, None, format!("job {job} {what}"));
        }
    }

    /// The segments, and which of them are in use above the floor, if that can be told.
    pub(super) async fn segments(
        &mut self,
        place: &LogPlace,
        manifest: &Manifest,
    ) -> Result<(Vec<FileFound>, Option<Survey>), DirectoryError> {
        let unreadable = |source| DirectoryError::Io { path: self.dir.to_owned(), source };
        let listed = self.disk.list(self.dir).await.map_err(unreadable)?;
        let survey = match survey(self.disk, place).await {
            Ok(survey) => Some(survey),
            Err(error) => {
                self.fault(self.dir, None, error);
                None
            }
        };
        let mut files = Vec::new();
        for file in listed {
            let Some(number) = parse_file_name(&file.name) else { continue };
            let kept = manifest.segments.iter().find(|(kept, _)| *kept == number).map(|(_, last)| last.0);
            let is_left_over =
                survey.as_ref().is_some_and(|survey| survey.left_over.contains(&self.dir.join(&file.name)));
            let kind = if is_left_over { FileKind::LeftOver } else { FileKind::Segment };
            let mut found =
                FileFound { last: kept, below_floor: kept.is_some(), ..found(&file.name, kind, file.bytes) };
            if !is_left_over {
                self.segment(number, &mut found).await;
            }
            files.push(found);
        }
        Ok((files, survey))
    }

    async fn segment(&mut self, number: SegmentNumber, found: &mut FileFound) {
        let path = self.dir.join(&found.name);
        match self.first_block(&path).await {
            Ok(FirstBlock::Header(header)) => {
                found.base = Some(header.base.0);
                self.rows(&header, found).await;
                if let (true, Some(last)) = (self.verify && found.below_floor, found.last) {
                    self.read_segment(&path, header, last).await;
                }
            }
            // The survey has told it of a segment that it knows.
            Ok(_) if !found.below_floor => {}
            Ok(_) => self.fault(&path, Some(0), format!("the header of segment {number} cannot be read")),
            Err(error) => self.fault(&path, Some(0), error),
        }
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
        let path = self.dir.join(rows_file_name(header.number));
        // None yet, or to be made again.
        let Ok(map) = self.disk.map(&path).await else { return };
        match Footer::open(Bytes::from_owner(Mapped(map)), &self.identity) {
            Ok(rows) if (rows.subject().base, rows.subject().base_chain) == (header.base, header.base_chain) => {
                found.bytes += rows.bytes();
                if found.below_floor {
                    self.held.push((found.name.clone(), rows.first_job()..rows.next_job()));
                }
                if self.verify
                    && let Err(error) = rows.verify()
                {
                    return self.fault(&path, None, error);
                }
                found.last = found.last.or(Some(rows.subject().last.0));
                self.count(&path, &rows, found);
            }
            Ok(_) => self.fault(&path, None, "it is about another segment than the one beside it"),
            Err(error) => self.fault(&path, None, error),
        }
    }

    fn count(&mut self, path: &Path, rows: &Footer, found: &mut FileFound) {
        (found.jobs, found.enqueue_bytes) = (Some(rows.jobs() as u64), Some(rows.enqueue_bytes()));
        let Some(living) = self.living.filter(|living| rows.next_job() <= living.next_job) else { return };
        let below = |job: JobId| job.0.checked_sub(1).map_or(0, |last| living.jobs.rank(last));
        let live_jobs = below(rows.next_job()) - below(rows.first_job());
        found.live_jobs = Some(live_jobs);
        if live_jobs == rows.jobs() as u64 {
            found.live_bytes = Some(rows.enqueue_bytes());
            return;
        }
        let mut live = living.jobs.iter();
        live.advance_to(rows.first_job().0);
        let mut bytes = 0;
        for job in live.map(JobId).take_while(|job| *job < rows.next_job()) {
            match rows.find(job) {
                Some(row) => bytes += u64::from(row.bytes),
                None => return self.fault(path, None, format!("it has no row of job {job}, which lives")),
            }
        }
        found.live_bytes = Some(bytes);
    }

    /// All entries of a segment below the floor, up to the last that counts.
    async fn read_segment(&mut self, path: &Path, header: SegmentHeader, last: u64) {
        let file = match self.disk.open(path, OpenMode::Read).await {
            Ok(file) => file,
            Err(error) => return self.fault(path, None, error),
        };
        let mut scan = Scan::new(file, header, self.identity);
        let (mut offset, mut at) = (BLOCK, header.base.0);
        while at < last {
            match scan.see(offset).await {
                Seen::Seal { .. } => offset += BLOCK,
                Seen::Entry { entry, .. } if entry.meta.position.index.0 == at + 1 => {
                    at += 1;
                    offset += record_bytes(entry.meta.bytes);
                }
                // Where the next one lies is in its header: there may be more to tell.
                Seen::Damaged { reason, record_bytes: Some(bytes), .. } => {
                    at += 1;
                    self.fault(path, Some(offset), format!("entry {at} is not whole: {reason}"));
                    offset += bytes;
                }
                _ => {
                    let what = format!("entry {} is not there, and what follows up to {last} cannot be told", at + 1);
                    return self.fault(path, Some(offset), what);
                }
            }
        }
    }

    pub(super) async fn stores(&mut self, manifest: &Manifest) -> Vec<FileFound> {
        let mut files = Vec::new();
        // Made when a node first starts.
        for file in self.disk.list(self.stores).await.unwrap_or_default() {
            let Some(number) = parse_store_file_name(&file.name) else { continue };
            files.push(match manifest.stores.contains(&number) {
                true => self.store(number, file.bytes).await,
                false => found(&file.name, FileKind::LeftOver, file.bytes),
            });
        }
        files
    }

    async fn store(&mut self, number: SegmentNumber, bytes: u64) -> FileFound {
        let name = store_file_name(number);
        let path = self.stores.join(&name);
        let mut found = FileFound { below_floor: true, ..found(&name, FileKind::Store, bytes) };
        let rows = match self.disk.map(&path).await {
            Ok(map) => open_store(&Bytes::from_owner(Mapped(map)), number, &self.identity),
            Err(error) => {
                self.fault(&path, None, error);
                return found;
            }
        };
        match rows {
            Ok(rows) => {
                self.held.push((name, rows.first_job()..rows.next_job()));
                self.count(&path, &rows, &mut found);
                if self.verify {
                    self.read_store(&path, &rows).await;
                }
            }
            Err(error) => self.fault(&path, None, error),
        }
        found
    }

    async fn read_store(&mut self, path: &Path, rows: &Footer) {
        if let Err(error) = rows.verify() {
            return self.fault(path, None, error);
        }
        let reader = StoreReader::new(self.disk.clone(), self.stores.to_owned(), self.identity);
        for row in rows.rows_from(JobId(0)) {
            let at = RecordAt { number: rows.number(), offset: row.offset, bytes: row.bytes, job: row.job };
            if let Err(error) = reader.read(&at).await {
                self.fault(path, Some(error.offset), format!("job {}: {}", row.job, error.reason));
            }
        }
    }
}

fn found(name: &str, kind: FileKind, bytes: u64) -> FileFound {
    FileFound {
        name: name.to_owned(),
        kind,
        bytes,
        base: None,
        last: None,
        below_floor: false,
        jobs: None,
        enqueue_bytes: None,
        live_jobs: None,
        live_bytes: None,
    }
}
