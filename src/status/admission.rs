//! What the peers make of this node since it started: which of them admitted it, which refuse it,
//! and when their refusals leave it no majority to belong to.
//!
//! It must never take silence for a refusal: a peer that is down may admit the node when it is
//! back.

use std::collections::BTreeMap;

/// Kept per node, for the links of all its shards.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Members of the cluster, this node included.
    members: usize,
    /// A peer has admitted this node once. From then on refusals are no reason to end: the node
    /// belongs somewhere.
    is_admitted: bool,
    /// Peers whose last word was a refusal, each with its sentence and whether time alone could
    /// change it.
    refusals: BTreeMap<u8, Refused>,
}

#[derive(Debug, Clone)]
struct Refused {
    why: String,
    is_lasting: bool,
}

impl Admission {
    #[must_use]
    pub fn new(members: usize) -> Admission {
        assert!(members > 0, "a node is a member of its own cluster");
        Admission { members, is_admitted: false, refusals: BTreeMap::new() }
    }

    pub fn note_admitted(&mut self, peer: u8) {
        self.is_admitted = true;
        self.refusals.remove(&peer);
    }

    /// `is_lasting`: the two nodes cannot work together until an operator changes one of them.
    pub fn note_refused(&mut self, peer: u8, why: &str, is_lasting: bool) {
        self.refusals.insert(peer, Refused { why: why.to_owned(), is_lasting });
    }

    /// Whether there is no peer to ask, or one has admitted this node.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.is_admitted || self.members == 1
    }

    /// The peers that refuse this node now, each with its reason, ascending.
    pub fn refusals(&self) -> impl Iterator<Item = (u8, &str)> {
        self.refusals.iter().map(|(peer, refused)| (*peer, refused.why.as_str()))
    }

    /// Why this node can be part of no majority, if so: nobody has admitted it, and those that do
    /// not refuse it for good are too few. One refusal alone is not enough: it may be the peer
    /// whose configuration is wrong.
    #[must_use]
    pub fn hopeless(&self) -> Option<String> {
        let lasting = self.refusals.values().filter(|refused| refused.is_lasting).count();
        let majority = self.members / 2 + 1;
        if self.is_admitted() || self.members - lasting.min(self.members) >= majority {
            return None;
        }
        let reasons: Vec<String> = self
            .refusals
            .iter()
            .filter(|(_, refused)| refused.is_lasting)
            .map(|(peer, refused)| format!("node {peer} says: {}", refused.why))
            .collect();
        Some(reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(members: usize, lasting: &[u8]) -> Admission {
        let mut admission = Admission::new(members);
        for peer in lasting {
            admission.note_refused(*peer, "another cluster", true);
        }
        admission
    }

    #[test]
    fn a_start_is_hopeless_when_those_who_do_not_refuse_are_no_majority() {
        assert_eq!(refused(3, &[]).hopeless(), None);
        assert_eq!(refused(3, &[2]).hopeless(), None);
        let says = "node 2 says: another cluster; node 3 says: another cluster".to_owned();
        assert_eq!(refused(3, &[2, 3]).hopeless(), Some(says));
        assert!(refused(2, &[2]).hopeless().is_some());
        assert_eq!(refused(5, &[2, 3]).hopeless(), None);
        assert!(refused(5, &[2, 3, 4]).hopeless().is_some());
    }

    #[test]
    fn a_node_that_one_peer_admitted_is_never_hopeless() {
        let mut admission = refused(3, &[2]);
        admission.note_admitted(3);
        admission.note_refused(3, "another cluster", true);
        assert_eq!(admission.hopeless(), None);
    }

    #[test]
    fn what_time_can_change_is_a_refusal_and_no_reason_to_end() {
        let mut admission = refused(2, &[]);
        admission.note_refused(2, "this node stops", false);
        assert_eq!(admission.hopeless(), None);
        assert_eq!(admission.refusals().collect::<Vec<_>>(), [(2, "this node stops")]);
        admission.note_admitted(2);
        assert_eq!(admission.refusals().count(), 0);
    }

    #[test]
    fn a_node_without_peers_needs_nobody() {
        assert!(Admission::new(1).is_admitted());
        assert!(!Admission::new(3).is_admitted());
    }
}
