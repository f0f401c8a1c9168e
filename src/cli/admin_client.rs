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
use crate::status::StatusReport;

const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error("no node runs in {}: nobody listens at its admin.sock", data.display())]
    NotRunning { data: PathBuf },
    #[error("{} cannot be opened: {why}; only the user of the node may", path.display())]
    NotPermitted { path: PathBuf, why: io::Error },
    #[error("nothing listens at {address}")]
    NothingThere { address: String },
    #[error("{address} is not an admin port (is it the client port?)")]
    NotHttp { address: String },
    #[error("{address} closes the connection without an answer; it is not an admin port (is it the peer port?)")]
    Unanswered { address: String },
    #[error("no answer in time")]
    Late,
    #[error("{place} answers {path} with status {code}; it is not an admin port")]
    OtherServer { place: String, path: String, code: u16 },
    #[error("what {place} answers is no status: {why}")]
    NoStatus { place: String, why: serde_json::Error },
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

    /// What the node shows of itself.
    ///
    /// # Errors
    /// No node answers there in time.
    pub fn status(&self) -> Result<StatusReport, AdminError> {
        let path = "/status";
        let AdminAnswer { code, text } = self.get(path)?;
        if code != 200 {
            return Err(AdminError::OtherServer { place: self.place(), path: path.to_owned(), code });
        }
        serde_json::from_str(&text).map_err(|why| AdminError::NoStatus { place: self.place(), why })
    }

    /// The address, or the path of the socket.
    #[must_use]
    pub fn place(&self) -> String {
        self.data.as_deref().map_or_else(|| self.authority.clone(), |data| socket_path(data).display().to_string())
    }

    /// # Errors
    /// As of [`AdminClient::get`].
    pub fn post(&self, path: &str) -> Result<AdminAnswer, AdminError> {
        self.read(self.agent.post(format!("http://{}{path}", self.authority)).send_empty())
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

    /// A socket that nobody listens at, or that another user may not open, is named as what it is; so is a port that is
    /// another one of the node's.
    fn explain(&self, error: ureq::Error) -> AdminError {
        let address = || self.authority.clone();
        match (error, &self.data) {
            (ureq::Error::Timeout(_), _) => AdminError::Late,
            (ureq::Error::Io(why), Some(data)) => match why.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    AdminError::NotRunning { data: data.clone() }
                }
                io::ErrorKind::PermissionDenied => AdminError::NotPermitted { path: socket_path(data), why },
                _ => AdminError::Failed(ureq::Error::Io(why)),
            },
            (ureq::Error::Io(why), None) => match why.kind() {
                io::ErrorKind::ConnectionRefused => AdminError::NothingThere { address: address() },
                // Whoever closes a connection without having read all that came resets it.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    AdminError::Unanswered { address: address() }
                }
                _ => AdminError::Failed(ureq::Error::Io(why)),
            },
            (ureq::Error::Protocol(_), None) => AdminError::NotHttp { address: address() },
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
    use std::net::TcpListener;
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
        assert!(matches!(client.get("/status"), Err(AdminError::Late)));
    }

    /// What is said of a server that reads a request, answers this, and hangs up.
    fn told_of(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        });
        AdminClient::at(&address, PATIENCE).status().unwrap_err().to_string()
    }

    #[test]
    fn a_port_that_is_another_is_named_as_what_it_may_be() {
        assert!(told_of("UNKNOWN_COMMAND\r\n").ends_with(" is not an admin port (is it the client port?)"));
        assert!(told_of("").ends_with("it is not an admin port (is it the peer port?)"));
        let other = told_of("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        assert!(other.ends_with("answers /status with status 404; it is not an admin port"), "{other}");
        let page = told_of("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>");
        assert!(page.contains(" is no status: "), "{page}");
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let nobody = AdminClient::at(&unused, PATIENCE).status().unwrap_err().to_string();
        assert_eq!(nobody, format!("nothing listens at {unused}"));
    }
}
