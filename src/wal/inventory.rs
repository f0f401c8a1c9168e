//! What a log with faulty entries holds: of each live entry where it lies, or what is still known of it. It answers peers that
//! look for copies, and lays out what a repair has to write. It must never say of an entry that was here that it was not.

use std::collections::BTreeMap;

use super::entry::Entry;
use super::format::{BLOCK, SegmentHeader, record_bytes};
use super::index::{Placement, SegmentNumber};
use super::rewrite::{Piece, Plan, Source};
use crate::raft::message::EntryMeta;
use crate::types::{ChainHash, Index};

/// One entry's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Whole {
        meta: EntryMeta,
        placement: Placement,
    },
    /// It lay at this offset, or, with others of that offset, behind it.
    Faulty {
        chain: Option<ChainHash>,
        segment: SegmentNumber,
        offset: u64,
    },
}

impl Slot {
    fn segment(&self) -> SegmentNumber {
        match self {
            Slot::Whole { placement, .. } => placement.segment,
            Slot::Faulty { segment, .. } => *segment,
        }
    }

    fn chain(&self) -> Option<ChainHash> {
        match self {
            Slot::Whole { meta, .. } => Some(meta.chain),
            Slot::Faulty { chain, .. } => *chain,
        }
    }
}

/// What there is of an entry that somebody looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copies {
    /// It, behind as many of those before it as were asked for and are whole, in order.
    At(Vec<Placement>),
    /// It may have been here.
    Faulty,
    /// Another one is in its place, or the log ends before it.
    Absent,
    /// The log begins behind it, or which one is meant is not known.
    Unknown,
}

/// Invariant: slot `k` is that of the entry with index `base + 1 + k`.
#[derive(Debug, Clone)]
pub struct Inventory {
    base: Index,
    slots: Vec<Slot>,
    /// Those in use, in order.
    segments: Vec<SegmentHeader>,
    committed: Index,
}

impl Inventory {
    #[must_use]
    pub fn new(base: Index, slots: Vec<Slot>, segments: Vec<SegmentHeader>, committed: Index) -> Inventory {
        Inventory { base, slots, segments, committed }
    }

    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.base.0 + self.slots.len() as u64)
    }

    /// Up to where the log itself knows that it was committed.
    #[must_use]
    pub fn committed(&self) -> Index {
        self.committed
    }

    #[must_use]
    pub fn get(&self, index: Index) -> Option<&Slot> {
        self.slots.get(self.place(index)?)
    }

    fn place(&self, index: Index) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.base.0)?.checked_sub(1)?).ok()
    }

    fn indexed(&self) -> impl DoubleEndedIterator<Item = (Index, &Slot)> {
        self.slots.iter().enumerate().map(|(place, slot)| (Index(self.base.0 + 1 + place as u64), slot))
    }

    /// The faulty entries, ascending.
    pub fn faulty(&self) -> impl DoubleEndedIterator<Item = Index> + '_ {
        self.indexed().filter(|(_, slot)| matches!(slot, Slot::Faulty { .. })).map(|(index, _)| index)
    }

    /// The chain hash of an entry, as far as it is known.
    #[must_use]
    pub fn chain(&self, index: Index) -> Option<ChainHash> {
        self.get(index)?.chain()
    }

    /// The segment in which an entry lies.
    #[must_use]
    pub fn segment(&self, index: Index) -> Option<SegmentNumber> {
        self.get(index).map(Slot::segment)
    }

    /// What a peer that looks for the entry at `last` with this chain hash, and for those before it down to `first`, can
    /// have, as far as `bytes_max` goes.
    #[must_use]
    pub fn copies(&self, first: Index, last: Index, chain: Option<ChainHash>, bytes_max: u64) -> Copies {
        let Some(slot) = self.get(last) else {
            return if last > self.last() { Copies::Absent } else { Copies::Unknown };
        };
        let mut placements = match (slot, chain) {
            (_, Some(wanted)) if slot.chain().is_some_and(|own| own != wanted) => return Copies::Absent,
            (Slot::Faulty { .. }, _) => return Copies::Faulty,
            (Slot::Whole { .. }, None) => return Copies::Unknown,
            (Slot::Whole { placement, .. }, Some(_)) => vec![*placement],
        };
        let mut bytes = placements.iter().map(|placement| u64::from(placement.bytes)).sum::<u64>();
        for index in (first.0..last.0).rev().map(Index) {
            let Some(Slot::Whole { placement, .. }) = self.get(index) else { break };
            bytes += u64::from(placement.bytes);
            if bytes > bytes_max {
                break;
            }
            placements.push(*placement);
        }
        placements.reverse();
        Copies::At(placements)
    }

    /// What to write so that a segment holds these entries in the place of faulty ones; none where they do not fit, so that
    /// they are not what was there. Faulty entries that are not among them stay so.
    #[must_use]
    pub fn plan(&self, segment: SegmentNumber, found: &BTreeMap<Index, Entry>) -> Option<Plan> {
        let header = *self.segments.iter().find(|header| header.number == segment)?;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut end = BLOCK;
        let mut last = None;
        for (index, slot) in self.indexed().filter(|(_, slot)| slot.segment() == segment) {
            let piece = match (slot, found.get(&index)) {
                (Slot::Whole { meta, placement }, _) => {
                    Piece { index, chain: meta.chain, source: Source::Here, placement: *placement }
                }
                (Slot::Faulty { offset, .. }, Some(entry)) => {
                    let placement = Placement { segment, offset: end.max(*offset), bytes: entry.meta.bytes };
                    Piece { index, chain: entry.meta.chain, source: Source::Given(entry.clone()), placement }
                }
                (Slot::Faulty { .. }, None) => {
                    last = None;
                    continue;
                }
            };
            if piece.placement.offset < end {
                return None;
            }
            end = piece.placement.offset + record_bytes(piece.placement.bytes);
            last = Some(index);
            pieces.push(piece);
        }
        (end <= header.bytes).then_some(Plan { header, pieces, is_whole: last.is_some(), commit: self.committed })
    }

    /// The plan was carried out.
    pub fn handle_rewritten(&mut self, plan: &Plan) {
        for piece in &plan.pieces {
            if let Source::Given(entry) = &piece.source
                && let Some(place) = self.place(piece.index)
            {
                self.slots[place] = Slot::Whole { meta: entry.meta, placement: piece.placement };
            }
        }
    }
}
