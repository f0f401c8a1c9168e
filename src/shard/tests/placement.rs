//! A leader that belongs elsewhere hands over, and only to a node that can lead.

use super::*;

const PREFERRED: NodeId = NodeId(2);

/// A cluster that is told where its leader belongs.
fn preferring() -> World {
    let mut world = settled(3);
    world.preferred_leader = Some(PREFERRED);
    for shard in world.shards.values_mut() {
        shard.config.preferred_leader = Some(PREFERRED);
    }
    world
}

fn pass(world: &mut World, time: Nanos) {
    let end = world.now.saturating_add(time);
    while world.now < end {
        world.run_dry();
        world.pass_time(Nanos::from_millis(10));
    }
    world.run_dry();
}

/// Makes another node than the preferred one lead, with the preferred one gone.
fn led_by_another() -> World {
    let mut world = preferring();
    world.kill(PREFERRED);
    world.run_until("another leads", |world| world.leader().is_some());
    world
}

#[test]
fn leadership_returns_to_where_it_belongs_once_that_node_keeps_up() {
    let mut world = led_by_another();
    let before = world.leader().expect("it was waited for");
    assert_eq!(world.call(before, FIRST, put("meanwhile")), Answer::Inserted { job: JobId(1) });
    world.start(PREFERRED);
    pass(&mut world, Nanos::from_secs(3));
    assert_eq!(world.leader(), Some(before), "a node that has just returned is left alone");
    pass(&mut world, Nanos::from_secs(5));
    assert_eq!(world.leader(), Some(PREFERRED));
    assert_eq!(world.call(before, FIRST, put("behind it")), Answer::Inserted { job: JobId(2) });
    let term = world.shards[&PREFERRED].raft.term();
    pass(&mut world, Nanos::from_secs(30));
    assert_eq!(world.shards[&PREFERRED].raft.term(), term, "who leads where it belongs moves nothing");
}

#[test]
fn a_node_without_room_is_not_handed_leadership() {
    let mut world = led_by_another();
    let before = world.leader();
    world.start(PREFERRED);
    world.with(PREFERRED, |shard| shard.handle_room(false));
    pass(&mut world, Nanos::from_secs(15));
    assert_eq!(world.leader(), before);
    world.with(PREFERRED, |shard| shard.handle_room(true));
    pass(&mut world, Nanos::from_secs(15));
    assert_eq!(world.leader(), Some(PREFERRED));
}

#[test]
fn a_node_that_is_gone_or_whose_disk_hangs_is_not_handed_leadership() {
    let mut world = led_by_another();
    let before = world.leader().expect("it was waited for");
    pass(&mut world, Nanos::from_secs(15));
    assert_eq!(world.leader(), Some(before), "it is gone");
    world.start(PREFERRED);
    let term = world.shards[&before].raft.term();
    // It answers, and stores nothing, while the others go on.
    let end = world.now.saturating_add(Nanos::from_secs(15));
    let mut number = 0;
    while world.now < end {
        for node in world.nodes.clone() {
            world.complete_vote(node);
            if node != PREFERRED {
                world.complete_append(node);
            }
            for peer in world.nodes.clone() {
                while world.deliver(node, peer) {}
            }
        }
        number += 1;
        if number % 20 == 0 {
            world.ask(before, FIRST, put("goes on"));
        }
        world.pass_time(Nanos::from_millis(10));
    }
    assert_eq!((world.leader(), world.shards[&before].raft.term()), (Some(before), term));
}
