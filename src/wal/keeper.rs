//! Keeps a shard's files that are written no more: gives them rows, and below the floor drops those in which no job lives, and
//! moves the jobs that live out of those in which few do. Long work over `io`'s traits, beside the log's writer and reader.
//!
//! It must never remove a file before a manifest that does not name it is durable, and never name one that is not.
//!
//! ```text
//!   a segment is full and committed ──> rows beside it
//!   two snapshots are verified ──> floor ──> live jobs of each file ──> dead: dropped
//!                                                                   └─> mostly dead: store segment ──> manifest ──> dropped
//! ```

mod mending;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use roaring::RoaringTreemap;
use thiserror::Error;

use super::catalog::{Piece, PieceName};
use super::compaction::{Bounds, Holding, plan};
use super::directory::DirectoryError;
use super::entry::{Entry, LogIdentity};
use super::footer::{Footer, FooterDraft, FooterError, Row, Subject};
use super::format::{BLOCK, FirstBlock, SegmentHeader};
use super::index::{Placement, SegmentNumber};
use super::manifest::{Floor, Manifest};
use super::reader::{LogReader, ReadError};
use super::salvage::{Fault, Salvaged, salvage_segment, salvage_store};
use super::segment::{file_name, parse_file_name};
use super::store::{RecordAt, StoreDraft, StoreReader, StoredJob, open_store, parse_store_file_name, store_file_name};
use crate::io::{AlignedBuf, Disk, File, OpenMode, yield_now};
use crate::job::codec::class_of_enqueue;
use crate::types::{ChainHash, Index, JobId, LogPosition, Nanos};
pub use mending::{JobCopy, Mended};

/// So many rows are looked at before other tasks have their turn.
const ROWS_AT_ONCE: usize = 2048;

/// Something that could not be done. What was there before is there still, and it may be tried again.
#[derive(Debug, Error)]
pub enum KeepError {
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Read { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Change { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Manifest(#[from] DirectoryError),
    #[error("the rows in {path} cannot be used: {error}", path = path.display())]
    Rows { path: PathBuf, error: FooterError },
    #[error("{path} is missing, and jobs that live are in it: restore it, or replace this node", path = path.display())]
    Missing { path: PathBuf },
    #[error("jobs that live cannot be moved out of a damaged file: {0}")]
    Damaged(#[from] ReadError),
    #[error("{path}, offset {offset}: there is no whole entry {index}, and jobs that live may be in it", path = path.display())]
    Segment { path: PathBuf, offset: u64, index: Index },
    #[error("{path} is damaged, and what lives in it is not known yet: no snapshot is kept", path = path.display())]
    Unknown { path: PathBuf },
}

impl KeepError {
    /// A file below the floor is damaged or lost: jobs that live may be lacking, and another node has them.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            KeepError::Rows { .. } | KeepError::Missing { .. } | KeepError::Damaged(_) | KeepError::Segment { .. } => {
                true
            }
            KeepError::Read { source, .. } => source.kind() == io::ErrorKind::InvalidData,
            KeepError::Change { .. } | KeepError::Manifest(_) | KeepError::Unknown { .. } => false,
        }
    }
}

fn not_read(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_owned();
    move |source| KeepError::Read { what, path, source }
}

fn not_changed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_owned();
    move |source| KeepError::Change { what, path, source }
}

/// The file with the rows of a segment.
#[must_use]
pub fn rows_file_name(number: SegmentNumber) -> String {
    format!("{:010}.rows", number.0)
}

/// A mapped file lends its bytes.
pub(super) struct Mapped<M>(pub(super) M);

impl<M: AsRef<[u8]>> AsRef<[u8]> for Mapped<M> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// Where a shard's files are, and how they are kept.
#[derive(Debug, Clone)]
pub struct KeeperPlace {
    /// The directory of the segments.
    pub segments: PathBuf,
    /// And that of the store segments.
    pub stores: PathBuf,
    pub manifest: PathBuf,
    pub identity: LogIdentity,
    pub bounds: Bounds,
}

/// Where the log is to count from: the end of a segment that has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFloor {
    pub position: LogPosition,
    pub chain: ChainHash,
    pub next_job: JobId,
}

/// What became of files. The manifest that says so is durable; what was removed is there until [`Keeper::finish`].
#[derive(Debug, Default)]
pub struct Change {
    /// The floor, where it was raised.
    pub floor: Option<Index>,
    pub removed: Vec<PieceName>,
    pub added: Vec<Piece>,
}

/// What a shard's files hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    pub floor: Index,
    /// With rows: of the log, whether above or below the floor, and of the store.
    pub segments: u64,
    pub stores: u64,
    /// Below the floor: all bytes of files, and those of the ENQs of jobs that live, as far as was counted.
    pub bytes: u64,
    pub live_bytes: u64,
    pub damaged: u64,
    /// Since the process began: bytes written into store segments, damaged files that were made whole, files given up because
    /// nothing lived in them, and files whose living jobs were moved.
    pub moved_bytes: u64,
    pub mended: u64,
    pub dropped_files: u64,
    pub rewritten_files: u64,
}

/// One file with rows.
struct Kept {
    footer: Rc<Footer>,
    /// Of the file, and of its rows where they have one of their own.
    file_bytes: u64,
    /// Of a segment of the log.
    ordinal: u32,
    /// Jobs that live, and the bytes of their ENQs, when they were last counted.
    live: Option<(u64, u64)>,
    is_damaged: bool,
}

pub struct Keeper<D: Disk> {
    disk: D,
    place: KeeperPlace,
    manifest: Manifest,
    pieces: BTreeMap<PieceName, Kept>,
    /// The jobs that lived in the newest verified snapshot, once one is known.
    live: Arc<RoaringTreemap>,
    knows_what_lives: bool,
    /// Files that cannot be mended without copies of these jobs; and copies that came.
    lacking: BTreeMap<PieceName, Vec<JobId>>,
    copies: BTreeMap<JobId, JobCopy>,
    found_damaged: Vec<PieceName>,
    reader: LogReader<D>,
    stores: StoreReader<D>,
    moved_bytes: u64,
    mended: u64,
    dropped_files: u64,
    rewritten_files: u64,
}

impl<D: Disk> Keeper<D> {
    /// Takes over what earlier lives left, and removes what they did not complete. Rows that are missing are made again.
    ///
    /// # Errors
    /// If what the manifest names is not there, or the disk fails.
    pub async fn open(disk: D, place: KeeperPlace) -> Result<Keeper<D>, KeepError> {
        let manifest = Manifest::load(&disk, &place.manifest, &place.identity).await?;
        // A process that died may have renamed it, and the name may not be durable yet: what it no longer names must not go
        // before it is.
        let dir = place.manifest.parent().unwrap_or(Path::new("/"));
        disk.sync_dir(dir).await.map_err(not_changed("sync", dir))?;
        disk.create_dir(&place.stores).await.map_err(not_changed("make", &place.stores))?;
        let reader = LogReader::new(disk.clone(), place.segments.clone(), place.identity);
        let stores = StoreReader::new(disk.clone(), place.stores.clone(), place.identity);
        let mut keeper = Keeper {
            disk,
            place,
            manifest,
            pieces: BTreeMap::new(),
            live: Arc::default(),
            knows_what_lives: false,
            lacking: BTreeMap::new(),
            copies: BTreeMap::new(),
            found_damaged: Vec::new(),
            reader,
            stores,
            moved_bytes: 0,
            mended: 0,
            dropped_files: 0,
            rewritten_files: 0,
        };
        keeper.remove_left_over().await?;
        for (number, last) in keeper.manifest.segments.clone() {
            let kept = keeper.take_over_segment(number, last).await?;
            keeper.pieces.insert(PieceName::Log(number), kept);
        }
        for number in keeper.manifest.stores.clone() {
            let kept = match keeper.map_store(number).await {
                Err(KeepError::Rows { error, .. }) => keeper.remake_store(number, error).await?,
                kept => kept?,
            };
            keeper.pieces.insert(PieceName::Store(kept.footer.number()), kept);
        }
        Ok(keeper)
    }

    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The files below the floor.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        self.pieces.iter().map(|(&name, kept)| Piece { name, footer: Rc::clone(&kept.footer) }).collect()
    }

    /// Their names, ascending, and the last of the entries in each that count.
    #[must_use]
    pub fn cold_files(&self) -> Vec<(PieceName, Index)> {
        self.pieces.iter().map(|(&name, kept)| (name, kept.footer.subject().last)).collect()
    }

    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            floor: self.manifest.floor.position.index,
            moved_bytes: self.moved_bytes,
            mended: self.mended,
            dropped_files: self.dropped_files,
            rewritten_files: self.rewritten_files,
            ..Census::default()
        };
        for (name, kept) in &self.pieces {
            match name {
                PieceName::Log(_) => census.segments += 1,
                PieceName::Store(_) => census.stores += 1,
            }
            if self.is_below_floor(*name, kept) {
                census.bytes += kept.file_bytes;
                census.live_bytes += kept.live.map_or(0, |(_, bytes)| bytes);
            }
            census.damaged += u64::from(kept.is_damaged);
        }
        census
    }

    fn is_below_floor(&self, name: PieceName, kept: &Kept) -> bool {
        match name {
            PieceName::Log(_) => kept.footer.subject().last <= self.manifest.floor.position.index,
            PieceName::Store(_) => true,
        }
    }

    fn path(&self, name: PieceName) -> PathBuf {
        match name {
            PieceName::Log(number) => self.place.segments.join(file_name(number)),
            PieceName::Store(number) => self.place.stores.join(store_file_name(number)),
        }
    }

    fn rows_path(&self, number: SegmentNumber) -> PathBuf {
        self.place.segments.join(rows_file_name(number))
    }

    /// Rows that were not completed, or whose segments are gone; store segments that the manifest does not name.
    async fn remove_left_over(&self) -> Result<(), KeepError> {
        let dir = &self.place.segments;
        let files = self.disk.list(dir).await.map_err(not_read("list", dir))?;
        for file in &files {
            let segment = file.name.strip_suffix(".rows").map(|stem| format!("{stem}.seg"));
            let is_orphan = segment.is_some_and(|segment| {
                parse_file_name(&segment).is_some() && !files.iter().any(|file| file.name == segment)
            });
            if is_orphan || file.name.ends_with(".rows.tmp") {
                self.unlink(&dir.join(&file.name)).await?;
            }
        }
        let dir = &self.place.stores;
        for file in self.disk.list(dir).await.map_err(not_read("list", dir))? {
            let number = parse_store_file_name(&file.name);
            if number.is_some_and(|number| !self.manifest.stores.contains(&number)) {
                self.unlink(&dir.join(&file.name)).await?;
            }
        }
        Ok(())
    }

    /// Removes a file that may be gone already.
    async fn unlink(&self, path: &Path) -> Result<(), KeepError> {
        match self.disk.unlink(path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(not_changed("remove", path)(error)),
            _ => Ok(()),
        }
    }

    // Rows.

    async fn map(&self, path: &Path) -> Result<Bytes, KeepError> {
        let map = self.disk.map(path).await.map_err(not_read("map", path))?;
        Ok(Bytes::from_owner(Mapped(map)))
    }

    async fn map_rows(&self, number: SegmentNumber) -> Result<Rc<Footer>, KeepError> {
        let path = self.rows_path(number);
        let footer = Footer::open(self.map(&path).await?, &self.place.identity);
        footer.map(Rc::new).map_err(|error| KeepError::Rows { path, error })
    }

    async fn map_store(&self, number: SegmentNumber) -> Result<Kept, KeepError> {
        let path = self.path(PieceName::Store(number));
        let bytes = match self.map(&path).await {
            Err(KeepError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(KeepError::Missing { path });
            }
            bytes => bytes?,
        };
        let footer = open_store(&bytes, number, &self.place.identity);
        let footer = footer.map(Rc::new).map_err(|error| KeepError::Rows { path, error })?;
        Ok(Kept { footer, file_bytes: bytes.len() as u64, ordinal: 0, live: None, is_damaged: false })
    }

    /// Makes the file with a segment's rows, durable under its name only when it is complete; or finds that an earlier life
    /// has made it.
    ///
    /// # Errors
    /// If the disk is full or fails. To be tried again: nothing depends on the file.
    pub async fn write_rows(&mut self, subject: &Subject, draft: &FooterDraft) -> Result<Rc<Footer>, KeepError> {
        let number = subject.number;
        let known = self.map_rows(number).await.ok();
        let footer = match known.filter(|known| known.subject() == *subject && known.is_proven()) {
            Some(known) => known,
            None => self.make_rows(subject, draft).await?,
        };
        let (header, file_bytes) = self.header(number).await?;
        let kept = Kept {
            file_bytes: file_bytes + footer.bytes(),
            footer: Rc::clone(&footer),
            ordinal: header.epoch.ordinal(),
            live: None,
            is_damaged: false,
        };
        self.pieces.insert(PieceName::Log(number), kept);
        Ok(footer)
    }

    async fn make_rows(&self, subject: &Subject, draft: &FooterDraft) -> Result<Rc<Footer>, KeepError> {
        let path = self.rows_path(subject.number);
        let temporary = path.with_extension("rows.tmp");
        self.unlink(&temporary).await?;
        let content = draft.finish(subject, &self.place.identity);
        self.fill(&temporary, content).await?;
        self.disk.rename(&temporary, &path).await.map_err(not_changed("rename", &temporary))?;
        let dir = &self.place.segments;
        self.disk.sync_dir(dir).await.map_err(not_changed("sync", dir))?;
        self.map_rows(subject.number).await
    }

    async fn fill(&self, path: &Path, content: Vec<u8>) -> Result<u64, KeepError> {
        let mut content = Some(content);
        let pieces = Box::new(move || Ok(content.take()));
        self.disk.make_filled(path.to_owned(), pieces).await.map_err(not_changed("write", path))
    }

    /// The header of a segment in use, and the length of its file.
    async fn header(&self, number: SegmentNumber) -> Result<(SegmentHeader, u64), KeepError> {
        let path = self.path(PieceName::Log(number));
        let file = match self.disk.open(&path, OpenMode::Read).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeepError::Missing { path }),
            file => file.map_err(not_read("open", &path))?,
        };
        let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK as usize), 0).await;
        result.map_err(not_read("read", &path))?;
        match FirstBlock::read(&block, &self.place.identity) {
            FirstBlock::Header(header) => Ok((header, file.bytes())),
            _ => Err(not_read("read the header of", &path)(io::ErrorKind::InvalidData.into())),
        }
    }

    /// A segment below the floor: its rows, made again where they are missing or not whole.
    async fn take_over_segment(&self, number: SegmentNumber, last: Index) -> Result<Kept, KeepError> {
        let (header, file_bytes) = self.header(number).await?;
        let known = self.map_rows(number).await.ok();
        let footer = match known.filter(|known| {
            let subject = known.subject();
            (subject.number, subject.base, subject.base_chain, subject.last)
                == (number, header.base, header.base_chain, last)
        }) {
            Some(known) => known,
            None => {
                let (subject, draft) = self.read_rows(header, last).await?;
                self.make_rows(&subject, &draft).await?
            }
        };
        let file_bytes = file_bytes + footer.bytes();
        Ok(Kept { footer, file_bytes, ordinal: header.epoch.ordinal(), live: None, is_damaged: false })
    }

    /// The rows of a segment up to its last entry that counts, from the segment alone.
    async fn read_rows(&self, header: SegmentHeader, last: Index) -> Result<(Subject, FooterDraft), KeepError> {
        let path = self.path(PieceName::Log(header.number));
        let file = self.disk.open(&path, OpenMode::Read).await.map_err(not_read("open", &path))?;
        match salvage_segment(file, header, self.place.identity, last).await {
            Salvaged { subject, rows, fault: None } => Ok((subject, rows)),
            Salvaged { fault: Some(Fault { offset, index }), .. } => Err(KeepError::Segment { path, offset, index }),
        }
    }

    /// A store segment whose rows are damaged, made again from its records where those are whole. What no byte of is written twice is
    /// written as another file.
    async fn remake_store(&mut self, number: SegmentNumber, error: FooterError) -> Result<Kept, KeepError> {
        let path = self.path(PieceName::Store(number));
        let damaged = KeepError::Rows { path: path.clone(), error };
        let file = self.disk.open(&path, OpenMode::Read).await.map_err(not_read("open", &path))?;
        let Some((_, Salvaged { subject, rows, fault: None })) =
            salvage_store(&file, number, &self.place.identity).await
        else {
            return Err(damaged);
        };
        let rows = Footer::open(rows.finish(&subject, &self.place.identity).into(), &self.place.identity);
        let Ok(rows) = rows else { return Err(damaged) };
        let mut draft = self.begin_store();
        let mut copied = Copied::default();
        for row in rows.rows_from(rows.first_job()) {
            let (row, enqueue) = self.read_enqueue(PieceName::Store(number), &rows, row.job, &mut copied).await?;
            let (job, index, wall, class) = (row.job, row.index, row.wall, row.class);
            draft.push(&StoredJob { job, index, wall, class, enqueue: &enqueue });
        }
        let made = draft.number();
        self.write_store(draft, &mut Vec::new()).await?;
        let mut manifest = self.manifest.clone();
        manifest.stores.iter_mut().filter(|store| **store == number).for_each(|store| *store = made);
        manifest.stores.sort_unstable();
        manifest.save(&self.disk, &self.place.manifest, &self.place.identity).await?;
        self.manifest = manifest;
        self.mended += 1;
        self.unlink(&path).await?;
        self.map_store(made).await
    }

    // What lives.

    /// The jobs that lived in the newest verified snapshot are these, and the log counts from `floor` on. Files in which none
    /// of them is are given up.
    ///
    /// # Errors
    /// If the manifest could not be replaced.
    pub async fn retain(&mut self, floor: Option<NewFloor>, live: Arc<RoaringTreemap>) -> Result<Change, KeepError> {
        self.live = live;
        self.knows_what_lives = true;
        let mut manifest = self.manifest.clone();
        if let Some(NewFloor { position, chain, next_job }) =
            floor.filter(|floor| floor.position > manifest.floor.position)
        {
            let below = self.pieces.values().filter(|kept| kept.footer.subject().last <= position.index);
            let ordinal = below.map(|kept| kept.ordinal + 1).max().unwrap_or(0).max(manifest.floor.ordinal);
            manifest.floor = Floor { position, chain, next_job, ordinal };
        }
        let raised = (manifest.floor != self.manifest.floor).then_some(manifest.floor.position.index);
        let limit = manifest.floor.position.index;
        let is_below =
            |name: &PieceName, kept: &Kept| matches!(name, PieceName::Store(_)) || kept.footer.subject().last <= limit;
        let below = self.pieces.iter().filter(|(name, kept)| is_below(name, kept));
        let (dead, kept): (Vec<_>, Vec<_>) = below.partition(|(_, kept)| self.count_live(&kept.footer) == 0);
        let removed: Vec<PieceName> = dead.into_iter().map(|(name, _)| *name).collect();
        let kept: Vec<(PieceName, Index)> =
            kept.into_iter().map(|(name, kept)| (*name, kept.footer.subject().last)).collect();
        self.save(manifest, kept, &removed).await?;
        self.dropped_files += removed.len() as u64;
        self.count_live_bytes().await;
        Ok(Change { floor: raised, removed, added: Vec::new() })
    }

    /// Replaces the manifest, if it says something else now; then forgets what was removed.
    async fn save(
        &mut self,
        mut manifest: Manifest,
        kept: Vec<(PieceName, Index)>,
        removed: &[PieceName],
    ) -> Result<(), KeepError> {
        let (mut segments, mut stores) = (Vec::new(), Vec::new());
        for (name, last) in kept {
            match name {
                PieceName::Log(number) => segments.push((number, last)),
                PieceName::Store(number) => stores.push(number),
            }
        }
        segments.sort_unstable();
        stores.sort_unstable();
        (manifest.segments, manifest.stores) = (segments, stores);
        if manifest != self.manifest {
            manifest.save(&self.disk, &self.place.manifest, &self.place.identity).await?;
            self.manifest = manifest;
        }
        for name in removed {
            self.pieces.remove(name);
        }
        Ok(())
    }

    fn count_live(&self, footer: &Footer) -> u64 {
        let below = |job: JobId| job.0.checked_sub(1).map_or(0, |last| self.live.rank(last));
        below(footer.next_job()) - below(footer.first_job())
    }

    /// How many bytes of ENQs live in each file below the floor, where that may have changed.
    async fn count_live_bytes(&mut self) {
        let names: Vec<PieceName> = self.pieces.keys().copied().collect();
        for name in names {
            let kept = &self.pieces[&name];
            let jobs = self.count_live(&kept.footer);
            // Dead stays dead: as many live jobs are the same ones.
            if !self.is_below_floor(name, kept) || kept.live.is_some_and(|(counted, _)| counted == jobs) {
                continue;
            }
            let footer = Rc::clone(&kept.footer);
            let bytes =
                if jobs == footer.jobs() as u64 { Some(footer.enqueue_bytes()) } else { self.sum_live(&footer).await };
            if let Some(kept) = self.pieces.get_mut(&name) {
                if bytes.is_none() {
                    kept.is_damaged = true;
                    self.found_damaged.push(name);
                }
                kept.live = Some((jobs, bytes.unwrap_or(footer.enqueue_bytes())));
            }
        }
    }

    /// None where a live job has no row: the rows are damaged.
    async fn sum_live(&self, footer: &Footer) -> Option<u64> {
        let (mut next, mut sum) = (footer.first_job(), 0);
        loop {
            let jobs = self.live_jobs(footer, next);
            let Some(&last) = jobs.last() else { return Some(sum) };
            for &job in &jobs {
                sum += u64::from(footer.find(job)?.bytes);
            }
            next = JobId(last.0 + 1);
            yield_now().await;
        }
    }

    /// The next live jobs of a file from `first` on.
    fn live_jobs(&self, footer: &Footer, first: JobId) -> Vec<JobId> {
        let mut live = self.live.iter();
        live.advance_to(first.0);
        live.map(JobId).take_while(|job| *job < footer.next_job()).take(ROWS_AT_ONCE).collect()
    }

    // Moving what lives.

    /// Moves the jobs that live out of files in which few do, a bounded number of files at a time. None where there is nothing
    /// to gain.
    ///
    /// # Errors
    /// If the disk is full or fails, or what lives cannot be read; then those files are left alone from now on.
    pub async fn compact(&mut self) -> Result<Option<Change>, KeepError> {
        let holdings = self.holdings();
        let Some(run) = plan(&holdings, &self.place.bounds) else { return Ok(None) };
        let removed: Vec<PieceName> = holdings[run].iter().map(|holding| holding.name).collect();
        let rows: Vec<_> = removed.iter().map(|name| Rc::clone(&self.pieces[name].footer)).collect();
        let rows: Vec<_> = rows.iter().map(|footer| (Rc::clone(footer), Rc::clone(footer))).collect();
        self.replace_by_new(&removed, &rows).await.map(Some)
    }

    /// Moves what lives in these files, which are neighbours, into new ones. `rows`: of each, those that say which jobs may be in it,
    /// and those that say where they are.
    async fn replace_by_new(
        &mut self,
        removed: &[PieceName],
        rows: &[(Rc<Footer>, Rc<Footer>)],
    ) -> Result<Change, KeepError> {
        let mut made = Vec::new();
        if let Err(error) = self.rewrite(removed, rows, &mut made).await {
            for number in made {
                // The next start removes what cannot be removed now.
                let _ = self.unlink(&self.path(PieceName::Store(number))).await;
            }
            return Err(error);
        }
        let mut added = Vec::new();
        for &number in &made {
            let mut kept = self.map_store(number).await?;
            kept.live = Some((kept.footer.jobs() as u64, kept.footer.enqueue_bytes()));
            self.moved_bytes += kept.file_bytes;
            let name = PieceName::Store(number);
            added.push(Piece { name, footer: Rc::clone(&kept.footer) });
            self.pieces.insert(name, kept);
        }
        let stays = |name: &PieceName, kept: &Kept| self.is_below_floor(*name, kept) && !removed.contains(name);
        let kept = self.pieces.iter().filter(|(name, kept)| stays(name, kept));
        let kept = kept.map(|(name, kept)| (*name, kept.footer.subject().last)).collect();
        let saved = self.save(self.manifest.clone(), kept, removed).await;
        if saved.is_err() {
            // The new files are in no manifest, or in one of which nobody knows whether it is durable: they stay on disk, and
            // the old ones stay in use.
            for piece in &added {
                self.pieces.remove(&piece.name);
            }
        }
        saved?;
        self.rewritten_files += removed.len() as u64;
        Ok(Change { floor: None, removed: removed.to_vec(), added })
    }

    fn holdings(&self) -> Vec<Holding> {
        let below = self.pieces.iter().filter(|(name, kept)| self.is_below_floor(**name, kept));
        let mut holdings: Vec<Holding> = below
            .filter_map(|(&name, kept)| {
                let (live_jobs, live_bytes) = kept.live?;
                Some(Holding {
                    name,
                    file_bytes: kept.file_bytes,
                    jobs: kept.footer.jobs() as u64,
                    enqueue_bytes: kept.footer.enqueue_bytes(),
                    live_jobs,
                    live_bytes,
                    first_job: kept.footer.first_job(),
                    is_damaged: kept.is_damaged,
                })
            })
            .collect();
        holdings.sort_by_key(|holding| holding.first_job);
        holdings
    }

    /// Copies what lives in these files, which are neighbours, into new ones; durable when it returns.
    async fn rewrite(
        &mut self,
        names: &[PieceName],
        rows: &[(Rc<Footer>, Rc<Footer>)],
        made: &mut Vec<SegmentNumber>,
    ) -> Result<(), KeepError> {
        let mut draft = self.begin_store();
        for (&name, (footer, rows)) in names.iter().zip(rows) {
            let mut copied = Copied::default();
            let mut next = footer.first_job();
            loop {
                let jobs = self.live_jobs(footer, next);
                let Some(&last) = jobs.last() else { break };
                for &job in &jobs {
                    let found = match self.find_enqueue(name, rows, job, &mut copied).await {
                        Ok(found) => found,
                        Err(error) => return Err(self.note_damage(name, error)),
                    };
                    let (index, wall, enqueue) = (found.index, found.wall, &found.bytes[..]);
                    let class = class_of_enqueue(enqueue).expect("what is found is an ENQ");
                    let bytes = draft.record_bytes() + enqueue.len() as u64;
                    if !draft.is_empty() && (bytes > self.place.bounds.store_bytes_max || !draft.spans(job, index)) {
                        let full = std::mem::replace(&mut draft, self.begin_store());
                        self.write_store(full, made).await?;
                    }
                    draft.push(&StoredJob { job, index, wall, class, enqueue });
                }
                next = JobId(last.0 + 1);
                yield_now().await;
            }
        }
        self.write_store(draft, made).await
    }

    fn begin_store(&mut self) -> StoreDraft {
        let number = self.manifest.next_store;
        self.manifest.next_store = SegmentNumber(number.0.checked_add(1).expect("fewer than 2^32 store segments"));
        StoreDraft::new(number, self.place.identity)
    }

    async fn write_store(&self, draft: StoreDraft, made: &mut Vec<SegmentNumber>) -> Result<(), KeepError> {
        if draft.is_empty() {
            return Ok(());
        }
        let number = draft.number();
        self.fill(&self.path(PieceName::Store(number)), draft.finish()).await?;
        made.push(number);
        Ok(())
    }

    /// A job's ENQ, proven to be one with the body that it names.
    async fn read_enqueue<'a>(
        &self,
        name: PieceName,
        footer: &'a Footer,
        job: JobId,
        copied: &mut Copied,
    ) -> Result<(Row<'a>, Bytes), ReadError> {
        let damaged =
            |offset: u64| ReadError { path: self.path(name), offset, reason: super::reader::ReadFailure::Record };
        let row = footer.find(job).ok_or_else(|| damaged(0))?;
        let (offset, bytes) = (row.offset, row.bytes);
        let enqueue = match name {
            PieceName::Store(number) => self.stores.read(&RecordAt { number, offset, bytes, job }).await?,
            PieceName::Log(_) => {
                let entry = copied.entry(&self.reader, row.placement).await?;
                let (from, to) = (offset as usize, offset as usize + bytes as usize);
                let payload = entry.payload_bytes();
                if to > payload.len() {
                    return Err(damaged(row.placement.offset));
                }
                payload.slice(from..to)
            }
        };
        if class_of_enqueue(&enqueue).is_some() { Ok((row, enqueue)) } else { Err(damaged(row.placement.offset)) }
    }

    /// The file is left alone until it is mended.
    fn note_damage(&mut self, name: PieceName, error: ReadError) -> KeepError {
        if let Some(kept) = self.pieces.get_mut(&name) {
            kept.is_damaged = true;
            self.found_damaged.push(name);
        }
        KeepError::Damaged(error)
    }

    /// Removes the files that a change gave up, and segments that no entry counts of any more.
    ///
    /// # Errors
    /// If one could not be removed; the next start will.
    pub async fn finish(&self, raised: Option<Index>, removed: &[PieceName]) -> Result<(), KeepError> {
        for &name in removed {
            match name {
                PieceName::Log(number) => {
                    self.reader.forget(number);
                    self.unlink(&self.rows_path(number)).await?;
                }
                PieceName::Store(number) => self.stores.forget(number),
            }
            self.unlink(&self.path(name)).await?;
        }
        if raised.is_some() {
            self.remove_passed_over().await?;
        }
        Ok(())
    }

    /// Segments that were begun, and cut off as a whole: they have no rows.
    async fn remove_passed_over(&self) -> Result<(), KeepError> {
        let dir = &self.place.segments;
        for file in self.disk.list(dir).await.map_err(not_read("list", dir))? {
            let Some(number) = parse_file_name(&file.name) else { continue };
            if self.pieces.contains_key(&PieceName::Log(number)) {
                continue;
            }
            // A spare has no header yet.
            if let Ok((header, _)) = self.header(number).await
                && header.epoch.ordinal() < self.manifest.floor.ordinal
            {
                self.unlink(&dir.join(&file.name)).await?;
            }
        }
        Ok(())
    }
}

/// The entry that was read last: the jobs of one entry are copied one after the other.
#[derive(Default)]
struct Copied(Option<(Placement, Entry)>);

impl Copied {
    async fn entry<D: Disk>(&mut self, reader: &LogReader<D>, placement: Placement) -> Result<&Entry, ReadError> {
        if self.0.as_ref().is_none_or(|(at, _)| *at != placement) {
            let entry = reader.read_entries(&[placement]).await?.swap_remove(0);
            self.0 = Some((placement, entry));
        }
        Ok(&self.0.as_ref().expect("just read").1)
    }
}

#[cfg(test)]
mod tests;
