//! Damage to what was durable, on one node or on several: as long as one copy of each entry is left, the nodes mend each other
//! and serve; where none is left they do not serve, and say why.

use std::path::Path;

use super::group::{Group, config, segment_path};
use crate::raft::message::EntryMeta;
use crate::sim::dialogue::Said;
use crate::sim::disk::SimDisk;
use crate::sim::disk::block_on::block_on;
use crate::types::*;
use crate::wal::directory::{cluster_id, segments_dir};
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

fn placements(disk: &SimDisk, segment_bytes: u64) -> Vec<Placement> {
    let nodes = [1, 2, 3].map(NodeId);
    let identity = LogIdentity { cluster: cluster_id("simulated", &nodes, 1), shard: ShardId(0) };
    let sizes = SegmentSizes { first_bytes: segment_bytes, max_bytes: segment_bytes };
    let place = LogPlace::whole(segments_dir(Path::new("/data"), ShardId(0)), identity, sizes);
    let mut places = Vec::new();
    block_on(recover(&disk.fork(), &place, |_, placement| places.push(placement))).unwrap();
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
