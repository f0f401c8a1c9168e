//! What it costs an append that damage can be told from a torn write: the placement header in front of each entry, and the
//! seal behind the last. Compared with durable writes of the same entries without either, at the same queue depth of one.
//!
//! The ways take turns, so that what else the machine does falls on all of them alike. Run it with
//! `cargo bench --bench evidence -- DIRECTORY`; the directory must be on the file system that is to be judged.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use beaver_raft::io::bulk::{Bulk, BulkOptions};
use beaver_raft::io::uring::{CoreOptions, UringRuntime, block_on_core};
use beaver_raft::io::{AlignedBuf, Disk, File, OpenMode, Runtime};
use beaver_raft::types::{ClusterId, Index, JobId, LogPosition, ShardId, Term, Times};
use beaver_raft::wal::entry::{Draft, Entry, EntryKind, LogIdentity, origin_chain};
use beaver_raft::wal::recovery::{LogPlace, recover};
use beaver_raft::wal::segment::SegmentSizes;
use beaver_raft::wal::writer::Writer;

const IDENTITY: LogIdentity = LogIdentity { cluster: ClusterId(1), shard: ShardId(0) };
const SEGMENT_BYTES: u64 = 128 << 20;
const BLOCK: usize = 4096;
const ROUNDS: usize = 20;
const WRITES_PER_ROUND: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The shared part, padded, and nothing else.
    Bare,
    /// As the log's writer does it.
    Evidence,
    /// And a seal behind each entry: a load that pauses after each.
    SealEach,
}

const WAYS: [Way; 3] = [Way::Bare, Way::Evidence, Way::SealEach];

struct Log {
    writer: Writer<<UringRuntime as Runtime>::Disk>,
    last: Option<Entry>,
}

impl Log {
    async fn new(runtime: &UringRuntime, dir: &Path) -> io::Result<Log> {
        runtime.disk().create_dir(dir).await?;
        let sizes = SegmentSizes { first_bytes: SEGMENT_BYTES, max_bytes: SEGMENT_BYTES };
        let place = LogPlace::whole(dir.to_owned(), IDENTITY, sizes);
        let recovered = recover(runtime.disk(), &place, |_, _| {}).await.map_err(io::Error::other)?;
        let mut writer = recovered.writer;
        let spare = writer.spares_wanted().swap_remove(0);
        runtime.disk().make_zeroed(spare.path, spare.bytes).await?;
        writer.spare_ready(spare.number);
        Ok(Log { writer, last: None })
    }

    fn next_entry(&self, payload: &[u8]) -> Entry {
        let before = self.last.as_ref();
        let draft = Draft {
            position: LogPosition::new(Term(1), before.map_or(Index(1), |last| last.meta.position.index.next())),
            prev_chain: before.map_or(origin_chain(&IDENTITY), |last| last.meta.chain),
            kind: EntryKind::Commands,
            times: Times::default(),
            first_job: JobId(1),
            job_count: 0,
            payload,
        };
        Entry::encode(draft, &IDENTITY)
    }
}

fn main() -> io::Result<()> {
    // Cargo adds options of its own to the arguments of a benchmark.
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = PathBuf::from(directory.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned()));
    let directory = directory.join("bench-evidence");
    let bulk = Bulk::start(BulkOptions { bytes_per_second: u64::MAX, ..BulkOptions::default() })?;
    println!("{} appends of each, in µs:      p50      p90     mean      min", ROUNDS * WRITES_PER_ROUND);
    // One block either way, one block more for the header in front, and sixteen.
    for payload_bytes in [300, BLOCK - 112 - 32, 60_000] {
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory)?;
        let took = block_on_core(&CoreOptions::new(bulk.clone()), async |runtime| {
            measure(&runtime, &directory, &vec![7; payload_bytes]).await
        })??;
        for (way, mut took) in WAYS.iter().zip(took) {
            report(*way, payload_bytes, &mut took);
        }
    }
    std::fs::remove_dir_all(&directory)
}

async fn measure(runtime: &UringRuntime, dir: &Path, payload: &[u8]) -> io::Result<[Vec<Duration>; 3]> {
    let bare_path = dir.join("bare");
    runtime.disk().make_zeroed(bare_path.clone(), SEGMENT_BYTES).await?;
    let bare = runtime.disk().open(&bare_path, OpenMode::Write).await?;
    let mut logs = [Log::new(runtime, &dir.join("log")).await?, Log::new(runtime, &dir.join("sealed")).await?];
    let mut offset = 0;
    let mut took = WAYS.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (way, took) in WAYS.iter().zip(&mut took) {
            for _ in 0..WRITES_PER_ROUND {
                let log = &mut logs[usize::from(*way == Way::SealEach)];
                let entry = log.next_entry(payload);
                let started = Instant::now();
                if *way == Way::Bare {
                    let mut buf = AlignedBuf::zeroed(entry.shared.len().next_multiple_of(BLOCK));
                    buf[..entry.shared.len()].copy_from_slice(&entry.shared);
                    let bytes = buf.len() as u64;
                    bare.write_at(buf, offset).await.0?;
                    offset += bytes;
                    took.push(started.elapsed());
                    continue;
                }
                let mut places = Vec::new();
                let entries = std::slice::from_ref(&entry);
                log.writer.append(None, entries, Index(0), &mut places).await.map_err(io::Error::other)?;
                if *way == Way::SealEach {
                    log.writer.seal_tail(Index(0)).await.map_err(io::Error::other)?;
                }
                took.push(started.elapsed());
                log.last = Some(entry);
            }
        }
    }
    Ok(took)
}

fn report(way: Way, payload_bytes: usize, took: &mut [Duration]) {
    took.sort_unstable();
    let micros = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
    let at = |per_cent: usize| micros(took[(took.len() - 1) * per_cent / 100]);
    let mean = micros(took.iter().sum::<Duration>()) / took.len() as f64;
    println!("{:16} {payload_bytes:6} {:8.1} {:8.1} {mean:8.1} {:8.1}", format!("{way:?}"), at(50), at(90), at(0));
}
