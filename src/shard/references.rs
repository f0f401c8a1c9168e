//! Which tubes connections use and watch: what a node knows of its own, and the leader's soft knowledge of all nodes'.
//!
//! A node's report may name a hundred thousand tubes, and so may the report that it replaces. Neither is ever handled at
//! once: reports come in pieces, and what no longer counts is taken back in steps (`shed`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::net::message::{ReferenceDelta, ReferencePart};
use crate::types::NodeId;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub using: u64,
    pub watching: u64,
}

impl Count {
    fn is_zero(self) -> bool {
        self.using == 0 && self.watching == 0
    }

    fn change(&mut self, delta: &ReferenceDelta) {
        self.using = self.using.saturating_add_signed(delta.using);
        self.watching = self.watching.saturating_add_signed(delta.watching);
    }
}

/// One node's references: what it reports, and what the leader holds per reporter.
pub type NodeReferences = BTreeMap<Bytes, Count>;

/// Applies a change; a tube without references has no row. The counts before and after.
pub fn change(references: &mut NodeReferences, delta: &ReferenceDelta) -> (Count, Count) {
    match references.entry(delta.tube.clone()) {
        Entry::Occupied(mut row) => {
            let before = *row.get();
            row.get_mut().change(delta);
            let after = *row.get();
            if after.is_zero() {
                row.remove();
            }
            (before, after)
        }
        Entry::Vacant(row) => {
            let mut after = Count::default();
            after.change(delta);
            if !after.is_zero() {
                row.insert(after);
            }
            (Count::default(), after)
        }
    }
}

/// A piece of a node's whole report: at most so many references behind this one, or from the first on. Whether it is the last.
#[must_use]
pub fn piece(references: &NodeReferences, after: Option<&Bytes>, references_max: usize) -> (Vec<ReferenceDelta>, bool) {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = references.range::<Bytes, _>((from, Bound::Unbounded));
    let delta = |(tube, count): (&Bytes, &Count)| ReferenceDelta {
        tube: tube.clone(),
        using: i64::try_from(count.using).unwrap_or(i64::MAX),
        watching: i64::try_from(count.watching).unwrap_or(i64::MAX),
    };
    let piece = rest.by_ref().take(references_max).map(delta).collect();
    (piece, rest.next().is_none())
}

/// What one node has reported since it last connected.
#[derive(Debug, Default)]
struct Report {
    references: NodeReferences,
    is_complete: bool,
}

/// Wide enough for the counts of all nodes, whatever they say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    using: u128,
    watching: u128,
}

impl Sum {
    fn replace(&mut self, before: Count, after: Count) {
        self.using = self.using - u128::from(before.using) + u128::from(after.using);
        self.watching = self.watching - u128::from(before.watching) + u128::from(after.watching);
    }

    fn count(self) -> Count {
        let narrow = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        Count { using: narrow(self.using), watching: narrow(self.watching) }
    }
}

/// Invariants: `sums` are those over `nodes` and `leaving`, without zeros; `bare` holds exactly the tubes of `sums` that the
/// state machine knows no job of.
#[derive(Debug, Default)]
pub struct References {
    nodes: BTreeMap<NodeId, Report>,
    /// What was reported and counts no more, until it is taken back.
    leaving: VecDeque<NodeReferences>,
    sums: BTreeMap<Bytes, Sum>,
    bare: BTreeSet<Bytes>,
}

impl References {
    /// A piece of a report, or changes. `is_inhabited`: whether the state machine knows jobs of a tube. The tubes that
    /// are not referenced any more.
    pub fn handle_report(
        &mut self,
        node: NodeId,
        part: ReferencePart,
        changes: &[ReferenceDelta],
        is_inhabited: impl Fn(&[u8]) -> bool,
    ) -> Vec<Bytes> {
        let report = self.nodes.entry(node).or_default();
        if part.begins() {
            report.is_complete = false;
            let before = std::mem::take(&mut report.references);
            self.leaving.extend((!before.is_empty()).then_some(before));
        }
        report.is_complete |= part.ends();
        let mut unreferenced = Vec::new();
        for delta in changes {
            let (before, after) = change(&mut report.references, delta);
            if resum(&mut self.sums, &mut self.bare, &delta.tube, before, after, &is_inhabited) {
                unreferenced.push(delta.tube.clone());
            }
        }
        unreferenced
    }

    /// What a node referenced is not known any more: it will report anew, or is gone with its connections.
    pub fn forget_node(&mut self, node: NodeId) {
        let references = self.nodes.remove(&node).map(|report| report.references);
        self.leaving.extend(references.filter(|references| !references.is_empty()));
    }

    /// Whether something is still to be taken back.
    #[must_use]
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Takes back at most so many references that count no more. The tubes that are not referenced any more.
    pub fn shed(&mut self, references_max: usize, is_inhabited: impl Fn(&[u8]) -> bool) -> Vec<Bytes> {
        let mut unreferenced = Vec::new();
        for _ in 0..references_max {
            let Some(oldest) = self.leaving.front_mut() else { break };
            let Some((tube, before)) = oldest.pop_first() else {
                self.leaving.pop_front();
                continue;
            };
            if resum(&mut self.sums, &mut self.bare, &tube, before, Count::default(), &is_inhabited) {
                unreferenced.push(tube);
            }
        }
        unreferenced
    }

    /// Forgets at most so many references, of a leader that leads no more; whether that was all.
    pub fn dismantle(&mut self, references_max: usize) -> bool {
        self.leaving.extend(std::mem::take(&mut self.nodes).into_values().map(|report| report.references));
        self.shed(references_max, |_| true);
        let left = references_max.min(self.bare.len());
        (0..left).for_each(|_| _ = self.bare.pop_first());
        self.leaving.is_empty() && self.bare.is_empty()
    }

    /// The state machine knows jobs of this tube now, or knows none any more.
    pub fn note_inhabited(&mut self, tube: &Bytes, is_inhabited: bool) {
        if is_inhabited {
            self.bare.remove(tube);
        } else if self.is_referenced(tube) {
            self.bare.insert(tube.clone());
        }
    }

    /// Whether a node has reported everything since this leader's term began, or since it last connected.
    #[must_use]
    pub fn has_reported(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|report| report.is_complete)
    }

    /// Over all nodes. Costs the same however many there are, and however many tubes.
    #[must_use]
    pub fn count(&self, tube: &[u8]) -> Count {
        self.sums.get(tube).map_or_else(Count::default, |sum| sum.count())
    }

    #[must_use]
    pub fn is_referenced(&self, tube: &[u8]) -> bool {
        self.sums.contains_key(tube)
    }

    /// How many tubes exist only because they are used or watched.
    #[must_use]
    pub fn bare_count(&self) -> u64 {
        self.bare.len() as u64
    }

    /// At most so many of them, by name, behind this name or from the first on; and whether there are more.
    #[must_use]
    pub fn bare_after(&self, after: Option<&Bytes>, names_max: usize) -> (Vec<Bytes>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.bare.range::<Bytes, _>((from, Bound::Unbounded));
        let names = rest.by_ref().take(names_max).cloned().collect();
        (names, rest.next().is_some())
    }
}

/// A node's count of a tube changes; whether nobody references the tube any more.
fn resum(
    sums: &mut BTreeMap<Bytes, Sum>,
    bare: &mut BTreeSet<Bytes>,
    tube: &Bytes,
    before: Count,
    after: Count,
    is_inhabited: &impl Fn(&[u8]) -> bool,
) -> bool {
    let mut sum = match sums.entry(tube.clone()) {
        Entry::Occupied(row) => row,
        Entry::Vacant(row) => {
            // Changes may also name what was never referenced.
            let is_unreferenced = before == after;
            if !is_unreferenced {
                row.insert(Sum::default()).replace(before, after);
                if !is_inhabited(tube) {
                    bare.insert(tube.clone());
                }
            }
            return is_unreferenced;
        }
    };
    sum.get_mut().replace(before, after);
    if *sum.get() != Sum::default() {
        return false;
    }
    sum.remove();
    bare.remove(tube);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(tube: &'static str, using: i64, watching: i64) -> ReferenceDelta {
        ReferenceDelta { tube: Bytes::from_static(tube.as_bytes()), using, watching }
    }

    fn nothing_lives(_: &[u8]) -> bool {
        false
    }

    #[test]
    fn references_are_summed_over_nodes_and_a_whole_report_replaces_the_node() {
        let mut references = References::default();
        let mut report = |node, part, changes: &[ReferenceDelta]| {
            let mut gone = references.handle_report(NodeId(node), part, changes, nothing_lives);
            gone.extend(references.shed(10, nothing_lives));
            (gone, references.count(b"a"))
        };
        report(1, ReferencePart::Whole, &[delta("a", 1, 0), delta("b", 0, 1)]);
        let (_, count) = report(2, ReferencePart::Whole, &[delta("a", 2, 0)]);
        assert_eq!(count, Count { using: 3, watching: 0 });
        let (gone, count) = report(1, ReferencePart::Whole, &[delta("a", 1, 0)]);
        assert_eq!((gone, count.using), (vec![Bytes::from_static(b"b")], 3));
        assert_eq!(report(2, ReferencePart::Changes, &[delta("a", -2, 0)]).0, Vec::<Bytes>::new());
        assert_eq!(report(1, ReferencePart::Changes, &[delta("a", -1, 0)]).0, vec![Bytes::from_static(b"a")]);
    }

    #[test]
    fn a_report_in_pieces_counts_as_one_once_its_last_piece_has_come() {
        let mut references = References::default();
        let node = NodeId(1);
        let own = NodeReferences::from(
            [b"a", b"b", b"c"].map(|name| (Bytes::from_static(name), Count { using: 1, watching: 0 })),
        );
        let (first, is_last) = piece(&own, None, 2);
        assert!(!is_last);
        references.handle_report(node, ReferencePart::Begin, &first, nothing_lives);
        assert!(!references.has_reported(node) && !references.is_referenced(b"c"));
        let (second, is_last) = piece(&own, Some(&first[1].tube), 2);
        assert!(is_last);
        references.handle_report(node, ReferencePart::End, &second, nothing_lives);
        assert!(references.has_reported(node) && references.is_referenced(b"c"));
    }

    #[test]
    fn what_counts_no_more_is_taken_back_in_steps() {
        let mut references = References::default();
        let names: Vec<Bytes> = (0..10).map(|n| Bytes::from(format!("tube-{n}"))).collect();
        let changes = names.iter().map(|tube| ReferenceDelta { tube: tube.clone(), using: 1, watching: 0 });
        references.handle_report(NodeId(1), ReferencePart::Whole, &changes.collect::<Vec<_>>(), nothing_lives);
        references.forget_node(NodeId(1));
        assert!(!references.has_reported(NodeId(1)));
        assert_eq!(references.shed(4, nothing_lives), names[..4]);
        assert_eq!(references.bare_count(), 6, "the others still count");
        while references.has_leaving() {
            references.shed(4, nothing_lives);
        }
        assert_eq!((references.bare_count(), references.is_referenced(&names[9])), (0, false));
    }

    #[test]
    fn counts_that_no_node_can_have_are_summed_without_harm() {
        let mut references = References::default();
        for _ in 0..4 {
            references.handle_report(
                NodeId(1),
                ReferencePart::Changes,
                &[delta("a", i64::MAX, i64::MAX)],
                nothing_lives,
            );
            references.handle_report(
                NodeId(2),
                ReferencePart::Changes,
                &[delta("a", i64::MAX, i64::MIN)],
                nothing_lives,
            );
        }
        assert_eq!(references.count(b"a"), Count { using: u64::MAX, watching: u64::MAX });
        references.forget_node(NodeId(1));
        references.forget_node(NodeId(2));
        assert_eq!(references.shed(10, nothing_lives), [Bytes::from_static(b"a")]);
        assert_eq!(references.count(b"a"), Count::default());
    }

    #[test]
    fn bare_tubes_are_those_that_nobody_but_clients_knows_of_and_are_told_page_by_page() {
        let mut references = References::default();
        let all = ["a", "b", "c", "lives"].map(|name| delta(name, 0, 1));
        references.handle_report(NodeId(1), ReferencePart::Whole, &all, |tube| tube == b"lives");
        assert_eq!(references.bare_count(), 3);
        let (page, is_more) = references.bare_after(None, 2);
        assert_eq!((&page[..], is_more), (&[Bytes::from_static(b"a"), Bytes::from_static(b"b")][..], true));
        let (page, is_more) = references.bare_after(page.last(), 2);
        assert_eq!((&page[..], is_more), (&[Bytes::from_static(b"c")][..], false));
        references.note_inhabited(&Bytes::from_static(b"c"), true);
        references.note_inhabited(&Bytes::from_static(b"lives"), false);
        references.note_inhabited(&Bytes::from_static(b"unknown"), false);
        assert_eq!(references.bare_after(None, 9).0, ["a", "b", "lives"]);
    }
}
