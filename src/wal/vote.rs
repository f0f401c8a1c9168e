//! Term and vote on disk, in a file of their own: what this node promised must be known after any crash, or it may not
//! promise again. It must never answer with less than it once promised; where that cannot be excluded, it refuses.
//!
//! ```text
//!  block    0         1         2         3
//!         | copy 0  | copy 1  | copy 0  | copy 1  |
//!         `- even sequences -´ `- odd sequences --´
//! ```
//!
//! Each change has the next sequence number and goes to the pair that does not hold the newest, one copy after the other, each
//! durable before the next thing happens. So a crash tears at most one copy, and at any time each pair has one that can be
//! read: **a pair of which both are unreadable is damage**, and since it may have held the newest, this node does not
//! vote. A pair must also be one change apart from the other: if it is further behind, its last write was lost.
//!
//! What can be read after a process died may sit in a device's cache only, so opening the file syncs it before it believes
//! anything. Then it writes the vote anew in both pairs, which heals a torn copy; in each pair the copy goes first that may be
//! lost, so that there is always a readable one.
//!
//! Each slot also names the boot of the node that wrote it, so that a vote file which was put back alone is told from the
//! directory it lies in (`directory::open`).

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128_with_seed;
use zerocopy::little_endian::{U16, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::LogIdentity;
use super::format::{BLOCK, FORMAT, is_zero};
use crate::io::{AlignedBuf, Disk, File, OpenMode};
use crate::raft::message::Vote;
use crate::types::{BootEpoch, ClusterId, Incarnation, NodeId, ShardId, Term};

const MAGIC: u64 = u64::from_le_bytes(*b"BvrVote1");
const SLOTS: usize = 4;

/// Keeps the checksum of votes, and of each of their slots, apart from all others.
const CHECKSUM_DOMAIN: u64 = u64::from_le_bytes(*b"beaverVT");

/// Whose vote a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteIdentity {
    pub log: LogIdentity,
    pub incarnation: Incarnation,
}

#[derive(Debug, Error)]
pub enum VoteError {
    #[error("cannot open {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("a write to {path} at offset {offset} failed: {source}", path = path.display())]
    Write { path: PathBuf, offset: u64, source: io::Error },
    #[error("nothing is written to {path} after a write there has failed", path = path.display())]
    AfterFailure { path: PathBuf },
    #[error(
        "{path}: {reason}; what this node promised is not known, so it may not vote: replace its data directory",
        path = path.display()
    )]
    Unreadable { path: PathBuf, reason: Unreadable },
    #[error("{path} belongs to shard {shard} of cluster {cluster}", path = path.display())]
    Foreign { path: PathBuf, cluster: ClusterId, shard: ShardId },
    #[error(
        "{path} was written by another incarnation of this node: files of two directories were mixed",
        path = path.display()
    )]
    OtherIncarnation { path: PathBuf },
    #[error("{path} is of format {format}, this program knows {FORMAT}", path = path.display())]
    UnknownFormat { path: PathBuf, format: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unreadable {
    #[error("the file is {bytes} bytes long and should have {expected}", expected = SLOTS as u64 * BLOCK)]
    Length { bytes: u64 },
    #[error("both copies at offsets {first} and {second} are damaged", second = first + BLOCK)]
    BothCopies { first: u64 },
    #[error("the newest copies have sequences {newest} and {other}: a write was lost")]
    LostWrite { newest: u64, other: u64 },
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SlotBytes {
    magic: U64,
    format: U16,
    shard: U16,
    /// 0: none.
    voted_for: u8,
    zero: [u8; 3],
    cluster: U128,
    incarnation: U128,
    sequence: U64,
    term: U64,
    boot: U64,
    checksum: U128,
}

impl SlotBytes {
    fn checksum(mut self, slot: usize) -> u128 {
        self.checksum = U128::ZERO;
        xxh3_128_with_seed(self.as_bytes(), CHECKSUM_DOMAIN.wrapping_add(slot as u64))
    }

    /// What is in a block, if it is whole and was written to this slot.
    fn whole(block: &[u8], slot: usize) -> Option<&SlotBytes> {
        let (bytes, padding) = SlotBytes::ref_from_prefix(block).ok()?;
        let is_whole = bytes.magic.get() == MAGIC && bytes.checksum.get() == bytes.checksum(slot) && is_zero(padding);
        is_whole.then_some(bytes)
    }

    fn vote(&self) -> Vote {
        Vote { term: Term(self.term.get()), voted_for: Some(NodeId(self.voted_for)).filter(|node| node.0 != 0) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    sequence: u64,
    vote: Vote,
    boot: BootEpoch,
}

/// The vote file of one shard.
pub struct VoteFile<D: Disk> {
    path: PathBuf,
    identity: VoteIdentity,
    file: D::File,
    /// Of the newest vote.
    sequence: u64,
    /// The boot that every further vote is written under.
    boot: BootEpoch,
    failed: bool,
}

impl<D: Disk> VoteFile<D> {
    /// Makes the file of a node that has never voted. Done once, when its directory is prepared: at any other time a
    /// missing file is a vote that was forgotten.
    ///
    /// # Errors
    /// If it exists, or cannot be written.
    pub async fn create(disk: &D, path: &Path, identity: VoteIdentity) -> Result<(), VoteError> {
        let failed = |source| VoteError::Open { path: path.to_owned(), source };
        let file = disk.open(path, OpenMode::Create).await.map_err(failed)?;
        let (path_of_file, boot) = (path.to_owned(), BootEpoch(0));
        let mut made = VoteFile::<D> { path: path_of_file, identity, file, sequence: 0, boot, failed: false };
        for sequence in 0..2 {
            made.write_pair(Stored { sequence, vote: Vote::default(), boot }, 0).await?;
        }
        disk.sync_dir(path.parent().unwrap_or(Path::new("/"))).await.map_err(failed)
    }

    /// Opens the file, and what this node last promised.
    ///
    /// # Errors
    /// If the newest vote may be lost, the file is another's, or the disk fails.
    pub async fn open(disk: &D, path: &Path, identity: VoteIdentity) -> Result<(VoteFile<D>, Vote), VoteError> {
        VoteFile::open_in(disk, path, identity, None).await
    }

    /// Opens the file for a boot of the node: it is durably of this boot when this returns.
    ///
    /// # Errors
    /// As for [`VoteFile::open`].
    pub async fn open_for_boot(
        disk: &D,
        path: &Path,
        identity: VoteIdentity,
        boot: BootEpoch,
    ) -> Result<(VoteFile<D>, Vote), VoteError> {
        VoteFile::open_in(disk, path, identity, Some(boot)).await
    }

    async fn open_in(
        disk: &D,
        path: &Path,
        identity: VoteIdentity,
        boot: Option<BootEpoch>,
    ) -> Result<(VoteFile<D>, Vote), VoteError> {
        let opened = disk.open(path, OpenMode::Write).await;
        let file = opened.map_err(|source| VoteError::Open { path: path.to_owned(), source })?;
        file.sync().await.map_err(|source| VoteError::Write { path: path.to_owned(), offset: 0, source })?;
        let (slots, newest) = read_slots(&file, path, identity).await?;
        let (sequence, boot) = (newest.sequence, boot.unwrap_or(newest.boot));
        let mut opened = VoteFile { path: path.to_owned(), identity, file, sequence, boot, failed: false };
        for _ in 0..2 {
            let sequence = opened.sequence + 1;
            let stale = stale_copy(&slots, sequence);
            opened.write_pair(Stored { sequence, vote: newest.vote, boot }, stale).await?;
        }
        Ok((opened, newest.vote))
    }

    /// What this node last promised, and in which boot that was written, looked at from outside: nothing is written.
    ///
    /// # Errors
    /// As for [`VoteFile::open`].
    pub async fn look(disk: &D, path: &Path, identity: VoteIdentity) -> Result<(Vote, BootEpoch), VoteError> {
        let opened = disk.open(path, OpenMode::Read).await;
        let file = opened.map_err(|source| VoteError::Open { path: path.to_owned(), source })?;
        let (_, newest) = read_slots(&file, path, identity).await?;
        Ok((newest.vote, newest.boot))
    }

    /// Makes a vote durable. When this returns, it survives anything but damage to both of its copies.
    ///
    /// # Errors
    /// Nothing is known then of what is durable, and the node must stop.
    pub async fn save(&mut self, vote: Vote) -> Result<(), VoteError> {
        self.write_pair(Stored { sequence: self.sequence + 1, vote, boot: self.boot }, 0).await
    }

    /// Writes both copies, one after the other.
    async fn write_pair(&mut self, stored: Stored, first: usize) -> Result<(), VoteError> {
        if self.failed {
            return Err(VoteError::AfterFailure { path: self.path.clone() });
        }
        for copy in [first, 1 - first] {
            let slot = slot_of(stored.sequence, copy);
            let offset = slot as u64 * BLOCK;
            let (result, _) = self.file.write_at(self.encode(stored, slot), offset).await;
            if let Err(source) = result {
                self.failed = true;
                return Err(VoteError::Write { path: self.path.clone(), offset, source });
            }
        }
        self.sequence = stored.sequence;
        Ok(())
    }

    fn encode(&self, stored: Stored, slot: usize) -> AlignedBuf {
        let mut bytes = SlotBytes {
            magic: U64::new(MAGIC),
            format: U16::new(FORMAT),
            shard: U16::new(self.identity.log.shard.0),
            voted_for: stored.vote.voted_for.map_or(0, |node| node.0),
            zero: [0; 3],
            cluster: U128::new(self.identity.log.cluster.0),
            incarnation: U128::new(self.identity.incarnation.0),
            sequence: U64::new(stored.sequence),
            term: U64::new(stored.vote.term.0),
            boot: U64::new(stored.boot.0),
            checksum: U128::ZERO,
        };
        bytes.checksum = U128::new(bytes.checksum(slot));
        let mut block = AlignedBuf::zeroed(BLOCK as usize);
        block[..size_of::<SlotBytes>()].copy_from_slice(bytes.as_bytes());
        block
    }
}

/// In which block a copy of a vote lies.
fn slot_of(sequence: u64, copy: usize) -> usize {
    (sequence % 2) as usize * 2 + copy
}

/// What the newest whole copy in a vote file's bytes says, whoever's it is. For oracles, which judge a disk from outside.
#[must_use]
pub fn newest_readable(file: &[u8]) -> Option<Vote> {
    let whole = |(slot, block)| SlotBytes::whole(block, slot);
    let newest = file.chunks(BLOCK as usize).take(SLOTS).enumerate().filter_map(whole);
    newest.max_by_key(|bytes| bytes.sequence.get()).map(SlotBytes::vote)
}

/// What is in the slots, and the newest vote.
async fn read_slots<F: File>(
    file: &F,
    path: &Path,
    identity: VoteIdentity,
) -> Result<([Option<Stored>; SLOTS], Stored), VoteError> {
    let unreadable = |reason| VoteError::Unreadable { path: path.to_owned(), reason };
    let bytes = file.bytes();
    if bytes != SLOTS as u64 * BLOCK {
        return Err(unreadable(Unreadable::Length { bytes }));
    }
    let mut slots = [None; SLOTS];
    for (number, slot) in slots.iter_mut().enumerate() {
        // What cannot be read is as good as damaged.
        if let (Ok(()), block) = file.read_at(AlignedBuf::zeroed(BLOCK as usize), number as u64 * BLOCK).await {
            *slot = decode(&block, number, identity, path)?;
        }
    }
    let newest = newest(&slots).map_err(unreadable)?;
    Ok((slots, newest))
}

/// What a block holds; none where it is damaged.
fn decode(block: &[u8], slot: usize, identity: VoteIdentity, path: &Path) -> Result<Option<Stored>, VoteError> {
    let Some(bytes) = SlotBytes::whole(block, slot) else { return Ok(None) };
    if bytes.format.get() != FORMAT {
        return Err(VoteError::UnknownFormat { path: path.to_owned(), format: bytes.format.get() });
    }
    let (cluster, shard) = (ClusterId(bytes.cluster.get()), ShardId(bytes.shard.get()));
    if (cluster, shard) != (identity.log.cluster, identity.log.shard) {
        return Err(VoteError::Foreign { path: path.to_owned(), cluster, shard });
    }
    if bytes.incarnation.get() != identity.incarnation.0 {
        return Err(VoteError::OtherIncarnation { path: path.to_owned() });
    }
    let sequence = bytes.sequence.get();
    if slot / 2 != slot_of(sequence, 0) / 2 || sequence > u64::MAX - 2 {
        return Ok(None);
    }
    Ok(Some(Stored { sequence, vote: bytes.vote(), boot: BootEpoch(bytes.boot.get()) }))
}

/// The newest vote, if it is certain that none was newer.
fn newest(slots: &[Option<Stored>; SLOTS]) -> Result<Stored, Unreadable> {
    let newest_of = |pair: usize| {
        let copies = [slots[2 * pair], slots[2 * pair + 1]];
        let newest = copies.into_iter().flatten().max_by_key(|stored| stored.sequence);
        newest.ok_or(Unreadable::BothCopies { first: 2 * pair as u64 * BLOCK })
    };
    let (even, odd) = (newest_of(0)?, newest_of(1)?);
    let (newest, other) = if even.sequence > odd.sequence { (even, odd) } else { (odd, even) };
    if newest.sequence - other.sequence != 1 {
        return Err(Unreadable::LostWrite { newest: newest.sequence, other: other.sequence });
    }
    Ok(newest)
}

/// Which copy of the pair to be written must go first: the one that may be lost.
fn stale_copy(slots: &[Option<Stored>; SLOTS], sequence: u64) -> usize {
    let sequence_in = |copy| slots[slot_of(sequence, copy)].map(|stored| stored.sequence);
    usize::from(sequence_in(1) < sequence_in(0))
}

#[cfg(test)]
mod tests;
