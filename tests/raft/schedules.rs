//! Random schedules: messages lost, repeated and reordered, disks that finish whenever they like, crashes at any point.
//! Every step is checked against all invariants; in the end, with the faults gone, the group must agree and go on.

use beaver_raft::raft::{Config, Membership, Raft};
use beaver_raft::types::{Nanos, NodeId};
use proptest::prelude::*;

use crate::cluster::{Cluster, Link, MS};

/// What may happen next. Numbers choose among what there is, so that a shrunk schedule stays a schedule.
#[derive(Debug, Clone)]
enum Event {
    Deliver {
        link: usize,
        place: usize,
    },
    Lose {
        link: usize,
        place: usize,
    },
    Repeat {
        link: usize,
        place: usize,
    },
    /// A node's clock reaches its next deadline.
    Tick {
        node: usize,
    },
    Pass {
        ms: u64,
    },
    CompleteAppend {
        node: usize,
    },
    CompleteVote {
        node: usize,
    },
    Propose {
        payload: u64,
    },
    Read,
    /// Dies after `appends` of what was on its way reached the disk.
    Crash {
        node: usize,
        appends: usize,
        votes: usize,
    },
    Start {
        node: usize,
    },
    Transfer {
        to: usize,
    },
    StepDown,
    PeerLost {
        node: usize,
        peer: usize,
        refused: bool,
    },
    PeerUp {
        node: usize,
        peer: usize,
    },
    /// Everything on its way arrives and is stored.
    Settle,
    RaiseFloor {
        node: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let (link, place, node) = (0..20usize, 0..4usize, 0..5usize);
    prop_oneof![
        30 => (link.clone(), prop_oneof![4 => Just(0), 1 => place.clone()])
            .prop_map(|(link, place)| Event::Deliver { link, place }),
        3 => (link.clone(), place.clone()).prop_map(|(link, place)| Event::Lose { link, place }),
        3 => (link, place).prop_map(|(link, place)| Event::Repeat { link, place }),
        12 => node.clone().prop_map(|node| Event::Tick { node }),
        3 => (1..200u64).prop_map(|ms| Event::Pass { ms }),
        14 => node.clone().prop_map(|node| Event::CompleteAppend { node }),
        10 => node.clone().prop_map(|node| Event::CompleteVote { node }),
        10 => (1..1_000u64).prop_map(|payload| Event::Propose { payload }),
        3 => Just(Event::Read),
        2 => (node.clone(), 0..3usize, 0..2usize)
            .prop_map(|(node, appends, votes)| Event::Crash { node, appends, votes }),
        3 => node.clone().prop_map(|node| Event::Start { node }),
        1 => node.clone().prop_map(|to| Event::Transfer { to }),
        1 => Just(Event::StepDown),
        1 => (node.clone(), node.clone(), any::<bool>())
            .prop_map(|(node, peer, refused)| Event::PeerLost { node, peer, refused }),
        1 => (node.clone(), node.clone()).prop_map(|(node, peer)| Event::PeerUp { node, peer }),
        2 => Just(Event::Settle),
        1 => node.prop_map(|node| Event::RaiseFloor { node }),
    ]
}

struct Schedule {
    cluster: Cluster,
    reads: u64,
}

impl Schedule {
    fn node(&self, node: usize) -> u8 {
        let ids = self.cluster.ids();
        ids[node % ids.len()]
    }

    fn running(&self, node: usize) -> Option<u8> {
        Some(self.node(node)).filter(|id| self.cluster.runs(*id))
    }

    /// A message on its way.
    fn message(&self, link: usize, place: usize) -> Option<(Link, usize)> {
        let busy: Vec<_> = self.cluster.links.iter().filter(|(_, queue)| !queue.is_empty()).collect();
        let (link, queue) = busy.get(link % busy.len().max(1))?;
        Some((**link, place % queue.len()))
    }

    fn happen(&mut self, event: Event) {
        let cluster = &mut self.cluster;
        match event {
            Event::Deliver { link, place } => {
                if let Some((link, place)) = self.message(link, place) {
                    self.cluster.deliver(link, place);
                }
            }
            Event::Lose { link, place } => {
                if let Some((link, place)) = self.message(link, place) {
                    self.cluster.links.get_mut(&link).unwrap().remove(place);
                }
            }
            Event::Repeat { link, place } => {
                if let Some((link, place)) = self.message(link, place) {
                    let queue = self.cluster.links.get_mut(&link).unwrap();
                    let copy = queue[place].clone();
                    queue.push_back(copy);
                }
            }
            Event::Tick { node } => {
                if let Some(id) = self.running(node) {
                    let deadline = self.cluster.raft(id).next_deadline();
                    if deadline.0 < u64::MAX {
                        self.cluster.now = self.cluster.now.max(deadline);
                    }
                    self.cluster.step(id, Raft::handle_time);
                }
            }
            Event::Pass { ms } => cluster.now = cluster.now.saturating_add(Nanos(ms * MS)),
            Event::CompleteAppend { node } => {
                if let Some(id) = self.running(node) {
                    self.cluster.complete_append(id);
                }
            }
            Event::CompleteVote { node } => {
                if let Some(id) = self.running(node) {
                    self.cluster.complete_vote(id);
                }
            }
            Event::Propose { payload } => {
                if let Some(leader) = cluster.leader() {
                    cluster.propose(leader, payload);
                }
            }
            Event::Read => {
                self.reads += 1;
                if let Some(leader) = cluster.leader() {
                    cluster.read(leader, self.reads);
                }
            }
            Event::Crash { node, appends, votes } => {
                if let Some(id) = self.running(node) {
                    let disk = self.cluster.disk(id);
                    for _ in 0..appends {
                        disk.complete_append();
                    }
                    for _ in 0..votes {
                        disk.complete_vote();
                    }
                    self.cluster.crash(id);
                }
            }
            Event::Start { node } => {
                let id = self.node(node);
                if !self.cluster.runs(id) {
                    self.cluster.start(id);
                }
            }
            Event::Transfer { to } => {
                let to = NodeId(self.node(to));
                if let Some(leader) = self.cluster.leader() {
                    // A refusal is as good an answer here.
                    let _ = self.cluster.step(leader, |raft, now| raft.transfer(now, Some(to)));
                }
            }
            Event::StepDown => {
                if let Some(leader) = cluster.leader() {
                    cluster.step(leader, Raft::step_down);
                }
            }
            Event::PeerLost { node, peer, refused } => {
                let peer = NodeId(self.node(peer));
                if let Some(id) = self.running(node) {
                    self.cluster.step(id, |raft, now| raft.handle_peer_lost(now, peer, refused));
                }
            }
            Event::PeerUp { node, peer } => {
                let peer = NodeId(self.node(peer));
                if let Some(id) = self.running(node) {
                    self.cluster.step(id, |raft, now| raft.handle_peer_up(now, peer));
                }
            }
            Event::Settle => cluster.settle(),
            Event::RaiseFloor { node } => {
                if let Some(id) = self.running(node) {
                    // Below what all disks hold nobody can be left behind; the snapshots that would help are not here.
                    let cluster = &self.cluster;
                    let whole = cluster.raft(id).log().iter().rev().find(|meta| {
                        meta.position.index <= cluster.raft(id).committed()
                            && cluster.members.values().all(|m| m.disk.holds(meta.position, meta.chain))
                    });
                    if let Some(index) = whole.map(|meta| meta.position.index) {
                        self.cluster.step(id, |raft, _| raft.raise_floor(index));
                    }
                }
            }
        }
    }
}

fn run(membership: Membership, tune: fn(&mut Config), events: Vec<Event>) {
    let mut schedule = Schedule { cluster: Cluster::tuned(membership, tune), reads: 0 };
    for event in events {
        schedule.happen(event);
    }
    schedule.cluster.must_recover();
}

fn voters(count: u8) -> Membership {
    Membership::new((1..=count).map(NodeId), []).unwrap()
}

fn tiny_windows(config: &mut Config) {
    config.in_flight_messages_max = 2;
    config.in_flight_bytes_max = 250;
    config.append_entries_max = 2;
    config.append_bytes_max = 150;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn three_nodes_survive_any_schedule(events in prop::collection::vec(event(), 1..600)) {
        run(voters(3), |_| {}, events);
    }

    #[test]
    fn three_nodes_with_tiny_windows_survive_any_schedule(events in prop::collection::vec(event(), 1..600)) {
        run(voters(3), tiny_windows, events);
    }

    #[test]
    fn five_nodes_survive_any_schedule(events in prop::collection::vec(event(), 1..600)) {
        run(voters(5), tiny_windows, events);
    }

    #[test]
    fn a_joint_group_with_a_learner_survives_any_schedule(events in prop::collection::vec(event(), 1..500)) {
        let joint = Membership::joint([1, 2, 3].map(NodeId), [2, 3, 4].map(NodeId), [NodeId(5)], []);
        run(joint.unwrap(), |_| {}, events);
    }
}
