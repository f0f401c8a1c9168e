//! The ready jobs of one tube, in the order in which they are served: by priority, then by id, whatever made them
//! ready and whenever it did. The smallest is found in O(log n), also where every job has a class of its own.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::command::Class;
use super::job_set::{JobSet, Removed};
use crate::types::JobId;

/// Jobs with a priority below this count as urgent.
pub(super) const URGENT_PRIORITY: u32 = 1024;

/// The numbers of a class; within a tube they are the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassKey {
    pub(super) priority: u32,
    pub(super) ttr_s: u32,
    pub(super) delay_s: u32,
}

impl ClassKey {
    pub(super) fn of(class: &Class<'_>) -> ClassKey {
        ClassKey { priority: class.priority, ttr_s: class.ttr_s, delay_s: class.delay_s }
    }
}

/// The next job of a tube and how it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    pub(super) priority: u32,
    pub(super) job: JobId,
    pub(super) kept: Kept,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    AsBit(ClassKey),
    AsRecord,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// Jobs that do not differ from their ENQ. No set is empty.
    sets: BTreeMap<ClassKey, JobSet>,
    /// For each set its first job, in serving order.
    firsts: BTreeSet<(u32, JobId, ClassKey)>,
    /// Ready jobs that have a record, under the priority they have now.
    differing: BTreeSet<(u32, JobId)>,
    count: u64,
    urgent: u64,
}

impl Ready {
    /// Sets as they once were, ascending by class.
    pub(super) fn restore(sets: Vec<(ClassKey, JobSet)>) -> Ready {
        let mut ready = Ready::default();
        for (class, set) in &sets {
            let count = set.len() as u64;
            ready.count += count;
            ready.urgent += if class.priority < URGENT_PRIORITY { count } else { 0 };
        }
        ready.firsts = sets.iter().map(|(class, set)| (class.priority, set.first(), *class)).collect();
        ready.sets = sets.into_iter().collect();
        ready
    }

    /// A ready job that has a record, as it once was; whether it was absent.
    pub(super) fn restore_record(&mut self, priority: u32, job: JobId) -> bool {
        self.add(priority);
        self.differing.insert((priority, job))
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn urgent(&self) -> u64 {
        self.urgent
    }

    /// The job to serve next.
    pub(super) fn head(&self) -> Option<Head> {
        let bit = self.firsts.first().map(|&(priority, job, class)| Head { priority, job, kept: Kept::AsBit(class) });
        let record = self.differing.first().map(|&(priority, job)| Head { priority, job, kept: Kept::AsRecord });
        // A job is kept in one way only, so two heads always differ before `kept` is compared.
        match (bit, record) {
            (Some(bit), Some(record)) => Some(bit.min(record)),
            (bit, record) => bit.or(record),
        }
    }

    /// The job that was put first. None where none is ready, or to find it takes looking at more than `levels_max` classes and
    /// priorities.
    pub(super) fn oldest(&self, levels_max: usize) -> Option<JobId> {
        if self.firsts.len() > levels_max {
            return None;
        }
        let mut oldest = self.firsts.iter().map(|&(_, job, _)| job).min();
        let mut from = Some((0, JobId(0)));
        for _ in self.firsts.len()..=levels_max {
            let Some(&(priority, job)) = from.and_then(|from| self.differing.range(from..).next()) else {
                return oldest;
            };
            oldest = Some(oldest.map_or(job, |oldest| oldest.min(job)));
            from = priority.checked_add(1).map(|next| (next, JobId(0)));
        }
        None
    }

    pub(super) fn has_bit(&self, class: ClassKey, job: JobId) -> bool {
        self.sets.get(&class).is_some_and(|set| set.contains(job))
    }

    /// The class in which a job waits, if it is a bit.
    pub(super) fn class_of_bit(&self, job: JobId) -> Option<ClassKey> {
        self.sets.iter().find(|(_, set)| set.contains(job)).map(|(class, _)| *class)
    }

    pub(super) fn insert_bit(&mut self, class: ClassKey, job: JobId) {
        match self.sets.entry(class) {
            Entry::Vacant(vacant) => {
                vacant.insert(JobSet::of(job));
                self.firsts.insert((class.priority, job, class));
            }
            Entry::Occupied(mut set) => {
                let first = set.get().first();
                assert!(set.get_mut().insert(job), "a job becomes ready once");
                if job < first {
                    self.firsts.remove(&(class.priority, first, class));
                    self.firsts.insert((class.priority, job, class));
                }
            }
        }
        self.add(class.priority);
    }

    /// Takes a job out of its class; whether it was in it.
    pub(super) fn remove_bit(&mut self, class: ClassKey, job: JobId) -> bool {
        let Entry::Occupied(mut set) = self.sets.entry(class) else { return false };
        let first = set.get().first();
        match set.get_mut().remove(job) {
            Removed::Absent => return false,
            Removed::Last => {
                set.remove();
                self.firsts.remove(&(class.priority, job, class));
            }
            Removed::OthersRemain if job == first => {
                let next = set.get().first();
                self.firsts.remove(&(class.priority, job, class));
                self.firsts.insert((class.priority, next, class));
            }
            Removed::OthersRemain => {}
        }
        self.subtract(class.priority);
        true
    }

    pub(super) fn insert_record(&mut self, priority: u32, job: JobId) {
        assert!(self.differing.insert((priority, job)), "a job becomes ready once");
        self.add(priority);
    }

    pub(super) fn remove_record(&mut self, priority: u32, job: JobId) {
        assert!(self.differing.remove(&(priority, job)), "a ready record is in its tube's order");
        self.subtract(priority);
    }

    /// The set of each class, ascending.
    pub(super) fn sets(&self) -> impl Iterator<Item = (ClassKey, &JobSet)> {
        self.sets.iter().map(|(&class, set)| (class, set))
    }

    /// All jobs that are bits, with their class.
    pub(super) fn bits(&self) -> impl Iterator<Item = (ClassKey, JobId)> {
        self.sets.iter().flat_map(|(&class, set)| set.iter().map(move |job| (class, job)))
    }

    /// All ready jobs that have a record, in serving order, with the priority they have now.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, JobId)> {
        self.differing.iter().copied()
    }

    /// Panics unless counts and order are those of the jobs.
    pub(super) fn verify(&self) {
        let firsts = self.sets.iter().map(|(&class, set)| (class.priority, set.first(), class));
        assert_eq!(firsts.collect::<BTreeSet<_>>(), self.firsts, "each set is indexed by its first job");
        let priorities = || self.bits().map(|(class, _)| class.priority).chain(self.records().map(|record| record.0));
        assert_eq!(priorities().count() as u64, self.count, "the count of ready jobs");
        let urgent = priorities().filter(|&priority| priority < URGENT_PRIORITY).count();
        assert_eq!(urgent as u64, self.urgent, "the count of urgent jobs");
    }

    fn add(&mut self, priority: u32) {
        self.count += 1;
        self.urgent += u64::from(priority < URGENT_PRIORITY);
    }

    fn subtract(&mut self, priority: u32) {
        self.count -= 1;
        self.urgent -= u64::from(priority < URGENT_PRIORITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn class(priority: u32, ttr_s: u32) -> ClassKey {
        ClassKey { priority, ttr_s, delay_s: 0 }
    }

    fn drain(ready: &mut Ready) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(head) = ready.head() {
            match head.kept {
                Kept::AsBit(class) => assert!(ready.remove_bit(class, head.job)),
                Kept::AsRecord => ready.remove_record(head.priority, head.job),
            }
            ready.verify();
            order.push(head.job.0);
        }
        order
    }

    #[test]
    fn the_oldest_job_is_found_over_classes_and_records_where_they_are_few() {
        let mut ready = Ready::default();
        assert_eq!(ready.oldest(0), None);
        ready.insert_bit(class(5, 60), JobId(4));
        ready.insert_bit(class(1, 10), JobId(6));
        assert_eq!((ready.oldest(2), ready.oldest(1)), (Some(JobId(4)), None));
        for (priority, job) in [(7, 9), (7, 3), (9, 5), (u32::MAX, 2)] {
            ready.insert_record(priority, JobId(job));
        }
        assert_eq!((ready.oldest(5), ready.oldest(4)), (Some(JobId(2)), None));
        ready.remove_record(u32::MAX, JobId(2));
        assert_eq!((ready.oldest(4), ready.oldest(3)), (Some(JobId(3)), None));
    }

    #[test]
    fn jobs_are_served_by_priority_then_id_over_classes_and_records() {
        let mut ready = Ready::default();
        ready.insert_bit(class(5, 60), JobId(4));
        ready.insert_bit(class(5, 10), JobId(2));
        ready.insert_record(5, JobId(3));
        ready.insert_record(4, JobId(9));
        ready.insert_bit(class(5, 60), JobId(1));
        ready.insert_bit(class(2000, 1), JobId(5));
        assert_eq!((ready.count(), ready.urgent()), (6, 5));
        assert_eq!(drain(&mut ready), [9, 1, 2, 3, 4, 5]);
        assert_eq!(ready, Ready::default());
    }

    #[test]
    fn a_bit_is_found_in_its_own_class_only() {
        let mut ready = Ready::default();
        ready.insert_bit(class(5, 60), JobId(4));
        assert!(ready.has_bit(class(5, 60), JobId(4)));
        assert!(!ready.has_bit(class(5, 61), JobId(4)));
        assert!(!ready.remove_bit(class(5, 60), JobId(5)));
        assert!(!ready.remove_bit(class(6, 60), JobId(4)));
        assert_eq!(ready.count(), 1);
    }
}
