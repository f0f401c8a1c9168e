//! Index rows: where in the log each job's ENQ stands and which class it has. A pure function of the log, never of the
//! replicated state; kept in memory for every segment.

use std::collections::{BTreeMap, VecDeque};

use crate::job::codec::Commands;
use crate::job::command::{Class, Command};
use crate::types::{JobId, Nanos};
use crate::wal::entry::{Entry, EntryKind};

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

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
