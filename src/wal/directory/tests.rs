//! A directory has one owner, and what it counts never goes back.

use super::*;
use crate::sim::disk::block_on::block_on;
use crate::sim::disk::{Crash, SectorOdds, SimDisk};
use crate::types::{ClusterId, Index};
use crate::wal::index::SegmentNumber;
use crate::wal::manifest::Manifest;

fn data() -> PathBuf {
    PathBuf::from("/data")
}

fn expected() -> Expected {
    Expected {
        cluster: "orders".into(),
        cluster_id: None,
        node: NodeId(2),
        shards: 2,
        members: [1, 2, 3].map(NodeId).to_vec(),
    }
}

fn identity() -> NodeIdentity {
    NodeIdentity::new(&expected(), ClusterId(0xdef), Incarnation(0xabc))
}

fn empty(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed, 1 << 20);
    block_on(disk.create_dir(&data())).unwrap();
    disk
}

fn prepared() -> SimDisk {
    let disk = empty(1);
    block_on(create(&disk, &data(), &identity())).unwrap();
    disk
}

#[test]
fn a_prepared_directory_knows_whose_it_is_and_counts_its_starts() {
    let disk = prepared();
    for boot in 1..4 {
        let opened = block_on(open(&disk, &data(), &expected(), StartId(7))).unwrap();
        assert_eq!(opened.identity, identity());
        assert_eq!(opened.boot, BootEpoch(boot));
        assert_eq!(opened.peers, BTreeMap::new());
    }
    for shard in [0, 1].map(ShardId) {
        block_on(VoteFile::open(&disk, &vote_path(&data(), shard), identity().vote(shard))).map(|_| ()).unwrap();
        assert!(block_on(disk.list(&segments_dir(&data(), shard))).unwrap().is_empty());
    }
}

#[test]
fn peers_stay_bound() {
    let disk = prepared();
    let known = |incarnation, boot, went_back| {
        let start = Start { boot: BootEpoch(boot), id: StartId(u64::MAX - boot) };
        KnownPeer { incarnation: Incarnation(incarnation), start, went_back }
    };
    let peers = BTreeMap::from([(NodeId(1), known(u128::MAX, 1, false)), (NodeId(3), known(7, 9, true))]);
    block_on(save_peers(&disk, &data(), &peers)).unwrap();
    assert_eq!(block_on(open(&disk, &data(), &expected(), StartId(7))).unwrap().peers, peers);
}

#[test]
fn another_nodes_directory_is_refused_by_name() {
    let disk = prepared();
    let refusal = |expected: Expected| block_on(open(&disk, &data(), &expected, StartId(7))).unwrap_err().to_string();
    let other = refusal(Expected { cluster: "invoices".into(), ..expected() });
    assert!(other.contains("cluster orders") && other.contains("invoices"), "{other}");
    let other = refusal(Expected { cluster_id: Some(ClusterId(0xdee)), ..expected() });
    assert!(other.contains("id is 00000000000000000000000000000def,") && other.ends_with("dee"), "{other}");
    let other = refusal(Expected { node: NodeId(1), ..expected() });
    assert!(other.contains("node 2") && other.contains("says 1"), "{other}");
    let other = refusal(Expected { shards: 4, ..expected() });
    assert!(other.contains("shards is 2"), "{other}");
    let other = refusal(Expected { members: vec![NodeId(1), NodeId(2)], ..expected() });
    assert!(other.contains("[1, 2, 3]"), "{other}");
    assert_eq!(
        block_on(open(&disk, &data(), &expected(), StartId(7))).unwrap().boot,
        BootEpoch(1),
        "a refusal is no start"
    );
    let told = Expected { cluster_id: Some(ClusterId(0xdef)), ..expected() };
    block_on(open(&disk, &data(), &told, StartId(7))).unwrap();
}

#[test]
fn the_order_of_members_and_their_addresses_do_not_matter() {
    let disk = prepared();
    let expected = Expected { members: [3, 1, 2].map(NodeId).to_vec(), ..expected() };
    block_on(open(&disk, &data(), &expected, StartId(7))).unwrap();
}

#[test]
fn an_empty_directory_is_not_prepared_and_a_used_one_is_not_prepared_again() {
    let disk = empty(1);
    assert!(matches!(block_on(open(&disk, &data(), &expected(), StartId(7))), Err(DirectoryError::NotPrepared { .. })));
    for left_over in ["LOCK", "admin.sock", "boot.tmp"] {
        block_on(disk.replace_small(&data().join(left_over), b"")).unwrap();
    }
    block_on(create(&disk, &data(), &identity())).unwrap();
    assert!(matches!(block_on(create(&disk, &data(), &identity())), Err(DirectoryError::NotEmpty { .. })));
    let disk = empty(1);
    block_on(disk.replace_small(&data().join("photo.jpg"), b"")).unwrap();
    let error = block_on(create(&disk, &data(), &identity())).unwrap_err();
    assert!(error.to_string().contains("photo.jpg"), "{error}");
}

#[test]
fn a_directory_that_lost_its_identity_gets_no_new_one() {
    let disk = prepared();
    for file in [IDENTITY, BOOT, PEERS] {
        disk.lose(&data().join(file));
    }
    assert!(matches!(block_on(open(&disk, &data(), &expected(), StartId(7))), Err(DirectoryError::NotPrepared { .. })));
    assert!(matches!(block_on(create(&disk, &data(), &identity())), Err(DirectoryError::NotEmpty { .. })));
}

#[test]
fn a_damaged_or_missing_file_is_named_and_nothing_is_counted_anew() {
    for file in [IDENTITY, BOOT, PEERS] {
        let disk = prepared();
        let path = data().join(file);
        let bytes = block_on(disk.read_small(&path, 1 << 16)).unwrap().unwrap().len() as u64;
        for byte in 0..bytes {
            let image = disk.fork();
            image.flip_bit(&path, byte * 8 + 1).unwrap();
            let error = block_on(open(&image, &data(), &expected(), StartId(7))).unwrap_err();
            assert!(error.to_string().contains(file), "byte {byte}: {error}");
        }
    }
    let disk = prepared();
    disk.lose(&data().join(BOOT));
    assert!(matches!(block_on(open(&disk, &data(), &expected(), StartId(7))), Err(DirectoryError::Damaged { .. })));
}

#[test]
fn a_crash_while_a_directory_is_prepared_leaves_one_that_can_be_prepared() {
    let odds = SectorOdds { new: 0.4, torn: 0.2, garbage: 0.2 };
    for stop in 1..60 {
        for how in [Crash::Process, Crash::Power(odds)] {
            let disk = empty(stop);
            disk.stop_at(disk.changes() + stop);
            let done = block_on(create(&disk, &data(), &identity())).is_ok();
            let disk = disk.crash(how);
            match block_on(open(&disk, &data(), &expected(), StartId(7))) {
                Ok(_) => continue,
                Err(DirectoryError::NotPrepared { .. }) => assert!(!done),
                Err(error) => panic!("stopped at {stop}: {error}"),
            }
            block_on(create(&disk, &data(), &identity())).unwrap();
            block_on(open(&disk, &data(), &expected(), StartId(7))).unwrap();
        }
    }
}

#[test]
fn a_crash_never_takes_a_start_back() {
    let odds = SectorOdds { new: 0.4, torn: 0.2, garbage: 0.2 };
    let mut disk = prepared();
    let mut counted = 0;
    for round in 0..120 {
        disk.stop_at(disk.changes() + 1 + round % 25);
        if let Ok(opened) = block_on(open(&disk, &data(), &expected(), StartId(7))) {
            assert!(opened.boot.0 > counted);
            counted = opened.boot.0;
        }
        disk = disk.crash(Crash::Power(odds));
    }
    assert!(counted > 5);
}

/// The shortest segments that may be configured, and a hundred gigabytes that wait in them.
#[test]
fn a_manifest_of_very_many_files_is_read_back() {
    let disk = SimDisk::new(1, 1 << 30);
    block_on(disk.create_dir(&data())).unwrap();
    let log = identity().log(ShardId(0));
    let mut manifest = Manifest::of_whole_log(&log);
    manifest.segments = (1..800_000).map(|number| (SegmentNumber(number), Index(100 * u64::from(number)))).collect();
    manifest.stores = (800_000..1_600_000).map(SegmentNumber).collect();
    let path = data().join("manifest");
    block_on(manifest.save(&disk, &path, &log)).unwrap();
    assert!(block_on(Manifest::load(&disk, &path, &log)).unwrap() == manifest);
}

#[test]
fn a_part_that_was_put_back_is_told_from_the_rest_whichever_it_is_and_nothing_is_counted() {
    let disk = prepared();
    block_on(open(&disk, &data(), &expected(), StartId(1))).unwrap();
    let older = disk.fork();
    block_on(open(&disk, &data(), &expected(), StartId(2))).unwrap();
    for put_back in [BOOT, "shard-0/vote", "shard-1/vote"] {
        let mixed = disk.fork();
        mixed.put_back(&older, |path| path == data().join(put_back));
        let before = block_on(look(&mixed, &data())).unwrap();
        let error = block_on(open(&mixed, &data(), &expected(), StartId(3))).unwrap_err();
        assert!(matches!(error, DirectoryError::PartialRestore { .. }), "{put_back}: {error}");
        assert_eq!(block_on(look(&mixed, &data())).unwrap(), before);
    }
    // All of it is of one time, and only others can tell.
    let whole = disk.fork();
    whole.put_back(&older, |_| true);
    assert_eq!(block_on(open(&whole, &data(), &expected(), StartId(3))).unwrap().boot, BootEpoch(2));
}

/// However often, and wherever: what a start that was cut off leaves is no part of another time.
#[test]
fn starts_that_are_cut_off_anywhere_one_after_the_other_leave_a_directory_that_opens() {
    let odds = SectorOdds { new: 0.4, torn: 0.2, garbage: 0.2 };
    for seed in 0..40 {
        let mut disk = empty(seed);
        block_on(create(&disk, &data(), &identity())).unwrap();
        for round in 0..12 {
            disk.stop_at(disk.changes() + 1 + (seed + round * 5) % 23);
            let opened = block_on(open(&disk, &data(), &expected(), StartId(round)));
            assert!(!matches!(opened, Err(DirectoryError::PartialRestore { .. })), "seed {seed}, round {round}");
            disk = disk.crash(if round % 2 == 0 { Crash::Process } else { Crash::Power(odds) });
        }
        block_on(open(&disk, &data(), &expected(), StartId(99))).unwrap();
    }
}
