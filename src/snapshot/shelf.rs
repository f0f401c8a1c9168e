//! The snapshots of one shard: their names, and which are kept. Two are: the newest, and the one before it for the case that
//! the newest cannot be read.
//!
//! It must never remove one of the two newest that count.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::reading::{OpenError, Snapshot, open};
use crate::io::Disk;
use crate::job::Machine;
use crate::types::Index;
use crate::wal::entry::LogIdentity;

/// So many are kept.
pub const KEPT: usize = 2;

const SUFFIX: &str = ".snap";
const TEMPORARY_SUFFIX: &str = ".snap.tmp";

#[must_use]
pub fn file_name(index: Index) -> String {
    format!("{:020}{SUFFIX}", index.0)
}

pub(super) fn temporary_name(index: Index) -> String {
    format!("{:020}{TEMPORARY_SUFFIX}", index.0)
}

/// Of which entry a file of this name is the snapshot.
#[must_use]
pub fn parse_file_name(name: &str) -> Option<Index> {
    let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 20)?;
    digits.parse().ok().map(Index)
}

/// The snapshots in a directory by their names, newest first.
///
/// # Errors
/// The directory cannot be read.
pub async fn list<D: Disk>(disk: &D, dir: &Path) -> io::Result<Vec<(Index, PathBuf)>> {
    let files = disk.list(dir).await?;
    let named = files.iter().filter_map(|file| Some((parse_file_name(&file.name)?, dir.join(&file.name))));
    let mut found: Vec<(Index, PathBuf)> = named.collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found)
}

/// What a shard starts from.
pub struct Found<Map> {
    /// The newest snapshot that can be used, and the machine that it holds.
    pub newest: Option<(Snapshot<Map>, Machine)>,
    /// Newer ones, and why they cannot.
    pub refused: Vec<OpenError>,
}

/// Restores from the newest snapshot that can be used, at or below `upto`.
///
/// # Errors
/// The directory cannot be read.
pub async fn restore_newest<D: Disk>(disk: &D, dir: &Path, identity: &LogIdentity) -> io::Result<Found<D::Map>> {
    let mut refused = Vec::new();
    for (index, path) in list(disk, dir).await? {
        let opened = async {
            let snapshot = open(disk, &path, identity).await?;
            let found = snapshot.frame().position.index;
            if found != index {
                return Err(OpenError::Misnamed { path: path.clone(), found });
            }
            let machine = snapshot.restore()?;
            Ok((snapshot, machine))
        };
        match opened.await {
            Ok(newest) => return Ok(Found { newest: Some(newest), refused }),
            Err(error) => refused.push(error),
        }
    }
    Ok(Found { newest: None, refused })
}

/// Removes what is not kept: all below the `KEPT` newest of `whole`, which are verified, but for those that other nodes are
/// pulling, and what an interrupted writing left behind. Files above the newest are left alone: they cannot be used, and tell
/// of a fault.
///
/// # Errors
/// A file cannot be removed.
pub async fn tidy<D: Disk>(disk: &D, dir: &Path, whole: &[Index], pulled: &BTreeSet<Index>) -> io::Result<()> {
    let lowest_kept = whole.iter().rev().nth(KEPT - 1).copied();
    let mut removed = false;
    for file in disk.list(dir).await? {
        let is_left_over = file.name.ends_with(TEMPORARY_SUFFIX);
        let is_old = parse_file_name(&file.name)
            .is_some_and(|index| lowest_kept.is_some_and(|lowest| index < lowest) && !pulled.contains(&index));
        if is_left_over || is_old {
            disk.unlink(&dir.join(&file.name)).await?;
            removed = true;
        }
    }
    if removed {
        disk.sync_dir(dir).await?;
    }
    Ok(())
}
