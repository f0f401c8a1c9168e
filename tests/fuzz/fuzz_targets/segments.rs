//! Recovery of a log from segment files: no content makes it panic; what it calls live was written, in this order, and can
//! be read back; without damage nothing is missing; and a second recovery finds what the first one found.
#![no_main]

use std::path::PathBuf;

use beaver_raft::io::Disk;
use beaver_raft::raft::message::EntryMeta;
use beaver_raft::sim::disk::block_on::block_on;
use beaver_raft::sim::disk::{Crash, SimDisk};
use beaver_raft::types::{ClusterId, Index, JobId, LogPosition, ShardId, Term, Times};
use beaver_raft::wal::entry::{Draft, Entry, EntryKind, LogIdentity, origin_chain};
use beaver_raft::wal::reader::LogReader;
use beaver_raft::wal::recovery::{LogPlace, Recovered, RecoveryError, recover};
use beaver_raft::wal::segment::SegmentSizes;
use beaver_raft_fuzz::harm::harm;
use beaver_raft_fuzz::input::Input;
use libfuzzer_sys::fuzz_target;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(0xc1), shard: ShardId(0) };

/// Lengths of payloads at which records begin to need another block.
const PAYLOAD_BYTES: [usize; 6] = [0, 10, 3920, 3921, 9000, 30_000];

fn place() -> LogPlace {
    let sizes = SegmentSizes { first_bytes: 5 * 4096, max_bytes: 16 * 4096 };
    LogPlace::whole(PathBuf::from("/wal"), LOG, sizes)
}

fn recover_all(disk: &SimDisk) -> Result<(Recovered<SimDisk>, Vec<Entry>), RecoveryError> {
    let mut live = Vec::new();
    let recovered = block_on(recover(disk, &place(), |entry, _| live.push(entry.clone())))?;
    assert_eq!(recovered.metas, metas(&live));
    assert!(recovered.committed <= recovered.last);
    Ok((recovered, live))
}

fn metas(entries: &[Entry]) -> Vec<EntryMeta> {
    entries.iter().map(|entry| entry.meta).collect()
}

fn next_entry(log: &[Entry], term: Term, payload: &[u8]) -> Entry {
    let index = log.len() as u64 + 1;
    let draft = Draft {
        position: LogPosition::new(term, Index(index)),
        prev_chain: log.last().map_or(origin_chain(&LOG), |last| last.meta.chain),
        kind: EntryKind::Commands,
        times: Times::default(),
        first_job: JobId(index),
        job_count: 1,
        payload,
    };
    Entry::encode(draft, &LOG)
}

/// A log as the writer leaves it: what it holds, and everything that was ever in it.
fn write_log(disk: &SimDisk, input: &mut Input<'_>) -> (Vec<Entry>, Vec<EntryMeta>) {
    let (mut recovered, _) = recover_all(disk).expect("an empty directory");
    let (mut log, mut ever, mut term): (Vec<Entry>, _, _) = (Vec::new(), Vec::new(), Term(1));
    for _ in 0..input.below(8) {
        let keep = match input.below(6) {
            0 => usize::from(input.below(u8::try_from(log.len() + 1).unwrap_or(u8::MAX))),
            1 => {
                block_on(recovered.writer.seal_tail(Index(log.len() as u64))).expect("nothing is wrong yet");
                continue;
            }
            2 => {
                for spare in recovered.writer.spares_wanted() {
                    block_on(disk.make_zeroed(spare.path, spare.bytes)).expect("there is room");
                    recovered.writer.spare_ready(spare.number);
                }
                continue;
            }
            _ => log.len(),
        };
        let cut = (keep < log.len()).then_some(Index(keep as u64));
        if cut.is_some() {
            term = term.next();
            log.truncate(keep);
        }
        for _ in 0..=input.below(3) {
            let bytes = PAYLOAD_BYTES[usize::from(input.below(6))];
            log.push(next_entry(&log, term, &vec![bytes as u8; bytes]));
        }
        ever.extend(metas(&log[keep..]));
        let mut placements = Vec::new();
        let appended = recovered.writer.append(cut, &log[keep..], Index(keep as u64), &mut placements);
        block_on(appended).expect("nothing is wrong yet");
    }
    (log, ever)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let disk = SimDisk::new(1, 1 << 30);
    block_on(disk.create_dir(&place().dir)).expect("an empty disk");
    let (log, ever) = write_log(&disk, &mut input);
    let disk = disk.crash(Crash::Process);
    let files: Vec<PathBuf> = disk.files().into_iter().map(|(path, _)| path).collect();
    let is_whole = input.is_empty() || files.is_empty();
    if input.below(8) == 1 && !files.is_empty() {
        // A file begins as the fuzzer says.
        let file = &files[usize::from(input.byte()) % files.len()];
        disk.poke(file, 0, input.remainder()).expect("the file is there");
    }
    while !input.is_empty() && !files.is_empty() {
        harm(&disk, &files, &mut input, true);
    }
    let Ok((recovered, live)) = recover_all(&disk) else {
        assert!(!is_whole, "a log without damage is always recovered");
        return;
    };
    for meta in metas(&live) {
        assert!(ever.contains(&meta), "nothing is live that was never written");
    }
    if is_whole {
        assert_eq!((metas(&live), recovered.faulty.len()), (metas(&log), 0));
    }
    let placements = recovered.index.range(Index(1), Index(live.len() as u64), u64::MAX);
    let reader = LogReader::new(disk.clone(), place().dir, LOG);
    let read = block_on(reader.read_entries(&placements)).expect("what is live can be read");
    assert_eq!(metas(&read), metas(&live));
    let faulty = recovered.faulty.clone();
    drop(recovered);
    let (again, live_again) = recover_all(&disk).expect("what could be recovered still can be");
    assert_eq!((metas(&live_again), &again.faulty), (metas(&live), &faulty));
});
