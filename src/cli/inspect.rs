//! `beaver-raft inspect`: what is in a data directory, offline and without changing a byte.

use std::path::{Path, PathBuf};

use super::run::ended;
use crate::fatal::Fatal;
use crate::io::Runtime;
use crate::io::bulk::{Bulk, BulkOptions};
use crate::io::uring::{CoreOptions, block_on_core};
use crate::types::ShardId;
use crate::wal::directory::{NodeIdentity, identify};
use crate::wal::inspection::{FileKind, ShardFound, inspect as inspect_shard};

/// Files are damaged: the status of a node that would be kept from starting by them.
const DAMAGED: u8 = 30;

/// Show what is in a data directory: segments, what was moved out of them, faults
#[derive(Debug, clap::Args)]
#[command(after_help = "For a node that does not run. Nothing is changed. Exits with 30 if a fault is found.")]
pub struct InspectArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Read everything that the files hold
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn inspect(args: &InspectArgs) -> u8 {
    match look(args) {
        Ok((identity, shards)) => {
            match args.json {
                true => println!("{}", json(&identity, &shards)),
                false => print(&identity, &shards),
            }
            if shards.iter().all(|shard| shard.faults.is_empty()) { 0 } else { DAMAGED }
        }
        Err(fatal) => ended(Err(fatal)),
    }
}

fn look(args: &InspectArgs) -> Result<(NodeIdentity, Vec<ShardFound>), Fatal> {
    let no_ring = |error: std::io::Error| Fatal::NoIoUring { why: error.to_string() };
    let options = CoreOptions::new(Bulk::start(BulkOptions::default()).map_err(no_ring)?);
    let (data, verify): (&Path, bool) = (&args.data, args.verify);
    block_on_core(&options, |rt| async move {
        let identity = identify(rt.disk(), data).await?;
        let mut shards = Vec::new();
        for shard in (0..identity.shards).map(ShardId) {
            shards.push(inspect_shard(rt.disk(), data, &identity, shard, verify).await?);
        }
        Ok((identity, shards))
    })
    .map_err(no_ring)?
}

fn json(identity: &NodeIdentity, shards: &[ShardFound]) -> serde_json::Value {
    serde_json::json!({ "cluster": identity.cluster, "node": identity.node.0, "shards": shards })
}

fn print(identity: &NodeIdentity, shards: &[ShardFound]) {
    println!("node {} of cluster {}", identity.node, identity.cluster);
    for shard in shards {
        println!("shard {}: the log counts from entry {} on", shard.shard, shard.floor + 1);
        for file in &shard.files {
            let kind = match (file.kind, file.below_floor) {
                (FileKind::Spare, _) => "spare",
                (FileKind::Store, _) => "jobs moved out of segments",
                (FileKind::Segment, true) => "below the floor",
                (FileKind::Segment, false) => "log",
            };
            let mut line = format!("  {}  {:>12} bytes  {kind}", file.name, file.bytes);
            if let Some(base) = file.base {
                let last = file.last.map_or_else(|| "?".to_owned(), |last| last.to_string());
                line.push_str(&format!(", entries {} to {last}", base + 1));
            }
            if let (Some(jobs), Some(bytes)) = (file.jobs, file.enqueue_bytes) {
                line.push_str(&format!(", {jobs} jobs put ({bytes} bytes)"));
            }
            println!("{line}");
        }
        for fault in &shard.faults {
            println!("  FAULT: {fault}");
        }
    }
}
