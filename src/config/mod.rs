//! What a node is told at its start: a YAML file, overridden by the environment, overridden by flags. Behind
//! [`Draft::validate`] stands a [`Config`] that cannot be wrong; nothing here touches a disk but the file it is given.

mod address;
mod draft;
mod key;
mod page;
mod quantity;
mod tunables;
mod validate;
mod yaml;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;

pub use address::Address;
pub use draft::{ConfigError, Draft, ENVIRONMENT_PREFIX};
pub use key::Key;
pub use page::{plain_numbers, reference_page};
pub use tunables::Tunables;
pub use validate::EMBEDDED_CLUSTER;

use crate::types::{ClusterId, NodeId};

/// A node's configuration, proven. Made by [`Draft::validate`] or [`Config::embedded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// 1 to 64 letters, digits, `-`, `_`, `.`.
    pub cluster: String,
    /// None: whichever the data directory was prepared for.
    pub cluster_id: Option<ClusterId>,
    /// Always one of `members`.
    pub node: NodeId,
    pub data: PathBuf,
    /// Where clients of the beanstalkd protocol are served: at least one address, TCP or `unix:/path`.
    pub clients: Vec<Address>,
    /// Permissions of Unix sockets for clients; none: those that the umask leaves.
    pub clients_mode: Option<u32>,
    /// Where this node listens for its peers; none for an embedded node, which has none.
    pub peers: Option<Address>,
    /// Where the admin port listens; none: there is no admin port.
    pub admin: Option<Address>,
    /// 1 to 7 members by id with the addresses that their peers dial; all different. That of an embedded node is
    /// [`Address::nowhere`].
    pub members: BTreeMap<NodeId, Address>,
    /// 1 to 256.
    pub shards: u16,
    /// Core threads, if the operator chose their number; see [`Config::core_count`].
    pub cores: Option<NonZeroU16>,
    /// A filter as `tracing` reads it: a level, or `target=level` pairs.
    pub log: String,
    /// A complete single node without a configuration file: it prepares its own directory on its first start.
    /// A member of a cluster never does.
    pub embedded: bool,
    /// The data directory is removed with the server, so that clients are shown no binlog.
    pub temporary: bool,
    pub tunables: Tunables,
}

impl Config {
    /// Core threads to start: one for each shard, at most one for each core of this host, unless told otherwise; never more
    /// than shards, since a shard lives on one thread.
    #[must_use]
    pub fn core_count(&self) -> u16 {
        let host = std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
        self.cores.map_or(host, NonZeroU16::get).min(self.shards)
    }
}

#[cfg(test)]
mod tests;
