//! Drives the shards of one node: threads, listeners, directories, signals, the end. It decides nothing about the protocol.
//!
//! Reading order: `core` (one core thread from its start to its end), `opening` and `progress` (directories and recovery),
//! `host` and `answer_rooms` (one shard), `log_writer`, `keeping` and `disk_watch` (its disk), `living` (its lives),
//! `mending` (a shard whose log is damaged), `installing` and `giving` (one that is behind the log, and who helps it),
//! `client_sockets`, `listeners`, `peering`, `contacts` and `front` (its wires), `observer`, `trends`,
//! `write_times`, `admin` and
//! `admin_door` (what it shows, and to how many), `start`, `fate` and `stopping` (how
//! it begins and ends). Then what makes several threads one node: `place` (whose is what), `rings` (how they
//! speak), `together` (what they share), `cores` (their start and end).

pub mod acquaintance;
pub mod admin;
mod admin_door;
pub mod answer_rooms;
pub mod client_sockets;
pub mod core;
pub mod contacts;
pub mod cores;
pub mod descriptors;
pub mod disk_watch;
pub mod draining;
pub mod fate;
pub mod front;
pub mod giving;
pub mod host;
pub mod installing;
pub mod intake;
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
pub mod start;
pub mod stopping;
pub mod together;
pub mod trends;
pub mod write_times;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use self::admin::Admin;
use self::cores::{Shared, no_ring, no_thread, run_cores};
use self::descriptors::files_kept;
use self::draining::Draining;
use self::start::Start;
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::bulk::{Bulk, BulkOptions};
use crate::io::lock::DirectoryLock;
use crate::io::startup::Occupancy;
use crate::io::uring::{BoundSocket, CoreOptions, block_on_core};
use crate::io::{signals, startup};
use crate::metrics::Metrics;
use crate::status::Board;
use crate::types::ClusterId;

/// How often a node that is started by a service manager looks whether it is ready.
const READINESS_POLL: Duration = Duration::from_millis(20);

/// Prepares a member's data directory: its identity, bound to the cluster that the configuration describes, or to a new one
/// where it does not say which. Gives that cluster's id.
///
/// # Errors
/// The directory holds something already, or can't be written.
pub fn init(config: &Config) -> Result<ClusterId, Fatal> {
    startup::check_uring().map_err(Fatal::from)?;
    startup::raise_limits(files_kept(config)).map_err(Fatal::from)?;
    opening::make_directory(&config.data)?;
    let _lock = DirectoryLock::acquire(&config.data).map_err(|error| opening::locked(&config.data, &error))?;
    let options = CoreOptions::new(start_bulk(config)?);
    let config = config.clone();
    let prepared = block_on_core(&options, |rt| async move { opening::prepare(&rt, &config).await });
    prepared.map_err(|error| no_ring(&error))?
}

/// Runs a node until it is told to stop, or must. `inherited`: sockets for clients that a service manager passed; then `config`
/// names their addresses. `reread` is to read again, at SIGHUP, what may change while the node runs.
///
/// # Errors
/// The reason, where it did not stop because it was told to.
pub fn run(
    mut config: Config,
    metrics: Arc<Metrics>,
    inherited: Vec<BoundSocket>,
    reread: impl FnMut() + Send + 'static,
) -> Result<(), Fatal> {
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
    } else {
        // Before anything is written: a directory of something else keeps no trace of this.
        if opening::look_at(&config.data)? == Occupancy::Nothing {
            return Err(Fatal::NotPrepared { path: config.data.clone() });
        }
        startup::check_directory(&config.data).map_err(Fatal::from)?;
    }
    let _lock = DirectoryLock::acquire(&config.data).map_err(|error| opening::locked(&config.data, &error))?;
    // Before anything that takes time: clients wait in the backlog from now on.
    let sockets = client_sockets::listen(&config, inherited)?;
    let requests = signals::requests(reread)
        .map_err(|error| Fatal::System { what: "to handle signals".to_owned(), why: error.to_string() })?;
    let board = Arc::new(Board::new(&config, &metrics));
    let draining = Draining { door: Arc::default(), metrics: Arc::clone(&metrics) };
    let door = Arc::clone(&draining.door);
    let _admin = Admin::start(config.admin.as_ref(), &config.data, Arc::clone(&board), draining)?;
    let bulk = start_bulk(&config)?;
    tell_the_service_manager(Arc::clone(&board), Arc::clone(&metrics));
    run_cores(&Shared { config, metrics, board, requests, door }, bulk, sockets)
}

fn start_bulk(config: &Config) -> Result<Bulk, Fatal> {
    let options = BulkOptions {
        bytes_per_second: config.tunables.bulk_bytes_per_second,
        cold_bytes_per_second: config.tunables.scrub_bytes_per_second,
    };
    Bulk::start(options).map_err(|error| no_thread(&error))
}

/// Tells systemd, where it started this process, what the node waits for, and when it is ready. See [`Start`].
fn tell_the_service_manager(board: Arc<Board>, metrics: Arc<Metrics>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    std::thread::spawn(move || {
        let (mut recovered, mut told) = (None, String::new());
        loop {
            let report = board.report(&metrics);
            let now = Instant::now();
            if !Start::is_recovering(&report) {
                recovered.get_or_insert(now);
            }
            let start = Start::of(&report, recovered.map(|since| now.saturating_duration_since(since)));
            let text = start.to_string();
            let mut news = Vec::new();
            if start == Start::Serves {
                news.push(NotifyState::Ready);
            }
            if text != told {
                news.push(NotifyState::Status(&text));
            }
            if !news.is_empty()
                && let Err(error) = sd_notify::notify(&news)
            {
                tracing::warn!("the service manager could not be told how the start goes: {error}");
            }
            if start == Start::Serves {
                return;
            }
            told = text;
            std::thread::sleep(READINESS_POLL);
        }
    });
}
