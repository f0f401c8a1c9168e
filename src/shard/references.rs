//! The leader's soft knowledge of which tubes connections use and watch, node by node, and the order in which tubes
//! came into being.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::net::message::ReferenceDelta;
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

/// Applies a change; a tube without references has no row.
pub fn change(references: &mut NodeReferences, delta: &ReferenceDelta) {
    let count = references.entry(delta.tube.clone()).or_default();
    count.change(delta);
    if count.is_zero() {
        references.remove(&delta.tube);
    }
}

/// All of a node's references as one report.
#[must_use]
pub fn report(references: &NodeReferences) -> Vec<ReferenceDelta> {
    references
        .iter()
        .map(|(tube, count)| ReferenceDelta {
            tube: tube.clone(),
            using: i64::try_from(count.using).unwrap_or(i64::MAX),
            watching: i64::try_from(count.watching).unwrap_or(i64::MAX),
        })
        .collect()
}

#[derive(Debug, Default)]
pub struct References {
    nodes: BTreeMap<NodeId, NodeReferences>,
    /// Tubes in order of their creation, and the order by tube.
    created: BTreeMap<u64, Bytes>,
    order: BTreeMap<Bytes, u64>,
    next_order: u64,
}

impl References {
    /// A tube has a record or a reference: it exists from now on.
    pub fn note_tube(&mut self, tube: &Bytes) {
        if !self.order.contains_key(tube) {
            self.order.insert(tube.clone(), self.next_order);
            self.created.insert(self.next_order, tube.clone());
            self.next_order += 1;
        }
    }

    pub fn handle_report(&mut self, node: NodeId, whole: bool, changes: &[ReferenceDelta]) -> Vec<Bytes> {
        let references = self.nodes.entry(node).or_default();
        let mut touched = BTreeSet::new();
        if whole {
            touched.extend(std::mem::take(references).into_keys());
        }
        for delta in changes {
            change(references, delta);
            touched.insert(delta.tube.clone());
        }
        for delta in changes {
            if self.is_referenced(&delta.tube) {
                self.note_tube(&delta.tube);
            }
        }
        touched.into_iter().filter(|tube| !self.is_referenced(tube)).collect()
    }

    /// What a node referenced is not known any more: it will report anew, or is gone with its connections.
    pub fn forget_node(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Whether a node has reported since this leader's term began.
    #[must_use]
    pub fn has_reported(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    #[must_use]
    pub fn count(&self, tube: &[u8]) -> Count {
        self.nodes.values().filter_map(|node| node.get(tube)).fold(Count::default(), |sum, count| Count {
            // Nodes may report anything.
            using: sum.using.saturating_add(count.using),
            watching: sum.watching.saturating_add(count.watching),
        })
    }

    #[must_use]
    pub fn is_referenced(&self, tube: &[u8]) -> bool {
        self.nodes.values().any(|node| node.contains_key(tube))
    }

    /// Forgets the place of a tube that has neither record nor reference.
    pub fn forget_tube(&mut self, tube: &[u8]) {
        if let Some(order) = self.order.remove(tube) {
            self.created.remove(&order);
        }
    }

    /// Tubes in order of creation.
    pub fn tubes(&self) -> impl Iterator<Item = &Bytes> {
        self.created.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(tube: &'static str, using: i64, watching: i64) -> ReferenceDelta {
        ReferenceDelta { tube: Bytes::from_static(tube.as_bytes()), using, watching }
    }

    #[test]
    fn references_are_summed_over_nodes_and_a_whole_report_replaces_the_node() {
        let mut references = References::default();
        references.handle_report(NodeId(1), true, &[delta("a", 1, 0), delta("b", 0, 1)]);
        references.handle_report(NodeId(2), true, &[delta("a", 2, 0)]);
        assert_eq!(references.count(b"a"), Count { using: 3, watching: 0 });
        let gone = references.handle_report(NodeId(1), true, &[delta("a", 1, 0)]);
        assert_eq!(gone, vec![Bytes::from_static(b"b")]);
        let gone = references.handle_report(NodeId(2), false, &[delta("a", -2, 0)]);
        assert!(gone.is_empty());
        assert_eq!(references.handle_report(NodeId(1), false, &[delta("a", -1, 0)]), vec![Bytes::from_static(b"a")]);
    }

    #[test]
    fn counts_that_no_node_can_have_are_summed_without_harm() {
        let mut references = References::default();
        for _ in 0..4 {
            references.handle_report(NodeId(1), false, &[delta("a", i64::MAX, i64::MAX)]);
            references.handle_report(NodeId(2), false, &[delta("a", i64::MAX, i64::MIN)]);
        }
        assert_eq!(references.count(b"a"), Count { using: u64::MAX, watching: u64::MAX });
    }

    #[test]
    fn tubes_are_listed_in_the_order_in_which_they_came_into_being() {
        let mut references = References::default();
        references.note_tube(&Bytes::from_static(b"default"));
        references.handle_report(NodeId(1), true, &[delta("w", 0, 1)]);
        references.handle_report(NodeId(1), false, &[delta("u", 1, 0)]);
        let names: Vec<&[u8]> = references.tubes().map(|tube| &tube[..]).collect();
        assert_eq!(names, [&b"default"[..], b"w", b"u"]);
    }
}
