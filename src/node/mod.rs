//! Drives the shards of one node: threads, listeners, directories, signals, the end. It decides nothing about the protocol.
//!
//! Reading order: `core` (a node from its start to its end), `opening` (directories and recovery), `host` (one shard),
//! `log_writer` (its disk), `peering` and `front` (its wires), `observer` and `admin` (what it shows), `fate` (why it
//! ends).

pub mod admin;
pub mod core;
pub mod fate;
pub mod front;
pub mod host;
pub mod log_writer;
pub mod observer;
pub mod opening;
pub mod peering;
pub mod queue;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use self::admin::Admin;
use self::core::{Setup, StopRequest, run_node};
use crate::api::beanstalkd::front_door::{FrontDoor, NodeFacts, ResourceUsage};
use crate::config::Config;
use crate::fatal::Fatal;
use crate::io::Runtime;
use crate::io::bulk::{Bulk, BulkOptions};
use crate::io::lock::DirectoryLock;
use crate::io::signals::{self, Request};
use crate::io::uring::{CoreOptions, UringRuntime, block_on_core, start_core_thread};
use crate::io::{process, startup};
use crate::metrics::Metrics;
use crate::status::Board;

/// Prepares a member's data directory: its identity, bound to the cluster that the configuration describes.
///
/// # Errors
/// The directory holds something already, or can't be written.
pub fn init(config: &Config) -> Result<(), Fatal> {
    startup::check_uring().map_err(Fatal::from)?;
    startup::raise_limits().map_err(Fatal::from)?;
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
pub fn run(config: Config, metrics: Arc<Metrics>) -> Result<(), Fatal> {
    startup::check_uring().map_err(Fatal::from)?;
    startup::raise_limits().map_err(Fatal::from)?;
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
    let options = CoreOptions::new(start_bulk(&config)?);
    let main = move |rt: UringRuntime| async move {
        let door = Arc::new(front_door(&config, &rt));
        let setup = Setup { config, metrics, board, door, watch: None };
        let stop = Rc::new(StopRequest::default());
        rt.spawn(heed(requests, setup.clone(), Rc::clone(&stop)));
        run_node(rt, setup, stop).await
    };
    let thread = start_core_thread(0, "core-0", options, main).map_err(|error| no_ring(&error))?;
    match thread.join() {
        Ok(ended) => ended.map_err(|error| no_ring(&error))?,
        Err(_) => Err(Fatal::Internal("a core thread panicked".to_owned())),
    }
}

fn start_bulk(config: &Config) -> Result<Bulk, Fatal> {
    let options = BulkOptions { bytes_per_second: config.tunables.bulk_bytes_per_second };
    Bulk::start(options).map_err(|error| no_ring(&error))
}

fn no_ring(error: &std::io::Error) -> Fatal {
    Fatal::NoIoUring { why: error.to_string() }
}

/// Passes on what the operating system asks for.
async fn heed(mut requests: tokio::sync::watch::Receiver<Request>, setup: Setup, stop: Rc<StopRequest>) {
    loop {
        let request = *requests.borrow_and_update();
        if request >= Request::Drain && !setup.door.is_draining() {
            tracing::info!("draining: puts are refused from now on");
            setup.door.drain();
            setup.metrics.node.draining.set(1);
        }
        if request >= Request::Stop {
            stop.ask();
        }
        if requests.changed().await.is_err() {
            return;
        }
    }
}

fn front_door(config: &Config, rt: &UringRuntime) -> FrontDoor {
    let host = process::host();
    let facts = NodeFacts {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        instance: rt.random(),
        hostname: host.name,
        os: host.os_version,
        platform: host.machine,
        started: rt.now(),
        segment_bytes_max: config.tunables.segment_bytes_max,
        resource_usage: || {
            let usage = process::usage();
            ResourceUsage { user_micros: micros(usage.user), system_micros: micros(usage.system) }
        },
    };
    FrontDoor::new(config.shards, 1, config.tunables.job_bytes_max, facts)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
