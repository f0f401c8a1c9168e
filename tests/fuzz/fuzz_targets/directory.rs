//! The small files of a data directory (identity, boot, peers): no content makes opening it panic; damage is refused, and
//! where it is not noticed it changed nothing; the count of starts never goes back.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;

use beaver_raft::io::Disk;
use beaver_raft::sim::disk::SimDisk;
use beaver_raft::sim::disk::block_on::block_on;
use beaver_raft::types::{BootEpoch, ClusterId, Incarnation, NodeId, Start, StartId};
use beaver_raft::wal::directory::{Expected, KnownPeer, NodeIdentity, create, open, save_peers};
use beaver_raft_fuzz::harm::harm;
use beaver_raft_fuzz::input::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (disk, data) = (SimDisk::new(1, 1 << 20), PathBuf::from("/data"));
    let expected =
        Expected { cluster: "c".into(), cluster_id: None, node: NodeId(2), shards: 1, members: [1, 2, 3].map(NodeId).to_vec() };
    let identity = NodeIdentity::new(&expected, ClusterId(3), Incarnation(u128::from(input.u64())));
    let peer = KnownPeer {
        incarnation: Incarnation(u128::from(input.u64())),
        start: Start { boot: BootEpoch(1), id: StartId(3) },
        went_back: false,
    };
    let peers = BTreeMap::from([(NodeId(1), peer)]);
    block_on(disk.create_dir(&data)).expect("an empty disk");
    block_on(create(&disk, &data, &identity)).expect("an empty directory");
    block_on(save_peers(&disk, &data, &peers)).expect("prepared");
    let boot = block_on(open(&disk, &data, &expected, StartId(1))).expect("prepared").boot;
    let files = ["identity", "boot", "peers"].map(|name| data.join(name));
    if input.below(2) == 0 {
        // A file is the fuzzer's as a whole.
        let file = &files[usize::from(input.below(3))];
        block_on(disk.replace_small(file, input.remainder())).expect("there is room");
    }
    while !input.is_empty() {
        harm(&disk, &files, &mut input, false);
    }
    if let Ok(opened) = block_on(open(&disk, &data, &expected, StartId(2))) {
        assert_eq!((opened.identity, opened.peers), (identity, peers));
        assert!(opened.boot > boot);
    }
});
