//! The numbered points of the protocol's semantics that concern state, each by the name of its rule.

use beaver_raft::job::command::{Class, Command, Outcome};
use beaver_raft::job::view::JobState;
use beaver_raft::job::{DepthScan, Machine};
use beaver_raft::types::{JobId, Nanos};

use crate::driver::{Client, Driver, class, session};

fn start() -> (Driver, Client) {
    let mut driver = Driver::new();
    let client = driver.open(session(1, 1, 1));
    (driver, client)
}

fn delayed(tube: &str, delay_s: u32) -> Class<'_> {
    Class { delay_s, ..class(tube, 10) }
}

#[test]
fn ids_are_dense_from_one() {
    let (mut driver, mut client) = start();
    let ids: Vec<u64> = (0..3).map(|_| driver.put(&mut client, class("t", 1))).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn ready_jobs_are_served_by_priority_then_id_whenever_they_became_ready() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, delayed("t", 1));
    driver.put(&mut client, class("t", 10));
    driver.put(&mut client, class("t", 9));
    driver.put(&mut client, class("t", 10));
    assert_eq!(driver.reserve(&mut client, &["t"]), Some(3));
    assert_eq!(driver.reserve(&mut client, &["t"]), Some(2));
    // A released job and one that was delayed go to the place of their id, ahead of younger ones.
    assert_eq!(driver.release(&mut client, 2, 10, 0), Outcome::Released);
    driver.pass(1);
    assert_eq!(driver.reserve_all(&mut client, &["t"]), [1, 2, 4]);
}

#[test]
fn the_tubes_with_the_most_jobs_are_told_and_no_empty_one() {
    let (mut driver, mut client) = start();
    for (tube, jobs) in [("a", 1), ("b", 3), ("c", 2), ("d", 3)] {
        (0..jobs).for_each(|_| _ = driver.put(&mut client, class(tube, 1)));
    }
    driver.put(&mut client, delayed("c", 9));
    assert_eq!(driver.reserve_all(&mut client, &["a"]).len(), 1);
    let deepest = |tubes_at_a_time: usize, count: usize| {
        let mut scan = DepthScan::default();
        (0..9).for_each(|_| scan.go_on(&driver.machine, tubes_at_a_time, count));
        scan.deepest(&driver.machine)
    };
    let told: Vec<(Vec<u8>, [u64; 3])> = deepest(9, 3)
        .into_iter()
        .map(|depth| (depth.tube.to_vec(), [depth.ready, depth.reserved, depth.delayed]))
        .collect();
    // Of those with equally many the older comes first.
    let expected = [("b", [3, 0, 0]), ("c", [2, 0, 1]), ("d", [3, 0, 0])];
    assert_eq!(told, expected.map(|(tube, counts)| (tube.as_bytes().to_vec(), counts)));
    assert_eq!(deepest(9, 9).len(), 4, "the default tube is empty");
    assert_eq!(deepest(2, 3), deepest(9, 3), "however many tubes are looked at in one step");
}

#[test]
fn delayed_jobs_become_ready_at_their_time_by_the_wall_clock() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, delayed("t", 5));
    assert_eq!(driver.state(1), Some(JobState::Delayed));
    assert_eq!(driver.machine.next_due().wall, Some(driver.now.wall.saturating_add(Nanos::from_secs(5))));
    driver.pass(4);
    driver.tick();
    assert_eq!((driver.state(1), driver.view(1).map(|view| view.time_left_s)), (Some(JobState::Delayed), Some(1)));
    driver.now.lease = driver.now.lease.saturating_add(Nanos::from_secs(100));
    driver.tick();
    assert_eq!(driver.state(1), Some(JobState::Delayed), "the lease clock does not count for delays");
    driver.pass(1);
    driver.tick();
    let view = driver.view(1).expect("it is live");
    assert_eq!((view.state, view.delay_s, view.kicks, view.age_s), (JobState::Ready, 5, 0, 5));
    assert_eq!(driver.machine.next_due().wall, None);
}

#[test]
fn delayed_jobs_are_peeked_and_kicked_by_deadline_then_id() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, delayed("t", 9));
    driver.put(&mut client, delayed("t", 3));
    driver.put(&mut client, delayed("t", 3));
    assert_eq!(driver.machine.peek_delayed(b"t"), Some(JobId(2)));
    assert_eq!(driver.kick(&mut client, "t", 2), 2);
    assert_eq!(driver.machine.peek_delayed(b"t"), Some(JobId(1)));
    assert_eq!(driver.reserve_all(&mut client, &["t"]), [2, 3]);
}

#[test]
fn buried_jobs_stand_in_line_and_their_priority_matters_after_a_kick_only() {
    let (mut driver, mut client) = start();
    for _ in 0..3 {
        driver.put(&mut client, class("t", 5));
    }
    for (job, priority) in [(1, 7), (2, 1), (3, 4)] {
        assert_eq!(driver.reserve(&mut client, &["t"]), Some(job));
        assert_eq!(driver.bury(&mut client, job, priority), Outcome::Buried);
    }
    assert_eq!(driver.machine.peek_buried(b"t"), Some(JobId(1)));
    assert_eq!(driver.kick(&mut client, "t", 2), 2);
    assert_eq!(driver.machine.peek_buried(b"t"), Some(JobId(3)));
    assert_eq!(driver.reserve_all(&mut client, &["t"]), [2, 1]);
    let view = driver.view(2).expect("it is live");
    assert_eq!((view.priority, view.buries, view.kicks), (1, 1, 1));
}

#[test]
fn a_kick_takes_buried_jobs_if_there_are_any_and_never_mixes() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("t", 5));
    driver.put(&mut client, delayed("t", 9));
    driver.reserve(&mut client, &["t"]);
    driver.bury(&mut client, 1, 5);
    assert_eq!(driver.kick(&mut client, "t", 0), 0);
    assert_eq!(driver.kick(&mut client, "t", u64::MAX), 1);
    assert_eq!((driver.state(1), driver.state(2)), (Some(JobState::Ready), Some(JobState::Delayed)));
    assert_eq!(driver.kick(&mut client, "t", u64::MAX), 1);
    assert_eq!(driver.state(2), Some(JobState::Ready));
    assert_eq!(driver.kick(&mut client, "t", u64::MAX), 0);
    assert_eq!(driver.kick(&mut client, "never-seen", 1), 0);
    assert!(!driver.machine.has_tube(b"never-seen"));
}

#[test]
fn kick_job_is_for_buried_and_delayed_jobs() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("t", 5));
    driver.put(&mut client, delayed("t", 9));
    assert_eq!(driver.kick_job(&mut client, 1), Outcome::NotFound, "ready");
    assert_eq!(driver.kick_job(&mut client, 2), Outcome::JobKicked, "delayed");
    assert_eq!(driver.reserve(&mut client, &["t"]), Some(1));
    assert_eq!(driver.kick_job(&mut client, 1), Outcome::NotFound, "reserved");
    driver.bury(&mut client, 1, 5);
    assert_eq!(driver.kick_job(&mut client, 1), Outcome::JobKicked, "buried");
    assert_eq!(driver.kick_job(&mut client, 77), Outcome::NotFound, "never put");
    assert_eq!(driver.view(2).map(|view| (view.kicks, view.delay_s)), Some((1, 9)));
}

#[test]
fn reserve_takes_the_smallest_over_all_watched_tubes_that_are_not_paused() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("a", 5));
    driver.put(&mut client, class("b", 4));
    driver.put(&mut client, class("c", 3));
    driver.put(&mut client, class("a", 4));
    driver.pause(&mut client, "c", 60, true);
    assert_eq!(driver.reserve_all(&mut client, &["a", "b", "c", "absent"]), [2, 4, 1]);
    assert_eq!(driver.reserve_all(&mut client, &[]), [0; 0]);
}

#[test]
fn a_ready_job_in_a_paused_tube_is_seen_but_not_served() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("t", 5));
    driver.pause(&mut client, "t", 60, true);
    assert!(!driver.machine.has_ready([b"t".as_slice()]));
    assert!(driver.machine.has_ready_even_paused([b"t".as_slice()]));
    assert_eq!(driver.machine.peek_ready(b"t"), Some(JobId(1)));
    assert_eq!(driver.reserve(&mut client, &["t"]), None);
    assert!(matches!(driver.reserve_job(&mut client, 1), Outcome::Reserved { .. }));
}

#[test]
fn the_soonest_deadline_of_a_session_is_known() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("t", 5));
    driver.put(&mut client, Class { ttr_s: 3, ..class("t", 6) });
    assert_eq!(driver.machine.session_soonest_deadline(client.session), None);
    let start = driver.now.lease;
    driver.reserve_all(&mut client, &["t"]);
    assert_eq!(
        driver.machine.session_soonest_deadline(client.session),
        Some(start.saturating_add(Nanos::from_secs(3)))
    );
    assert_eq!(driver.machine.session_reservations(client.session), 2);
}

#[test]
fn touch_gives_a_whole_time_to_run_from_now_and_keeps_the_token() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, Class { ttr_s: 10, ..class("t", 5) });
    driver.reserve(&mut client, &["t"]);
    let token = driver.machine.reservation(JobId(1));
    driver.pass(9);
    assert_eq!(driver.touch(&mut client, 1), Outcome::Touched);
    assert_eq!(driver.view(1).map(|view| view.time_left_s), Some(10));
    driver.pass(9);
    driver.tick();
    assert_eq!(driver.state(1), Some(JobState::Reserved));
    assert_eq!(driver.machine.reservation(JobId(1)), token);
}

#[test]
fn only_the_session_that_reserved_a_job_may_touch_release_bury_or_delete_it() {
    let (mut driver, mut client) = start();
    let mut other = driver.open(session(2, 1, 1));
    driver.put(&mut client, class("t", 5));
    for outcome in [driver.touch(&mut client, 1), driver.release(&mut client, 1, 1, 0), driver.bury(&mut client, 1, 1)]
    {
        assert_eq!(outcome, Outcome::NotFound, "ready, reserved by nobody");
    }
    driver.reserve(&mut client, &["t"]);
    for outcome in [
        driver.touch(&mut other, 1),
        driver.release(&mut other, 1, 1, 0),
        driver.bury(&mut other, 1, 1),
        driver.delete(&mut other, 1),
        driver.reserve_job(&mut other, 1),
        driver.reserve_job(&mut client, 1),
    ] {
        assert_eq!(outcome, Outcome::NotFound, "reserved by another, or reserved at all");
    }
    assert_eq!(driver.delete(&mut client, 1), Outcome::Deleted);
    assert_eq!(driver.delete(&mut client, 1), Outcome::NotFound);
}

#[test]
fn ready_delayed_and_buried_jobs_are_deleted_by_anyone() {
    let (mut driver, mut client) = start();
    let mut other = driver.open(session(2, 1, 1));
    driver.put(&mut client, class("t", 5));
    driver.put(&mut client, delayed("t", 5));
    driver.put(&mut client, class("t", 6));
    driver.reserve_job(&mut client, 3);
    driver.bury(&mut client, 3, 0);
    for job in 1..=3 {
        assert_eq!(driver.delete(&mut other, job), Outcome::Deleted);
        assert_eq!(driver.state(job), None);
    }
    assert_eq!(driver.tube("t").deletes, 3);
    assert_eq!(driver.machine.fingerprint(), Machine::new().fingerprint());
}

#[test]
fn a_reservation_that_runs_out_makes_the_job_ready_with_its_priority() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, Class { ttr_s: 2, ..class("t", 5) });
    driver.reserve(&mut client, &["t"]);
    driver.pass(1);
    driver.now.wall = driver.now.wall.saturating_add(Nanos::from_secs(1000));
    driver.tick();
    assert_eq!(driver.state(1), Some(JobState::Reserved), "the wall clock does not count for reservations");
    driver.pass(1);
    driver.tick();
    let view = driver.view(1).expect("it is live");
    assert_eq!((view.state, view.priority, view.timeouts, view.reserves, view.releases), (JobState::Ready, 5, 1, 1, 0));
    assert_eq!(driver.machine.counts().timeouts, 1);
    assert_eq!(driver.release(&mut client, 1, 5, 0), Outcome::NotFound);
}

#[test]
fn a_reservation_by_id_that_runs_out_makes_a_delayed_job_ready() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, Class { ttr_s: 2, ..delayed("t", 100) });
    driver.reserve_job(&mut client, 1);
    driver.pass(2);
    driver.tick();
    assert_eq!(driver.state(1), Some(JobState::Ready));
}

#[test]
fn a_reservation_ends_with_the_entry_whose_time_reaches_its_deadline_before_that_entrys_commands() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, Class { ttr_s: 2, ..class("t", 5) });
    driver.reserve(&mut client, &["t"]);
    driver.pass(2);
    // Time has passed, but no entry has said so.
    assert_eq!(driver.state(1), Some(JobState::Reserved));
    assert_eq!(driver.delete(&mut client, 1), Outcome::Deleted, "as a ready job");
    assert_eq!(driver.machine.counts().timeouts, 1);
}

#[test]
fn a_time_to_run_of_zero_means_one() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, Class { ttr_s: 0, ..class("t", 5) });
    assert!(matches!(driver.reserve_job(&mut client, 1), Outcome::Reserved { ttr_s: 1, .. }));
    assert_eq!(driver.view(1).map(|view| (view.ttr_s, view.time_left_s)), Some((1, 1)));
}

#[test]
fn a_closed_session_gives_its_jobs_back_and_no_counter_moves() {
    let (mut driver, mut client) = start();
    let mut other = driver.open(session(2, 1, 1));
    driver.put(&mut client, class("t", 5));
    driver.put(&mut client, delayed("t", 50));
    driver.put(&mut client, class("t", 5));
    driver.reserve(&mut client, &["t"]);
    driver.reserve_job(&mut client, 2);
    driver.reserve(&mut other, &["t"]);
    assert_eq!(driver.run(&mut client, Command::SessionClosed), Outcome::Closed);
    for job in 1..=2 {
        let view = driver.view(job).expect("it is live");
        assert_eq!(view.state, JobState::Ready);
        assert_eq!((view.reserves, view.releases, view.timeouts, view.buries, view.kicks), (1, 0, 0, 0, 0));
    }
    assert_eq!(driver.state(3), Some(JobState::Reserved), "another session's");
    assert_eq!(driver.machine.counts().sessions, 1);
}

#[test]
fn release_sets_priority_and_delay_and_counts() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("t", 5));
    driver.reserve(&mut client, &["t"]);
    assert_eq!(driver.release(&mut client, 1, 2000, 7), Outcome::Released);
    let view = driver.view(1).expect("it is live");
    assert_eq!((view.state, view.priority, view.delay_s, view.time_left_s), (JobState::Delayed, 2000, 7, 7));
    assert_eq!(view.releases, 1);
    driver.pass(7);
    driver.tick();
    assert_eq!((driver.tube("t").ready, driver.tube("t").urgent), (1, 0));
}

#[test]
fn tubes_are_listed_as_they_were_created_and_vanish_only_when_empty() {
    let (mut driver, mut client) = start();
    for tube in ["w", "u", "default"] {
        driver.put(&mut client, class(tube, 5));
    }
    let names = |driver: &Driver| driver.machine.tubes().map(|name| name.to_vec()).collect::<Vec<_>>();
    assert_eq!(names(&driver), [b"default".to_vec(), b"w".to_vec(), b"u".to_vec()]);
    driver.system(Command::TubeDrop { tube: b"w" });
    assert!(driver.machine.has_tube(b"w"), "it has a job");
    driver.delete(&mut client, 1);
    assert_eq!(driver.machine.take_emptied(), ["w"]);
    driver.system(Command::TubeDrop { tube: b"w" });
    driver.system(Command::TubeDrop { tube: b"never-seen" });
    assert_eq!(names(&driver), [b"default".to_vec(), b"u".to_vec()]);
    driver.put(&mut client, class("w", 5));
    assert_eq!(names(&driver), [b"default".to_vec(), b"u".to_vec(), b"w".to_vec()]);
    assert_eq!(driver.tube("w").total_jobs, 1, "counts of a tube begin anew with it");
}

#[test]
fn the_default_tube_always_exists() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("default", 5));
    driver.delete(&mut client, 1);
    assert!(driver.machine.take_emptied().is_empty());
    driver.system(Command::TubeDrop { tube: b"default" });
    assert!(driver.machine.has_tube(b"default"));
}

#[test]
fn pausing_a_tube_without_record_needs_a_reference() {
    let (mut driver, mut client) = start();
    assert_eq!(driver.pause(&mut client, "t", 1, false), Outcome::NotFound);
    assert!(!driver.machine.has_tube(b"t"));
    assert_eq!(driver.pause(&mut client, "t", 1, true), Outcome::Paused);
    assert_eq!(driver.pause(&mut client, "default", 0, false), Outcome::Paused);
    assert!(driver.machine.is_droppable(b"t"));
    driver.system(Command::TubeDrop { tube: b"t" });
    assert_eq!(driver.machine.next_due().wall, None, "its pause goes with it");
}

#[test]
fn a_pause_ends_by_the_wall_clock_and_waiters_are_told() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("t", 5));
    driver.pause(&mut client, "t", 10, true);
    assert!(driver.machine.take_made_ready().is_empty());
    driver.pass(4);
    assert_eq!((driver.tube("t").pause_s, driver.tube("t").pause_left_s, driver.tube("t").pauses), (10, 6, 1));
    // A second pause replaces the first.
    driver.pause(&mut client, "t", 7, true);
    driver.pass(6);
    driver.tick();
    assert_eq!(driver.tube("t").pause_left_s, 1);
    driver.pass(1);
    driver.tick();
    assert_eq!(driver.machine.take_made_ready(), ["t"]);
    assert_eq!((driver.tube("t").pause_s, driver.tube("t").pause_left_s, driver.tube("t").pauses), (0, 0, 2));
}

#[test]
fn a_pause_of_zero_ends_a_pause_and_waiters_are_told() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("t", 5));
    driver.pause(&mut client, "t", 10, true);
    assert_eq!(driver.pause(&mut client, "t", 0, true), Outcome::Paused);
    assert_eq!(driver.machine.take_made_ready(), ["t"]);
    assert_eq!(driver.tube("t").pauses, 2);
    assert_eq!(driver.reserve(&mut client, &["t"]), Some(1));
}

#[test]
fn jobs_made_ready_are_told_once_and_only_while_they_can_be_served() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("b", 5));
    driver.put(&mut client, class("default", 5));
    driver.put(&mut client, class("b", 5));
    assert_eq!(driver.machine.take_made_ready(), ["default", "b"]);
    assert!(driver.machine.take_made_ready().is_empty());
    driver.put(&mut client, delayed("b", 5));
    assert!(driver.machine.take_made_ready().is_empty());
    driver.put(&mut client, class("b", 5));
    driver.reserve_all(&mut client, &["b"]);
    assert!(driver.machine.take_made_ready().is_empty(), "they are reserved by now");
}

#[test]
fn counts_add_up_over_tubes() {
    let (mut driver, mut client) = start();
    driver.put(&mut client, class("a", 1023));
    driver.put(&mut client, class("b", 1024));
    driver.put(&mut client, delayed("b", 3));
    driver.put(&mut client, class("c", 0));
    driver.reserve_job(&mut client, 4);
    driver.bury(&mut client, 4, 0);
    driver.reserve(&mut client, &["b"]);
    let counts = driver.machine.counts();
    assert_eq!((counts.urgent, counts.ready, counts.reserved, counts.delayed, counts.buried), (1, 1, 1, 1, 1));
    assert_eq!((counts.total_jobs, counts.tubes, counts.sessions), (4, 4, 1));
}
