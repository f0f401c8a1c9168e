//! What a client may believe when the node that it talks to, or the leader behind it, dies at the worst moment.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::stage::{Client, Stage, put};
use crate::sim::dialogue::{Asked, Said};
use crate::types::{Nanos, NodeId};

const REFUSED: Result<Said, String> = Ok(Said::NotFound);

fn put_for(ttr_s: u32) -> Asked {
    Asked::Put { priority: 1, delay_s: 0, ttr_s, body: Bytes::from_static(b"a job") }
}

fn reserve_now(client: &Client<'_>) -> Result<Said, String> {
    client.says(Asked::Reserve { timeout_s: Some(0) }).answer
}

#[test]
fn c1_puts_whose_outcome_was_unknown_when_the_leader_died_happen_once_each() {
    const BODIES: [&[u8]; 8] = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"];
    // From before the first is handed over until behind the last answer.
    for after_us in (0..2_000).step_by(100) {
        let stage = Stage::new(3);
        let leader = stage.leader();
        let survivor = stage.others(leader)[0];
        let client = stage.client(survivor);
        client.puts(b"first");
        BODIES.iter().for_each(|body| client.ask(put(body)));
        stage.executor.run_until(stage.now().saturating_add(Nanos::from_micros(after_us)));
        stage.cluster.kill(stage.member(leader));
        stage.wait_for(10_000, "answers", || client.heard().len() == 1 + BODIES.len());
        let ids: Vec<u64> = client.heard().iter().map(|heard| inserted(&heard.answer)).collect();
        let mut found = Vec::new();
        let worker = stage.client(survivor);
        while let Ok(Said::Reserved { id, body }) = reserve_now(&worker) {
            found.push((id, body));
        }
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids, "killed after {after_us} µs");
        let bodies: BTreeSet<&Bytes> = found.iter().map(|(_, body)| body).collect();
        assert_eq!(bodies.len(), ids.len(), "killed after {after_us} µs");
        stage.clear();
    }
}

fn inserted(answer: &Result<Said, String>) -> u64 {
    match answer {
        Ok(Said::Inserted(id)) => *id,
        other => panic!("a put ended with {other:?}"),
    }
}

/// A session's node that can be heard, and hears nothing: what it hands over is committed without its knowledge.
fn deafen(stage: &Stage, node: NodeId) {
    stage.others(node).iter().for_each(|other| stage.cut(*other, node));
}

fn wait_for_commit(stage: &Stage, act: impl FnOnce()) {
    let committed = stage.cluster.oracle().committed();
    let before = committed.get();
    act();
    stage.wait_for(300, "commit", || committed.get() > before);
    stage.pass(5);
}

#[test]
fn c2_a_put_whose_answer_was_lost_behind_its_commit_is_answered_with_the_same_id_by_the_next_leader() {
    let stage = Stage::new(3);
    let leader = stage.leader();
    let [session_node, other] = stage.others(leader)[..] else { unreachable!() };
    let client = stage.client(session_node);
    client.says(Asked::Stats).answer.expect("an answer");
    client.puts(b"opens the session");
    let worker = stage.client(other);
    worker.reserves();

    deafen(&stage, session_node);
    wait_for_commit(&stage, || client.ask(put(b"committed and not answered")));
    assert_eq!(client.heard().len(), 2);
    let id = worker.reserves();
    stage.cluster.kill(stage.member(leader));
    stage.heal();
    stage.wait_for(5_000, "answer", || client.heard().len() == 3);
    assert_eq!(client.heard()[2].answer, Ok(Said::Inserted(id)));
    assert_eq!(reserve_now(&worker), Ok(Said::TimedOut), "it was handed over again, and happened once");
    stage.clear();
}

#[test]
fn c3_what_a_worker_says_of_a_job_that_was_delivered_again_is_refused() {
    let stage = Stage::new(3);
    let [late, next] = [stage.nodes()[0], stage.nodes()[1]].map(|node| stage.client(node));
    let id = inserted(&late.says(put_for(1)).answer);
    assert_eq!(late.reserves(), id);
    let again = next.says(Asked::Reserve { timeout_s: Some(5) });
    assert!(matches!(again.answer, Ok(Said::Reserved { id: again, .. }) if again == id), "{:?}", again.answer);
    for asked in [
        Asked::Touch(id),
        Asked::Release { id, priority: 0, delay_s: 0 },
        Asked::Bury { id, priority: 0 },
        Asked::Delete(id),
    ] {
        assert_eq!(late.says(asked.clone()).answer, REFUSED, "{asked:?}");
    }
    assert_eq!(next.says(Asked::Delete(id)).answer, Ok(Said::Deleted));
    stage.clear();
}

#[test]
fn c4_a_reservation_committed_and_not_answered_when_the_leader_died_is_still_held_by_who_asked() {
    let stage = Stage::new(3);
    let leader = stage.leader();
    let [session_node, other] = stage.others(leader)[..] else { unreachable!() };
    let (holder, rival) = (stage.client(session_node), stage.client(other));
    holder.puts(b"opens the session");
    assert!(reserve_now(&rival).is_ok());
    let id = rival.puts(b"granted and not told");
    stage.pass(100);

    deafen(&stage, session_node);
    wait_for_commit(&stage, || holder.ask(Asked::Reserve { timeout_s: Some(0) }));
    stage.cluster.kill(stage.member(leader));
    stage.heal();
    assert_eq!(reserve_now(&rival), Ok(Said::TimedOut));
    stage.wait_for(5_000, "answer", || holder.heard().len() == 2);
    let expected = Said::Reserved { id, body: Bytes::from_static(b"granted and not told") };
    assert_eq!(holder.heard()[1].answer, Ok(expected));
    assert_eq!(holder.says(Asked::Delete(id)).answer, Ok(Said::Deleted));
    stage.clear();
}

#[test]
fn c4_a_reservation_whose_node_died_with_the_answer_ends_by_its_deadline_and_not_before() {
    let stage = Stage::new(3);
    let leader = stage.leader();
    let other = stage.others(leader)[0];
    let (holder, rival) = (stage.client(leader), stage.client(other));
    let id = inserted(&rival.says(put_for(4)).answer);
    holder.says(Asked::Stats).answer.expect("an answer");
    let begun = stage.now();
    wait_for_commit(&stage, || holder.ask(Asked::Reserve { timeout_s: Some(0) }));
    stage.cluster.kill(stage.member(leader));
    let again = rival.says(Asked::Reserve { timeout_s: Some(20) });
    assert!(matches!(again.answer, Ok(Said::Reserved { id: again, .. }) if again == id), "{:?}", again.answer);
    let held_ms = again.at.saturating_sub(begun).0 / 1_000_000;
    // Time without a leader does not count for reservations.
    assert!((4_000..6_000).contains(&held_ms), "delivered again after {held_ms} ms");
    stage.clear();
}
