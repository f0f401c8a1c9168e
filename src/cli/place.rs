//! Where a node can be asked: at its admin port, or in its data directory.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::admin_client::AdminClient;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `host:port` of its admin port.
    Port(String),
    /// Its data directory, with a socket that only its own user and root may open.
    Directory(PathBuf),
}

impl Place {
    #[must_use]
    pub fn client(&self, timeout: Duration) -> AdminClient {
        match self {
            Place::Port(address) => AdminClient::at(address, timeout),
            Place::Directory(data) => AdminClient::in_directory(data, timeout),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Port(address) => f.write_str(address),
            Place::Directory(data) => data.display().fmt(f),
        }
    }
}
