//! How long to wait before dialling again: doubling delays with jitter, so that the nodes that lost one peer do not
//! all knock at the same moment.

use super::link::LinkLimits;
use crate::types::Nanos;

#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    delay_min: Nanos,
    delay_max: Nanos,
    /// The delay that comes next, before jitter.
    delay: Nanos,
}

impl Backoff {
    #[must_use]
    pub fn new(limits: &LinkLimits) -> Backoff {
        let (delay_min, delay_max) = (limits.retry_delay_min, limits.retry_delay_max);
        assert!(Nanos::ZERO < delay_min && delay_min <= delay_max, "a delay of zero never doubles");
        Backoff { delay_min, delay_max, delay: delay_min }
    }

    /// A connection was up for long enough.
    pub fn reset(&mut self) {
        self.delay = self.delay_min;
    }

    /// The peer said no: it will not say yes a moment later.
    pub fn skip_to_longest(&mut self) {
        self.delay = self.delay_max;
    }

    /// The time until the next attempt: between half of the delay and all of it, as `random` falls.
    #[must_use]
    pub fn take_delay(&mut self, random: u64) -> Nanos {
        let delay = self.delay;
        self.delay = delay.saturating_add(delay).min(self.delay_max);
        let half = delay.0 / 2;
        Nanos(delay.0 - random % (half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_jitter_takes_at_most_half() {
        let mut longest = Backoff::new(&LinkLimits::default());
        let delays: Vec<u64> = (0..10).map(|_| longest.take_delay(0).0 / 1_000_000).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);

        let mut backoff = Backoff::new(&LinkLimits::default());
        for (step, &full) in delays.iter().enumerate() {
            let jittered = backoff.take_delay(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(step as u64)).0;
            assert!((full * 500_000..=full * 1_000_000).contains(&jittered));
        }
        backoff.reset();
        assert_eq!(backoff.take_delay(0), Nanos::from_millis(5));
        backoff.skip_to_longest();
        assert_eq!(backoff.take_delay(0), Nanos::from_secs(1));
    }
}
