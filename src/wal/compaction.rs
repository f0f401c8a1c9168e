//! Which files below the floor are rewritten next, and which with it. Decides only; `keeper` does.
//!
//! It must never choose a file whose rewriting frees nothing: a plan that is carried out is never made again.
//!
//! ```text
//!   pieces, by job:   [####......]  [#.........]  [##########]  [##]  [#]
//!                     `- wasteful --------------' `- full ----' `- small and beside each other
//!   rewritten as:     [#####]                     [##########]  [###]
//! ```

use std::ops::Range;

use super::catalog::PieceName;
use super::store::RECORD_HEADER_BYTES;
use crate::io::BLOCK_BYTES;
use crate::types::JobId;

/// What rows and records take beside the ENQ itself, of a job that came alone in its entry.
const RECORD_OVERHEAD_BYTES: u64 = RECORD_HEADER_BYTES as u64 + 40;

/// A file below the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    pub name: PieceName,
    /// Of the file, and of its rows where these are in a file of their own.
    pub file_bytes: u64,
    /// The jobs in it, and the bytes of their ENQs: all, and those that live.
    pub jobs: u64,
    pub enqueue_bytes: u64,
    pub live_jobs: u64,
    pub live_bytes: u64,
    pub first_job: JobId,
    /// It cannot be read in full, so nothing may be moved out of it.
    pub is_damaged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// A file of which more than this is waste is rewritten.
    pub waste_percent: u64,
    /// A store segment does not grow beyond this, unless by one job.
    pub store_bytes_max: u64,
}

impl Holding {
    /// About what its live jobs would take in a store segment of their own.
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        self.live_bytes + self.live_jobs * RECORD_OVERHEAD_BYTES
    }

    /// Bytes that rewriting would free, at the least.
    fn waste_bytes(&self) -> u64 {
        match self.name {
            // A header block and the blocks that records and rows end in.
            PieceName::Log(_) => self.file_bytes.saturating_sub(self.needed_bytes() + 4 * BLOCK_BYTES as u64),
            // Where all of it lives, there is no smaller form.
            PieceName::Store(_) => {
                let all = self.enqueue_bytes + self.jobs * RECORD_OVERHEAD_BYTES;
                all.saturating_sub(self.needed_bytes())
            }
        }
    }

    #[must_use]
    pub fn is_wasteful(&self, bounds: &Bounds) -> bool {
        !self.is_damaged && self.waste_bytes() * 100 > self.file_bytes * bounds.waste_percent
    }

    /// A store segment that is small enough to be joined with another of its size.
    fn is_small(&self, bounds: &Bounds) -> bool {
        !self.is_damaged
            && matches!(self.name, PieceName::Store(_))
            && self.needed_bytes() * 2 <= bounds.store_bytes_max
    }
}

/// The files that are rewritten next: neighbours, so that the jobs of different files stay apart. `pieces` ascend, and each
/// holds a live job.
#[must_use]
pub fn plan(pieces: &[Holding], bounds: &Bounds) -> Option<Range<usize>> {
    let wasteful = |piece: &Holding| piece.is_wasteful(bounds);
    let worst = pieces.iter().enumerate().filter(|(_, piece)| wasteful(piece)).max_by_key(|(_, piece)| {
        // In thousandths of the file.
        piece.waste_bytes().saturating_mul(1000) / piece.file_bytes.max(1)
    });
    let Some((worst, _)) = worst else { return joinable(pieces, bounds) };
    let (mut from, mut to, mut needed) = (worst, worst + 1, pieces[worst].needed_bytes());
    let joins = |piece: &Holding, needed: u64| {
        let is_as_small = piece.is_small(bounds) && piece.needed_bytes() <= needed;
        (wasteful(piece) || is_as_small) && needed + piece.needed_bytes() <= bounds.store_bytes_max
    };
    loop {
        if to < pieces.len() && joins(&pieces[to], needed) {
            needed += pieces[to].needed_bytes();
            to += 1;
        } else if from > 0 && joins(&pieces[from - 1], needed) {
            from -= 1;
            needed += pieces[from].needed_bytes();
        } else {
            return Some(from..to);
        }
    }
}

/// Two small store segments beside each other, of about the same size: so each record is moved a logarithmic number of times
/// before its segment is large.
fn joinable(pieces: &[Holding], bounds: &Bounds) -> Option<Range<usize>> {
    let is_pair = |pair: &[Holding]| {
        let [one, other] = pair else { return false };
        let (one_bytes, other_bytes) = (one.needed_bytes(), other.needed_bytes());
        one.is_small(bounds) && other.is_small(bounds) && one_bytes <= other_bytes.saturating_mul(2)
    };
    let at = pieces.windows(2).rposition(is_pair)?;
    Some(at..at + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::index::SegmentNumber;

    const BOUNDS: Bounds = Bounds { waste_percent: 20, store_bytes_max: 1 << 20 };

    /// Files with jobs of one size, each of which lives or not.
    #[derive(Debug, Clone)]
    struct World {
        pieces: Vec<(PieceName, u64, Vec<bool>)>,
        next: u32,
        moved: u64,
    }

    const ENQUEUE: u64 = 300;

    impl World {
        fn holdings(&self) -> Vec<Holding> {
            let holding = |(at, (name, file_bytes, jobs)): (usize, &(PieceName, u64, Vec<bool>))| {
                let live_jobs = jobs.iter().filter(|lives| **lives).count() as u64;
                Holding {
                    name: *name,
                    file_bytes: *file_bytes,
                    jobs: jobs.len() as u64,
                    enqueue_bytes: jobs.len() as u64 * ENQUEUE,
                    live_jobs,
                    live_bytes: live_jobs * ENQUEUE,
                    first_job: JobId(at as u64),
                    is_damaged: false,
                }
            };
            self.pieces.iter().enumerate().map(holding).collect()
        }

        fn compact(&mut self) {
            self.pieces.retain(|(_, _, jobs)| jobs.contains(&true));
            for _ in 0..10_000 {
                let Some(run) = plan(&self.holdings(), &BOUNDS) else { return };
                let live: usize =
                    self.pieces[run.clone()].iter().map(|piece| piece.2.iter().filter(|lives| **lives).count()).sum();
                self.moved += live as u64;
                self.next += 1;
                let bytes = live as u64 * (ENQUEUE + RECORD_OVERHEAD_BYTES) + 3 * BLOCK_BYTES as u64;
                let store = (PieceName::Store(SegmentNumber(self.next)), bytes, vec![true; live]);
                self.pieces.splice(run, [store]);
            }
            panic!("compaction does not end");
        }

        fn check(&self) {
            let live: u64 = self.holdings().iter().map(Holding::needed_bytes).sum();
            let files: u64 = self.pieces.iter().map(|piece| piece.1).sum();
            let blocks = self.pieces.len() as u64 * 7 * BLOCK_BYTES as u64;
            assert!(files <= live * 125 / 100 + blocks, "{files} bytes for {live} that live, in {}", self.pieces.len());
            // Not more files than full ones, and a few that are on their way to be.
            assert!(self.pieces.len() as u64 <= 3 * live / BOUNDS.store_bytes_max + 40, "{} files", self.pieces.len());
        }
    }

    proptest! {
        #[test]
        fn whatever_dies_files_stay_close_to_what_lives_and_few(
            rounds in prop::collection::vec((1..4000usize, 0..100u64, 0..100u64, any::<u64>()), 1..40)
        ) {
            let mut world = World { pieces: Vec::new(), next: 0, moved: 0 };
            let mut put = 0;
            for (jobs, die_new, die_old, seed) in rounds {
                world.next += 1;
                let mut random = seed | 1;
                let mut dies = |percent: u64| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (random >> 33) % 100 < percent
                };
                for piece in &mut world.pieces {
                    piece.2.iter_mut().for_each(|lives| *lives &= !dies(die_old));
                }
                let new: Vec<bool> = (0..jobs).map(|_| !dies(die_new)).collect();
                put += jobs as u64;
                world.pieces.push((PieceName::Log(SegmentNumber(world.next)), 2 << 20, new));
                world.compact();
                world.check();
            }
            // Each job is moved when it leaves the log, when a fifth of its neighbours died, and when small files are joined.
            prop_assert!(world.moved <= put * 20, "{} moved of {put}", world.moved);
        }
    }

    #[test]
    fn one_old_job_is_moved_out_of_each_segment_that_it_would_pin_and_a_damaged_file_is_left_alone() {
        let log = |number, live_jobs| Holding {
            name: PieceName::Log(SegmentNumber(number)),
            file_bytes: 64 << 20,
            jobs: 100_000,
            enqueue_bytes: 60 << 20,
            live_bytes: live_jobs * ENQUEUE,
            live_jobs,
            first_job: JobId(u64::from(number)),
            is_damaged: false,
        };
        assert_eq!(plan(&[log(1, 1)], &BOUNDS), Some(0..1));
        assert_eq!(plan(&[log(1, 1), log(2, 1), log(3, 1)], &BOUNDS), Some(0..3));
        let damaged = Holding { is_damaged: true, ..log(2, 1) };
        assert_eq!(plan(&[damaged], &BOUNDS), None);
        assert_eq!(plan(&[], &BOUNDS), None);
    }
}
