//! Bodies that are given out have room, or are read back once there is some.

use super::*;

fn body_reads(world: &World) -> u64 {
    world.shards[&NodeId(1)].counters.body_reads
}

/// One node that keeps few bodies in memory.
fn forgetful() -> (World, NodeId) {
    let (mut world, node) = (settled(1), NodeId(1));
    world.kill(node);
    world.cache_bytes_max = 100_000;
    world.start(node);
    world.run_until("a leader", |world| world.leader().is_some());
    (world, node)
}

#[test]
fn a_body_for_which_there_is_no_room_is_not_given_out_of_memory_but_read_back() {
    let (mut world, node) = forgetful();
    let answers = Arc::clone(&world.shards[&node].config.answers);
    let body = "long".repeat(1000);
    world.call(node, FIRST, put(&body));
    let found = Answer::Found { job: JobId(1), body: Bytes::copy_from_slice(body.as_bytes()) };

    assert_eq!(world.call(node, FIRST, Operation::Peek { job: JobId(1) }), found);
    assert_eq!(body_reads(&world), 0, "it is in memory");
    let taken = answers.taken_bytes();
    assert!((4000..4100).contains(&taken), "{taken} bytes of a command with its body");
    world.answers.clear();
    assert_eq!(answers.taken_bytes(), 0, "the client has taken it");

    let others = answers.take(1 << 30);
    assert_eq!(world.call(node, FIRST, Operation::Peek { job: JobId(1) }), found);
    assert_eq!((body_reads(&world), answers.taken_bytes()), (1, 1 << 30), "whoever reads it finds room for it");
    drop(others);

    world.call(node, FIRST, put("short"));
    assert!(matches!(world.call(node, FIRST, Operation::Peek { job: JobId(2) }), Answer::Found { .. }));
    assert_eq!((body_reads(&world), answers.taken_bytes()), (1, 0), "a short one is copied, and counted as output");
}

#[test]
fn b3_a_client_whose_body_finds_no_room_is_closed() {
    let (mut world, node) = forgetful();
    world.call(node, FIRST, put(&"long".repeat(1000)));
    let _others = Arc::clone(&world.shards[&node].config.answers).take(1 << 30);

    let moment = world.moment();
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.handle_operation(moment, SECOND, 1, Operation::Peek { job: JobId(1) });
    let mut read = None;
    while let Some(effect) = shard.poll_effect() {
        if let Effect::ReadCommand { read: number, .. } = effect {
            read = Some(number);
        }
    }
    let read = read.expect("it is read back");
    shard.handle_body_given_up(read);
    let answered = std::iter::from_fn(|| shard.poll_effect()).find_map(|effect| match effect {
        Effect::Answer { connection: SECOND, ticket: 1, answer } => Some(answer),
        _ => None,
    });
    assert_eq!(answered, Some(Answer::Hangup));
    shard.handle_command_read(moment, read, Ok(Bytes::new()));
    assert!(shard.poll_effect().is_none(), "nobody waits for it any more");
}
