//! Damage to what was durable, on one node or on several: as long as one copy of each entry is left, the nodes mend each other
//! and serve; where none is left they do not serve, and say why.

use std::path::Path;

use super::group::{Group, config, segment_path};
use crate::raft::message::EntryMeta;
use crate::sim::cluster::CLUSTER_ID;
use crate::sim::dialogue::Said;
use crate::sim::disk::SimDisk;
use crate::sim::disk::block_on::block_on;
use crate::types::*;
use crate::wal::directory::segments_dir;
use crate::wal::entry::LogIdentity;
use crate::wal::format::{BLOCK, PLACEMENT_HEADER_BYTES, record_bytes};
use crate::wal::index::Placement;
use crate::wal::recovery::{LogPlace, recover};
use crate::wal::segment::SegmentSizes;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    FlipPayload,
    FlipHeader,
    FlipPlacement,
    ZeroFirstBlock,
    ZeroLastBlock,
    ZeroAll,
    UnreadableFirst,
    UnreadableLast,
}

const HARMS: [Harm; 8] = [
    Harm::FlipPayload,
    Harm::FlipHeader,
    Harm::FlipPlacement,
    Harm::ZeroFirstBlock,
    Harm::ZeroLastBlock,
    Harm::ZeroAll,
    Harm::UnreadableFirst,
    Harm::UnreadableLast,
];

fn do_harm(disk: &SimDisk, place: &Placement, harm: Harm) {
    let path = segment_path(place.segment);
    let bytes = record_bytes(place.bytes);
    let zeros = |offset, bytes| disk.poke(&path, offset, &vec![0; bytes as usize]).unwrap();
    let flip = |byte: u64| disk.flip_bit(&path, (place.offset + byte) * 8 + 3).unwrap();
    let last_block = place.offset + bytes - BLOCK;
    match harm {
        Harm::FlipPayload => flip(PLACEMENT_HEADER_BYTES as u64 + u64::from(place.bytes) - 1),
        Harm::FlipHeader => flip(PLACEMENT_HEADER_BYTES as u64 + 30),
        Harm::FlipPlacement => flip(20),
        Harm::ZeroFirstBlock => zeros(place.offset, BLOCK),
        Harm::ZeroLastBlock => zeros(last_block, BLOCK),
        Harm::ZeroAll => zeros(place.offset, bytes),
        Harm::UnreadableFirst => disk.make_unreadable(&path, place.offset, 512).unwrap(),
        Harm::UnreadableLast => disk.make_unreadable(&path, last_block, 512).unwrap(),
    }
}

/// Three disks with the same log, and where each entry lies on each.
struct Base {
    segment_bytes: u64,
    disks: Vec<SimDisk>,
    metas: Vec<EntryMeta>,
    places: Vec<Vec<Placement>>,
}

impl Base {
    /// A cluster that took some jobs of one and of several blocks, came to rest, and lost its power.
    fn new(segment_bytes: u64) -> Base {
        let group = Group::new(1, config(segment_bytes));
        group.cluster.start_all();
        assert!(group.run_until(Nanos::from_secs(5), |group| group.agrees(Index(1))));
        for (number, bytes) in [10, 6_000, 10, 9_000, 20].into_iter().enumerate() {
            assert_eq!(group.put(0, vec![b'a' + number as u8; bytes]), Some(Said::Inserted(number as u64 + 1)));
        }
        assert!(group.run_until(Nanos::from_secs(5), |group| group.agrees(Index(1))));
        // Until the seals are written.
        group.run_for(Nanos::from_millis(200));
        let metas = group.metas(&group.members()[0]).expect("nothing is damaged");
        assert!(group.members().iter().all(|member| group.metas(member).as_ref() == Some(&metas)));
        let disks = group.stop();
        let places = disks.iter().map(|disk| placements(disk, segment_bytes)).collect();
        Base { segment_bytes, disks, metas, places }
    }

    fn last(&self) -> Index {
        Index(self.metas.len() as u64)
    }

    fn forks(&self) -> Vec<SimDisk> {
        self.disks.iter().map(SimDisk::fork).collect()
    }

    fn start(&self, seed: u64, disks: Vec<SimDisk>) -> Group {
        let group = Group::on(seed, config(self.segment_bytes), disks);
        group.cluster.start_all();
        group
    }

    /// Every node has every entry of the base, whole.
    fn is_whole(&self, group: &Group) -> bool {
        group.members().iter().all(|member| {
            group.metas(member).is_some_and(|metas| metas.get(..self.metas.len()) == Some(&self.metas[..]))
        })
    }
}

fn log_place(segment_bytes: u64) -> LogPlace {
    let identity = LogIdentity { cluster: CLUSTER_ID, shard: ShardId(0) };
    let sizes = SegmentSizes { first_bytes: segment_bytes, max_bytes: segment_bytes };
    LogPlace::whole(segments_dir(Path::new("/data"), ShardId(0)), identity, sizes)
}

fn placements(disk: &SimDisk, segment_bytes: u64) -> Vec<Placement> {
    let mut places = Vec::new();
    block_on(recover(&disk.fork(), &log_place(segment_bytes), |_, placement| places.push(placement))).unwrap();
    places
}

#[test]
fn a_node_with_a_damaged_entry_fetches_it_and_goes_on() {
    let base = Base::new(1 << 16);
    for harm in HARMS {
        for (entry, place) in base.places[1].iter().enumerate() {
            let disks = base.forks();
            do_harm(&disks[1], place, harm);
            let what = format!("{harm:?} of entry {}", entry + 1);
            let group = base.start(7, disks);
            assert!(group.run_until(Nanos::from_secs(5), |group| group.agrees(base.last().next())), "{what}");
            assert!(base.is_whole(&group), "{what}");
            assert!(matches!(group.put(1, b"more".to_vec()), Some(Said::Inserted(_))), "{what}");
            let (status, metrics) = group.members()[1].status().expect("it runs");
            assert_eq!(status.shards[0].faulty, 0);
            assert!(status.shards[0].repaired >= 1, "{what}: {status:?}");
            assert!(metrics.contains("beaver_raft_repaired_entries_total{shard=\"0\"} 1"), "{metrics}");
            group.executor.end();
        }
    }
}

const NODES: usize = 3;
const ENTRIES: usize = 4;
const PATTERNS: usize = 1 << (NODES * ENTRIES);

/// Which copy of which of the last four entries is damaged, bit by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pattern(usize);

impl Pattern {
    fn harms(self, node: usize, entry: usize) -> bool {
        self.0 >> (node * ENTRIES + entry) & 1 == 1
    }

    /// Each entry has an intact copy.
    fn is_recoverable(self) -> bool {
        (0..ENTRIES).all(|entry| !self.is_lost(entry))
    }

    fn is_lost(self, entry: usize) -> bool {
        (0..NODES).all(|node| self.harms(node, entry))
    }

    /// Different kinds of damage meet in a pattern, and a kind meets every place.
    fn kind(self, node: usize, entry: usize) -> Harm {
        let mixed = (self.0 * 31 + node * 7 + entry * 3).wrapping_mul(0x9e37_79b9) >> 7;
        HARMS[mixed % HARMS.len()]
    }

    fn apply(self, base: &Base) -> Vec<SimDisk> {
        let disks = base.forks();
        for (node, disk) in disks.iter().enumerate() {
            let last_four = &base.places[node][base.metas.len() - ENTRIES..];
            for (entry, place) in last_four.iter().enumerate().filter(|(entry, _)| self.harms(node, *entry)) {
                do_harm(disk, place, self.kind(node, entry));
            }
        }
        disks
    }
}

/// The cluster must serve, and every node must have every entry.
fn must_recover(base: &Base, pattern: Pattern) {
    let group = base.start(pattern.0 as u64, pattern.apply(base));
    let has_led = |group: &Group| group.agrees(base.last().next());
    if !group.run_until(Nanos::from_secs(10), has_led) {
        let told: Vec<_> =
            group.members().iter().map(|member| member.status().map(|(status, _)| status.ready())).collect();
        panic!("{pattern:?} does not recover: {told:?}\n{}", group.executor.trace().last_lines().join("\n"));
    }
    assert!(base.is_whole(&group), "{pattern:?}: an entry is missing");
    assert!(
        matches!(group.put(pattern.0 % NODES, b"more".to_vec()), Some(Said::Inserted(_))),
        "{pattern:?}: no service"
    );
    group.executor.end();
}

/// No node may serve; each must say what it lacks, and keep what it has.
fn must_say_what_is_lost(base: &Base, pattern: Pattern) {
    let group = base.start(pattern.0 as u64, pattern.apply(base));
    group.run_for(Nanos::from_millis(600));
    assert!(group.cluster.oracle().leader().is_none(), "{pattern:?}: a node leads");
    let said = group.put(pattern.0 % NODES, b"more".to_vec());
    assert!(matches!(said, None | Some(Said::Draining)), "{pattern:?}: {said:?}");
    for (node, member) in group.members().iter().enumerate() {
        let (status, metrics) = member.status().expect("it runs");
        let why = status.ready().expect_err("it is not ready").join("; ");
        assert!(why.contains("repairing") && why.contains("damaged there too"), "{pattern:?}, node {node}: {why}");
        assert!(!metrics.contains("beaver_raft_faulty_entries{shard=\"0\"} 0"), "{pattern:?}, node {node}");
        let (last, faulty) = faulty_on(&member.disk().durable_image(), base.segment_bytes);
        assert_eq!(last, base.last(), "{pattern:?}, node {node}: an entry was dropped");
        let first = base.metas.len() - ENTRIES;
        for entry in 0..ENTRIES {
            let is_faulty = faulty.contains(&Index((first + entry) as u64 + 1));
            assert!(is_faulty || !pattern.is_lost(entry), "{pattern:?}, node {node}: entry {entry} came from nowhere");
            assert!(!is_faulty || pattern.harms(node, entry), "{pattern:?}, node {node}: entry {entry} was intact");
        }
    }
    group.executor.end();
}

fn faulty_on(disk: &SimDisk, segment_bytes: u64) -> (Index, Vec<Index>) {
    let recovered = block_on(recover(disk, &log_place(segment_bytes), |_, _| {})).expect("only entries are damaged");
    (recovered.last, recovered.faulty.iter().map(|faulty| faulty.index).collect())
}

/// Every `PARTS`th pattern: the parts run beside each other.
const PARTS: usize = 4;

fn try_patterns(part: usize) {
    // One log in few segments, one with about an entry in each.
    let bases = [Base::new(1 << 17), Base::new(7 * BLOCK)];
    let [mut recovered, mut told] = [0, 0];
    for pattern in (part..PATTERNS).step_by(PARTS).map(Pattern) {
        let base = &bases[pattern.0 / PARTS % bases.len()];
        if pattern.is_recoverable() {
            must_recover(base, pattern);
            recovered += 1;
        } else {
            must_say_what_is_lost(base, pattern);
            told += 1;
        }
    }
    assert_eq!(recovered + told, PATTERNS / PARTS);
}

#[test]
fn of_all_patterns_of_damage_2401_are_those_with_a_copy_of_each_entry() {
    assert_eq!((0..PATTERNS).filter(|pattern| Pattern(*pattern).is_recoverable()).count(), 2401);
}

#[test]
fn every_pattern_of_damage_with_a_copy_of_each_entry_recovers_and_every_other_is_told_part_1() {
    try_patterns(0);
}

#[test]
fn every_pattern_of_damage_with_a_copy_of_each_entry_recovers_and_every_other_is_told_part_2() {
    try_patterns(1);
}

#[test]
fn every_pattern_of_damage_with_a_copy_of_each_entry_recovers_and_every_other_is_told_part_3() {
    try_patterns(2);
}

#[test]
fn every_pattern_of_damage_with_a_copy_of_each_entry_recovers_and_every_other_is_told_part_4() {
    try_patterns(3);
}
