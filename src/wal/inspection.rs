//! What a shard's files hold, looked at from outside while no node runs on them. It must never change a byte, and never stop at
//! the first fault: whoever looks wants to see all of them.

mod files;
mod log;

use std::fmt;
use std::path::Path;

use bytes::Bytes;
use roaring::RoaringTreemap;
use serde::Serialize;

use self::files::Look;
use super::directory::{DirectoryError, NodeIdentity, manifest_path, segments_dir, shard_dir, stores_dir, vote_path};
use super::manifest::Manifest;
use super::recovery::LogPlace;
use super::segment::{SegmentSizes, file_name};
use super::store::store_file_name;
use super::vote::VoteFile;
use crate::io::Disk;
use crate::types::{ChainHash, JobId, LogPosition, ShardId};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Its path.
    pub file: String,
    pub offset: Option<u64>,
    pub what: String,
}

impl Fault {
    #[must_use]
    pub fn new(file: &Path, offset: Option<u64>, what: impl fmt::Display) -> Fault {
        Fault { file: file.display().to_string(), offset, what: what.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{}, offset {offset}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A segment of the log, in use.
    Segment,
    /// Made ahead and never used, or given up: the next start removes it.
    LeftOver,
    Store,
}

/// One file.
#[derive(Debug, Clone, Serialize)]
pub struct FileFound {
    pub name: String,
    pub kind: FileKind,
    /// Of the file, and of its rows where these are in a file of their own.
    pub bytes: u64,
    /// The entry before its first, where it is a segment in use.
    pub base: Option<u64>,
    /// The last of its entries that counts, where that is known.
    pub last: Option<u64>,
    pub below_floor: bool,
    /// Jobs whose ENQs are in it; and the bytes of these, where rows tell.
    pub jobs: Option<u64>,
    pub enqueue_bytes: Option<u64>,
    /// Of those, the ones that live in the newest snapshot; none where some were put later than that.
    pub live_jobs: Option<u64>,
    pub live_bytes: Option<u64>,
}

/// An entry at which every node keeps a snapshot.
#[derive(Debug, Clone)]
pub struct MarkerFound {
    pub index: u64,
    /// What it says of the marker before it.
    pub payload: Bytes,
}

/// What all entries above the floor were found to be.
#[derive(Debug, Clone, Serialize)]
pub struct LogFound {
    pub last: u64,
    /// Up to where the log itself knows that it was committed.
    pub committed: u64,
    /// An end that was never completed, which the next start drops. No fault.
    pub incomplete: Option<String>,
    #[serde(skip)]
    pub markers: Vec<MarkerFound>,
}

/// A shard's files.
#[derive(Debug, Clone, Serialize)]
pub struct ShardFound {
    pub shard: u16,
    /// Of the vote; none where it cannot be read.
    pub term: Option<u64>,
    pub voted_for: Option<u8>,
    /// The log counts from the entry above this one.
    pub floor: u64,
    pub floor_term: u64,
    pub files: Vec<FileFound>,
    /// Where everything was read.
    pub log: Option<LogFound>,
    pub faults: Vec<Fault>,
}

/// Which jobs lived in the newest snapshot.
#[derive(Debug, Clone, Default)]
pub struct Living {
    pub jobs: RoaringTreemap,
    /// Whatever was put from this one on is not known to it.
    pub next_job: JobId,
    /// No newer one is there that cannot be used.
    pub is_newest: bool,
}

/// A snapshot that can be used, and where in the log it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub position: LogPosition,
    pub chain: ChainHash,
}

/// Looks at all files of a shard's log; `verify`: reads all that they hold, too. `living` and `standing` are what its
/// snapshots say.
///
/// # Errors
/// If its directories or its manifest cannot be read.
pub async fn inspect<D: Disk>(
    disk: &D,
    data: &Path,
    node: &NodeIdentity,
    shard: ShardId,
    (living, standing): (Option<&Living>, &[Standing]),
    verify: bool,
) -> Result<ShardFound, DirectoryError> {
    let identity = node.log(shard);
    let manifest = Manifest::load(disk, &manifest_path(data, shard), &identity).await?;
    let (dir, stores) = (segments_dir(data, shard), stores_dir(data, shard));
    let mut look =
        Look { disk, dir: &dir, stores: &stores, identity, living, verify, held: Vec::new(), faults: Vec::new() };
    let path = vote_path(data, shard);
    let vote = match VoteFile::look(disk, &path, node.vote(shard)).await {
        Ok((vote, _)) => Some(vote),
        Err(error) => {
            look.fault(&path, None, error);
            None
        }
    };
    let sizes = SegmentSizes { first_bytes: super::format::BLOCK, max_bytes: super::format::BLOCK };
    let place = LogPlace::above(dir.clone(), identity, sizes, &manifest);
    let (mut files, in_use) = look.segments(&place, &manifest).await?;
    for (number, _) in &manifest.segments {
        look.expect(&files, &file_name(*number), &dir);
    }
    files.extend(look.stores(&manifest).await);
    for number in &manifest.stores {
        look.expect(&files, &store_file_name(*number), &stores);
    }
    look.expect_jobs(&manifest, &shard_dir(data, shard));
    let floor = manifest.floor.position;
    if floor.index.0 > 0 && !standing.iter().any(|at| at.position.index >= floor.index) {
        let what =
            format!("the log begins above entry {floor} (index@term), and no snapshot that can be used reaches it");
        look.fault(&shard_dir(data, shard), None, what);
    }
    let log = match in_use {
        Some(survey) if verify => look.read_log(&place, &survey, standing, &mut files).await,
        _ => None,
    };
    Ok(ShardFound {
        shard: shard.0,
        term: vote.map(|vote| vote.term.0),
        voted_for: vote.and_then(|vote| vote.voted_for).map(|node| node.0),
        floor: floor.index.0,
        floor_term: floor.term.0,
        files,
        log,
        faults: look.faults,
    })
}
