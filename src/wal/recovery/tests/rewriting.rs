//! A segment that is written anew holds what it held, and the copies; whenever the machine stops meanwhile, the old one or the
//! new one is in force.

use std::collections::BTreeMap;

use super::bench::*;
use crate::sim::disk::SimDisk;
use crate::sim::disk::block_on::block_on;
use crate::types::*;
use crate::wal::entry::Entry;
use crate::wal::format::{BLOCK, record_bytes};
use crate::wal::index::Placement;
use crate::wal::inventory::Copies;
use crate::wal::reader::LogReader;
use crate::wal::recovery::{RecoveryError, recover};
use crate::wal::rewrite::{RewriteError, UNFINISHED, rewrite};
use crate::wal::segment::file_name;

/// Entries of one and of several blocks with seals between them, over three segments.
fn sample() -> (SimDisk, Vec<Entry>, Vec<Placement>) {
    let mut bench = Bench::new(5);
    for payloads in [&[10, 9000][..], &[10], &[20, 30], &[9000], &[10, 10]] {
        bench.append_sizes(payloads);
        bench.seal();
    }
    let disk = bench.disk.crash(Crash::Process);
    let mut places = Vec::new();
    block_on(recover(&disk, &place(), |_, placement| places.push(placement))).unwrap();
    (disk, bench.durable, places)
}

fn zero(disk: &SimDisk, place: &Placement, blocks: u64) {
    let path = super::bench::place().dir.join(file_name(place.segment));
    disk.poke(&path, place.offset, &vec![0; (blocks * BLOCK) as usize]).unwrap();
}

/// A repair that did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error("{0}")]
    Recovery(#[from] RecoveryError),
    #[error("{0}")]
    Rewrite(#[from] RewriteError),
}

/// Puts these entries back where they are faulty, segment by segment.
fn repair(disk: &SimDisk, entries: &[Entry]) -> Result<(), Unfinished> {
    let (recovered, _) = recover_all(disk)?;
    let mut inventory = recovered.inventory();
    let reader = LogReader::new(disk.clone(), place().dir, LOG);
    loop {
        let Some(first) = inventory.faulty().next() else { break };
        let segment = inventory.segment(first).unwrap();
        let of_segment = |index: &Index| inventory.segment(*index) == Some(segment);
        let found: BTreeMap<Index, Entry> =
            inventory.faulty().filter(of_segment).map(|index| (index, entries[index.0 as usize - 1].clone())).collect();
        let plan = inventory.plan(segment, &found).expect("they were there before");
        block_on(rewrite(disk, &reader, &LOG, &plan))?;
        reader.forget(segment);
        inventory.handle_rewritten(&plan);
    }
    let whole: Vec<Placement> = (1..=inventory.last().0)
        .flat_map(|index| match inventory.copies(Index(index), Index(index), inventory.chain(Index(index)), 0) {
            Copies::At(placements) => placements,
            other => panic!("entry {index}: {other:?}"),
        })
        .collect();
    let read = block_on(reader.read_entries(&whole)).unwrap();
    assert_eq!(metas(&read), metas(&entries[..read.len()]), "what was written can be read where it is said to be");
    Ok(())
}

#[test]
fn any_run_of_lost_entries_is_put_back() {
    let (disk, entries, places) = sample();
    for first in 0..places.len() {
        for last in first..places.len() {
            for whole_records in [false, true] {
                let image = disk.fork();
                for place in &places[first..=last] {
                    zero(&image, place, if whole_records { record_bytes(place.bytes) / BLOCK } else { 1 });
                }
                let (damaged, _) = recover_all(&image).unwrap();
                assert_eq!(damaged.faulty.len(), last - first + 1, "{first} to {last}");
                assert!(damaged.faulty.last().unwrap().chain.is_some(), "{first} to {last}: a seal names the last");
                repair(&image, &entries).unwrap();
                let (recovered, live) = recover_all(&image).unwrap();
                assert_eq!(recovered.faulty, [], "{first} to {last}");
                assert_eq!(metas(&live), metas(&entries), "{first} to {last}");
            }
        }
    }
}

#[test]
fn what_was_put_back_is_as_well_witnessed_as_before() {
    let (disk, entries, places) = sample();
    for damaged in 0..places.len() {
        let image = disk.fork();
        zero(&image, &places[damaged], 1);
        repair(&image, &entries).unwrap();
        for again in 0..places.len() {
            let image = image.fork();
            zero(&image, &places[again], 1);
            let (recovered, _) = recover_all(&image).unwrap();
            let faulty: Vec<u64> = recovered.faulty.iter().map(|faulty| faulty.index.0).collect();
            assert_eq!(faulty, [again as u64 + 1], "entry {} was repaired", damaged + 1);
            assert_eq!(recovered.faulty[0].chain, Some(entries[again].meta.chain));
        }
    }
}

#[test]
fn a_machine_that_stops_while_a_segment_is_replaced_loses_nothing() {
    let (disk, entries, places) = sample();
    for damaged in [0, 4, places.len() - 1] {
        let image = disk.fork();
        zero(&image, &places[damaged], 1);
        let begun = image.changes();
        let trial = image.fork();
        repair(&trial, &entries).unwrap();
        let changes = trial.changes() - begun;
        assert!(changes > 3);
        for stop in 1..=changes {
            for crash in [Crash::Process, power_cut(), power_cut()] {
                let image = image.fork();
                image.stop_at(begun + stop);
                repair(&image, &entries).unwrap_err();
                let image = image.crash(crash);
                let (recovered, _) = recover_all(&image).unwrap();
                let faulty: Vec<u64> = recovered.faulty.iter().map(|faulty| faulty.index.0).collect();
                assert!(faulty.is_empty() || faulty == [damaged as u64 + 1], "stopped at change {stop}");
                assert_eq!(recovered.last, Index(entries.len() as u64));
                repair(&image, &entries).unwrap();
                let (recovered, live) = recover_all(&image).unwrap();
                assert_eq!(recovered.faulty, []);
                assert_eq!(metas(&live), metas(&entries));
                let is_left_over = |(path, _): &(std::path::PathBuf, u64)| path.to_string_lossy().ends_with(UNFINISHED);
                assert!(!image.files().iter().any(is_left_over), "nothing is left lying about");
            }
        }
    }
}

#[test]
fn copies_that_do_not_fit_where_the_lost_ones_were_are_not_written() {
    let (disk, entries, places) = sample();
    zero(&disk, &places[2], 1);
    let (recovered, _) = recover_all(&disk).unwrap();
    let inventory = recovered.inventory();
    let larger = next_entry(&entries[..2], Term(9), 9000);
    let segment = inventory.segment(Index(3)).unwrap();
    assert!(inventory.plan(segment, &BTreeMap::from([(Index(3), larger)])).is_none());
}

#[test]
fn a_repair_without_room_leaves_the_old_file_in_force() {
    let (disk, entries, places) = sample();
    zero(&disk, &places[1], 1);
    let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
    disk.set_capacity(used);
    let error = repair(&disk, &entries).unwrap_err();
    assert!(matches!(&error, Unfinished::Rewrite(error) if error.is_lack_of_room()), "{error}");
    disk.set_capacity(ROOM);
    repair(&disk, &entries).unwrap();
    assert_eq!(recover_all(&disk).unwrap().0.faulty, []);
}

#[test]
fn what_is_given_up_is_cut_off_by_the_next_append_and_not_before() {
    let mut bench = Bench::new(1);
    for _ in 0..6 {
        let before = bench.durable.len();
        let planned = bench.planned(before, &[10]);
        let writer = &mut bench.recovered.writer;
        block_on(writer.append(None, &planned[before..], Index(3), &mut Vec::new())).unwrap();
        bench.durable = planned;
    }
    let (disk, entries) = (bench.disk.crash(Crash::Process), bench.durable);
    let mut places = Vec::new();
    block_on(recover(&disk, &place(), |_, placement| places.push(placement))).unwrap();
    zero(&disk, &places[4], 1);
    let (recovered, _) = recover_all(&disk).unwrap();
    let mut given_up = recovered.give_up_faulty();
    assert_eq!(given_up.last, Index(4));
    assert_eq!(recover_all(&disk).unwrap().0.faulty.len(), 1, "a node that stops now finds it as it was");
    let next = next_entry(&entries[..4], Term(2), 10);
    let mut placements = Vec::new();
    block_on(given_up.writer.append(None, std::slice::from_ref(&next), Index(4), &mut placements)).unwrap();
    let (recovered, live) = recover_all(&disk.crash(Crash::Process)).unwrap();
    assert_eq!(recovered.faulty, []);
    assert_eq!(metas(&live), metas(&[&entries[..4], &[next]].concat()));
}

#[test]
fn peers_hear_what_is_here_and_never_that_a_damaged_entry_was_not() {
    let (disk, entries, places) = sample();
    zero(&disk, &places[2], 1);
    zero(&disk, &places[6], 1);
    zero(&disk, &places[7], 1);
    let inventory = recover_all(&disk).unwrap().0.inventory();
    let ask = |first: u64, last: u64, chain| inventory.copies(Index(first), Index(last), chain, u64::MAX);
    let chain = |index: usize| Some(entries[index - 1].meta.chain);
    assert_eq!(ask(1, 2, chain(2)), Copies::At(places[..2].to_vec()));
    assert_eq!(ask(2, 5, chain(5)), Copies::At(places[3..5].to_vec()), "down to the first that is damaged");
    assert_eq!(inventory.copies(Index(1), Index(2), chain(2), 1), Copies::At(vec![places[1]]), "one at least");
    assert_eq!(ask(3, 3, chain(3)), Copies::Faulty);
    assert_eq!(ask(7, 7, Some(ChainHash(5))), Copies::Faulty, "which one it was is not known");
    assert_eq!(ask(3, 3, Some(ChainHash(5))), Copies::Absent, "it was another one");
    assert_eq!(ask(1, 1, Some(ChainHash(5))), Copies::Absent);
    assert_eq!(ask(9, 9, None), Copies::Absent);
    assert_eq!(ask(2, 2, None), Copies::Unknown, "only a leader can tell");
    assert_eq!(ask(3, 3, None), Copies::Faulty);
}
