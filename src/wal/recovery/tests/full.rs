//! A disk without room for another segment stops nothing but the append that needs one: that goes on when there is room, and
//! a crash at any time before finds the log as it was, or as far as it came.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bench::*;
use crate::io::{AlignedBuf, BLOCK_BYTES, Disk, File, OpenMode};
use crate::sim::disk::block_on::block_on;
use crate::types::Index;
use crate::wal::entry::Entry;
use crate::wal::index::{Placement, SegmentNumber};
use crate::wal::recovery::remove_a_spare;
use crate::wal::segment::{SPARES_AHEAD, file_name};
use crate::wal::writer::WriteError;

/// Leaves room for this many bytes more.
fn leave_room(bench: &Bench, bytes: u64) {
    let used: u64 = bench.disk.files().iter().map(|(_, bytes)| bytes).sum();
    bench.disk.set_capacity(used + bytes);
}

/// Appends what is planned behind the first `keep` entries, or goes on with it.
fn try_append(
    bench: &mut Bench,
    keep: usize,
    planned: &[Entry],
    placements: &mut Vec<Placement>,
) -> Result<(), WriteError> {
    let after = (keep < bench.durable.len()).then_some(Index(keep as u64));
    let result = block_on(bench.recovered.writer.append(after, &planned[keep..], Index(keep as u64), placements));
    if let Err(error) = &result {
        assert!(error.is_lack_of_room(), "{error}");
        assert!(placements.len() < planned.len() - keep);
    }
    result
}

#[test]
fn an_append_that_found_no_room_goes_on_behind_what_it_wrote() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    leave_room(&bench, 0);
    // Two more fit into the first segment, the others do not.
    let planned = bench.planned(1, &[10, 10, 20, 9000]);
    let mut placements = Vec::new();
    try_append(&mut bench, 1, &planned, &mut placements).unwrap_err();
    let written = placements.clone();
    assert_eq!(written.len(), 2);
    try_append(&mut bench, 1, &planned, &mut placements).unwrap_err();
    assert_eq!(placements, written, "nothing is written twice");

    let image = bench.disk.fork().crash(power_cut());
    image.set_capacity(ROOM);
    let (_, live) = recover_all(&image).unwrap();
    assert_eq!(metas(&live), metas(&planned[..3]), "what was written is durable");

    leave_room(&bench, 1 << 20);
    try_append(&mut bench, 1, &planned, &mut placements).unwrap();
    assert_eq!(placements[..2], written);
    assert_eq!(placements.len(), planned.len() - 1);
    bench.durable = planned;
    bench.restart(power_cut());
}

#[test]
fn a_seal_is_still_written_while_the_next_append_waits_for_room() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10, 10, 10]);
    leave_room(&bench, 0);
    let planned = bench.planned(3, &[10]);
    let mut placements = Vec::new();
    try_append(&mut bench, 3, &planned, &mut placements).unwrap_err();
    assert!(bench.recovered.writer.seal_is_due());
    bench.seal();
    assert!(!bench.recovered.writer.seal_is_due());
    leave_room(&bench, 1 << 20);
    try_append(&mut bench, 3, &planned, &mut placements).unwrap();
    bench.durable = planned;
    bench.seal();
    bench.restart(power_cut());
}

#[test]
fn a_cut_that_found_no_room_has_cut_nothing_on_disk_and_seals_nothing() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10, 10]);
    leave_room(&bench, 0);
    let planned = bench.planned(1, &[30]);
    let mut placements = Vec::new();
    try_append(&mut bench, 1, &planned, &mut placements).unwrap_err();
    assert!(!bench.recovered.writer.seal_is_due(), "what it would seal is being cut off");
    bench.seal();
    let image = bench.disk.fork().crash(power_cut());
    image.set_capacity(ROOM);
    assert_eq!(metas(&recover_all(&image).unwrap().1), metas(&bench.durable));
    leave_room(&bench, 1 << 20);
    try_append(&mut bench, 1, &planned, &mut placements).unwrap();
    bench.durable = planned;
    bench.restart(power_cut());
}

#[test]
fn spares_that_found_no_room_are_wanted_again_and_shorter() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    bench.make_spares();
    leave_room(&bench, 0);
    bench.append_sizes(&[10; 12]);
    bench.make_spares();
    leave_room(&bench, 5 * 4096);
    bench.make_spares();
    bench.make_spares();
    let made = bench.disk.files().iter().filter(|(_, bytes)| *bytes == 5 * 4096).count();
    assert!(made >= 2, "one of the first size fits: {:?}", bench.disk.files());
    bench.restart(power_cut());
}

#[test]
fn whatever_room_comes_and_goes_nothing_acknowledged_is_lost() {
    let mut waits = 0;
    for seed in 0..200 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut bench = Bench::new(seed);
        for _ in 0..20 {
            leave_room(&bench, random.random_range(0..16) * 4096);
            if random.random_bool(0.3) {
                bench.make_spares();
            }
            let keep = match random.random_bool(0.2) {
                true => random.random_range(0..=bench.durable.len()),
                false => bench.durable.len(),
            };
            let planned = bench.planned(keep, &random_payloads(&mut random));
            let mut placements = Vec::new();
            while try_append(&mut bench, keep, &planned, &mut placements).is_err() {
                waits += 1;
                if random.random_bool(0.3) && bench.recovered.writer.seal_is_due() {
                    bench.seal();
                }
                if random.random_bool(0.2) {
                    break;
                }
                leave_room(&bench, random.random_range(0..16) * 4096);
                if random.random_bool(0.3) {
                    bench.make_spares();
                }
            }
            let written = keep + placements.len();
            if written == planned.len() {
                bench.durable = planned;
            } else {
                // It still waits when the machine stops. A cut is in force once something is written behind it.
                let expected = if placements.is_empty() { bench.durable.clone() } else { planned[..written].to_vec() };
                bench.disk.set_capacity(ROOM);
                bench.durable = expected;
                bench.restart(power_cut());
                bench.term = bench.term.next();
            }
        }
        bench.disk.set_capacity(ROOM);
        bench.restart(power_cut());
    }
    assert!(waits > 100, "only {waits} appends found no room");
}

#[test]
fn what_is_removed_to_start_at_all_is_a_spare_and_never_a_segment() {
    let mut bench = Bench::new(4);
    bench.append_sizes(&[10, 9000, 20]);
    bench.make_spares();
    let disk = bench.disk.fork().crash(power_cut());
    let before = disk.files();
    let remove = |kept: &[SegmentNumber]| block_on(remove_a_spare(&disk, &place().dir, kept)).unwrap();
    let spares: Vec<_> = std::iter::from_fn(|| remove(&[])).collect();
    assert_eq!(spares.len(), SPARES_AHEAD);
    assert_eq!(disk.files().len(), before.len() - spares.len());
    assert!(spares.iter().all(|spare| before.iter().any(|(path, _)| path == spare)));
    // None comes back.
    let disk = disk.crash(power_cut());
    assert!(disk.files().iter().all(|(path, _)| !spares.contains(path)));
    assert_eq!(metas(&recover_all(&disk).unwrap().1), metas(&bench.durable));
}

/// Neither what the manifest names, though it holds nothing any more, nor what anything is written in, nor somebody else's.
#[test]
fn a_file_that_may_be_needed_is_no_spare() {
    let disk = new_disk(5);
    let path = |number| place().dir.join(file_name(SegmentNumber(number)));
    for number in [1, 2] {
        block_on(disk.make_zeroed(path(number), 64 << 10)).unwrap();
    }
    block_on(disk.make_zeroed(place().dir.join("1.seg"), 64 << 10)).unwrap();
    let last = block_on(disk.open(&path(2), OpenMode::Write)).unwrap();
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    block[BLOCK_BYTES - 1] = 1;
    block_on(last.write_at(block, (64 << 10) - BLOCK_BYTES as u64)).0.unwrap();
    let remove = |kept: &[SegmentNumber]| block_on(remove_a_spare(&disk, &place().dir, kept)).unwrap();
    assert_eq!(remove(&[SegmentNumber(1)]), None);
    assert_eq!(remove(&[]), Some(path(1)));
    assert_eq!(remove(&[]), None);
}
