//! A set of job ids that costs about a bit per job when it is large and dense, and little when it is tiny. Its
//! form depends on its history, what it holds does not: nothing may look at the form.

use roaring::RoaringTreemap;

use crate::types::JobId;

/// Up to so many ids are a sorted list.
const FEW_MAX: usize = 32;

/// A bitmap that shrinks to this becomes a list again. Far below [`FEW_MAX`], so that a set whose size swings
/// about that limit does not change its form with each command.
const MANY_MIN: usize = 8;

/// A set of jobs with a smallest one; a class without jobs has no set.
#[derive(Debug)]
pub(super) struct JobSet {
    /// The smallest id, kept beside the ids because every reservation asks for it.
    first: JobId,
    form: Form,
}

/// Invariants: never empty between calls; `Few` ascends.
#[derive(Debug)]
enum Form {
    One,
    Few(Vec<JobId>),
    /// Boxed, because there may be as many classes as jobs, and then each of them is `One`.
    Many(Box<Bits>),
}

#[derive(Debug)]
struct Bits {
    ids: RoaringTreemap,
    /// The treemap counts its containers on each `len`.
    count: usize,
}

impl JobSet {
    pub(super) fn of(job: JobId) -> JobSet {
        JobSet { first: job, form: Form::One }
    }

    pub(super) fn first(&self) -> JobId {
        self.first
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        match &self.form {
            Form::One => 1,
            Form::Few(ids) => ids.len(),
            Form::Many(bits) => bits.count,
        }
    }

    pub(super) fn contains(&self, job: JobId) -> bool {
        match &self.form {
            Form::One => self.first == job,
            Form::Few(ids) => ids.binary_search(&job).is_ok(),
            Form::Many(bits) => bits.ids.contains(job.0),
        }
    }

    /// The ids, ascending.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = JobId> + '_> {
        match &self.form {
            Form::One => Box::new(std::iter::once(self.first)),
            Form::Few(ids) => Box::new(ids.iter().copied()),
            Form::Many(bits) => Box::new(bits.ids.iter().map(JobId)),
        }
    }

    /// Adds a job; whether it was absent.
    pub(super) fn insert(&mut self, job: JobId) -> bool {
        let added = match &mut self.form {
            Form::One if self.first == job => false,
            Form::One => {
                self.form = Form::Few(vec![self.first.min(job), self.first.max(job)]);
                true
            }
            Form::Few(ids) => match ids.binary_search(&job) {
                Ok(_) => false,
                Err(_) if ids.len() == FEW_MAX => {
                    let mut bits: RoaringTreemap = ids.iter().map(|id| id.0).collect();
                    bits.insert(job.0);
                    self.form = Form::Many(Box::new(Bits { ids: bits, count: FEW_MAX + 1 }));
                    true
                }
                Err(place) => {
                    ids.insert(place, job);
                    true
                }
            },
            Form::Many(bits) => {
                let added = bits.ids.insert(job.0);
                bits.count += usize::from(added);
                added
            }
        };
        self.first = self.first.min(job);
        added
    }

    /// Removes a job that is in the set.
    ///
    /// # Panics
    /// If it is not: the indexes contradict each other.
    pub(super) fn remove(&mut self, job: JobId) -> Removed {
        match &mut self.form {
            Form::One => {
                assert_eq!(self.first, job, "the only job of a set is the one removed");
                return Removed::Last;
            }
            Form::Few(ids) => {
                let place = ids.binary_search(&job).expect("a removed job is in its set");
                ids.remove(place);
                self.first = ids[0];
                if ids.len() == 1 {
                    self.form = Form::One;
                }
            }
            Form::Many(bits) => {
                assert!(bits.ids.remove(job.0), "a removed job is in its set");
                bits.count -= 1;
                if job == self.first {
                    self.first = bits.ids.min().map(JobId).expect("a bitmap keeps more than one job");
                }
                if bits.count == MANY_MIN {
                    self.form = Form::Few(bits.ids.iter().map(JobId).collect());
                }
            }
        }
        Removed::OthersRemain
    }
}

/// What is left of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// Nothing: the set must be dropped.
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
                } else if plain.contains(&id) {
                    plain.remove(&id);
                    if set.remove(JobId(id)) == Removed::Last {
                        prop_assert!(plain.is_empty());
                        plain.insert(id);
                        set = JobSet::of(JobId(id));
                    }
                }
                prop_assert_eq!(Some(&set.first().0), plain.first());
                prop_assert_eq!(set.contains(JobId(id)), plain.contains(&id));
                prop_assert_eq!(set.len(), plain.len());
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
}
