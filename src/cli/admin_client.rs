//! Asks a node over HTTP: at its admin port, or at the socket in its data directory. No proxy is used, whatever the
//! environment says.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use ureq::Agent;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use crate::io::unix_socket;
use crate::node::admin::socket_path;

const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error("no node runs in {}: nobody listens at its admin.sock", data.display())]
    NotRunning { data: PathBuf },
    #[error("{} cannot be opened: {why}; only the user of the node may", path.display())]
    NotPermitted { path: PathBuf, why: io::Error },
    #[error("{0}")]
    Failed(#[from] ureq::Error),
}

/// What a node said: the HTTP status code, and the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAnswer {
    pub code: u16,
    pub text: String,
}

/// Speaks with one node.
#[derive(Debug)]
pub struct AdminClient {
    agent: Agent,
    /// `host:port`.
    authority: String,
    data: Option<PathBuf>,
}

impl AdminClient {
    /// `address`: `host:port` of the admin port. `timeout` bounds a request with its answer.
    #[must_use]
    pub fn at(address: &str, timeout: Duration) -> AdminClient {
        AdminClient { agent: Agent::new_with_config(config(timeout)), authority: address.to_owned(), data: None }
    }

    /// The node that runs in the directory `data`.
    #[must_use]
    pub fn in_directory(data: &Path, timeout: Duration) -> AdminClient {
        let agent = Agent::with_parts(config(timeout), SocketConnector { path: socket_path(data) }, Nowhere);
        AdminClient { agent, authority: "localhost".to_owned(), data: Some(data.to_owned()) }
    }

    /// # Errors
    /// No node answers there in time, or not in HTTP.
    pub fn get(&self, path: &str) -> Result<AdminAnswer, AdminError> {
        self.read(self.agent.get(format!("http://{}{path}", self.authority)).call())
    }

    fn read(&self, answered: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<AdminAnswer, AdminError> {
        let mut response = answered.map_err(|error| self.explain(error))?;
        let code = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
        Ok(AdminAnswer { code, text })
    }

    /// A socket that nobody listens at, or that another user may not open, is named as what it is.
    fn explain(&self, error: ureq::Error) -> AdminError {
        match (error, &self.data) {
            (ureq::Error::Io(why), Some(data)) => match why.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    AdminError::NotRunning { data: data.clone() }
                }
                io::ErrorKind::PermissionDenied => AdminError::NotPermitted { path: socket_path(data), why },
                _ => AdminError::Failed(ureq::Error::Io(why)),
            },
            (error, _) => AdminError::Failed(error),
        }
    }
}

fn config(timeout: Duration) -> ureq::config::Config {
    Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).proxy(None).build()
}

/// Connects to one socket, whatever the host in the address is.
#[derive(Debug)]
struct SocketConnector {
    path: PathBuf,
}

#[derive(Debug)]
struct Nowhere;

#[derive(Debug)]
struct SocketTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl Resolver for Nowhere {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

impl Connector for SocketConnector {
    type Out = SocketTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<SocketTransport>, ureq::Error> {
        let stream = UnixStream::from(OwnedFd::from(unix_socket::connect(&self.path)?));
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(SocketTransport { stream, buffers }))
    }
}

fn left(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|duration| *duration)
}

fn in_time<T>(done: io::Result<T>, timeout: NextTimeout) -> Result<T, ureq::Error> {
    done.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => ureq::Error::Io(error),
    })
}

impl Transport for SocketTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.set_write_timeout(left(timeout))?;
        in_time(self.stream.write_all(&self.buffers.output()[..amount]), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.set_read_timeout(left(timeout))?;
        let bytes = in_time(self.stream.read(self.buffers.input_append_buf()), timeout)?;
        self.buffers.input_appended(bytes);
        Ok(bytes > 0)
    }

    /// Every request has a connection of its own: nothing is gained by keeping one.
    fn is_open(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_directory_in_which_no_node_runs_is_said_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let client = AdminClient::in_directory(directory.path(), PATIENCE);
        let told = client.get("/status").unwrap_err().to_string();
        assert!(told.starts_with("no node runs in "), "{told}");
        // As a node leaves it that was killed.
        drop(UnixListener::bind(socket_path(directory.path())).unwrap());
        let told = client.get("/status").unwrap_err().to_string();
        assert!(told.starts_with("no node runs in "), "{told}");
    }

    #[test]
    fn a_node_that_never_answers_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let _silent = UnixListener::bind(socket_path(directory.path())).unwrap();
        let client = AdminClient::in_directory(directory.path(), Duration::from_millis(50));
        assert!(matches!(client.get("/status"), Err(AdminError::Failed(ureq::Error::Timeout(_)))));
    }
}
