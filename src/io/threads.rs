//! What may go wrong between a thread that is started and the one that waits for it.
//!
//! No thread may wait for another without a bound: one that never comes must end the process with a
//! sentence, not hold it up.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// How long a thread may take to begin once it is started, or to end once its work is done. Both take
/// less than a millisecond on an idle machine; a machine on which they take this long serves nobody.
pub const THREAD_PATIENCE: Duration = Duration::from_secs(30);

/// Why a thread that was started does not run.
#[derive(Debug, Error)]
pub enum ThreadError {
    #[error("no thread can be made: {0}")]
    NotMade(io::Error),
    #[error("{0}")]
    NoRing(io::Error),
    #[error("{name} has not begun {} ms after it was started", waited.as_millis())]
    Late { name: String, waited: Duration },
}

impl From<ThreadError> for io::Error {
    fn from(error: ThreadError) -> io::Error {
        match error {
            ThreadError::NotMade(error) | ThreadError::NoRing(error) => error,
            ThreadError::Late { .. } => io::Error::new(io::ErrorKind::TimedOut, error.to_string()),
        }
    }
}
