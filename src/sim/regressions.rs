//! Seeds that once failed, each with what it found. They are run again in CI; where the simulator draws anew, a seed is
//! another run, and what it found is kept by the test that came with its fix.

/// A run that once failed.
#[derive(Debug, Clone, Copy)]
pub struct Regression {
    pub seed: u64,
    /// Whether the nodes kept snapshots.
    pub snapshots: bool,
    pub found: &'static str,
}

const fn without_snapshots(seed: u64, found: &'static str) -> Regression {
    Regression { seed, snapshots: false, found }
}

const fn with_snapshots(seed: u64, found: &'static str) -> Regression {
    Regression { seed, snapshots: true, found }
}

pub const REGRESSIONS: &[Regression] = &[
    without_snapshots(20_131, "a sync that failed during recovery was told as a damaged log, with that exit status"),
    without_snapshots(
        1_001_202,
        "of the simulator: a leader that resigned and heard of its successor in one turn was no voter",
    ),
    with_snapshots(
        5_001_807,
        "of the simulator: a disk was read in the midst of an install, as no start would read it",
    ),
    with_snapshots(
        5_020_437,
        "a node whose log a snapshot replaced forgot that it heard a leader, and helped to depose it",
    ),
    with_snapshots(2_101, "a damaged job was given as it was read, over and over, to a node that could not use it"),
    with_snapshots(5_000_580, "a leader offered a snapshot again and again, of which it could not give a damaged job"),
    with_snapshots(8_200_161, "a log whose first segment is lost was refused, though nothing in that counted"),
    with_snapshots(8_209_405, "of the simulator: a segment in use was taken for one below the floor"),
    with_snapshots(432, "an install that was completed before a kill was completed once more after a power cut"),
    with_snapshots(8_202_180, "a log was refused for a segment without a header that lay below its floor"),
];
