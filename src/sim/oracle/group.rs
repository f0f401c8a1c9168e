//! Watches the nodes while they run: the invariants of Raft after every turn, and equal states at equal indexes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::job::Fingerprint;
use crate::net::message::PeerMessage;
use crate::net::standing::{Standing, promise};
use crate::node::host::{Event, TurnWatch};
use crate::raft::RoleName;
use crate::raft::invariants::{GroupHistory, Observed, check_bearing, check_step};
use crate::shard::effect::Effect;
use crate::shard::{Moment, Shard};
use crate::sim::executor::Executor;
use crate::sim::oracle::freshness::Freshness;
use crate::sim::oracle::leases::Leases;
use crate::sim::oracle::stability::Stability;
use crate::types::{ChainHash, Index, NodeId, Term};
use crate::wal::entry::Entry;

/// What the group did; a run without any of it has tested little.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupCounts {
    pub turns: u64,
    pub leaders: u64,
    pub applied: u64,
    /// Logs that lost entries to another leader's.
    pub cuts: u64,
    /// Snapshots of other nodes that took the place of a log.
    pub installs: u64,
    /// Leaders that a node got to know while commands of its clients were under way.
    pub leaders_with_commands: u64,
    /// Answers to questions that were held against what was committed when they were asked.
    pub questions: u64,
}

/// Clones share it. One shard only.
#[derive(Clone)]
pub struct GroupOracle(Rc<State>);

struct State {
    executor: Executor,
    history: RefCell<GroupHistory>,
    nodes: RefCell<BTreeMap<NodeId, Seen>>,
    fingerprints: RefCell<BTreeMap<Index, (Fingerprint, NodeId)>>,
    /// Every entry that was seen anywhere, also where it is below every floor by now.
    entries: RefCell<BTreeMap<(Index, ChainHash), Entry>>,
    committed: Rc<Cell<Index>>,
    committed_chain: Cell<ChainHash>,
    counts: Cell<GroupCounts>,
    broken: RefCell<Option<String>>,
    stability: RefCell<Stability>,
    freshness: RefCell<Freshness>,
    leases: RefCell<Leases>,
    outside_only: Cell<bool>,
    /// What each running node was told by each other in promises.
    told: RefCell<BTreeMap<(NodeId, NodeId), Standing>>,
    /// Who was elected and was not yet held against the disks.
    elected: RefCell<Vec<(NodeId, Term)>>,
}

/// What was last seen of a node in its present life.
struct Seen {
    observed: Observed,
    role: RoleName,
    term: Term,
    durable: Index,
    applied: Index,
    /// The last leader that it knew.
    leader: Option<(NodeId, Term)>,
}

impl GroupOracle {
    #[must_use]
    pub fn new(executor: &Executor) -> GroupOracle {
        GroupOracle(Rc::new(State {
            executor: executor.clone(),
            history: RefCell::default(),
            nodes: RefCell::default(),
            fingerprints: RefCell::default(),
            entries: RefCell::default(),
            committed: Rc::default(),
            committed_chain: Cell::default(),
            counts: Cell::default(),
            broken: RefCell::default(),
            stability: RefCell::default(),
            freshness: RefCell::default(),
            leases: RefCell::default(),
            outside_only: Cell::default(),
            told: RefCell::default(),
            elected: RefCell::default(),
        }))
    }

    /// Leaves the invariants inside of nodes alone: to see whether what they guard shows from outside.
    pub fn judge_from_outside(&self) {
        self.0.outside_only.set(true);
    }

    /// The highest index that any node knew committed.
    #[must_use]
    pub fn committed(&self) -> Rc<Cell<Index>> {
        Rc::clone(&self.0.committed)
    }

    /// Chain hash of the entry at `committed`.
    #[must_use]
    pub fn committed_chain(&self) -> ChainHash {
        self.0.committed_chain.get()
    }

    #[must_use]
    pub fn counts(&self) -> GroupCounts {
        GroupCounts { questions: self.0.freshness.borrow().held(), ..self.0.counts.get() }
    }

    /// Who was elected since the last call.
    #[must_use]
    pub fn take_elected(&self) -> Vec<(NodeId, Term)> {
        std::mem::take(&mut *self.0.elected.borrow_mut())
    }

    /// The first invariant that was broken.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.0.broken.borrow().clone()
    }

    /// Notes what somebody else found broken.
    pub fn break_with(&self, what: String) {
        let mut broken = self.0.broken.borrow_mut();
        if broken.is_none() {
            self.0.executor.tell(format_args!("BROKEN: {what}"));
            *broken = Some(what);
        }
    }

    /// The node's memory is gone.
    pub fn forget(&self, node: NodeId) {
        self.0.told.borrow_mut().retain(|(told, _), _| *told != node);
        self.0.nodes.borrow_mut().remove(&node);
        self.0.history.borrow_mut().forget(node);
        self.0.freshness.borrow_mut().forget(node);
        self.0.stability.borrow_mut().forget(node, self.0.executor.now());
    }

    /// The most that a running node was promised by another in its present life.
    #[must_use]
    pub fn told(&self, node: NodeId, by: NodeId) -> Option<Standing> {
        self.0.told.borrow().get(&(node, by)).copied()
    }

    /// Who leads the latest term, as far as the leaders themselves know.
    #[must_use]
    pub fn leader(&self) -> Option<(NodeId, Term)> {
        let nodes = self.0.nodes.borrow();
        let leaders = nodes.iter().filter(|(_, seen)| seen.role == RoleName::Leader);
        leaders.map(|(node, seen)| (*node, seen.term)).max_by_key(|(_, term)| *term)
    }

    /// Whether a node holds itself for a leader, as of its last turn.
    #[must_use]
    pub fn leads(&self, node: NodeId) -> bool {
        self.0.nodes.borrow().get(&node).is_some_and(|seen| seen.role == RoleName::Leader)
    }

    /// How far each running node has applied.
    #[must_use]
    pub fn applied(&self) -> BTreeMap<NodeId, Index> {
        self.0.nodes.borrow().iter().map(|(node, seen)| (*node, seen.applied)).collect()
    }

    /// How far each running node has applied, and holds its log for durable.
    #[must_use]
    pub fn reached(&self) -> BTreeMap<NodeId, Index> {
        self.0.nodes.borrow().iter().map(|(node, seen)| (*node, seen.applied.min(seen.durable))).collect()
    }

    /// The term each running node is in.
    #[must_use]
    pub fn terms(&self) -> BTreeMap<NodeId, Term> {
        self.0.nodes.borrow().iter().map(|(node, seen)| (*node, seen.term)).collect()
    }

    /// The fingerprint of the state behind each entry that any node applied.
    #[must_use]
    pub fn fingerprint_at(&self, index: Index) -> Option<Fingerprint> {
        self.0.fingerprints.borrow().get(&index).map(|(fingerprint, _)| *fingerprint)
    }

    /// Notes entries that were seen.
    pub fn note_entries<'a>(&self, seen: impl IntoIterator<Item = &'a Entry>) {
        let mut entries = self.0.entries.borrow_mut();
        for entry in seen {
            entries.entry((entry.meta.position.index, entry.meta.chain)).or_insert_with(|| entry.clone());
        }
    }

    /// The whole log up to an entry, from the first on.
    ///
    /// # Errors
    /// If an entry was never seen.
    pub fn log_up_to(&self, mut index: Index, mut chain: ChainHash) -> Result<Vec<Entry>, String> {
        let entries = self.0.entries.borrow();
        let mut log = Vec::new();
        while index > Index::ZERO {
            let entry = entries.get(&(index, chain)).ok_or_else(|| format!("entry {index} was never seen"))?;
            log.push(entry.clone());
            (index, chain) = (Index(index.0 - 1), entry.prev_chain);
        }
        log.reverse();
        Ok(log)
    }

    fn count(&self, add: impl FnOnce(&mut GroupCounts)) {
        let mut counts = self.0.counts.get();
        add(&mut counts);
        self.0.counts.set(counts);
    }

    fn observe_raft(&self, shard: &Shard) -> Result<(), String> {
        let raft = shard.raft();
        let node = raft.id();
        let mut nodes = self.0.nodes.borrow_mut();
        if let Some(seen) = nodes.get(&node) {
            let now = Observed::of(raft);
            if now == seen.observed && raft.durable() == seen.durable && raft.role() == seen.role {
                return Ok(());
            }
            check_step(&seen.observed, raft).map_err(|broken| broken.to_string())?;
            if raft.role() != seen.role || raft.term() != seen.term {
                self.note_role(shard);
            }
        } else {
            self.note_role(shard);
        }
        if !self.0.outside_only.get() {
            check_bearing(raft).map_err(|broken| broken.to_string())?;
        }
        self.0.history.borrow_mut().observe_from_outside(raft).map_err(|broken| broken.to_string())?;
        let committed = raft.committed();
        self.0.leases.borrow_mut().observe(shard, self.0.executor.now());
        if committed > self.0.committed.get() {
            for index in (self.0.committed.get().0 + 1..=committed.0).map(Index) {
                let Some(chain) = raft.log().chain_at(index) else { continue };
                self.0.leases.borrow_mut().commit(index, chain)?;
            }
            self.0.committed.set(committed);
            let chain = raft.log().chain_at(committed).expect("what is committed is in the log");
            self.0.committed_chain.set(chain);
        }
        let (applied, leader) = nodes.get(&node).map_or((Index::ZERO, None), |seen| (seen.applied, seen.leader));
        let observed = Observed::of(raft);
        let durable = raft.durable();
        if nodes.get(&node).is_some_and(|seen| seen.durable > durable) {
            self.count(|counts| counts.cuts += 1);
        }
        nodes.insert(node, Seen { observed, role: raft.role(), term: raft.term(), durable, applied, leader });
        Ok(())
    }

    fn note_role(&self, shard: &Shard) {
        let raft = shard.raft();
        let (node, role, term) = (raft.id(), raft.role(), raft.term());
        if role == RoleName::Leader {
            self.count(|counts| counts.leaders += 1);
            self.0.elected.borrow_mut().push((node, term));
        }
        let last = raft.last_position();
        self.0.executor.tell(format_args!("node {node} is {role:?} in term {term}, log to {last}"));
    }

    /// State machine safety (Raft figure 3), by fingerprints: the same entry leaves the same state everywhere.
    fn observe_machine(&self, shard: &Shard) -> Result<(), String> {
        let node = shard.raft().id();
        let machine = shard.machine();
        let applied = machine.applied().index;
        let mut nodes = self.0.nodes.borrow_mut();
        let seen = nodes.get_mut(&node).expect("its raft was observed");
        if applied < seen.applied {
            return Err(format!("node {node}: applied went back from {} to {applied}", seen.applied));
        }
        if applied > shard.raft().committed() {
            return Err(format!("node {node}: applied {applied} is above committed {}", shard.raft().committed()));
        }
        if let Some(leader) = shard.raft().leader().map(|leader| (leader, shard.raft().term()))
            && seen.leader != Some(leader)
            && seen.leader.replace(leader).is_some()
            && shard.commands_under_way() > 0
        {
            self.count(|counts| counts.leaders_with_commands += 1);
        }
        if applied == seen.applied {
            return Ok(());
        }
        self.count(|counts| counts.applied += applied.0 - seen.applied.0);
        if seen.applied > Index::ZERO && shard.raft().log().floor().index > seen.applied {
            self.0.executor.tell(format_args!("node {node} goes on from a snapshot of entry {applied}"));
            self.count(|counts| counts.installs += 1);
        }
        self.note_entries((seen.applied.0 + 1..=applied.0).filter_map(|index| shard.recent_entry(Index(index))));
        seen.applied = applied;
        let fingerprint = machine.fingerprint();
        let mut fingerprints = self.0.fingerprints.borrow_mut();
        let (known, by) = fingerprints.entry(applied).or_insert((fingerprint, node));
        if *known != fingerprint {
            return Err(format!("the states of nodes {by} and {node} differ behind entry {applied}"));
        }
        Ok(())
    }
}

impl TurnWatch for GroupOracle {
    fn handed(&self, shard: &Shard, event: &Event) {
        if let Event::Message { from, message: PeerMessage::Raft(raft) } = event
            && let Some(promised) = promise(raft)
        {
            let mut told = self.0.told.borrow_mut();
            let most = told.entry((shard.raft().id(), *from)).or_default();
            *most = promised.max(*most);
        }
        if let Event::Operation { connection, ticket, operation } = event {
            let (node, committed) = (shard.raft().id(), self.0.committed.get());
            self.0.freshness.borrow_mut().ask(node, *connection, *ticket, operation, committed);
        }
    }

    fn decided(&self, shard: &Shard, effect: &Effect) {
        if let Effect::Answer { connection, ticket, .. } = effect {
            let (node, applied) = (shard.raft().id(), shard.machine().applied().index);
            if let Err(what) = self.0.freshness.borrow_mut().answer(node, *connection, *ticket, applied) {
                self.break_with(what);
            }
        }
    }

    fn turned(&self, shard: &Shard, moment: Moment) {
        self.count(|counts| counts.turns += 1);
        let now = self.0.executor.now();
        let result = self
            .observe_raft(shard)
            .and_then(|()| self.0.stability.borrow_mut().observe(shard.raft(), moment.now, now))
            .and_then(|()| self.observe_machine(shard));
        if let Err(what) = result {
            self.break_with(what);
        }
    }
}
