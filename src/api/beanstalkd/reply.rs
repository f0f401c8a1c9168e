//! Replies, byte for byte.

use bytes::Bytes;

use super::output::Output;
use super::stats;
use crate::api::Answer;
use crate::types::{JobId, ShardId};

/// Why a command was refused before, or instead of, taking effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BadFormat,
    UnknownCommand,
    ExpectedCrlf,
    JobTooBig,
    Draining,
    OutOfMemory,
    InternalError,
}

impl Refusal {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Refusal::BadFormat => "BAD_FORMAT",
            Refusal::UnknownCommand => "UNKNOWN_COMMAND",
            Refusal::ExpectedCrlf => "EXPECTED_CRLF",
            Refusal::JobTooBig => "JOB_TOO_BIG",
            Refusal::Draining => "DRAINING",
            Refusal::OutOfMemory => "OUT_OF_MEMORY",
            Refusal::InternalError => "INTERNAL_ERROR",
        }
    }
}

/// One reply. Ids in it are those that clients see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Inserted(u64),
    Reserved {
        id: u64,
        body: Bytes,
    },
    Found {
        id: u64,
        body: Bytes,
    },
    Using(Bytes),
    Watching(usize),
    Kicked(u64),
    /// The body of an `OK`: YAML that ends with a line feed.
    Document(Bytes),
    /// The same in parts, which other replies may share.
    Parts(Vec<Bytes>),
    /// A reply of one word.
    Word(&'static str),
    Refused(Refusal),
}

impl Reply {
    pub const TIMED_OUT: Reply = Reply::Word("TIMED_OUT");
    pub const DEADLINE_SOON: Reply = Reply::Word("DEADLINE_SOON");
    pub const NOT_FOUND: Reply = Reply::Word("NOT_FOUND");
    pub const NOT_IGNORED: Reply = Reply::Word("NOT_IGNORED");

    /// A list of tubes, in the order given.
    #[must_use]
    pub fn list<'a>(names: impl IntoIterator<Item = &'a Bytes>) -> Reply {
        Reply::Document(stats::list(names))
    }

    /// What a client is told of a shard's answer to an operation that has one answer.
    #[must_use]
    pub fn from_answer(answer: Answer, shard: ShardId, shards: u16) -> Reply {
        let id = |job: JobId| job.client_id(shard, shards);
        match answer {
            Answer::Inserted { job } => Reply::Inserted(id(job)),
            Answer::Reserved { job, body, .. } => Reply::Reserved { id: id(job), body },
            Answer::Found { job, body } => Reply::Found { id: id(job), body },
            Answer::Deleted => Reply::Word("DELETED"),
            Answer::Released => Reply::Word("RELEASED"),
            Answer::Buried => Reply::Word("BURIED"),
            Answer::Touched => Reply::Word("TOUCHED"),
            Answer::Kicked { count } => Reply::Kicked(count),
            Answer::JobKicked => Reply::Word("KICKED"),
            Answer::Paused => Reply::Word("PAUSED"),
            Answer::NotFound => Reply::NOT_FOUND,
            Answer::NothingReady => Reply::TIMED_OUT,
            Answer::DeadlineSoon => Reply::DEADLINE_SOON,
            Answer::OutOfMemory => Reply::Refused(Refusal::OutOfMemory),
            Answer::TryElsewhere => Reply::Refused(Refusal::Draining),
            Answer::JobStats { view, file } => Reply::Document(stats::job(&view, id(view.job), file)),
            Answer::TubeStats { tube, counts, references } => Reply::Document(stats::tube(&tube, &counts, references)),
            // Never the one answer to a client's command: sums over shards, and undoings that it knows nothing of.
            Answer::ShardStats(_) | Answer::Tubes(_) | Answer::Undone | Answer::Hangup => {
                Reply::Refused(Refusal::InternalError)
            }
        }
    }

    pub fn write(&self, output: &mut Output) {
        match self {
            Reply::Inserted(id) => output.push_line(format_args!("INSERTED {id}\r\n")),
            Reply::Reserved { id, body } => write_with_body(output, format_args!("RESERVED {id} "), body),
            Reply::Found { id, body } => write_with_body(output, format_args!("FOUND {id} "), body),
            Reply::Document(yaml) => {
                output.push_line(format_args!("OK {}\r\n", yaml.len()));
                output.push_document(yaml);
                output.push_line(format_args!("\r\n"));
            }
            Reply::Parts(parts) => {
                output.push_line(format_args!("OK {}\r\n", parts.iter().map(Bytes::len).sum::<usize>()));
                parts.iter().for_each(|part| output.push_document(part));
                output.push_line(format_args!("\r\n"));
            }
            Reply::Using(tube) => output.push_line(format_args!("USING {}\r\n", stats::text(tube))),
            Reply::Watching(tubes) => output.push_line(format_args!("WATCHING {tubes}\r\n")),
            Reply::Kicked(jobs) => output.push_line(format_args!("KICKED {jobs}\r\n")),
            Reply::Word(word) => output.push_line(format_args!("{word}\r\n")),
            Reply::Refused(refusal) => output.push_line(format_args!("{}\r\n", refusal.word())),
        }
    }
}

fn write_with_body(output: &mut Output, start: std::fmt::Arguments<'_>, body: &Bytes) {
    output.push_line(format_args!("{start}{}\r\n", body.len()));
    output.push_body(body);
    output.push_line(format_args!("\r\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(reply: &Reply) -> Vec<u8> {
        let mut output = Output::default();
        reply.write(&mut output);
        output.take().concat()
    }

    #[test]
    fn replies_are_the_bytes_of_the_original() {
        let body = Bytes::from_static(b"a\r\nb");
        for (reply, expected) in [
            (Reply::Inserted(7), &b"INSERTED 7\r\n"[..]),
            (Reply::Reserved { id: 7, body: body.clone() }, b"RESERVED 7 4\r\na\r\nb\r\n"),
            (Reply::Found { id: 7, body: Bytes::new() }, b"FOUND 7 0\r\n\r\n"),
            (Reply::Document(Bytes::from_static(b"---\n- a\n")), b"OK 8\r\n---\n- a\n\r\n"),
            (Reply::Parts(vec![Bytes::from_static(b"---\n"), Bytes::from_static(b"- a\n")]), b"OK 8\r\n---\n- a\n\r\n"),
            (Reply::Using(Bytes::from_static(b"t")), b"USING t\r\n"),
            (Reply::Watching(2), b"WATCHING 2\r\n"),
            (Reply::Kicked(0), b"KICKED 0\r\n"),
            (Reply::from_answer(Answer::JobKicked, ShardId(0), 1), b"KICKED\r\n"),
            (Reply::from_answer(Answer::TryElsewhere, ShardId(0), 1), b"DRAINING\r\n"),
            (Reply::Refused(Refusal::ExpectedCrlf), b"EXPECTED_CRLF\r\n"),
        ] {
            assert_eq!(bytes(&reply), expected, "{reply:?}");
        }
    }

    #[test]
    fn ids_are_those_that_clients_see() {
        let answer = Answer::Inserted { job: JobId(2) };
        assert_eq!(Reply::from_answer(answer, ShardId(1), 3), Reply::Inserted(5));
    }
}
