//! The simulated disk keeps what was made durable, and nothing else for certain.

use super::block_on::block_on;
use super::*;

const ROOM: u64 = 1 << 30;

fn buf(byte: u8, blocks: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(blocks * BLOCK_BYTES);
    buf.fill(byte);
    buf
}

fn write(disk: &SimDisk, path: &Path, byte: u8, offset: u64) -> io::Result<()> {
    block_on(async { disk.open(path, OpenMode::Write).await?.write_at(buf(byte, 1), offset).await.0 })
}

/// A disk with one file of four blocks of zeros.
fn with_file() -> (SimDisk, PathBuf) {
    let disk = SimDisk::new(1, ROOM);
    let path = PathBuf::from("/file");
    block_on(disk.make_zeroed(path.clone(), 4 * BLOCK_BYTES as u64)).unwrap();
    (disk, path)
}

#[test]
fn what_was_written_survives_any_crash() {
    for crash in [Crash::Process, Crash::Power(SectorOdds::OLD)] {
        let (disk, path) = with_file();
        write(&disk, &path, 7, 4096).unwrap();
        let disk = disk.crash(crash);
        assert_eq!(disk.peek(&path, 4095, 3).unwrap(), [0, 7, 7]);
    }
}

#[test]
fn a_write_in_flight_meets_each_fate() {
    let fate = |odds| {
        let (disk, path) = with_file();
        disk.stop_at(disk.changes() + 1);
        write(&disk, &path, 7, 0).unwrap_err();
        disk.crash(Crash::Power(odds)).peek(&path, 0, 4096).unwrap()
    };
    assert!(fate(SectorOdds::OLD).iter().all(|&byte| byte == 0));
    assert!(fate(SectorOdds::NEW).iter().all(|&byte| byte == 7));
    let torn = fate(SectorOdds { new: 0.0, torn: 1.0, garbage: 0.0 });
    assert!(torn.chunks(SECTOR_BYTES).all(|sector| sector.first() == Some(&7) && sector.last() == Some(&0)));
    let garbage = fate(SectorOdds { new: 0.0, torn: 0.0, garbage: 1.0 });
    assert!(garbage.iter().any(|&byte| byte != 0 && byte != 7));
}

#[test]
fn what_a_dead_process_wrote_can_be_read_and_is_lost_with_the_power_unless_it_is_synced() {
    let visible_after = |syncs: bool| {
        let (disk, path) = with_file();
        disk.stop_at(disk.changes() + 1);
        write(&disk, &path, 7, 0).unwrap_err();
        let disk = disk.crash(Crash::Process);
        let seen = disk.peek(&path, 0, 4096).unwrap();
        assert!(seen.contains(&7), "with this seed some sectors reached the cache");
        if syncs {
            block_on(async { disk.open(&path, OpenMode::Read).await?.sync().await }).unwrap();
        }
        disk.crash(Crash::Power(SectorOdds::OLD)).peek(&path, 0, 4096).unwrap() == seen
    };
    assert!(visible_after(true));
    assert!(!visible_after(false));
}

#[test]
fn a_name_is_durable_only_when_its_directory_was_synced() {
    let disk = SimDisk::new(1, ROOM);
    let path = PathBuf::from("/new");
    block_on(disk.open(&path, OpenMode::Create)).map(|_| ()).unwrap();
    assert_eq!(disk.durable_image().files(), []);
    block_on(disk.sync_dir(Path::new("/"))).unwrap();
    assert_eq!(disk.durable_image().files(), [(path, 0)]);
}

#[test]
fn a_replaced_file_is_old_or_new_at_every_crash_and_never_between() {
    let path = PathBuf::from("/small");
    let mut seen = std::collections::BTreeSet::new();
    for stop in 1..10 {
        for seed in 0..8 {
            let disk = SimDisk::new(seed, ROOM);
            block_on(disk.replace_small(&path, b"old")).unwrap();
            disk.stop_at(disk.changes() + stop);
            let done = block_on(disk.replace_small(&path, b"newer")).is_ok();
            let disk = disk.crash(Crash::Power(SectorOdds { new: 0.3, torn: 0.3, garbage: 0.3 }));
            let content = block_on(disk.read_small(&path, 100)).unwrap().unwrap();
            assert!(content == b"newer" || (content == b"old" && !done), "stopped at {stop}");
            seen.insert(content);
        }
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_full_disk_refuses_to_grow() {
    let disk = SimDisk::new(1, 8 * BLOCK_BYTES as u64);
    let full = block_on(disk.make_zeroed("/big".into(), 9 * BLOCK_BYTES as u64)).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    block_on(disk.make_allocated(Path::new("/fits"), 8 * BLOCK_BYTES as u64)).unwrap();
    assert_eq!(block_on(disk.free_bytes(Path::new("/"))).unwrap(), 0);
}

#[test]
fn unreadable_sectors_fail_until_they_are_written_again() {
    let (disk, path) = with_file();
    disk.make_unreadable(&path, 4096, 1).unwrap();
    let read = |offset| {
        block_on(async { disk.open(&path, OpenMode::Read).await?.read_at(AlignedBuf::zeroed(4096), offset).await.0 })
    };
    read(0).unwrap();
    read(4096).unwrap_err();
    write(&disk, &path, 1, 4096).unwrap();
    read(4096).unwrap();
}

#[test]
fn faults_strike_when_their_chance_is_one() {
    let (disk, path) = with_file();
    disk.set_faults(Faults { write_error: 1.0, ..Faults::default() });
    write(&disk, &path, 1, 0).unwrap_err();
    disk.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
    write(&disk, &path, 1, 0).unwrap_err();
    disk.set_faults(Faults { misdirected_write: 1.0, ..Faults::default() });
    write(&disk, &path, 9, 8192).unwrap();
    assert_ne!(disk.peek(&path, 8192, 1).unwrap(), [9]);
    disk.set_faults(Faults { lying_flush: true, ..Faults::default() });
    write(&disk, &path, 8, 0).unwrap();
    assert_ne!(disk.crash(Crash::Power(SectorOdds::OLD)).peek(&path, 0, 1).unwrap(), [8]);
}

#[test]
fn handles_of_an_earlier_life_do_nothing() {
    let (disk, path) = with_file();
    let file = block_on(disk.open(&path, OpenMode::Write)).unwrap_or_else(|error| panic!("{error}"));
    let next = disk.crash(Crash::Process);
    block_on(file.write_at(buf(1, 1), 0)).0.unwrap_err();
    assert_eq!(next.peek(&path, 0, 1).unwrap(), [0]);
}

#[test]
fn the_same_seed_crashes_the_same_way() {
    let image = |seed| {
        let disk = SimDisk::new(seed, ROOM);
        let path = PathBuf::from("/file");
        block_on(disk.make_zeroed(path.clone(), 4 * BLOCK_BYTES as u64)).unwrap();
        disk.stop_at(disk.changes() + 1);
        write(&disk, &path, 7, 0).unwrap_err();
        let odds = SectorOdds { new: 0.25, torn: 0.25, garbage: 0.25 };
        disk.crash(Crash::Power(odds)).peek(&path, 0, 4096).unwrap()
    };
    assert_eq!(image(3), image(3));
    assert_ne!(image(3), image(4));
}

/// Three pieces that are not cut where the disk writes.
fn pieces() -> Pieces {
    let mut pieces = [vec![1; 5], vec![2; 200_000], vec![3; 100]].into_iter();
    Box::new(move || Ok(pieces.next()))
}

#[test]
fn a_filled_file_is_mapped_as_it_was_given_and_durable_when_it_is_done() {
    let disk = SimDisk::new(1, ROOM);
    let path = PathBuf::from("/filled");
    let bytes = block_on(disk.make_filled(path.clone(), pieces())).unwrap();
    assert_eq!(bytes, 200_105_u64.next_multiple_of(BLOCK_BYTES as u64));
    let disk = disk.crash(Crash::Power(SectorOdds::OLD));
    let map = block_on(disk.map(&path)).unwrap();
    assert_eq!(map.as_ref().len() as u64, bytes);
    assert!(map.as_ref()[..5].iter().all(|&byte| byte == 1) && map.as_ref()[5..200_005].iter().all(|&byte| byte == 2));
    assert!(map.as_ref()[200_105..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_file_that_could_not_be_filled_is_not_there() {
    for failing in 0..3 {
        let disk = SimDisk::new(1, if failing == 0 { 150_000 } else { ROOM });
        if failing == 1 {
            disk.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
        }
        let mut given = pieces();
        let pieces: Pieces = Box::new(move || match given()? {
            Some(piece) if failing == 2 && piece.len() == 100 => Err(io::Error::other("no such piece")),
            piece => Ok(piece),
        });
        block_on(disk.make_filled("/filled".into(), pieces)).unwrap_err();
        assert_eq!(disk.files(), []);
    }
}

#[test]
fn a_crash_while_a_file_is_filled_leaves_none_or_a_part_of_it() {
    let mut lengths = BTreeSet::new();
    for changes in 1..=6 {
        let disk = SimDisk::new(1, ROOM);
        disk.stop_at(changes);
        let filled = block_on(disk.make_filled("/filled".into(), pieces()));
        assert_eq!(filled.is_ok(), changes == 6, "one creation, two writes, a sync and a sync of the directory");
        lengths.extend(disk.crash(Crash::Process).files().first().map(|file| file.1));
    }
    assert!(lengths.len() > 2, "{lengths:?}");
}
