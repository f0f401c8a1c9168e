//! The simulator's dice: every number follows from the seed, on every machine and with every compiler.

use std::cell::RefCell;
use std::rc::Rc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::types::Nanos;

/// A stream of random numbers. Clones share it.
#[derive(Debug, Clone)]
pub struct Random(Rc<RefCell<ChaCha8Rng>>);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(Rc::new(RefCell::new(ChaCha8Rng::seed_from_u64(seed))))
    }

    /// A stream of its own that follows from this one, so that more draws there change nothing here.
    #[must_use]
    pub fn fork(&self) -> Random {
        Random::new(self.next())
    }

    #[must_use]
    pub fn next(&self) -> u64 {
        self.0.borrow_mut().next_u64()
    }

    /// In `0..end`; 0 where the range is empty.
    #[must_use]
    pub fn below(&self, end: u64) -> u64 {
        let scaled = (u128::from(self.next()) * u128::from(end)) >> 64;
        u64::try_from(scaled).expect("the product of two 64-bit numbers, shifted by 64, has 64 bits")
    }

    /// In `0..end`, for something that is counted in memory.
    #[must_use]
    pub fn below_len(&self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a length")
    }

    /// In `from..=to`.
    #[must_use]
    pub fn between(&self, from: u64, to: u64) -> u64 {
        assert!(from <= to, "a range runs upwards");
        from + self.below((to - from).saturating_add(1))
    }

    #[must_use]
    pub fn nanos(&self, from: Nanos, to: Nanos) -> Nanos {
        Nanos(self.between(from.0, to.0.max(from.0)))
    }

    /// True in `per_million` of a million draws. No number is drawn for what never or always happens, so that a fault
    /// which is switched off leaves the rest of a run as it was.
    #[must_use]
    pub fn chance(&self, per_million: u32) -> bool {
        match per_million {
            0 => false,
            1_000_000.. => true,
            _ => self.below(1_000_000) < u64::from(per_million),
        }
    }

    #[must_use]
    pub fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below_len(from.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let draw = |seed| {
            let random = Random::new(seed);
            (0..8).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn draws_stay_in_their_range_and_reach_its_ends() {
        let random = Random::new(7);
        let drawn: Vec<u64> = (0..200).map(|_| random.between(3, 6)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&6)));
        assert_eq!(random.below(0), 0);
        assert!(!random.chance(0) && random.chance(1_000_000));
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
