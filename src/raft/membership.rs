//! Who belongs to a shard and in what part; what a membership entry of the log holds. A membership that
//! exists is well-formed: no node in two parts that exclude each other, never more voters than can be counted.

use crate::raft::quorum::{Tally, VOTERS_MAX, reached, tally};
use crate::types::NodeId;

/// Version byte of the encoding.
const FORMAT: u8 = 1;

/// The parts, as in joint consensus (Raft thesis 4.3).
///
/// Invariants: each list ascends without repeats; `voters` is not empty; learners do not vote in either set;
/// `learners_next` vote in the outgoing set and become learners when it goes; outside of a joint membership
/// `outgoing` and `learners_next` are empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Membership {
    voters: Vec<NodeId>,
    outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
    learners_next: Vec<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("a membership needs at least one voter")]
    NoVoters,
    #[error("a membership has at most {VOTERS_MAX} voters")]
    TooManyVoters,
    #[error("node ids start at 1")]
    NodeZero,
    #[error("node {0} is named twice in one part")]
    Repeated(NodeId),
    #[error("node {0} cannot be both a voter and a learner")]
    VoterAndLearner(NodeId),
    #[error("node {0} can become a learner only out of the voters that go")]
    NotOutgoing(NodeId),
    #[error("the encoding of a membership ends early, has bytes left over, or is of an unknown version")]
    Encoding,
}

impl Membership {
    /// A plain membership.
    pub fn new(
        voters: impl IntoIterator<Item = NodeId>,
        learners: impl IntoIterator<Item = NodeId>,
    ) -> Result<Membership, MembershipError> {
        Membership::joint(voters, [], learners, [])
    }

    /// A membership on its way from `outgoing` to `voters`; a plain one where `outgoing` is empty.
    pub fn joint(
        voters: impl IntoIterator<Item = NodeId>,
        outgoing: impl IntoIterator<Item = NodeId>,
        learners: impl IntoIterator<Item = NodeId>,
        learners_next: impl IntoIterator<Item = NodeId>,
    ) -> Result<Membership, MembershipError> {
        let membership = Membership {
            voters: ascending(voters)?,
            outgoing: ascending(outgoing)?,
            learners: ascending(learners)?,
            learners_next: ascending(learners_next)?,
        };
        membership.check()?;
        Ok(membership)
    }

    fn check(&self) -> Result<(), MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        if self.voters.len() > VOTERS_MAX || self.outgoing.len() > VOTERS_MAX {
            return Err(MembershipError::TooManyVoters);
        }
        if let Some(&node) = self.learners.iter().find(|node| self.is_voter(**node)) {
            return Err(MembershipError::VoterAndLearner(node));
        }
        for &node in &self.learners_next {
            if self.voters.contains(&node) {
                return Err(MembershipError::VoterAndLearner(node));
            }
            if !self.outgoing.contains(&node) {
                return Err(MembershipError::NotOutgoing(node));
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    #[must_use]
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    #[must_use]
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    #[must_use]
    pub fn learners_next(&self) -> &[NodeId] {
        &self.learners_next
    }

    /// Whether the node's vote counts, in either set.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Every member once, ascending.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        let mut members = [&self.voters[..], &self.outgoing, &self.learners].concat();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// How an election stands: both sets must agree.
    pub fn tally(&self, vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
        tally(&self.voters, &vote).and(tally(&self.outgoing, &vote))
    }

    /// The largest value that a majority of each set has reached.
    pub fn reached<T: Copy + Ord + Default>(&self, value: impl Fn(NodeId) -> T) -> T {
        let incoming = reached(&self.voters, &value).expect("a membership has voters");
        match reached(&self.outgoing, &value) {
            Some(outgoing) => incoming.min(outgoing),
            None => incoming,
        }
    }

    /// The payload of a membership entry: a version byte, then the four parts, each a count and its node ids.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        for part in [&self.voters, &self.outgoing, &self.learners, &self.learners_next] {
            bytes.push(u8::try_from(part.len()).expect("node ids are single bytes and no part repeats one"));
            bytes.extend(part.iter().map(|node| node.0));
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Membership, MembershipError> {
        let (&FORMAT, rest) = bytes.split_first().ok_or(MembershipError::Encoding)? else {
            return Err(MembershipError::Encoding);
        };
        let (voters, rest) = decode_part(rest)?;
        let (outgoing, rest) = decode_part(rest)?;
        let (learners, rest) = decode_part(rest)?;
        let (learners_next, rest) = decode_part(rest)?;
        if !rest.is_empty() {
            return Err(MembershipError::Encoding);
        }
        Membership::joint(voters, outgoing, learners, learners_next)
    }
}

fn decode_part(bytes: &[u8]) -> Result<(impl Iterator<Item = NodeId>, &[u8]), MembershipError> {
    let (&count, rest) = bytes.split_first().ok_or(MembershipError::Encoding)?;
    let (part, rest) = rest.split_at_checked(usize::from(count)).ok_or(MembershipError::Encoding)?;
    Ok((part.iter().map(|id| NodeId(*id)), rest))
}

fn ascending(nodes: impl IntoIterator<Item = NodeId>) -> Result<Vec<NodeId>, MembershipError> {
    let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
    nodes.sort_unstable();
    if nodes.first() == Some(&NodeId(0)) {
        return Err(MembershipError::NodeZero);
    }
    match nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(MembershipError::Repeated(pair[0])),
        None => Ok(nodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(ids: &[u8]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn a_joint_membership_needs_a_majority_of_both_sets() {
        let membership = Membership::joint(ids(&[1, 2, 3]), ids(&[3, 4, 5]), [], []).unwrap();
        let granted_by = |granted: &[u8]| membership.tally(|node| granted.contains(&node.0).then_some(true));
        assert_eq!(granted_by(&[1, 2]), Tally::Pending);
        assert_eq!(granted_by(&[1, 2, 4]), Tally::Pending);
        assert_eq!(granted_by(&[1, 3, 4]), Tally::Won);
        let refused_by_two_of_the_old = membership.tally(|node| match node.0 {
            4 | 5 => Some(false),
            _ => Some(true),
        });
        assert_eq!(refused_by_two_of_the_old, Tally::Lost);
        assert_eq!(membership.reached(|node| u64::from(node.0) * 10), 20);
    }

    #[test]
    fn learners_do_not_count() {
        let membership = Membership::new(ids(&[1, 2, 3]), ids(&[4, 5])).unwrap();
        assert_eq!(membership.tally(|node| (node.0 >= 4).then_some(true)), Tally::Pending);
        assert_eq!(membership.reached(|node| u64::from(node.0 >= 4)), 0);
        assert_eq!(membership.members(), ids(&[1, 2, 3, 4, 5]));
    }

    #[test]
    fn memberships_that_contradict_themselves_do_not_exist() {
        assert_eq!(Membership::new([], []), Err(MembershipError::NoVoters));
        assert_eq!(Membership::new(ids(&[0, 1]), []), Err(MembershipError::NodeZero));
        assert_eq!(Membership::new(ids(&[1, 2, 1]), []), Err(MembershipError::Repeated(NodeId(1))));
        assert_eq!(Membership::new(ids(&[1, 2]), ids(&[2])), Err(MembershipError::VoterAndLearner(NodeId(2))));
        assert_eq!(
            Membership::joint(ids(&[1]), ids(&[1]), [], ids(&[2])),
            Err(MembershipError::NotOutgoing(NodeId(2)))
        );
        assert_eq!(Membership::new((1..=16).map(NodeId), []), Err(MembershipError::TooManyVoters));
    }

    #[test]
    fn an_encoding_comes_back_as_it_was_and_a_cut_or_longer_one_does_not() {
        let membership = Membership::joint(ids(&[1, 2, 3]), ids(&[1, 2, 4]), ids(&[7]), ids(&[4])).unwrap();
        let bytes = membership.encode();
        assert_eq!(Membership::decode(&bytes), Ok(membership));
        for end in 0..bytes.len() {
            assert!(Membership::decode(&bytes[..end]).is_err());
        }
        assert!(Membership::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(membership) = Membership::decode(&bytes) {
                prop_assert_eq!(Membership::decode(&membership.encode()), Ok(membership));
            }
        }
    }
}
