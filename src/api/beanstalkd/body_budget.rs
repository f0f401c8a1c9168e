//! Memory for bodies that clients have sent and shards have not answered, bounded over all clients of one core thread.
//!
//! It must never let a body be kept that was not counted: whoever keeps one takes its bytes first, and gives the same number back.

use std::sync::atomic::{AtomicU64, Ordering};

/// What bodies may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// The longest body of a job, in bytes; at most [`super::request::BODY_BYTES_MAX_LIMIT`].
    pub bytes_max: u32,
    /// Bytes of all bodies of a node that are arriving or await an answer. Each core thread has an equal share, or room for one body
    /// where that is more.
    pub together_bytes_max: u64,
}

/// The share of one core thread. Only it takes and gives back; any may look.
#[derive(Debug)]
pub struct BodyBudget {
    bytes_max: u64,
    taken_bytes: AtomicU64,
    refused: AtomicU64,
}

impl BodyBudget {
    #[must_use]
    pub fn share(limits: BodyLimits, cores: usize) -> BodyBudget {
        // A body is read with its CRLF.
        let one = u64::from(limits.bytes_max) + 2;
        let bytes_max = (limits.together_bytes_max / cores as u64).max(one);
        BodyBudget { bytes_max, taken_bytes: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    /// Takes bytes, if there are so many; counts a put that is refused if not.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let taken = self.taken_bytes() + bytes as u64;
        if taken > self.bytes_max {
            self.refused.store(self.refused() + 1, Ordering::Relaxed);
            return false;
        }
        self.taken_bytes.store(taken, Ordering::Relaxed);
        true
    }

    pub fn give_back(&self, bytes: usize) {
        let left = self.taken_bytes().checked_sub(bytes as u64).expect("no more is given back than was taken");
        self.taken_bytes.store(left, Ordering::Relaxed);
    }

    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    /// Puts that were refused for want of memory.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_room_for_one_body_whatever_the_whole_is() {
        let budget = BodyBudget::share(BodyLimits { bytes_max: 100, together_bytes_max: 150 }, 2);
        assert!(budget.take(102));
        assert!(!budget.take(1));
        budget.give_back(2);
        assert!(budget.take(2));
        assert_eq!((budget.taken_bytes(), budget.refused()), (102, 1));
    }
}
