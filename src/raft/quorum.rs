//! Counting: who won, and what a majority has reached. A count may never be favourable without a majority of
//! every set of voters it is asked about (Raft thesis 4.3: joint consensus needs both).

use crate::mutation::{self, Mutation};
use crate::types::NodeId;

/// No set of voters is larger. Keeps counting free of allocation.
pub const VOTERS_MAX: usize = 15;

/// How an election stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    Won,
    Lost,
    Pending,
}

impl Tally {
    /// Of two sets that must both agree.
    #[must_use]
    pub fn and(self, other: Tally) -> Tally {
        match (self, other) {
            (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
            (Tally::Won, Tally::Won) => Tally::Won,
            _ => Tally::Pending,
        }
    }
}

/// How many of `voters` make a majority.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Counts one set of voters; an empty set agrees to everything, which is what makes it neutral in a joint count.
pub fn tally(voters: &[NodeId], vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
    if voters.is_empty() {
        return Tally::Won;
    }
    let (mut granted, mut refused) = (0, 0);
    for &voter in voters {
        match vote(voter) {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    let needed = majority(voters.len());
    if granted >= needed {
        Tally::Won
    } else if voters.len() - refused < needed {
        Tally::Lost
    } else {
        Tally::Pending
    }
}

/// The largest value that a majority of `voters` has reached; none for an empty set, which bounds nothing.
pub fn reached<T: Copy + Ord + Default>(voters: &[NodeId], value: impl Fn(NodeId) -> T) -> Option<T> {
    assert!(voters.len() <= VOTERS_MAX, "memberships hold no more voters than can be counted");
    let mut values = [T::default(); VOTERS_MAX];
    for (slot, &voter) in values.iter_mut().zip(voters) {
        *slot = value(voter);
    }
    let values = &mut values[..voters.len()];
    if !mutation::is_on(Mutation::UnsortedQuorum) {
        values.sort_unstable();
    }
    // In ascending order a majority stands at or behind this place.
    let place = voters.len().checked_sub(majority(voters.len()))?;
    values.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, not the algorithm: some majority, all of whose members have the value.
    fn reached_by_trying_every_subset(values: &[u64]) -> Option<u64> {
        (0u32..1 << values.len())
            .filter(|subset| subset.count_ones() as usize > values.len() / 2)
            .filter_map(|subset| {
                let members = values.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0);
                members.map(|(_, value)| *value).min()
            })
            .max()
    }

    fn tally_by_trying_every_completion(votes: &[Option<bool>]) -> Tally {
        let open: Vec<usize> = (0..votes.len()).filter(|i| votes[*i].is_none()).collect();
        let wins = |completion: u32| {
            let mut granted = votes.iter().filter(|vote| **vote == Some(true)).count();
            granted += open.iter().enumerate().filter(|(bit, _)| completion & (1 << bit) != 0).count();
            granted > votes.len() / 2
        };
        let outcomes: Vec<bool> = (0u32..1 << open.len()).map(wins).collect();
        match (outcomes.iter().all(|won| *won), outcomes.iter().any(|won| *won)) {
            (true, _) => Tally::Won,
            (_, false) => Tally::Lost,
            _ => Tally::Pending,
        }
    }

    fn nodes(count: usize) -> Vec<NodeId> {
        (1..=count).map(|id| NodeId(u8::try_from(id).expect("few"))).collect()
    }

    proptest! {
        #[test]
        fn r4_what_is_reached_equals_the_best_of_all_majorities(values in prop::collection::vec(0u64..6, 1..=9)) {
            let counted = reached(&nodes(values.len()), |node| values[usize::from(node.0) - 1]);
            prop_assert_eq!(counted, reached_by_trying_every_subset(&values));
        }

        #[test]
        fn a_tally_equals_what_every_completion_of_the_votes_says(
            votes in prop::collection::vec(prop::option::of(any::<bool>()), 1..=9),
        ) {
            let counted = tally(&nodes(votes.len()), |node| votes[usize::from(node.0) - 1]);
            prop_assert_eq!(counted, tally_by_trying_every_completion(&votes));
        }
    }

    #[test]
    fn an_empty_set_agrees_to_everything_and_bounds_nothing() {
        assert_eq!(tally(&[], |_| None), Tally::Won);
        assert_eq!(reached(&[], |_| 7u64), None);
    }
}
