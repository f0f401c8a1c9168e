//! Commands into bytes.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{
    ClassFields, HEADER_BYTES, Header, JobPriorityDelay, Kind, NodeBootFields, NodeWentBackFields, PauseFields,
};
use super::{SESSION, SYSTEM, VERSION};
use crate::job::command::{Class, Command, Numbered, Origin};
use crate::job::tube_name::checked_tube;
use crate::types::{BootEpoch, JobId, NodeId, SessionId};

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
        Command::NodeWentBack { node, incarnation } => {
            let fields = NodeWentBackFields { incarnation: incarnation.0.into(), node: node.0, zero: [0; 7] };
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
