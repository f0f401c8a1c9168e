//! Drives the shards of one node: threads, listeners, directories, signals, the end. It decides nothing about the protocol.
//!
//! Reading order: `core` (one core thread from its start to its end), `opening` and `progress` (directories and recovery), `host` (one
//! shard), `log_writer` and `keeping` (its disk), `living` (its lives), `mending` (a shard whose log is damaged), `installing` and `giving` (one
//! that is behind the log, and who helps it), `listeners`, `peering` and `front` (its wires), `observer` and `admin` (what it shows),
//! `fate` and `stopping` (how it ends). Then what makes several threads one node: `place` (whose is what), `rings` (how they
//! speak), `together` (what they share), `cores` (their start and end).

pub mod admin;
pub mod core;
pub mod cores;
pub mod descriptors;
pub mod fate;
pub mod front;
pub mod giving;
pub mod host;
pub mod installing;
pub mod keeping;
pub mod listeners;
pub mod living;
pub mod log_writer;
pub mod mending;
pub mod observer;
pub mod opening;
pub mod peering;
pub mod place;
pub mod progress;
pub mod queue;
pub mod restoring;
pub mod rings;
pub mod scrubbing;
pub mod snapshots;
pub mod stopping;
pub mod together;

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use self::admin::Admin;
use self::cores::{Shared, no_ring, run_cores};
use self::descriptors::files_kept;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::bulk::{Bulk, BulkOptions};
use crate::io::lock::DirectoryLock;
use crate::io::uring::{CoreOptions, block_on_core};
use crate::io::{signals, startup};
use crate::metrics::Metrics;
use crate::status::{Board, RoleName, ShardStatus};

/// How often a node that is started by a service manager looks whether it serves.
const READINESS_POLL: Duration = Duration::from_millis(20);

/// Prepares a member's data directory: its identity, bound to the cluster that the configuration describes.
///
/// # Errors
/// The directory holds something already, or can't be written.
pub fn init(config: &Config) -> Result<(), Fatal> {
    startup::check_uring().map_err(Fatal::from)?;
    startup::raise_limits(files_kept(config)).map_err(Fatal::from)?;
    opening::make_directory(&config.data)?;
    let _lock = DirectoryLock::acquire(&config.data).map_err(|error| opening::locked(&config.data, &error))?;
    let options = CoreOptions::new(start_bulk(config)?);
    let config = config.clone();
    let prepared = block_on_core(&options, |rt| async move { opening::prepare(&rt, &config).await });
    prepared.map_err(|error| no_ring(&error))?
}

/// Runs a node until it is told to stop, or must.
///
/// # Errors
/// The reason, where it did not stop because it was told to.
pub fn run(mut config: Config, metrics: Arc<Metrics>) -> Result<(), Fatal> {
    startup::check_uring().map_err(Fatal::from)?;
    let open_files = startup::raise_limits(files_kept(&config)).map_err(Fatal::from)?;
    let connections_max = &mut config.tunables.connections_max;
    if u64::from(*connections_max) > open_files {
        *connections_max = u32::try_from(open_files).unwrap_or(u32::MAX);
        tracing::warn!(
            "only {connections_max} client connections at once, for want of file descriptors: raise LimitNOFILE in the unit, or \
             `ulimit -n`"
        );
    }
    if config.embedded {
        opening::make_directory(&config.data)?;
    } else if !config.data.exists() {
        return Err(Fatal::NotPrepared { path: config.data.clone() });
    }
    startup::check_directory(&config.data).map_err(Fatal::from)?;
    let _lock = DirectoryLock::acquire(&config.data).map_err(|error| opening::locked(&config.data, &error))?;
    let requests = signals::requests()
        .map_err(|error| Fatal::System { what: "to handle signals".to_owned(), why: error.to_string() })?;
    let board = Arc::new(Board::new(&config, &metrics));
    let _admin = config
        .admin
        .as_ref()
        .map(|address| Admin::start(address, Arc::clone(&metrics), Arc::clone(&board)))
        .transpose()?;
    let bulk = start_bulk(&config)?;
    tell_the_service_manager(Arc::clone(&board), Arc::clone(&metrics));
    run_cores(&Shared { config, metrics, board, requests, door: Arc::default() }, bulk)
}

fn start_bulk(config: &Config) -> Result<Bulk, Fatal> {
    let options = BulkOptions {
        bytes_per_second: config.tunables.bulk_bytes_per_second,
        cold_bytes_per_second: config.tunables.scrub_bytes_per_second,
    };
    Bulk::start(options).map_err(|error| no_ring(&error))
}

/// Tells systemd, where it started this process, that the node is ready: every shard has recovered and takes part. Whether
/// there is a leader is not asked: the first member of a cluster to start has none yet.
fn tell_the_service_manager(board: Arc<Board>, metrics: Arc<Metrics>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    std::thread::spawn(move || {
        let is_recovering = |shard: &ShardStatus| shard.role == RoleName::Recovering;
        while board.report(&metrics).shards.iter().any(is_recovering) {
            std::thread::sleep(READINESS_POLL);
        }
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
            tracing::warn!("the service manager could not be told that the node is ready: {error}");
        }
    });
}
