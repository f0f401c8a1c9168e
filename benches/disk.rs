//! What one durable overwrite of a zero-written file costs, by each road that a node could take.
//!
//! The roads take turns, so that what else the machine does falls on all of them alike. Run it with
//! `cargo bench --bench disk -- DIRECTORY`; the directory must be on the file system that is to be judged.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use beaver_raft::io::bulk::{Bulk, BulkOptions};
use beaver_raft::io::uring::{CoreOptions, Durability, block_on_core};
use beaver_raft::io::{AlignedBuf, Disk, File, OpenMode, Runtime};

const FILE_BYTES: u64 = 32 << 20;
const ROUNDS: usize = 20;
const WRITES_PER_ROUND: usize = 50;

#[derive(Debug, Clone, Copy)]
enum Road {
    BlockingSyncedWrite,
    BlockingWriteThenSync,
    Ring(Durability),
}

const ROADS: [Road; 4] = [
    Road::BlockingSyncedWrite,
    Road::BlockingWriteThenSync,
    Road::Ring(Durability::SyncedWrite),
    Road::Ring(Durability::WriteThenSync),
];

fn main() -> io::Result<()> {
    // Cargo adds options of its own to the arguments of a benchmark.
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = PathBuf::from(directory.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned()));
    let bulk = Bulk::start(BulkOptions { bytes_per_second: u64::MAX, ..BulkOptions::default() })?;
    let path = directory.join("bench-disk");
    let _ = fs::remove_file(&path);
    block_on_core(&CoreOptions::new(bulk.clone()), async |runtime| {
        runtime.disk().make_zeroed(path.clone(), FILE_BYTES).await
    })??;
    println!("{} writes of each, in µs:     p50      p90      p99      min", ROUNDS * WRITES_PER_ROUND);
    for bytes in [4096, 65536] {
        let mut took = ROADS.map(|_| Vec::new());
        for round in 0..ROUNDS {
            for (road, took) in ROADS.iter().zip(&mut took) {
                took.extend(go(*road, &path, bytes, round, &bulk)?);
            }
        }
        for (road, took) in ROADS.iter().zip(&mut took) {
            report(&format!("{road:?}"), bytes, took);
        }
    }
    fs::remove_file(&path)
}

fn go(road: Road, path: &Path, bytes: usize, round: usize, bulk: &Bulk) -> io::Result<Vec<Duration>> {
    let offset = |write: usize| ((round * WRITES_PER_ROUND + write) * bytes) as u64 % FILE_BYTES;
    let sync_after = match road {
        Road::BlockingSyncedWrite => false,
        Road::BlockingWriteThenSync => true,
        Road::Ring(durability) => {
            let options = CoreOptions { durability, ..CoreOptions::new(bulk.clone()) };
            return block_on_core(&options, async |runtime| {
                let file = runtime.disk().open(path, OpenMode::Write).await?;
                let mut buf = AlignedBuf::zeroed(bytes);
                let mut took = Vec::new();
                for write in 0..WRITES_PER_ROUND {
                    let started = Instant::now();
                    let (result, returned) = file.write_at(buf, offset(write)).await;
                    took.push(started.elapsed());
                    result?;
                    buf = returned;
                }
                Ok(took)
            })?;
        }
    };
    let flags = libc::O_DIRECT | if sync_after { 0 } else { libc::O_DSYNC };
    let file = fs::OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let buf = AlignedBuf::zeroed(bytes);
    (0..WRITES_PER_ROUND)
        .map(|write| {
            let started = Instant::now();
            file.write_all_at(&buf, offset(write))?;
            if sync_after {
                // SAFETY: the descriptor is open, and no memory is passed.
                let result = unsafe { libc::fdatasync(file.as_raw_fd()) };
                assert_eq!(result, 0, "fdatasync: {}", io::Error::last_os_error());
            }
            Ok(started.elapsed())
        })
        .collect()
}

fn report(road: &str, bytes: usize, took: &mut [Duration]) {
    took.sort_unstable();
    let micros = |per_cent: usize| took[(took.len() - 1) * per_cent / 100].as_nanos() as f64 / 1000.0;
    let (p50, p90, p99, min) = (micros(50), micros(90), micros(99), micros(0));
    println!("{road:24} {bytes:6} {p50:8.1} {p90:8.1} {p99:8.1} {min:8.1}");
}
