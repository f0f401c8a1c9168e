//! Beaver-Raft: a replicated job queue. Three to seven hosts, one binary; a job is on the disks of a majority before
//! it is acknowledged.

pub mod types;

pub mod api;
pub mod cli;
pub mod config;
pub mod fatal;
pub mod io;
pub mod job;
pub mod metrics;
pub mod net;
pub mod node;
pub mod raft;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod status;
pub mod wal;
