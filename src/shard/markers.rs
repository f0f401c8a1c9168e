//! Markers: entries at which every node keeps a snapshot of the same state, and compares itself with the others.
//!
//! ```text
//!   ... entries ... [marker k: digest at k-1] ... entries ... [marker k+1: digest at k] ...
//!                       |                                         |
//!                       +- every node: digest, snapshot           +- every node: was mine the majority's?
//!                       +- followers report the digest to the leader
//! ```
//!
//! The leader must never say of a marker more than a majority has reported. A node that differs from the majority stops;
//! where there is no majority, all of them do.

use std::collections::{BTreeMap, VecDeque};

use super::effect::{Effect, SnapshotDraft, Stop};
use super::leading::Leading;
use super::{Moment, Shard};
use crate::job::Capture;
use crate::net::message::PeerMessage;
use crate::raft::quorum::Tally;
use crate::snapshot::Frame;
use crate::types::{Index, LogPosition, Nanos, NodeId};
use crate::wal::entry::{Entry, EntryKind};
use crate::wal::format::record_bytes;

/// Digests of so many markers are remembered: the one that the next marker speaks of, and some in case it comes late.
const REMEMBERED: usize = 4;

/// A load that has gone idle for this long is marked once it has brought an eighth of what a marker stands for.
const IDLE_AFTER: Nanos = Nanos::from_secs(1);
const IDLE_SHARE: u64 = 8;

/// Between two markers the log grows by at least so many times what a snapshot takes: with many jobs that are not just waiting it
/// may be large, and is not to be most of what is written.
const LOG_PER_SNAPSHOT: u64 = 2;

/// While some node's disk lacks room, what was deleted is to make some. One marker tells what lives, the next one raises the floor to
/// where the first stands; one more, since a node that writes a snapshot at the time lets one pass.
const FREEING_MARKERS: u8 = 3;

/// So long must pass between two of those.
const FREEING_EVERY: Nanos = Nanos::from_secs(1);

const VERSION: u8 = 1;

/// What the leader knows of the digests at the marker before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too few have reported.
    Open,
    /// That of a majority.
    Agreed { marker: Index, digest: u128 },
    /// All have reported, and no majority agrees.
    Split { marker: Index },
}

impl Verdict {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, marker, digest) = match *self {
            Verdict::Open => (0, Index::ZERO, 0),
            Verdict::Agreed { marker, digest } => (1, marker, digest),
            Verdict::Split { marker } => (2, marker, 0),
        };
        let mut bytes = vec![VERSION, kind];
        bytes.extend(marker.0.to_le_bytes());
        bytes.extend(digest.to_le_bytes());
        bytes
    }

    /// None for what is no verdict that this version knows.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Verdict> {
        let ([VERSION, kind], rest) = bytes.split_first_chunk()? else { return None };
        let (marker, rest) = rest.split_first_chunk()?;
        let marker = Index(u64::from_le_bytes(*marker));
        let digest = u128::from_le_bytes(rest.try_into().ok()?);
        match kind {
            0 => Some(Verdict::Open),
            1 => Some(Verdict::Agreed { marker, digest }),
            2 => Some(Verdict::Split { marker }),
            _ => None,
        }
    }
}

/// Every node's part.
#[derive(Debug, Default)]
pub struct Markers {
    /// What the entries applied since the last marker, or since this node started from a snapshot, take on disk.
    bytes_since: u64,
    last_applied: Nanos,
    /// How many more markers it takes until everything that was applied has freed what it can.
    freeing: u8,
    last_marked: Nanos,
    /// This node's digests at the last markers, ascending.
    own: VecDeque<(Index, u128)>,
    /// The snapshot of a marker, until the log below it is durable here and none is being written.
    captured: Option<(Frame, Capture)>,
    /// A snapshot is being written.
    is_writing: bool,
    /// A marker is wanted whatever the log has grown by, if it has grown at all.
    is_asked: bool,
}

impl Markers {
    /// Of a node that starts from this state.
    pub(super) fn new(position: LogPosition, digest: u128, now: Nanos) -> Markers {
        Markers {
            own: VecDeque::from([(position.index, digest)]),
            last_applied: now,
            last_marked: now,
            ..Markers::default()
        }
    }

    fn own_at(&self, marker: Index) -> Option<u128> {
        self.own.iter().find(|(index, _)| *index == marker).map(|(_, digest)| *digest)
    }

    fn last(&self) -> Option<(Index, u128)> {
        self.own.back().copied()
    }

    /// When a load that has ended is marked.
    fn idle_at(&self, due_bytes: u64) -> Option<Nanos> {
        let is_worth_it = self.bytes_since >= (due_bytes / IDLE_SHARE).max(1);
        is_worth_it.then(|| self.last_applied.saturating_add(IDLE_AFTER))
    }

    /// When the next one is due that frees room.
    fn freeing_at(&self) -> Option<Nanos> {
        (self.freeing > 0).then(|| self.last_marked.saturating_add(FREEING_EVERY))
    }
}

/// The leader's part.
#[derive(Debug, Default)]
pub struct MarkerReports {
    /// The marker that was proposed and is not applied here.
    proposed: Option<Index>,
    /// What each node last said.
    digests: BTreeMap<NodeId, (Index, u128)>,
}

impl Shard {
    pub(super) fn last_marker(&self) -> Option<(Index, u128)> {
        self.markers.last()
    }

    /// Whether a marker of this node's is under way, or a snapshot.
    #[must_use]
    pub fn is_marking(&self) -> bool {
        let is_proposed = self.leading.as_ref().is_some_and(|leading| leading.markers.proposed.is_some());
        is_proposed || self.markers.is_asked || self.markers.is_writing || self.markers.captured.is_some()
    }

    /// The node is about to stop in peace: what it would have to replay is marked, if it leads.
    pub fn handle_stopping(&mut self) {
        self.markers.is_asked = self.has_markers() && self.leading.is_some() && self.markers.bytes_since > 0;
    }

    /// Somebody needs a snapshot of all there is. Where nothing comes any more, no marker falls due by itself; and who
    /// asks may have had more entries than were ever committed, so that only a later marker covers them. Each one makes an end of
    /// idleness, so they come no faster than that.
    pub(super) fn mark_where_idle(&mut self, moment: Moment) {
        if moment.now >= self.markers.last_applied.saturating_add(IDLE_AFTER) {
            self.ask_for_marker();
        }
    }

    /// The leader's part: another snapshot is wanted, whether or not anything has come since the last.
    pub(super) fn ask_for_marker(&mut self) {
        self.markers.is_asked |= self.has_markers() && self.leading.is_some();
    }

    /// The snapshot of the last effect is written, or could not be.
    pub fn handle_snapshot_written(&mut self) {
        self.markers.is_writing = false;
    }

    /// When a marker falls due by the clock.
    pub(super) fn next_marker(&self) -> Nanos {
        // What is under way now ends with an event.
        let due = if self.can_mark() { self.marker_due_at() } else { None };
        due.unwrap_or(Nanos(u64::MAX))
    }

    /// The leader's part: whether nothing else is under way.
    fn can_mark(&self) -> bool {
        let is_first = |leading: &Leading| leading.settled && leading.markers.proposed.is_none();
        self.leading.as_ref().is_some_and(is_first)
            && self.appending.is_empty()
            && self.raft.takes_entries()
            && self.applied.index == self.committed
    }

    fn marker_due_at(&self) -> Option<Nanos> {
        if !self.has_markers() {
            return None;
        }
        let freeing = self.markers.freeing_at().filter(|_| self.is_room_lacking());
        self.markers.idle_at(self.due_bytes()).into_iter().chain(freeing).min()
    }

    /// A marker is proposed when the entries since the last one take so much on disk.
    fn due_bytes(&self) -> u64 {
        let snapshot_bytes = self.giving.newest_name().map_or(0, |name| name.bytes);
        self.config.marker_bytes.max(snapshot_bytes.saturating_mul(LOG_PER_SNAPSHOT))
    }

    fn has_markers(&self) -> bool {
        self.config.marker_bytes > 0
    }

    /// The leader's part: proposes a marker where one is due and nothing else is under way.
    pub(super) fn propose_marker(&mut self, moment: Moment) {
        if !self.has_markers() {
            return;
        }
        if self.leading.as_ref().is_none_or(|leading| leading.markers.proposed.is_some()) {
            self.markers.is_asked = false;
        }
        if !self.can_mark() {
            return;
        }
        let verdict = self.verdict();
        let is_time = self.marker_due_at().is_some_and(|at| at <= moment.now);
        let is_due = self.markers.bytes_since >= self.due_bytes() || is_time || self.markers.is_asked;
        if !is_due && !self.is_contested(verdict) {
            return;
        }
        self.markers.is_asked = false;
        let index = self.propose(moment, EntryKind::Marker, &verdict.encode(), 0);
        if let Some(leading) = self.leading.as_mut() {
            leading.markers.proposed = Some(index);
        }
        self.follow_raft(moment);
    }

    fn verdict(&self) -> Verdict {
        let (Some(leading), Some((marker, own))) = (self.leading.as_ref(), self.markers.last()) else {
            return Verdict::Open;
        };
        let said = |node: NodeId| match leading.markers.digests.get(&node) {
            _ if node == self.config.node => Some(own),
            Some(&(index, digest)) if index == marker => Some(digest),
            _ => None,
        };
        let voters = self.config.membership.voters();
        let agreed = voters
            .iter()
            .filter_map(|&node| said(node))
            .find(|&digest| self.config.membership.tally(|node| said(node).map(|other| other == digest)) == Tally::Won);
        match agreed {
            Some(digest) => Verdict::Agreed { marker, digest },
            None if voters.iter().all(|&node| said(node).is_some()) => Verdict::Split { marker },
            None => Verdict::Open,
        }
    }

    /// Whether somebody differs: that is said at once, not after another so many bytes.
    fn is_contested(&self, verdict: Verdict) -> bool {
        let Some(leading) = self.leading.as_ref() else { return false };
        match verdict {
            Verdict::Open => false,
            Verdict::Split { .. } => true,
            Verdict::Agreed { marker, digest } => {
                let differs = |&(index, other): &(Index, u128)| index == marker && other != digest;
                leading.markers.digests.values().any(differs) || self.markers.own_at(marker) != Some(digest)
            }
        }
    }

    /// Compares this node with what a marker says; false where it must not go on.
    pub(super) fn check_marker(&mut self, entry: &Entry) -> bool {
        let position = entry.meta.position;
        let Some(verdict) = Verdict::decode(entry.payload()) else {
            self.stop(Stop::UnreadableCommand { position, why: "its marker is of a version that is not known".into() });
            return false;
        };
        match verdict {
            Verdict::Open => true,
            Verdict::Agreed { marker, digest } => match self.markers.own_at(marker) {
                Some(own) if own != digest => {
                    self.stop(Stop::StateDiffers { marker, own, majority: Some(digest) });
                    false
                }
                _ => true,
            },
            Verdict::Split { marker } => {
                let own = self.markers.own_at(marker).unwrap_or_default();
                self.stop(Stop::StateDiffers { marker, own, majority: None });
                false
            }
        }
    }

    /// An entry was applied.
    pub(super) fn count_for_marker(&mut self, moment: Moment, entry: &Entry) {
        self.markers.last_applied = moment.now;
        if entry.kind != EntryKind::Marker {
            self.markers.bytes_since += record_bytes(entry.meta.bytes);
            self.markers.freeing = FREEING_MARKERS;
            return;
        }
        self.markers.bytes_since = 0;
        self.markers.freeing = self.markers.freeing.saturating_sub(1);
        self.markers.last_marked = moment.now;
        let index = entry.meta.position.index;
        let digest = self.machine.digest();
        self.markers.own.push_back((index, digest));
        if self.markers.own.len() > REMEMBERED {
            self.markers.own.pop_front();
        }
        if let Some(leading) = self.leading.as_mut()
            && leading.markers.proposed.is_some_and(|proposed| proposed <= index)
        {
            leading.markers.proposed = None;
        }
        self.report_marker();
        // Of the markers that come while an earlier one's snapshot is written, the last has the next one: there may be no later
        // marker for long. Where one waits for the log to be durable, it stays: under load there would never be an end of that.
        if self.markers.is_writing || self.markers.captured.is_none() {
            let capture = self.machine.capture();
            let membership = self.raft.membership().clone();
            let frame = Frame::partial(&capture, self.config.log, entry.meta.chain, membership);
            self.markers.captured = Some((frame, capture));
        }
    }

    /// Tells the leader this node's digest at the last marker.
    pub(super) fn report_marker(&mut self) {
        let (Some((leader, term)), Some((marker, digest))) = (self.upstream, self.markers.last()) else { return };
        if leader != self.config.node {
            self.send(leader, PeerMessage::MarkerDigest { term, marker, digest });
        }
    }

    /// The leader's part.
    pub(super) fn handle_marker_digest(&mut self, from: NodeId, marker: Index, digest: u128) {
        if let Some(leading) = self.leading.as_mut() {
            leading.markers.digests.insert(from, (marker, digest));
        }
    }

    /// Has the captured snapshot written once the log that it stands on is durable here: a node must not come back with a
    /// state that its log does not reach.
    pub(super) fn save_snapshot(&mut self) {
        let durable = self.durable_upto();
        if self.stopped || self.markers.is_writing {
            return;
        }
        if let Some((frame, capture)) = self.markers.captured.take_if(|(frame, _)| frame.position.index <= durable) {
            self.markers.is_writing = true;
            self.effects.push_back(Effect::WriteSnapshot(Box::new(SnapshotDraft { frame, capture })));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_was_written_and_nothing_else_is() {
        let verdicts = [
            Verdict::Open,
            Verdict::Agreed { marker: Index(9), digest: 1 << 100 },
            Verdict::Split { marker: Index(3) },
        ];
        for verdict in verdicts {
            let bytes = verdict.encode();
            assert_eq!(Verdict::decode(&bytes), Some(verdict));
            assert_eq!(Verdict::decode(&bytes[1..]), None);
            assert_eq!(Verdict::decode(&[&bytes[..], &[0]].concat()), None);
            assert_eq!(Verdict::decode(&[&[2], &bytes[1..]].concat()), None);
        }
    }
}
