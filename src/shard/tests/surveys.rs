//! Questions about all tubes, and what else is done in steps, while everything they look at
//! changes.

use std::collections::BTreeSet;

use super::*;
use crate::api::ReferenceChange;
use crate::net::message::{NAMES_PER_PAGE_MAX, ReadAbout, ReferencePart};
use crate::shard::steps::NAMES_PER_STEP;

/// Whoever uses tubes without a job, so that they stay.
const KEEPER: ConnectionId = ConnectionId(90);

fn name(number: usize) -> Bytes {
    Bytes::from(format!("tube-{number:05}"))
}

fn in_tube(number: usize) -> Operation {
    Operation::Put { tube: name(number), priority: 1, delay_s: 0, ttr_s: 60, body: Bytes::from_static(b"x") }
}

fn keep(world: &mut World, node: NodeId, tubes: impl Iterator<Item = usize>) {
    let moment = world.moment();
    for number in tubes {
        let watch = Operation::Reference { tube: name(number), change: ReferenceChange::Watch };
        world.with(node, |shard| shard.handle_operation(moment, KEEPER, 0, watch));
    }
    world.run_dry();
}

/// Puts a job into each; the jobs.
fn fill(world: &mut World, node: NodeId, tubes: impl Iterator<Item = usize>) -> Vec<JobId> {
    let tickets: Vec<u64> = tubes.map(|number| world.ask(node, SECOND, in_tube(number))).collect();
    world.run_until("jobs", |world| tickets.iter().all(|ticket| world.answer_to(*ticket).is_some()));
    let job = |ticket: &u64| match world.answer_to(*ticket) {
        Some(Answer::Inserted { job }) => *job,
        other => panic!("{other:?}"),
    };
    tickets.iter().map(job).collect()
}

fn names_of(answer: &Answer) -> Vec<String> {
    let Answer::Tubes(tubes) = answer else { panic!("no list: {answer:?}") };
    let text = String::from_utf8(tubes.text().to_vec()).expect("names are ASCII");
    text.lines().map(|line| line.strip_prefix("- ").expect("a list").to_owned()).collect()
}

fn all_of(tubes: impl Iterator<Item = usize>) -> Vec<String> {
    tubes.map(|number| String::from_utf8(name(number).to_vec()).expect("ASCII")).collect()
}

/// One turn of a node that leads alone: one step of each kind, and what its disk was given is
/// durable.
fn turn(world: &mut World, node: NodeId) {
    let moment = world.moment();
    world.shards.get_mut(&node).expect("it runs").flush(moment);
    loop {
        let Some(effect) = world.shards.get_mut(&node).expect("it runs").poll_effect() else { break };
        world.carry_out(node, effect);
    }
    while let Some(append) = world.disks.get_mut(&node).expect("it has one").appends.pop_front() {
        let placements = world.disks.get_mut(&node).expect("it has one").complete(append);
        world.shards.get_mut(&node).expect("it runs").handle_appended(moment, &placements);
    }
}

fn tell(world: &mut World, node: NodeId, connection: ConnectionId, operation: Operation) -> u64 {
    let ticket = world.next_ticket;
    world.next_ticket += 1;
    world.asked.entry((node, connection)).or_default().insert(ticket, operation.clone());
    let moment = world.moment();
    world.shards.get_mut(&node).expect("it runs").handle_operation(moment, connection, ticket, operation);
    ticket
}

/// Some tubes get their first job and some lose their last while the list goes over them, in front
/// of it and behind it.
#[test]
fn a_list_holds_every_tube_once_though_tubes_gain_and_lose_jobs_while_it_is_gathered() {
    const TUBES: usize = 1_500;
    let node = NodeId(1);
    let mut turns_seen = 0;
    for seed in 0..8 {
        let mut world = World::new(seed, 1);
        world.run_until("a leader", |world| world.leader().is_some());
        keep(&mut world, node, 0..TUBES);
        let with_job: Vec<usize> = (0..TUBES).filter(|number| number % 3 != 0).collect();
        let jobs = fill(&mut world, node, with_job.iter().copied());
        let mut jobs: BTreeMap<usize, JobId> = with_job.into_iter().zip(jobs).collect();
        let ticket = tell(&mut world, node, FIRST, Operation::ListTubes);
        let mut turns = 0;
        while world.answer_to(ticket).is_none() {
            turn(&mut world, node);
            turns += 1;
            for _ in 0..40 {
                let number = (world.rng.next_u64() % TUBES as u64) as usize;
                match jobs.remove(&number) {
                    Some(job) => _ = tell(&mut world, node, SECOND, Operation::Delete { job }),
                    // Its job is not known, so that it keeps it.
                    None => _ = tell(&mut world, node, SECOND, in_tube(number)),
                }
            }
            assert!(turns < 1_000, "the list comes to no end");
        }
        let listed = names_of(world.answer_to(ticket).expect("just seen"));
        let once: BTreeSet<&String> = listed.iter().collect();
        assert_eq!(once.len(), listed.len(), "seed {seed}: a tube is listed twice");
        let missing: Vec<_> = all_of(0..TUBES).into_iter().filter(|name| !once.contains(name)).collect();
        assert!(missing.is_empty() && listed.len() == TUBES, "seed {seed}: {missing:?} are missing");
        turns_seen = turns_seen.max(turns);
    }
    assert!(turns_seen > TUBES / NAMES_PER_STEP, "the lists were gathered in {turns_seen} turns");
}

#[test]
fn a_list_of_many_pages_is_complete_and_in_its_order_at_every_node() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let bare = 2 * NAMES_PER_PAGE_MAX + 500;
    // In no order of names.
    let filled: Vec<usize> = (0..700).map(|number| 10_000 + number * 7_919 % 10_007).collect();
    let first = world.nodes[0];
    fill(&mut world, first, filled.iter().copied());
    let keeper = world.nodes[1];
    keep(&mut world, keeper, 0..bare);
    let expected: Vec<String> = all_of(filled.into_iter()).into_iter().chain(all_of(0..bare)).collect();
    for node in world.nodes.clone() {
        let listed = names_of(&world.call(node, FIRST, Operation::ListTubes));
        assert!(listed == expected, "{} of {} tubes at node {node}", listed.len(), expected.len());
    }
    assert_eq!(world.leader(), Some(leader));
}

fn pages_asked(world: &World, from: NodeId, to: NodeId) -> usize {
    let is_page = |message: &&PeerMessage| {
        matches!(message, PeerMessage::Read { about: ReadAbout::BareTubes { .. } | ReadAbout::TubeCount, .. })
    };
    world.wires[&(from, to)].iter().filter(is_page).count()
}

#[test]
fn many_who_ask_at_once_share_one_list_and_one_sum_and_those_who_ask_meanwhile_the_next() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let node = world.nodes.iter().copied().find(|node| *node != leader).expect("there are three");
    fill(&mut world, node, 0..3);
    let ask_all = |world: &mut World, from: u64| -> Vec<u64> {
        let connections = (from..from + 50).map(ConnectionId);
        connections
            .flat_map(|connection| {
                [world.ask(node, connection, Operation::ListTubes), world.ask(node, connection, Operation::Stats)]
            })
            .collect()
    };
    let early = ask_all(&mut world, 100);
    assert_eq!(pages_asked(&world, node, leader), 2, "one of each kind");
    let late = ask_all(&mut world, 200);
    assert_eq!(pages_asked(&world, node, leader), 2, "nothing is asked before the first have their answers");
    let mut asked = 2;
    let mut rounds = 0;
    while late.iter().any(|ticket| world.answer_to(*ticket).is_none()) {
        let before = pages_asked(&world, node, leader);
        while world.deliver(node, leader) {}
        asked += pages_asked(&world, node, leader).saturating_sub(before);
        for from in world.nodes.clone() {
            for to in world.nodes.clone() {
                while (from, to) != (node, leader) && world.deliver(from, to) {}
            }
        }
        asked += pages_asked(&world, node, leader);
        world.pass_time(Nanos::from_millis(1));
        rounds += 1;
        assert!(rounds < 1_000, "somebody is never answered");
    }
    assert!(early.iter().all(|ticket| world.answer_to(*ticket).is_some()));
    // Those who asked first of all, alone, and then everybody else together.
    assert!(asked <= 6, "{asked} questions crossed the link for 200");
}

/// Some of those who ask are gone before the answer, and all of them: the next who asks is answered
/// all the same.
#[test]
fn a_list_goes_on_for_those_who_stay_and_is_no_hindrance_when_all_have_gone() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let node = world.nodes.iter().copied().find(|node| *node != leader).expect("there are three");
    fill(&mut world, node, 0..3);
    for stay in [true, false] {
        world.ask(node, FIRST, Operation::ListTubes);
        let patient = world.ask(node, SECOND, Operation::ListTubes);
        world.ask(node, FIRST, Operation::Stats);
        world.close(node, FIRST);
        if !stay {
            world.close(node, SECOND);
        }
        world.run_dry();
        world.run_until("the end of the list", |world| world.shards[&node].surveys.oldest().is_none());
        assert_eq!(world.answer_to(patient).is_some(), stay);
        assert_eq!(names_of(&world.call(node, ConnectionId(7), Operation::ListTubes)), all_of(0..3));
    }
}

#[test]
fn a_list_whose_leader_is_lost_between_two_pages_is_ended_by_the_next_leader() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let node = world.nodes.iter().copied().find(|node| *node != leader).expect("there are three");
    let bare = NAMES_PER_PAGE_MAX + 300;
    fill(&mut world, node, 2_000..2_300);
    keep(&mut world, node, 0..bare);
    let ticket = world.ask(node, FIRST, Operation::ListTubes);
    // The first page comes.
    while pages_asked(&world, node, leader) > 0 {
        world.deliver(node, leader);
    }
    while pages_asked(&world, node, leader) == 0 {
        for to in world.nodes.clone() {
            world.deliver(leader, to);
            if to != leader && to != node {
                while world.deliver(to, leader) {}
            }
        }
        if pages_asked(&world, node, leader) == 0 {
            world.pass_time(Nanos::from_millis(1));
            while world.wires[&(node, leader)].front().is_some() && pages_asked(&world, node, leader) == 0 {
                world.deliver(node, leader);
            }
        }
    }
    assert!(world.answer_to(ticket).is_none());
    world.kill(leader);
    world.run_until("an answer", |world| world.answer_to(ticket).is_some());
    let listed = names_of(world.answer_to(ticket).expect("just seen"));
    let once: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(once.len(), listed.len());
    assert!(all_of(2_000..2_300).iter().all(|name| once.contains(name)), "a tube with a job is missing");
    assert!(all_of(0..NAMES_PER_PAGE_MAX).iter().all(|name| once.contains(name)), "the first page is missing");
}

#[test]
fn a_list_that_no_leader_answers_ends_with_its_connections_and_the_next_is_answered() {
    let mut world = settled(3);
    for shard in world.shards.values_mut() {
        shard.config.no_quorum_timeout = Nanos::from_secs(2);
    }
    let leader = world.leader().expect("it is settled");
    let node = world.nodes.iter().copied().find(|node| *node != leader).expect("there are three");
    fill(&mut world, node, 0..3);
    for peer in world.nodes.clone() {
        world.disconnect(node, peer, false);
        world.disconnect(peer, node, false);
    }
    world.ask(node, FIRST, Operation::ListTubes);
    world.ask(node, FIRST, Operation::Stats);
    for _ in 0..95 {
        world.pass_time(Nanos::from_millis(20));
    }
    assert!(world.asked.contains_key(&(node, FIRST)), "it may yet be answered");
    let late = world.ask(node, SECOND, Operation::ListTubes);
    for _ in 0..40 {
        world.pass_time(Nanos::from_millis(20));
    }
    assert!(!world.asked.contains_key(&(node, FIRST)), "neither answered nor closed");
    assert!(world.asked[&(node, SECOND)].contains_key(&late), "it asked half a second ago");
    for peer in world.nodes.clone().into_iter().filter(|peer| *peer != node) {
        world.connect(node, peer);
        world.connect(peer, node);
    }
    world.run_until("an answer", |world| world.answer_to(late).is_some());
    assert_eq!(names_of(world.answer_to(late).expect("just seen")), all_of(0..3));
}

/// A snapshot takes the state's place: what happened in between is told to nobody, also not that a
/// tube lost its last job.
#[test]
fn a_list_that_goes_on_across_a_jump_of_the_state_misses_no_tube() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let node = world.nodes.iter().copied().find(|node| *node != leader).expect("there are three");
    let jobs = fill(&mut world, node, 0..3);
    keep(&mut world, node, 0..3);
    let ticket = world.ask(node, FIRST, Operation::ListTubes);
    // The page was written while all have a job, and is on its way.
    while pages_asked(&world, node, leader) > 0 {
        world.deliver(node, leader);
    }
    let is_page = |message: &PeerMessage| {
        matches!(message, PeerMessage::ReadAnswer { soft: crate::net::message::Soft::BareTubes { .. }, .. })
    };
    let mut page = None;
    for _ in 0..1_000 {
        for to in world.nodes.clone().into_iter().filter(|to| *to != leader) {
            while world.wires[&(leader, to)].front().is_some_and(|message| !is_page(message)) {
                world.deliver(leader, to);
            }
            while world.deliver(to, leader) {}
        }
        page = world.wires[&(leader, node)].front().filter(|message| is_page(message)).cloned();
        if page.is_some() {
            break;
        }
        world.pass_time(Nanos::from_millis(1));
    }
    let page = page.expect("the leader answers");
    world.wires.get_mut(&(leader, node)).expect("they are connected").pop_front();
    // What is applied here meanwhile is skipped.
    let walk = std::mem::take(&mut world.shards.get_mut(&node).expect("it runs").surveys.walk);
    for job in jobs {
        assert_eq!(world.call(leader, SECOND, Operation::Delete { job }), Answer::Deleted);
    }
    world.run_until("the state of all", |world| {
        world.shards[&node].applied.index == world.shards[&leader].applied.index
    });
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.surveys.walk = walk;
    shard.surveys.begin_anew();
    let moment = world.moment();
    world.with(node, |shard| shard.handle_message(moment, leader, page));
    world.run_until("an answer", |world| world.answer_to(ticket).is_some());
    let listed = names_of(world.answer_to(ticket).expect("just seen"));
    assert_eq!(listed, all_of(0..3), "they have been watched all the while");
}

/// What a connection leaves behind, and a whole report to the leader, take many turns of a bounded
/// size and lose nothing.
#[test]
fn what_is_done_in_steps_is_done_in_bounded_steps_and_to_its_end() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    let node = world.nodes.iter().copied().find(|node| *node != leader).expect("there are three");
    let count = 5 * NAMES_PER_STEP + 10;
    keep(&mut world, node, 0..count);
    let told = |world: &World| world.shards[&leader].leading.as_ref().expect("it leads").references.bare_count();
    assert_eq!(told(&world), count as u64);
    // A whole report, as to a new leader.
    world.shards.get_mut(&node).expect("it runs").begin_reporting();
    let (mut parts, mut turns) = (Vec::new(), 0);
    let moment = world.moment();
    let one_turn = |world: &mut World, parts: &mut Vec<ReferencePart>| -> usize {
        let shard = world.shards.get_mut(&node).expect("it runs");
        shard.flush(moment);
        let mut tubes = 0;
        while let Some(effect) = shard.poll_effect() {
            if let Effect::Send { message: PeerMessage::References { part, changes, .. }, .. } = effect {
                tubes += changes.len();
                parts.push(part);
            }
        }
        tubes
    };
    let mut reported = 0;
    while world.shards[&node].has_steps() {
        let tubes = one_turn(&mut world, &mut parts);
        assert!(tubes <= 2 * NAMES_PER_STEP, "{tubes} names in a turn");
        (reported, turns) = (reported + tubes, turns + 1);
        assert!(turns < 100, "it comes to no end");
    }
    assert_eq!(reported, count);
    assert!(turns >= 4, "{turns} turns");
    assert!(parts.last().is_some_and(|part| part.ends()) && !parts[0].ends());
    assert!(parts[1..parts.len() - 1].iter().all(|part| *part != ReferencePart::Changes && !part.ends()));
    // Everything is let go of.
    let watched = (0..count).map(name).collect();
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.leave(None, watched);
    let (mut gone, mut turns) = (0, 0);
    while world.shards[&node].has_steps() {
        let tubes = one_turn(&mut world, &mut parts);
        assert!(tubes <= NAMES_PER_STEP, "{tubes} names in a turn");
        (gone, turns) = (gone + tubes, turns + 1);
        assert!(turns < 100, "it comes to no end");
        // The next step waits for the leader's word.
        assert!(!world.shards[&node].has_steps());
        let term = world.shards[&leader].raft().term();
        let shard = world.shards.get_mut(&node).expect("it runs");
        shard.handle_message(moment, leader, PeerMessage::LeftTaken { term });
    }
    assert_eq!((gone, turns > 4), (count, true), "in {turns} turns");
    assert!(world.shards.get_mut(&node).expect("it runs").take_items_stepped() > 0);
}
