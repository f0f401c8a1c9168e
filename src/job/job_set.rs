//! A set of job ids that costs about a bit per job when it is large and dense, and little when it is tiny. Its
//! form depends on its history, what it holds does not: nothing may look at the form.

use roaring::RoaringTreemap;

use crate::types::JobId;

/// Up to so many ids are a sorted list.
const FEW_MAX: usize = 32;

/// A bitmap that shrinks to this becomes a list again. Far below [`FEW_MAX`], so that a set whose size swings
/// about that limit does not change its form with each command.
const MANY_MIN: usize = 8;

/// A set of jobs, never empty: a class without jobs has no set.
#[derive(Debug, Clone)]
pub(super) struct JobSet {
    /// The smallest id, kept beside the ids because every reservation asks for it.
    first: JobId,
    /// None while `first` is the only one: there may be as many classes as jobs, and then a set must be small.
    ids: Option<Box<Ids>>,
}

/// More than one id, `first` included.
#[derive(Debug, Clone)]
enum Ids {
    /// Ascending.
    Few(Vec<JobId>),
    /// The count is kept, because the bitmap adds up its containers on each `len`.
    Many { bits: RoaringTreemap, count: usize },
}

impl Ids {
    fn contains(&self, job: JobId) -> bool {
        match self {
            Ids::Few(ids) => ids.binary_search(&job).is_ok(),
            Ids::Many { bits, .. } => bits.contains(job.0),
        }
    }

    fn insert(&mut self, job: JobId) -> bool {
        match self {
            Ids::Few(ids) => {
                let Err(place) = ids.binary_search(&job) else { return false };
                ids.insert(place, job);
                if ids.len() > FEW_MAX {
                    *self = Ids::Many { count: ids.len(), bits: ids.iter().map(|id| id.0).collect() };
                }
                true
            }
            Ids::Many { bits, count } => {
                let is_new = bits.insert(job.0);
                *count += usize::from(is_new);
                is_new
            }
        }
    }

    /// Whether the job was in it.
    fn remove(&mut self, job: JobId) -> bool {
        match self {
            Ids::Few(ids) => {
                let Ok(place) = ids.binary_search(&job) else { return false };
                ids.remove(place);
            }
            Ids::Many { bits, count } => {
                if !bits.remove(job.0) {
                    return false;
                }
                *count -= 1;
                if *count == MANY_MIN {
                    *self = Ids::Few(bits.iter().map(JobId).collect());
                }
            }
        }
        true
    }

    fn len(&self) -> usize {
        match self {
            Ids::Few(ids) => ids.len(),
            Ids::Many { count, .. } => *count,
        }
    }

    /// The smallest id, where all up to `gone` were removed.
    fn first_after(&self, gone: JobId) -> JobId {
        let first = match self {
            Ids::Few(ids) => ids.first().copied(),
            Ids::Many { bits, .. } => {
                // Not `min`: it looks for the first bit from the start of a container, of which a queue that is
                // worked off has thousands of empty words.
                let mut after = bits.iter();
                after.advance_to(gone.0 + 1);
                after.next().map(JobId)
            }
        };
        first.expect("two ids or more, of which one was removed, leave one")
    }
}

impl JobSet {
    pub(super) fn of(job: JobId) -> JobSet {
        JobSet { first: job, ids: None }
    }

    /// None of no ids.
    pub(super) fn from_ascending(ids: impl ExactSizeIterator<Item = JobId>) -> Option<JobSet> {
        if ids.len() > FEW_MAX {
            return JobSet::from_bitmap(ids.map(|job| job.0).collect());
        }
        let ids: Vec<JobId> = ids.collect();
        let first = *ids.first()?;
        Some(JobSet { first, ids: (ids.len() > 1).then(|| Box::new(Ids::Few(ids))) })
    }

    /// None of an empty bitmap.
    pub(super) fn from_bitmap(bits: RoaringTreemap) -> Option<JobSet> {
        let count = usize::try_from(bits.len()).ok()?;
        if count <= MANY_MIN {
            let ids: Vec<JobId> = bits.iter().map(JobId).collect();
            return JobSet::from_ascending(ids.into_iter());
        }
        let first = JobId(bits.min()?);
        Some(JobSet { first, ids: Some(Box::new(Ids::Many { bits, count })) })
    }

    /// The ids as a bitmap, whatever form they had.
    pub(super) fn into_bitmap(self) -> RoaringTreemap {
        match self.ids.map(|ids| *ids) {
            None => RoaringTreemap::from_iter([self.first.0]),
            Some(Ids::Few(ids)) => ids.iter().map(|id| id.0).collect(),
            Some(Ids::Many { bits, .. }) => bits,
        }
    }

    /// Adds the ids to a bitmap; a large set by whole containers.
    pub(super) fn add_to(&self, bitmap: &mut RoaringTreemap) {
        match self.ids.as_deref() {
            Some(Ids::Many { bits, .. }) => *bitmap |= bits,
            Some(Ids::Few(ids)) => bitmap.extend(ids.iter().map(|id| id.0)),
            None => {
                bitmap.insert(self.first.0);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.as_ref().map_or(1, |ids| ids.len())
    }

    pub(super) fn last(&self) -> JobId {
        let last = match self.ids.as_deref() {
            None => None,
            Some(Ids::Few(ids)) => ids.last().copied(),
            Some(Ids::Many { bits, .. }) => bits.max().map(JobId),
        };
        last.unwrap_or(self.first)
    }

    pub(super) fn first(&self) -> JobId {
        self.first
    }

    pub(super) fn contains(&self, job: JobId) -> bool {
        self.ids.as_ref().map_or(self.first == job, |ids| ids.contains(job))
    }

    /// The ids, ascending.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = JobId> + '_> {
        match self.ids.as_deref() {
            None => Box::new(std::iter::once(self.first)),
            Some(Ids::Few(ids)) => Box::new(ids.iter().copied()),
            Some(Ids::Many { bits, .. }) => Box::new(bits.iter().map(JobId)),
        }
    }

    /// Adds a job; whether it was absent.
    pub(super) fn insert(&mut self, job: JobId) -> bool {
        let is_new = match &mut self.ids {
            Some(ids) => ids.insert(job),
            None if self.first == job => false,
            None => {
                let both = vec![self.first.min(job), self.first.max(job)];
                self.ids = Some(Box::new(Ids::Few(both)));
                true
            }
        };
        self.first = self.first.min(job);
        is_new
    }

    pub(super) fn remove(&mut self, job: JobId) -> Removed {
        let Some(ids) = &mut self.ids else {
            return if self.first == job { Removed::Last } else { Removed::Absent };
        };
        if !ids.remove(job) {
            return Removed::Absent;
        }
        if job == self.first {
            self.first = ids.first_after(job);
        }
        if ids.len() == 1 {
            self.ids = None;
        }
        Removed::OthersRemain
    }
}

/// What a removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// Nothing: the job was not in the set.
    Absent,
    /// It was the only one; the set must be dropped.
    Last,
    OthersRemain,
}

impl PartialEq for JobSet {
    fn eq(&self, other: &JobSet) -> bool {
        self.first == other.first && self.iter().eq(other.iter())
    }
}

impl Eq for JobSet {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_job_set_holds_what_a_plain_set_holds_in_every_form(moves in prop::collection::vec((any::<bool>(), 1..90u64), 1..600)) {
            let mut plain: BTreeSet<u64> = BTreeSet::from([50]);
            let mut set = JobSet::of(JobId(50));
            for (add, id) in moves {
                // Some ids beyond 32 bits, so that a bitmap has more than one map within.
                let id = if id > 80 { id << 30 } else { id };
                if add {
                    prop_assert_eq!(set.insert(JobId(id)), plain.insert(id));
                } else {
                    let was_there = plain.remove(&id);
                    let removed = set.remove(JobId(id));
                    prop_assert_eq!(removed != Removed::Absent, was_there);
                    prop_assert_eq!(removed == Removed::Last, plain.is_empty());
                    if plain.is_empty() {
                        plain.insert(id);
                        set = JobSet::of(JobId(id));
                    }
                }
                prop_assert_eq!(Some(&set.first().0), plain.first());
                prop_assert_eq!(set.contains(JobId(id)), plain.contains(&id));
                prop_assert_eq!(set.iter().count(), plain.len());
            }
            prop_assert!(set.iter().map(|job| job.0).eq(plain.iter().copied()));
        }
    }

    #[test]
    fn a_set_forgets_how_it_came_to_be() {
        let mut grown = JobSet::of(JobId(1));
        (2..100).for_each(|id| assert!(grown.insert(JobId(id))));
        (3..100).for_each(|id| assert_eq!(grown.remove(JobId(id)), Removed::OthersRemain));
        let mut small = JobSet::of(JobId(2));
        small.insert(JobId(1));
        assert_eq!(grown, small);
    }

    #[test]
    fn a_large_set_is_worked_off_in_order_across_its_containers() {
        let ids: Vec<u64> = (1..=70_000).chain(200_000..200_010).chain((1 << 33)..(1 << 33) + 70_000).collect();
        let mut set = JobSet::of(JobId(ids[0]));
        ids[1..].iter().for_each(|&id| assert!(set.insert(JobId(id))));
        for (at, &id) in ids.iter().enumerate() {
            assert_eq!(set.first(), JobId(id));
            let removed = set.remove(JobId(id));
            assert_eq!(removed == Removed::Last, at + 1 == ids.len());
        }
    }
}
