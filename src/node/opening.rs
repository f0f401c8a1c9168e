//! From a directory to shards that are ready to run: identity, boot epoch, vote, log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::core::Setup;
use super::installing::install_place;
use super::progress::Progress;
use super::restoring::{self, Restored};
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::lock::LockError;
use crate::io::startup::{self, Occupancy};
use crate::io::uring::create_directory;
use crate::io::{Disk, Runtime, is_full};
use crate::net::standing::Standing;
use crate::raft::message::Vote;
use crate::raft::{self, Log, Membership};
use crate::shard::giving::Kept;
use crate::shard::{Moment, Recovered, Shard, ShardConfig};
use crate::snapshot::Snapshot;
use crate::snapshot::completion::complete;
use crate::snapshot::install::InstallError;
use crate::types::{ClusterId, Incarnation, Index, JobId, LogPosition, Nanos, NodeId, ShardId, StartId, Term, Times};
use crate::wal::catalog::lowest_uncovered;
use crate::wal::compaction::Bounds;
use crate::wal::directory::{
    self, DirectoryError, Expected, NodeIdentity, Opened, manifest_path, segments_dir, snapshots_dir, stores_dir,
    vote_path,
};
use crate::wal::entry::LogIdentity;
use crate::wal::inventory::Inventory;
use crate::wal::keeper::{Keeper, KeeperPlace};
use crate::wal::manifest::Manifest;
use crate::wal::reader::LogReader;
use crate::wal::recovery::{self, LogPlace, recover};
use crate::wal::rows::Rows;
use crate::wal::segment::SegmentSizes;
use crate::wal::store::StoreReader;
use crate::wal::vote::VoteFile;
use crate::wal::writer::Writer;

/// What the files of a shard give.
pub enum Opening<D: Disk> {
    Ready(Box<OpenedShard<D>>),
    /// Entries of its log were durable and are damaged; peers may have copies.
    Faulty(Box<FaultyShard>),
}

impl<D: Disk> Opening<D> {
    /// How far the shard's promises reach, durably.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Opening::Ready(opened) => opened.shard.standing(),
            Opening::Faulty(faulty) => Standing { term: faulty.term, index: faulty.inventory.last() },
        }
    }
}

/// A shard that cannot run yet.
pub struct FaultyShard {
    pub inventory: Inventory,
    /// The last term that it durably knew.
    pub term: Term,
    /// In the operator's words.
    pub why: String,
    /// What of the files here can be relied on if a snapshot takes the log's place: those below the log's floor, and so all jobs
    /// below the first above it; or nothing.
    pub floor: Option<(Index, JobId)>,
    /// Copies of entries are not enough: what stands below the log is lost.
    pub needs_snapshot: bool,
}

/// A log that begins above what any snapshot here is of.
#[derive(Debug, Error)]
#[error(
    "shard {shard}: the log begins above entry {floor} (index@term), and no snapshot in {dir} can be used that is of it or of \
     a later one; do not delete anything: restore the files of that directory from a backup (a single node has nobody to take \
     one from)",
    dir = dir.display()
)]
struct NoSnapshot {
    shard: ShardId,
    floor: LogPosition,
    dir: PathBuf,
}

/// Files and the state above them that do not belong together.
#[derive(Debug, Error)]
#[error(
    "shard {shard}: job {job} lives in the newest snapshot, of entry {snapshot} (index@term), and by the ranges of ids that they state \
     none of the files in {dir} and of the entries in the log can hold it: files of two times were mixed, or one is lost; do not \
     delete anything: restore the whole of that directory from one backup (a single node has nobody to take the job from)",
    dir = dir.display()
)]
struct Uncovered {
    shard: ShardId,
    job: JobId,
    snapshot: LogPosition,
    dir: PathBuf,
}

/// A shard that can run, with the files it writes to.
pub struct OpenedShard<D: Disk> {
    pub shard: Shard,
    pub writer: Writer<D>,
    pub vote_file: VoteFile<D>,
    pub keeper: Keeper<D>,
    /// What its machine was restored from.
    pub snapshot: Option<Snapshot<D::Map>>,
    pub entries: usize,
    pub committed: Index,
}

/// Looks at the directory before anything is changed there.
///
/// # Errors
/// It is no directory, or something else's.
pub fn look_at(data: &Path) -> Result<Occupancy, Fatal> {
    let path = data.to_path_buf();
    match startup::look_at(data, directory::is_ours, directory::is_tolerated) {
        Ok(Occupancy::NotADirectory) => Err(Fatal::NotADirectory { path }),
        Ok(Occupancy::Foreign { holds }) => Err(Fatal::Foreign { path, holds }),
        Ok(Occupancy::Binlog { file }) => Err(Fatal::Binlog { path, file }),
        Ok(standing) => Ok(standing),
        Err(error) => Err(Fatal::DirectoryNotWritable { path, why: error.to_string() }),
    }
}

/// The directory exists from now on, also after a power cut, and its disk can hold a log. What it is to lie in must be there:
/// where a volume is not mounted, or a path is misspelt, an empty queue would be served from another disk.
///
/// # Errors
/// It can't be made, it is something else's, or its disk is none for a log; then nothing is left of it.
pub fn make_directory(data: &Path) -> Result<(), Fatal> {
    let standing = look_at(data)?;
    create_directory(data).map_err(|error| cannot_make(data, &error))?;
    startup::check_directory(data).map_err(|error| {
        if standing == Occupancy::Nothing {
            // It is empty. If it cannot be removed, that is no worse.
            let _ = std::fs::remove_dir(data);
        }
        error.into()
    })
}

fn cannot_make(data: &Path, error: &io::Error) -> Fatal {
    let path = data.to_path_buf();
    let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty());
    match (error.kind(), parent) {
        (io::ErrorKind::NotFound, Some(parent)) => {
            Fatal::CannotMake { path, why: format!("its parent {} does not exist", parent.display()) }
        }
        (io::ErrorKind::NotADirectory, Some(parent)) => {
            Fatal::CannotMake { path, why: format!("its parent {} is not a directory", parent.display()) }
        }
        _ => Fatal::DirectoryNotWritable { path, why: error.to_string() },
    }
}

#[must_use]
pub fn locked(data: &Path, error: &LockError) -> Fatal {
    let path = data.to_path_buf();
    match error {
        LockError::Held { holder, .. } => Fatal::Locked { path, holder: format!("process {holder}") },
        LockError::Io { .. } => Fatal::DirectoryNotWritable { path, why: error.to_string() },
    }
}

fn expected(config: &Config) -> Expected {
    Expected {
        cluster: config.cluster.clone(),
        cluster_id: config.cluster_id,
        node: config.node,
        shards: config.shards,
        members: config.members.keys().copied().collect(),
    }
}

/// Prepares a directory for a member, with an incarnation drawn at random; for a cluster that is drawn, too, where the
/// configuration does not say which.
///
/// # Errors
/// The directory holds something already, or can't be written.
pub async fn prepare<R: Runtime>(rt: &R, config: &Config) -> Result<ClusterId, Fatal> {
    let draw = || (u128::from(rt.random()) << 64) | u128::from(rt.random());
    let cluster_id = config.cluster_id.unwrap_or_else(|| ClusterId(draw()));
    let identity = NodeIdentity::new(&expected(config), cluster_id, Incarnation(draw()));
    directory::create(rt.disk(), &config.data, &identity).await?;
    Ok(cluster_id)
}

/// Opens the directory and begins a new boot. An embedded node prepares its own directory on its first start; a member of
/// a cluster never invents an identity. What it writes on a full disk takes the room that is held for it, or else that of a spare segment.
///
/// # Errors
/// The directory is not prepared, or not this node's.
pub async fn open_node<R: Runtime>(rt: &R, config: &Config) -> Result<Opened, Fatal> {
    directory::give_up_room(rt.disk(), &config.data).await?;
    let start_id = StartId(rt.random());
    loop {
        match directory::open(rt.disk(), &config.data, &expected(config), start_id).await {
            Err(DirectoryError::NotPrepared { .. }) if config.embedded => drop(prepare(rt, config).await?),
            Err(DirectoryError::Io { source, .. }) if is_full(&source) && remove_a_spare(rt, config).await? => {}
            opened => return Ok(opened?),
        }
    }
}

/// False where there is none.
async fn remove_a_spare<R: Runtime>(rt: &R, config: &Config) -> Result<bool, Fatal> {
    let identity = directory::identify(rt.disk(), &config.data).await?;
    for shard in (0..identity.shards).map(ShardId) {
        let manifest = manifest_of(rt, config, shard, &identity.log(shard)).await?;
        let kept: Vec<_> = manifest.segments.iter().map(|(number, _)| *number).collect();
        if let Some(path) = recovery::remove_a_spare(rt.disk(), &segments_dir(&config.data, shard), &kept).await? {
            tracing::warn!(%shard, "the disk is full: spare segment {} was removed, to start at all", path.display());
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads of a shard's files.
pub struct Readers<D: Disk> {
    pub log: LogReader<D>,
    pub stores: StoreReader<D>,
}

#[must_use]
pub fn readers<R: Runtime>(rt: &R, config: &Config, opened: &Opened, shard: ShardId) -> Readers<R::Disk> {
    let (disk, identity) = (rt.disk(), opened.identity.log(shard));
    Readers {
        log: LogReader::new(disk.clone(), segments_dir(&config.data, shard), identity),
        stores: StoreReader::new(disk.clone(), stores_dir(&config.data, shard), identity),
    }
}

/// Recovers one shard from its files. `given_up`: from this entry on a majority has shown that it was never committed; where
/// it is the first that is damaged, the log ends before it.
///
/// # Errors
/// The log or the vote can't be trusted, or the disk fails; or the log is damaged and there are no peers.
pub async fn open_shard<R: Runtime>(
    rt: &R,
    setup: &Setup,
    opened: &Opened,
    shard: ShardId,
    given_up: Option<Index>,
) -> Result<Opening<R::Disk>, Fatal> {
    let config = &setup.config;
    let segments = segments_dir(&config.data, shard);
    let place = install_place(config, opened.identity.log(shard));
    let was_installed = complete(rt.disk(), &place).await;
    let failed = |error: InstallError| Fatal::WriteFailed { path: place.dir.clone(), why: error.to_string() };
    if was_installed.map_err(failed)? {
        tracing::info!(%shard, "a snapshot of another node is in its place");
    }
    let vote_path = vote_path(&config.data, shard);
    let (mut vote_file, mut vote) = VoteFile::open(rt.disk(), &vote_path, opened.identity.vote(shard)).await?;
    let identity = opened.identity.log(shard);
    let tunables = &config.tunables;
    let sizes = SegmentSizes { first_bytes: tunables.segment_bytes_min, max_bytes: tunables.segment_bytes_max };
    let keeper = match Keeper::open(rt.disk().clone(), keeper_place(config, shard, identity)).await {
        Err(error) if error.is_damage() && config.members.len() > 1 => {
            let place = LogPlace::above(segments, identity, sizes, &manifest_of(rt, config, shard, &identity).await?);
            let inventory = recover(rt.disk(), &place, |_, _| {}).await?.inventory();
            let (term, why) = (vote.term, error.to_string());
            let faulty = FaultyShard { inventory, term, why, floor: None, needs_snapshot: true };
            return Ok(Opening::Faulty(Box::new(faulty)));
        }
        opened => opened?,
    };
    let place = LogPlace::above(segments, identity, sizes, keeper.manifest());
    let mut rows = Rows::new(place.next_job);
    let snapshots = snapshots_dir(&config.data, shard);
    let Restored { machine, snapshot, is_newest } = restoring::restore(rt, &snapshots, &identity).await?;
    let mut last_times = Times::default();
    let mut unreadable = None;
    let mut progress = Progress::new(rt, setup, shard, &place).await;
    let mut recovered = recover(rt.disk(), &place, |entry, _| {
        progress.note_read(entry);
        last_times = entry.times;
        if unreadable.is_none()
            && let Err(error) = rows.push(entry)
        {
            unreadable = Some(format!("shard {shard}, entry {}: {error}", entry.meta.position));
        }
    })
    .await?;
    if config.members.len() == 1 {
        recovered = recovered.require_whole()?;
    }
    match recovered.faulty.first() {
        None => {}
        Some(first) if Some(first.index) == given_up => {
            // They may have been acknowledged in this term. That they are no part of any leader's log is true in a later one.
            vote = Vote { term: vote.term.next(), voted_for: None };
            vote_file.save(vote).await?;
            recovered = recovered.give_up_faulty();
        }
        Some(_) => {
            let (inventory, term) = (recovered.inventory(), vote.term);
            let why = recovered.require_whole().err().map(|error| error.to_string()).unwrap_or_default();
            let floor = Some((place.base.index, place.next_job));
            return Ok(Opening::Faulty(Box::new(FaultyShard { inventory, term, why, floor, needs_snapshot: false })));
        }
    }
    if let Some(why) = unreadable {
        return Err(Fatal::FaultyLog(why));
    }
    if let Some(cut) = &recovered.cut {
        tracing::info!(%shard, "an incomplete end of the log was dropped, as after a power cut: {cut:?}");
    }
    // What a snapshot holds was committed, whatever the log itself has learnt of it.
    let committed = recovered.committed.max(machine.applied().index);
    if machine.applied().index < place.base.index {
        let lost = NoSnapshot { shard, floor: place.base, dir: snapshots };
        if config.members.len() == 1 {
            return Err(Fatal::FaultyLog(lost.to_string()));
        }
        // Its term, its vote and its log are whole, so it keeps its word; but there is no state to serve from.
        let (inventory, term, why) = (recovered.inventory(), vote.term, lost.to_string());
        let floor = Some((place.base.index, place.next_job));
        return Ok(Opening::Faulty(Box::new(FaultyShard { inventory, term, why, floor, needs_snapshot: true })));
    }
    let live = snapshot.as_ref().map(|_| Arc::new(machine.capture().live()));
    // Files in which nothing lived by a newer snapshot may be gone. Where that cannot be used any more, what ended between the two lives once
    // more until it is replayed.
    let mut held: Vec<_> = keeper.pieces().iter().filter_map(|piece| piece.footer.ids()).collect();
    held.push(place.next_job..rows.next_job());
    if let Some(live) = live.as_ref().filter(|_| is_newest)
        && let Some(job) = lowest_uncovered(held, live)
    {
        let (snapshot, dir) = (machine.applied(), directory::shard_dir(&config.data, shard));
        let why = Uncovered { shard, job, snapshot, dir }.to_string();
        if config.members.len() == 1 {
            return Err(Fatal::FaultyLog(why));
        }
        let (inventory, term) = (recovered.inventory(), vote.term);
        return Ok(Opening::Faulty(Box::new(FaultyShard { inventory, term, why, floor: None, needs_snapshot: true })));
    }
    let mut log = Log::new(place.base, place.base_chain);
    for meta in &recovered.metas {
        log.append(*meta);
    }
    let moment = Moment { now: rt.now(), wall: rt.wall() };
    let entries = recovered.metas.len();
    if let Some(snapshot) = &snapshot {
        let frame = snapshot.frame();
        let index = frame.position.index;
        restoring::check(frame, recovered.last, log.position_at(index).zip(log.chain_at(index)))?;
    }
    let mut shard = Shard::new(
        shard_config(setup, opened, identity, rt.random()),
        Recovered { vote, machine, log, pieces: keeper.pieces(), index: recovered.index, rows, committed, last_times },
        moment,
    );
    if let Some((snapshot, live)) = snapshot.as_ref().zip(live) {
        shard.handle_snapshot_found(Kept { name: snapshot.header.name(), live });
    }
    let writer = recovered.writer;
    let opened = OpenedShard { shard, writer, vote_file, keeper, snapshot, entries, committed };
    Ok(Opening::Ready(Box::new(opened)))
}

async fn manifest_of<R: Runtime>(
    rt: &R,
    config: &Config,
    shard: ShardId,
    identity: &LogIdentity,
) -> Result<Manifest, Fatal> {
    Ok(Manifest::load(rt.disk(), &manifest_path(&config.data, shard), identity).await?)
}

/// The largest store segment: it is put together in memory.
pub const STORE_BYTES_MAX: u64 = 16 << 20;

fn keeper_place(config: &Config, shard: ShardId, identity: LogIdentity) -> KeeperPlace {
    KeeperPlace {
        segments: segments_dir(&config.data, shard),
        stores: stores_dir(&config.data, shard),
        manifest: manifest_path(&config.data, shard),
        identity,
        bounds: Bounds {
            waste_percent: config.tunables.compaction_waste_percent.into(),
            store_bytes_max: config.tunables.segment_bytes_max.min(STORE_BYTES_MAX),
        },
    }
}

fn shard_config(setup: &Setup, opened: &Opened, log: LogIdentity, seed: u64) -> ShardConfig {
    let config = &setup.config;
    let tunables = &config.tunables;
    let election = tunables.election_timeout_ms;
    ShardConfig {
        node: config.node,
        boot: opened.boot,
        log,
        raft: raft::Config {
            election_timeout_min: Nanos::from_millis(election),
            election_timeout_max: Nanos::from_millis(2 * election),
            heartbeat_interval: Nanos::from_millis(tunables.heartbeat_ms),
            in_flight_messages_max: tunables.appends_in_flight_max as usize,
            in_flight_bytes_max: tunables.appends_in_flight_bytes_max,
            ..raft::Config::new(config.node)
        },
        membership: Membership::new(config.members.keys().copied(), [])
            .expect("a configuration names its members once"),
        entry_bytes_target: tunables.entry_bytes_max as usize,
        cache_bytes_max: usize::try_from(tunables.recent_bytes_max).unwrap_or(usize::MAX),
        lagging_bytes_max: tunables.lagging_bytes_max,
        // Live connections hold to the limit themselves; as much again is for those that are gone, and for what goes with a body.
        outstanding_bytes_max: usize::try_from(tunables.bodies_bytes_max.saturating_mul(2)).unwrap_or(usize::MAX),
        answers: Arc::clone(&setup.door.answers),
        marker_bytes: tunables.snapshot_every_bytes,
        no_quorum_timeout: Nanos::from_millis(tunables.no_quorum_timeout_ms),
        preferred_leader: preferred_leader(config, log.shard),
        seed,
    }
}

/// Shards take turns over the members. A single shard leads from wherever it was elected: to move it would gain nothing.
fn preferred_leader(config: &Config, shard: ShardId) -> Option<NodeId> {
    let turn = usize::from(shard.0) % config.members.len().max(1);
    config.members.keys().nth(turn).copied().filter(|_| config.shards > 1)
}
