//! Index rows of the log's newest segments, in memory: where each job's ENQ stands and which class it has. A pure function of
//! the log, never of the replicated state. Those of segments that are written no more go to footers.

use std::collections::{BTreeMap, VecDeque};

use crate::job::codec::Commands;
use crate::job::command::{Class, Command};
use crate::types::{Index, JobId, Nanos};

use super::entry::{Entry, EntryKind};
use super::footer::FooterDraft;
use super::index::Placement;

/// Where one job's ENQ stands. 12 bytes.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Of the whole command, within its entry's payload.
    offset: u32,
    bytes: u32,
    class: u32,
}

/// What all jobs of one entry share.
#[derive(Debug, Clone, Copy)]
struct Batch {
    first: u64,
    wall: Nanos,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct OwnedClass {
    tube: Box<[u8]>,
    priority: u32,
    ttr_s: u32,
    delay_s: u32,
}

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    pub class: Class<'a>,
    pub offset: u32,
    pub bytes: u32,
    pub enqueued_wall: Nanos,
}

/// A dictionary of classes that has grown to this, and to twice what the rows need, is made anew.
const CLASSES_MIN: usize = 1024;

/// Invariant: job ids are dense over the log, so the row of job n stands at `n - first`.
#[derive(Debug, Default)]
pub struct Rows {
    first: u64,
    rows: VecDeque<Row>,
    /// Ascending by first job; entries without jobs have none.
    batches: VecDeque<Batch>,
    classes: Vec<OwnedClass>,
    class_numbers: BTreeMap<OwnedClass, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("its commands can't be read: {0}")]
    Unreadable(String),
    #[error("it says that it holds {said} jobs from {first}, but it holds {holds}, and {expected} was to be the first")]
    Ids { first: JobId, said: u32, holds: u32, expected: JobId },
}

impl Rows {
    /// Rows of a log whose next job is this one.
    #[must_use]
    pub fn new(next_job: JobId) -> Rows {
        Rows { first: next_job.0, ..Rows::default() }
    }

    /// The id that the next ENQ of the log will have.
    #[must_use]
    pub fn next_job(&self) -> JobId {
        JobId(self.first.max(1) + self.rows.len() as u64)
    }

    /// Takes up the rows of an entry that follows all before it.
    ///
    /// # Errors
    /// If the entry can't be read, or its ids do not continue those before it; then nothing is taken up.
    pub fn push(&mut self, entry: &Entry) -> Result<(), RowError> {
        let expected = self.next_job();
        let before = self.rows.len();
        let pushed = self.push_commands(entry);
        let holds = u32::try_from(self.rows.len() - before).unwrap_or(u32::MAX);
        let checked = match pushed {
            Ok(()) if entry.first_job == expected && holds == entry.job_count => {
                if holds > 0 {
                    self.batches.push_back(Batch { first: expected.0, wall: entry.times.wall });
                }
                return Ok(());
            }
            Ok(()) => RowError::Ids { first: entry.first_job, said: entry.job_count, holds, expected },
            Err(error) => error,
        };
        self.rows.truncate(before);
        Err(checked)
    }

    fn push_commands(&mut self, entry: &Entry) -> Result<(), RowError> {
        self.first = self.first.max(1);
        if entry.kind != EntryKind::Commands {
            return Ok(());
        }
        for item in Commands::new(entry.payload()) {
            let item = item.map_err(|error| RowError::Unreadable(error.to_string()))?;
            if let Command::Enqueue { class, .. } = item.numbered.command {
                let class = self.class_number(class);
                self.rows.push_back(Row { offset: position(item.offset), bytes: position(item.length), class });
            }
        }
        Ok(())
    }

    fn class_number(&mut self, class: Class<'_>) -> u32 {
        let is_same = |known: &OwnedClass| {
            *known.tube == *class.tube
                && known.priority == class.priority
                && known.ttr_s == class.ttr_s
                && known.delay_s == class.delay_s
        };
        // Most jobs are of the class of the job before them.
        if let Some(last) = self.rows.back()
            && is_same(&self.classes[last.class as usize])
        {
            return last.class;
        }
        let owned = OwnedClass {
            tube: class.tube.into(),
            priority: class.priority,
            ttr_s: class.ttr_s,
            delay_s: class.delay_s,
        };
        if let Some(&number) = self.class_numbers.get(&owned) {
            return number;
        }
        let number =
            u32::try_from(self.classes.len()).expect("fewer classes than jobs, fewer jobs than 2^32 in memory");
        self.classes.push(owned.clone());
        self.class_numbers.insert(owned, number);
        number
    }

    /// Forgets the jobs from `next` on: their entries were cut off.
    pub fn truncate(&mut self, next: JobId) {
        let keep = next.0.saturating_sub(self.first.max(1));
        self.rows.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        while self.batches.back().is_some_and(|batch| batch.first >= next.0) {
            self.batches.pop_back();
        }
    }

    /// The rows of these entries (index, place, first job and how many), which hold jobs of this part of the log only.
    ///
    /// # Panics
    /// If the jobs are not here.
    #[must_use]
    pub fn draft(&self, base: Index, entries: impl Iterator<Item = (Index, Placement, JobId, u32)>) -> FooterDraft {
        let mut draft: Option<FooterDraft> = None;
        for (index, placement, first_job, job_count) in entries {
            let draft = draft.get_or_insert_with(|| FooterDraft::new(base, first_job));
            let wall = if job_count == 0 { Nanos::ZERO } else { self.expect(first_job).enqueued_wall };
            draft.push_entry(index, Some(placement), wall);
            for job in (first_job.0..first_job.0 + u64::from(job_count)).map(JobId) {
                let found = self.expect(job);
                draft.push_job(job, found.class, found.offset, found.bytes);
            }
        }
        draft.unwrap_or_else(|| FooterDraft::new(base, self.next_job()))
    }

    fn expect(&self, job: JobId) -> Found<'_> {
        self.get(job).expect("the rows of entries in memory are in memory")
    }

    /// Forgets the jobs below `first`: they have rows elsewhere.
    pub fn drop_below(&mut self, first: JobId) {
        let gone = first.0.saturating_sub(self.first.max(1));
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.rows.len());
        self.rows.drain(..gone);
        self.first = self.first.max(1) + gone as u64;
        while self.batches.get(1).is_some_and(|next| next.first <= self.first) {
            self.batches.pop_front();
        }
        if self.rows.is_empty() {
            self.batches.clear();
        }
        if self.classes.len() >= CLASSES_MIN {
            self.renumber_classes();
        }
    }

    /// Forgets classes that no row has any more, where they are at least half.
    fn renumber_classes(&mut self) {
        let mut numbers = vec![None; self.classes.len()];
        let mut kept = 0;
        for row in &self.rows {
            if numbers[row.class as usize].is_none() {
                numbers[row.class as usize] = Some(kept);
                kept += 1;
            }
        }
        if kept as usize * 2 > self.classes.len() {
            return;
        }
        let mut classes = vec![OwnedClass::default(); kept as usize];
        for (class, number) in std::mem::take(&mut self.classes).into_iter().zip(&numbers) {
            if let Some(number) = *number {
                classes[number as usize] = class;
            }
        }
        for row in &mut self.rows {
            row.class = numbers[row.class as usize].expect("each row's class was numbered");
        }
        self.class_numbers = classes.iter().cloned().zip(0..).collect();
        self.classes = classes;
    }

    #[must_use]
    pub fn get(&self, job: JobId) -> Option<Found<'_>> {
        let row = self.rows.get(usize::try_from(job.0.checked_sub(self.first.max(1))?).ok()?)?;
        let class = &self.classes[row.class as usize];
        let batch = self.batches.partition_point(|batch| batch.first <= job.0).checked_sub(1)?;
        Some(Found {
            class: Class { tube: &class.tube, priority: class.priority, ttr_s: class.ttr_s, delay_s: class.delay_s },
            offset: row.offset,
            bytes: row.bytes,
            enqueued_wall: self.batches[batch].wall,
        })
    }
}

fn position(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an entry's payload is shorter than 4 GiB")
}
