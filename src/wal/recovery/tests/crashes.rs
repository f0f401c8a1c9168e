//! Whatever a crash leaves, without corruption every node starts, with all that was acknowledged.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bench::*;
use crate::sim::disk::SectorOdds;
use crate::sim::disk::SimDisk;
use crate::types::Index;
use crate::wal::entry::Entry;
use crate::wal::recovery::Recovered;

/// What may be in the log after a crash in the middle of an append that was to lead from `durable` to `planned`: the old log,
/// or what both share and some first ones of the new entries.
fn assert_possible(live: &[Entry], durable: &[Entry], planned: &[Entry], keep: usize, seed: u64) {
    let (live, durable, planned) = (metas(live), metas(durable), metas(planned));
    let is_old = live == durable;
    let is_new = live.len() >= keep && planned.starts_with(&live);
    assert!(is_old || is_new, "seed {seed}: {} entries live, {} acknowledged", live.len(), durable.len());
}

/// Recovers through any number of crashes during recovery itself.
fn recover_through_crashes(disk: &mut SimDisk, random: &mut ChaCha8Rng) -> (Recovered<SimDisk>, Vec<Entry>) {
    while random.random_bool(0.3) {
        disk.stop_at(disk.changes() + random.random_range(1..4));
        let _ = recover_all(disk);
        *disk = disk.crash(random_crash(random));
    }
    let (recovered, live) = recover_all(disk).unwrap();
    assert_eq!(recovered.faulty, []);
    (recovered, live)
}

fn random_crash(random: &mut ChaCha8Rng) -> Crash {
    match random.random_range(0..5) {
        0 => Crash::Process,
        1 => Crash::Power(SectorOdds::OLD),
        2 => Crash::Power(SectorOdds::NEW),
        _ => power_cut(),
    }
}

fn run_history(seed: u64) -> [u64; crate::wal::decision::TABLE.len()] {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut bench = Bench::new(seed);
    let mut rows = [0; crate::wal::decision::TABLE.len()];
    for _ in 0..random.random_range(1..5) {
        let stop_at = bench.disk.changes() + random.random_range(1..25);
        bench.disk.stop_at(stop_at);
        // One life: until the machine stops in the middle of something.
        let (planned, keep) = loop {
            let keep = match random.random_bool(0.15) {
                true => random.random_range(0..=bench.durable.len()),
                false => bench.durable.len(),
            };
            if random.random_bool(0.5) {
                bench.make_spares();
            }
            if random.random_bool(0.3) && bench.disk.changes() < stop_at {
                let commit = Index(bench.durable.len() as u64);
                let _ = crate::sim::disk::block_on::block_on(bench.recovered.writer.seal_tail(commit));
            }
            let planned = bench.planned(keep, &random_payloads(&mut random));
            if bench.append(keep, planned.clone()).is_err() {
                break (planned, keep);
            }
        };
        let crash = random_crash(&mut random);
        bench.disk = bench.disk.crash(crash);
        let (recovered, live) = recover_through_crashes(&mut bench.disk, &mut random);
        assert_possible(&live, &bench.durable, &planned, keep, seed);
        for (sum, count) in rows.iter_mut().zip(recovered.rows) {
            *sum += count;
        }
        bench.durable = live;
        bench.recovered = recovered;
        bench.term = bench.term.next();
        // What recovery told is durable: it survives the next loss of power.
        if random.random_bool(0.5) {
            bench.restart(Crash::Power(SectorOdds::OLD));
        }
    }
    rows
}

#[test]
fn nothing_acknowledged_is_lost_and_every_node_starts_whatever_a_crash_leaves() {
    let mut rows = [0; crate::wal::decision::TABLE.len()];
    for seed in 0..500 {
        for (sum, count) in rows.iter_mut().zip(run_history(seed)) {
            *sum += count;
        }
    }
    // Crashes alone reach every row that does not need evidence of a fault, but stray entries.
    use crate::wal::decision::{Found, row};
    for found in [Found::Nothing, Found::Damaged, Found::Unreadable] {
        assert!(rows[row(found, false, false)] > 0, "{found:?} at the end of the log was never met");
        assert_eq!(rows[row(found, false, true)], 0, "a crash is no fault");
    }
    assert!(rows[row(Found::Seal, false, false)] > 0);
    assert!(rows[row(Found::Whole, true, false)] > 0);
}

#[test]
fn a_log_survives_restarts_with_and_without_appends_between() {
    let mut bench = Bench::new(1);
    for round in 0..6 {
        bench.restart(power_cut());
        bench.append_sizes(&[100, 5000]);
        if round % 2 == 0 {
            bench.seal();
            bench.restart(Crash::Process);
        }
    }
    assert_eq!(bench.durable.len(), 12);
    assert!(bench.recovered.cut.is_none());
}

#[test]
fn a_cut_survives_a_crash_and_the_entries_it_killed_stay_dead() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10; 9]);
    bench.cut_and_append(4, &[20, 20]);
    bench.restart(power_cut());
    bench.cut_and_append(2, &[30]);
    bench.append_sizes(&[10; 20]);
    bench.restart(power_cut());
    assert_eq!(bench.durable.len(), 23);
}

#[test]
fn an_entry_that_is_longer_than_any_segment_gets_one_of_its_own() {
    let mut bench = Bench::new(1);
    bench.make_spares();
    bench.append_sizes(&[10, 200_000, 10]);
    bench.restart(power_cut());
}

#[test]
fn the_known_commit_comes_back_and_never_exceeds_the_log() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10; 3]);
    bench.append_sizes(&[10; 2]);
    bench.restart(power_cut());
    assert_eq!(bench.recovered.committed, Index(3));
    bench.append_sizes(&[10]);
    bench.seal();
    bench.restart(power_cut());
    assert_eq!(bench.recovered.committed, Index(6));
}

#[test]
fn a_seal_is_due_once_per_idle_period() {
    let mut bench = Bench::new(1);
    assert!(!bench.recovered.writer.seal_is_due());
    bench.append_sizes(&[10]);
    assert!(bench.recovered.writer.seal_is_due());
    bench.seal();
    assert!(!bench.recovered.writer.seal_is_due());
    let changes = bench.disk.changes();
    bench.seal();
    assert_eq!(bench.disk.changes(), changes, "a second seal writes nothing");
    bench.append_sizes(&[10]);
    bench.restart(power_cut());
}

#[test]
fn one_append_is_one_write_also_when_it_cuts() {
    let mut bench = Bench::new(1);
    bench.make_spares();
    bench.append_sizes(&[10]);
    let before = bench.disk.changes();
    bench.append_sizes(&[10, 20]);
    assert_eq!(bench.disk.changes(), before + 1);
    bench.cut_and_append(1, &[30, 40]);
    assert_eq!(bench.disk.changes(), before + 2);
}

#[test]
fn nothing_is_written_after_a_failed_write() {
    use crate::sim::disk::{Faults, block_on::block_on};
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    bench.disk.set_faults(Faults { write_error: 1.0, ..Faults::default() });
    let planned = bench.planned(1, &[10]);
    let error = bench.append(1, planned.clone()).unwrap_err();
    assert!(error.to_string().contains("offset"), "{error}");
    bench.disk.set_faults(Faults::default());
    let changes = bench.disk.changes();
    assert!(bench.append(1, planned).is_err());
    assert!(block_on(bench.recovered.writer.seal_tail(Index(1))).is_err());
    assert_eq!(bench.disk.changes(), changes);
}

#[test]
fn spares_of_an_earlier_life_are_deleted_and_not_used() {
    let mut bench = Bench::new(1);
    bench.make_spares();
    bench.append_sizes(&[10]);
    let files = bench.disk.files().len();
    bench.restart(Crash::Process);
    assert_eq!(bench.disk.files().len(), files - 1, "one was in use, one was not");
    bench.append_sizes(&[10]);
    bench.restart(power_cut());
}

#[test]
fn a_full_disk_ends_the_writer_and_what_was_acknowledged_stays() {
    let mut bench = Bench::new(1);
    bench.append_sizes(&[10]);
    let used: u64 = bench.disk.files().iter().map(|(_, bytes)| bytes).sum();
    bench.disk.set_capacity(used);
    let error = loop {
        let keep = bench.durable.len();
        let planned = bench.planned(keep, &[3000]);
        if let Err(error) = bench.append(keep, planned) {
            break error;
        }
    };
    assert!(error.to_string().contains(".seg"), "{error}");
    bench.restart(Crash::Process);
    bench.disk.set_capacity(ROOM);
    bench.append_sizes(&[10]);
    bench.restart(power_cut());
}

#[test]
fn a_spare_that_could_not_be_made_is_wanted_again() {
    let mut bench = Bench::new(1);
    bench.disk.set_capacity(0);
    bench.make_spares();
    bench.disk.set_capacity(ROOM);
    bench.make_spares();
    assert_eq!(bench.disk.files().len(), 2);
    bench.append_sizes(&[10]);
    assert_eq!(bench.disk.files().len(), 2, "a spare was taken");
    bench.restart(power_cut());
}

/// A device may hold a write back for longer than its process lives, and complete it while the next life writes.
#[test]
fn a_write_that_lands_after_its_process_has_died_does_no_harm() {
    for with_spares in [false, true] {
        let mut bench = Bench::new(1);
        if with_spares {
            bench.make_spares();
        }
        bench.append_sizes(&[10]);
        let planned = bench.planned(1, &[50, 9000]);
        bench.disk.stop_at(bench.disk.changes() + 1);
        bench.append(1, planned).unwrap_err();
        let late = bench.disk.fork().crash(Crash::Power(SectorOdds::NEW));

        bench.restart(Crash::Power(SectorOdds::OLD));
        bench.term = bench.term.next();
        bench.append_sizes(&[70, 10]);
        for (path, bytes) in late.files() {
            let content = late.peek(&path, 0, bytes as usize).unwrap();
            // Where the file is gone, the write lands on nothing.
            let _ = bench.disk.poke(&path, 0, &content);
        }
        bench.append_sizes(&[30]);
        bench.restart(power_cut());
        assert_eq!(bench.durable.len(), 4);
    }
}
