//! A small blocking client of the beanstalkd protocol, for the commands of this program that talk to a server. The
//! two directions are apart, so that puts can be sent while earlier ones are still unanswered.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::config::Address;

/// A reply line is at most a word, two numbers and a tube name.
const LINE_BYTES_MAX: u64 = 1024;
/// No server of this protocol sends a larger body (1 GiB is the original's limit; ours is 16 MiB).
const BODY_BYTES_MAX: usize = 64 << 20;

/// Why a conversation ended.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("cannot connect to {address}: {why}")]
    Connect { address: String, why: io::Error },
    #[error("the server closed the connection")]
    Closed,
    #[error(
        "the server closed the connection without a word: it takes no more of them, or it is no client port (is it the \
         peer port?)"
    )]
    ClosedAtOnce,
    #[error("an HTTP server answers there, which takes no jobs (is it the admin port?)")]
    Http,
    #[error("the server did not answer in time")]
    Late,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("the server answered `{0}`, which makes no sense here")]
    Nonsense(String),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Late,
            _ => ClientError::Broken(error),
        }
    }
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Inserted(u64),
    Using,
    Watching,
    Reserved {
        id: u64,
        body: Vec<u8>,
    },
    Deleted,
    NotFound,
    TimedOut,
    DeadlineSoon,
    /// Any other line, errors among them.
    Other(String),
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The half that sends. Nothing leaves before [`Sender::flush`], but where the buffer is full.
#[derive(Debug)]
pub struct Sender {
    stream: BufWriter<Stream>,
}

/// The half that reads replies, in the order of the commands.
#[derive(Debug)]
pub struct Receiver {
    stream: BufReader<Stream>,
    /// Something was ever received.
    has_heard: bool,
}

/// Both halves, for a command and its reply at a time.
#[derive(Debug)]
pub struct Client {
    pub sender: Sender,
    pub receiver: Receiver,
}

/// Ends a conversation from elsewhere, whatever its halves are waiting for.
#[derive(Debug)]
pub struct Scissors {
    stream: Stream,
}

/// Opens a connection. The timeouts bound the connecting and each read.
///
/// # Errors
/// [`ClientError::Connect`], with the reason of the last address that was tried.
pub fn connect(address: &Address, connect_timeout: Duration, read_timeout: Duration) -> Result<Client, ClientError> {
    let open = || -> io::Result<(Stream, Stream)> {
        if let Some(path) = address.as_str().strip_prefix("unix:") {
            let stream = connect_unix(path, connect_timeout)?;
            stream.set_read_timeout(Some(read_timeout))?;
            return Ok((Stream::Unix(stream.try_clone()?), Stream::Unix(stream)));
        }
        let mut refusal = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for socket in address.as_str().to_socket_addrs()? {
            match TcpStream::connect_timeout(&socket, connect_timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(read_timeout))?;
                    return Ok((Stream::Tcp(stream.try_clone()?), Stream::Tcp(stream)));
                }
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    };
    let (reading, writing) = open().map_err(|why| ClientError::Connect { address: address.to_string(), why })?;
    Ok(Client {
        sender: Sender { stream: BufWriter::with_capacity(64 << 10, writing) },
        receiver: Receiver { stream: BufReader::with_capacity(64 << 10, reading), has_heard: false },
    })
}

/// Where a server that is stopped has its queue of connections full, the standard library would wait without end.
fn connect_unix(path: &str, timeout: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_write_timeout(None)?;
    Ok(socket.into())
}

impl Sender {
    /// # Errors
    /// If the connection broke.
    pub fn put(&mut self, priority: u32, delay_s: u32, ttr_s: u32, body: &[u8]) -> io::Result<()> {
        write!(self.stream, "put {priority} {delay_s} {ttr_s} {}\r\n", body.len())?;
        self.stream.write_all(body)?;
        self.stream.write_all(b"\r\n")
    }

    /// Sends one command without a body.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn command(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(line.as_bytes())?;
        self.stream.write_all(b"\r\n")
    }

    /// # Errors
    /// If the connection broke.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }

    /// Says that nothing more will be sent; replies can still be read.
    pub fn close(&mut self) {
        let _ = self.stream.flush();
        self.stream.get_ref().shut_down(Shutdown::Write);
    }
}

impl Scissors {
    /// Ends both directions: whoever waits to send or for a reply waits no more. Replies that have arrived can be read.
    pub fn cut(&self) {
        self.stream.shut_down(Shutdown::Both);
    }
}

impl Receiver {
    /// Ends both directions: whoever waits to send waits no more.
    pub fn cut(&self) {
        self.stream.get_ref().shut_down(Shutdown::Both);
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// If the connection ends or the bytes are no reply.
    pub fn reply(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::with_capacity(64);
        let read = match self.stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            // A server that closes a connection without having read all of it resets it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !self.has_heard => 0,
            read => read?,
        };
        if read == 0 {
            return Err(if self.has_heard { ClientError::Closed } else { ClientError::ClosedAtOnce });
        }
        self.has_heard = true;
        if line.starts_with(b"HTTP/") {
            return Err(ClientError::Http);
        }
        let text = String::from_utf8_lossy(&line);
        let Some(text) = text.strip_suffix("\r\n") else {
            return Err(ClientError::Nonsense(text.trim_end().to_owned()));
        };
        let words: Vec<&str> = text.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().map_err(|_| ClientError::Nonsense(text.to_owned()));
        Ok(match words.as_slice() {
            ["INSERTED", id] => Reply::Inserted(number(id)?),
            ["USING", _] => Reply::Using,
            ["WATCHING", _] => Reply::Watching,
            ["RESERVED", id, bytes] => {
                let id = number(id)?;
                let bytes = usize::try_from(number(bytes)?).unwrap_or(usize::MAX);
                if bytes > BODY_BYTES_MAX {
                    return Err(ClientError::Nonsense(text.to_owned()));
                }
                let mut body = vec![0; bytes + 2];
                self.stream.read_exact(&mut body)?;
                if body.split_off(bytes) != b"\r\n" {
                    return Err(ClientError::Nonsense("a body without its end".to_owned()));
                }
                Reply::Reserved { id, body }
            }
            ["DELETED"] => Reply::Deleted,
            ["NOT_FOUND"] => Reply::NotFound,
            ["TIMED_OUT"] => Reply::TimedOut,
            ["DEADLINE_SOON"] => Reply::DeadlineSoon,
            _ => Reply::Other(text.to_owned()),
        })
    }
}

impl Client {
    /// # Errors
    /// If no descriptor is free.
    pub fn scissors(&self) -> io::Result<Scissors> {
        let stream = match self.receiver.stream.get_ref() {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        };
        Ok(Scissors { stream })
    }

    /// Sends one command without a body and reads its reply.
    ///
    /// # Errors
    /// If the connection ends or the answer is no reply.
    pub fn call(&mut self, line: &str) -> Result<Reply, ClientError> {
        self.sender.command(line)?;
        self.sender.flush()?;
        self.receiver.reply()
    }

    /// Puts one job and reads the reply.
    ///
    /// # Errors
    /// If the connection ends (the job may then be in the queue or not) or the answer is no reply.
    pub fn put(&mut self, priority: u32, delay_s: u32, ttr_s: u32, body: &[u8]) -> Result<Reply, ClientError> {
        self.sender.put(priority, delay_s, ttr_s, body)?;
        self.sender.flush()?;
        self.receiver.reply()
    }
}

impl Stream {
    /// That the other side has ended it before is no news.
    fn shut_down(&self, how: Shutdown) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_of_connections_keeps_nobody_waiting_for_longer_than_was_asked() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a descriptor is free");
        listener.bind(&SockAddr::unix(&path).expect("a short path")).expect("nobody has it");
        listener.listen(0).expect("it is bound");
        let address = Address::parse(&format!("unix:{}", path.display())).expect("well-formed");
        let try_one = || connect(&address, Duration::from_millis(50), Duration::from_millis(50));
        // Nobody accepts: the first ones are queued.
        let waiting: Vec<_> = (0..3).map(|_| try_one()).collect();
        assert!(waiting[0].is_ok(), "{waiting:?}");
        assert!(matches!(waiting[2], Err(ClientError::Connect { .. })), "{waiting:?}");
    }

    /// A server that reads a command, says this, and hangs up.
    fn server(says: &'static str) -> Client {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = Address::parse(&listener.local_addr().expect("it is bound").to_string()).expect("well-formed");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(says.as_bytes());
        });
        connect(&address, Duration::from_secs(5), Duration::from_secs(20)).expect("it listens")
    }

    #[test]
    fn a_port_for_something_else_is_told_apart_from_a_server_that_goes() {
        assert!(matches!(server("HTTP/1.1 400 Bad Request\r\n\r\n").call("use a"), Err(ClientError::Http)));
        assert!(matches!(server("").call("use a"), Err(ClientError::ClosedAtOnce)));
        let mut client = server("USING a\r\n");
        assert!(matches!(client.call("use a"), Ok(Reply::Using)));
        assert!(matches!(client.receiver.reply(), Err(ClientError::Closed)));
    }

    #[test]
    fn a_server_that_says_nothing_is_late() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = Address::parse(&listener.local_addr().expect("it is bound").to_string()).expect("well-formed");
        let mut client = connect(&address, Duration::from_secs(5), Duration::from_millis(20)).expect("it listens");
        assert!(matches!(client.call("stats"), Err(ClientError::Late)));
    }
}
