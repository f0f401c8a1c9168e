//! What producers and workers saw: the evidence that the audit judges.

use std::time::Duration;

/// A job of the demo by its producer and number; its body says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobName {
    pub producer: u32,
    pub number: u32,
}

/// Bytes of each body: the name and padding.
const BODY_BYTES: usize = 256;

impl JobName {
    pub fn body(self) -> Vec<u8> {
        let mut body = format!("demo {} {} ", self.producer, self.number).into_bytes();
        body.resize(BODY_BYTES, b'.');
        body
    }

    /// The job whose body this is, byte for byte.
    pub fn of_body(body: &[u8]) -> Option<JobName> {
        let text = std::str::from_utf8(body).ok()?;
        let mut words = text.strip_prefix("demo ")?.split(' ');
        let name = JobName { producer: words.next()?.parse().ok()?, number: words.next()?.parse().ok()? };
        (name.body() == body).then_some(name)
    }
}

/// Moments are counted from the start of the load, on the one clock of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The server said INSERTED.
    PutAcknowledged { job: JobName, id: u64 },
    /// The connection broke before an answer.
    PutUnknown { job: JobName },
    /// A worker got it.
    Delivered { job: JobName, id: u64, at: Duration },
    /// A worker got something that no producer made.
    Strange { id: u64 },
    /// The server said DELETED to the worker that has had it since `since`.
    Completed { job: JobName, since: Duration, at: Duration },
    /// The connection broke before an answer to the delete.
    CompletionUnknown { job: JobName },
    /// The server said NOT_FOUND: the reservation had ended.
    CompletionRefused { job: JobName },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_its_job_and_a_damaged_one_none() {
        let name = JobName { producer: 3, number: 4_000_000 };
        let mut body = name.body();
        assert_eq!(body.len(), BODY_BYTES);
        assert_eq!(JobName::of_body(&body), Some(name));
        body[200] = b'x';
        assert_eq!(JobName::of_body(&body), None);
        assert_eq!(JobName::of_body(b"hello"), None);
    }
}
