//! Listening and connecting: TCP over IPv4 and IPv6, and Unix sockets.
//!
//! It must never leave an accept or a connect pending when its owner has gone.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use io_uring::opcode;
use io_uring::types::CancelBuilder;
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
    /// Sockets for clients that were made before this thread.
    bound: Rc<RefCell<Vec<BoundSocket>>>,
}

impl UringWire {
    /// `share_ports`: several core threads listen on the same TCP port for clients, and the kernel spreads connections
    /// over them. A port for peers is never shared: one core thread listens there.
    pub(super) fn new(share_ports: bool) -> UringWire {
        UringWire { share_ports, bound: Rc::default() }
    }

    /// Whoever listens for clients at the address of one of these gets it, instead of a new one.
    pub fn adopt(&self, sockets: Vec<BoundSocket>) {
        self.bound.borrow_mut().extend(sockets);
    }
}

impl Wire for UringWire {
    type Listener = UringListener;
    type Reader = UringReader;
    type Writer = UringWriter;
    type Detached = OwnedFd;

    fn listen(&self, address: &str, options: WireOptions) -> io::Result<UringListener> {
        if options == WireOptions::Client {
            let mut bound = self.bound.borrow_mut();
            if let Some(at) = bound.iter().position(|socket| socket.address == address) {
                return Ok(UringListener::new(bound.remove(at)));
            }
        }
        let share_port = self.share_ports && options == WireOptions::Client;
        BoundSocket::listen(address, options, share_port, None).map(UringListener::new)
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
    set_tcp_options(&socket, options)?;
    Ok(socket)
}

fn set_tcp_options(socket: &Socket, options: WireOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    if options == WireOptions::Peer {
        socket.set_tcp_user_timeout(Some(PEER_USER_TIMEOUT))?;
    }
    Ok(())
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

/// A socket that listens, and that nobody accepts from yet: clients that connect wait in its backlog. Closed, and its file removed,
/// when it is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    socket: Socket,
    /// As it was asked for.
    address: String,
    local_address: String,
    file: Option<SocketFile>,
    /// Another process holds it too, and listens again when this one has ended: it is never shut down.
    is_inherited: bool,
}

impl BoundSocket {
    /// `share_port`: other sockets of this process listen on the same TCP port. `mode`: the permissions of a Unix socket;
    /// without one, those that the umask leaves.
    ///
    /// # Errors
    /// The address is in use, or not one of this host.
    pub fn listen(address: &str, options: WireOptions, share_port: bool, mode: Option<u32>) -> io::Result<BoundSocket> {
        if let Some(path) = address.strip_prefix("unix:").map(Path::new) {
            remove_stale(path)?;
            let socket = unix_socket::listen(path, mode, BACKLOG)?;
            let (address, file) = (address.to_owned(), Some(SocketFile(path.to_owned())));
            return Ok(BoundSocket { socket, local_address: address.clone(), address, file, is_inherited: false });
        }
        let bound = address.to_socket_addrs()?.next().ok_or_else(|| no_address(address))?;
        // Accepted sockets inherit every option set here.
        let socket = tcp_socket(bound, options)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share_port)?;
        socket.bind(&bound.into())?;
        socket.listen(BACKLOG)?;
        let local_address = socket.local_addr()?.as_socket().ok_or_else(|| no_address(address))?.to_string();
        Ok(BoundSocket { socket, address: address.to_owned(), local_address, file: None, is_inherited: false })
    }

    /// A socket that another process has made: of TCP or Unix streams, and listening.
    ///
    /// # Errors
    /// It is another kind of descriptor.
    pub fn inherit(descriptor: OwnedFd) -> io::Result<BoundSocket> {
        let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
        let socket = Socket::from(descriptor);
        let kind = socket.r#type().map_err(|_| refused("it is no socket"))?;
        if kind != Type::STREAM {
            return Err(refused("it is a socket of another kind than streams (in systemd: ListenStream=)"));
        }
        if !socket.is_listener()? {
            return Err(refused("it does not listen: it is one connection (in systemd: Accept=no)"));
        }
        let local = socket.local_addr()?;
        let address = match local.as_socket() {
            Some(address) => {
                set_tcp_options(&socket, WireOptions::Client)?;
                address.to_string()
            }
            None if local.is_unix() => {
                let path = local.as_pathname().map(|path| path.display().to_string());
                // A name without a file, as systemd writes it. Two of them are two addresses.
                let name = || format!("@{}", local.as_abstract_namespace().unwrap_or_default().escape_ascii());
                format!("unix:{}", path.unwrap_or_else(name))
            }
            None => return Err(refused("it is neither of TCP nor a Unix socket")),
        };
        // An accept waits on the ring; one that must not wait would fail there.
        socket.set_nonblocking(false)?;
        Ok(BoundSocket { socket, local_address: address.clone(), address, file: None, is_inherited: true })
    }

    /// The same socket, for another core thread to accept from.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn share(&self) -> io::Result<BoundSocket> {
        assert!(self.is_inherited, "a socket of this process is shut down by the first that closes it");
        let (address, local_address) = (self.address.clone(), self.local_address.clone());
        Ok(BoundSocket { socket: self.socket.try_clone()?, address, local_address, file: None, is_inherited: true })
    }

    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// The file of a Unix socket; removed when this is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Not found: somebody tidied up already.
        let _ = std::fs::remove_file(&self.0);
    }
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
    file: RefCell<Option<SocketFile>>,
    is_inherited: bool,
}

impl UringListener {
    fn new(bound: BoundSocket) -> UringListener {
        let BoundSocket { socket, local_address, file, is_inherited, .. } = bound;
        UringListener {
            socket: Rc::new(socket.into()),
            local_address,
            closed: Cell::new(false),
            file: RefCell::new(file),
            is_inherited,
        }
    }

    /// Ends an accept that is pending, with `ECANCELED`.
    fn cancel_accept(&self) {
        // While the ring ends it cancels everything itself.
        if op::phase() == op::Phase::Running {
            // SAFETY: the entry holds no address. Nobody needs the result: without a pending accept there is nothing to cancel.
            drop(unsafe {
                op::submit(&self.socket, (), |fd, ()| opcode::AsyncCancel2::new(CancelBuilder::fd(fd).all()).build())
            });
        }
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
        if self.is_inherited {
            self.cancel_accept();
        } else {
            // Ends a pending accept with EINVAL; closing the descriptor would not, the operation holds the socket.
            let _ = SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Both);
        }
        drop(self.file.take());
    }
}

impl Drop for UringListener {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn listen_tcp(address: &str, options: WireOptions, share_port: bool) -> io::Result<UringListener> {
        BoundSocket::listen(address, options, share_port, None).map(UringListener::new)
    }

    #[test]
    fn a_socket_that_nobody_took_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let bound =
            BoundSocket::listen(&format!("unix:{}", path.display()), WireOptions::Client, false, Some(0o660)).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_stream_socket_that_listens_is_inherited() {
        let why = |descriptor: OwnedFd| BoundSocket::inherit(descriptor).unwrap_err().to_string();
        assert_eq!(why(tempfile::tempfile().unwrap().into()), "it is no socket");
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(why(datagrams.into()).starts_with("it is a socket of another kind"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(why(connection.into()).starts_with("it does not listen"));

        let address = listener.local_addr().unwrap().to_string();
        let inherited = BoundSocket::inherit(listener.into()).unwrap();
        assert_eq!(inherited.share().unwrap().address(), address);
        // Closing it leaves the socket of the other holder alone.
        UringListener::new(inherited.share().unwrap()).close();
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn d5_unix_sockets_without_a_file_are_inherited_by_their_names() {
        let listen = |name: &[u8]| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.bind(&SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat())).unwrap()).unwrap();
            socket.listen(1).unwrap();
            BoundSocket::inherit(socket.into()).unwrap().address().to_owned()
        };
        let own = std::process::id().to_string();
        assert_eq!(listen(own.as_bytes()), format!("unix:@{own}"));
        assert_eq!(listen(&[own.as_bytes(), b"\xff"].concat()), format!("unix:@{own}\\xff"));
    }

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
