//! Lease time, by which reservations end, passes no faster than real time, whoever leads: the stamps of
//! any two committed entries are at most as far apart as the fastest clock of the run would count.
//!
//! An entry counts as stamped when its leader is first seen with it, at the end of the turn that made it.

use std::collections::BTreeMap;

use crate::shard::Shard;
use crate::types::{ChainHash, Index, Nanos};

/// The fastest clock of a run, in tenths of true time.
const FASTEST_TENTHS: i128 = 11;

/// Times are rounded down.
const ROUNDING: i128 = 10_000;

#[derive(Debug, Default)]
pub struct Leases {
    /// Entries that may still be committed: their stamp, and when it was made.
    stamped: BTreeMap<(Index, ChainHash), (Nanos, Nanos)>,
    /// The least, over all committed entries, of the stamp less what the fastest clock would show by then,
    /// in tenths of nanoseconds; and of which entry.
    least: Option<(i128, Index)>,
}

impl Leases {
    /// Looks at a node at the end of a turn.
    pub fn observe(&mut self, shard: &Shard, now: Nanos) {
        let raft = shard.raft();
        let mut index = raft.last_position().index;
        while raft.is_leader()
            && let Some(entry) = shard.recent_entry(index)
            && entry.meta.position.term == raft.term()
            && let key = (index, entry.meta.chain)
            && !self.stamped.contains_key(&key)
        {
            self.stamped.insert(key, (entry.times.lease, now));
            let Some(before) = index.prev() else { break };
            index = before;
        }
    }

    /// Takes in an entry that was committed, and the entries below it before.
    ///
    /// # Errors
    /// If its stamp is ahead of its time.
    pub fn commit(&mut self, index: Index, chain: ChainHash) -> Result<(), String> {
        let found = self.stamped.get(&(index, chain)).copied();
        self.stamped = self.stamped.split_off(&(index.next(), ChainHash(0)));
        let Some((lease, at)) = found else { return Ok(()) };
        let excess = i128::from(lease.0) * 10 - i128::from(at.0) * FASTEST_TENTHS;
        match self.least {
            Some((least, earlier)) if excess > least + ROUNDING => Err(format!(
                "the stamp of entry {index} is {} ms ahead of that of entry {earlier}: reservations end before their time",
                (excess - least) / 10_000_000
            )),
            Some((least, _)) if excess >= least => Ok(()),
            _ => {
                self.least = Some((excess, index));
                Ok(())
            }
        }
    }
}
