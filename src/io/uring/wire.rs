//! Listening and connecting: TCP over IPv4 and IPv6, and Unix sockets.
//!
//! It must never leave an accept or a connect pending when its owner has gone.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use io_uring::opcode;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::op;
use super::stream::{self, UringReader, UringWriter};
use crate::io::{Listener, Wire, WireOptions, unix_socket};

/// Connections that the kernel has completed and nobody has accepted yet.
const BACKLOG: i32 = 1024;

/// A host that does not answer: the first retransmission of a SYN, after one second, gets its chance.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long bytes to a peer may go unacknowledged before the kernel gives the stream up.
const PEER_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle streams are probed after a minute, so that a host that vanished does not hold its sessions for hours.
const KEEPALIVE: socket2::TcpKeepalive = socket2::TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

#[derive(Debug, Clone)]
pub struct UringWire {
    share_ports: bool,
}

impl UringWire {
    /// `share_ports`: several core threads listen on the same TCP port for clients, and the kernel spreads connections
    /// over them. A port for peers is never shared: one core thread listens there.
    pub(super) fn new(share_ports: bool) -> UringWire {
        UringWire { share_ports }
    }
}

impl Wire for UringWire {
    type Listener = UringListener;
    type Reader = UringReader;
    type Writer = UringWriter;
    type Detached = OwnedFd;

    fn listen(&self, address: &str, options: WireOptions) -> io::Result<UringListener> {
        match address.strip_prefix("unix:") {
            Some(path) => listen_unix(Path::new(path)),
            None => listen_tcp(address, options, self.share_ports && options == WireOptions::Client),
        }
    }

    async fn connect(&self, address: &str, options: WireOptions) -> io::Result<(UringReader, UringWriter)> {
        if let Some(path) = address.strip_prefix("unix:") {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            return connect_to(socket, SockAddr::unix(path)?).await;
        }
        let mut last_error = None;
        for to in resolve(address).await? {
            let socket = tcp_socket(to, options)?;
            match connect_to(socket, to.into()).await {
                Ok(halves) => return Ok(halves),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| no_address(address)))
    }

    fn detach(reader: UringReader, writer: UringWriter) -> io::Result<OwnedFd> {
        stream::join(reader, writer)
    }

    fn attach(&self, stream: OwnedFd) -> (UringReader, UringWriter) {
        stream::split(Rc::new(stream))
    }
}

/// `host:port`. A name is looked up beside the core thread, since its server may take seconds to answer.
async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(numeric) = address.parse() {
        return Ok(vec![numeric]);
    }
    let name = address.to_owned();
    tokio::task::spawn_blocking(move || name.to_socket_addrs()).await.map_err(io::Error::other)?.map(Iterator::collect)
}

fn no_address(address: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"))
}

/// Buffer sizes are left to the kernel: it grows them to some megabytes as the stream needs them, while a size that is
/// set is final and, where nobody has raised net.core.wmem_max, far smaller.
fn tcp_socket(address: SocketAddr, options: WireOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    if options == WireOptions::Peer {
        socket.set_tcp_user_timeout(Some(PEER_USER_TIMEOUT))?;
    }
    Ok(socket)
}

async fn connect_to(socket: Socket, to: SockAddr) -> io::Result<(UringReader, UringWriter)> {
    let socket = Rc::new(OwnedFd::from(socket));
    let mut guard = Abandoned { socket: &socket, armed: true };
    // SAFETY: the address is boxed, so it stays where it is when the box is moved; the kernel only reads it.
    let connecting = unsafe {
        op::submit(&socket, Box::new(to), |fd, to| opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build())
    };
    let (result, _) = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await?;
    result?;
    guard.armed = false;
    Ok(stream::split(Rc::clone(&socket)))
}

/// Ends a connect that nobody waits for any more; otherwise it would go on for two minutes.
struct Abandoned<'a> {
    socket: &'a OwnedFd,
    armed: bool,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if self.armed {
            stream::shut_down(self.socket);
        }
    }
}

fn listen_tcp(address: &str, options: WireOptions, share_port: bool) -> io::Result<UringListener> {
    let bound = address.to_socket_addrs()?.next().ok_or_else(|| no_address(address))?;
    // Accepted sockets inherit every option set here.
    let socket = tcp_socket(bound, options)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share_port)?;
    socket.bind(&bound.into())?;
    socket.listen(BACKLOG)?;
    let local = socket.local_addr()?.as_socket().ok_or_else(|| no_address(address))?;
    Ok(UringListener::new(socket, local.to_string(), None))
}

fn listen_unix(path: &Path) -> io::Result<UringListener> {
    remove_stale(path)?;
    let socket = unix_socket::listen(path, None, BACKLOG)?;
    Ok(UringListener::new(socket, format!("unix:{}", path.display()), Some(path.to_owned())))
}

/// A socket file outlives the process that made it. It goes if nobody answers behind it; anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !unix_socket::is_there(path)? {
        return Ok(());
    }
    match unix_socket::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => {
            let text = format!("another process listens on {}", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, text))
        }
    }
}

pub struct UringListener {
    socket: Rc<OwnedFd>,
    local_address: String,
    closed: Cell<bool>,
    unix_path: Option<PathBuf>,
}

impl UringListener {
    fn new(socket: Socket, local_address: String, unix_path: Option<PathBuf>) -> UringListener {
        UringListener { socket: Rc::new(socket.into()), local_address, closed: Cell::new(false), unix_path }
    }
}

impl Listener for UringListener {
    type Reader = UringReader;
    type Writer = UringWriter;

    async fn accept(&self) -> io::Result<(UringReader, UringWriter)> {
        loop {
            if self.closed.get() {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the listener is closed"));
            }
            // SAFETY: the entry holds no address.
            let accepting = unsafe {
                op::submit(&self.socket, (), |fd, ()| {
                    opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                        .flags(libc::SOCK_CLOEXEC)
                        .build()
                })
            };
            match accepting.await.0 {
                Ok(descriptor) => return Ok(stream::split(Rc::new(op::own(descriptor)?))),
                Err(error) if op::is_transient(&error) => tokio::task::yield_now().await,
                // A client that was gone before it was accepted is not the listener's failure.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn local_address(&self) -> String {
        self.local_address.clone()
    }

    fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        // Ends a pending accept with EINVAL; closing the descriptor would not, the operation holds the socket.
        let _ = SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Both);
        if let Some(path) = &self.unix_path {
            // Not found: somebody tidied up already.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for UringListener {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_stream_has_the_options_of_its_listener() {
        let listener = listen_tcp("127.0.0.1:0", WireOptions::Peer, false).unwrap();
        let near = std::net::TcpStream::connect(&listener.local_address).unwrap();
        let (far, _) = SockRef::from(&*listener.socket).accept().unwrap();
        assert!(far.tcp_nodelay().unwrap());
        assert!(far.keepalive().unwrap());
        assert_eq!(far.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(far.tcp_user_timeout().unwrap(), Some(PEER_USER_TIMEOUT));
        drop(near);
    }

    #[test]
    fn a_port_is_shared_only_where_that_was_asked_for() {
        let alone = listen_tcp("127.0.0.1:0", WireOptions::Client, false).unwrap();
        assert!(listen_tcp(&alone.local_address, WireOptions::Client, false).is_err());
        assert!(listen_tcp(&alone.local_address, WireOptions::Client, true).is_err());
        let shared = listen_tcp("127.0.0.1:0", WireOptions::Client, true).unwrap();
        listen_tcp(&shared.local_address, WireOptions::Client, true).unwrap();
    }
}
