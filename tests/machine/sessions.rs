//! Everything happens once: repeats, gaps, late opens, boots, and the numbers that a RESERVE does not use up.

use beaver_raft::job::codec::{body_hash, encode_tubes};
use beaver_raft::job::command::{Applied, Command, Numbered, Origin, Outcome, TubeList};
use beaver_raft::job::view::JobState;
use beaver_raft::types::{BootEpoch, JobId, NodeId, SessionId};

use crate::driver::{Driver, class, session};

fn put(session: SessionId, seq: u64) -> Numbered<'static> {
    let command = Command::Enqueue { class: class("t", 1), body_hash: body_hash(b""), body: b"" };
    Numbered { origin: Origin::Session { session, seq }, command }
}

fn numbered(session: SessionId, seq: u64, command: Command<'_>) -> Numbered<'_> {
    Numbered { origin: Origin::Session { session, seq }, command }
}

#[test]
fn a_repeated_command_happens_once_and_has_one_outcome() {
    let mut driver = Driver::new();
    let id = driver.open(session(1, 1, 1)).session;
    assert_eq!(driver.entry(&[put(id, 1), put(id, 1)]).len(), 1);
    assert_eq!(driver.entry(&[put(id, 1)]), []);
    assert_eq!(driver.machine.counts().ready, 1);
    assert_eq!(driver.machine.session_last_seq(id), Some(1));
}

#[test]
fn a_command_behind_a_gap_is_skipped_until_the_gap_is_filled() {
    let mut driver = Driver::new();
    let id = driver.open(session(1, 1, 1)).session;
    assert_eq!(driver.entry(&[put(id, 2)]), []);
    let applied = driver.entry(&[put(id, 1), put(id, 2)]);
    assert_eq!(applied.iter().map(|applied| applied.seq).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_skipped_enqueue_burns_its_id() {
    let mut driver = Driver::new();
    let id = driver.open(session(1, 1, 1)).session;
    let applied = driver.entry(&[put(id, 1), put(id, 1), put(session(9, 9, 9), 1), put(id, 2)]);
    let outcomes: Vec<_> = applied.iter().map(|applied| applied.outcome).collect();
    assert_eq!(
        outcomes,
        [Outcome::Enqueued { job: JobId(1) }, Outcome::SessionUnknown, Outcome::Enqueued { job: JobId(4) }]
    );
    assert_eq!(driver.machine.next_job(), JobId(5));
    assert_eq!((driver.state(2), driver.state(3)), (None, None));
}

#[test]
fn a_session_opens_once_and_a_late_open_does_not_reopen_it() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 5));
    let open = numbered(client.session, 0, Command::SessionOpen);
    assert_eq!(driver.entry(&[open]), [], "a repeat");
    assert_eq!(driver.run(&mut client, Command::SessionClosed), Outcome::Closed);
    assert_eq!(driver.entry(&[open]), [], "late");
    assert!(!driver.machine.session_open(client.session));
    assert_eq!(driver.entry(&[numbered(session(1, 1, 4), 0, Command::SessionOpen)]), [], "a lower number");
    driver.open(session(1, 1, 6));
    driver.open(session(2, 1, 1));
    assert_eq!(driver.machine.sessions().collect::<Vec<_>>(), [session(1, 1, 6), session(2, 1, 1)]);
}

#[test]
fn a_command_of_an_unknown_session_is_refused_and_changes_nothing() {
    let mut driver = Driver::new();
    let stranger = session(3, 1, 1);
    let refused = Applied { session: stranger, seq: 1, outcome: Outcome::SessionUnknown };
    assert_eq!(driver.entry(&[put(stranger, 1)]), [refused]);
    assert_eq!(driver.machine.counts().total_jobs, 0);
    let closed = driver.entry(&[numbered(stranger, 1, Command::SessionClosed)]);
    assert_eq!(closed, [refused], "there is nothing to close");
}

#[test]
fn a_session_that_closes_out_of_turn_stays_open() {
    let mut driver = Driver::new();
    let id = driver.open(session(1, 1, 1)).session;
    assert_eq!(driver.entry(&[numbered(id, 2, Command::SessionClosed)]), []);
    assert!(driver.machine.session_open(id));
}

#[test]
fn a_reserve_that_finds_nothing_uses_up_no_number() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    let tubes = encode_tubes([b"t".as_slice()]);
    let reserve = numbered(client.session, 1, Command::Reserve { tubes: TubeList { encoded: &tubes } });
    for _ in 0..2 {
        let nothing = Applied { session: client.session, seq: 1, outcome: Outcome::NothingReady };
        assert_eq!(driver.entry(&[reserve]), [nothing]);
    }
    let other = driver.open(session(2, 1, 1)).session;
    // The wait's RESERVE right behind the ENQ that it waits for, then once more by a leader that did not know.
    let applied = driver.entry(&[put(other, 1), reserve, reserve]);
    let reserved = Outcome::Reserved { job: JobId(1), epoch: 1, ttr_s: 60 };
    assert_eq!(applied[1..], [Applied { session: client.session, seq: 1, outcome: reserved }]);
    client.next_seq = 2;
    assert_eq!(driver.delete(&mut client, 1), Outcome::Deleted);
}

#[test]
fn a_later_boot_of_a_node_closes_its_sessions_and_no_others() {
    let mut driver = Driver::new();
    let mut old = driver.open(session(1, 1, 1));
    let other = driver.open(session(2, 1, 1));
    driver.put(&mut old, class("t", 1));
    driver.reserve(&mut old, &["t"]);
    for boot in [0, 1] {
        driver.system(Command::NodeBoot { node: NodeId(1), boot: BootEpoch(boot) });
        assert!(driver.machine.session_open(old.session), "no later boot");
    }
    driver.system(Command::NodeBoot { node: NodeId(1), boot: BootEpoch(2) });
    assert!(!driver.machine.session_open(old.session));
    assert!(driver.machine.session_open(other.session));
    let view = driver.view(1).expect("it is live");
    assert_eq!((view.state, view.timeouts, view.releases), (JobState::Ready, 0, 0));
    let late = driver.entry(&[numbered(session(1, 1, 9), 0, Command::SessionOpen), put(old.session, 2)]);
    let refused = Applied { session: old.session, seq: 2, outcome: Outcome::SessionUnknown };
    assert_eq!(late, [refused], "an open of an older boot is skipped");
    driver.open(session(1, 2, 1));
}

#[test]
fn the_first_session_of_a_later_boot_ends_the_earlier_boot_too() {
    let mut driver = Driver::new();
    let old = driver.open(session(1, 1, 7)).session;
    let new = driver.open(session(1, 2, 1)).session;
    assert_eq!(driver.machine.sessions().collect::<Vec<_>>(), [new]);
    driver.system(Command::NodeBoot { node: NodeId(1), boot: BootEpoch(2) });
    assert!(driver.machine.session_open(new), "the boot's own notice comes late and closes nothing");
    assert!(!driver.machine.session_open(old));
}

#[test]
fn an_undone_reservation_leaves_no_trace() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    driver.put(&mut client, class("t", 7));
    let before = driver.machine.fingerprint();
    driver.reserve(&mut client, &["t"]);
    assert_ne!(driver.machine.fingerprint(), before);
    let (_, epoch) = driver.machine.reservation(JobId(1)).expect("it is reserved");
    assert_eq!(driver.run(&mut client, Command::Unreserve { job: JobId(1), epoch: epoch + 1 }), Outcome::NotFound);
    assert_eq!(driver.run(&mut client, Command::Unreserve { job: JobId(1), epoch }), Outcome::Unreserved);
    assert_eq!(driver.machine.fingerprint(), before, "the record is a bit again");
    assert_eq!(driver.machine.take_made_ready(), ["t"]);
    assert_eq!(driver.run(&mut client, Command::Unreserve { job: JobId(1), epoch }), Outcome::NotFound);
}

#[test]
fn an_undo_of_an_earlier_reservation_does_not_end_the_present_one() {
    let mut driver = Driver::new();
    let mut client = driver.open(session(1, 1, 1));
    driver.put(&mut client, class("t", 7));
    driver.reserve(&mut client, &["t"]);
    let (_, first) = driver.machine.reservation(JobId(1)).expect("it is reserved");
    driver.release(&mut client, 1, 7, 0);
    driver.reserve(&mut client, &["t"]);
    let (_, second) = driver.machine.reservation(JobId(1)).expect("it is reserved");
    assert!(second > first);
    assert_eq!(driver.run(&mut client, Command::Unreserve { job: JobId(1), epoch: first }), Outcome::NotFound);
    assert_eq!(driver.state(1), Some(JobState::Reserved));
}
