//! Segment files: their names, their sizes, and the spares made ahead so that an append never waits for one. Decides
//! only; files are made by the driver's background task and by the writer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::format::BLOCK;
use super::index::SegmentNumber;

/// Far more than a log ever has; a file with a greater number is not one of ours.
const NUMBER_MAX: u32 = 1 << 31;

/// Spares that are to be ready or in the making at any time.
pub const SPARES_AHEAD: usize = 2;

/// How long segments are. Each life of a process starts small and doubles, so that neither a small shard nor a process
/// that is restarted over and over takes much disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSizes {
    pub first_bytes: u64,
    pub max_bytes: u64,
}

impl Default for SegmentSizes {
    fn default() -> SegmentSizes {
        SegmentSizes { first_bytes: 4 << 20, max_bytes: 64 << 20 }
    }
}

/// The file name of a segment.
#[must_use]
pub fn file_name(number: SegmentNumber) -> String {
    format!("{:010}.seg", number.0)
}

/// The segment that a file name names, if it is the name of one.
#[must_use]
pub fn parse_file_name(name: &str) -> Option<SegmentNumber> {
    let number = SegmentNumber(name.strip_suffix(".seg")?.parse().ok()?);
    // Only the one spelling: `1.seg` and `+1.seg` are somebody else's files.
    (number.0 <= NUMBER_MAX && file_name(number) == name).then_some(number)
}

/// A file to be made with `Disk::make_zeroed`; then `Writer::spare_ready`, or `Writer::spare_failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpareWanted {
    pub number: SegmentNumber,
    pub path: PathBuf,
    pub bytes: u64,
}

/// The spares of one log. A spare is a file of zeros with a number and nothing else; it becomes a segment when its
/// header is written, in any order.
#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    sizes: SegmentSizes,
    ready: BTreeMap<SegmentNumber, u64>,
    making: BTreeMap<SegmentNumber, u64>,
    /// Never a number that a file has, or had in this life.
    next_number: SegmentNumber,
    next_bytes: u64,
}

impl Spares {
    pub(super) fn new(dir: PathBuf, sizes: SegmentSizes, next_number: SegmentNumber) -> Spares {
        assert!(sizes.first_bytes.is_multiple_of(BLOCK) && sizes.max_bytes.is_multiple_of(BLOCK), "whole blocks");
        assert!(sizes.first_bytes <= sizes.max_bytes, "segments only grow");
        let next_bytes = sizes.first_bytes;
        Spares { dir, sizes, ready: BTreeMap::new(), making: BTreeMap::new(), next_number, next_bytes }
    }

    /// Spares to begin to make now; each is named once.
    pub(super) fn wanted(&mut self) -> Vec<SpareWanted> {
        let missing = SPARES_AHEAD.saturating_sub(self.ready.len() + self.making.len());
        let begin = |_| {
            let bytes = self.next_bytes;
            self.next_bytes = bytes.saturating_mul(2).min(self.sizes.max_bytes);
            let (number, path) = self.take_number();
            self.making.insert(number, bytes);
            SpareWanted { number, path, bytes }
        };
        (0..missing).map(begin).collect()
    }

    pub(super) fn handle_ready(&mut self, number: SegmentNumber) {
        let bytes = self.making.remove(&number).expect("a spare is announced once, and was asked for");
        self.ready.insert(number, bytes);
    }

    /// It will be wanted again, under another number, and half as long: where there is no room for it, there may be for
    /// less.
    pub(super) fn handle_failed(&mut self, number: SegmentNumber) {
        let bytes = self.making.remove(&number).expect("a spare is announced once, and was asked for");
        let less = (bytes / 2 / BLOCK * BLOCK).max(self.sizes.first_bytes);
        self.next_bytes = self.next_bytes.min(less);
    }

    /// The oldest spare that is ready and at least so long.
    pub(super) fn take(&mut self, bytes_min: u64) -> Option<(SegmentNumber, u64)> {
        let (&number, &bytes) = self.ready.iter().find(|(_, bytes)| **bytes >= bytes_min)?;
        self.ready.remove(&number);
        Some((number, bytes))
    }

    /// A segment to be allocated at once, because none is ready. Small, so that the log soon comes back to files whose
    /// blocks were written before.
    pub(super) fn emergency(&mut self, bytes_min: u64) -> SpareWanted {
        let (number, path) = self.take_number();
        SpareWanted { number, path, bytes: self.sizes.first_bytes.max(bytes_min) }
    }

    pub(super) fn path(&self, number: SegmentNumber) -> PathBuf {
        self.dir.join(file_name(number))
    }

    fn take_number(&mut self) -> (SegmentNumber, PathBuf) {
        let number = self.next_number;
        self.next_number = SegmentNumber(number.0.checked_add(1).expect("a log has fewer than 2^31 segments"));
        (number, self.path(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spares() -> Spares {
        let sizes = SegmentSizes { first_bytes: 8 << 10, max_bytes: 32 << 10 };
        Spares::new("/wal".into(), sizes, SegmentNumber(5))
    }

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(file_name(SegmentNumber(1)), "0000000001.seg");
        assert_eq!(parse_file_name("0000000001.seg"), Some(SegmentNumber(1)));
        for other in [
            "1.seg",
            "+000000001.seg",
            "0000000001",
            "00000000001.seg",
            "9999999999.seg",
            "4294967295.seg",
            ".seg",
            "x",
        ] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn two_spares_are_wanted_ahead_each_longer_up_to_the_bound() {
        let mut spares = spares();
        let sizes =
            |wanted: Vec<SpareWanted>| wanted.iter().map(|spare| (spare.number.0, spare.bytes)).collect::<Vec<_>>();
        assert_eq!(sizes(spares.wanted()), [(5, 8 << 10), (6, 16 << 10)]);
        assert_eq!(spares.wanted(), []);
        spares.handle_ready(SegmentNumber(6));
        assert_eq!(spares.wanted(), []);
        assert_eq!(spares.take(1), Some((SegmentNumber(6), 16 << 10)));
        assert_eq!(sizes(spares.wanted()), [(7, 32 << 10)]);
        spares.handle_failed(SegmentNumber(7));
        assert_eq!(sizes(spares.wanted()), [(8, 16 << 10)]);
        spares.handle_failed(SegmentNumber(8));
        assert_eq!(sizes(spares.wanted()), [(9, 8 << 10)]);
        spares.handle_failed(SegmentNumber(9));
        assert_eq!(sizes(spares.wanted()), [(10, 8 << 10)], "never less than the first");
    }

    #[test]
    fn a_spare_that_is_too_short_stays_for_later() {
        let mut spares = spares();
        spares.wanted();
        spares.handle_ready(SegmentNumber(5));
        assert_eq!(spares.take(9 << 10), None);
        assert_eq!(spares.emergency(9 << 10).bytes, 9 << 10);
        assert_eq!(spares.emergency(1).bytes, 8 << 10);
        assert_eq!(spares.take(1), Some((SegmentNumber(5), 8 << 10)));
    }
}
