//! What was written is read back, and what is not whole is not.

use super::*;
use crate::sim::disk::SimDisk;
use crate::sim::disk::block_on::block_on;
use crate::types::*;
use crate::wal::entry::{Draft, EntryKind, origin_chain};
use crate::wal::recovery::{LogPlace, recover};
use crate::wal::segment::SegmentSizes;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(1), shard: ShardId(1) };

struct Bench {
    disk: SimDisk,
    reader: LogReader<SimDisk>,
    entries: Vec<Entry>,
    placements: Vec<Placement>,
}

/// A log with entries of these payload lengths.
fn written(payloads: &[usize]) -> Bench {
    let disk = SimDisk::new(1, 1 << 30);
    let dir = PathBuf::from("/wal");
    block_on(disk.create_dir(&dir)).unwrap();
    let sizes = SegmentSizes { first_bytes: 64 << 10, max_bytes: 1 << 20 };
    let place = LogPlace::whole(dir.clone(), LOG, sizes);
    let mut writer = block_on(recover(&disk, &place, |_, _| {})).unwrap().writer;
    let mut entries: Vec<Entry> = Vec::new();
    for &bytes in payloads {
        let payload: Vec<u8> = (0..bytes).map(|at| (at / 3) as u8).collect();
        entries.push(Entry::encode(
            Draft {
                position: LogPosition::new(Term(1), Index(entries.len() as u64 + 1)),
                prev_chain: entries.last().map_or(origin_chain(&LOG), |last| last.meta.chain),
                kind: EntryKind::Commands,
                times: Times::default(),
                first_job: JobId(1),
                job_count: 0,
                payload: &payload,
            },
            &LOG,
        ));
    }
    let mut placements = Vec::new();
    block_on(writer.append(None, &entries, Index(0), &mut placements)).unwrap();
    Bench { reader: LogReader::new(disk.clone(), dir, LOG), disk, entries, placements }
}

#[test]
fn entries_come_back_whole_and_in_order_across_segments() {
    let bench = written(&[10, 5000, 40_000, 0, 100_000, 3, 3_000_000, 8]);
    let read = block_on(bench.reader.read_entries(&bench.placements)).unwrap();
    assert!(read.iter().map(|entry| &entry.shared).eq(bench.entries.iter().map(|entry| &entry.shared)));
    let reversed: Vec<Placement> = bench.placements.iter().rev().copied().collect();
    assert_eq!(block_on(bench.reader.read_entries(&reversed)).unwrap().len(), 8);
    assert!(block_on(bench.reader.read_entries(&[])).unwrap().is_empty());
}

#[test]
fn any_part_of_a_payload_comes_back() {
    let bench = written(&[3_000_000]);
    let payload = bench.entries[0].payload();
    for (from, bytes) in
        [(0, 0), (0, 1), (0, 3_000_000), (3900, 300), (1_200_000, 9000), (2_999_999, 1), (3_000_000, 0)]
    {
        let read = block_on(bench.reader.read_payload(&bench.placements[0], from, bytes)).unwrap();
        assert_eq!(read, payload[from as usize..(from + bytes) as usize], "{from}, {bytes}");
    }
    assert!(block_on(bench.reader.read_payload(&bench.placements[0], 2_999_999, 2)).is_err());
    assert!(block_on(bench.reader.read_payload(&bench.placements[0], u32::MAX, u32::MAX)).is_err());
}

/// Ten thousand workers may ask for the first jobs of a backlog at once.
#[test]
fn a_part_costs_no_more_reading_and_memory_than_it_is_worth() {
    let bench = written(&[1_000_000]);
    let part = |from| {
        let before = bench.disk.counts().bytes_read;
        let part = block_on(bench.reader.read_payload(&bench.placements[0], from, 256)).unwrap();
        (bench.disk.counts().bytes_read - before, part)
    };
    part(0);
    for (from, at_most) in
        [(0, BLOCK), (20_000, 24 << 10), (30_000, 32 << 10), (40_000, 2 * BLOCK), (999_000, 3 * BLOCK)]
    {
        let (read, part) = part(from);
        assert!(read <= at_most, "{read} bytes were read for 256 at {from}");
        let kept = part.try_into_mut().map(|part| part.capacity());
        assert!(kept.is_ok_and(|kept| kept <= 512), "what was read with it is not kept");
    }
}

#[test]
fn a_place_that_holds_another_record_is_refused() {
    let bench = written(&[10, 5000, 10]);
    let [first, second, _] = bench.placements[..] else { unreachable!() };
    for wrong in [
        Placement { bytes: first.bytes + 1, ..first },
        Placement { offset: second.offset + BLOCK, ..first },
        Placement { segment: SegmentNumber(99), ..first },
        Placement { offset: 0, ..first },
        Placement { bytes: u32::MAX, ..first },
    ] {
        assert!(block_on(bench.reader.read_entries(&[wrong])).is_err(), "{wrong:?}");
        assert!(block_on(bench.reader.read_payload(&wrong, 0, 1)).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_damaged_entry_is_refused_with_its_place() {
    let bench = written(&[10, 5000]);
    let place = bench.placements[1];
    let path = bench.reader.directory().join(file_name(place.segment));
    bench.disk.flip_bit(&path, (place.offset + 3000) * 8).unwrap();
    let error = block_on(bench.reader.read_entries(&bench.placements)).unwrap_err();
    assert!(matches!(error.reason, ReadFailure::Entry(EntryError::PayloadHash)));
    assert_eq!((error.path.as_path(), error.offset), (path.as_path(), place.offset));
    bench.disk.make_unreadable(&path, place.offset, 1).unwrap();
    let error = block_on(bench.reader.read_entries(&bench.placements)).unwrap_err();
    assert!(matches!(error.reason, ReadFailure::Io(_)));
}
