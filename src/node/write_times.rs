//! How long the last writes to the log took: a bounded number of them, so that what it shows is of
//! the present.

use crate::status::LatencyStatus;
use crate::types::Nanos;

const KEPT: usize = 512;

#[derive(Debug, Default)]
pub struct WriteTimes {
    /// In microseconds; the oldest is overwritten by the next, once there are as many as are kept.
    last: Vec<u32>,
    next: usize,
}

impl WriteTimes {
    pub fn note(&mut self, took: Nanos) {
        let micros = u32::try_from(took.0 / 1000).unwrap_or(u32::MAX);
        if self.last.len() < KEPT {
            self.last.push(micros);
        } else {
            self.last[self.next] = micros;
            self.next = (self.next + 1) % KEPT;
        }
    }

    #[must_use]
    pub fn summary(&self) -> LatencyStatus {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        // The smallest that so many of a hundred are at or below.
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).map_or(0, |micros| u64::from(*micros))
        };
        LatencyStatus { count: sorted.len() as u64, p50_us: at(50), p99_us: at(99), max_us: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_writes_only() {
        let mut times = WriteTimes::default();
        assert_eq!(times.summary(), LatencyStatus::default());
        for micros in 1..=100 {
            times.note(Nanos(micros * 1000));
        }
        assert_eq!(times.summary(), LatencyStatus { count: 100, p50_us: 50, p99_us: 99, max_us: 100 });
        for _ in 0..KEPT {
            times.note(Nanos(7000));
        }
        assert_eq!(times.summary(), LatencyStatus { count: KEPT as u64, p50_us: 7, p99_us: 7, max_us: 7 });
        times.note(Nanos(u64::MAX));
        assert_eq!(times.summary().max_us, u64::from(u32::MAX));
    }
}
