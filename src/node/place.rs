//! A core thread's place among those of its node: which shards and connections are its own, and the lanes to the others.
//!
//! Shard s is at home on core s mod cores. A connection is named by a number that tells its core, so that an answer finds
//! its way without asking anybody. What is for this core itself never takes a lane.

use std::rc::Rc;
use std::sync::Arc;

use super::queue::Queue;
use super::together::Together;
use crate::api::{Answer, Operation};
use crate::io::Wire;
use crate::net::greeting::DetachedGreeted;
use crate::shard::effect::ConnectionId;
use crate::types::ShardId;

/// What one core thread tells another, in order.
pub enum Crossing<W: Wire> {
    Operation {
        shard: ShardId,
        connection: ConnectionId,
        ticket: u64,
        operation: Operation,
    },
    /// For every shard of the thread that is told.
    Closed(ConnectionId),
    Answer {
        shard: ShardId,
        connection: ConnectionId,
        ticket: u64,
        answer: Answer,
    },
    /// A peer that dialled for a shard of the thread that is told.
    Peer(Box<DetachedGreeted<W>>),
}

/// Crossings on this thread's side of a ring: those that wait to leave, or have come.
pub type Lane<W> = Queue<Crossing<W>>;

pub struct Place<W: Wire> {
    core: usize,
    /// By core; none to itself.
    lanes: Vec<Option<Rc<Lane<W>>>>,
    /// What other threads have sent.
    pub inbox: Rc<Lane<W>>,
    pub together: Arc<Together>,
}

impl<W: Wire> Place<W> {
    /// The only core thread of its node.
    #[must_use]
    pub fn alone() -> Place<W> {
        Place::new(0, vec![None], Rc::default(), Arc::new(Together::new(1)))
    }

    /// `lanes`: to each core, by number, with none to `core` itself.
    #[must_use]
    pub fn new(core: usize, lanes: Vec<Option<Rc<Lane<W>>>>, inbox: Rc<Lane<W>>, together: Arc<Together>) -> Place<W> {
        assert_eq!(lanes.len(), together.cores(), "there is a lane to every other core");
        for (to, lane) in lanes.iter().enumerate() {
            assert_eq!(lane.is_none(), to == core, "what is for this core takes no lane");
        }
        Place { core, lanes, inbox, together }
    }

    #[must_use]
    pub fn core(&self) -> usize {
        self.core
    }

    #[must_use]
    pub fn cores(&self) -> usize {
        self.lanes.len()
    }

    /// Whether this thread opens the directory, listens for peers, and speaks for the node as a whole.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.core == 0
    }

    /// The shards that are at home here, ascending: the k-th is the one for which [`Place::find`] says `Here(k)`.
    pub fn own_shards(&self, shards: u16) -> impl Iterator<Item = ShardId> + use<W> {
        (0..shards).skip(self.core).step_by(self.cores()).map(ShardId)
    }

    #[must_use]
    pub fn find(&self, shard: ShardId) -> Home<'_, W> {
        let (nth, core) = (usize::from(shard.0) / self.cores(), usize::from(shard.0) % self.cores());
        match &self.lanes[core] {
            None => Home::Here(nth),
            Some(lane) => Home::There(lane),
        }
    }

    /// The lane to the thread that has the connection; none if that is this one.
    #[must_use]
    pub fn lane_to_connection(&self, connection: ConnectionId) -> Option<&Lane<W>> {
        let cores = self.cores() as u64;
        let core = usize::try_from(connection.0 % cores).expect("below the number of cores");
        self.lanes[core].as_deref()
    }

    /// The name of the n-th connection of this thread, counted from 1.
    #[must_use]
    pub fn name_connection(&self, nth: u64) -> ConnectionId {
        ConnectionId(nth * self.cores() as u64 + self.core as u64)
    }

    pub fn lanes(&self) -> impl Iterator<Item = &Lane<W>> {
        self.lanes.iter().flatten().map(Rc::as_ref)
    }

    /// Whether nothing waits to leave this thread, and nothing that came was left.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.inbox.is_empty() && self.lanes().all(Queue::is_empty)
    }
}

/// Where a shard runs.
pub enum Home<'a, W: Wire> {
    /// On this thread, as its n-th shard.
    Here(usize),
    There(&'a Lane<W>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::uring::UringWire;

    fn place(core: usize, cores: usize) -> Place<UringWire> {
        let lanes = (0..cores).map(|to| (to != core).then(Rc::default)).collect();
        Place::new(core, lanes, Rc::default(), Arc::new(Together::new(cores)))
    }

    #[test]
    fn every_shard_is_at_home_on_one_core() {
        for cores in 1..5 {
            for shard in (0..11).map(ShardId) {
                let homes = (0..cores).filter(|&core| {
                    let place = place(core, cores);
                    let own: Vec<ShardId> = place.own_shards(11).collect();
                    match place.find(shard) {
                        Home::Here(nth) => {
                            assert_eq!(own[nth], shard);
                            true
                        }
                        Home::There(_) => {
                            assert!(!own.contains(&shard));
                            false
                        }
                    }
                });
                assert_eq!(homes.count(), 1, "shard {shard} of {cores} cores");
            }
        }
    }

    #[test]
    fn a_connection_is_named_once_and_its_name_leads_to_its_core() {
        let mut names = std::collections::BTreeSet::new();
        for core in 0..3 {
            for nth in 1..100 {
                let name = place(core, 3).name_connection(nth);
                assert!(names.insert(name));
                for asking in 0..3 {
                    assert_eq!(place(asking, 3).lane_to_connection(name).is_none(), asking == core);
                }
            }
        }
        assert_eq!(place(0, 1).name_connection(1), ConnectionId(1));
    }
}
