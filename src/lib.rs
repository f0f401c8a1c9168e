//! Beaver-Raft: a replicated job queue for people who run their own machines. Three to seven hosts, one binary, no other
//! service. A job is on the disks of a majority before it is acknowledged; so are its reservation, its acknowledgement, its
//! release. The log on disk is the queue: a waiting job costs about a bit of memory.
//!
//! ```text
//!   clients ──> api ────────────┐                        ┌──────────> clients
//!   (beanstalkd)  bytes <-> operations                   │ answers
//!                               v                        │
//!   clock ───────────>  shard: one Raft group  ──────────┘
//!   peers ──> net ───>    sessions, waits                 ──> net ──> peers
//!   disk ───> wal ───>    raft (consensus)                ──> wal ──> disk
//!                         job  (the state machine)
//!
//!   io: the only rooms that know a runtime        node: threads, listeners, directories, the end
//!   sim: the same node over simulated disks, network and clocks; mutation: bugs put back, for it to find
//!   cli, config, metrics, status, fatal: the edge
//! ```
//!
//! Pure rooms (`raft`, `job`, `wal`, `snapshot`, `net`, `api`, `shard`) decide without I/O, threads, clock or chance: time, entropy and
//! completions are inputs, so the simulator runs what ships. Driver rooms (`io`, `node`) do, and decide nothing about the
//! protocol. `tests/house.rs` holds the house to this.
//!
//! Read in this order: `types`; `raft` (how a log is agreed on), `job` (what the log means), `wal` (how it lies on disk), `snapshot`
//! (how the state is kept beside it), `shard`
//! (how the three are one thing, with clients on one side and peers on the other); then `net` and `api` (what is said on
//! wires), `io` and `node` (how it runs).

pub mod types;
pub mod mutation;

pub mod raft;
pub mod job;
pub mod wal;
pub mod snapshot;
pub mod net;
pub mod api;
pub mod shard;

pub mod io;
pub mod node;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub mod config;
pub mod metrics;
pub mod status;
pub mod fatal;
pub mod cli;
