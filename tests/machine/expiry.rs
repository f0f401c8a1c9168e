//! What falls due: how much of it at once, in which order, and what stays.

use beaver_raft::job::codec::{body_hash, encode};
use beaver_raft::job::command::{Batch, Class, Command, Numbered, Origin, Outcome};
use beaver_raft::job::view::JobState;
use beaver_raft::job::{ApplyError, TRANSITIONS_PER_ENTRY_MAX};
use beaver_raft::types::{JobId, LogPosition, Nanos, Times};

use crate::driver::{Client, Driver, class, session};

fn put_many(driver: &mut Driver, client: &mut Client, class: Class<'_>, count: u64) {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let origin = Origin::Session { session: client.session, seq: client.next_seq };
        let command = Command::Enqueue { class, body_hash: body_hash(b""), body: b"" };
        encode(&Numbered { origin, command }, &mut bytes);
        client.next_seq += 1;
    }
    driver.raw_entry(&bytes).expect("these commands apply");
}

#[test]
fn one_entry_makes_a_bounded_number_of_jobs_ready_and_says_that_more_are_due() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    let most = TRANSITIONS_PER_ENTRY_MAX as u64;
    put_many(&mut driver, &mut client, Class { delay_s: 1, ..class("t", 1) }, most + 5);
    driver.pass(1);
    driver.tick();
    assert_eq!((driver.tube("t").ready, driver.tube("t").delayed), (most, 5));
    assert!(driver.machine.next_due().is_reached(driver.now));
    assert_eq!(driver.state(most + 1), Some(JobState::Delayed), "the lowest ids go first");
    driver.tick();
    assert_eq!((driver.tube("t").ready, driver.tube("t").delayed), (most + 5, 0));
    assert!(!driver.machine.next_due().is_reached(driver.now));
}

#[test]
fn reservations_end_before_delays_where_both_exceed_the_bound() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    put_many(&mut driver, &mut client, Class { delay_s: 1, ..class("t", 1) }, TRANSITIONS_PER_ENTRY_MAX as u64);
    driver.put(&mut client, Class { ttr_s: 1, ..class("t", 1) });
    driver.reserve(&mut client, &["t"]).expect("it is ready");
    driver.pass(1);
    driver.tick();
    assert_eq!((driver.tube("t").reserved, driver.tube("t").delayed), (0, 1));
}

#[test]
fn a_delayed_job_that_falls_due_unchanged_costs_a_bit_and_has_its_class() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    let delayed = Class { delay_s: 3, ..class("t", 1) };
    driver.put(&mut client, delayed);
    assert!(!driver.machine.needs_class(JobId(1)));
    driver.pass(3);
    driver.tick();
    assert!(driver.machine.needs_class(JobId(1)), "it has no record any more");
    assert!(driver.machine.is_live(JobId(1), &delayed));
}

#[test]
fn the_clocks_of_the_state_never_run_backwards() {
    let mut driver = Driver::new();
    let high = Times { lease: Nanos::from_secs(100), wall: Nanos::from_secs(2_000_000_000) };
    driver.now = high;
    driver.tick();
    driver.now = Times { lease: Nanos::from_secs(1), wall: Nanos::from_secs(1) };
    driver.tick();
    assert_eq!(driver.machine.last_times(), high);
}

#[test]
fn an_entry_without_commands_moves_the_clocks_too() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    driver.put(&mut client, Class { ttr_s: 2, ..class("t", 1) });
    driver.reserve(&mut client, &["t"]);
    driver.pass(2);
    let applied = driver.machine.applied();
    driver.machine.advance(applied.index.next(), applied.term.next(), driver.now);
    driver.machine.verify();
    assert_eq!(driver.state(1), Some(JobState::Ready));
    assert_eq!(driver.machine.take_made_ready(), ["t"]);
}

#[test]
fn no_number_is_too_large() {
    let mut driver = Driver::new();
    driver.now = Times { lease: Nanos(u64::MAX - 1), wall: Nanos(u64::MAX - 1) };
    let mut client = driver.open(session(u8::MAX, u64::MAX, u64::MAX));
    let largest = Class { tube: &[b'x'; 200], priority: u32::MAX, ttr_s: u32::MAX, delay_s: u32::MAX };
    driver.put(&mut client, largest);
    driver.put(&mut client, Class { delay_s: 0, ..largest });
    driver.pause(&mut client, "default", u32::MAX, false);
    assert!(matches!(driver.reserve_job(&mut client, 1), Outcome::Reserved { ttr_s: u32::MAX, .. }));
    assert_eq!(driver.touch(&mut client, 1), Outcome::Touched);
    assert_eq!(driver.release(&mut client, 1, u32::MAX, u32::MAX), Outcome::Released);
    for job in [0, 3, u64::MAX] {
        let (job, class) = (JobId(job), Some(largest));
        for command in [
            Command::Delete { job, class },
            Command::ReserveJob { job, class },
            Command::KickJob { job },
            Command::Unreserve { job, epoch: u64::MAX },
            Command::Touch { job },
        ] {
            assert_eq!(driver.run(&mut client, command), Outcome::NotFound);
        }
    }
    assert_eq!(
        driver.run(&mut client, Command::Kick { tube: largest.tube, bound: u64::MAX }),
        Outcome::Kicked { count: 1 }
    );
    driver.now = Times { lease: Nanos(u64::MAX), wall: Nanos(u64::MAX) };
    driver.tick();
    assert_eq!(driver.run(&mut client, Command::SessionClosed), Outcome::Closed);
}

#[test]
fn an_id_that_was_given_or_that_no_client_could_hold_stops_the_node() {
    for first_job in [0, 1, 1 << 53, u64::MAX] {
        let mut driver = Driver::new();
        let mut client = driver.open(session(1, 1, 1));
        driver.put(&mut client, class("t", 1));
        let mut commands = Vec::new();
        let origin = Origin::Session { session: client.session, seq: client.next_seq };
        let command = Command::Enqueue { class: class("t", 1), body_hash: body_hash(b""), body: b"" };
        encode(&Numbered { origin, command }, &mut commands);
        let LogPosition { term, index } = driver.machine.applied();
        let index = index.next();
        let batch = Batch { index, term, times: driver.now, first_job: JobId(first_job), commands: &commands };
        let error = ApplyError::ImpossibleJobId { index, job: JobId(first_job), next_job: JobId(2) };
        assert_eq!(driver.machine.apply(batch, &mut Vec::new()), Err(error));
    }
}
