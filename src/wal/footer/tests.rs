use proptest::prelude::*;

use super::*;
use crate::types::{ClusterId, ShardId};

const IDENTITY: LogIdentity = LogIdentity { cluster: ClusterId(7), shard: ShardId(2) };

fn class(number: u32) -> Class<'static> {
    const TUBES: [&[u8]; 3] = [b"default", b"mail", b"a-much-longer-name-of-a-tube"];
    Class { tube: TUBES[number as usize % 3], priority: number % 5, ttr_s: 60, delay_s: number % 2 }
}

fn subject(last: u64, next_job: u64) -> Subject {
    Subject {
        number: SegmentNumber(4),
        base: Index(10),
        base_chain: ChainHash(99),
        last: Index(last),
        next_job: JobId(next_job),
    }
}

fn place(block: u64) -> Placement {
    Placement { segment: SegmentNumber(4), offset: block * 4096, bytes: 300 }
}

/// Entries with these numbers of jobs, from entry 11 and job 100 on.
fn dense(counts: &[u32]) -> Vec<u8> {
    let mut draft = FooterDraft::new(Index(10), JobId(100));
    let mut job = 100;
    for (index, &count) in (11..).zip(counts) {
        draft.push_entry(Index(index), Some(place(index)), Nanos(index * 1000));
        for nth in 0..count {
            draft.push_job(JobId(job), class(nth), nth * 50, 50);
            job += 1;
        }
    }
    draft.finish(&subject(10 + counts.len() as u64, job), &IDENTITY)
}

fn open(bytes: Vec<u8>) -> Footer {
    Footer::open(bytes.into(), &IDENTITY).expect("rows just written")
}

proptest! {
    #[test]
    fn every_job_and_every_entry_is_found_where_it_was_put(counts in prop::collection::vec(0..9u32, 0..40)) {
        let footer = open(dense(&counts));
        footer.verify().unwrap();
        let mut job = 100;
        for (index, &count) in (11..).zip(&counts) {
            prop_assert_eq!(footer.placement(Index(index)), Some(place(index)));
            for nth in 0..count {
                let row = footer.find(JobId(job)).unwrap();
                prop_assert_eq!((row.job, row.index, row.wall), (JobId(job), Index(index), Nanos(index * 1000)));
                prop_assert_eq!((row.class, row.offset, row.bytes), (class(nth), nth * 50, 50));
                prop_assert_eq!(row.placement, place(index));
                job += 1;
            }
        }
        prop_assert_eq!(footer.find(JobId(99)), None);
        prop_assert_eq!(footer.find(JobId(job)), None);
        prop_assert_eq!(footer.placement(Index(10)), None);
        prop_assert_eq!(footer.placement(Index(11 + counts.len() as u64)), None);
        prop_assert_eq!(footer.rows_from(JobId(0)).count() as u64, job - 100);
        prop_assert_eq!(footer.rows_from(JobId(103)).count() as u64, job.saturating_sub(103));
        prop_assert_eq!(footer.enqueue_bytes(), 50 * (job - 100));
    }

    #[test]
    fn jobs_with_gaps_between_them_are_found_and_the_gaps_are_not(gaps in prop::collection::vec(1..100u64, 1..60)) {
        let mut draft = FooterDraft::new(Index(10), JobId(100));
        let mut job = 99;
        let mut jobs = Vec::new();
        for gap in &gaps {
            job += gap;
            draft.push_entry(Index(10 + job), None, Nanos(job));
            draft.push_job(JobId(job), class(job as u32), 7, 8);
            jobs.push(job);
        }
        let footer = open(draft.finish(&subject(10 + job, job + 1), &IDENTITY));
        for id in 90..job + 10 {
            prop_assert_eq!(footer.find(JobId(id)).map(|row| row.job.0), jobs.contains(&id).then_some(id));
        }
        prop_assert!(footer.rows_from(JobId(1)).map(|row| row.job.0).eq(jobs.iter().copied()));
    }

    #[test]
    fn no_damage_is_believed_and_none_panics(counts in prop::collection::vec(0..9u32, 1..20), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut bytes = dense(&counts);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(footer) = Footer::open(bytes.into(), &IDENTITY) {
            prop_assert_eq!(footer.verify(), Err(FooterError::Checksum));
            for job in 90..300 {
                prop_assert_eq!(footer.find(JobId(job)), None);
            }
            footer.rows_from(JobId(0)).for_each(drop);
        }
    }

    #[test]
    fn nothing_that_is_cut_short_is_taken(counts in prop::collection::vec(0..9u32, 0..20), cut in any::<prop::sample::Index>()) {
        let mut bytes = dense(&counts);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Footer::open(bytes.into(), &IDENTITY).is_err());
    }
}

#[test]
fn rows_of_another_log_are_refused() {
    let other = LogIdentity { shard: ShardId(3), ..IDENTITY };
    assert_eq!(Footer::open(dense(&[1]).into(), &other).unwrap_err(), FooterError::Foreign);
}

#[test]
fn a_job_costs_twenty_bytes() {
    let blocks = |jobs| dense(&[jobs]).len() / 4096;
    assert_eq!(blocks(4096 * 10) - blocks(4096 * 5), 20 * 5);
}
