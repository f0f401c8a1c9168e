//! A log on a simulated disk beside a model of what it must hold.

use std::path::PathBuf;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::io::Disk;
use crate::sim::disk::block_on::block_on;
use crate::sim::disk::{SectorOdds, SimDisk};
use crate::types::*;
use crate::wal::entry::*;
use crate::wal::recovery::*;
use crate::wal::segment::SegmentSizes;
use crate::wal::writer::WriteError;

pub const LOG: LogIdentity = LogIdentity { cluster: ClusterId(0xc1), shard: ShardId(0) };
pub const ROOM: u64 = 1 << 30;

pub fn place() -> LogPlace {
    let sizes = SegmentSizes { first_bytes: 5 * 4096, max_bytes: 16 * 4096 };
    LogPlace::whole(PathBuf::from("/wal"), LOG, sizes)
}

pub fn new_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed, ROOM);
    block_on(disk.create_dir(&place().dir)).unwrap();
    disk
}

pub fn power_cut() -> Crash {
    Crash::Power(SectorOdds { new: 0.4, torn: 0.1, garbage: 0.1 })
}

pub use crate::sim::disk::Crash;

/// Recovers, and the live entries with it.
pub fn recover_all(disk: &SimDisk) -> Result<(Recovered<SimDisk>, Vec<Entry>), RecoveryError> {
    let mut live = Vec::new();
    let recovered = block_on(recover(disk, &place(), |entry, _| live.push(entry.clone())))?;
    assert_eq!(recovered.metas, live.iter().map(|entry| entry.meta).collect::<Vec<_>>());
    assert_eq!(recovered.index.last(), Index(live.len() as u64));
    Ok((recovered, live))
}

/// The entry that follows these, with a payload of this length.
pub fn next_entry(log: &[Entry], term: Term, payload_bytes: usize) -> Entry {
    let payload: Vec<u8> = (0..payload_bytes).map(|at| (at + log.len()) as u8).collect();
    let draft = Draft {
        position: LogPosition::new(term, Index(log.len() as u64 + 1)),
        prev_chain: log.last().map_or(origin_chain(&LOG), |last| last.meta.chain),
        kind: EntryKind::Commands,
        times: Times::default(),
        first_job: JobId(log.len() as u64 + 1),
        job_count: 1,
        payload: &payload,
    };
    Entry::encode(draft, &LOG)
}

/// A log and what it must hold.
pub struct Bench {
    pub disk: SimDisk,
    pub recovered: Recovered<SimDisk>,
    /// What was acknowledged.
    pub durable: Vec<Entry>,
    pub term: Term,
}

impl Bench {
    pub fn new(seed: u64) -> Bench {
        let disk = new_disk(seed);
        let (recovered, live) = recover_all(&disk).unwrap();
        assert!(live.is_empty());
        Bench { disk, recovered, durable: Vec::new(), term: Term(1) }
    }

    /// What a successful append of these behind the first `keep` entries leads to.
    pub fn planned(&mut self, keep: usize, payloads: &[usize]) -> Vec<Entry> {
        let mut planned = self.durable[..keep].to_vec();
        if keep < self.durable.len() {
            self.term = self.term.next();
        }
        for &bytes in payloads {
            planned.push(next_entry(&planned, self.term, bytes));
        }
        planned
    }

    pub fn append(&mut self, keep: usize, planned: Vec<Entry>) -> Result<(), WriteError> {
        let after = (keep < self.durable.len()).then_some(Index(keep as u64));
        let commit = Index(keep as u64);
        let writer = &mut self.recovered.writer;
        let mut placements = Vec::new();
        block_on(writer.append(after, &planned[keep..], commit, &mut placements))?;
        assert_eq!(placements.len(), planned.len() - keep);
        self.durable = planned;
        Ok(())
    }

    pub fn append_sizes(&mut self, payloads: &[usize]) {
        let keep = self.durable.len();
        let planned = self.planned(keep, payloads);
        self.append(keep, planned).unwrap();
    }

    pub fn cut_and_append(&mut self, keep: usize, payloads: &[usize]) {
        let planned = self.planned(keep, payloads);
        self.append(keep, planned).unwrap();
    }

    pub fn seal(&mut self) {
        block_on(self.recovered.writer.seal_tail(Index(self.durable.len() as u64))).unwrap();
    }

    pub fn make_spares(&mut self) {
        for spare in self.recovered.writer.spares_wanted() {
            match block_on(self.disk.make_zeroed(spare.path, spare.bytes)) {
                Ok(()) => self.recovered.writer.spare_ready(spare.number),
                Err(_) => self.recovered.writer.spare_failed(spare.number),
            }
        }
    }

    /// A new life on the same disk, whose log must be as acknowledged.
    pub fn restart(&mut self, crash: Crash) {
        self.disk = self.disk.crash(crash);
        let (recovered, live) = recover_all(&self.disk).unwrap();
        assert_eq!(recovered.faulty, []);
        assert_eq!(metas(&live), metas(&self.durable));
        self.recovered = recovered;
    }
}

pub fn metas(entries: &[Entry]) -> Vec<crate::raft::message::EntryMeta> {
    entries.iter().map(|entry| entry.meta).collect()
}

pub fn random_payloads(random: &mut ChaCha8Rng) -> Vec<usize> {
    (0..random.random_range(1..5)).map(|_| [0, 10, 3000, 3920, 3921, 9000, 30_000][random.random_range(0..7)]).collect()
}
