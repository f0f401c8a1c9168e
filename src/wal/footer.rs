//! The rows of a segment that is written no more: where in it each job's ENQ stands, of which class it is and when it was put.
//! A side file, mapped and used in place; a pure function of the segment, so one that is missing or bad is made again.
//!
//! It must never be believed before its checksum was proven, once per life of the process, when it is first asked about a job:
//! a wrong class would have a live job answered as if it were not there. Apply never looks here.
//!
//! ```text
//!  | header | entries: one row each | jobs: one row of 20 bytes each | classes | names of tubes |
//! ```
//!
//! Little endian. The header holds its own CRC32C, and an XXH3-128 over all that follows. Entries and jobs ascend. In a log
//! segment a job's offset counts from the start of its entry's payload; in a store segment, from the start of the file.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::LogIdentity;
use super::format::{FORMAT, is_zero};
use super::index::{Placement, SegmentNumber};
use crate::io::BLOCK_BYTES;
use crate::job::command::Class;
use crate::types::{ChainHash, Index, JobId, Nanos};

const MAGIC: u64 = u64::from_le_bytes(*b"BvRows\0\0");

/// Keeps the checksum of rows apart from all other hashes.
const CHECKSUM_DOMAIN: u64 = u64::from_le_bytes(*b"beaverRW");

/// Which part of which log the rows are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Of the file that the rows point into.
    pub number: SegmentNumber,
    /// The entries in it that count are those above this one,
    pub base: Index,
    pub base_chain: ChainHash,
    /// and up to this one.
    pub last: Index,
    /// The jobs in it are below this one.
    pub next_job: JobId,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Header {
    magic: U64,
    format: U16,
    shard: U16,
    number: U32,
    cluster: U128,
    base: U64,
    last: U64,
    base_chain: U128,
    first_job: U64,
    next_job: U64,
    /// Of all its ENQs together.
    enqueue_bytes: U64,
    entries: U32,
    jobs: U32,
    classes: U32,
    name_bytes: U32,
    checksum: U128,
    zero: U32,
    crc: U32,
}

const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 128);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct EntryRow {
    /// Above the base.
    index: U32,
    /// Of the record in the file, in blocks; 0 in a store segment.
    block: U32,
    /// Length of the entry's shared part; 0 in a store segment.
    bytes: U32,
    wall: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct JobRow {
    /// Above the first of all.
    job: U32,
    /// Which of the entries it came with.
    entry: U32,
    offset: U32,
    bytes: U32,
    class: U32,
}

const _: () = assert!(size_of::<JobRow>() == 20);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct ClassRow {
    priority: U32,
    ttr_s: U32,
    delay_s: U32,
    name_at: U32,
    name_bytes: U32,
}

impl Header {
    fn checksum_of_header(mut self) -> u32 {
        self.crc = U32::ZERO;
        crc32c::crc32c(self.as_bytes())
    }

    /// Where the entries, jobs, classes and names begin, and where the file ends.
    fn layout(&self) -> [usize; 5] {
        let count = |number: U32| number.get() as usize;
        let entries = HEADER_BYTES;
        let jobs = entries + count(self.entries) * size_of::<EntryRow>();
        let classes = jobs + count(self.jobs) * size_of::<JobRow>();
        let names = classes + count(self.classes) * size_of::<ClassRow>();
        [entries, jobs, classes, names, names + count(self.name_bytes)]
    }
}

/// Why bytes are not the rows of a segment of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FooterError {
    #[error("it is too short, or not what it says it is")]
    Header,
    #[error("it is of another log or another segment")]
    Foreign,
    #[error("it is {found} bytes long and says {stated}")]
    Length { stated: usize, found: usize },
    #[error("the checksum of its rows is wrong")]
    Checksum,
}

/// What a row says of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    pub job: JobId,
    pub class: Class<'a>,
    /// Of the ENQ, see the head of this file.
    pub offset: u32,
    pub bytes: u32,
    pub wall: Nanos,
    pub index: Index,
    /// Of its entry, where the rows are those of a log segment.
    pub placement: Placement,
}

/// Mapped rows.
#[derive(Clone)]
pub struct Footer {
    bytes: Bytes,
    header: HeaderView,
    /// Whether the checksum was proven, once it was looked at.
    proven: Cell<Option<bool>>,
}

impl fmt::Debug for Footer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Footer").field("header", &self.header).finish_non_exhaustive()
    }
}

/// The header, in native form.
#[derive(Debug, Clone, Copy)]
struct HeaderView {
    subject: Subject,
    first_job: JobId,
    enqueue_bytes: u64,
    entries: usize,
    jobs: usize,
    layout: [usize; 5],
    checksum: u128,
}

impl Footer {
    /// Takes mapped bytes whose header is whole. What follows it is believed for the moment: see [`Footer::verify`].
    ///
    /// # Errors
    /// If these are not the rows of a segment of this log, or not all of them.
    pub fn open(bytes: Bytes, identity: &LogIdentity) -> Result<Footer, FooterError> {
        let (header, _) = Header::read_from_prefix(&bytes).map_err(|_| FooterError::Header)?;
        if header.magic.get() != MAGIC
            || header.format.get() != FORMAT
            || header.crc.get() != header.checksum_of_header()
            || header.zero != U32::ZERO
        {
            return Err(FooterError::Header);
        }
        if header.cluster.get() != identity.cluster.0 || header.shard.get() != identity.shard.0 {
            return Err(FooterError::Foreign);
        }
        let layout = header.layout();
        let (stated, found) = (layout[4].next_multiple_of(BLOCK_BYTES), bytes.len());
        if stated != found {
            return Err(FooterError::Length { stated, found });
        }
        let header = HeaderView {
            subject: Subject {
                number: SegmentNumber(header.number.get()),
                base: Index(header.base.get()),
                base_chain: ChainHash(header.base_chain.get()),
                last: Index(header.last.get()),
                next_job: JobId(header.next_job.get()),
            },
            first_job: JobId(header.first_job.get()),
            enqueue_bytes: header.enqueue_bytes.get(),
            entries: header.entries.get() as usize,
            jobs: header.jobs.get() as usize,
            layout,
            checksum: header.checksum.get(),
        };
        Ok(Footer { bytes, header, proven: Cell::new(None) })
    }

    /// Reads all of it and proves that it is what was written.
    ///
    /// # Errors
    /// If it is not.
    pub fn verify(&self) -> Result<(), FooterError> {
        let (rows, padding) = self.bytes[HEADER_BYTES..].split_at(self.header.layout[4] - HEADER_BYTES);
        let whole = is_zero(padding) && xxh3_128_with_seed(rows, CHECKSUM_DOMAIN) == self.header.checksum;
        self.proven.set(Some(whole));
        if whole { Ok(()) } else { Err(FooterError::Checksum) }
    }

    /// Whether it is what was written, looked at once.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven.get().unwrap_or_else(|| self.verify().is_ok())
    }

    #[must_use]
    pub fn subject(&self) -> Subject {
        self.header.subject
    }

    #[must_use]
    pub fn number(&self) -> SegmentNumber {
        self.header.subject.number
    }

    /// The first job in it; where there is none, the one that would be.
    #[must_use]
    pub fn first_job(&self) -> JobId {
        self.header.first_job
    }

    /// Jobs in it are below this one.
    #[must_use]
    pub fn next_job(&self) -> JobId {
        self.header.subject.next_job
    }

    /// The ids that the jobs in it lie between; none where there is no job.
    #[must_use]
    pub fn ids(&self) -> Option<Range<JobId>> {
        (self.jobs() > 0).then(|| self.first_job()..self.next_job())
    }

    #[must_use]
    pub fn jobs(&self) -> usize {
        self.header.jobs
    }

    /// Of all its ENQs together.
    #[must_use]
    pub fn enqueue_bytes(&self) -> u64 {
        self.header.enqueue_bytes
    }

    /// Length of the rows themselves.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn part<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, part: usize) -> &[T] {
        let bytes = self.bytes.get(self.header.layout[part]..self.header.layout[part + 1]).unwrap_or_default();
        <[T]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    fn entry_rows(&self) -> &[EntryRow] {
        self.part(0)
    }

    fn job_rows(&self) -> &[JobRow] {
        self.part(1)
    }

    /// What is known of a job whose ENQ is here.
    #[must_use]
    pub fn find(&self, job: JobId) -> Option<Row<'_>> {
        let delta = u32::try_from(job.0.checked_sub(self.header.first_job.0)?).ok()?;
        if job >= self.next_job() || !self.is_proven() {
            return None;
        }
        let rows = self.job_rows();
        // Where no id is missing, as in every segment of the log, the row stands where its number says.
        let guess = rows.get(delta as usize).filter(|row| row.job.get() == delta);
        let row = match guess {
            Some(row) => row,
            None => &rows[rows.binary_search_by_key(&delta, |row| row.job.get()).ok()?],
        };
        self.row(row)
    }

    /// The jobs from `first` on, ascending.
    pub fn rows_from(&self, first: JobId) -> impl Iterator<Item = Row<'_>> {
        let delta = first.0.saturating_sub(self.header.first_job.0);
        let rows = self.job_rows();
        let at = rows.partition_point(|row| u64::from(row.job.get()) < delta);
        rows[at..].iter().filter_map(|row| self.row(row))
    }

    fn row(&self, row: &JobRow) -> Option<Row<'_>> {
        let entry = self.entry_rows().get(row.entry.get() as usize)?;
        let class: &ClassRow = self.part::<ClassRow>(2).get(row.class.get() as usize)?;
        let names: &[u8] = self.part(3);
        let at = class.name_at.get() as usize;
        let tube = names.get(at..at.checked_add(class.name_bytes.get() as usize)?)?;
        Some(Row {
            job: JobId(self.header.first_job.0 + u64::from(row.job.get())),
            class: Class {
                tube,
                priority: class.priority.get(),
                ttr_s: class.ttr_s.get(),
                delay_s: class.delay_s.get(),
            },
            offset: row.offset.get(),
            bytes: row.bytes.get(),
            wall: Nanos(entry.wall.get()),
            index: Index(self.header.subject.base.0 + u64::from(entry.index.get())),
            placement: self.placement_of(entry),
        })
    }

    fn placement_of(&self, entry: &EntryRow) -> Placement {
        Placement {
            segment: self.number(),
            offset: u64::from(entry.block.get()) * BLOCK_BYTES as u64,
            bytes: entry.bytes.get(),
        }
    }

    /// Where an entry lies; for the rows of a log segment, where each entry has one.
    #[must_use]
    pub fn placement(&self, index: Index) -> Option<Placement> {
        let above = index.0.checked_sub(self.header.subject.base.0)?;
        let entry = self.entry_rows().get(usize::try_from(above.checked_sub(1)?).ok()?)?;
        (u64::from(entry.index.get()) == above).then(|| self.placement_of(entry))
    }

    /// Its entries and where each lies, in order.
    pub fn placements(&self) -> impl Iterator<Item = (Index, Placement)> {
        let base = self.header.subject.base.0;
        self.entry_rows()
            .iter()
            .map(move |entry| (Index(base + u64::from(entry.index.get())), self.placement_of(entry)))
    }

    /// How many entries have a row.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.header.entries
    }
}

/// Rows on their way to a file, entry by entry and job by job, ascending.
#[derive(Debug, Default)]
pub struct FooterDraft {
    base: Index,
    first_job: JobId,
    entries: Vec<EntryRow>,
    jobs: Vec<JobRow>,
    classes: Vec<ClassRow>,
    names: Vec<u8>,
    class_numbers: BTreeMap<(Vec<u8>, u32, u32, u32), u32>,
    enqueue_bytes: u64,
}

impl FooterDraft {
    /// Rows of entries above `base`, whose jobs are `first_job` and later ones.
    #[must_use]
    pub fn new(base: Index, first_job: JobId) -> FooterDraft {
        FooterDraft { base, first_job, ..FooterDraft::default() }
    }

    /// An entry that follows those before it.
    ///
    /// # Panics
    /// If it is 2^32 or more above the base: segments are far shorter.
    pub fn push_entry(&mut self, index: Index, placement: Option<Placement>, wall: Nanos) {
        let block = placement.map_or(0, |place| place.offset / BLOCK_BYTES as u64);
        self.entries.push(EntryRow {
            index: number(index.0 - self.base.0),
            block: number(block),
            bytes: U32::new(placement.map_or(0, |place| place.bytes)),
            wall: U64::new(wall.0),
        });
    }

    /// A job of the last entry.
    ///
    /// # Panics
    /// If there is no entry, or the job is 2^32 or more above the first.
    pub fn push_job(&mut self, job: JobId, class: Class<'_>, offset: u32, bytes: u32) {
        let entry = self.entries.len().checked_sub(1).expect("a job comes with an entry");
        let class = self.class_number(class);
        self.enqueue_bytes += u64::from(bytes);
        self.jobs.push(JobRow {
            job: number(job.0 - self.first_job.0),
            entry: number(entry as u64),
            offset: U32::new(offset),
            bytes: U32::new(bytes),
            class: U32::new(class),
        });
    }

    fn class_number(&mut self, class: Class<'_>) -> u32 {
        // Most jobs are of the class of the job before them.
        if let Some(last) = self.jobs.last().map(|job| job.class.get())
            && self.is_class(last, class)
        {
            return last;
        }
        let key = (class.tube.to_vec(), class.priority, class.ttr_s, class.delay_s);
        if let Some(&known) = self.class_numbers.get(&key) {
            return known;
        }
        let new = number(self.classes.len() as u64).get();
        self.classes.push(ClassRow {
            priority: U32::new(class.priority),
            ttr_s: U32::new(class.ttr_s),
            delay_s: U32::new(class.delay_s),
            name_at: number(self.names.len() as u64),
            name_bytes: number(class.tube.len() as u64),
        });
        self.names.extend_from_slice(class.tube);
        self.class_numbers.insert(key, new);
        new
    }

    fn is_class(&self, number: u32, class: Class<'_>) -> bool {
        let known = &self.classes[number as usize];
        let at = known.name_at.get() as usize;
        self.names[at..at + known.name_bytes.get() as usize] == *class.tube
            && (known.priority.get(), known.ttr_s.get(), known.delay_s.get())
                == (class.priority, class.ttr_s, class.delay_s)
    }

    /// The bytes of the file, whole blocks.
    ///
    /// # Panics
    /// If the rows were begun for another base.
    #[must_use]
    pub fn finish(&self, subject: &Subject, identity: &LogIdentity) -> Vec<u8> {
        assert_eq!(subject.base, self.base, "rows are finished as what they were begun as");
        let parts = [self.entries.as_bytes(), self.jobs.as_bytes(), self.classes.as_bytes(), &self.names];
        let mut checksum = Xxh3::with_seed(CHECKSUM_DOMAIN);
        parts.iter().for_each(|part| checksum.update(part));
        let mut header = Header {
            magic: U64::new(MAGIC),
            format: U16::new(FORMAT),
            shard: U16::new(identity.shard.0),
            number: U32::new(subject.number.0),
            cluster: U128::new(identity.cluster.0),
            base: U64::new(subject.base.0),
            last: U64::new(subject.last.0),
            base_chain: U128::new(subject.base_chain.0),
            first_job: U64::new(self.first_job.0),
            next_job: U64::new(subject.next_job.0),
            enqueue_bytes: U64::new(self.enqueue_bytes),
            entries: number(self.entries.len() as u64),
            jobs: number(self.jobs.len() as u64),
            classes: number(self.classes.len() as u64),
            name_bytes: number(self.names.len() as u64),
            checksum: U128::new(checksum.digest128()),
            zero: U32::ZERO,
            crc: U32::ZERO,
        };
        header.crc = U32::new(header.checksum_of_header());
        let mut bytes = header.as_bytes().to_vec();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        bytes
    }
}

fn number(value: u64) -> U32 {
    U32::new(u32::try_from(value).expect("a segment is shorter than 4 GiB and spans fewer than 2^32 jobs"))
}

#[cfg(test)]
mod tests;
