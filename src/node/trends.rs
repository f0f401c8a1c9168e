//! What of a shard's status can only be seen by looking more than once: since when links are as
//! they are, and how often things happen. Told the time, it keeps a bounded number of samples.

use std::collections::{BTreeMap, VecDeque};

use crate::status::RateStatus;
use crate::types::NodeId;

/// Samples are this far apart at least, and those that are older than the second go.
const SAMPLE_EVERY_MS: u64 = 1000;
const WINDOW_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub struct Trends {
    links: BTreeMap<NodeId, Link>,
    /// Ascending; the first is where rates are counted from.
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    connected: bool,
    lost: u64,
    since_ms: u64,
}

/// Counters that only grow, at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub at_ms: u64,
    pub puts: u64,
    pub reserves: u64,
    pub deletes: u64,
}

impl Trends {
    /// For how many milliseconds the link to a peer has been as it is. One that broke and came back
    /// between two looks began anew.
    pub fn link_since(&mut self, now_ms: u64, peer: NodeId, connected: bool, lost: u64) -> u64 {
        let link = self.links.entry(peer).or_insert(Link { connected, lost, since_ms: now_ms });
        if (link.connected, link.lost) != (connected, lost) {
            *link = Link { connected, lost, since_ms: now_ms };
        }
        now_ms.saturating_sub(link.since_ms)
    }

    pub fn rates(&mut self, now: Sample) -> RateStatus {
        if self.samples.back().is_none_or(|last| last.at_ms + SAMPLE_EVERY_MS <= now.at_ms) {
            self.samples.push_back(now);
        }
        while self.samples.front().is_some_and(|first| first.at_ms + WINDOW_MS < now.at_ms) {
            self.samples.pop_front();
        }
        let first = self.samples.front().copied().unwrap_or(now);
        RateStatus {
            over_ms: now.at_ms.saturating_sub(first.at_ms),
            puts: now.puts.saturating_sub(first.puts),
            reserves: now.reserves.saturating_sub(first.reserves),
            deletes: now.deletes.saturating_sub(first.deletes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_as_it_is_since_it_changed_or_broke() {
        let (mut trends, peer) = (Trends::default(), NodeId(2));
        assert_eq!(trends.link_since(100, peer, false, 0), 0);
        assert_eq!(trends.link_since(400, peer, false, 0), 300);
        assert_eq!(trends.link_since(500, peer, true, 0), 0);
        assert_eq!(trends.link_since(900, peer, true, 0), 400);
        assert_eq!(trends.link_since(1000, peer, true, 1), 0, "it broke and came back");
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_take_bounded_memory() {
        let mut trends = Trends::default();
        let sample = |at_ms| Sample { at_ms, puts: at_ms / 100, reserves: 7, deletes: 0 };
        assert_eq!(trends.rates(sample(0)), RateStatus::default());
        assert_eq!(trends.rates(sample(250)).over_ms, 250);
        let mut last = RateStatus::default();
        for at_ms in (0..60_000).step_by(250) {
            last = trends.rates(sample(at_ms));
        }
        assert!((9000..=10_000).contains(&last.over_ms), "{last:?}");
        assert_eq!((last.puts, last.reserves), (last.over_ms / 100, 0));
        assert!(trends.samples.len() <= 11, "{}", trends.samples.len());
    }
}
