//! The simulator: whole nodes, as shipped, in one thread over virtual time and faulty devices. One seed decides
//! everything, so a failure is repeated by its seed.
//!
//! Read in this order: `executor` runs tasks over virtual time, `network` and `stream` are hosts, links and what TCP
//! makes of them, `runtime` is one node's world made of these, and what stands on top drives and judges a cluster.
//!
//! Nothing here may take a decision from the real clock, the real random source, an address in memory, or the order of
//! a hash map.

pub mod random;
pub mod trace;

pub mod clock;
pub mod executor;

pub mod network;
pub mod stream;
pub mod wire;

pub mod disk;
pub mod latency;

pub mod runtime;

pub mod cluster;

pub mod dialogue;
pub mod oracle;
pub mod workload;

pub mod faults;
pub mod lasting;
pub mod coverage;
pub mod run;
pub mod mutants;
pub mod regressions;

#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;
