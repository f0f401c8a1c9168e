//! A cluster with nothing going wrong by itself, clients that say what the test tells them to, and the promises that hold
//! in every situation: they are checked after each step, and once more when the stage is cleared.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;

use crate::config::Tunables;
use crate::io::{Wire, WireOptions};
use crate::node::queue::Queue;
use crate::sim::cluster::{Cluster, ClusterConfig, Member};
use crate::sim::dialogue::{Asked, Dialogue, Ended, Said};
use crate::sim::executor::{Executor, GroupId};
use crate::sim::network::Network;
use crate::sim::wire::SimWire;
use crate::types::{Nanos, NodeId, Term};

/// The timeouts that a node has by itself, of which the situations speak.
pub const ELECTION_TIMEOUT_MS: u64 = 150;
/// A follower draws its own between this and twice this.
pub const ELECTION_TIMEOUT_MAX_MS: u64 = 2 * ELECTION_TIMEOUT_MS;

pub struct Stage {
    pub executor: Executor,
    pub network: Network,
    pub cluster: Cluster,
    clients: Cell<u32>,
}

/// An answer, when it came, and how long it took.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Nanos,
    pub waited: Nanos,
    pub answer: Result<Said, String>,
}

impl Stage {
    /// A cluster that serves.
    pub fn new(nodes: u8) -> Stage {
        Stage::with(nodes, |_| {})
    }

    pub fn with(nodes: u8, tune: impl FnOnce(&mut Tunables)) -> Stage {
        Stage::seeded(7, nodes, tune)
    }

    /// Another seed is another interleaving of everything.
    pub fn seeded(seed: u64, nodes: u8, tune: impl FnOnce(&mut Tunables)) -> Stage {
        let stage = Stage::dark(seed, nodes, tune);
        stage.cluster.start_all();
        stage.wait_for(5_000, "a leader", || stage.is_settled());
        // Spare segments are made, links are up.
        stage.pass(1_000);
        stage
    }

    /// A cluster none of whose nodes runs yet.
    fn dark(seed: u64, nodes: u8, tune: impl FnOnce(&mut Tunables)) -> Stage {
        let executor = Executor::new(seed);
        let network = Network::new(&executor);
        let mut tunables = Tunables {
            segment_bytes_min: 65_536,
            segment_bytes_max: 262_144,
            disk_reserve_bytes: 16 << 20,
            snapshot_every_bytes: 0,
            ..Tunables::default()
        };
        tune(&mut tunables);
        let config = ClusterConfig { nodes, tunables, disk_bytes: 1 << 30 };
        let cluster = Cluster::new(&executor, &network, config);
        Stage { executor, network, cluster, clients: Cell::new(0) }
    }

    // Who is who.

    pub fn member(&self, node: NodeId) -> &Member {
        self.cluster.member(node)
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.cluster.members().iter().map(|member| member.node).collect()
    }

    pub fn leader(&self) -> NodeId {
        self.leader_and_term().0
    }

    pub fn leader_and_term(&self) -> (NodeId, Term) {
        self.cluster.oracle().leader().expect("somebody leads")
    }

    /// All others, in ascending order.
    pub fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.nodes().into_iter().filter(|other| *other != node).collect()
    }

    pub fn terms(&self) -> Vec<Term> {
        self.cluster.oracle().terms().into_values().collect()
    }

    // Links.

    pub fn set_cut(&self, from: NodeId, to: NodeId, is_cut: bool) {
        self.network.set_cut(self.member(from).host, self.member(to).host, is_cut);
    }

    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.set_cut(from, to, true);
    }

    pub fn cut_both(&self, one: NodeId, other: NodeId) {
        self.cut(one, other);
        self.cut(other, one);
    }

    pub fn isolate(&self, node: NodeId) {
        self.cluster.set_isolated(self.member(node), true);
    }

    pub fn heal(&self) {
        self.network.heal();
    }

    // Time.

    pub fn now(&self) -> Nanos {
        self.executor.now()
    }

    pub fn pass(&self, ms: u64) {
        let end = self.now().saturating_add(Nanos::from_millis(ms));
        while self.executor.step_until(end) {
            self.check();
        }
        self.executor.run_until(end);
    }

    /// How long it took, in milliseconds.
    pub fn wait_for(&self, limit_ms: u64, what: &str, holds: impl Fn() -> bool) -> u64 {
        let begin = self.now();
        let end = begin.saturating_add(Nanos::from_millis(limit_ms));
        while !holds() {
            assert!(self.executor.step_until(end), "{}\nno {what} after {limit_ms} ms", self.told());
            self.check();
        }
        self.now().saturating_sub(begin).0 / 1_000_000
    }

    /// The last events, for whoever reads a failure.
    fn told(&self) -> String {
        let lines = self.executor.trace().last_lines();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn check(&self) {
        if let Some(broken) = self.cluster.oracle().broken() {
            panic!("{}\n{broken}", self.told());
        }
    }

    /// Every node runs, and has applied all that is committed.
    pub fn is_settled(&self) -> bool {
        let (applied, committed) = (self.cluster.oracle().applied(), self.cluster.oracle().committed().get());
        committed.0 > 0 && applied.len() == self.nodes().len() && applied.values().all(|applied| *applied == committed)
    }

    /// Everything is undone; all nodes must serve and agree, and the disks hold what was promised.
    pub fn clear(self) {
        self.heal();
        for member in self.cluster.members() {
            member.latency.set_stalled(false);
            member.latency.set_speed(crate::sim::latency::DiskSpeed::default());
            member.disk().set_faults(crate::sim::disk::Faults::default());
            member.disk().set_capacity(1 << 30);
            self.cluster.set_paused(member, false);
            self.cluster.start(member);
        }
        self.wait_for(60_000, "agreement of all nodes", || self.is_settled());
        // Each node looks at its disk once a second.
        self.pass(2_500);
        for node in self.nodes() {
            self.client(node).insists("default", b"at the end");
        }
        self.wait_for(10_000, "agreement of all nodes", || self.is_settled());
        self.cluster.check_durability();
        self.check();
    }

    // Clients.

    /// A client on a host of its own, connected to one node.
    pub fn client(&self, node: NodeId) -> Client<'_> {
        let number = self.clients.get();
        self.clients.set(number + 1);
        let host = self.network.add_host(&format!("client-{number}"));
        let group = self.executor.new_group();
        let shared = Rc::new(Shared::default());
        let wire = SimWire::new(&self.network, host, group);
        let address = self.cluster.client_addresses()[usize::from(node.0) - 1].clone();
        self.executor.spawn(group, converse(self.executor.clone(), wire, address, Rc::clone(&shared)));
        Client { stage: self, node, shared }
    }
}

/// A client that asks the same again and again for as long as the stage stands, on a new connection
/// where one was lost.
pub struct Load {
    heard: Rc<RefCell<Vec<Heard>>>,
    executor: Executor,
    network: Network,
    group: GroupId,
}

impl Load {
    pub fn ends(&self) {
        self.executor.kill(self.group);
        self.network.close_all_of(self.group);
    }

    /// The answers to what was asked from then on.
    pub fn since(&self, since: Nanos) -> Vec<Heard> {
        let heard = self.heard.borrow();
        heard.iter().filter(|heard| heard.at.saturating_sub(heard.waited) >= since).cloned().collect()
    }

    /// That everything asked from then on was answered, at least so many puts, none in more than so many milliseconds.
    pub fn assert_undelayed(&self, since: Nanos, at_least: usize, ms_max: u64) {
        let heard = self.since(since);
        assert!(heard.iter().all(|heard| matches!(heard.answer, Ok(Said::Inserted(_)))), "a put was not answered");
        assert!(heard.len() >= at_least, "{} puts were answered", heard.len());
        let longest = heard.iter().map(|heard| heard.waited).max().unwrap_or_default();
        assert!(longest <= Nanos::from_millis(ms_max), "a put took {} µs", longest.0 / 1_000);
    }
}

impl Stage {
    pub fn load(&self, node: NodeId) -> Load {
        self.asks_again(node, put(b"load"), Nanos::from_millis(50))
    }

    /// A client that asks the same again and again, on a new connection where one was lost.
    /// `pause`: between an answer and the next question.
    pub fn asks_again(&self, node: NodeId, asked: Asked, pause: Nanos) -> Load {
        let number = self.clients.get();
        self.clients.set(number + 1);
        let host = self.network.add_host(&format!("client-{number}"));
        let group = self.executor.new_group();
        let wire = SimWire::new(&self.network, host, group);
        let address = self.cluster.client_addresses()[usize::from(node.0) - 1].clone();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let (executor, list) = (self.executor.clone(), Rc::clone(&heard));
        self.executor.spawn(group, async move {
            loop {
                executor.sleep(Nanos::from_millis(5)).await;
                let Ok(halves) = wire.connect(&address, WireOptions::Client).await else { continue };
                let mut dialogue = Dialogue::new(halves);
                loop {
                    let since = executor.now();
                    let answer = match dialogue.ask(std::slice::from_ref(&asked)).await {
                        Ok(()) => dialogue.hear(&asked).await,
                        Err(ended) => Err(ended),
                    };
                    let waited = executor.now().saturating_sub(since);
                    let answer = answer.map_err(|ended| format!("{ended:?}"));
                    let is_lost = answer.is_err();
                    list.borrow_mut().push(Heard { at: executor.now(), waited, answer });
                    if is_lost {
                        break;
                    }
                    executor.sleep(pause).await;
                }
            }
        });
        Load { heard, executor: self.executor.clone(), network: self.network.clone(), group }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.executor.end();
    }
}

#[derive(Default)]
struct Shared {
    asked: Queue<(Nanos, Asked)>,
    heard: RefCell<Vec<Heard>>,
}

/// What is asked at once is sent at once; the answers come in the same order.
async fn converse(executor: Executor, wire: SimWire, address: String, shared: Rc<Shared>) {
    let hear = |since: Nanos, answer: Result<Said, String>| {
        let (at, waited) = (executor.now(), executor.now().saturating_sub(since));
        shared.heard.borrow_mut().push(Heard { at, waited, answer });
    };
    let begun = executor.now();
    let mut dialogue = match wire.connect(&address, WireOptions::Client).await {
        Ok(halves) => Dialogue::new(halves),
        Err(error) => return hear(begun, Err(error.to_string())),
    };
    loop {
        shared.asked.wait().await;
        let (since, asked): (Vec<_>, Vec<_>) = shared.asked.take().into_iter().unzip();
        let mut end = dialogue.ask(&asked).await.err();
        for (since, asked) in since.into_iter().zip(&asked) {
            if end.is_none() {
                match dialogue.hear(asked).await {
                    Ok(said) => {
                        hear(since, Ok(said));
                        continue;
                    }
                    Err(why) => end = Some(why),
                }
            }
            match &end {
                Some(Ended::Nonsense { asked, line }) => panic!("{asked:?} was answered `{line}`"),
                Some(Ended::Lost(error)) => return hear(since, Err(error.to_string())),
                None => unreachable!("without an end there was an answer"),
            }
        }
    }
}

/// One connection of a client. It lives as long as its host, also when this is dropped.
pub struct Client<'a> {
    stage: &'a Stage,
    pub node: NodeId,
    shared: Rc<Shared>,
}

impl Client<'_> {
    /// Asks without waiting.
    pub fn ask(&self, asked: Asked) {
        self.shared.asked.push((self.stage.now(), asked));
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard.borrow().clone()
    }

    /// Asks, and waits for the answer to it, or for the end of the connection.
    pub fn says(&self, asked: Asked) -> Heard {
        let answers = self.heard().len();
        self.ask(asked.clone());
        self.stage.wait_for(60_000, &format!("answer to {asked:?}"), || self.heard().len() > answers);
        self.heard()[answers].clone()
    }

    /// Puts a job and gives its id.
    pub fn puts(&self, body: &'static [u8]) -> u64 {
        let heard = self.says(put(body));
        match heard.answer {
            Ok(Said::Inserted(id)) => id,
            other => panic!("{}\na put at node {} ended with {other:?}", self.stage.told(), self.node),
        }
    }

    pub fn reserves(&self) -> u64 {
        match self.says(Asked::Reserve { timeout_s: Some(0) }).answer {
            Ok(Said::Reserved { id, .. }) => id,
            other => panic!("{}\na reserve at node {} ended with {other:?}", self.stage.told(), self.node),
        }
    }

    fn insists(&self, tube: &'static str, body: &'static [u8]) {
        assert_eq!(self.says(Asked::Use(tube)).answer, Ok(Said::Using(tube.to_owned())));
        self.puts(body);
    }
}

pub fn put(body: &'static [u8]) -> Asked {
    Asked::Put { priority: 1, delay_s: 0, ttr_s: 600, body: Bytes::from_static(body) }
}
