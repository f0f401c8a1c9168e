//! What was decided on is put in its place: the files of a snapshot that takes the place of a log are moved, the shard's manifest is
//! replaced, and what was there before goes. Every step may be followed by a crash, and is done once more behind it.
//!
//! It must never do anything where nothing was decided, nor be told apart from what whoever looks at the files from outside is shown
//! (`foreseen`): both ask here what there is still to be done.

use std::io;
use std::path::{Path, PathBuf};

use super::install::{InstallError, InstallPlace, clear, failed, ordinal_of, unlink};
use super::shelf;
use crate::io::Disk;
use crate::wal::manifest::Manifest;
use crate::wal::segment::parse_file_name;
use crate::wal::store::parse_store_file_name;

/// In the directory of an install: the decision, which is what the shard's manifest says from then on.
pub(super) const MANIFEST: &str = "manifest";

/// A snapshot that takes the log's place.
#[derive(Debug, Clone)]
pub struct Decision {
    pub manifest: Manifest,
    /// The files that are not in their places yet.
    pub moves: Vec<Move>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub from: PathBuf,
    pub to: PathBuf,
    pub bytes: u64,
}

/// What was decided on and is not completed, if anything is. Changes nothing.
///
/// # Errors
/// If the decision is damaged, or the disk fails.
pub async fn decision<D: Disk>(disk: &D, place: &InstallPlace) -> Result<Option<Decision>, InstallError> {
    let dir = &place.dir;
    let files = match disk.list(dir).await {
        Ok(files) => files,
        // There never was an install.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("list", dir)(error)),
    };
    if !files.iter().any(|file| file.name == MANIFEST) {
        return Ok(None);
    }
    let manifest = Manifest::load(disk, &dir.join(MANIFEST), &place.identity).await?;
    let mut moves = Vec::new();
    for file in &files {
        let target = match &file.name {
            name if parse_store_file_name(name).is_some_and(|number| manifest.stores.contains(&number)) => {
                &place.stores
            }
            name if *name == shelf::file_name(manifest.floor.position.index) => &place.snapshots,
            name if parse_file_name(name).is_some() => &place.segments,
            _ => continue,
        };
        moves.push(Move { from: dir.join(&file.name), to: target.join(&file.name), bytes: file.bytes });
    }
    Ok(Some(Decision { manifest, moves }))
}

/// Puts in its place what was decided on, if anything was. At each start, before anything else is looked at.
///
/// # Errors
/// If the disk fails; it is to be called again before the shard's files are used.
pub async fn complete<D: Disk>(disk: &D, place: &InstallPlace) -> Result<bool, InstallError> {
    let Some(Decision { manifest, moves }) = decision(disk, place).await? else {
        // A process that died may have completed one, and that it is gone may not be durable yet.
        return match disk.sync_dir(&place.dir).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("sync", &place.dir)(error)),
            _ => Ok(false),
        };
    };
    disk.create_dir(&place.stores).await.map_err(failed("make", &place.stores))?;
    disk.create_dir(&place.snapshots).await.map_err(failed("make", &place.snapshots))?;
    for Move { from, to, .. } in &moves {
        disk.rename(from, to).await.map_err(failed("move", from))?;
    }
    for target in [&place.stores, &place.snapshots, &place.segments, &place.dir] {
        disk.sync_dir(target).await.map_err(failed("sync", target))?;
    }
    manifest.save(disk, &place.manifest, &place.identity).await?;
    for path in former_log(disk, place, &manifest).await? {
        unlink(disk, &path).await?;
    }
    disk.sync_dir(&place.segments).await.map_err(failed("sync", &place.segments))?;
    // What was decided must not be decided once more over what comes after it.
    clear(disk, &place.dir).await?;
    Ok(true)
}

/// The segments of the log before, of which nothing counts any more but what the manifest names. A segment says by its header that it
/// does not; one whose header cannot be read would be taken for a part of the log that is lost.
pub(super) async fn former_log<D: Disk>(
    disk: &D,
    place: &InstallPlace,
    manifest: &Manifest,
) -> Result<Vec<PathBuf>, InstallError> {
    let dir: &Path = &place.segments;
    let mut former = Vec::new();
    for found in disk.list(dir).await.map_err(failed("list", dir))? {
        let Some(number) = parse_file_name(&found.name) else { continue };
        let path = dir.join(&found.name);
        let is_named = manifest.segments.iter().any(|(named, _)| *named == number);
        if !is_named && ordinal_of(disk, &path, &place.identity).await?.is_none_or(|own| own < manifest.floor.ordinal) {
            former.push(path);
        }
    }
    Ok(former)
}
