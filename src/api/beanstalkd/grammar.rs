//! The meaning of one command line. Matching is by prefix, in a fixed order, and every oddity of the original that a
//! client can see is kept; what it must never do is keep a reference to the line, which may lie in a large buffer.

use bytes::Bytes;

use super::number::{read_like_strtoul, read_u32, read_u64};
use super::reply::Refusal;
use super::request::{Counted, Parsed, Request};
use crate::job::codec::{tube_name_byte_is_legal, tube_name_is_legal};

/// What a line asks for, and what has to be read behind it.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Whole(Parsed),
    /// A put: `bytes` of body and a CRLF follow.
    Put {
        priority: u32,
        delay_s: u32,
        ttr_s: u32,
        bytes: u32,
    },
    /// A put that is too big: its body and CRLF follow, `bytes` in all, and have to be skipped.
    PutTooBig {
        bytes: u64,
    },
}

/// Understands a line, given without its CRLF.
pub fn parse_line(line: &[u8], body_bytes_max: u32) -> Line {
    if line.contains(&0) {
        return Line::Whole(Parsed::refused(Refusal::BadFormat));
    }
    if let Some(rest) = line.strip_prefix(b"put ") {
        return parse_put(rest, body_bytes_max);
    }
    Line::Whole(parse_simple(line).unwrap_or(Parsed::refused(Refusal::BadFormat)))
}

fn parse_put(rest: &[u8], body_bytes_max: u32) -> Line {
    let numbers = || {
        let (priority, rest) = read_u32(rest)?;
        let (delay_s, rest) = read_u32(rest)?;
        let (ttr_s, rest) = read_u32(rest)?;
        let (bytes, rest) = read_u32(rest)?;
        Some((priority, delay_s, ttr_s.max(1), bytes, rest))
    };
    let Some((priority, delay_s, ttr_s, bytes, rest)) = numbers() else {
        return Line::Whole(Parsed::refused(Refusal::BadFormat));
    };
    // The size is judged before what follows it, and a put counts as one even if something does.
    if bytes > body_bytes_max {
        return Line::PutTooBig { bytes: u64::from(bytes) + 2 };
    }
    if !rest.is_empty() {
        let request = Request::Refused(Refusal::BadFormat);
        return Line::Whole(Parsed { counted: Some(Counted::Put), request });
    }
    Line::Put { priority, delay_s, ttr_s, bytes }
}

/// Every command but put; nothing stands for BAD_FORMAT. A prefix that is part of a longer one comes after it.
fn parse_simple(line: &[u8]) -> Option<Parsed> {
    let with = |counted, request| Some(Parsed { counted: Some(counted), request });
    if let Some(rest) = line.strip_prefix(b"peek ") {
        return with(Counted::Peek, Request::Peek { id: only_u64(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"peek-ready") {
        return with(Counted::PeekReady, bare(rest, Request::PeekReady)?);
    }
    if let Some(rest) = line.strip_prefix(b"peek-delayed") {
        return with(Counted::PeekDelayed, bare(rest, Request::PeekDelayed)?);
    }
    if let Some(rest) = line.strip_prefix(b"peek-buried") {
        return with(Counted::PeekBuried, bare(rest, Request::PeekBuried)?);
    }
    if let Some(rest) = line.strip_prefix(b"reserve-with-timeout ") {
        // Whatever follows the number is let pass; a number that is no int of C's is not.
        let (timeout_s, _) = read_u32(rest)?;
        i32::try_from(timeout_s).ok()?;
        return with(Counted::ReserveWithTimeout, Request::Reserve { timeout_s: Some(timeout_s) });
    }
    if let Some(rest) = line.strip_prefix(b"reserve-job ") {
        return Some(Parsed { counted: None, request: Request::ReserveJob { id: only_u64(rest)? } });
    }
    if let Some(rest) = line.strip_prefix(b"reserve") {
        return with(Counted::Reserve, bare(rest, Request::Reserve { timeout_s: None })?);
    }
    if let Some(rest) = line.strip_prefix(b"delete ") {
        return with(Counted::Delete, Request::Delete { id: only_u64(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"release ") {
        let (id, rest) = read_u64(rest)?;
        let (priority, rest) = read_u32(rest)?;
        let delay_s = only_u32(rest)?;
        return with(Counted::Release, Request::Release { id, priority, delay_s });
    }
    if let Some(rest) = line.strip_prefix(b"bury ") {
        let (id, rest) = read_u64(rest)?;
        return with(Counted::Bury, Request::Bury { id, priority: only_u32(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"kick ") {
        return with(Counted::Kick, Request::Kick { bound: read_like_strtoul(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"kick-job ") {
        return Some(Parsed { counted: None, request: Request::KickJob { id: only_u64(rest)? } });
    }
    if let Some(rest) = line.strip_prefix(b"touch ") {
        return with(Counted::Touch, Request::Touch { id: only_u64(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"stats-job ") {
        return with(Counted::StatsJob, Request::StatsJob { id: only_u64(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"stats-tube ") {
        return with(Counted::StatsTube, Request::StatsTube { tube: tube_name(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"stats") {
        return with(Counted::Stats, bare(rest, Request::Stats)?);
    }
    if let Some(rest) = line.strip_prefix(b"use ") {
        return with(Counted::Use, Request::Use { tube: tube_name(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"watch ") {
        return with(Counted::Watch, Request::Watch { tube: tube_name(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"ignore ") {
        return with(Counted::Ignore, Request::Ignore { tube: tube_name(rest)? });
    }
    if let Some(rest) = line.strip_prefix(b"list-tubes-watched") {
        return with(Counted::ListTubesWatched, bare(rest, Request::ListTubesWatched)?);
    }
    if let Some(rest) = line.strip_prefix(b"list-tube-used") {
        return with(Counted::ListTubeUsed, bare(rest, Request::ListTubeUsed)?);
    }
    if let Some(rest) = line.strip_prefix(b"list-tubes") {
        return with(Counted::ListTubes, bare(rest, Request::ListTubes)?);
    }
    if line.starts_with(b"quit") {
        return Some(Parsed { counted: None, request: Request::Quit });
    }
    if let Some(rest) = line.strip_prefix(b"pause-tube") {
        return parse_pause(rest);
    }
    Some(Parsed::refused(Refusal::UnknownCommand))
}

/// The blank behind `pause-tube` is not part of its prefix, and the name is judged after the command was counted.
fn parse_pause(rest: &[u8]) -> Option<Parsed> {
    let rest = &rest[rest.iter().take_while(|&&byte| byte == b' ').count()..];
    let (name, rest) = rest.split_at(rest.iter().take_while(|&&byte| tube_name_byte_is_legal(byte)).count());
    if name.is_empty() {
        return None;
    }
    let duration_s = only_u32(rest)?;
    let request = match tube_name(name) {
        Some(tube) => Request::PauseTube { tube, duration_s },
        None => Request::Refused(Refusal::BadFormat),
    };
    Some(Parsed { counted: Some(Counted::PauseTube), request })
}

fn bare(rest: &[u8], request: Request) -> Option<Request> {
    rest.is_empty().then_some(request)
}

fn only_u64(text: &[u8]) -> Option<u64> {
    read_u64(text).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

fn only_u32(text: &[u8]) -> Option<u32> {
    read_u32(text).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

fn tube_name(text: &[u8]) -> Option<Bytes> {
    tube_name_is_legal(text).then(|| Bytes::copy_from_slice(text))
}

#[cfg(test)]
mod tests;
