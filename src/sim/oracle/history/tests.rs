//! Each promise, broken on purpose: a check that never fails checks nothing.

use super::*;
use crate::types::{BootEpoch, NodeId};

fn session(number: u64) -> SessionId {
    SessionId { node: NodeId(1), boot: BootEpoch(1), number }
}

fn put(body: &'static str) -> Asked {
    Asked::Put { priority: 1, delay_s: 0, ttr_s: 10, body: Bytes::from_static(body.as_bytes()) }
}

fn enqueued(index: u64, by: u64, seq: u64, body: &str, job: u64) -> Decided {
    let (what, outcome) = (What::Enqueue(body_hash(body.as_bytes())), Outcome::Enqueued { job: JobId(job) });
    Decided { index: Index(index), session: session(by), seq, what, outcome }
}

fn decided(index: u64, by: u64, seq: u64, what: What, outcome: Outcome) -> Decided {
    Decided { index: Index(index), session: session(by), seq, what, outcome }
}

fn reserved(index: u64, by: u64, seq: u64, job: u64) -> Decided {
    decided(index, by, seq, What::Reserve, Outcome::Reserved { job: JobId(job), epoch: index, ttr_s: 10 })
}

/// Builds a history step by step; each step is a second later, and everything up to `committed` is committed by then.
struct Script {
    history: History,
    now: u64,
    committed: u64,
}

impl Script {
    fn new() -> Script {
        Script { history: History::default(), now: 0, committed: 100 }
    }

    fn ask(&mut self, connection: usize, asked: Asked) -> &mut Script {
        while self.history.connections.len() <= connection {
            self.history.connect();
        }
        self.now += 1;
        self.history.ask(connection, asked, Nanos::from_secs(self.now), Index(self.committed));
        self
    }

    fn hear(&mut self, connection: usize, said: Said) -> &mut Script {
        self.now += 1;
        self.history.hear(connection, said, Nanos::from_secs(self.now), Index(self.committed));
        self
    }

    fn check(&self, decided: &[Decided]) -> Result<HistoryCounts, Violation> {
        self.history.check(decided, &QueueModel::new())
    }
}

#[test]
fn a_history_that_the_log_bears_out_passes_with_unknown_outcomes_either_way() {
    let mut script = Script::new();
    script.ask(0, put("a")).hear(0, Said::Inserted(1));
    script.ask(0, put("b")).ask(0, put("c"));
    script.ask(1, put("d"));
    let body = Bytes::from_static(b"a");
    script.ask(2, put("e")).hear(2, Said::Inserted(3)).ask(2, Asked::Reserve { timeout_s: None });
    script.hear(2, Said::Reserved { id: 1, body });
    let log = [enqueued(2, 1, 1, "a", 1), enqueued(3, 1, 2, "b", 2), enqueued(4, 3, 1, "e", 3), reserved(5, 3, 2, 1)];
    let counts = script.check(&log).expect("all is well");
    assert_eq!((counts.answered, counts.unknown, counts.unknown_done), (3, 3, 1));
    assert_eq!((counts.inserted, counts.reserved), (2, 1));
}

#[test]
fn an_acknowledged_put_that_the_log_lost_is_found() {
    let mut script = Script::new();
    script.ask(0, put("a")).hear(0, Said::Inserted(1)).ask(0, put("b")).hear(0, Said::Inserted(2));
    let lost = script.check(&[enqueued(2, 1, 1, "a", 1)]);
    assert!(matches!(lost, Err(Violation::AnswerIsNotInTheLog { .. })), "{lost:?}");
    let renamed = script.check(&[enqueued(2, 1, 1, "a", 1), enqueued(3, 1, 2, "b", 7)]);
    assert!(matches!(renamed, Err(Violation::AnswerIsNotInTheLog { .. })), "{renamed:?}");
}

#[test]
fn a_command_that_was_done_twice_or_for_nobody_is_found() {
    let mut script = Script::new();
    script.ask(0, put("a")).hear(0, Said::Inserted(1));
    let twice = script.check(&[enqueued(2, 1, 1, "a", 1), enqueued(3, 1, 2, "a", 2)]);
    assert_eq!(twice, Err(Violation::PutTwice { job: JobId(2) }));
    let unasked = script.check(&[enqueued(2, 1, 1, "a", 1), reserved(3, 1, 2, 1)]);
    assert!(matches!(unasked, Err(Violation::NeverAsked { .. })), "{unasked:?}");
    let nobodys = script.check(&[enqueued(2, 1, 1, "a", 1), enqueued(3, 9, 1, "z", 2)]);
    assert_eq!(nobodys, Err(Violation::UnknownSession { session: session(9) }));
}

#[test]
fn an_answer_before_its_commit_is_found() {
    let mut script = Script::new();
    script.committed = 1;
    script.ask(0, put("a")).hear(0, Said::Inserted(1));
    let early = script.check(&[enqueued(2, 1, 1, "a", 1)]);
    assert!(matches!(early, Err(Violation::AnsweredBeforeCommit { .. })), "{early:?}");
}

#[test]
fn a_command_before_what_it_was_asked_after_is_found() {
    let mut script = Script::new();
    script.ask(0, put("a")).hear(0, Said::Inserted(2)).ask(1, put("b")).hear(1, Said::Inserted(1));
    let reordered = script.check(&[enqueued(2, 2, 1, "b", 1), enqueued(3, 1, 1, "a", 2)]);
    assert!(matches!(reordered, Err(Violation::OutOfOrder { .. })), "{reordered:?}");
    // Asked at the same time, either order will do.
    let mut script = Script::new();
    script.ask(0, put("a")).ask(1, put("b")).hear(0, Said::Inserted(2)).hear(1, Said::Inserted(1));
    assert!(script.check(&[enqueued(2, 2, 1, "b", 1), enqueued(3, 1, 1, "a", 2)]).is_ok());
}

#[test]
fn a_reservation_that_was_undone_is_nobodys_and_a_foreign_body_is_found() {
    let mut script = Script::new();
    script.ask(0, put("a")).hear(0, Said::Inserted(1));
    script.ask(0, Asked::Reserve { timeout_s: Some(0) }).hear(0, Said::TimedOut);
    let unreserved = decided(4, 1, 3, What::Unreserve(JobId(1)), Outcome::Unreserved);
    assert!(script.check(&[enqueued(2, 1, 1, "a", 1), reserved(3, 1, 2, 1), unreserved]).is_ok());

    let mut script = Script::new();
    script.ask(0, put("a")).hear(0, Said::Inserted(1)).ask(0, Asked::Reserve { timeout_s: Some(0) });
    script.hear(0, Said::Reserved { id: 1, body: Bytes::from_static(b"b") });
    let foreign = script.check(&[enqueued(2, 1, 1, "a", 1), reserved(3, 1, 2, 1)]);
    assert_eq!(foreign, Err(Violation::WrongBody { job: 1 }));
}

#[test]
fn a_peek_that_shows_the_past_is_found() {
    let mut model = QueueModel::new();
    model.set_life_for_test(JobId(1), Index(2), Some(Index(5)));
    let mut script = Script::new();
    script.committed = 4;
    script.ask(0, put("a")).hear(0, Said::Inserted(1));
    script.ask(0, Asked::Peek(1)).hear(0, Said::Found { id: 1, body: Bytes::from_static(b"a") });
    let log = [enqueued(2, 1, 1, "a", 1)];
    assert!(script.history.check(&log, &model).is_ok());
    script.committed = 5;
    script.ask(0, Asked::Peek(1)).hear(0, Said::NotFound);
    assert!(script.history.check(&log, &model).is_ok());
    script.ask(0, Asked::Peek(1)).hear(0, Said::Found { id: 1, body: Bytes::from_static(b"a") });
    let stale = script.history.check(&log, &model);
    assert!(matches!(stale, Err(Violation::StaleRead { .. })), "{stale:?}");
}
