//! A second opinion on the queue itself: small histories of concurrent clients of a whole cluster, judged by stateright's
//! linearizability tester against a queue that fits a page, and that shares no code and no thought with `job` or with the
//! model that `sim::oracle` replays.
//!
//! Who judges here knows nothing of logs, terms and indexes: only what was asked, what was answered, and in which order
//! these could be seen from outside. So it also tests the witnesses that `sim::oracle` believes.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::stage::{ELECTION_TIMEOUT_MAX_MS, Stage};
use crate::io::{Wire, WireOptions};
use crate::sim::dialogue::{Asked, Dialogue, Said};
use crate::sim::random::Random;
use crate::sim::wire::SimWire;
use crate::types::Nanos;

/// One connection of a client, or what becomes of it when it is closed.
type Who = u32;

/// A queue of one tube, told in lists. Bodies name jobs: every put has another.
#[derive(Debug, Clone, Default, PartialEq)]
struct PlainQueue {
    jobs: Vec<PlainJob>,
    /// The highest id that was told of; a put that was told of later, and is later, has a higher one.
    id_max: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct PlainJob {
    body: u32,
    priority: u32,
    /// Unknown until somebody was told.
    id: Option<u64>,
    state: PlainState,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum PlainState {
    Ready,
    HeldBy(Who),
    Buried,
}

#[derive(Debug, Clone, PartialEq)]
enum Call {
    Put {
        priority: u32,
        body: u32,
    },
    /// Takes what is there now.
    Reserve(Who),
    Delete(Who, u64),
    Release(Who, u64, u32),
    Bury(Who, u64, u32),
    KickJob(u64),
    Peek(u64),
    /// The connection ends, whenever its node notices.
    Close(Who),
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Id(u64),
    Job(u64, u32),
    Nothing,
    Done,
}

impl PlainQueue {
    fn best(&self) -> Option<usize> {
        let ready = self.jobs.iter().enumerate().filter(|(_, job)| job.state == PlainState::Ready);
        // Jobs lie in the order of their puts.
        ready.min_by_key(|(place, job)| (job.priority, *place)).map(|(place, _)| place)
    }

    fn named(&self, id: u64) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == Some(id))
    }

    /// Whether the job at a place can have this id: what was put before has a lower one, what was put after a higher.
    fn accepts_id(&mut self, place: usize, id: u64) -> bool {
        let before = self.jobs[..place].iter().all(|job| job.id.is_none_or(|other| other < id));
        let behind = self.jobs[place + 1..].iter().all(|job| job.id.is_none_or(|other| other > id));
        let fits = before && behind && self.jobs[place].id.is_none_or(|known| known == id);
        self.jobs[place].id = Some(id);
        self.id_max = self.id_max.max(id);
        fits
    }

    fn held(&self, who: Who, id: u64) -> Option<usize> {
        self.named(id).filter(|place| self.jobs[*place].state == PlainState::HeldBy(who))
    }

    fn act(&mut self, place: Option<usize>, act: impl FnOnce(&mut PlainQueue, usize)) -> Answer {
        match place {
            Some(place) => {
                act(self, place);
                Answer::Done
            }
            None => Answer::Nothing,
        }
    }
}

impl SequentialSpec for PlainQueue {
    type Op = Call;
    type Ret = Answer;

    /// What an unanswered call does. Which id it got nobody was told.
    fn invoke(&mut self, call: &Call) -> Answer {
        match *call {
            Call::Put { priority, body } => {
                self.jobs.push(PlainJob { body, priority, id: None, state: PlainState::Ready });
                Answer::Done
            }
            Call::Reserve(who) => {
                let best = self.best();
                self.act(best, |queue, place| queue.jobs[place].state = PlainState::HeldBy(who))
            }
            Call::Delete(who, id) => {
                let place = self.named(id).filter(|place| match self.jobs[*place].state {
                    PlainState::HeldBy(holder) => holder == who,
                    PlainState::Ready | PlainState::Buried => true,
                });
                self.act(place, |queue, place| {
                    queue.jobs.remove(place);
                })
            }
            Call::Release(who, id, priority) => {
                let held = self.held(who, id);
                self.act(held, |queue, place| {
                    queue.jobs[place].state = PlainState::Ready;
                    queue.jobs[place].priority = priority;
                })
            }
            Call::Bury(who, id, priority) => {
                let held = self.held(who, id);
                self.act(held, |queue, place| {
                    queue.jobs[place].state = PlainState::Buried;
                    queue.jobs[place].priority = priority;
                })
            }
            Call::KickJob(id) => {
                let buried = self.named(id).filter(|place| self.jobs[*place].state == PlainState::Buried);
                self.act(buried, |queue, place| queue.jobs[place].state = PlainState::Ready)
            }
            Call::Peek(id) => {
                let named = self.named(id);
                self.act(named, |_, _| ())
            }
            Call::Close(who) => {
                for job in self.jobs.iter_mut().filter(|job| job.state == PlainState::HeldBy(who)) {
                    job.state = PlainState::Ready;
                }
                Answer::Done
            }
        }
    }

    fn is_valid_step(&mut self, call: &Call, answer: &Answer) -> bool {
        match (call, answer) {
            (Call::Put { .. }, Answer::Id(id)) => {
                let is_highest = *id > self.id_max;
                self.invoke(call);
                is_highest && self.accepts_id(self.jobs.len() - 1, *id)
            }
            (Call::Reserve(_), Answer::Job(id, body)) => {
                let best = self.best();
                self.invoke(call);
                best.is_some_and(|place| self.jobs[place].body == *body && self.accepts_id(place, *id))
            }
            (Call::Peek(id), Answer::Job(told, body)) => {
                id == told && self.named(*id).is_some_and(|place| self.jobs[place].body == *body)
            }
            _ => self.invoke(call) == *answer,
        }
    }
}

/// What could be seen from outside, in the order in which it could be.
#[derive(Debug, Clone)]
enum Seen {
    Asked(Who, Call),
    Answered(Who, Answer),
}

fn is_linearizable(history: &[Seen]) -> bool {
    let mut tester = LinearizabilityTester::new(PlainQueue::default());
    for seen in history {
        let recorded = match seen.clone() {
            Seen::Asked(who, call) => tester.on_invoke(who, call).map(drop),
            Seen::Answered(who, answer) => tester.on_return(who, answer).map(drop),
        };
        recorded.expect("nobody asks twice at a time");
    }
    tester.is_consistent()
}

/// The clients of one run, and what they saw.
#[derive(Clone)]
struct Crowd {
    seen: Rc<RefCell<Vec<Seen>>>,
    who_last: Rc<RefCell<Who>>,
    body_last: Rc<RefCell<u32>>,
    running: Rc<RefCell<u32>>,
}

impl Crowd {
    fn see(&self, seen: Seen) {
        self.seen.borrow_mut().push(seen);
    }

    fn next(counter: &RefCell<u32>) -> u32 {
        *counter.borrow_mut() += 1;
        *counter.borrow()
    }

    /// Few commands on few connections; a connection that is lost is followed by another.
    async fn run(self, stage: (crate::sim::executor::Executor, SimWire), address: String, random: Random) {
        let (executor, wire) = stage;
        let mut left = 7_u32;
        while left > 0 {
            executor.sleep(random.nanos(Nanos::ZERO, Nanos::from_millis(3))).await;
            let Ok(halves) = wire.connect(&address, WireOptions::Client).await else { continue };
            let mut dialogue = Dialogue::new(halves);
            let who = Crowd::next(&self.who_last);
            let mut ids: Vec<u64> = Vec::new();
            while left > 0 {
                left -= 1;
                executor.sleep(random.nanos(Nanos::ZERO, Nanos::from_micros(800))).await;
                let (call, asked) = self.draw(who, &ids, &random);
                self.see(Seen::Asked(who, call));
                let answer = match dialogue.ask(std::slice::from_ref(&asked)).await {
                    Ok(()) => dialogue.hear(&asked).await,
                    Err(ended) => Err(ended),
                };
                let Ok(said) = answer else { break };
                let answer = read(&said);
                if let Answer::Id(id) | Answer::Job(id, _) = answer {
                    ids.push(id);
                }
                self.see(Seen::Answered(who, answer));
            }
            self.see_closed(who);
        }
        *self.running.borrow_mut() -= 1;
    }

    /// From its last answer on the node may have let go of what the connection held, before its client knew.
    fn see_closed(&self, who: Who) {
        let ghost = Crowd::next(&self.who_last);
        let mut seen = self.seen.borrow_mut();
        let last = seen.iter().rposition(|seen| matches!(seen, Seen::Answered(of, _) if *of == who));
        let place = last.map_or(0, |last| last + 1);
        seen.insert(place, Seen::Asked(ghost, Call::Close(who)));
    }

    fn draw(&self, who: Who, ids: &[u64], random: &Random) -> (Call, Asked) {
        let known = random.pick(ids).copied();
        match (random.below(10), known) {
            (0, Some(id)) => (Call::Peek(id), Asked::Peek(id)),
            (1 | 2, Some(id)) => (Call::Delete(who, id), Asked::Delete(id)),
            (3, Some(id)) => (Call::Release(who, id, 1), Asked::Release { id, priority: 1, delay_s: 0 }),
            (4, Some(id)) => (Call::Bury(who, id, 2), Asked::Bury { id, priority: 2 }),
            (5, Some(id)) => (Call::KickJob(id), Asked::KickJob(id)),
            (6..=8, _) => (Call::Reserve(who), Asked::Reserve { timeout_s: Some(0) }),
            _ => {
                let (body, priority) = (Crowd::next(&self.body_last), u32::try_from(random.below(2)).unwrap());
                let bytes = Bytes::from(body.to_string());
                (Call::Put { priority, body }, Asked::Put { priority, delay_s: 0, ttr_s: 600, body: bytes })
            }
        }
    }
}

fn read(said: &Said) -> Answer {
    let number = |body: &Bytes| std::str::from_utf8(body).unwrap().parse().expect("only numbers were put");
    match said {
        Said::Inserted(id) => Answer::Id(*id),
        Said::Reserved { id, body } | Said::Found { id, body } => Answer::Job(*id, number(body)),
        Said::NotFound | Said::TimedOut => Answer::Nothing,
        Said::Deleted | Said::Released | Said::Buried | Said::JobKicked => Answer::Done,
        other => panic!("nobody asked for {other:?}"),
    }
}

/// A history of three clients, one at each node. Where `trouble`, the leader dies, stands still or is cut off in the midst of it.
fn play(seed: u64, trouble: bool) -> Vec<Seen> {
    let stage = Stage::seeded(seed, 3, |tunables| tunables.no_quorum_timeout_ms = 5_000);
    let crowd =
        Crowd { seen: Rc::default(), who_last: Rc::default(), body_last: Rc::default(), running: Rc::default() };
    let random = stage.executor.fork_random();
    *crowd.running.borrow_mut() = 3;
    for (node, address) in stage.nodes().into_iter().zip(stage.cluster.client_addresses()) {
        let (host, group) = (stage.network.add_host(&format!("of-{node}")), stage.executor.new_group());
        let wire = SimWire::new(&stage.network, host, group);
        let client = crowd.clone().run((stage.executor.clone(), wire), address, random.fork());
        stage.executor.spawn(group, client);
    }
    if trouble {
        let at = random.nanos(Nanos::ZERO, Nanos::from_millis(6));
        stage.executor.run_until(stage.now().saturating_add(at));
        let leader = stage.member(stage.leader());
        match random.below(3) {
            0 => {
                stage.cluster.kill(leader);
                stage.pass(ELECTION_TIMEOUT_MAX_MS);
                stage.cluster.start(leader);
            }
            1 => {
                stage.cluster.set_paused(leader, true);
                stage.pass(5 * ELECTION_TIMEOUT_MAX_MS);
                stage.cluster.set_paused(leader, false);
            }
            _ => {
                stage.isolate(leader.node);
                stage.pass(2 * ELECTION_TIMEOUT_MAX_MS);
                stage.heal();
            }
        }
    }
    stage.wait_for(60_000, "end of all clients", || *crowd.running.borrow() == 0);
    let seen = crowd.seen.borrow().clone();
    stage.clear();
    seen
}

fn assert_all_linearizable(seeds: std::ops::Range<u64>, trouble: bool) {
    let mut unanswered = 0;
    let mut answered = 0;
    for seed in seeds {
        let history = play(seed, trouble);
        assert!(is_linearizable(&history), "seed {seed}: {history:#?}");
        answered += history.iter().filter(|seen| matches!(seen, Seen::Answered(..))).count();
        unanswered += history.iter().filter(|seen| matches!(seen, Seen::Asked(..))).count();
    }
    unanswered -= answered;
    println!("{answered} answers, {unanswered} closed connections and calls without an answer");
}

#[test]
fn what_concurrent_clients_of_a_quiet_cluster_see_is_one_queue() {
    assert_all_linearizable(0..12, false);
}

#[test]
fn what_concurrent_clients_see_is_one_queue_also_when_the_leader_dies_stands_still_or_is_cut_off() {
    assert_all_linearizable(100..130, true);
}

// That the checker refuses what is wrong.

fn put(who: Who, priority: u32, body: u32, id: u64) -> [Seen; 2] {
    [Seen::Asked(who, Call::Put { priority, body }), Seen::Answered(who, Answer::Id(id))]
}

fn call(who: Who, call: Call, answer: Answer) -> [Seen; 2] {
    [Seen::Asked(who, call), Seen::Answered(who, answer)]
}

#[test]
fn a_job_handed_to_two_is_refused() {
    let reserve = |who| call(who, Call::Reserve(who), Answer::Job(1, 10));
    let once = [put(1, 0, 10, 1), reserve(2)].concat();
    assert!(is_linearizable(&once));
    assert!(!is_linearizable(&[once.as_slice(), &reserve(3)].concat()));
    // Once its holder has let go of it, or may have, another may have it.
    let closed = [Seen::Asked(9, Call::Close(2))];
    assert!(is_linearizable(&[once.as_slice(), &closed, &reserve(3)].concat()));
    let released = call(2, Call::Release(2, 1, 0), Answer::Done);
    assert!(is_linearizable(&[once.as_slice(), &released, &reserve(3)].concat()));
}

#[test]
fn a_put_that_was_answered_and_is_gone_is_refused() {
    let answered = put(1, 0, 10, 1);
    let nothing = call(2, Call::Reserve(2), Answer::Nothing);
    assert!(!is_linearizable(&[answered.clone(), nothing.clone()].concat()));
    // Without an answer it may not have happened yet, and may still.
    let unanswered = &answered[..1];
    let later = call(2, Call::Reserve(2), Answer::Job(1, 10));
    assert!(is_linearizable(&[unanswered, &nothing, &later].concat()));
}

#[test]
fn an_answer_before_the_commit_shows_as_a_job_that_a_later_question_does_not_find() {
    let [asked, answered] = put(1, 0, 10, 1);
    let peek = |answer| call(2, Call::Peek(1), answer);
    let early = [&[asked.clone(), answered.clone()], peek(Answer::Nothing).as_slice()].concat();
    assert!(!is_linearizable(&early));
    let in_time =
        [&[asked], peek(Answer::Nothing).as_slice(), &[answered], peek(Answer::Job(1, 10)).as_slice()].concat();
    assert!(is_linearizable(&in_time));
}

#[test]
fn another_order_than_priority_and_then_age_is_refused() {
    let puts = [put(1, 1, 10, 1), put(1, 0, 11, 2), put(1, 0, 12, 3)].concat();
    let reserve = |id, body| call(2, Call::Reserve(2), Answer::Job(id, body));
    let all = |order: [[Seen; 2]; 3]| [puts.as_slice(), &order.concat()].concat();
    assert!(is_linearizable(&all([reserve(2, 11), reserve(3, 12), reserve(1, 10)])));
    assert!(!is_linearizable(&all([reserve(3, 12), reserve(2, 11), reserve(1, 10)])));
    assert!(!is_linearizable(&all([reserve(1, 10), reserve(2, 11), reserve(3, 12)])));
}

#[test]
fn an_id_that_is_given_twice_or_is_too_low_is_refused() {
    assert!(!is_linearizable(&[put(1, 0, 10, 1), put(2, 0, 11, 1)].concat()));
    assert!(!is_linearizable(&[put(1, 0, 10, 5), put(2, 0, 11, 4)].concat()));
}

#[test]
fn a_job_that_is_delivered_after_it_was_deleted_is_refused() {
    let deleted =
        [put(1, 0, 10, 1), call(2, Call::Reserve(2), Answer::Job(1, 10)), call(2, Call::Delete(2, 1), Answer::Done)]
            .concat();
    assert!(is_linearizable(&deleted));
    for again in [call(3, Call::Reserve(3), Answer::Job(1, 10)), call(3, Call::Peek(1), Answer::Job(1, 10))] {
        assert!(!is_linearizable(&[deleted.as_slice(), &again].concat()));
    }
    assert!(!is_linearizable(&[deleted.as_slice(), &call(2, Call::Delete(2, 1), Answer::Done)].concat()));
}

/// The same of histories that really happened: each lie in one answer of them is noticed.
#[test]
fn a_lie_in_one_answer_of_a_true_history_is_noticed() {
    let history = play(3, false);
    assert!(is_linearizable(&history));
    let mut lies = 0;
    for place in 0..history.len() {
        let Seen::Answered(who, answer) = &history[place] else { continue };
        let lie = match answer {
            Answer::Id(_) => Answer::Id(1_000_000_007),
            Answer::Job(id, body) => Answer::Job(*id, body + 1),
            _ => continue,
        };
        let mut told = history.clone();
        told[place] = Seen::Answered(*who, lie);
        // An id that nobody used is noticed only by what comes behind it.
        let is_last_use = matches!(answer, Answer::Id(id) if !used_behind(&history[place + 1..], *id));
        if !is_last_use {
            assert!(!is_linearizable(&told), "{place}: {answer:?}");
            lies += 1;
        }
    }
    assert!(lies >= 3, "{lies} lies were told");
}

fn used_behind(history: &[Seen], id: u64) -> bool {
    history.iter().any(|seen| match seen {
        Seen::Answered(_, Answer::Id(_)) => true,
        Seen::Answered(_, Answer::Job(told, _)) => *told == id,
        _ => false,
    })
}
