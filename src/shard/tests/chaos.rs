//! Three shards under a seeded schedule: messages and completions at any time, connections that break, nodes that are killed and
//! come back with what was durable. Clients must see every put happen once.

use super::*;

/// What one run's clients asked and learnt.
#[derive(Default)]
struct Ledger {
    put: Vec<(u64, String)>,
    /// Jobs that somebody asked to be deleted, whatever came of it.
    deletes: Vec<JobId>,
    /// Connections closed so far: the next one in the same place has another number.
    closed: u64,
}

/// How often a node started from a snapshot.
fn chaos(seed: u64) -> usize {
    let mut world = World::new(seed, 3);
    let mut ledger = Ledger::default();
    for step in 0..1500 {
        let node = world.nodes[world.rng.random_range(0..3)];
        let peer = world.nodes[world.rng.random_range(0..3)];
        let connection = ConnectionId(world.rng.random_range(1..5) + 10 * ledger.closed);
        match world.rng.random_range(0..100) {
            0..45 => {
                world.deliver(node, peer);
            }
            45..60 => {
                world.complete_append(node);
            }
            60..66 => {
                world.complete_vote(node);
            }
            66..74 => {
                let time = Nanos::from_millis(world.rng.random_range(1..40));
                world.pass_time(time);
            }
            74..90 => act(&mut world, &mut ledger, node, connection, step),
            90..92 => {
                let open: Vec<_> = world.asked.keys().copied().collect();
                for (node, connection) in open {
                    world.close(node, connection);
                }
                ledger.closed += 1;
            }
            92..95 if node != peer => {
                if world.wires.contains_key(&(node, peer)) {
                    world.disconnect(node, peer, false);
                } else if world.shards.contains_key(&node) && world.shards.contains_key(&peer) {
                    world.connect(node, peer);
                }
            }
            95..96 => world.kill(node),
            96..100 if !world.shards.contains_key(&node) => world.start(node),
            _ => {}
        }
        world.check_states();
    }
    heal(&mut world);
    world.run_until("every operation of a live client is answered", |world| {
        world
            .asked
            .values()
            .flat_map(BTreeMap::values)
            .all(|asked| matches!(asked, Operation::Reserve { poll: false, .. }))
    });
    world.run_until("no job is left lying while somebody waits for it", |world| {
        let Some(leader) = world.leader() else { return false };
        let machine = &world.shards[&leader].machine;
        let mut watched = world.asked.values().flat_map(BTreeMap::values).filter_map(|asked| match asked {
            Operation::Reserve { tubes, .. } => Some(tubes),
            _ => None,
        });
        watched.all(|tubes| tubes.iter().all(|tube| machine.ready_count(tube) == 0))
    });
    check(&mut world, &ledger);
    world.restored
}

fn act(world: &mut World, ledger: &mut Ledger, node: NodeId, connection: ConnectionId, step: usize) {
    if !world.shards.contains_key(&node) {
        return;
    }
    let asked = world.asked.get(&(node, connection));
    let only_puts = asked.is_none_or(|asked| asked.values().all(|asked| matches!(asked, Operation::Put { .. })));
    let is_idle = asked.is_none_or(BTreeMap::is_empty);
    match world.rng.random_range(0..10) {
        0..5 if only_puts => {
            ask_put(world, ledger, node, connection, step);
        }
        5..7 if is_idle => {
            let poll = world.rng.random();
            let tubes = match world.rng.random_range(0..3) {
                0 => vec![tube()],
                1 => vec![other_tube()],
                _ => vec![tube(), other_tube()],
            };
            world.ask(node, connection, Operation::Reserve { tubes, poll });
        }
        7..8 if is_idle => {
            let held = world.answers.iter().rev().find_map(|answer| match answer {
                (of, with, _, _, Answer::Reserved { job, .. }) if (*of, *with) == (node, connection) => Some(*job),
                _ => None,
            });
            if let Some(job) = held {
                let operation = match world.rng.random_range(0..5) {
                    0 => Operation::Delete { job },
                    1 => Operation::Release { job, priority: 5, delay_s: 0 },
                    2 => Operation::Release { job, priority: 0, delay_s: 1 },
                    3 => Operation::Bury { job, priority: 7 },
                    _ => Operation::Touch { job },
                };
                if let Operation::Delete { job } = operation {
                    ledger.deletes.push(job);
                }
                world.ask(node, connection, operation);
            }
        }
        8 if is_idle => {
            let job = JobId(world.rng.random_range(1..20));
            let operation = match world.rng.random_range(0..6) {
                0 => Operation::Kick { tube: tube(), bound: 2 },
                1 => Operation::KickJob { job },
                2 => Operation::ReserveJob { job },
                3 => Operation::Peek { job },
                4 => Operation::StatsTube { tube: other_tube() },
                _ => Operation::ListTubes,
            };
            world.ask(node, connection, operation);
        }
        9 => {
            let waits = asked.and_then(|asked| {
                asked.iter().find(|(_, asked)| matches!(asked, Operation::Reserve { poll: false, .. }))
            });
            if let Some((&ticket, _)) = waits {
                let moment = world.moment();
                world.with(node, |shard| {
                    shard.handle_operation(moment, connection, 0, Operation::Withdraw { ticket });
                });
                // Over several shards a client goes on before the waits it has abandoned are over.
                match world.rng.random_range(0..3) {
                    0 => ask_put(world, ledger, node, connection, step),
                    1 => {
                        world.ask(
                            node,
                            connection,
                            Operation::Reserve { tubes: vec![tube(), other_tube()], poll: true },
                        );
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn ask_put(world: &mut World, ledger: &mut Ledger, node: NodeId, connection: ConnectionId, step: usize) {
    let body = format!("{node}/{connection:?}/{step}");
    let tube = if world.rng.random() { tube() } else { other_tube() };
    let (priority, delay_s) = (world.rng.random_range(0..3), world.rng.random_range(0..3) / 2);
    let operation = Operation::Put { tube, priority, delay_s, ttr_s: 60, body: body.clone().into() };
    let ticket = world.ask(node, connection, operation);
    ledger.put.push((ticket, body));
}

fn heal(world: &mut World) {
    for node in world.nodes.clone() {
        if !world.shards.contains_key(&node) {
            world.start(node);
        }
    }
    for from in world.nodes.clone() {
        for to in world.nodes.clone() {
            if from != to && !world.wires.contains_key(&(from, to)) {
                world.connect(from, to);
            }
        }
    }
}

/// Every acknowledged put is there once, or was deleted; an unknown one at most once.
fn check(world: &mut World, ledger: &Ledger) {
    // What a client asked to be deleted and never learnt may be gone or not.
    let deleted: Vec<JobId> = world
        .answers
        .iter()
        .filter_map(|answer| match (&answer.3, &answer.4) {
            (Operation::Delete { job }, Answer::Deleted) => Some(*job),
            _ => None,
        })
        .collect();
    let mut copies: BTreeMap<Vec<u8>, Vec<JobId>> = BTreeMap::new();
    let connections: Vec<_> = world.asked.keys().copied().collect();
    for (node, connection) in connections {
        world.close(node, connection);
    }
    world.run_until("sessions close", |world| {
        let reserved = |shard: &Shard| shard.machine.counts().reserved;
        world.shards.values().all(|shard| reserved(shard) == 0) || world.now > Nanos::from_secs(400)
    });
    for tube in [tube(), other_tube()] {
        while world.call(NodeId(1), ConnectionId(99), Operation::Kick { tube: tube.clone(), bound: 1000 })
            != (Answer::Kicked { count: 0 })
        {}
    }
    loop {
        match world.call(NodeId(1), ConnectionId(99), reserve(true)) {
            Answer::Reserved { job, body, .. } => {
                copies.entry(body.to_vec()).or_default().push(job);
                assert!(!deleted.contains(&job), "job {job} came after its ACK");
                assert_eq!(world.call(NodeId(1), ConnectionId(99), Operation::Delete { job }), Answer::Deleted);
            }
            Answer::NothingReady => break,
            other => panic!("{other:?}"),
        }
    }
    for (ticket, body) in &ledger.put {
        let found = copies.get(body.as_bytes()).map_or(0, Vec::len);
        assert!(found <= 1, "{body} exists {found} times");
        if let Some(Answer::Inserted { job }) = world.answer_to(*ticket) {
            let job = *job;
            let may_be_gone = deleted.contains(&job) || ledger.deletes.contains(&job);
            assert!(found == 1 || may_be_gone, "{body} (job {job}) was acknowledged and is lost");
        }
    }
    world.run_until("all apply the same", |world| {
        let applied: Vec<_> = world.shards.values().map(|shard| shard.applied).collect();
        applied.iter().all(|position| *position == applied[0])
    });
    world.check_states();
    assert!(world.segments_closed > 0, "rows leave memory in every run");
}

#[test]
fn whatever_the_schedule_every_put_happens_once_and_every_live_client_is_answered() {
    let runs = std::env::var("BEAVER_SHARD_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    // 1027 once applied entries that a cut whose write was under way had replaced.
    let mut restored = 0;
    for seed in (0..runs).chain([1027]) {
        restored += std::panic::catch_unwind(|| chaos(seed)).unwrap_or_else(|panic| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(panic)
        });
    }
    assert!(restored > runs as usize / 30, "{restored} starts from a snapshot are too few to say anything");
}
