//! Bytes into commands: every length is proven before what it measures is looked at.

use zerocopy::little_endian::{U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    ClassFields, Fault, HEADER_BYTES, Header, JobPriorityDelay, Kind, NodeBootFields, NodeWentBackFields, PauseFields,
};
use super::{SESSION, VERSION};
use crate::job::command::{Class, Command, Numbered, Origin, TubeList};
use crate::job::tube_name::decode_tube;
use crate::types::{BodyHash, BootEpoch, Incarnation, JobId, NodeId, SessionId};

/// Decodes the command at the start of `bytes`; with it comes its length.
pub(super) fn decode(bytes: &[u8]) -> Result<(Numbered<'_>, usize), Fault> {
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
        Kind::NodeWentBack => {
            let fields = exactly::<NodeWentBackFields>(fields)?;
            must_be_zero(&fields.zero)?;
            let incarnation = Incarnation(fields.incarnation.get());
            Command::NodeWentBack { node: NodeId(fields.node), incarnation }
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

fn prefix<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8]) -> Result<(&T, &[u8]), Fault> {
    T::ref_from_prefix(bytes).map_err(|_| Fault::WrongLength)
}

fn exactly<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8]) -> Result<&T, Fault> {
    T::ref_from_bytes(bytes).map_err(|_| Fault::WrongLength)
}

fn must_be_zero(bytes: &[u8]) -> Result<(), Fault> {
    bytes.iter().all(|&byte| byte == 0).then_some(()).ok_or(Fault::UnusedNotZero)
}
