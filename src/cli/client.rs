//! A small blocking client of the beanstalkd protocol, for the commands of this program that talk to a server. The
//! two directions are apart, so that puts can be sent while earlier ones are still unanswered.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

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
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the server answered `{0}`, which makes no sense here")]
    Nonsense(String),
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
}

/// Both halves, for a command and its reply at a time.
#[derive(Debug)]
pub struct Client {
    pub sender: Sender,
    pub receiver: Receiver,
}

/// Opens a connection. The timeouts bound the connecting and each read.
///
/// # Errors
/// [`ClientError::Connect`], with the reason of the last address that was tried.
pub fn connect(
    address: &Address,
    connect_timeout: Duration,
    read_timeout: Option<Duration>,
) -> Result<Client, ClientError> {
    let open = || -> io::Result<(Stream, Stream)> {
        if let Some(path) = address.as_str().strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(read_timeout)?;
            return Ok((Stream::Unix(stream.try_clone()?), Stream::Unix(stream)));
        }
        let mut refusal = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for socket in address.as_str().to_socket_addrs()? {
            match TcpStream::connect_timeout(&socket, connect_timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(read_timeout)?;
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
        receiver: Receiver { stream: BufReader::with_capacity(64 << 10, reading) },
    })
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
        let _ = match self.stream.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Receiver {
    /// Reads one reply.
    ///
    /// # Errors
    /// If the connection ends or the bytes are no reply.
    pub fn reply(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::with_capacity(64);
        let read = self.stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Err(ClientError::Closed);
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
