//! Store segments: single job records, moved out of segments in which little lives, with their rows in the same file. Written
//! once, as a whole; never changed.
//!
//! It must never hand out a record of another job, file or place than was asked for.
//!
//! ```text
//!  | header block | record | record | ... | zeros | rows (`footer.rs`), from a block on |
//!
//!  record:  | magic | bytes | job | index | wall | crc of the ENQ | crc | the ENQ, as its entry held it |
//! ```
//!
//! Little endian. Checksums are CRC32C; a record's own is seeded with log, file and offset. The ENQ carries the hash of the body,
//! by which a peer's copy is known.

use std::path::PathBuf;

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{ENTRY_BYTES_MAX, LogIdentity};
use super::footer::{Footer, FooterDraft, FooterError, Subject};
use super::format::{BLOCK, FORMAT, is_zero};
use super::index::SegmentNumber;
use super::open_files::OpenFiles;
use super::reader::{Lent, ReadError, ReadFailure};
use crate::io::{AlignedBuf, BLOCK_BYTES, Disk, File, OpenMode};
use crate::job::command::Class;
use crate::types::{ChainHash, Index, JobId, Nanos};

const MAGIC: u64 = u64::from_le_bytes(*b"BvStore\0");
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"BvRc");

/// Length of what stands in front of each ENQ.
pub const RECORD_HEADER_BYTES: usize = size_of::<RecordBytes>();
const _: () = assert!(RECORD_HEADER_BYTES == 40);

/// The file name of a store segment.
#[must_use]
pub fn store_file_name(number: SegmentNumber) -> String {
    format!("{:010}.store", number.0)
}

/// The store segment that a file name names, if it is the name of one.
#[must_use]
pub fn parse_store_file_name(name: &str) -> Option<SegmentNumber> {
    let number = SegmentNumber(name.strip_suffix(".store")?.parse().ok()?);
    (store_file_name(number) == name).then_some(number)
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct HeaderBytes {
    magic: U64,
    format: U16,
    shard: U16,
    number: U32,
    cluster: U128,
    records_end: U64,
    rows_at: U64,
    bytes: U64,
    zero: U32,
    crc: U32,
}

impl HeaderBytes {
    fn checksum(mut self) -> u32 {
        self.crc = U32::ZERO;
        crc32c::crc32c(self.as_bytes())
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordBytes {
    magic: U32,
    bytes: U32,
    job: U64,
    index: U64,
    wall: U64,
    enqueue_crc: U32,
    crc: U32,
}

impl RecordBytes {
    fn checksum(mut self, identity: &LogIdentity, number: SegmentNumber, offset: u64) -> u32 {
        self.crc = U32::ZERO;
        let seed = crc32c::crc32c(&identity.cluster.0.to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &identity.shard.0.to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &number.0.to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &offset.to_le_bytes());
        crc32c::crc32c_append(seed, self.as_bytes())
    }
}

/// What the first block of a store segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreHeader {
    pub records_end: u64,
    /// From here to the end of the file.
    pub rows_at: u64,
    pub bytes: u64,
}

impl StoreHeader {
    /// # Errors
    /// If it is damaged, or that of another file.
    pub(super) fn read(
        block: &[u8],
        number: SegmentNumber,
        identity: &LogIdentity,
    ) -> Result<StoreHeader, FooterError> {
        let (header, rest) = HeaderBytes::read_from_prefix(block).map_err(|_| FooterError::Header)?;
        let (records_end, rows_at, bytes) = (header.records_end.get(), header.rows_at.get(), header.bytes.get());
        let is_whole = header.magic.get() == MAGIC
            && header.format.get() == FORMAT
            && header.crc.get() == header.checksum()
            && header.zero == U32::ZERO
            && rest.get(..BLOCK_BYTES - size_of::<HeaderBytes>()).is_some_and(is_zero)
            && BLOCK < records_end
            && records_end <= rows_at
            && rows_at < bytes
            && rows_at.is_multiple_of(BLOCK);
        if !is_whole {
            return Err(FooterError::Header);
        }
        let stated = (header.cluster.get(), header.shard.get(), header.number.get());
        if stated != (identity.cluster.0, identity.shard.0, number.0) {
            return Err(FooterError::Foreign);
        }
        Ok(StoreHeader { records_end, rows_at, bytes })
    }
}

/// A whole record, as it stands in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredAt<'a> {
    pub job: JobId,
    pub index: Index,
    pub wall: Nanos,
    pub enqueue: &'a [u8],
}

impl<'a> StoredAt<'a> {
    /// The record at the front of `bytes`, which are those of a file from `offset` on; none where there is no whole one of this
    /// place.
    pub(super) fn read(
        bytes: &'a [u8],
        offset: u64,
        number: SegmentNumber,
        identity: &LogIdentity,
    ) -> Option<StoredAt<'a>> {
        let (header, rest) = RecordBytes::ref_from_prefix(bytes).ok()?;
        if header.magic.get() != RECORD_MAGIC || header.crc.get() != header.checksum(identity, number, offset) {
            return None;
        }
        let enqueue = rest.get(..header.bytes.get() as usize)?;
        let (job, index, wall) = (JobId(header.job.get()), Index(header.index.get()), Nanos(header.wall.get()));
        (header.enqueue_crc.get() == crc32c::crc32c(enqueue)).then_some(StoredAt { job, index, wall, enqueue })
    }

    pub(super) fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.enqueue.len()
    }
}

/// A job's ENQ on its way into a store segment.
#[derive(Debug, Clone, Copy)]
pub struct StoredJob<'a> {
    pub job: JobId,
    /// Of the entry it came with.
    pub index: Index,
    pub wall: Nanos,
    pub class: Class<'a>,
    pub enqueue: &'a [u8],
}

/// A store segment that is being put together, in memory.
pub struct StoreDraft {
    number: SegmentNumber,
    identity: LogIdentity,
    content: Vec<u8>,
    rows: Option<FooterDraft>,
    first: Option<(JobId, Index)>,
    last: Option<(JobId, Index)>,
}

impl StoreDraft {
    #[must_use]
    pub fn new(number: SegmentNumber, identity: LogIdentity) -> StoreDraft {
        StoreDraft { number, identity, content: vec![0; BLOCK_BYTES], rows: None, first: None, last: None }
    }

    #[must_use]
    pub fn number(&self) -> SegmentNumber {
        self.number
    }

    /// Length of the records so far.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        (self.content.len() - BLOCK_BYTES) as u64
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether jobs and entries up to this one can stand in one file with those that it holds: rows count in 32 bits.
    #[must_use]
    pub fn spans(&self, job: JobId, index: Index) -> bool {
        self.first.is_none_or(|(first_job, first_index)| {
            job.0 - first_job.0 < u64::from(u32::MAX) && index.0 - first_index.0 < u64::from(u32::MAX) - 1
        })
    }

    /// # Panics
    /// If the job does not follow those before it.
    pub fn push(&mut self, stored: &StoredJob<'_>) {
        let StoredJob { job, index, wall, class, enqueue } = *stored;
        assert!(self.last.is_none_or(|(last, _)| job > last), "jobs are stored in order");
        let offset = self.content.len() as u64;
        let base = Index(index.0 - 1);
        let rows = self.rows.get_or_insert_with(|| FooterDraft::new(base, job));
        if self.last.is_none_or(|(_, last)| index > last) {
            rows.push_entry(index, None, wall);
        }
        let bytes = u32::try_from(enqueue.len()).expect("an entry's payload is shorter than 4 GiB");
        rows.push_job(job, class, u32::try_from(offset).expect("a store segment is shorter than 4 GiB"), bytes);
        let mut record = RecordBytes {
            magic: U32::new(RECORD_MAGIC),
            bytes: U32::new(bytes),
            job: U64::new(job.0),
            index: U64::new(index.0),
            wall: U64::new(wall.0),
            enqueue_crc: U32::new(crc32c::crc32c(enqueue)),
            crc: U32::ZERO,
        };
        record.crc = U32::new(record.checksum(&self.identity, self.number, offset));
        self.content.extend_from_slice(record.as_bytes());
        self.content.extend_from_slice(enqueue);
        self.first.get_or_insert((job, index));
        self.last = Some((job, index));
    }

    /// The bytes of the file.
    ///
    /// # Panics
    /// If there is no job in it.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let rows = self.rows.take().expect("a store segment holds a job");
        let ((_, first), (last_job, last)) = self.first.zip(self.last).expect("a store segment holds a job");
        let records_end = self.content.len();
        self.content.resize(records_end.next_multiple_of(BLOCK_BYTES), 0);
        let rows_at = self.content.len();
        let subject = Subject {
            number: self.number,
            base: Index(first.0 - 1),
            base_chain: ChainHash::default(),
            last,
            next_job: JobId(last_job.0 + 1),
        };
        self.content.extend_from_slice(&rows.finish(&subject, &self.identity));
        let mut header = HeaderBytes {
            magic: U64::new(MAGIC),
            format: U16::new(FORMAT),
            shard: U16::new(self.identity.shard.0),
            number: U32::new(self.number.0),
            cluster: U128::new(self.identity.cluster.0),
            records_end: U64::new(records_end as u64),
            rows_at: U64::new(rows_at as u64),
            bytes: U64::new(self.content.len() as u64),
            zero: U32::ZERO,
            crc: U32::ZERO,
        };
        header.crc = U32::new(header.checksum());
        self.content[..size_of::<HeaderBytes>()].copy_from_slice(header.as_bytes());
        self.content
    }
}

/// The rows of a mapped store segment.
///
/// # Errors
/// If these bytes are not a store segment of this log with this number, or its rows are not whole.
pub fn open_store(bytes: &Bytes, number: SegmentNumber, identity: &LogIdentity) -> Result<Footer, FooterError> {
    let header = StoreHeader::read(bytes, number, identity)?;
    let (stated, found) = (usize::try_from(header.bytes).unwrap_or(usize::MAX), bytes.len());
    let rows_at = usize::try_from(header.rows_at).unwrap_or(usize::MAX);
    if stated != found || rows_at > found {
        return Err(FooterError::Length { stated, found });
    }
    let footer = Footer::open(bytes.slice(rows_at..), identity)?;
    if footer.number() == number { Ok(footer) } else { Err(FooterError::Foreign) }
}

/// Where a record is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordAt {
    pub number: SegmentNumber,
    pub offset: u32,
    /// Of the ENQ.
    pub bytes: u32,
    pub job: JobId,
}

/// Reads records back. Shared by the tasks of one thread.
pub struct StoreReader<D: Disk> {
    disk: D,
    dir: PathBuf,
    identity: LogIdentity,
    open: OpenFiles<D::File>,
}

impl<D: Disk> StoreReader<D> {
    /// `dir`: the directory of the store segments.
    #[must_use]
    pub fn new(disk: D, dir: PathBuf, identity: LogIdentity) -> StoreReader<D> {
        StoreReader { disk, dir, identity, open: OpenFiles::new() }
    }

    /// The ENQ in a record, as its entry held it.
    ///
    /// # Errors
    /// If it cannot be read, or the place does not hold that record, whole.
    pub async fn read(&self, at: &RecordAt) -> Result<Bytes, ReadError> {
        let failure = |reason| ReadError {
            path: self.dir.join(store_file_name(at.number)),
            offset: u64::from(at.offset),
            reason,
        };
        if at.bytes as usize > ENTRY_BYTES_MAX {
            return Err(failure(ReadFailure::Record));
        }
        let from = u64::from(at.offset);
        let to = from + (RECORD_HEADER_BYTES + at.bytes as usize) as u64;
        let (start, end) = (from / BLOCK * BLOCK, to.next_multiple_of(BLOCK));
        let file = self.file(at.number).await.map_err(|error| failure(error.into()))?;
        let buf = AlignedBuf::zeroed(usize::try_from(end - start).expect("bounded by the largest entry"));
        let (result, buf) = file.read_at(buf, start).await;
        result.map_err(|error| failure(error.into()))?;
        let record = Bytes::from_owner(Lent(buf)).slice((from - start) as usize..(to - start) as usize);
        self.check(at, &record).map_err(failure)?;
        Ok(record.slice(RECORD_HEADER_BYTES..))
    }

    fn check(&self, at: &RecordAt, record: &[u8]) -> Result<(), ReadFailure> {
        let (header, enqueue) = RecordBytes::ref_from_prefix(record).map_err(|_| ReadFailure::Record)?;
        let is_it = header.magic.get() == RECORD_MAGIC
            && (header.bytes.get(), header.job.get()) == (at.bytes, at.job.0)
            && header.crc.get() == header.checksum(&self.identity, at.number, u64::from(at.offset))
            && header.enqueue_crc.get() == crc32c::crc32c(enqueue);
        if is_it { Ok(()) } else { Err(ReadFailure::Record) }
    }

    async fn file(&self, number: SegmentNumber) -> std::io::Result<D::File> {
        if let Some(file) = self.open.find(number) {
            return Ok(file);
        }
        let since = self.open.since();
        let file = self.disk.open(&self.dir.join(store_file_name(number)), OpenMode::Read).await?;
        self.open.keep(since, number, file.clone());
        Ok(file)
    }

    /// Other files have taken the place of all there were.
    pub fn forget_all(&self) {
        self.open.forget_all();
    }

    /// The file is given up: its room comes back once the last read of it has ended.
    pub fn forget(&self, number: SegmentNumber) {
        self.open.forget(number);
    }
}
