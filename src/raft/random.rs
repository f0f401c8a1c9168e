//! Spread for timeouts: a small generator whose every number follows from its seed, so that a run can be repeated.
//! Nothing that must be secret may come from it.

use crate::types::Nanos;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A time in `from..until`; `from` where the range is empty. Where there is no choice, none is drawn: a model whose
    /// times are all fixed has no state here.
    pub(super) fn between(&mut self, from: Nanos, until: Nanos) -> Nanos {
        match until.0.saturating_sub(from.0) {
            0 | 1 => from,
            width => Nanos(from.0 + self.next() % width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_in_their_range_and_repeat_with_the_seed() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.between(Nanos(10), Nanos(20))).collect::<Vec<_>>()
        };
        assert!(draw(1).iter().all(|time| (10..20).contains(&time.0)));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(Random::new(1).between(Nanos(7), Nanos(7)), Nanos(7));
    }
}
