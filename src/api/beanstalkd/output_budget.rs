//! Memory for answers that clients have not taken yet, bounded over all clients of a node: a client that asks for much
//! and reads nothing must cost no other client the node.
//!
//! - A body that a shard hands out takes room in the [`AnswerBudget`] of the node before it is read from a file, and
//!   keeps it until its last byte has been written to the client. Bodies for which there is no room wait.
//! - All other output (lines, short bodies, documents) is counted in the [`OutputShare`] of its core thread. While that is used
//!   up, a connection that has output of its own starts no command, and no list of tubes is made.
//!
//! Nothing may be kept here that was not counted: whoever drops the bytes gives the room back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::types::Nanos;

/// What answers may take, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bytes of all answers of a node that clients have not taken: three quarters for bodies of jobs, the rest for all else, in equal
    /// shares of the core threads.
    pub together_bytes_max: u64,
    /// A client whose output makes no progress for so long is closed.
    pub stall: Nanos,
}

impl OutputLimits {
    #[must_use]
    pub fn bodies(&self) -> Arc<AnswerBudget> {
        Arc::new(AnswerBudget::new(self.together_bytes_max / 4 * 3))
    }

    #[must_use]
    pub fn share(&self, cores: usize) -> OutputShare {
        OutputShare { bytes_max: self.together_bytes_max / 4 / cores as u64, taken_bytes: AtomicU64::new(0) }
    }
}

/// Bodies on their way from shards to clients. Shared by the core threads of a node.
#[derive(Debug)]
pub struct AnswerBudget {
    bytes_max: u64,
    taken_bytes: AtomicU64,
    waited: AtomicU64,
    given_up: AtomicU64,
}

impl AnswerBudget {
    #[must_use]
    pub fn new(bytes_max: u64) -> AnswerBudget {
        AnswerBudget {
            bytes_max,
            taken_bytes: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    /// Whether a body of this length is large: it leaves a quarter of the budget to those that are not, so that a
    /// few clients with large bodies do not keep all others waiting.
    #[must_use]
    pub fn is_large(&self, bytes: usize) -> bool {
        bytes as u64 > self.bytes_max / 256
    }

    /// Room for a body, if there is any. A body that is the only one always has room.
    #[must_use]
    pub fn try_take(self: &Arc<Self>, bytes: usize) -> Option<AnswerRoom> {
        let limit = if self.is_large(bytes) { self.bytes_max / 4 * 3 } else { self.bytes_max };
        let take = |taken: u64| {
            let with = taken + bytes as u64;
            (taken == 0 || with <= limit).then_some(with)
        };
        self.taken_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(AnswerRoom { budget: Arc::clone(self), bytes: bytes as u64 })
    }

    /// Room for a body that is in memory already and cannot be had again later.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> AnswerRoom {
        self.taken_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        AnswerRoom { budget: Arc::clone(self), bytes: bytes as u64 }
    }

    /// A body waits for room.
    pub fn note_wait(&self) {
        self.waited.fetch_add(1, Ordering::Relaxed);
    }

    /// A body has waited for too long: its client is closed.
    pub fn note_given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    /// Bodies that have waited for room.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.waited.load(Ordering::Relaxed)
    }

    /// Bodies that have waited for too long.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Room for one body; given back when it is dropped.
#[derive(Debug)]
pub struct AnswerRoom {
    budget: Arc<AnswerBudget>,
    bytes: u64,
}

impl AnswerRoom {
    /// The same bytes; the room is theirs as long as any part of them is kept.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _room: self })
    }
}

impl Drop for AnswerRoom {
    fn drop(&mut self) {
        let before = self.budget.taken_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        assert!(before >= self.bytes, "no more is given back than was taken");
    }
}

struct Held {
    bytes: Bytes,
    _room: AnswerRoom,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Output of the connections of one core thread. Only that thread changes it; any may look.
#[derive(Debug)]
pub struct OutputShare {
    bytes_max: u64,
    taken_bytes: AtomicU64,
}

impl OutputShare {
    /// The output of a connection has changed from `before` to `now` bytes.
    pub fn change(&self, before: usize, now: usize) {
        let others = self.taken_bytes().checked_sub(before as u64).expect("what is given back was counted");
        self.taken_bytes.store(others + now as u64, Ordering::Relaxed);
    }

    #[must_use]
    pub fn has_room(&self) -> bool {
        self.taken_bytes() < self.bytes_max
    }

    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_with_the_last_part_of_a_body() {
        let budget = Arc::new(AnswerBudget::new(1000));
        let body = budget.try_take(100).unwrap().hold(Bytes::from(vec![7; 100]));
        let part = body.slice(10..20);
        drop(body);
        assert_eq!((budget.taken_bytes(), &part[..]), (100, &[7; 10][..]));
        drop(part);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let budget = Arc::new(AnswerBudget::new(1024));
        let large: Vec<AnswerRoom> = std::iter::from_fn(|| budget.try_take(256)).collect();
        assert_eq!(large.len(), 3);
        let small: Vec<AnswerRoom> = std::iter::from_fn(|| budget.try_take(4)).collect();
        assert_eq!(small.len(), 64);
        drop((large, small));
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[test]
    fn one_body_always_has_room_and_what_is_in_memory_counts() {
        let budget = Arc::new(AnswerBudget::new(1024));
        let only = budget.try_take(5000).unwrap();
        assert!(budget.try_take(1).is_none());
        let kept = budget.take(10);
        drop(only);
        assert_eq!(budget.taken_bytes(), 10);
        drop(kept);
    }
}
