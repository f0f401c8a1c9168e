//! A bound on the bytes per second that all work of the bulk path writes together.
//!
//! It must never let idle time be made up for: a disk that had nothing to do owes nobody a burst.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Rate {
    bytes_per_second: u64,
    /// When all that was taken so far is due to have been written.
    due: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: u64) -> Rate {
        Rate { bytes_per_second, due: Mutex::new(Instant::now()) }
    }

    /// Counts bytes that were just written. How long to wait before the next write, where that is worth a timer.
    pub(super) fn take(&self, bytes: u64) -> Option<Duration> {
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = (*due).max(now) + cost;
        let ahead = *due - now;
        (ahead > Duration::from_millis(1)).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_write_wait_for_what_was_written_too_early() {
        let rate = Rate::new(1 << 20);
        assert_eq!(rate.take(0), None);
        for mebibytes in 1..=10 {
            let ahead = rate.take(1 << 20).unwrap();
            let expected = Duration::from_secs(mebibytes);
            assert!(ahead > expected - Duration::from_millis(900) && ahead <= expected, "{ahead:?}");
        }
        assert_eq!(Rate::new(u64::MAX).take(10 << 20), None);
    }
}
