//! What can still be read of a file that is written no more, from its records alone: rows of all that is whole, and where the
//! first thing stands that is not.
//!
//! It must never take for whole what is not of this log, this file and this place, nor stop at the first thing that is damaged.

use bytes::Bytes;

use super::entry::{Entry, EntryKind, LogIdentity};
use super::footer::{FooterDraft, Subject};
use super::format::{BLOCK, SegmentHeader, record_bytes};
use super::index::{Placement, SegmentNumber};
use super::recovery::scan::{Scan, Seen};
use super::store::{StoreHeader, StoredAt};
use crate::io::{AlignedBuf, BLOCK_BYTES, File, yield_now};
use crate::job::codec::{Commands, whole_enqueue};
use crate::job::command::{Class, Command};
use crate::types::{ChainHash, Index, JobId, Nanos};

/// Read at once.
const WINDOW_BYTES: u64 = 1 << 17;

/// What was found in a file.
pub(super) struct Salvaged {
    pub subject: Subject,
    pub rows: FooterDraft,
    /// Where the first thing stands that is not whole.
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub offset: u64,
    /// The entry that is not there; in a store segment, the last one before it.
    pub index: Index,
}

/// The entries of a segment of the log, up to the last that counts.
pub(super) async fn salvage_segment<F: File>(
    file: F,
    header: SegmentHeader,
    identity: LogIdentity,
    last: Index,
) -> Salvaged {
    let SegmentHeader { number, base, base_chain, .. } = header;
    let mut scan = Scan::new(file, header, identity);
    let mut rows: Option<FooterDraft> = None;
    let (mut at, mut offset, mut fault) = (base, BLOCK, None);
    // What the next entry must continue, where the one before it is known.
    let (mut chain, mut next_job) = (Some(base_chain), None);
    let mut subject = Subject { number, base, base_chain, last, next_job: JobId(1) };
    while at < last {
        let expected = at.next();
        let follows = |entry: &Entry| {
            entry.meta.position.index == expected
                && chain.is_none_or(|chain| chain == entry.prev_chain)
                && next_job.is_none_or(|next| next == entry.first_job)
        };
        let found = match scan.see(offset).await {
            Seen::Seal { .. } => {
                offset += BLOCK;
                continue;
            }
            Seen::Entry { entry, .. } if follows(&entry) => Some(entry),
            _ => None,
        };
        let placement = |entry: &Entry| Placement { segment: number, offset, bytes: entry.meta.bytes };
        let taken = found.filter(|entry| {
            let rows = rows.get_or_insert_with(|| FooterDraft::new(base, entry.first_job));
            push_entry(rows, entry, placement(entry))
        });
        if let Some(entry) = taken {
            subject.next_job = JobId(entry.first_job.0 + u64::from(entry.job_count));
            (chain, next_job) = (Some(entry.meta.chain), Some(subject.next_job));
            offset += record_bytes(entry.meta.bytes);
            at = expected;
            continue;
        }
        fault.get_or_insert(Fault { offset, index: expected });
        let Some((next, before)) = scan.next_record(offset + BLOCK, expected).await else { break };
        (offset, at, chain, next_job) = (next, before, None, None);
    }
    let rows = rows.unwrap_or_else(|| FooterDraft::new(base, subject.next_job));
    Salvaged { subject, rows, fault }
}

/// False, and no row is there, where its commands are not what it says of them.
fn push_entry(rows: &mut FooterDraft, entry: &Entry, placement: Placement) -> bool {
    let mut jobs: Vec<(Class<'_>, u32, u32)> = Vec::new();
    let commands = (entry.kind == EntryKind::Commands).then(|| Commands::new(entry.payload()));
    for item in commands.into_iter().flatten() {
        let Ok(located) = item else { return false };
        let (Ok(offset), Ok(bytes)) = (u32::try_from(located.offset), u32::try_from(located.length)) else {
            return false;
        };
        if let Command::Enqueue { class, .. } = located.numbered.command {
            jobs.push((class, offset, bytes));
        }
    }
    if jobs.len() != entry.job_count as usize {
        return false;
    }
    let wall = if jobs.is_empty() { Nanos::ZERO } else { entry.times.wall };
    rows.push_entry(entry.meta.position.index, Some(placement), wall);
    for (job, (class, offset, bytes)) in (entry.first_job.0..).map(JobId).zip(jobs) {
        rows.push_job(job, class, offset, bytes);
    }
    true
}

/// The records of a store segment. None where its header is damaged, or not one of this file, or no record is whole.
pub(super) async fn salvage_store<F: File>(
    file: &F,
    number: SegmentNumber,
    identity: &LogIdentity,
) -> Option<(StoreHeader, Salvaged)> {
    let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
    result.ok()?;
    let header = StoreHeader::read(&block, number, identity).ok().filter(|header| header.bytes == file.bytes())?;
    let (records, unreadable) = read_what_can_be(file, BLOCK, header.records_end.next_multiple_of(BLOCK)).await;
    let records = &records[..(header.records_end - BLOCK) as usize];
    let mut rows: Option<(FooterDraft, Index)> = None;
    let (mut at, mut last, mut next_job) = (0, Index::ZERO, JobId(0));
    let mut fault = None;
    let mut rest_at = WINDOW_BYTES as usize;
    while at < records.len() {
        if at >= rest_at {
            // Their hashes take the thread's time; others have their turn.
            yield_now().await;
            rest_at = at + WINDOW_BYTES as usize;
        }
        let offset = BLOCK + at as u64;
        let found = StoredAt::read(&records[at..], offset, number, identity)
            .filter(|stored| stored.job >= next_job && stored.index >= last && stored.index > Index::ZERO);
        let class = found.as_ref().and_then(|stored| whole_enqueue(stored.enqueue)).map(|(class, _)| class);
        let (Some(stored), Some(class)) = (&found, class) else {
            fault.get_or_insert(Fault { offset, index: last });
            // Records stand at any offset: the next one whose header is whole shows where.
            at += 1;
            continue;
        };
        let base = Index(stored.index.0 - 1);
        let (rows, _) = rows.get_or_insert_with(|| (FooterDraft::new(base, stored.job), base));
        if stored.index > last {
            rows.push_entry(stored.index, None, stored.wall);
        }
        rows.push_job(stored.job, class, u32::try_from(offset).ok()?, u32::try_from(stored.enqueue.len()).ok()?);
        (last, next_job) = (stored.index, JobId(stored.job.0 + 1));
        at += stored.record_bytes();
    }
    let fault = fault.or_else(|| unreadable.map(|offset| Fault { offset, index: last }));
    let (rows, base) = rows?;
    let subject = Subject { number, base, base_chain: ChainHash::default(), last, next_job };
    Some((header, Salvaged { subject, rows, fault }))
}

/// A stretch of whole blocks; zeros where the device cannot read, and where that is first.
async fn read_what_can_be<F: File>(file: &F, from: u64, to: u64) -> (Bytes, Option<u64>) {
    let mut content = Vec::with_capacity(usize::try_from(to - from).unwrap_or_default());
    let mut unreadable = None;
    let mut at = from;
    while at < to {
        let bytes = WINDOW_BYTES.min(to - at);
        match file.read_at(AlignedBuf::zeroed(bytes as usize), at).await {
            (Ok(()), window) => content.extend_from_slice(&window),
            (Err(_), _) => {
                for block in (at..at + bytes).step_by(BLOCK_BYTES) {
                    match file.read_at(AlignedBuf::zeroed(BLOCK_BYTES), block).await {
                        (Ok(()), read) => content.extend_from_slice(&read),
                        (Err(_), _) => {
                            unreadable.get_or_insert(block);
                            content.extend_from_slice(&[0; BLOCK_BYTES]);
                        }
                    }
                }
            }
        }
        at += bytes;
    }
    (content.into(), unreadable)
}
