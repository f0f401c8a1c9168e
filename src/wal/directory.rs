//! A node's data directory: whose it is, how often the node was started, and which peers it has met. Prepared once, and
//! opened only by the node it was prepared for.
//!
//! It must never invent an identity for a directory that lost its own, and never let a count go back.
//!
//! ```text
//!  DATA/identity           cluster, node, incarnation, shards, members; written last, never changed
//!  DATA/preparing          while the directory is being prepared
//!  DATA/boot               how often the node was started
//!  DATA/peers              of each peer: the incarnation it had when it was first met, and its newest start
//!  DATA/admin.sock         while the node runs: status and health (`node::admin`)
//!  DATA/room               nothing: room that a start has on a full disk, see [`give_up_room`]
//!  DATA/shard-0/vote       term and vote, and the boot in which they were written
//!  DATA/shard-0/wal/       segments
//!  DATA/shard-0/manifest   what stands below the log's floor (`manifest.rs`)
//!  DATA/shard-0/store/     jobs moved out of segments below the floor (`store.rs`)
//!  DATA/shard-0/install/   what is pulled by a node that is behind the log (`snapshot::install`)
//! ```
//!
//! The small files are JSON in one line, with a checksum in a second, and are replaced as a whole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::entry::LogIdentity;
use super::format::FORMAT;
use super::vote::{VoteError, VoteFile, VoteIdentity};
use crate::io::Disk;
use crate::mutation::{self, Mutation};
use crate::types::{BootEpoch, ClusterId, Incarnation, NodeId, ShardId, Start, StartId};

const IDENTITY: &str = "identity";
const PREPARING: &str = "preparing";
const BOOT: &str = "boot";
const PEERS: &str = "peers";
const ROOM: &str = "room";

/// Small files are replaced by way of a second one; so many of them as a start may replace have room in it.
const ROOM_BYTES: u64 = 64 << 10;

/// Of the small files. A manifest names each file below the floor, in some 30 bytes: of the shortest segments that may be configured
/// (64 KiB), this is enough for two terabytes in one shard. It only keeps a file that is not ours out of memory.
const SMALL_BYTES_MAX: usize = 1 << 30;

/// Keep these hashes apart from all others.
const CHECKSUM_DOMAIN: u64 = u64::from_le_bytes(*b"beaverDI");

/// Files that may be in a directory before it is prepared. A single node serves its status before it has
/// prepared its own, and may be killed then.
const TOLERATED: &[&str] = &["LOCK", ADMIN_SOCKET, PREPARING];

/// Where a node serves its status.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster's name.
    pub cluster: String,
    pub node: NodeId,
    /// Drawn when the directory was prepared.
    pub incarnation: Incarnation,
    pub shards: u16,
    /// The members that the cluster began with.
    pub members: Vec<NodeId>,
    /// Drawn when the cluster's first directory was prepared.
    pub cluster_id: ClusterId,
}

/// Which node the configuration says this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub cluster: String,
    /// None: whichever the directory was prepared for.
    pub cluster_id: Option<ClusterId>,
    pub node: NodeId,
    pub shards: u16,
    pub members: Vec<NodeId>,
}

/// A directory that was opened for one more start of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub identity: NodeIdentity,
    /// Of this start: greater than that of every earlier one.
    pub boot: BootEpoch,
    /// Drawn by this start.
    pub start_id: StartId,
    pub peers: KnownPeers,
}

impl Opened {
    /// This start of the node.
    #[must_use]
    pub fn start(&self) -> Start {
        Start { boot: self.boot, id: self.start_id }
    }
}

/// What a node durably knows of its peers.
pub type KnownPeers = BTreeMap<NodeId, KnownPeer>;

/// What a node durably knows of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPeer {
    /// The incarnation that the peer had when it was first met.
    pub incarnation: Incarnation,
    /// The newest start of it that was admitted.
    pub start: Start,
    /// Its directory was seen to be older than what it had told: it is never admitted again.
    pub went_back: bool,
}

#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("{path} is not a prepared data directory", path = path.display())]
    NotPrepared { path: PathBuf },
    #[error("{path} is not a new directory: {found}", path = path.display())]
    NotEmpty { path: PathBuf, found: String },
    #[error("{path} belongs to {found}, the configuration says {expected}", path = path.display())]
    Another { path: PathBuf, found: String, expected: String, identity: Box<NodeIdentity> },
    #[error("{path} is of format {format}, this program knows {FORMAT}: start the version that wrote it", path = path.display())]
    UnknownFormat { path: PathBuf, format: u16 },
    #[error("{path} is damaged: {why}; replace this node's data directory", path = path.display())]
    Damaged { path: PathBuf, why: String },
    #[error(
        "the files in {path} are of different times: the votes of shard {shard} were written in start {vote}, and the \
         directory counts {boot} starts; a part of it was restored from a backup: restore all of it, or replace this member",
        path = path.display()
    )]
    PartialRestore { path: PathBuf, shard: ShardId, vote: BootEpoch, boot: BootEpoch },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Vote(#[from] VoteError),
}

/// Where a shard's files are.
#[must_use]
pub fn shard_dir(data: &Path, shard: ShardId) -> PathBuf {
    data.join(format!("shard-{shard}"))
}

/// Where a shard's segments are.
#[must_use]
pub fn segments_dir(data: &Path, shard: ShardId) -> PathBuf {
    shard_dir(data, shard).join("wal")
}

/// Where a shard's store segments are.
#[must_use]
pub fn stores_dir(data: &Path, shard: ShardId) -> PathBuf {
    shard_dir(data, shard).join("store")
}

/// Where a snapshot of another node gathers that is to take the log's place.
#[must_use]
pub fn install_dir(data: &Path, shard: ShardId) -> PathBuf {
    shard_dir(data, shard).join("install")
}

#[must_use]
pub fn snapshots_dir(data: &Path, shard: ShardId) -> PathBuf {
    shard_dir(data, shard).join("snapshots")
}

/// A shard's manifest.
#[must_use]
pub fn manifest_path(data: &Path, shard: ShardId) -> PathBuf {
    shard_dir(data, shard).join("manifest")
}

/// A shard's vote file.
#[must_use]
pub fn vote_path(data: &Path, shard: ShardId) -> PathBuf {
    shard_dir(data, shard).join("vote")
}

impl NodeIdentity {
    #[must_use]
    pub fn new(expected: &Expected, cluster_id: ClusterId, incarnation: Incarnation) -> NodeIdentity {
        let Expected { cluster, node, shards, members, .. } = expected.clone();
        NodeIdentity { cluster, node, incarnation, shards, members, cluster_id }
    }

    #[must_use]
    pub fn log(&self, shard: ShardId) -> LogIdentity {
        LogIdentity { cluster: self.cluster_id, shard }
    }

    #[must_use]
    pub fn vote(&self, shard: ShardId) -> VoteIdentity {
        VoteIdentity { log: self.log(shard), incarnation: self.incarnation }
    }
}

impl Expected {
    fn check(&self, owner: &NodeIdentity, data: &Path) -> Result<(), DirectoryError> {
        let sorted = |members: &[NodeId]| {
            let mut numbers: Vec<u8> = members.iter().map(|member| member.0).collect();
            numbers.sort_unstable();
            numbers
        };
        let differences = [
            ("cluster", owner.cluster.clone(), self.cluster.clone()),
            (
                "a cluster whose id is",
                owner.cluster_id.to_string(),
                self.cluster_id.unwrap_or(owner.cluster_id).to_string(),
            ),
            ("node", owner.node.to_string(), self.node.to_string()),
            ("a cluster whose number of shards is", owner.shards.to_string(), self.shards.to_string()),
            (
                "a cluster whose members are",
                format!("{:?}", sorted(&owner.members)),
                format!("{:?}", sorted(&self.members)),
            ),
        ];
        match differences.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => {
                let (path, identity) = (data.to_owned(), Box::new(owner.clone()));
                Err(DirectoryError::Another { path, found: format!("{what} {found}"), expected, identity })
            }
        }
    }
}

/// Prepares a directory, which exists. What an interrupted call left behind is taken up; anything else is left alone.
///
/// # Errors
/// If there is something in it, or it cannot be written.
pub async fn create<D: Disk>(disk: &D, data: &Path, identity: &NodeIdentity) -> Result<(), DirectoryError> {
    check_empty(disk, data).await?;
    write(disk, &data.join(PREPARING), &()).await?;
    for shard in (0..identity.shards).map(ShardId) {
        for dir in [shard_dir(data, shard), segments_dir(data, shard)] {
            disk.create_dir(&dir).await.map_err(|source| DirectoryError::Io { path: dir, source })?;
        }
        let path = vote_path(data, shard);
        // Nobody has voted before there was an identity.
        disk.unlink_if_there(&path).await.map_err(failed(&path))?;
        VoteFile::create(disk, &path, identity.vote(shard)).await?;
    }
    write(disk, &data.join(BOOT), &Boot { epoch: 0, votes_from: 0 }).await?;
    save_peers(disk, data, &BTreeMap::new()).await?;
    write(disk, &data.join(IDENTITY), &StoredIdentity::from(identity)).await?;
    let path = data.join(PREPARING);
    disk.unlink(&path).await.map_err(failed(&path))?;
    disk.sync_dir(data).await.map_err(failed(data))
}

async fn check_empty<D: Disk>(disk: &D, data: &Path) -> Result<(), DirectoryError> {
    let not_empty = |found: &str| DirectoryError::NotEmpty { path: data.to_owned(), found: found.to_owned() };
    let files = disk.list(data).await.map_err(failed(data))?;
    let has = |name: &str| files.iter().any(|file| file.name == name);
    if has(IDENTITY) {
        return Err(not_empty("it is prepared already"));
    }
    if has(PREPARING) {
        return Ok(());
    }
    if let Some(file) = files.iter().find(|file| !is_tolerated(&file.name)) {
        return Err(not_empty(&format!("it holds {}", file.name)));
    }
    // Directories are not listed; a shard's would be a log that lost its identity.
    match disk.list(&shard_dir(data, ShardId(0))).await {
        Ok(_) => Err(not_empty("it holds a shard's directory, and the file identity is lost")),
        Err(_) => Ok(()),
    }
}

/// Whether a file of this name may be in a directory before it is prepared. A volume's root has its own.
#[must_use]
pub fn is_tolerated(name: &str) -> bool {
    TOLERATED.contains(&name) || is_temporary(name) || name == "lost+found"
}

/// Whether only a data directory has something of this name.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name == IDENTITY || name == PREPARING || name == "shard-0"
}

/// Left over from a small file that was being replaced.
fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|name| [IDENTITY, PREPARING, BOOT, PEERS].contains(&name))
}

/// Whose a directory is; nothing is counted or changed.
///
/// # Errors
/// If it was not prepared, is of another format, is damaged, or cannot be read.
pub async fn identify<D: Disk>(disk: &D, data: &Path) -> Result<NodeIdentity, DirectoryError> {
    let path = data.join(IDENTITY);
    let Some(stored) = read::<D, StoredIdentity>(disk, &path).await? else {
        return Err(DirectoryError::NotPrepared { path: data.to_owned() });
    };
    if stored.format != FORMAT {
        return Err(DirectoryError::UnknownFormat { path, format: stored.format });
    }
    Ok(stored.identity())
}

/// What a directory counts and knows, looked at from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// How often its node was started.
    pub boot: BootEpoch,
    /// The votes of all shards are of this start or a later one.
    pub votes_from: BootEpoch,
    pub peers: KnownPeers,
}

/// Nothing is counted or changed.
///
/// # Errors
/// If the directory is not prepared, is damaged, or cannot be read.
pub async fn look<D: Disk>(disk: &D, data: &Path) -> Result<Looked, DirectoryError> {
    let path = data.join(BOOT);
    let Boot { epoch, votes_from } = read(disk, &path).await?.ok_or_else(|| missing(&path))?;
    let peers = load_peers(disk, data).await?;
    Ok(Looked { boot: BootEpoch(epoch), votes_from: BootEpoch(votes_from), peers })
}

async fn load_peers<D: Disk>(disk: &D, data: &Path) -> Result<KnownPeers, DirectoryError> {
    let path = data.join(PEERS);
    let stored: BTreeMap<u8, StoredPeer> = read(disk, &path).await?.ok_or_else(|| missing(&path))?;
    Ok(stored.into_iter().map(|(node, peer)| (NodeId(node), peer.into())).collect())
}

/// Gives up the room that is held for a start. A node that does not start on a full disk keeps its clients, and those of the
/// other nodes, from the deletes that would make room.
///
/// # Errors
/// If the directory cannot be written.
pub async fn give_up_room<D: Disk>(disk: &D, data: &Path) -> Result<(), DirectoryError> {
    let path = data.join(ROOM);
    disk.unlink_if_there(&path).await.map_err(failed(&path))
}

/// Holds room for the next start. Nothing depends on it now.
///
/// # Errors
/// If there is none, or the directory cannot be written.
pub async fn hold_room<D: Disk>(disk: &D, data: &Path) -> Result<(), DirectoryError> {
    let path = data.join(ROOM);
    match disk.make_allocated(&path, ROOM_BYTES).await {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(&path)(error)),
        _ => Ok(()),
    }
}

/// Opens a directory and counts one more start, durably, in all its parts. `start_id` is this start's, drawn at random.
///
/// # Errors
/// If it was not prepared, is another node's, is damaged, holds parts of different times, or cannot be read or written.
pub async fn open<D: Disk>(
    disk: &D,
    data: &Path,
    expected: &Expected,
    start_id: StartId,
) -> Result<Opened, DirectoryError> {
    let identity = identify(disk, data).await?;
    expected.check(&identity, data)?;

    let path = data.join(BOOT);
    let boot: Boot = read(disk, &path).await?.ok_or_else(|| missing(&path))?;
    check_votes(disk, data, &identity, &boot).await?;
    let epoch = boot.epoch.checked_add(1).ok_or_else(|| damaged(&path, "the count is at its end"))?;
    write(disk, &path, &Boot { epoch, ..boot }).await?;
    for shard in (0..identity.shards).map(ShardId) {
        let vote = vote_path(data, shard);
        VoteFile::open_for_boot(disk, &vote, identity.vote(shard), BootEpoch(epoch)).await?;
    }
    // From now on a vote of an earlier start is one that was put back.
    write(disk, &path, &Boot { epoch, votes_from: epoch }).await?;

    let peers = load_peers(disk, data).await?;
    Ok(Opened { identity, boot: BootEpoch(epoch), start_id, peers })
}

/// Whether the votes were written by the last start that the directory counts, or, where starts were cut off before they
/// came to that, by one since the last that did.
async fn check_votes<D: Disk>(
    disk: &D,
    data: &Path,
    identity: &NodeIdentity,
    boot: &Boot,
) -> Result<(), DirectoryError> {
    for shard in (0..identity.shards).map(ShardId) {
        let (_, vote) = VoteFile::look(disk, &vote_path(data, shard), identity.vote(shard)).await?;
        let is_of_its_time = (boot.votes_from..=boot.epoch).contains(&vote.0);
        if !is_of_its_time && !mutation::is_on(Mutation::PartialRestoreAccepted) {
            let boot = BootEpoch(boot.epoch);
            return Err(DirectoryError::PartialRestore { path: data.to_owned(), shard, vote, boot });
        }
    }
    Ok(())
}

/// Makes durable what is known of each peer.
///
/// # Errors
/// If the directory cannot be written.
pub async fn save_peers<D: Disk>(disk: &D, data: &Path, peers: &KnownPeers) -> Result<(), DirectoryError> {
    let stored: BTreeMap<u8, StoredPeer> = peers.iter().map(|(node, peer)| (node.0, peer.into())).collect();
    write(disk, &data.join(PEERS), &stored).await
}

/// A number of 128 bits as JSON can hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Hex(pub(super) u128);

impl TryFrom<String> for Hex {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Hex, Self::Error> {
        u128::from_str_radix(&text, 16).map(Hex)
    }
}

impl From<Hex> for String {
    fn from(Hex(number): Hex) -> String {
        format!("{number:032x}")
    }
}

#[derive(Serialize, Deserialize)]
struct StoredIdentity {
    format: u16,
    cluster: String,
    cluster_id: Hex,
    node: u8,
    incarnation: Hex,
    shards: u16,
    members: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Boot {
    epoch: u64,
    /// The last start that came to write its number into the votes of all shards: none of them is of an earlier one.
    votes_from: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredPeer {
    incarnation: Hex,
    boot: u64,
    start: u64,
    went_back: bool,
}

impl From<&KnownPeer> for StoredPeer {
    fn from(peer: &KnownPeer) -> StoredPeer {
        let KnownPeer { incarnation, start, went_back } = *peer;
        StoredPeer { incarnation: Hex(incarnation.0), boot: start.boot.0, start: start.id.0, went_back }
    }
}

impl From<StoredPeer> for KnownPeer {
    fn from(stored: StoredPeer) -> KnownPeer {
        let start = Start { boot: BootEpoch(stored.boot), id: StartId(stored.start) };
        KnownPeer { incarnation: Incarnation(stored.incarnation.0), start, went_back: stored.went_back }
    }
}

impl From<&NodeIdentity> for StoredIdentity {
    fn from(identity: &NodeIdentity) -> StoredIdentity {
        StoredIdentity {
            format: FORMAT,
            cluster: identity.cluster.clone(),
            cluster_id: Hex(identity.cluster_id.0),
            node: identity.node.0,
            incarnation: Hex(identity.incarnation.0),
            shards: identity.shards,
            members: identity.members.iter().map(|member| member.0).collect(),
        }
    }
}

impl StoredIdentity {
    fn identity(self) -> NodeIdentity {
        let members: Vec<NodeId> = self.members.into_iter().map(NodeId).collect();
        NodeIdentity {
            cluster: self.cluster,
            node: NodeId(self.node),
            incarnation: Incarnation(self.incarnation.0),
            shards: self.shards,
            members,
            cluster_id: ClusterId(self.cluster_id.0),
        }
    }
}

/// Replaces one of the small files.
///
/// # Errors
/// If the disk is full or fails.
pub async fn write<D: Disk>(disk: &D, path: &Path, content: &impl Serialize) -> Result<(), DirectoryError> {
    let json = serde_json::to_string(content).map_err(|error| failed(path)(error.into()))?;
    let checksum = xxh3_128_with_seed(json.as_bytes(), CHECKSUM_DOMAIN);
    let content = format!("{json}\n{checksum:032x}\n");
    if content.len() > SMALL_BYTES_MAX {
        // The next start would refuse it.
        let text = format!("it would be longer than {SMALL_BYTES_MAX} bytes");
        return Err(failed(path)(io::Error::new(io::ErrorKind::FileTooLarge, text)));
    }
    disk.replace_small(path, content.as_bytes()).await.map_err(failed(path))
}

/// One of the small files, if it is there.
///
/// # Errors
/// If it is damaged, or cannot be read.
pub async fn read<D: Disk, T: DeserializeOwned>(disk: &D, path: &Path) -> Result<Option<T>, DirectoryError> {
    let content = match disk.read_small(path, SMALL_BYTES_MAX).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(damaged(path, &format!("it is longer than {SMALL_BYTES_MAX} bytes")));
        }
        content => content.map_err(failed(path))?,
    };
    let Some(content) = content else { return Ok(None) };
    let text = std::str::from_utf8(&content).map_err(|_| damaged(path, "it is no text"))?;
    let mut lines = text.lines();
    let (Some(json), Some(checksum), None) = (lines.next(), lines.next(), lines.next()) else {
        return Err(damaged(path, "it is not one line and its checksum"));
    };
    if checksum != format!("{:032x}", xxh3_128_with_seed(json.as_bytes(), CHECKSUM_DOMAIN)) {
        return Err(damaged(path, "its checksum is wrong"));
    }
    serde_json::from_str(json).map(Some).map_err(|error| damaged(path, &error.to_string()))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    move |source| DirectoryError::Io { path: path.to_owned(), source }
}

pub(super) fn damaged(path: &Path, why: &str) -> DirectoryError {
    DirectoryError::Damaged { path: path.to_owned(), why: why.to_owned() }
}

fn missing(path: &Path) -> DirectoryError {
    damaged(path, "it is missing")
}

#[cfg(test)]
mod tests;
