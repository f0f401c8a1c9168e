//! Commands that name a job which may be a bit: its class says where to look.

use beaver_raft::job::command::{Class, Command, Outcome};
use beaver_raft::types::JobId;

use crate::driver::{Client, Driver, class, session};

fn one_ready_job() -> (Driver, Client) {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    driver.put(&mut client, class("t", 7));
    (driver, client)
}

#[test]
fn without_a_class_a_job_that_may_be_a_bit_is_asked_for_again() {
    let (mut driver, mut client) = one_ready_job();
    assert!(driver.machine.needs_class(JobId(1)));
    let before = driver.machine.fingerprint();
    for command in [Command::Delete { job: JobId(1), class: None }, Command::ReserveJob { job: JobId(1), class: None }]
    {
        assert_eq!(driver.run(&mut client, command), Outcome::Again);
    }
    assert_eq!(driver.machine.session_last_seq(client.session), Some(3), "the numbers are used up");
    assert_eq!(driver.machine.fingerprint(), before);
    assert_eq!(driver.delete(&mut client, 1), Outcome::Deleted);
}

#[test]
fn an_id_that_was_never_given_is_no_job_with_or_without_a_class() {
    let (mut driver, mut client) = one_ready_job();
    assert!(!driver.machine.needs_class(JobId(2)));
    for class in [None, Some(class("t", 7))] {
        assert_eq!(driver.run(&mut client, Command::Delete { job: JobId(2), class }), Outcome::NotFound);
    }
}

#[test]
fn a_job_with_a_record_needs_no_class_and_heeds_none() {
    let (mut driver, mut client) = one_ready_job();
    driver.reserve(&mut client, &["t"]);
    driver.release(&mut client, 1, 9, 0);
    assert!(!driver.machine.needs_class(JobId(1)));
    let wrong = Some(class("elsewhere", 1));
    assert!(matches!(
        driver.run(&mut client, Command::ReserveJob { job: JobId(1), class: wrong }),
        Outcome::Reserved { .. }
    ));
    assert_eq!(driver.run(&mut client, Command::Delete { job: JobId(1), class: None }), Outcome::Deleted);
}

#[test]
fn a_bit_that_is_not_set_in_its_class_means_that_the_job_is_gone() {
    let (mut driver, mut client) = one_ready_job();
    assert_eq!(driver.delete(&mut client, 1), Outcome::Deleted);
    assert_eq!(driver.delete(&mut client, 1), Outcome::NotFound);
    assert!(!driver.machine.is_live(JobId(1), &class("t", 7)));
}

#[test]
fn a_class_in_another_tube_or_with_other_numbers_never_takes_the_job() {
    let (mut driver, mut client) = one_ready_job();
    let right = class("t", 7);
    for wrong in
        [class("u", 7), class("t", 8), Class { ttr_s: 61, ..right }, Class { delay_s: 1, ..right }, Class::OF_NO_JOB]
    {
        let command = Command::Delete { job: JobId(1), class: Some(wrong) };
        assert_eq!(driver.run(&mut client, command), Outcome::NotFound);
    }
    assert!(driver.machine.is_live(JobId(1), &right));
}
