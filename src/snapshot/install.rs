//! A snapshot of another node on its way into the place of a log that ends before it: pulled into a directory of its own, verified, and
//! switched to by one small file. Every step may be followed by a crash, and goes on behind it.
//!
//! It must never touch what is in use before all that takes its place is durable and verified; nor take what a peer says for true that
//! can be checked: every byte of the snapshot by its hashes, its state by its digest, every job by the set of those that live in
//! the snapshot, its class and the hash of its body.
//!
//! ```text
//!  DATA/shard-0/install/plan        which jobs are in the log here already, and which numbers the store segments get
//!                       N.part      the snapshot as far as it came; N.snap when it is whole and verified
//!                       N.store     the jobs that are lacking, in store segments as below the log's floor
//!                       N.seg       the first, empty segment of the log above the snapshot
//!                       manifest    the decision: what the shard's manifest says from now on
//! ```
//!
//! Once the last is there, everything is moved to its place (by [`complete`](super::completion::complete), also at the next start), and the shard's manifest
//! is replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::completion::MANIFEST;
use super::frame::{Frame, Header, Invalid};
use super::reading::{OpenError, Snapshot, open, verify};
use super::shelf;
use crate::io::{AlignedBuf, BLOCK_BYTES, Disk, File, OpenMode, yield_now};
use crate::job::codec::whole_enqueue;
use crate::job::{Machine, RecountError};
use crate::types::{Index, JobId, Nanos, SnapshotName};
use crate::wal::directory::{self, DirectoryError};
use crate::wal::entry::LogIdentity;
use crate::wal::footer::{Footer, FooterError};
use crate::wal::format::{BLOCK, FirstBlock, SegmentEpoch, SegmentHeader};
use crate::wal::index::SegmentNumber;
use crate::wal::manifest::{Floor, Manifest};
use crate::wal::segment::{file_name, parse_file_name};
use crate::wal::store::{StoreDraft, StoredJob, open_store, parse_store_file_name, store_file_name};

/// So many numbers are left to the store segments that compaction makes while a snapshot is pulled.
const NUMBERS_LEFT: u32 = 1 << 16;

/// So many jobs are looked at before other tasks have their turn.
const JOBS_AT_ONCE: usize = 2048;

const PLAN: &str = "plan";

/// Where a shard's files are, and where what is pulled for it gathers.
#[derive(Debug, Clone)]
pub struct InstallPlace {
    pub dir: PathBuf,
    pub segments: PathBuf,
    pub stores: PathBuf,
    pub snapshots: PathBuf,
    pub manifest: PathBuf,
    pub identity: LogIdentity,
    /// A store segment does not grow beyond this, unless by one job.
    pub store_bytes_max: u64,
}

impl InstallPlace {
    /// In a node's data directory.
    #[must_use]
    pub fn new(data: &Path, identity: LogIdentity, store_bytes_max: u64) -> InstallPlace {
        let shard = identity.shard;
        InstallPlace {
            dir: directory::install_dir(data, shard),
            segments: directory::segments_dir(data, shard),
            stores: directory::stores_dir(data, shard),
            snapshots: directory::snapshots_dir(data, shard),
            manifest: directory::manifest_path(data, shard),
            identity,
            store_bytes_max,
        }
    }
}

#[derive(Debug, Error)]
pub enum InstallError {
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    #[error("the snapshot that was pulled is not the one that was offered: {0}")]
    Snapshot(#[from] Invalid),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("the snapshot that was pulled contradicts itself: {0}")]
    Recount(#[from] RecountError),
    #[error("a store segment that was just written cannot be used: {0}")]
    Rows(#[from] FooterError),
    #[error("what came for job {job} is not what it was put with: {why}")]
    Job { job: JobId, why: &'static str },
    #[error("a piece at offset {found} came where {expected} was asked for")]
    Offset { expected: u64, found: u64 },
    #[error("of {lacking} jobs in the snapshot that are not in the log here {found} were pulled")]
    Count { lacking: u64, found: u64 },
    #[error("compaction has used up the numbers that were left to it")]
    Numbers,
}

impl InstallError {
    /// What a peer gave was wrong, and is pulled again.
    #[must_use]
    pub fn is_of_peer(&self) -> bool {
        matches!(
            self,
            InstallError::Snapshot(_)
                | InstallError::Open(_)
                | InstallError::Recount(_)
                | InstallError::Job { .. }
                | InstallError::Offset { .. }
        )
    }

    #[must_use]
    pub fn is_lack_of_room(&self) -> bool {
        matches!(self, InstallError::Io { source, .. }
            if crate::io::is_full(source))
    }
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { what, path, source }
}

/// What all that was pulled so far relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    /// The last entry that is known committed here, and the first job above it.
    after: u64,
    first_job: u64,
    first_store: u32,
}

/// A snapshot as far as it came.
struct Part<F> {
    name: SnapshotName,
    path: PathBuf,
    /// Once its first block has come.
    file: Option<F>,
    /// Bytes from its beginning that are there.
    done: u64,
}

/// What a job was put with, as a peer gave it.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub job: JobId,
    pub index: Index,
    pub wall: Nanos,
    pub enqueue: Bytes,
}

/// A snapshot that came in full, and the machine in it.
pub struct Whole {
    pub frame: Frame,
    pub machine: Machine,
    pub live: RoaringTreemap,
}

/// Invariant: every job that lives in the snapshot being pulled, from the plan's first up to `next_job`, is in `stores` or in `draft`.
pub struct Staging<D: Disk> {
    disk: D,
    place: InstallPlace,
    plan: Plan,
    part: Option<Part<D::File>>,
    stores: Vec<(SegmentNumber, Rc<Footer>)>,
    draft: Option<StoreDraft>,
    next_store: SegmentNumber,
    next_job: JobId,
}

impl<D: Disk> Staging<D> {
    /// Goes on with what an earlier attempt has left, if it was for the same state of the log; begins anew otherwise. `after`
    /// is the last entry known to be committed here, `first_job` the first job above it.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub async fn open(
        disk: D,
        place: InstallPlace,
        after: Index,
        first_job: JobId,
    ) -> Result<Staging<D>, InstallError> {
        disk.create_dir(&place.dir).await.map_err(failed("make", &place.dir))?;
        let path = place.dir.join(PLAN);
        let found: Option<Plan> = match directory::read(&disk, &path).await {
            Err(DirectoryError::Damaged { .. }) => None,
            read => read?,
        };
        let in_use = Manifest::load(&disk, &place.manifest, &place.identity).await?;
        let goes_on = found.filter(|plan| {
            (plan.after, plan.first_job) == (after.0, first_job.0) && plan.first_store >= in_use.next_store.0
        });
        let plan = match goes_on {
            Some(plan) => plan,
            None => {
                let first_store = in_use.next_store.0.checked_add(NUMBERS_LEFT).ok_or(InstallError::Numbers)?;
                let plan = Plan { after: after.0, first_job: first_job.0, first_store };
                clear(&disk, &place.dir).await?;
                directory::write(&disk, &path, &plan).await?;
                plan
            }
        };
        let next_store = SegmentNumber(plan.first_store);
        let (part, stores, draft) = (None, Vec::new(), None);
        let mut staging = Staging { disk, place, plan, part, stores, draft, next_store, next_job: first_job };
        staging.take_up_stores().await?;
        Ok(staging)
    }

    /// Whole store segments of an earlier attempt count; from the first that is not, all go.
    async fn take_up_stores(&mut self) -> Result<(), InstallError> {
        let dir = &self.place.dir;
        let files = self.disk.list(dir).await.map_err(failed("list", dir))?;
        // Of an attempt that was not decided on. By then another segment may have its number, or its place.
        for file in files.iter().filter(|file| parse_file_name(&file.name).is_some()) {
            unlink(&self.disk, &dir.join(&file.name)).await?;
        }
        let mut numbers: Vec<SegmentNumber> =
            files.iter().filter_map(|file| parse_store_file_name(&file.name)).collect();
        numbers.sort_unstable();
        for number in numbers {
            let footer = if number == self.next_store { self.map_store(number).await.ok() } else { None };
            match footer.filter(|footer| footer.first_job() >= self.next_job) {
                Some(footer) => {
                    self.make_durable(&self.place.dir.join(store_file_name(number))).await?;
                    self.note_store(number, footer);
                }
                None => unlink(&self.disk, &self.place.dir.join(store_file_name(number))).await?,
            }
        }
        Ok(())
    }

    /// What was read may be in a cache only: the process that wrote it may have ended before it was synced.
    async fn make_durable(&self, path: &Path) -> Result<(), InstallError> {
        let file = self.disk.open(path, OpenMode::Write).await.map_err(failed("open", path))?;
        file.sync().await.map_err(failed("sync", path))
    }

    async fn map_store(&self, number: SegmentNumber) -> Result<Rc<Footer>, InstallError> {
        let path = self.place.dir.join(store_file_name(number));
        let map = self.disk.map(&path).await.map_err(failed("map", &path))?;
        let footer = open_store(&Bytes::from_owner(map), number, &self.place.identity)?;
        footer.verify()?;
        Ok(Rc::new(footer))
    }

    fn note_store(&mut self, number: SegmentNumber, footer: Rc<Footer>) {
        self.next_job = self.next_job.max(footer.next_job());
        self.next_store = SegmentNumber(number.0 + 1);
        self.stores.push((number, footer));
    }

    // The snapshot.

    /// What is to be pulled next of this snapshot: the offset, or none where it is there in full.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn next_offset(&mut self, name: SnapshotName) -> Result<Option<u64>, InstallError> {
        if self.part.as_ref().is_none_or(|part| part.name != name) {
            self.part = Some(self.take_up_part(name).await?);
        }
        let done = self.part.as_ref().map_or(0, |part| part.done);
        Ok((done < name.bytes).then_some(done))
    }

    fn part_path(&self, name: &SnapshotName) -> PathBuf {
        self.place.dir.join(format!("{:020}-{:032x}.part", name.position.index.0, name.hash))
    }

    /// Whatever an earlier attempt has of this snapshot, up to the first byte that is not as its hashes say; what there is of others
    /// goes.
    async fn take_up_part(&self, name: SnapshotName) -> Result<Part<D::File>, InstallError> {
        let path = self.part_path(&name);
        let dir = &self.place.dir;
        let mut is_there = false;
        for file in self.disk.list(dir).await.map_err(failed("list", dir))? {
            let found = dir.join(&file.name);
            if found == path && file.bytes == name.bytes {
                is_there = true;
            } else if file.name.ends_with(".part") || file.name.ends_with(".snap") {
                unlink(&self.disk, &found).await?;
            }
        }
        let fresh = Part { name, path: path.clone(), file: None, done: 0 };
        if !is_there {
            return Ok(fresh);
        }
        let file = self.disk.open(&path, OpenMode::Write).await.map_err(failed("open", &path))?;
        let done = super::reading::whole_prefix(&file, &name, &self.place.identity).await?;
        if done == 0 {
            unlink(&self.disk, &path).await?;
            return Ok(fresh);
        }
        // Its verified part may be in a cache only.
        file.sync().await.map_err(failed("sync", &path))?;
        Ok(Part { name, path, file: Some(file), done })
    }

    /// A piece of the snapshot came.
    ///
    /// # Errors
    /// If it is not the one that was asked for, or the disk is full or fails.
    pub async fn take_piece(&mut self, offset: u64, bytes: &[u8]) -> Result<(), InstallError> {
        let Some(part) = self.part.as_mut() else { return Ok(()) };
        if offset != part.done || !bytes.len().is_multiple_of(BLOCK_BYTES) {
            return Err(InstallError::Offset { expected: part.done, found: offset });
        }
        if part.file.is_none() {
            // Before room is taken for it.
            let header = Header::decode(bytes.get(..BLOCK_BYTES).ok_or(Invalid::Header)?, &self.place.identity)?;
            if header.name() != part.name {
                return Err(Invalid::Header.into());
            }
            unlink(&self.disk, &part.path).await?;
            let made = self.disk.make_allocated(&part.path, part.name.bytes).await;
            made.map_err(failed("make", &part.path))?;
            let file = self.disk.open(&part.path, OpenMode::Write).await;
            part.file = Some(file.map_err(failed("open", &part.path))?);
        }
        let Some(file) = part.file.as_ref() else { return Ok(()) };
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        let (written, _) = file.write_at(buf, offset).await;
        written.map_err(failed("write", &part.path))?;
        part.done += bytes.len() as u64;
        Ok(())
    }

    /// Verifies the snapshot, which came in full, and restores the machine in it. Its jobs are still to be counted afresh, see
    /// [`Snapshot::recount`], which takes long.
    ///
    /// # Errors
    /// If it is not whole; then it is pulled anew.
    pub async fn finish_snapshot(&mut self) -> Result<(Whole, Snapshot<D::Map>), InstallError> {
        let Some(part) = self.part.as_ref() else { return Err(Invalid::Header.into()) };
        let (path, name) = (part.path.clone(), part.name);
        let finished = self.restore(&path, &name).await;
        if finished.is_err() {
            self.part = None;
            unlink(&self.disk, &path).await?;
        }
        finished
    }

    async fn restore(&self, path: &Path, name: &SnapshotName) -> Result<(Whole, Snapshot<D::Map>), InstallError> {
        let header = verify(&self.disk, path, &self.place.identity).await?;
        if header.name() != *name {
            return Err(Invalid::Header.into());
        }
        let snapshot = open(&self.disk, path, &self.place.identity).await?;
        let machine = snapshot.restore()?;
        let live = machine.capture().live();
        Ok((Whole { frame: header.frame, machine, live }, snapshot))
    }

    // The jobs.

    /// The next jobs to pull: those that live in the snapshot and are not here.
    #[must_use]
    pub fn next_jobs(&self, whole: &Whole, count_max: usize) -> Vec<JobId> {
        let mut live = whole.live.iter();
        live.advance_to(self.next_job.0);
        live.take(count_max).map(JobId).collect()
    }

    /// The first of the jobs that were asked for came.
    ///
    /// # Errors
    /// If they are not what was asked for, or the disk is full or fails.
    pub async fn take_jobs(&mut self, whole: &Whole, asked: &[JobId], arrived: &[Arrived]) -> Result<(), InstallError> {
        for (position, job) in arrived.iter().enumerate() {
            let wrong = |why| InstallError::Job { job: job.job, why };
            if asked.get(position) != Some(&job.job) {
                return Err(wrong("another one was asked for"));
            }
            if job.index <= Index(self.plan.after) || job.index > whole.frame.position.index {
                return Err(wrong("it came with an entry that is not in between"));
            }
            self.push(whole, job).await?;
        }
        Ok(())
    }

    async fn push(&mut self, whole: &Whole, arrived: &Arrived) -> Result<(), InstallError> {
        let Arrived { job, index, wall, enqueue } = arrived;
        let (job, index, wall) = (*job, *index, *wall);
        let wrong = |why| InstallError::Job { job, why };
        let Some((class, _)) = whole_enqueue(enqueue) else {
            return Err(wrong("it is no ENQ with the body that it names"));
        };
        if !whole.machine.is_live(job, &class) {
            return Err(wrong("it is of another class"));
        }
        let bytes = self.draft.as_ref().map_or(0, |draft| draft.record_bytes() + enqueue.len() as u64);
        if bytes > self.place.store_bytes_max || self.draft.as_ref().is_some_and(|draft| !draft.spans(job, index)) {
            self.flush().await?;
        }
        let (number, identity) = (self.next_store, self.place.identity);
        let draft = self.draft.get_or_insert_with(|| StoreDraft::new(number, identity));
        draft.push(&StoredJob { job, index, wall, class, enqueue });
        self.next_job = JobId(job.0 + 1);
        Ok(())
    }

    /// Makes the jobs that came durable.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub async fn flush(&mut self) -> Result<(), InstallError> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        let (number, before) = (draft.number(), self.stores.last().map(|(_, footer)| footer.next_job()));
        let path = self.place.dir.join(store_file_name(number));
        unlink(&self.disk, &path).await?;
        let mut content = Some(draft.finish());
        let pieces = Box::new(move || Ok(content.take()));
        let written = self.disk.make_filled(path.clone(), pieces).await;
        if let Err(error) = written {
            // They are pulled again.
            self.next_job = before.unwrap_or(JobId(self.plan.first_job));
            return Err(failed("write", &path)(error));
        }
        let footer = self.map_store(number).await?;
        self.note_store(number, footer);
        Ok(())
    }

    // The switch.

    /// Whether every job that lives in the snapshot and is not in the log here was pulled: one by one.
    ///
    /// # Errors
    /// If one is lacking.
    pub async fn check_count(&self, whole: &Whole) -> Result<(), InstallError> {
        let (mut lacking, mut found) = (0, 0);
        let mut stores = self.stores.iter().map(|(_, footer)| footer).peekable();
        let mut live = whole.live.iter();
        live.advance_to(self.plan.first_job);
        for (nth, job) in live.map(JobId).enumerate() {
            while stores.next_if(|footer| footer.next_job() <= job).is_some() {}
            lacking += 1;
            found += u64::from(stores.peek().is_some_and(|footer| footer.find(job).is_some()));
            if (nth + 1).is_multiple_of(JOBS_AT_ONCE) {
                yield_now().await;
            }
        }
        if found == lacking { Ok(()) } else { Err(InstallError::Count { lacking, found }) }
    }

    /// Forgets all that was pulled.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn discard(self) -> Result<(), InstallError> {
        clear(&self.disk, &self.place.dir).await
    }

    /// The first job that is not in the log here.
    #[must_use]
    pub fn first_job(&self) -> JobId {
        JobId(self.plan.first_job)
    }

    #[must_use]
    pub fn after(&self) -> Index {
        Index(self.plan.after)
    }

    /// Decides that the snapshot takes the place of the log, durably. `segments` are those above the log's floor with entries
    /// up to the last that is committed here, each with the last of its entries that count; none where no file here can be relied
    /// on. Nobody writes to any file of the shard. Then [`complete`](super::completion::complete) must follow.
    ///
    /// # Errors
    /// If the disk is full or fails: it may have been decided or not, and the shard must be opened anew.
    pub async fn decide(
        self,
        whole: &Whole,
        segments: Option<Vec<(SegmentNumber, Index)>>,
    ) -> Result<(), InstallError> {
        let Staging { disk, place, plan, part, stores, next_store, .. } = self;
        let mut manifest = Manifest::load(&disk, &place.manifest, &place.identity).await?;
        if manifest.next_store.0 > plan.first_store {
            return Err(InstallError::Numbers);
        }
        let Some(part) = part else { return Err(Invalid::Header.into()) };
        let named = place.dir.join(shelf::file_name(whole.frame.position.index));
        disk.rename(&part.path, &named).await.map_err(failed("rename", &part.path))?;
        let (ordinal, number) = next_segment(&disk, &place, &manifest).await?;
        let Frame { position, chain, next_job, .. } = whole.frame;
        make_first_segment(&disk, &place, SegmentEpoch::new(ordinal, chain), number, &whole.frame).await?;
        disk.sync_dir(&place.dir).await.map_err(failed("sync", &place.dir))?;

        let floor = manifest.floor.position.index;
        match segments {
            Some(segments) => manifest.segments.extend(segments.into_iter().filter(|(_, last)| *last > floor)),
            None => (manifest.segments, manifest.stores) = (Vec::new(), Vec::new()),
        }
        manifest.segments.sort_unstable();
        manifest.floor = Floor { position, chain, next_job, ordinal };
        manifest.stores.extend(stores.iter().map(|(number, _)| *number));
        manifest.next_store = next_store;
        manifest.save(&disk, &place.dir.join(MANIFEST), &place.identity).await?;
        Ok(())
    }
}

/// Which ordinal and which number the next segment has.
async fn next_segment<D: Disk>(
    disk: &D,
    place: &InstallPlace,
    manifest: &Manifest,
) -> Result<(u32, SegmentNumber), InstallError> {
    let dir = &place.segments;
    let (mut ordinal, mut number) = (manifest.floor.ordinal, 1);
    for found in disk.list(dir).await.map_err(failed("list", dir))? {
        let Some(SegmentNumber(file)) = parse_file_name(&found.name) else { continue };
        number = number.max(file + 1);
        // One whose header cannot be read is passed over: below the floor its ordinal is, too.
        let own = ordinal_of(disk, &dir.join(&found.name), &place.identity).await?;
        ordinal = own.map_or(ordinal, |own| ordinal.max(own + 1));
    }
    Ok((ordinal, SegmentNumber(number)))
}

/// A log above a floor begins with a segment, so that a missing one shows.
async fn make_first_segment<D: Disk>(
    disk: &D,
    place: &InstallPlace,
    epoch: SegmentEpoch,
    number: SegmentNumber,
    frame: &Frame,
) -> Result<(), InstallError> {
    let index = frame.position.index;
    let header = SegmentHeader {
        number,
        epoch,
        bytes: 2 * BLOCK,
        base: index,
        base_chain: frame.chain,
        durable_upto: index,
        commit: index,
    };
    let mut content = vec![0; 2 * BLOCK_BYTES];
    header.encode(&place.identity, &mut content);
    let path = place.dir.join(file_name(number));
    unlink(disk, &path).await?;
    let mut content = Some(content);
    let pieces = Box::new(move || Ok(content.take()));
    disk.make_filled(path.clone(), pieces).await.map_err(failed("write", &path))?;
    Ok(())
}

/// By its header, where that is whole and can be read.
pub(super) async fn ordinal_of<D: Disk>(
    disk: &D,
    path: &Path,
    identity: &LogIdentity,
) -> Result<Option<u32>, InstallError> {
    let file = disk.open(path, OpenMode::Read).await.map_err(failed("open", path))?;
    if file.bytes() < BLOCK {
        return Ok(None);
    }
    let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
    Ok(match FirstBlock::read(&block, identity) {
        FirstBlock::Header(header) if result.is_ok() => Some(header.epoch.ordinal()),
        _ => None,
    })
}

/// Removes everything, durably; the decision first.
pub(super) async fn clear<D: Disk>(disk: &D, dir: &Path) -> Result<(), InstallError> {
    let files = disk.list(dir).await.map_err(failed("list", dir))?;
    let (decision, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.name == MANIFEST);
    for file in decision.iter().chain(&others) {
        unlink(disk, &dir.join(&file.name)).await?;
    }
    disk.sync_dir(dir).await.map_err(failed("sync", dir))
}

pub(super) async fn unlink<D: Disk>(disk: &D, path: &Path) -> Result<(), InstallError> {
    disk.unlink_if_there(path).await.map_err(failed("remove", path))
}
