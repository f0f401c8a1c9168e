//! Files that rot while nobody looks: told from files in which a job is not, and made whole.

use super::*;
use crate::wal::catalog::BadRows;

/// What another node has of every job that lives here.
fn copies(bench: &Bench) -> BTreeMap<JobId, JobCopy> {
    let mut wanted = bench.live.clone();
    wanted |= bench.snapshots.last().map(|snapshot| snapshot.live.clone()).unwrap_or_default();
    let copy = |job: JobId| {
        let found = bench.catalog.find(job).expect("rows are whole").expect("it lives");
        let (index, at) = found.at.expect("it is durable");
        let enqueue = match at {
            EnqueueAt::Log { placement, offset, bytes } => {
                block_on(bench.reader.read_payload(&placement, offset, bytes)).unwrap()
            }
            EnqueueAt::Store(at) => block_on(bench.stores.read(&at)).unwrap(),
        };
        JobCopy { job, index, wall: found.enqueued_wall, enqueue }
    };
    wanted.iter().map(|job| (JobId(job), copy(JobId(job)))).collect()
}

/// A bench with segments and store segments below its floor.
fn aged_with_stores(seed: u64) -> Bench {
    let mut bench = aged(seed);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let first = bench.live.min().unwrap();
    let middle = bench.live.select(bench.live.len() / 2).unwrap();
    let dead: Vec<u64> =
        bench.live.iter().filter(|job| (first..middle).contains(job)).filter(|_| random.random_bool(0.7)).collect();
    for job in dead {
        bench.live.remove(job);
    }
    bench.put(1).unwrap();
    bench.snapshot().unwrap();
    bench.compact().unwrap();
    bench.check();
    assert!(!bench.keeper.manifest().stores.is_empty() && !bench.keeper.manifest().segments.is_empty());
    bench
}

fn path_of(name: PieceName) -> PathBuf {
    match name {
        PieceName::Log(number) => keeper_place().segments.join(file_name(number)),
        PieceName::Store(number) => keeper_place().stores.join(store_file_name(number)),
    }
}

fn first_of_each(bench: &Bench) -> [PieceName; 2] {
    let manifest = bench.keeper.manifest();
    [PieceName::Log(manifest.segments[0].0), PieceName::Store(manifest.stores[0])]
}

/// The file and the byte from which on its rows stand, behind their header.
fn rows_of(bench: &Bench, name: PieceName) -> (PathBuf, u64) {
    match name {
        PieceName::Log(number) => (keeper_place().segments.join(rows_file_name(number)), 128),
        PieceName::Store(_) => {
            let block = bench.disk.peek(&path_of(name), 0, 64).unwrap();
            let rows_at = u64::from_le_bytes(block[40..48].try_into().unwrap());
            (path_of(name), rows_at + 128)
        }
    }
}

/// Mends a file with what another node has, as the shard does; how many jobs were lacking.
fn mend(bench: &mut Bench, name: PieceName, copies: &BTreeMap<JobId, JobCopy>) -> Result<usize, String> {
    let mut lacked = 0;
    loop {
        match block_on(bench.keeper.mend(name)).map_err(told)? {
            Mended::Whole => return Ok(lacked),
            Mended::Rows(piece) => {
                bench.catalog.replace(&[name], vec![piece]);
                return Ok(lacked);
            }
            Mended::Moved(change) => {
                bench.follow(change)?;
                return Ok(lacked);
            }
            Mended::Lacking { jobs, why } => {
                assert!(lacked == 0, "what came is taken");
                assert!(why.contains(&path_of(name).display().to_string()), "{why}");
                lacked = jobs.len();
                while let asked @ [_, ..] = &bench.keeper.next_lacking(100)[..] {
                    let given = asked.iter().map(|job| copies[job].clone()).collect();
                    let ready = bench.keeper.take_copies(given);
                    assert_eq!(ready, if bench.keeper.next_lacking(1).is_empty() { vec![name] } else { vec![] });
                }
            }
        }
    }
}

#[test]
fn rows_found_bad_at_first_use_are_no_missing_job_and_are_made_again_from_the_records() {
    let bench = aged_with_stores(10);
    let names = first_of_each(&bench);
    for name in names {
        let (path, byte) = rows_of(&bench, name);
        bench.disk.flip_bit(&path, byte * 8 + 3).unwrap();
    }
    let mut bench = bench.restart(Crash::Process);
    bench.snapshot().unwrap();
    for name in names {
        let piece = bench.catalog.pieces().iter().find(|piece| piece.name == name).unwrap();
        let jobs = piece.footer.first_job().0..piece.footer.next_job().0;
        let job = bench.live.iter().find(|job| jobs.contains(job)).map(JobId).expect("it was kept for what lives");
        assert_eq!(bench.catalog.find(job).err(), Some(BadRows(name)));
        assert_eq!(bench.catalog.take_bad(), [name].into());
        assert_eq!(mend(&mut bench, name, &BTreeMap::new()), Ok(0), "its records are whole");
        assert!(bench.catalog.find(job).is_ok_and(|found| found.is_some()));
    }
    bench.check();
    assert_eq!((bench.keeper.census().mended, bench.keeper.census().damaged), (2, 0));
    bench.restart(Crash::Power(SectorOdds::OLD)).check();
}

#[test]
fn a_file_of_which_any_bit_flips_is_whole_again_with_no_more_copies_than_it_lost_jobs() {
    let pristine = aged_with_stores(11);
    let copies = copies(&pristine);
    let (snapshots, live, next_job) = (pristine.snapshots.clone(), pristine.live.clone(), pristine.next_job);
    let mut lacked = [0; 2];
    for (kind, name) in first_of_each(&pristine).into_iter().enumerate() {
        let path = path_of(name);
        let bytes = pristine.disk.files().into_iter().find(|(file, _)| *file == path).unwrap().1;
        for bit in (0..bytes * 8).step_by(bytes as usize * 8 / 40 + 1) {
            let disk = pristine.disk.fork();
            disk.flip_bit(&path, bit).unwrap();
            let log = pristine.log.clone();
            // Some of it is found at the start, and remade or refused there.
            let Ok(mut bench) = Bench::start(disk, log, next_job, live.clone(), snapshots.clone()) else { continue };
            bench.snapshot().unwrap();
            let lost = mend(&mut bench, name, &copies).unwrap();
            lacked[kind] += lost;
            bench.check();
        }
    }
    assert!(lacked.iter().all(|jobs| *jobs > 0), "records were damaged: {lacked:?}");
}

#[test]
fn a_file_that_cannot_be_read_stays_until_every_job_that_lives_in_it_is_there_whatever_a_crash_interrupts() {
    let pristine = aged_with_stores(12);
    let copies = copies(&pristine);
    let (snapshots, live, next_job) = (pristine.snapshots.clone(), pristine.live.clone(), pristine.next_job);
    for name in first_of_each(&pristine) {
        let mut steps = 0;
        for step in 1.. {
            let disk = pristine.disk.fork();
            disk.poke(&path_of(name), 4096, &[0; 3 * 4096]).unwrap();
            let start = |disk| Bench::start(disk, pristine.log.clone(), next_job, live.clone(), snapshots.clone());
            let mut bench = start(disk).unwrap();
            bench.snapshot().unwrap();
            bench.disk.stop_at(bench.disk.changes() + step);
            let is_over = mend(&mut bench, name, &copies).is_ok();
            if !is_over {
                let disk = bench.disk.crash(Crash::Power(SectorOdds { new: 0.5, torn: 0.1, garbage: 0.1 }));
                bench = start(disk).unwrap();
                bench.snapshot().unwrap();
                mend(&mut bench, name, &copies).unwrap();
            }
            bench.check();
            if is_over {
                break;
            }
            steps = step;
        }
        assert!(steps >= 4, "mending {name:?} changes the disk {steps} times only");
    }
}

#[test]
fn a_store_segment_whose_rows_are_no_rows_is_made_again_at_the_start() {
    let bench = aged_with_stores(13);
    let [_, store] = first_of_each(&bench);
    let (path, byte) = rows_of(&bench, store);
    // Their header, of which a start looks at the checksum.
    bench.disk.flip_bit(&path, (byte - 100) * 8).unwrap();
    let mut steps = 0;
    for step in 1.. {
        let disk = bench.disk.fork();
        disk.stop_at(disk.changes() + step);
        let (log, live, snapshots) = (bench.log.clone(), bench.live.clone(), bench.snapshots.clone());
        let started = Bench::start(disk.clone(), log.clone(), bench.next_job, live.clone(), snapshots.clone());
        if let Ok(started) = started {
            started.check();
            assert!(!started.keeper.manifest().stores.contains(&SegmentNumber(store_number(store))));
            break;
        }
        let disk = disk.crash(Crash::Power(SectorOdds { new: 0.5, torn: 0.1, garbage: 0.1 }));
        Bench::start(disk, log, bench.next_job, live, snapshots).unwrap().check();
        steps = step;
    }
    assert!(steps >= 3, "{steps}");
}

fn store_number(name: PieceName) -> u32 {
    match name {
        PieceName::Store(number) => number.0,
        PieceName::Log(_) => unreachable!("it is a store segment"),
    }
}

#[test]
fn nothing_is_moved_out_of_a_damaged_file_before_it_is_known_what_lives() {
    let bench = aged_with_stores(14);
    let [_, store] = first_of_each(&bench);
    bench.disk.poke(&path_of(store), 4096, &[0; 4096]).unwrap();
    let mut bench = bench.restart(Crash::Process);
    let refused = block_on(bench.keeper.mend(store)).unwrap_err();
    assert!(matches!(refused, KeepError::Unknown { .. }), "{refused}");
    assert_eq!(bench.keeper.census().damaged, 1);
}

#[test]
fn a_segment_that_was_found_damaged_above_the_floor_is_mended_below_it() {
    let mut bench = aged(12);
    bench.put(60).unwrap();
    bench.close().unwrap();
    let floor = bench.keeper.manifest().floor.position.index;
    let above = bench.keeper.pieces.iter().find(|(_, kept)| kept.footer.subject().last > floor);
    let name = *above.expect("a segment was closed").0;
    bench.disk.flip_bit(&path_of(name), (4096 + 2000) * 8).unwrap();
    assert!(matches!(block_on(bench.keeper.mend(name)), Err(KeepError::Segment { .. })), "a peer's business for now");
    assert_eq!(bench.keeper.take_found_damaged(), []);
    for _ in 0..2 {
        bench.put(1).unwrap();
        bench.snapshot().unwrap();
    }
    assert!(bench.keeper.manifest().segments.iter().any(|(number, _)| PieceName::Log(*number) == name));
    assert_eq!(bench.keeper.take_found_damaged(), [name]);
}
