//! The byte format of commands: what an entry's payload holds, end to end. A batch that decodes is valid in
//! form; nothing here may panic on bytes, or look at a byte before its length was proven.
//!
//! ```text
//!   0        1         2        3      4        8        16       24     32
//!   | kind   | version | origin | node | length | number | boot   | seq  | fields of the kind ... |
//!                                        `- of the whole command, header included
//!   Enqueue                 class, body hash (16), tube, body (the rest)
//!   Reserve                 tube list (the rest)
//!   ReserveJob, Delete      job (8), then nothing, or class, tube
//!   Unreserve               job (8), epoch (8)
//!   Release                 job (8), priority (4), delay (4)
//!   Bury                    job (8), priority (4), zero (4)
//!   Touch, KickJob          job (8)
//!   Kick                    bound (8), tube (the rest)
//!   Pause                   duration (4), referenced (1), zero (3), tube (the rest)
//!   NodeBoot                boot (8), node (1), zero (7)
//!   TubeDrop                tube (the rest)
//!   NodeWentBack            incarnation (16), node (1), zero (7)
//!   class                   priority (4), ttr (4), delay (4), length of the tube's name (1), zero (3)
//! ```
//!
//! Little endian. A command has one encoding only: what is unused is zero, and checked to be. A new kind, or a
//! new version of one, is an error to a program that does not know it: it must stop, not guess.

mod decode;
mod encode;

use xxhash_rust::xxh3::xxh3_128_with_seed;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::{Class, Command, Numbered};
use crate::types::BodyHash;

pub use super::tube_name::{TUBE_NAME_BYTES_MAX, encode_tubes, tube_name_byte_is_legal, tube_name_is_legal};
pub use encode::encode;

/// Seeds the hash of bodies, so that it is no other hash of the same bytes.
const BODY_HASH_SEED: u64 = u64::from_le_bytes(*b"beaverBD");

const VERSION: u8 = 1;

/// The identity of a job's body.
#[must_use]
pub fn body_hash(body: &[u8]) -> BodyHash {
    BodyHash(xxh3_128_with_seed(body, BODY_HASH_SEED))
}

/// The class and the body of an ENQ, if these bytes are exactly one, with the body that it names.
#[must_use]
pub fn whole_enqueue(bytes: &[u8]) -> Option<(Class<'_>, &[u8])> {
    let located = Commands::new(bytes).next()?.ok()?;
    match located.numbered.command {
        Command::Enqueue { class, body_hash: hash, body }
            if located.length == bytes.len() && body_hash(body) == hash =>
        {
            Some((class, body))
        }
        _ => None,
    }
}

/// Why bytes are not a batch of commands, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("command at byte {offset} of its batch: {fault}")]
pub struct CodecError {
    /// Where the command begins, from the start of the batch.
    pub offset: usize,
    pub fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{present} bytes are left, its header needs {HEADER_BYTES}")]
    HeaderCut { present: usize },
    #[error("it states a length of {stated} bytes, {present} are left")]
    LengthImpossible { stated: usize, present: usize },
    #[error("unknown kind {kind}: written by a newer version of the program?")]
    UnknownKind { kind: u8 },
    #[error("kind {kind} has unknown version {version}: written by a newer version of the program?")]
    UnknownVersion { kind: u8, version: u8 },
    #[error("its origin is none that this kind can have")]
    WrongOrigin,
    #[error("its fields do not fill its length exactly")]
    WrongLength,
    #[error("bytes that have no meaning are not zero")]
    UnusedNotZero,
    #[error("a tube name has no or more than {TUBE_NAME_BYTES_MAX} bytes")]
    TubeName,
}

/// One command and where it lies in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located<'a> {
    pub numbered: Numbered<'a>,
    /// Where the command begins, and how long it is, in bytes of the batch.
    pub offset: usize,
    pub length: usize,
    /// Where the body of an ENQ begins, in bytes of the batch.
    pub body_offset: Option<usize>,
}

/// The commands of a batch, in order. Ends behind the first error.
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    batch: &'a [u8],
    /// The start of the next command; the batch's length at the end, or behind an error.
    offset: usize,
}

impl<'a> Commands<'a> {
    #[must_use]
    pub fn new(batch: &'a [u8]) -> Commands<'a> {
        Commands { batch, offset: 0 }
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Located<'a>, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.batch.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let offset = self.offset;
        match decode::decode(rest) {
            Ok((numbered, length)) => {
                self.offset += length;
                let body_offset = match numbered.command {
                    Command::Enqueue { body, .. } => Some(self.offset - body.len()),
                    _ => None,
                };
                Some(Ok(Located { numbered, offset, length, body_offset }))
            }
            Err(fault) => {
                self.offset = self.batch.len();
                Some(Err(CodecError { offset, fault }))
            }
        }
    }
}

const SYSTEM: u8 = 0;
const SESSION: u8 = 1;

macro_rules! kinds {
    ($($name:ident = $value:literal),* $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        enum Kind { $($name = $value),* }

        impl Kind {
            fn from_byte(byte: u8) -> Option<Kind> {
                match byte { $($value => Some(Kind::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    Enqueue = 1, Reserve = 2, ReserveJob = 3, Unreserve = 4, Delete = 5, Release = 6, Bury = 7, Touch = 8, Kick = 9,
    KickJob = 10, Pause = 11, SessionOpen = 12, SessionClosed = 13, NodeBoot = 14, Tick = 15, TubeDrop = 16,
    NodeWentBack = 17,
}

impl Kind {
    fn of(command: &Command<'_>) -> Kind {
        match command {
            Command::Enqueue { .. } => Kind::Enqueue,
            Command::Reserve { .. } => Kind::Reserve,
            Command::ReserveJob { .. } => Kind::ReserveJob,
            Command::Unreserve { .. } => Kind::Unreserve,
            Command::Delete { .. } => Kind::Delete,
            Command::Release { .. } => Kind::Release,
            Command::Bury { .. } => Kind::Bury,
            Command::Touch { .. } => Kind::Touch,
            Command::Kick { .. } => Kind::Kick,
            Command::KickJob { .. } => Kind::KickJob,
            Command::Pause { .. } => Kind::Pause,
            Command::SessionOpen => Kind::SessionOpen,
            Command::SessionClosed => Kind::SessionClosed,
            Command::NodeBoot { .. } => Kind::NodeBoot,
            Command::NodeWentBack { .. } => Kind::NodeWentBack,
            Command::Tick => Kind::Tick,
            Command::TubeDrop { .. } => Kind::TubeDrop,
        }
    }

    /// The origin that commands of this kind have: they happen once by their content, or by a session's number.
    fn origin(self) -> u8 {
        match self {
            Kind::NodeBoot | Kind::NodeWentBack | Kind::Tick | Kind::TubeDrop => SYSTEM,
            _ => SESSION,
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    kind: u8,
    version: u8,
    origin: u8,
    node: u8,
    length: U32,
    number: U64,
    boot: U64,
    seq: U64,
}

const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 32);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ClassFields {
    priority: U32,
    ttr_s: U32,
    delay_s: U32,
    tube_bytes: u8,
    zero: [u8; 3],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct JobPriorityDelay {
    job: U64,
    priority: U32,
    delay_s: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PauseFields {
    duration_s: U32,
    referenced: u8,
    zero: [u8; 3],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NodeBootFields {
    boot: U64,
    node: u8,
    zero: [u8; 7],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NodeWentBackFields {
    incarnation: U128,
    node: u8,
    zero: [u8; 7],
}

#[cfg(test)]
mod tests;
