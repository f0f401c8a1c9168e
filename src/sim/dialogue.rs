//! The beanstalkd protocol as a client knows it, written from the protocol's text and not from the server's parser.

use std::fmt::Write as _;
use std::io;

use bytes::Bytes;

use super::wire::{SimReader, SimWriter};
use crate::io::{Reader, Writer};

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Use(&'static str),
    Watch(&'static str),
    Put {
        priority: u32,
        delay_s: u32,
        ttr_s: u32,
        body: Bytes,
    },
    /// None waits for as long as it takes.
    Reserve {
        timeout_s: Option<u32>,
    },
    ReserveJob(u64),
    Delete(u64),
    Release {
        id: u64,
        priority: u32,
        delay_s: u32,
    },
    Bury {
        id: u64,
        priority: u32,
    },
    Touch(u64),
    Kick(u32),
    KickJob(u64),
    Pause {
        tube: &'static str,
        duration_s: u32,
    },
    Peek(u64),
    StatsJob(u64),
    StatsTube(&'static str),
    Stats,
    ListTubes,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Inserted(u64),
    Reserved {
        id: u64,
        body: Bytes,
    },
    Found {
        id: u64,
        body: Bytes,
    },
    Deleted,
    Released,
    Buried,
    Touched,
    Kicked(u64),
    JobKicked,
    Paused,
    Using(String),
    Watching(u64),
    /// YAML.
    Okay(Bytes),
    NotFound,
    TimedOut,
    DeadlineSoon,
    OutOfMemory,
    Draining,
}

impl Asked {
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut line = String::new();
        let written = match self {
            Asked::Use(tube) => write!(line, "use {tube}"),
            Asked::Watch(tube) => write!(line, "watch {tube}"),
            Asked::Put { priority, delay_s, ttr_s, body } => {
                write!(line, "put {priority} {delay_s} {ttr_s} {}", body.len())
            }
            Asked::Reserve { timeout_s: None } => write!(line, "reserve"),
            Asked::Reserve { timeout_s: Some(timeout_s) } => write!(line, "reserve-with-timeout {timeout_s}"),
            Asked::ReserveJob(id) => write!(line, "reserve-job {id}"),
            Asked::Delete(id) => write!(line, "delete {id}"),
            Asked::Release { id, priority, delay_s } => write!(line, "release {id} {priority} {delay_s}"),
            Asked::Bury { id, priority } => write!(line, "bury {id} {priority}"),
            Asked::Touch(id) => write!(line, "touch {id}"),
            Asked::Kick(bound) => write!(line, "kick {bound}"),
            Asked::KickJob(id) => write!(line, "kick-job {id}"),
            Asked::Pause { tube, duration_s } => write!(line, "pause-tube {tube} {duration_s}"),
            Asked::Peek(id) => write!(line, "peek {id}"),
            Asked::StatsJob(id) => write!(line, "stats-job {id}"),
            Asked::StatsTube(tube) => write!(line, "stats-tube {tube}"),
            Asked::Stats => write!(line, "stats"),
            Asked::ListTubes => write!(line, "list-tubes"),
        };
        written.expect("a string takes everything");
        line.push_str("\r\n");
        let mut bytes = line.into_bytes();
        if let Asked::Put { body, .. } = self {
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(b"\r\n");
        }
        Bytes::from(bytes)
    }

    /// Reads the answer to this out of a line. None where it is no answer to this; a length where a body follows.
    fn read_line(&self, line: &str) -> Option<Line> {
        let mut words = line.split(' ');
        let name = words.next()?;
        let numbers: Vec<u64> = words.clone().map_while(|word| word.parse().ok()).collect();
        let said = match (name, numbers.as_slice(), self) {
            ("INSERTED", [id], Asked::Put { .. }) => Said::Inserted(*id),
            ("RESERVED", [id, bytes], Asked::Reserve { .. } | Asked::ReserveJob(_)) => {
                return Some(Line::Body { bytes: *bytes, id: Some(*id), reserved: true });
            }
            ("FOUND", [id, bytes], Asked::Peek(_)) => {
                return Some(Line::Body { bytes: *bytes, id: Some(*id), reserved: false });
            }
            ("OK", [bytes], Asked::StatsJob(_) | Asked::StatsTube(_) | Asked::Stats | Asked::ListTubes) => {
                return Some(Line::Body { bytes: *bytes, id: None, reserved: false });
            }
            ("DELETED", [], Asked::Delete(_)) => Said::Deleted,
            ("RELEASED", [], Asked::Release { .. }) => Said::Released,
            ("BURIED", [], Asked::Bury { .. }) => Said::Buried,
            ("TOUCHED", [], Asked::Touch(_)) => Said::Touched,
            ("KICKED", [count], Asked::Kick(_)) => Said::Kicked(*count),
            ("KICKED", [], Asked::KickJob(_)) => Said::JobKicked,
            ("PAUSED", [], Asked::Pause { .. }) => Said::Paused,
            ("USING", [], Asked::Use(_)) => Said::Using(words.next()?.to_owned()),
            ("WATCHING", [count], Asked::Watch(_)) => Said::Watching(*count),
            ("TIMED_OUT", [], Asked::Reserve { timeout_s: Some(_) }) => Said::TimedOut,
            ("DEADLINE_SOON", [], Asked::Reserve { .. }) => Said::DeadlineSoon,
            ("OUT_OF_MEMORY", [], Asked::Put { .. }) => Said::OutOfMemory,
            ("DRAINING", [], Asked::Put { .. }) => Said::Draining,
            ("NOT_FOUND", [], _) if self.may_find_nothing() => Said::NotFound,
            _ => return None,
        };
        Some(Line::Said(said))
    }

    fn may_find_nothing(&self) -> bool {
        !matches!(
            self,
            Asked::Use(_)
                | Asked::Watch(_)
                | Asked::Put { .. }
                | Asked::Reserve { .. }
                | Asked::Kick(_)
                | Asked::Stats
                | Asked::ListTubes
        )
    }
}

enum Line {
    Said(Said),
    Body { bytes: u64, id: Option<u64>, reserved: bool },
}

/// Why a dialogue ended.
#[derive(Debug)]
pub enum Ended {
    /// The stream broke or was closed: what was asked last is unknown.
    Lost(io::Error),
    /// The server said what no server may say here.
    Nonsense { asked: Asked, line: String },
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Lost(error)
    }
}

/// One connection of a client.
pub struct Dialogue {
    reader: SimReader,
    writer: SimWriter,
    received: Vec<u8>,
}

impl Dialogue {
    #[must_use]
    pub fn new((reader, writer): (SimReader, SimWriter)) -> Dialogue {
        Dialogue { reader, writer, received: Vec::new() }
    }

    /// Ends the dialogue from another task.
    #[must_use]
    pub fn closer(&self) -> Box<dyn Fn()> {
        self.writer.closer()
    }

    /// Says all of it without waiting for an answer.
    pub async fn ask(&mut self, asked: &[Asked]) -> Result<(), Ended> {
        Ok(self.writer.write(asked.iter().map(Asked::to_bytes).collect()).await?)
    }

    /// Waits for the answer to the first thing asked that has none yet.
    pub async fn hear(&mut self, asked: &Asked) -> Result<Said, Ended> {
        let line = self.read_line().await?;
        let nonsense = || Ended::Nonsense { asked: asked.clone(), line: line.clone() };
        match asked.read_line(&line).ok_or_else(nonsense)? {
            Line::Said(said) => Ok(said),
            Line::Body { bytes, id, reserved } => {
                let body = self.read_body(usize::try_from(bytes).map_err(|_| nonsense())?).await?;
                let body = body.strip_suffix(b"\r\n").map(Bytes::copy_from_slice).ok_or_else(nonsense)?;
                Ok(match (id, reserved) {
                    (Some(id), true) => Said::Reserved { id, body },
                    (Some(id), false) => Said::Found { id, body },
                    (None, _) => Said::Okay(body),
                })
            }
        }
    }

    async fn read_line(&mut self) -> Result<String, Ended> {
        loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.read_more().await?;
        }
    }

    /// So many bytes and the line end behind them.
    async fn read_body(&mut self, bytes: usize) -> Result<Vec<u8>, Ended> {
        while self.received.len() < bytes + 2 {
            self.read_more().await?;
        }
        Ok(self.received.drain(..bytes + 2).collect())
    }

    async fn read_more(&mut self) -> Result<(), Ended> {
        let (read, received) = self.reader.read(std::mem::take(&mut self.received), 64 << 10).await;
        self.received = received;
        match read? {
            0 => Err(Ended::Lost(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}
