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
//!   class                   priority (4), ttr (4), delay (4), length of the tube's name (1), zero (3)
//! ```
//!
//! Little endian. A command has one encoding only: what is unused is zero, and checked to be. A new kind, or a
//! new version of one, is an error to a program that does not know it: it must stop, not guess.

use xxhash_rust::xxh3::xxh3_128_with_seed;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::{Class, Command, Numbered, Origin, TubeList};
use crate::types::{BodyHash, BootEpoch, JobId, NodeId, SessionId};

/// Seeds the hash of bodies, so that it is no other hash of the same bytes.
const BODY_HASH_SEED: u64 = u64::from_le_bytes(*b"beaverBD");

const VERSION: u8 = 1;

/// The longest tube name, in bytes.
pub const TUBE_NAME_BYTES_MAX: usize = 200;

/// The identity of a job's body.
#[must_use]
pub fn body_hash(body: &[u8]) -> BodyHash {
    BodyHash(xxh3_128_with_seed(body, BODY_HASH_SEED))
}

/// Whether clients may call a tube so: 1 to 200 bytes of letters, digits and `-+/;.$_()`, no hyphen in front.
#[must_use]
pub fn tube_name_is_legal(name: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-+/;.$_()".contains(byte);
    tube_name_has_legal_length(name) && name[0] != b'-' && name.iter().all(legal)
}

fn tube_name_has_legal_length(name: &[u8]) -> bool {
    (1..=TUBE_NAME_BYTES_MAX).contains(&name.len())
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
        match decode(rest) {
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
            Command::Tick => Kind::Tick,
            Command::TubeDrop { .. } => Kind::TubeDrop,
        }
    }

    /// The origin that commands of this kind have: they happen once by their content, or by a session's number.
    fn origin(self) -> u8 {
        match self {
            Kind::NodeBoot | Kind::Tick | Kind::TubeDrop => SYSTEM,
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

/// Appends one command to `out`.
///
/// # Panics
/// If the command's origin is none that its kind can have, a SESSION_OPEN is not number 0, a tube name is empty or too long, or a body does not
/// fit a length of 32 bits: front doors refuse these.
pub fn encode(numbered: &Numbered<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let kind = Kind::of(&numbered.command);
    let (origin, session, seq) = match numbered.origin {
        Origin::System => (SYSTEM, SessionId { node: NodeId(0), boot: BootEpoch(0), number: 0 }, 0),
        Origin::Session { session, seq } => (SESSION, session, seq),
    };
    assert_eq!(origin, kind.origin(), "{kind:?} cannot come from {:?}", numbered.origin);
    assert!(kind != Kind::SessionOpen || seq == 0, "opening is a session's number 0");
    let mut header = Header {
        kind: kind as u8,
        version: VERSION,
        origin,
        node: session.node.0,
        length: U32::ZERO,
        number: session.number.into(),
        boot: session.boot.0.into(),
        seq: seq.into(),
    };
    out.extend_from_slice(header.as_bytes());
    encode_fields(&numbered.command, out);
    let length = u32::try_from(out.len() - start).expect("a command is shorter than 4 GiB");
    header.length = length.into();
    out[start..start + HEADER_BYTES].copy_from_slice(header.as_bytes());
}

fn encode_fields(command: &Command<'_>, out: &mut Vec<u8>) {
    let job_bytes = |job: JobId| job.0.to_le_bytes();
    match *command {
        Command::Enqueue { class, body_hash, body } => {
            out.extend_from_slice(class_fields(&class).as_bytes());
            out.extend_from_slice(&body_hash.0.to_le_bytes());
            out.extend_from_slice(class.tube);
            out.extend_from_slice(body);
        }
        Command::Reserve { tubes } => out.extend_from_slice(tubes.encoded),
        Command::ReserveJob { job, class } | Command::Delete { job, class } => {
            out.extend_from_slice(&job_bytes(job));
            if let Some(class) = class {
                out.extend_from_slice(class_fields(&class).as_bytes());
                out.extend_from_slice(class.tube);
            }
        }
        Command::Unreserve { job, epoch } => {
            out.extend_from_slice(&job_bytes(job));
            out.extend_from_slice(&epoch.to_le_bytes());
        }
        Command::Release { job, priority, delay_s } => {
            let fields = JobPriorityDelay { job: job.0.into(), priority: priority.into(), delay_s: delay_s.into() };
            out.extend_from_slice(fields.as_bytes());
        }
        Command::Bury { job, priority } => {
            let fields = JobPriorityDelay { job: job.0.into(), priority: priority.into(), delay_s: U32::ZERO };
            out.extend_from_slice(fields.as_bytes());
        }
        Command::Touch { job } | Command::KickJob { job } => out.extend_from_slice(&job_bytes(job)),
        Command::Kick { tube, bound } => {
            out.extend_from_slice(&bound.to_le_bytes());
            out.extend_from_slice(checked_tube(tube));
        }
        Command::Pause { tube, duration_s, referenced } => {
            let fields = PauseFields { duration_s: duration_s.into(), referenced: referenced.into(), zero: [0; 3] };
            out.extend_from_slice(fields.as_bytes());
            out.extend_from_slice(checked_tube(tube));
        }
        Command::NodeBoot { node, boot } => {
            let fields = NodeBootFields { boot: boot.0.into(), node: node.0, zero: [0; 7] };
            out.extend_from_slice(fields.as_bytes());
        }
        Command::TubeDrop { tube } => out.extend_from_slice(checked_tube(tube)),
        Command::SessionOpen | Command::SessionClosed | Command::Tick => {}
    }
}

fn class_fields(class: &Class<'_>) -> ClassFields {
    ClassFields {
        priority: class.priority.into(),
        ttr_s: class.ttr_s.into(),
        delay_s: class.delay_s.into(),
        tube_bytes: u8::try_from(checked_tube(class.tube).len()).expect("at most 200"),
        zero: [0; 3],
    }
}

fn checked_tube(tube: &[u8]) -> &[u8] {
    assert!(tube_name_has_legal_length(tube), "a tube name has 1 to 200 bytes");
    tube
}

/// Decodes the command at the start of `bytes`; with it comes its length.
fn decode(bytes: &[u8]) -> Result<(Numbered<'_>, usize), Fault> {
    let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Fault::HeaderCut { present: bytes.len() })?;
    let kind = Kind::from_byte(header.kind).ok_or(Fault::UnknownKind { kind: header.kind })?;
    if header.version != VERSION {
        return Err(Fault::UnknownVersion { kind: header.kind, version: header.version });
    }
    let length = header.length.get() as usize;
    let fields =
        bytes.get(HEADER_BYTES..length).ok_or(Fault::LengthImpossible { stated: length, present: bytes.len() })?;
    if header.origin != kind.origin() {
        return Err(Fault::WrongOrigin);
    }
    let session =
        SessionId { node: NodeId(header.node), boot: BootEpoch(header.boot.get()), number: header.number.get() };
    let seq = header.seq.get();
    let origin = if header.origin == SESSION {
        Origin::Session { session, seq }
    } else if (header.node, header.boot, header.number, header.seq) == (0, U64::ZERO, U64::ZERO, U64::ZERO) {
        Origin::System
    } else {
        return Err(Fault::UnusedNotZero);
    };
    if kind == Kind::SessionOpen && seq != 0 {
        return Err(Fault::UnusedNotZero);
    }
    let command = decode_fields(kind, fields)?;
    Ok((Numbered { origin, command }, length))
}

fn decode_fields(kind: Kind, fields: &[u8]) -> Result<Command<'_>, Fault> {
    Ok(match kind {
        Kind::Enqueue => {
            let (class, rest) = prefix::<ClassFields>(fields)?;
            let (hash, rest) = prefix::<U128>(rest)?;
            let (class, body) = decode_class(class, rest)?;
            Command::Enqueue { class, body_hash: BodyHash(hash.get()), body }
        }
        Kind::Reserve => Command::Reserve { tubes: TubeList::decode(fields)? },
        Kind::ReserveJob => {
            let (job, class) = decode_job_and_hint(fields)?;
            Command::ReserveJob { job, class }
        }
        Kind::Delete => {
            let (job, class) = decode_job_and_hint(fields)?;
            Command::Delete { job, class }
        }
        Kind::Unreserve => {
            let [job, epoch] = exactly::<[U64; 2]>(fields)?;
            Command::Unreserve { job: JobId(job.get()), epoch: epoch.get() }
        }
        Kind::Release => {
            let fields = exactly::<JobPriorityDelay>(fields)?;
            Command::Release {
                job: JobId(fields.job.get()),
                priority: fields.priority.get(),
                delay_s: fields.delay_s.get(),
            }
        }
        Kind::Bury => {
            let fields = exactly::<JobPriorityDelay>(fields)?;
            must_be_zero(fields.delay_s.as_bytes())?;
            Command::Bury { job: JobId(fields.job.get()), priority: fields.priority.get() }
        }
        Kind::Touch => Command::Touch { job: JobId(exactly::<U64>(fields)?.get()) },
        Kind::KickJob => Command::KickJob { job: JobId(exactly::<U64>(fields)?.get()) },
        Kind::Kick => {
            let (bound, tube) = prefix::<U64>(fields)?;
            Command::Kick { tube: decode_tube(tube)?, bound: bound.get() }
        }
        Kind::Pause => {
            let (fields, tube) = prefix::<PauseFields>(fields)?;
            must_be_zero(&fields.zero)?;
            must_be_zero(&[fields.referenced & !1])?;
            let referenced = fields.referenced == 1;
            Command::Pause { tube: decode_tube(tube)?, duration_s: fields.duration_s.get(), referenced }
        }
        Kind::NodeBoot => {
            let fields = exactly::<NodeBootFields>(fields)?;
            must_be_zero(&fields.zero)?;
            Command::NodeBoot { node: NodeId(fields.node), boot: BootEpoch(fields.boot.get()) }
        }
        Kind::TubeDrop => Command::TubeDrop { tube: decode_tube(fields)? },
        Kind::SessionOpen => exactly::<[u8; 0]>(fields).map(|_| Command::SessionOpen)?,
        Kind::SessionClosed => exactly::<[u8; 0]>(fields).map(|_| Command::SessionClosed)?,
        Kind::Tick => exactly::<[u8; 0]>(fields).map(|_| Command::Tick)?,
    })
}

fn decode_job_and_hint(fields: &[u8]) -> Result<(JobId, Option<Class<'_>>), Fault> {
    let (job, rest) = prefix::<U64>(fields)?;
    let job = JobId(job.get());
    if rest.is_empty() {
        return Ok((job, None));
    }
    let (class, rest) = prefix::<ClassFields>(rest)?;
    let (class, rest) = decode_class(class, rest)?;
    if !rest.is_empty() {
        return Err(Fault::WrongLength);
    }
    Ok((job, Some(class)))
}

/// Takes the tube's name off `rest`; gives the class and what lies behind the name.
fn decode_class<'a>(fields: &ClassFields, rest: &'a [u8]) -> Result<(Class<'a>, &'a [u8]), Fault> {
    must_be_zero(&fields.zero)?;
    let (tube, rest) = rest.split_at_checked(fields.tube_bytes.into()).ok_or(Fault::WrongLength)?;
    let class = Class {
        tube: decode_tube(tube)?,
        priority: fields.priority.get(),
        ttr_s: fields.ttr_s.get(),
        delay_s: fields.delay_s.get(),
    };
    Ok((class, rest))
}

fn decode_tube(name: &[u8]) -> Result<&[u8], Fault> {
    tube_name_has_legal_length(name).then_some(name).ok_or(Fault::TubeName)
}

fn prefix<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8]) -> Result<(&T, &[u8]), Fault> {
    T::ref_from_prefix(bytes).map_err(|_| Fault::WrongLength)
}

fn exactly<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8]) -> Result<&T, Fault> {
    T::ref_from_bytes(bytes).map_err(|_| Fault::WrongLength)
}

fn must_be_zero(bytes: &[u8]) -> Result<(), Fault> {
    bytes.iter().all(|&byte| byte == 0).then_some(()).ok_or(Fault::UnusedNotZero)
}

/// Tube names as a [`TubeList`] holds them, in the order given.
///
/// # Panics
/// If a name is empty or longer than 200 bytes.
#[must_use]
pub fn encode_tubes<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for name in names {
        encoded.push(u8::try_from(checked_tube(name).len()).expect("at most 200"));
        encoded.extend_from_slice(name);
    }
    encoded
}

impl<'a> TubeList<'a> {
    /// Proves the lengths of an encoded list.
    pub fn decode(encoded: &'a [u8]) -> Result<TubeList<'a>, Fault> {
        let mut rest = encoded;
        while let Some((&length, behind)) = rest.split_first() {
            let (name, behind) = behind.split_at_checked(length.into()).ok_or(Fault::WrongLength)?;
            decode_tube(name)?;
            rest = behind;
        }
        Ok(TubeList { encoded })
    }

    /// The names, in order. Ends early where the list was not proven and its lengths are wrong.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.encoded;
        std::iter::from_fn(move || {
            let (&length, behind) = rest.split_first()?;
            let (name, behind) = behind.split_at_checked(length.into())?;
            rest = behind;
            Some(name)
        })
    }
}

#[cfg(test)]
mod tests;
