//! The most recent entries, whole, in memory: what is not yet durable or not yet applied, and as much more as the
//! bound allows, so that followers and clients are rarely served from disk.

use std::collections::VecDeque;

use crate::types::{Index, JobId};
use crate::wal::entry::Entry;

/// Invariant: the entries are contiguous, and none above `pinned_after` was ever evicted.
#[derive(Debug)]
pub struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    #[must_use]
    pub fn new(bytes_max: usize) -> EntryCache {
        EntryCache { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    #[must_use]
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let first = self.entries.front()?.meta.position.index;
        self.entries.get(usize::try_from(index.0.checked_sub(first.0)?).ok()?)
    }

    /// The entry that holds a job's ENQ.
    #[must_use]
    pub fn entry_of_job(&self, job: JobId) -> Option<&Entry> {
        let place = self.entries.partition_point(|entry| entry.first_job <= job).checked_sub(1)?;
        let entry = &self.entries[place];
        (job.0 < entry.first_job.0 + u64::from(entry.job_count)).then_some(entry)
    }

    /// # Panics
    /// If the entry does not follow the last one.
    pub fn push(&mut self, entry: Entry) {
        if let Some(last) = self.entries.back() {
            assert_eq!(entry.meta.position.index, last.meta.position.index.next(), "the cache is contiguous");
        }
        self.bytes += entry.shared.len();
        self.entries.push_back(entry);
    }

    pub fn truncate_after(&mut self, index: Index) {
        while self.entries.back().is_some_and(|last| last.meta.position.index > index) {
            let dropped = self.entries.pop_back().expect("just seen");
            self.bytes -= dropped.shared.len();
        }
    }

    /// Forgets the oldest entries while there are more than the bound allows; entries above `pinned_after` stay.
    pub fn evict(&mut self, pinned_after: Index) {
        while self.bytes > self.bytes_max
            && self.entries.front().is_some_and(|first| first.meta.position.index <= pinned_after)
        {
            let dropped = self.entries.pop_front().expect("just seen");
            self.bytes -= dropped.shared.len();
        }
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
