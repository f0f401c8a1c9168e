//! Damage is told from a torn write, and named: with evidence a bad entry is faulty, without it is the end of the log.

use std::path::PathBuf;

use super::bench::*;
use crate::io::Disk;
use crate::sim::disk::SimDisk;
use crate::sim::disk::block_on::block_on;
use crate::types::*;
use crate::wal::entry::{Entry, LogIdentity};
use crate::wal::format::{BLOCK, PLACEMENT_HEADER_BYTES};
use crate::wal::index::{Placement, SegmentNumber};
use crate::wal::recovery::*;
use crate::wal::segment::file_name;

/// Where each entry of a log lies.
fn placements(disk: &SimDisk) -> Vec<Placement> {
    let mut places = Vec::new();
    block_on(recover(disk, &place(), |_, placement| places.push(placement))).unwrap();
    places
}

fn path(segment: SegmentNumber) -> PathBuf {
    place().dir.join(file_name(segment))
}

/// What a block is made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Zero,
    Garbage,
    Unreadable,
}

const HARMS: [Harm; 3] = [Harm::Zero, Harm::Garbage, Harm::Unreadable];

fn harm(disk: &SimDisk, segment: SegmentNumber, offset: u64, harm: Harm) {
    let path = path(segment);
    match harm {
        Harm::Zero => disk.poke(&path, offset, &[0; BLOCK as usize]).unwrap(),
        Harm::Garbage => disk.poke(&path, offset, &[0xa7; BLOCK as usize]).unwrap(),
        Harm::Unreadable => disk.make_unreadable(&path, offset, BLOCK as usize).unwrap(),
    }
}

/// A log of entries of one and of several blocks, over several segments and a cut; sealed or not.
fn sample(sealed: bool) -> (SimDisk, Vec<Entry>, Vec<Placement>) {
    let mut bench = Bench::new(7);
    bench.append_sizes(&[10, 9000, 10]);
    bench.append_sizes(&[10]);
    bench.cut_and_append(3, &[20, 9000]);
    bench.append_sizes(&[10]);
    bench.append_sizes(&[10, 10]);
    bench.append_sizes(&[9000, 30]);
    if sealed {
        bench.seal();
    }
    let disk = bench.disk.crash(Crash::Process);
    let places = placements(&disk);
    assert_eq!(places.len(), bench.durable.len());
    (disk, bench.durable, places)
}

/// The first index that nothing behind it calls durable: of the last write, what is in the last segment; unless it was
/// sealed.
fn first_unproven(places: &[Placement], sealed: bool) -> u64 {
    let [.., before, last] = places else { unreachable!() };
    let entries = places.len() as u64;
    match (sealed, before.segment == last.segment) {
        (true, _) => entries + 1,
        (false, true) => entries - 1,
        (false, false) => entries,
    }
}

#[test]
fn every_damaged_block_of_an_entry_is_faulty_with_evidence_and_the_end_without() {
    for sealed in [false, true] {
        let (disk, entries, places) = sample(sealed);
        for (at, place) in places.iter().enumerate() {
            for block in 0..crate::wal::format::record_bytes(place.bytes) / BLOCK {
                for how in HARMS {
                    let image = disk.fork();
                    harm(&image, place.segment, place.offset + block * BLOCK, how);
                    let index = at as u64 + 1;
                    let what = format!("sealed {sealed}, entry {index}, block {block}, {how:?}");
                    let (recovered, live) = recover_all(&image).unwrap();
                    if index < first_unproven(&places, sealed) {
                        let found: Vec<u64> = recovered.faulty.iter().map(|faulty| faulty.index.0).collect();
                        assert_eq!(found, [index], "{what}");
                        assert_eq!(recovered.last, Index(entries.len() as u64), "{what}: nothing is voted away");
                        let faulty = &recovered.faulty[0];
                        assert_eq!((faulty.path.clone(), faulty.offset), (path(place.segment), place.offset));
                        // The last one is named by the seal, and by nothing else once its own header is gone.
                        assert_eq!(faulty.chain, Some(entries[at].meta.chain), "{what}: it keeps its identity");
                        assert_eq!(faulty.term.is_some(), block > 0, "{what}");
                    } else {
                        assert_eq!(recovered.faulty, [], "{what}");
                        assert_eq!(recovered.last, Index(index - 1), "{what}: nobody was told of it");
                        assert_eq!(metas(&live), metas(&entries[..at]));
                    }
                }
            }
        }
    }
}

#[test]
fn the_refusal_names_shard_file_offset_and_what_to_do() {
    let (disk, _, places) = sample(true);
    harm(&disk, places[1].segment, places[1].offset, Harm::Garbage);
    let (recovered, _) = recover_all(&disk).unwrap();
    let Err(error) = recovered.require_whole() else { panic!("it is not whole") };
    let text = error.to_string();
    let offset = format!("offset {}", places[1].offset);
    for part in ["shard 0", "entry 2", ".seg", &offset, "replace this node's data directory"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn a_log_with_faulty_entries_is_left_as_it_is() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    bench.append_sizes(&[10]);
    bench.make_spares();
    let disk = bench.disk.crash(Crash::Process);
    harm(&disk, SegmentNumber(1), BLOCK, Harm::Zero);
    let files = disk.files();
    let (recovered, _) = recover_all(&disk).unwrap();
    assert_eq!(recovered.faulty.len(), 1);
    assert_eq!(disk.files(), files);
}

#[test]
fn several_lost_entries_in_a_row_are_all_named() {
    let (disk, entries, places) = sample(true);
    for place in &places[5..8] {
        harm(&disk, place.segment, place.offset, Harm::Zero);
    }
    let (recovered, live) = recover_all(&disk).unwrap();
    assert_eq!(recovered.faulty.iter().map(|faulty| faulty.index.0).collect::<Vec<_>>(), [6, 7, 8]);
    assert_eq!(recovered.faulty[2].chain, Some(entries[7].meta.chain));
    assert_eq!(live.len(), 5, "nothing behind a faulty entry is handed on");
    assert_eq!(recovered.last, Index(entries.len() as u64));
}

#[test]
fn a_lost_end_of_a_sealed_log_is_faulty_by_the_seal() {
    let (disk, entries, places) = sample(true);
    for place in &places[8..] {
        harm(&disk, place.segment, place.offset, Harm::Garbage);
    }
    let (recovered, _) = recover_all(&disk).unwrap();
    let found: Vec<u64> = recovered.faulty.iter().map(|faulty| faulty.index.0).collect();
    let lost: Vec<u64> = (9..=entries.len() as u64).collect();
    assert_eq!(found, lost);
}

#[test]
fn rot_in_what_a_cut_killed_does_no_harm() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10; 2]);
    bench.append_sizes(&[10; 1]);
    let dead = placements(&bench.disk.fork())[2];
    bench.cut_and_append(2, &[20]);
    for how in HARMS {
        let image = bench.disk.fork();
        harm(&image, dead.segment, dead.offset, how);
        let (recovered, live) = recover_all(&image).unwrap();
        assert_eq!(recovered.faulty, []);
        assert_eq!(metas(&live), metas(&bench.durable));
    }
}

#[test]
fn a_seal_that_rots_takes_nothing_with_it() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    bench.seal();
    bench.append_sizes(&[10]);
    bench.seal();
    for offset in [2 * BLOCK, 4 * BLOCK] {
        let image = bench.disk.fork();
        harm(&image, SegmentNumber(1), offset, Harm::Zero);
        let (recovered, live) = recover_all(&image).unwrap();
        // A seal in the middle leaves a hole in which nothing is missing; the walk goes on behind it, or stops at it.
        assert!(recovered.faulty.is_empty() || offset == 2 * BLOCK);
        assert!(live.len() == 2 || !recovered.faulty.is_empty());
        assert_eq!(recovered.last, Index(2));
    }
}

#[test]
fn the_header_of_a_segment_in_use_is_missed() {
    let (disk, _, places) = sample(true);
    for segment in [places[0].segment, places[places.len() - 1].segment] {
        for how in HARMS {
            let image = disk.fork();
            harm(&image, segment, 0, how);
            let error = recover_all(&image).map(|_| ()).unwrap_err();
            let expected = path(segment);
            assert!(
                matches!(&error, RecoveryError::HeaderUnreadable { path } if *path == expected),
                "{segment}, {how:?}: {error}"
            );
        }
    }
}

/// The same log from the end of its first segment on.
fn above_first_segment(entries: &[Entry], places: &[Placement]) -> LogPlace {
    let below = places.iter().filter(|place| place.segment == places[0].segment).count();
    let last = &entries[below - 1];
    LogPlace {
        base: last.meta.position,
        base_chain: last.meta.chain,
        next_job: JobId(below as u64 + 1),
        first_ordinal: 1,
        ..place()
    }
}

/// A crash between the manifest that names a damaged segment no longer and its removal. (Seed 8202180.)
#[test]
fn the_header_of_a_segment_below_the_floor_is_not_missed() {
    let (disk, entries, places) = sample(true);
    let place = above_first_segment(&entries, &places);
    for how in HARMS {
        let image = disk.fork();
        harm(&image, places[0].segment, 0, how);
        let mut live = Vec::new();
        block_on(recover(&image, &place, |entry, _| live.push(entry.meta))).unwrap();
        assert_eq!(live, metas(&entries[place.base.index.0 as usize..]));
        assert!(!image.files().iter().any(|(file, _)| *file == path(places[0].segment)), "it is removed");
    }
}

/// A log that was installed begins with such a segment, and one that was cut back to its floor. (Seed 8200161.)
#[test]
fn a_segment_in_which_nothing_counts_is_not_missed_at_the_floor() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10, 10]);
    bench.seal();
    bench.append_sizes(&[20]);
    bench.append_sizes(&[20]);
    let dead = placements(&bench.disk.fork())[2];
    bench.seal();
    bench.cut_and_append(2, &[30, 30]);
    let disk = bench.disk.crash(Crash::Process);
    let place = above_first_segment(&bench.durable, &placements(&disk.fork()));
    let recovers = |image: &SimDisk| {
        let mut live = Vec::new();
        block_on(recover(image, &place, |entry, _| live.push(entry.meta))).unwrap();
        assert_eq!(live, metas(&bench.durable[2..]));
    };
    for how in HARMS {
        let image = disk.fork();
        harm(&image, dead.segment, 0, how);
        recovers(&image);
    }
    disk.lose(&path(dead.segment));
    recovers(&disk);
}

#[test]
fn a_missing_segment_is_missed() {
    let (disk, _, places) = sample(true);
    disk.lose(&path(places[4].segment));
    let error = recover_all(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Missing { count: 1, .. }), "{error}");
    let (disk, _, places) = sample(true);
    disk.lose(&path(places[0].segment));
    let error = recover_all(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Disconnected { .. }), "{error}");
}

#[test]
fn a_short_file_is_named() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    let disk = bench.disk.crash(Crash::Process);
    let whole = disk.peek(&path(SegmentNumber(1)), 0, 4 * BLOCK as usize).unwrap();
    disk.lose(&path(SegmentNumber(1)));
    block_on(disk.make_zeroed(path(SegmentNumber(1)), 4 * BLOCK)).unwrap();
    disk.poke(&path(SegmentNumber(1)), 0, &whole).unwrap();
    let error = recover_all(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Length { .. }), "{error}");
}

#[test]
fn files_of_another_log_and_misplaced_copies_are_refused() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    let disk = bench.disk.crash(Crash::Process);

    let other = LogPlace { identity: LogIdentity { shard: ShardId(9), ..LOG }, ..place() };
    let error = block_on(recover(&disk, &other, |_, _| {})).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Foreign { shard: ShardId(0), .. }), "{error}");

    let bytes = disk.files()[0].1;
    let whole = disk.peek(&path(SegmentNumber(1)), 0, bytes as usize).unwrap();
    block_on(disk.make_zeroed(path(SegmentNumber(2)), bytes)).unwrap();
    disk.poke(&path(SegmentNumber(2)), 0, &whole).unwrap();
    let error = recover_all(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Misnamed { .. }), "{error}");
}

#[test]
fn a_record_in_the_wrong_place_is_no_record() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    bench.append_sizes(&[10]);
    bench.append_sizes(&[10]);
    let disk = bench.disk.crash(Crash::Process);
    let second = disk.peek(&path(SegmentNumber(1)), 2 * BLOCK, BLOCK as usize).unwrap();
    disk.poke(&path(SegmentNumber(1)), BLOCK, &second).unwrap();
    let (recovered, live) = recover_all(&disk).unwrap();
    assert_eq!(recovered.faulty[0].reason, FaultReason::Unreadable);
    assert_eq!(live.len(), 0);
}

#[test]
fn any_flipped_bit_is_found_or_harmless() {
    let (disk, entries, _) = sample(true);
    for (file, bytes) in disk.files() {
        for at in (0..bytes).step_by(97) {
            let image = disk.fork();
            image.flip_bit(&file, at * 8 + at % 8).unwrap();
            match recover_all(&image) {
                Ok((recovered, live)) if recovered.faulty.is_empty() => {
                    assert_eq!(metas(&live), metas(&entries), "{}, byte {at}", file.display());
                }
                Ok((recovered, _)) => assert_eq!(recovered.last, Index(entries.len() as u64)),
                Err(error) => assert!(error.to_string().contains(".seg"), "{error}"),
            }
        }
    }
}

#[test]
fn padding_is_checked() {
    let (disk, _, places) = sample(true);
    let place = places[0];
    let behind = place.offset + PLACEMENT_HEADER_BYTES as u64 + u64::from(place.bytes);
    disk.poke(&path(place.segment), behind, &[1]).unwrap();
    let (recovered, _) = recover_all(&disk).unwrap();
    assert_eq!(recovered.faulty[0].reason, FaultReason::Padding);
}

/// A whole record of the right place, from another history of the same log.
#[test]
fn an_entry_that_does_not_follow_is_faulty_with_evidence_and_the_end_without() {
    use crate::wal::decision::{Found, row};
    let history = |payload| {
        let mut bench = Bench::new(1);
        bench.append_sizes(&[payload]);
        bench.append_sizes(&[10]);
        bench.append_sizes(&[10]);
        bench.disk.crash(Crash::Process)
    };
    let (disk, other) = (history(10), history(20));
    for (block, is_faulty) in [(2, true), (3, false)] {
        let image = disk.fork();
        let stray = other.peek(&path(SegmentNumber(1)), block * BLOCK, BLOCK as usize).unwrap();
        image.poke(&path(SegmentNumber(1)), block * BLOCK, &stray).unwrap();
        let (recovered, _) = recover_all(&image).unwrap();
        assert_eq!(recovered.faulty.len(), usize::from(is_faulty));
        assert_eq!(recovered.last, Index(if is_faulty { 3 } else { 2 }));
        assert_eq!(recovered.rows[row(Found::Stray, false, is_faulty)], 1);
    }
}

/// One fault on top of crashes: what was sealed is there, or named as faulty, or its file is named; never silently gone. (Two
/// faults can hit the last entry and its only witness, the seal.)
#[test]
fn nothing_sealed_is_lost_in_silence_whichever_bit_rots() {
    for seed in 0..300 {
        let mut bench = Bench::new(seed);
        for round in 0..(seed % 4 + 1) {
            bench.append_sizes(&[10, 3000 * round as usize]);
            bench.append_sizes(&[10]);
            if round == 2 {
                bench.cut_and_append(3, &[40]);
            }
            bench.seal();
            bench.restart(power_cut());
        }
        let disk = bench.disk.crash(Crash::Process);
        disk.rot(|_| true);
        match recover_all(&disk) {
            Ok((recovered, live)) if recovered.faulty.is_empty() => {
                assert_eq!(metas(&live), metas(&bench.durable), "seed {seed}");
            }
            Ok((recovered, _)) => assert_eq!(recovered.last, Index(bench.durable.len() as u64), "seed {seed}"),
            Err(error) => assert!(error.to_string().contains(".seg"), "{error}"),
        }
    }
}

#[test]
fn no_bytes_in_a_segment_make_recovery_panic() {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for _ in 0..200 {
        let (disk, ..) = sample(true);
        for _ in 0..random.random_range(1..8) {
            let files = disk.files();
            let (file, bytes) = &files[random.random_range(0..files.len())];
            let garbage: Vec<u8> = (0..random.random_range(1..6000)).map(|_| random.random()).collect();
            let at = random.random_range(0..bytes.saturating_sub(garbage.len() as u64).max(1));
            disk.poke(file, at, &garbage[..garbage.len().min((bytes - at) as usize)]).unwrap();
        }
        let _ = recover_all(&disk);
    }
}

/// Headers and records with good checksums that state anything at all.
#[test]
fn no_statement_of_a_whole_header_makes_recovery_panic() {
    use crate::wal::format::{Place, Record, RecordKind, SegmentEpoch, SegmentHeader, Testimony};
    let extremes = [0, 1, 5, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
    for index in extremes.map(Index) {
        for (epoch, shared_bytes) in extremes.map(SegmentEpoch).into_iter().zip([0, 1, 112, 4096, 1 << 20, u32::MAX]) {
            let disk = new_disk(1);
            let number = SegmentNumber(1);
            block_on(disk.make_zeroed(path(number), 8 * BLOCK)).unwrap();
            let mut block = vec![0; BLOCK as usize];
            let chain = crate::wal::entry::origin_chain(&LOG);
            SegmentHeader {
                number,
                epoch,
                bytes: 8 * BLOCK,
                base: Index(0),
                base_chain: chain,
                durable_upto: index,
                commit: index,
            }
            .encode(&LOG, &mut block);
            disk.poke(&path(number), 0, &block).unwrap();
            for (at, kind) in
                [(1, RecordKind::Entry { shared_bytes }), (3, RecordKind::Seal { last_chain: Some(ChainHash(1)) })]
            {
                let mut block = vec![0; BLOCK as usize];
                let testimony = Testimony { durable_upto: index, commit: index };
                let place = Place { segment: number, epoch, offset: at * BLOCK };
                Record { kind, testimony }.encode(place, &mut block);
                disk.poke(&path(number), at * BLOCK, &block).unwrap();
            }
            if let Ok((recovered, _)) = recover_all(&disk) {
                assert!(recovered.faulty.len() <= 8 && recovered.committed <= recovered.last);
            }
        }
    }
}
