//! `beaver-raft inspect`: what is in a data directory, offline and without changing a byte.

pub(crate) mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output;
use super::run::ended;
use crate::fatal::Fatal;
use crate::io::bulk::{Bulk, BulkOptions};
use crate::io::lock::holder_of;
use crate::io::startup::Occupancy;
use crate::io::uring::{CoreOptions, block_on_core};
use crate::io::{Disk, Runtime};
use crate::node::cores::{no_ring, no_thread};
use crate::node::opening::{self, locked};
use crate::shard::markers::Verdict;
use crate::snapshot::foreseen::{Foreseen, Pending};
use crate::snapshot::inspection::{SnapshotFound, SnapshotsFound, inspect as inspect_snapshots};
use crate::snapshot::install::InstallPlace;
use crate::types::ShardId;
use crate::wal::directory::snapshots_dir;
use crate::wal::directory::{DirectoryError, NodeIdentity, identify, segments_dir};
use crate::wal::inspection::{Fault, ShardFound, inspect as inspect_log};

/// Files are damaged: the status of a node that would be kept from starting by them.
const DAMAGED: u8 = 30;

const NO_DATA: &str = "holds no Beaver-Raft data";

/// Show what is in a data directory: segments, what was moved out of them, snapshots, faults
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a node that does not run. Nothing is changed, not even what a start would
tidy up. Exits with 30 if a fault is found.")]
pub struct InspectArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Read everything that the files hold, and count all jobs of the snapshots
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A node's directory.
#[derive(Debug, Serialize)]
struct NodeFound {
    cluster: String,
    /// 32 hexadecimal digits.
    cluster_id: String,
    node: u8,
    members: Vec<u8>,
    /// Everything was read.
    is_verified: bool,
    shards: Vec<Shard>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Shard {
    #[serde(flatten)]
    pub(crate) log: ShardFound,
    snapshots: Vec<SnapshotFound>,
    /// What the markers say of the snapshots before them, where all entries were read.
    markers: Vec<Marker>,
    /// Bytes that were pulled of a snapshot of another node, which is not decided on.
    pub(crate) pulled_bytes: u64,
    /// A snapshot of another node that is decided on, and not yet in the log's place. All else is shown as it will be then.
    pub(crate) install: Option<Install>,
}

/// An install that was cut off, and that the next start completes.
#[derive(Debug, Serialize)]
pub(crate) struct Install {
    /// The entry that the snapshot is of.
    pub(crate) index: u64,
    term: u64,
    pub(crate) files_to_move: usize,
    /// Segments of the log before.
    files_to_remove: usize,
}

/// An entry at which every node keeps a snapshot of the same state.
#[derive(Debug, Serialize)]
struct Marker {
    index: u64,
    /// The marker that it speaks of, and the fingerprint that a majority had there.
    about: Option<u64>,
    fingerprint: Option<String>,
}

pub fn inspect(args: &InspectArgs) -> u8 {
    match look(args) {
        Ok(found) => {
            let is_told = output::print(&match args.json {
                true => format!("{}\n", serde_json::json!(found)),
                false => text::of(&found),
            });
            if found.shards.iter().any(|shard| !shard.log.faults.is_empty()) { DAMAGED } else { u8::from(!is_told) }
        }
        Err(fatal) => ended(Err(fatal)),
    }
}

fn look(args: &InspectArgs) -> Result<NodeFound, Fatal> {
    let is_nothing = opening::look_at(&args.data).map(|standing| standing == Occupancy::Nothing);
    let no_data = |why| Fatal::NoData { path: args.data.clone(), why };
    match is_nothing {
        Ok(true) => return Err(no_data("does not exist")),
        Err(Fatal::Foreign { .. } | Fatal::Binlog { .. }) => return Err(no_data(NO_DATA)),
        Err(other) => return Err(other),
        Ok(false) => {}
    }
    if let Some(holder) = holder_of(&args.data).map_err(|error| locked(&args.data, &error))? {
        return Err(Fatal::Locked { path: args.data.clone(), holder: format!("process {holder}") });
    }
    let options = CoreOptions::new(Bulk::start(BulkOptions::default()).map_err(|error| no_thread(&error))?);
    let (data, verify): (&Path, bool) = (&args.data, args.verify);
    block_on_core(&options, |rt| async move {
        let identity = match identify(rt.disk(), data).await {
            Err(DirectoryError::NotPrepared { path }) => return Err(Fatal::NoData { path, why: NO_DATA }),
            identity => identity?,
        };
        let mut shards = Vec::new();
        for shard in (0..identity.shards).map(ShardId) {
            shards.push(look_at(rt.disk(), data, &identity, shard, verify).await?);
        }
        let NodeIdentity { cluster, cluster_id, node, members, .. } = identity;
        let members = members.into_iter().map(|member| member.0).collect();
        Ok(NodeFound {
            cluster,
            cluster_id: cluster_id.to_string(),
            node: node.0,
            members,
            is_verified: verify,
            shards,
        })
    })
    .map_err(|error| no_ring(&error))?
}

pub(crate) async fn look_at<D: Disk>(
    disk: &D,
    data: &Path,
    node: &NodeIdentity,
    shard: ShardId,
    verify: bool,
) -> Result<Shard, Fatal> {
    let identity = node.log(shard);
    let place = InstallPlace::new(data, identity, u64::MAX);
    let (disk, unfinished) = match Foreseen::new(disk.clone(), &place).await {
        Ok(foreseen) => (foreseen, None),
        Err(error) => (Foreseen::as_it_is(disk.clone()), Some(Fault::new(&place.dir, None, error))),
    };
    let found = inspect_snapshots(&disk, &snapshots_dir(data, shard), &identity, verify).await;
    let SnapshotsFound { snapshots, standing, living, faults } = found;
    let mut log = inspect_log(&disk, data, node, shard, (living.as_ref(), &standing), verify).await?;
    log.faults.extend(faults);
    log.faults.iter_mut().for_each(|fault| disk.correct(fault));
    log.faults.extend(unfinished);
    let markers = log.log.as_ref().map_or(Vec::new(), |log| log.markers.iter().map(read_marker).collect());
    for marker in &markers {
        let Some((about, agreed)) = marker.about.zip(marker.fingerprint.as_ref()) else { continue };
        if let Some(own) = snapshots.iter().find(|own| own.index == about && own.fingerprint != *agreed) {
            let (index, here) = (marker.index, &own.fingerprint);
            let what = format!(
                "by the marker at entry {index} the majority had the fingerprint {agreed} at entry {about}, and the snapshot \
                 here has {here}"
            );
            log.faults.push(Fault::new(&segments_dir(data, shard), None, what));
        }
    }
    let install = disk.pending().map(|Pending { position, files_to_move, files_to_remove }| {
        let (index, term) = (position.index.0, position.term.0);
        Install { index, term, files_to_move, files_to_remove }
    });
    let pulled_bytes = match install {
        Some(_) => 0,
        // The directory is made when a node first needs it.
        None => disk.list(&place.dir).await.unwrap_or_default().iter().map(|file| file.bytes).sum(),
    };
    Ok(Shard { log, snapshots, markers, pulled_bytes, install })
}

fn read_marker(found: &crate::wal::inspection::MarkerFound) -> Marker {
    let (about, fingerprint) = match Verdict::decode(&found.payload) {
        Some(Verdict::Agreed { marker, digest }) => (Some(marker.0), Some(format!("{digest:032x}"))),
        Some(Verdict::Split { marker }) => (Some(marker.0), None),
        Some(Verdict::Open) | None => (None, None),
    };
    Marker { index: found.index, about, fingerprint }
}
