//! The log on a real disk through the real ring: what the simulated disk cannot show is that both agree.

use std::path::Path;

use beaver_raft::io::bulk::{Bulk, BulkOptions};
use beaver_raft::io::uring::{CoreOptions, UringRuntime, block_on_core};
use beaver_raft::io::{Disk, Runtime};
use beaver_raft::raft::message::Vote;
use beaver_raft::types::{
    BootEpoch, ClusterId, Incarnation, Index, JobId, LogPosition, NodeId, ShardId, StartId, Term, Times,
};
use beaver_raft::wal::directory::{self, Expected, NodeIdentity};
use beaver_raft::wal::entry::{Draft, Entry, EntryKind, LogIdentity, origin_chain};
use beaver_raft::wal::reader::LogReader;
use beaver_raft::wal::recovery::{LogPlace, recover};
use beaver_raft::wal::segment::SegmentSizes;
use beaver_raft::wal::vote::VoteFile;

const SHARD: ShardId = ShardId(0);
const SIZES: SegmentSizes = SegmentSizes { first_bytes: 64 << 10, max_bytes: 256 << 10 };

fn expected() -> Expected {
    Expected { cluster: "real".into(), cluster_id: None, node: NodeId(1), shards: 1, members: vec![NodeId(1)] }
}

fn extend(log: &mut Vec<Entry>, identity: &LogIdentity, count: usize) {
    for _ in 0..count {
        let payload = vec![log.len() as u8; log.len() * 977 % 20_000];
        let draft = Draft {
            position: LogPosition::new(Term(1), Index(log.len() as u64 + 1)),
            prev_chain: log.last().map_or(origin_chain(identity), |last| last.meta.chain),
            kind: EntryKind::Commands,
            times: Times::default(),
            first_job: JobId(log.len() as u64 + 1),
            job_count: 1,
            payload: &payload,
        };
        log.push(Entry::encode(draft, identity));
    }
}

/// One life: opens, finds what the lives before wrote, writes more, reads it back, and ends without a word.
async fn live(runtime: &UringRuntime, data: &Path, log: &mut Vec<Entry>, boot: u64) {
    let disk = runtime.disk();
    let opened = directory::open(disk, data, &expected(), StartId(1)).await.expect("it was prepared");
    assert_eq!(opened.boot, BootEpoch(boot));
    let identity = opened.identity.log(SHARD);
    let vote_path = directory::vote_path(data, SHARD);
    let (mut votes, vote) =
        VoteFile::open(disk, &vote_path, opened.identity.vote(SHARD)).await.expect("it was written");
    assert_eq!(vote.term, Term(boot - 1));
    votes.save(Vote { term: Term(boot), voted_for: Some(NodeId(1)) }).await.expect("the disk works");

    let place = LogPlace::whole(directory::segments_dir(data, SHARD), identity, SIZES);
    let mut found = Vec::new();
    let recovered = recover(disk, &place, |entry, _| found.push(entry.shared.clone())).await.expect("it is whole");
    let recovered = recovered.require_whole().expect("it is whole");
    assert!(found.iter().eq(log.iter().map(|entry| &entry.shared)));

    let (mut writer, mut index) = (recovered.writer, recovered.index);
    for round in 0..6 {
        if round % 2 == 0 {
            for spare in writer.spares_wanted() {
                disk.make_zeroed(spare.path, spare.bytes).await.expect("the bulk path works");
                writer.spare_ready(spare.number);
            }
        }
        let known = log.len();
        extend(log, &identity, 9);
        let mut placements = Vec::new();
        writer.append(None, &log[known..], Index(known as u64), &mut placements).await.expect("the disk works");
        for (entry, placement) in log[known..].iter().zip(placements) {
            index.push(entry.meta.position.index, placement, entry.first_job, entry.job_count);
        }
    }
    writer.seal_tail(Index(log.len() as u64)).await.expect("the disk works");

    let reader = LogReader::new(disk.clone(), place.dir, identity);
    let placements = index.range(Index(1), Index(log.len() as u64), u64::MAX);
    let read = reader.read_entries(&placements).await.expect("all is durable");
    assert!(read.iter().map(|entry| &entry.shared).eq(log.iter().map(|entry| &entry.shared)));
}

#[test]
fn a_log_on_a_real_disk_lives_through_restarts() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a test may write next to its build");
    let data = directory.path().to_owned();
    let bulk = Bulk::start(BulkOptions::default()).expect("glommio starts");
    let main = |runtime: UringRuntime| async move {
        let identity = NodeIdentity::new(&expected(), ClusterId(1), Incarnation(1));
        directory::create(runtime.disk(), &data, &identity).await.expect("it is empty");
        let mut log = Vec::new();
        for boot in 1..4 {
            live(&runtime, &data, &mut log, boot).await;
        }
    };
    block_on_core(&CoreOptions::new(bulk), main).expect("io_uring works here");
}
