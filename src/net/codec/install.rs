//! What a node pulls that is behind the log: parts of a snapshot, and jobs. What decodes keeps to the limits of one message; whether
//! it is what was asked for, the puller looks at.

use bytes::BufMut;

use crate::net::fields::{DecodeError, Fields, PutFields};
use crate::net::frame::FrameBuilder;
use crate::net::message::{Given, GivenJob, JOBS_PER_PULL_MAX, PIECE_ALIGNMENT, PULLED_BYTES_MAX, Part, Pull, Pulled};
use crate::types::{Index, JobId, Nanos, SnapshotName};

const FILE: u8 = 1;
const JOBS: u8 = 2;
const NOTHING: u8 = 3;

const ID_BYTES: usize = size_of::<u64>();
/// Job, index, wall time, and the length of the ENQ.
const GIVEN_JOB_BYTES: usize = 3 * size_of::<u64>() + size_of::<u32>();

pub fn encode_name(name: &SnapshotName, fields: &mut Vec<u8>) {
    fields.put_position(name.position);
    fields.put_u128_le(name.hash);
    fields.put_u64_le(name.bytes);
}

pub fn decode_name(fields: &mut Fields) -> Result<SnapshotName, DecodeError> {
    Ok(SnapshotName { position: fields.position()?, hash: fields.u128()?, bytes: fields.u64()? })
}

pub fn encode_pull(pull: &Pull, fields: &mut Vec<u8>) {
    encode_name(&pull.snapshot, fields);
    match &pull.part {
        Part::File { offset } => {
            fields.put_u8(FILE);
            fields.put_u64_le(*offset);
        }
        Part::Jobs(jobs) => {
            fields.put_u8(JOBS);
            fields.put_length(jobs.len());
            jobs.iter().for_each(|job| fields.put_u64_le(job.0));
        }
    }
}

pub fn decode_pull(fields: &mut Fields) -> Result<Pull, DecodeError> {
    let snapshot = decode_name(fields)?;
    let part = match fields.u8()? {
        FILE => Part::File { offset: offset(fields, &snapshot)? },
        JOBS => {
            let count = job_count(fields, ID_BYTES)?;
            let mut jobs: Vec<JobId> = Vec::with_capacity(count);
            for _ in 0..count {
                jobs.push(following(fields, jobs.last().copied())?);
            }
            Part::Jobs(jobs)
        }
        other => return Err(DecodeError::Unknown { what: "part to pull", value: other.into() }),
    };
    Ok(Pull { snapshot, part })
}

fn offset(fields: &mut Fields, snapshot: &SnapshotName) -> Result<u64, DecodeError> {
    match fields.u64()? {
        offset if offset.is_multiple_of(PIECE_ALIGNMENT) && offset < snapshot.bytes => Ok(offset),
        value => Err(DecodeError::Unknown { what: "offset in a snapshot", value }),
    }
}

fn job_count(fields: &mut Fields, bytes_each: usize) -> Result<usize, DecodeError> {
    match fields.count("jobs", bytes_each)? {
        count @ 1..=JOBS_PER_PULL_MAX => Ok(count),
        count => Err(DecodeError::Unknown { what: "count of jobs", value: count as u64 }),
    }
}

fn following(fields: &mut Fields, before: Option<JobId>) -> Result<JobId, DecodeError> {
    match JobId(fields.u64()?) {
        job if job.0 > 0 && before.is_none_or(|before| before < job) => Ok(job),
        job => Err(DecodeError::Unknown { what: "job behind the one before", value: job.0 }),
    }
}

pub fn encode_pulled(pulled: &Pulled, frame: &mut FrameBuilder) {
    let fields = frame.fields();
    encode_name(&pulled.snapshot, fields);
    match &pulled.what {
        Given::Piece { offset, bytes } => {
            fields.put_u8(FILE);
            fields.put_u64_le(*offset);
            fields.put_length(bytes.len());
            frame.attach(bytes.clone());
        }
        Given::Jobs(jobs) => {
            fields.put_u8(JOBS);
            fields.put_length(jobs.len());
            for given in jobs {
                fields.put_u64_le(given.job.0);
                fields.put_u64_le(given.index.0);
                fields.put_u64_le(given.wall.0);
                fields.put_length(given.enqueue.len());
            }
            jobs.iter().for_each(|given| frame.attach(given.enqueue.clone()));
        }
        Given::Nothing => fields.put_u8(NOTHING),
    }
}

pub fn decode_pulled(fields: &mut Fields) -> Result<Pulled, DecodeError> {
    let snapshot = decode_name(fields)?;
    let what = match fields.u8()? {
        FILE => decode_piece(fields, &snapshot)?,
        JOBS => Given::Jobs(decode_jobs(fields)?),
        NOTHING => Given::Nothing,
        other => return Err(DecodeError::Unknown { what: "answer to a pull", value: other.into() }),
    };
    Ok(Pulled { snapshot, what })
}

fn decode_piece(fields: &mut Fields, snapshot: &SnapshotName) -> Result<Given, DecodeError> {
    let offset = offset(fields, snapshot)?;
    let length = u64::from(fields.u32()?);
    let end = offset.checked_add(length).filter(|end| *end <= snapshot.bytes && length <= PULLED_BYTES_MAX);
    let whole = end.is_some_and(|end| end == snapshot.bytes || end.is_multiple_of(PIECE_ALIGNMENT));
    if length == 0 || !whole {
        return Err(DecodeError::Unknown { what: "length of a piece of a snapshot", value: length });
    }
    Ok(Given::Piece { offset, bytes: fields.bytes(length as usize)? })
}

fn decode_jobs(fields: &mut Fields) -> Result<Vec<GivenJob>, DecodeError> {
    let count = job_count(fields, GIVEN_JOB_BYTES)?;
    let mut heads = Fields::new(fields.bytes(count * GIVEN_JOB_BYTES)?);
    let mut jobs: Vec<GivenJob> = Vec::with_capacity(count);
    for _ in 0..count {
        let job = following(&mut heads, jobs.last().map(|given| given.job))?;
        let (index, wall) = (heads.index()?, Nanos(heads.u64()?));
        if index == Index::ZERO || jobs.last().is_some_and(|before| before.index > index) {
            return Err(DecodeError::Unknown { what: "entry of a job behind the one before", value: index.0 });
        }
        let enqueue = fields.bytes(heads.u32()? as usize)?;
        jobs.push(GivenJob { job, index, wall, enqueue });
    }
    Ok(jobs)
}
