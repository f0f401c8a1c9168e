//! The vote file: no content makes opening it panic; damage (of any extent) never makes a node forget its newest promise
//! or believe in one that it did not give, it can only make it refuse; what was read once is read again.
#![no_main]

use std::path::{Path, PathBuf};

use beaver_raft::raft::message::Vote;
use beaver_raft::sim::disk::SimDisk;
use beaver_raft::sim::disk::block_on::block_on;
use beaver_raft::types::{ClusterId, Incarnation, NodeId, ShardId, Term};
use beaver_raft::wal::entry::LogIdentity;
use beaver_raft::wal::vote::{VoteFile, VoteIdentity};
use beaver_raft_fuzz::harm::harm;
use beaver_raft_fuzz::input::Input;
use libfuzzer_sys::fuzz_target;

const ME: VoteIdentity =
    VoteIdentity { log: LogIdentity { cluster: ClusterId(5), shard: ShardId(1) }, incarnation: Incarnation(77) };

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (disk, path) = (SimDisk::new(1, 1 << 20), PathBuf::from("/vote"));
    block_on(VoteFile::create(&disk, &path, ME)).expect("an empty disk");
    let mut newest = Vote::default();
    let (mut file, _) = block_on(VoteFile::open(&disk, &path, ME)).expect("just made");
    for term in 0..input.below(5) {
        newest =
            Vote { term: Term(u64::from(term) + 1), voted_for: Some(NodeId(input.byte())).filter(|node| node.0 > 0) };
        block_on(file.save(newest)).expect("nothing is wrong yet");
    }
    drop(file);
    let raw = input.below(4) == 0;
    if raw {
        // The content as a whole is the fuzzer's.
        disk.poke(&path, 0, input.remainder()).expect("the file is there");
    }
    while !input.is_empty() {
        harm(&disk, &[path.clone()], &mut input, false);
    }
    let Some(read) = open(&disk, &path) else { return };
    assert_eq!(read, newest);
    assert_eq!(open(&disk, &path), Some(read));
});

fn open(disk: &SimDisk, path: &Path) -> Option<Vote> {
    Some(block_on(VoteFile::open(disk, path, ME)).ok()?.1)
}
