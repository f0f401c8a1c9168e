//! What is pulled is believed only as far as it can be checked, and goes on where it broke off.

use super::*;
use crate::snapshot::completion::complete;
use crate::snapshot::install::{Arrived, InstallError, InstallPlace, Staging, Whole};
use crate::types::{LogPosition, Nanos, SnapshotName};
use crate::wal::compaction::Bounds;
use crate::wal::index::SegmentNumber;
use crate::wal::keeper::{Keeper, KeeperPlace};

const JOBS: u64 = 900;
const CHUNK: usize = frame::CHUNK_BYTES;

/// The giver: its snapshot's name and bytes.
fn given() -> (SnapshotName, Vec<u8>) {
    let disk = disk();
    let written = write_one(&disk, &machine(3)).unwrap();
    (written.name, disk.peek(&written.path, 0, written.bytes as usize).unwrap())
}

fn place() -> InstallPlace {
    let dir = |name: &str| Path::new("/shard").join(name);
    InstallPlace {
        dir: dir("install"),
        segments: dir("wal"),
        stores: dir("store"),
        snapshots: dir("snapshots"),
        manifest: dir("manifest"),
        identity: IDENTITY,
        store_bytes_max: 32 << 10,
    }
}

fn puller() -> SimDisk {
    seeded_puller(2)
}

fn seeded_puller(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed, ROOM);
    for dir in ["/shard", "/shard/wal"] {
        block_on(disk.create_dir(Path::new(dir))).unwrap();
    }
    disk
}

fn open_staging(disk: &SimDisk) -> Staging<SimDisk> {
    block_on(Staging::open(disk.clone(), place(), Index::ZERO, JobId(1))).unwrap()
}

fn next_offset(staging: &mut Staging<SimDisk>, name: SnapshotName) -> Option<usize> {
    block_on(staging.next_offset(name)).unwrap().map(|offset| offset as usize)
}

/// Pulls pieces of a chunk until so many bytes have come.
fn pull(staging: &mut Staging<SimDisk>, name: SnapshotName, file: &[u8], upto: usize) {
    while let Some(offset) = next_offset(staging, name).filter(|offset| *offset < upto) {
        let end = (offset + CHUNK).min(file.len());
        block_on(staging.take_piece(offset as u64, &file[offset..end])).unwrap();
    }
}

fn pull_all(staging: &mut Staging<SimDisk>) -> Whole {
    let (name, file) = given();
    pull(staging, name, &file, file.len());
    let (whole, snapshot) = block_on(staging.finish_snapshot()).unwrap();
    assert_eq!(snapshot.recount(), Ok(JOBS));
    whole
}

/// As `machine` puts it.
fn job(job: u64) -> Arrived {
    let session = SessionId { node: NodeId(1), boot: BootEpoch(1), number: 1 };
    let tube = format!("tube {job} {}", "x".repeat(100));
    let class = Class { tube: tube.as_bytes(), priority: 1, ttr_s: 1, delay_s: 0 };
    let command = Command::Enqueue { class, body_hash: body_hash(b""), body: b"" };
    let mut enqueue = Vec::new();
    encode(&Numbered { origin: Origin::Session { session, seq: job }, command }, &mut enqueue);
    Arrived { job: JobId(job), index: Index(job.div_ceil(300)), wall: Nanos(7), enqueue: enqueue.into() }
}

fn pull_jobs(staging: &mut Staging<SimDisk>, whole: &Whole, upto: u64) {
    loop {
        let asked = staging.next_jobs(whole, 50);
        let arrived: Vec<Arrived> = asked.iter().filter(|job| job.0 <= upto).map(|asked| job(asked.0)).collect();
        if arrived.is_empty() {
            return;
        }
        block_on(staging.take_jobs(whole, &asked, &arrived)).unwrap();
    }
}

#[test]
fn s4_a_piece_that_was_not_asked_for_is_refused_and_a_pull_goes_on_where_it_broke_off() {
    let (disk, (name, file)) = (puller(), given());
    let mut staging = open_staging(&disk);
    let wrong = block_on(staging.take_piece(4096, &file[4096..8192]));
    assert!(wrong.is_ok(), "nothing was asked for, so it means nothing");
    pull(&mut staging, name, &file, 2 * CHUNK);
    for offset in [0, CHUNK, file.len() - 4096] {
        let refused = block_on(staging.take_piece(offset as u64, &file[offset..offset + 4096]));
        assert!(matches!(refused, Err(InstallError::Offset { .. })), "{refused:?}");
    }
    // The process ends, and starts again: what is there is verified, chunk by chunk.
    drop(staging);
    let disk = disk.crash(Crash::Power(SectorOdds::OLD));
    let goes_on = next_offset(&mut open_staging(&disk), name).unwrap();
    assert!(goes_on > CHUNK && goes_on < file.len(), "it goes on at {goes_on}");
    // One chunk rots meanwhile.
    let part = block_on(disk.list(Path::new("/shard/install"))).unwrap();
    let part = part.iter().find(|file| file.name.ends_with(".part")).unwrap();
    disk.flip_bit(&Path::new("/shard/install").join(&part.name), (goes_on as u64 - 10) * 8).unwrap();
    let mut staging = open_staging(&disk);
    let back = next_offset(&mut staging, name).unwrap();
    assert!(back < goes_on, "{back} is not before what rotted");
    pull(&mut staging, name, &file, file.len());
    assert_eq!(block_on(staging.finish_snapshot()).unwrap().0.live.len(), JOBS);
    // Another one begins at its beginning.
    let other = SnapshotName { hash: 1, ..name };
    assert_eq!(next_offset(&mut staging, other), Some(0));
}

#[test]
fn s1_a_snapshot_that_is_not_the_one_that_was_offered_is_refused_before_room_is_taken_and_a_damaged_one_at_its_end() {
    let (disk, (name, file)) = (puller(), given());
    for other in [
        SnapshotName { hash: 1, ..name },
        SnapshotName { bytes: 1 << 40, ..name },
        SnapshotName { position: LogPosition::new(Term(2), Index(3)), ..name },
    ] {
        let mut staging = open_staging(&disk);
        assert_eq!(next_offset(&mut staging, other), Some(0));
        assert!(block_on(staging.take_piece(0, &file[..CHUNK])).is_err_and(|error| error.is_of_peer()));
    }
    let mut damaged = file.clone();
    damaged[file.len() / 2] ^= 1;
    let mut staging = open_staging(&disk);
    pull(&mut staging, name, &damaged, file.len());
    assert!(block_on(staging.finish_snapshot()).is_err_and(|error| error.is_of_peer()));
    assert_eq!(next_offset(&mut staging, name), Some(0), "all of it is pulled again");
}

#[test]
fn s1_a_job_that_is_left_out_or_is_not_as_it_was_put_is_refused() {
    let disk = puller();
    let mut staging = open_staging(&disk);
    let whole = pull_all(&mut staging);
    let asked = staging.next_jobs(&whole, 3);
    assert_eq!(asked, [1, 2, 3].map(JobId));
    let with = |change: fn(&mut Arrived)| {
        let mut job = job(1);
        change(&mut job);
        vec![job]
    };
    let of_another_class = |arrived: &mut Arrived| arrived.enqueue = job(2).enqueue;
    let of_another_body = |arrived: &mut Arrived| arrived.enqueue = [&arrived.enqueue[..], b"more"].concat().into();
    for arrived in [
        vec![job(2)],
        vec![job(1), job(3)],
        with(of_another_class),
        with(of_another_body),
        with(|arrived| arrived.enqueue = arrived.enqueue.slice(1..)),
        with(|arrived| arrived.index = Index(4)),
        with(|arrived| arrived.index = Index::ZERO),
    ] {
        let mut staging = open_staging(&disk);
        let refused = block_on(staging.take_jobs(&whole, &asked, &arrived));
        assert!(matches!(refused, Err(InstallError::Job { .. })), "{arrived:?}: {refused:?}");
    }
    // Nobody gives the last: it is not taken for complete.
    pull_jobs(&mut staging, &whole, JOBS - 1);
    block_on(staging.flush()).unwrap();
    assert!(matches!(
        block_on(staging.check_count(&whole)),
        Err(InstallError::Count { lacking: JOBS, found }) if found == JOBS - 1
    ));
    pull_jobs(&mut staging, &whole, JOBS);
    block_on(staging.flush()).unwrap();
    block_on(staging.check_count(&whole)).unwrap();
}

#[test]
fn jobs_that_came_before_a_crash_need_not_come_again_and_the_decision_puts_all_in_its_place() {
    let disk = puller();
    let mut staging = open_staging(&disk);
    let whole = pull_all(&mut staging);
    pull_jobs(&mut staging, &whole, 500);
    drop(staging);
    let disk = disk.crash(Crash::Power(SectorOdds::OLD));
    let mut staging = open_staging(&disk);
    let whole = pull_all(&mut staging);
    let next = staging.next_jobs(&whole, 1)[0];
    assert!(next > JobId(200) && next <= JobId(501), "it goes on at job {next}");
    pull_jobs(&mut staging, &whole, JOBS);
    block_on(staging.flush()).unwrap();
    block_on(staging.check_count(&whole)).unwrap();
    assert!(!block_on(complete(&disk, &place())).unwrap(), "nothing is decided");
    block_on(staging.decide(&whole, None)).unwrap();
    let disk = disk.crash(Crash::Power(SectorOdds::OLD));
    assert!(block_on(complete(&disk, &place())).unwrap());
    assert!(!block_on(complete(&disk, &place())).unwrap(), "it is done once");
    let keeper = open_installed(&disk);
    assert!(keeper.pieces().len() > 2, "they fill some store segments");
}

/// The log below the floor, with every job in it; above it a first segment.
fn open_installed(disk: &SimDisk) -> Keeper<SimDisk> {
    let InstallPlace { segments, stores, manifest, identity, .. } = place();
    let bounds = Bounds { waste_percent: 20, store_bytes_max: 1 << 20 };
    let place = KeeperPlace { segments: segments.clone(), stores, manifest, identity, bounds };
    let keeper = block_on(Keeper::open(disk.clone(), place)).unwrap();
    assert_eq!(keeper.manifest().floor.position, LogPosition::new(Term(1), Index(3)));
    let rows: u64 = keeper.pieces().iter().map(|piece| piece.footer.jobs() as u64).sum();
    assert_eq!(rows, JOBS);
    let first = segments.join(crate::wal::segment::file_name(SegmentNumber(1)));
    assert!(disk.peek(&first, 0, 8192).is_ok(), "the log above begins with a segment");
    keeper
}

/// All of it, from what an earlier attempt left to the decision.
async fn install(disk: &SimDisk, name: SnapshotName, file: &[u8]) -> Result<(), InstallError> {
    let mut staging = Staging::open(disk.clone(), place(), Index::ZERO, JobId(1)).await?;
    while let Some(offset) = staging.next_offset(name).await? {
        let end = (offset as usize + CHUNK).min(file.len());
        staging.take_piece(offset, &file[offset as usize..end]).await?;
    }
    let (whole, _) = staging.finish_snapshot().await?;
    loop {
        let asked = staging.next_jobs(&whole, 50);
        if asked.is_empty() {
            break;
        }
        let arrived: Vec<Arrived> = asked.iter().map(|asked| job(asked.0)).collect();
        staging.take_jobs(&whole, &asked, &arrived).await?;
    }
    staging.flush().await?;
    staging.check_count(&whole).await?;
    staging.decide(&whole, None).await
}

/// What the first process wrote the second one reads, from a cache that the power takes away: it must not rely on it as it is.
#[test]
fn a_process_that_ends_anywhere_and_then_the_power_lose_nothing_that_was_decided_on() {
    let (name, file) = given();
    let mut stops = 0;
    // What is left of a write that was under way is another chance each time.
    for (stop_at, seed) in (1..).flat_map(|stop_at| (0..4).map(move |seed| (stop_at, seed))) {
        let disk = seeded_puller(seed);
        disk.stop_at(disk.changes() + stop_at);
        let ended = block_on(install(&disk, name, &file)).is_err();
        let disk = disk.crash(Crash::Process);
        if !block_on(complete(&disk, &place())).unwrap() {
            block_on(install(&disk, name, &file)).unwrap();
        }
        let disk = disk.crash(Crash::Power(SectorOdds::OLD));
        block_on(complete(&disk, &place())).unwrap();
        open_installed(&disk);
        let snapshot = place().snapshots.join(shelf::file_name(name.position.index));
        block_on(verify(&disk, &snapshot, &IDENTITY)).unwrap_or_else(|error| panic!("stopped at {stop_at}: {error}"));
        if !ended {
            break;
        }
        stops += 1;
    }
    assert!(stops > 20, "{stops} changes of the disk make up an install");
}

/// Behind a start the log goes on, and grows: a decision that came back with an older state of its directory would take that away.
#[test]
fn what_a_start_has_completed_is_not_completed_again_after_the_power_went() {
    let (name, file) = given();
    let mut stops = 0;
    for stop_at in 1.. {
        let disk = puller();
        block_on(install(&disk, name, &file)).unwrap();
        disk.stop_at(disk.changes() + stop_at);
        let ended = block_on(complete(&disk, &place())).is_err();
        let disk = disk.crash(Crash::Process);
        block_on(complete(&disk, &place())).unwrap();
        let disk = disk.crash(Crash::Power(SectorOdds::OLD));
        assert!(!block_on(complete(&disk, &place())).unwrap(), "stopped at {stop_at}");
        if !ended {
            break;
        }
        stops += 1;
    }
    assert!(stops > 10, "{stops} changes of the disk complete an install");
}

/// Another leader's newest snapshot may be older than the one that was being pulled.
#[test]
fn jobs_of_a_later_snapshot_do_not_pass_for_those_of_an_earlier_one() {
    let disk = puller();
    let mut staging = open_staging(&disk);
    let mut whole = pull_all(&mut staging);
    whole.live.remove(7);
    pull_jobs(&mut staging, &whole, JOBS);
    block_on(staging.flush()).unwrap();
    whole.live.insert(7);
    assert!(staging.next_jobs(&whole, 1).is_empty());
    let lacking = block_on(staging.check_count(&whole));
    assert!(matches!(lacking, Err(InstallError::Count { lacking: JOBS, found }) if found == JOBS - 1), "{lacking:?}");
    block_on(staging.discard()).unwrap();
    assert_eq!(open_staging(&disk).next_jobs(&whole, 1), [JobId(1)]);
}
