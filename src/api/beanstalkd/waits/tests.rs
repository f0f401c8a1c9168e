//! Waits over several shards: who wins, and what becomes of the others.

use super::*;

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn tubes(name: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(name.as_bytes())]
}

fn granted(job: u64) -> Answer {
    Answer::Reserved { job: JobId(job), epoch: 7, body: Bytes::from_static(b"body") }
}

fn job(shard: ShardId, job: u64) -> Option<Reserved> {
    Some(Reserved::Job { shard, job: JobId(job), body: Bytes::from_static(b"body") })
}

fn sent(outbox: &mut Outbox) -> Vec<(ShardId, u64, Operation)> {
    std::iter::from_fn(|| outbox.poll()).map(|request| (request.shard, request.ticket, request.operation)).collect()
}

fn reserve(name: &'static str) -> Operation {
    Operation::Reserve { tubes: tubes(name), poll: false }
}

/// Waits on both shards: tickets 1 and 2.
fn both() -> (Waits, Outbox) {
    let (mut waits, mut outbox) = (Waits::default(), Outbox::default());
    waits.begin([(A, tubes("a")), (B, tubes("b"))], Some(Nanos(9)), &mut outbox);
    assert_eq!(sent(&mut outbox), [(A, 1, reserve("a")), (B, 2, reserve("b"))]);
    (waits, outbox)
}

#[test]
fn the_first_grant_wins_and_the_other_wait_is_withdrawn() {
    let (mut waits, mut outbox) = both();
    assert_eq!(waits.handle_answer(B, granted(5), &mut outbox), job(B, 5));
    assert_eq!(sent(&mut outbox), [(A, 3, Operation::Withdraw { ticket: 1 })]);
    assert_eq!(waits.deadline(), None);
    assert_eq!(waits.handle_answer(A, Answer::NothingReady, &mut outbox), None);
    assert_eq!(sent(&mut outbox), []);
}

#[test]
fn a_second_grant_is_undone() {
    let (mut waits, mut outbox) = both();
    waits.handle_answer(A, granted(5), &mut outbox);
    sent(&mut outbox);
    assert_eq!(waits.handle_answer(B, granted(6), &mut outbox), None);
    assert_eq!(sent(&mut outbox), [(B, 4, Operation::Unreserve { job: JobId(6), epoch: 7 })]);
}

#[test]
fn a_timeout_is_told_only_when_every_wait_was_answered() {
    let (mut waits, mut outbox) = both();
    assert_eq!(waits.deadline(), Some(Nanos(9)));
    assert_eq!(waits.expire(&mut outbox), None);
    assert_eq!(waits.deadline(), None);
    assert_eq!(
        sent(&mut outbox),
        [(A, 3, Operation::Withdraw { ticket: 1 }), (B, 4, Operation::Withdraw { ticket: 2 })]
    );
    assert_eq!(waits.expire(&mut outbox), None);
    assert_eq!(waits.handle_answer(A, Answer::NothingReady, &mut outbox), None);
    assert_eq!(waits.handle_answer(B, Answer::NothingReady, &mut outbox), Some(Reserved::TimedOut));
    assert_eq!(sent(&mut outbox), []);
}

#[test]
fn a_grant_that_crosses_a_withdrawal_is_delivered() {
    let (mut waits, mut outbox) = both();
    waits.expire(&mut outbox);
    sent(&mut outbox);
    assert_eq!(waits.handle_answer(A, granted(5), &mut outbox), job(A, 5));
    assert_eq!(sent(&mut outbox), [], "the other one is withdrawn already");
    assert_eq!(waits.handle_answer(B, granted(6), &mut outbox), None);
    assert_eq!(sent(&mut outbox), [(B, 5, Operation::Unreserve { job: JobId(6), epoch: 7 })]);
}

#[test]
fn a_deadline_soon_withdraws_the_others_and_yields_to_a_grant() {
    let (mut waits, mut outbox) = both();
    assert_eq!(waits.handle_answer(A, Answer::DeadlineSoon, &mut outbox), None);
    assert_eq!(sent(&mut outbox), [(B, 3, Operation::Withdraw { ticket: 2 })]);
    assert_eq!(waits.handle_answer(B, Answer::NothingReady, &mut outbox), Some(Reserved::DeadlineSoon));

    let (mut waits, mut outbox) = both();
    waits.handle_answer(A, Answer::DeadlineSoon, &mut outbox);
    assert_eq!(waits.handle_answer(B, granted(6), &mut outbox), job(B, 6));
}

#[test]
fn a_new_command_queues_behind_an_abandoned_wait() {
    let (mut waits, mut outbox) = both();
    waits.handle_answer(A, granted(5), &mut outbox);
    sent(&mut outbox);
    waits.begin([(A, tubes("a")), (B, tubes("c"))], None, &mut outbox);
    assert_eq!(sent(&mut outbox), [(A, 4, reserve("a"))]);
    assert!(waits.owns(B, 2) && !waits.owns(B, 4));
    // The late grant is from tubes of an earlier watch list: it goes back before the new question is put.
    assert_eq!(waits.handle_answer(B, granted(6), &mut outbox), None);
    let unreserve = Operation::Unreserve { job: JobId(6), epoch: 7 };
    assert_eq!(sent(&mut outbox), [(B, 5, unreserve), (B, 6, reserve("c"))]);
    assert_eq!(waits.handle_answer(B, granted(6), &mut outbox), job(B, 6));
}

#[test]
fn a_command_that_could_not_ask_a_silent_shard_still_times_out() {
    let (mut waits, mut outbox) = both();
    waits.handle_answer(A, granted(5), &mut outbox);
    waits.begin([(B, tubes("b"))], Some(Nanos(20)), &mut outbox);
    assert_eq!(waits.expire(&mut outbox), Some(Reserved::TimedOut));
    assert_eq!(waits.handle_answer(B, Answer::NothingReady, &mut outbox), None);
}
