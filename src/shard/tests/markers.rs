//! Nodes whose states differ find it out at the next marker, and those that are wrong stop.

use super::*;
use crate::job::codec::encode;
use crate::job::command::{Batch, Command, Numbered, Origin};
use crate::shard::effect::Stop;

/// Gives a node a state that no log made: it believes that a node which does not exist has started.
fn corrupt(world: &mut World, node: NodeId, believed: u8) {
    world.expects_stops = true;
    let entries = world.disks[&node].entries.clone();
    let shard = world.shards.get_mut(&node).expect("it runs");
    let mut wrong = Machine::new();
    for entry in &entries[..shard.applied.index.0 as usize] {
        let position = entry.meta.position;
        let mut commands = match entry.kind {
            EntryKind::Commands => entry.payload().to_vec(),
            _ => Vec::new(),
        };
        if position == shard.applied {
            let command = Command::NodeBoot { node: NodeId(believed), boot: BootEpoch(1) };
            encode(&Numbered { origin: Origin::System, command }, &mut commands);
        }
        let (index, term, times, first_job) = (position.index, position.term, entry.times, entry.first_job);
        wrong.apply(Batch { index, term, times, first_job, commands: &commands }, &mut Vec::new()).expect("it applies");
    }
    shard.machine = wrong;
}

/// Puts jobs until the nodes have marked their states twice, or have stopped; why each did.
fn load(world: &mut World, through: NodeId) -> BTreeMap<NodeId, Stop> {
    for round in 0..60 {
        world.ask(through, FIRST, put(&format!("{round} {}", "x".repeat(300))));
        world.run_dry();
        world.pass_time(Nanos::from_millis(20));
        if world.stops.len() == world.nodes.len() {
            break;
        }
    }
    std::mem::take(&mut world.stops)
}

#[test]
fn nodes_with_the_same_state_never_stop_at_markers() {
    let mut world = settled(3);
    let leader = world.leader().expect("it is settled");
    assert_eq!(load(&mut world, leader), BTreeMap::new());
    assert!(world.snapshots.len() >= 3, "{}", world.snapshots.len());
}

#[test]
fn a_node_that_differs_from_the_majority_stops_and_says_so_and_the_others_go_on() {
    for follows in [true, false] {
        let mut world = settled(3);
        let leader = world.leader().expect("it is settled");
        let wrong =
            if follows { world.nodes.iter().copied().find(|&node| node != leader).expect("three") } else { leader };
        let through = world.nodes.iter().copied().find(|&node| node != wrong && node != leader).expect("three");
        corrupt(&mut world, wrong, 100);
        let stops = load(&mut world, through);
        assert_eq!(stops.keys().copied().collect::<Vec<_>>(), [wrong], "{stops:?}");
        assert!(matches!(stops[&wrong], Stop::StateDiffers { majority: Some(_), .. }), "{stops:?}");
        world.kill(wrong);
        world.run_dry();
        for _ in 0..100 {
            world.pass_time(Nanos::from_millis(20));
            world.run_dry();
        }
        assert!(matches!(world.call(through, SECOND, put("after")), Answer::Inserted { .. }));
    }
}

#[test]
fn where_no_two_nodes_agree_no_majority_goes_on() {
    let mut world = settled(3);
    for (node, believed) in world.nodes.clone().into_iter().zip(100..) {
        corrupt(&mut world, node, believed);
    }
    let leader = world.leader().expect("it is settled");
    let stops = load(&mut world, leader);
    // Once two have stopped, the third may never hear that the marker is committed; it serves nobody alone.
    assert!(stops.len() >= 2, "{stops:?}");
    assert!(stops.values().all(|stop| matches!(stop, Stop::StateDiffers { majority: None, .. })), "{stops:?}");
}

#[test]
fn the_last_marker_that_came_while_a_snapshot_was_written_has_the_next() {
    let mut world = settled(1);
    let node = NodeId(1);
    let mark = |world: &mut World| {
        let last = world.shards[&node].last_marker();
        while world.shards[&node].last_marker() == last {
            world.call(node, FIRST, put("a job"));
        }
        world.shards[&node].last_marker().expect("just seen").0
    };
    world.writes_for_ever = true;
    let [first, _, last] = [(); 3].map(|()| mark(&mut world));
    assert_eq!(world.disks[&node].snapshot, Some(first));
    world.with(node, Shard::handle_snapshot_written);
    assert_eq!(world.disks[&node].snapshot, Some(last));
    // Each is written once.
    world.with(node, Shard::handle_snapshot_written);
    assert!(!world.shards[&node].is_marking());
}
