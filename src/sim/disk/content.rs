//! The bytes of one simulated file: what the medium holds, and what was written but is not yet durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What a device writes as a whole, if it is in the mood.
pub const SECTOR_BYTES: usize = 512;

type Sector = Rc<[u8; SECTOR_BYTES]>;

/// What becomes of a sector that was not durable when the power went; with the rest of the odds it stays old.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SectorOdds {
    pub new: f64,
    /// Some first bytes new, the others old.
    pub torn: f64,
    pub garbage: f64,
}

impl SectorOdds {
    /// Nothing reaches the medium that was not durable.
    pub const OLD: SectorOdds = SectorOdds { new: 0.0, torn: 0.0, garbage: 0.0 };
    /// Everything does.
    pub const NEW: SectorOdds = SectorOdds { new: 1.0, torn: 0.0, garbage: 0.0 };
}

/// Sectors that are absent are zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    bytes: u64,
    durable_bytes: u64,
    medium: BTreeMap<u64, Sector>,
    /// Read in front of the medium.
    pending: BTreeMap<u64, Sector>,
    unreadable: BTreeSet<u64>,
}

impl Content {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn extend(&mut self, bytes: u64) {
        self.bytes = self.bytes.max(bytes);
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if offset + into.len() as u64 > self.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.unreadable.range(sectors(offset, into.len())).next().is_some() {
            return Err(io::Error::other("a sector cannot be read"));
        }
        into.fill(0);
        for layer in [&self.medium, &self.pending] {
            for (&sector, content) in layer.range(sectors(offset, into.len())) {
                let (within, from) = overlap(offset, into.len(), sector);
                into[within.clone()].copy_from_slice(&content[from..from + within.len()]);
            }
        }
        Ok(())
    }

    /// Takes effect for readers, and is not durable.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.extend(offset + bytes.len() as u64);
        for sector in sectors(offset, bytes.len()) {
            let mut content = self.visible(sector);
            let (within, at) = overlap(offset, bytes.len(), sector);
            content[at..at + within.len()].copy_from_slice(&bytes[within]);
            self.pending.insert(sector, Rc::new(content));
        }
    }

    /// What is pending in this range is durable now, and so is the length.
    pub(super) fn settle(&mut self, offset: u64, bytes: usize) {
        for sector in sectors(offset, bytes) {
            if let Some(content) = self.pending.remove(&sector) {
                self.put(sector, content);
            }
        }
        self.durable_bytes = self.bytes;
    }

    pub(super) fn sync(&mut self) {
        for (sector, content) in std::mem::take(&mut self.pending) {
            self.put(sector, content);
        }
        self.durable_bytes = self.bytes;
    }

    /// Each pending sector meets its own fate. How many were torn, and how many garbled.
    pub(super) fn cut_power(&mut self, random: &mut ChaCha8Rng, odds: SectorOdds) -> [u64; 2] {
        let (mut torn_count, mut garbled_count) = (0, 0);
        for (sector, new) in std::mem::take(&mut self.pending) {
            let mut fate = random.random::<f64>();
            let mut is = |odds: f64| {
                fate -= odds;
                fate < 0.0
            };
            if is(odds.new) {
                self.put(sector, new);
            } else if is(odds.torn) {
                let mut torn = self.medium.get(&sector).map_or([0; SECTOR_BYTES], |old| **old);
                let kept = random.random_range(1..SECTOR_BYTES);
                torn[..kept].copy_from_slice(&new[..kept]);
                torn_count += 1;
                self.put(sector, Rc::new(torn));
            } else if is(odds.garbage) {
                garbled_count += 1;
                self.put(sector, Rc::new(std::array::from_fn(|_| random.random())));
            }
        }
        if random.random::<f64>() < odds.new {
            self.durable_bytes = self.bytes;
        }
        self.bytes = self.durable_bytes;
        [torn_count, garbled_count]
    }

    /// Each pending sector in the range is forgotten with this probability: a failed write, or a process that died in
    /// the middle of one.
    pub(super) fn forget(&mut self, random: &mut ChaCha8Rng, offset: u64, bytes: usize, probability: f64) {
        let range = sectors(offset, bytes);
        self.pending.retain(|sector, _| !range.contains(sector) || !random.random_bool(probability));
    }

    /// Changes what the medium holds, behind everyone's back.
    pub(super) fn poke(&mut self, offset: u64, bytes: &[u8]) {
        self.write(offset, bytes);
        self.settle(offset, bytes.len());
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What the medium holds, whatever is pending and whatever can be read.
    pub(super) fn peek_medium(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        for (&sector, content) in self.medium.range(sectors(offset, into.len())) {
            let (within, from) = overlap(offset, into.len(), sector);
            into[within.clone()].copy_from_slice(&content[from..from + within.len()]);
        }
    }

    pub(super) fn make_unreadable(&mut self, offset: u64, bytes: usize) {
        self.unreadable.extend(sectors(offset, bytes));
    }

    fn visible(&self, sector: u64) -> [u8; SECTOR_BYTES] {
        self.pending.get(&sector).or_else(|| self.medium.get(&sector)).map_or([0; SECTOR_BYTES], |content| **content)
    }

    /// A sector that is written anew can be read again: devices remap it.
    fn put(&mut self, sector: u64, content: Sector) {
        self.unreadable.remove(&sector);
        if *content == [0; SECTOR_BYTES] {
            self.medium.remove(&sector);
        } else {
            self.medium.insert(sector, content);
        }
    }
}

fn sectors(offset: u64, bytes: usize) -> std::ops::Range<u64> {
    let sector_bytes = SECTOR_BYTES as u64;
    offset / sector_bytes..(offset + bytes as u64).div_ceil(sector_bytes)
}

/// Where a sector meets a range of bytes: in the range, and from where in the sector.
fn overlap(offset: u64, bytes: usize, sector: u64) -> (std::ops::Range<usize>, usize) {
    let start = sector * SECTOR_BYTES as u64;
    let end = start + SECTOR_BYTES as u64;
    let from = offset.max(start);
    let to = (offset + bytes as u64).min(end);
    ((from - offset) as usize..(to - offset) as usize, (from - start) as usize)
}
