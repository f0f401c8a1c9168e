//! Seeds that once failed, each with what it found. They are run again in CI; where the simulator draws anew, a seed is
//! another run, and what it found is kept by the test that came with its fix.

/// Seeds, and what was wrong.
pub const SEEDS: &[(u64, &str)] =
    &[(20_131, "a sync that failed during recovery was told as a damaged log, with that exit status")];
