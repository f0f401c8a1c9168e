//! A cluster of three whole nodes and one client, for tests that choose what happens.

use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

use crate::config::Tunables;
use crate::io::{Wire, WireOptions};
use crate::raft::message::EntryMeta;
use crate::sim::cluster::{Cluster, ClusterConfig, Member};
use crate::sim::dialogue::{Asked, Dialogue, Ended, Said};
use crate::sim::disk::{Crash, SectorOdds, SimDisk};
use crate::sim::executor::{Executor, GroupId};
use crate::sim::network::{HostId, Network};
use crate::sim::wire::SimWire;
use crate::types::{Index, Nanos, ShardId};
use crate::wal::directory::segments_dir;
use crate::wal::index::SegmentNumber;
use crate::wal::segment::file_name;

pub struct Group {
    pub executor: Executor,
    pub network: Network,
    pub cluster: Rc<Cluster>,
    client: HostId,
    process: GroupId,
}

pub fn config(segment_bytes: u64) -> ClusterConfig {
    let tunables = Tunables {
        segment_bytes_min: segment_bytes,
        segment_bytes_max: segment_bytes,
        recent_bytes_max: 1 << 20,
        disk_reserve_bytes: 1 << 20,
        no_quorum_timeout_ms: 1_000,
        ..Tunables::default()
    };
    ClusterConfig { nodes: 3, tunables, disk_bytes: 1 << 30 }
}

impl Group {
    pub fn new(seed: u64, config: ClusterConfig) -> Group {
        Group::of(seed, |executor, network| Cluster::new(executor, network, config))
    }

    /// Nodes that ran before, on these disks.
    pub fn on(seed: u64, config: ClusterConfig, disks: Vec<SimDisk>) -> Group {
        Group::of(seed, |executor, network| Cluster::on(executor, network, config, disks))
    }

    fn of(seed: u64, cluster: impl FnOnce(&Executor, &Network) -> Cluster) -> Group {
        let executor = Executor::new(seed);
        let network = Network::new(&executor);
        let cluster = Rc::new(cluster(&executor, &network));
        let client = network.add_host("client");
        let process = executor.new_group();
        Group { executor, network, cluster, client, process }
    }

    pub fn members(&self) -> &[Member] {
        self.cluster.members()
    }

    /// Until it holds; false if it does not in time.
    pub fn run_until(&self, time_max: Nanos, holds: impl Fn(&Group) -> bool) -> bool {
        let deadline = self.executor.now().saturating_add(time_max);
        while !holds(self) {
            // Conditions are dear, steps are not.
            let look_at = self.executor.now().saturating_add(Nanos::from_millis(20)).min(deadline);
            self.executor.run_until(look_at);
            self.check();
            if look_at == deadline {
                return holds(self);
            }
        }
        true
    }

    pub fn run_for(&self, time: Nanos) {
        self.executor.run_until(self.executor.now().saturating_add(time));
        self.check();
    }

    fn check(&self) {
        if let Some(broken) = self.cluster.oracle().broken() {
            panic!("{broken}\n{}", self.executor.trace().last_lines().join("\n"));
        }
    }

    /// Says all of it to a node on a connection of its own; the answers, or none where it does not answer in time.
    pub fn ask(&self, node: usize, time_max: Nanos, asked: Vec<Asked>) -> Option<Vec<Said>> {
        let wire = SimWire::new(&self.network, self.client, self.process);
        let address = self.cluster.client_addresses()[node].clone();
        let dialogue = async move {
            let mut dialogue = Dialogue::new(wire.connect(&address, WireOptions::Client).await?);
            dialogue.ask(&asked).await?;
            let mut said = Vec::new();
            for asked in &asked {
                said.push(dialogue.hear(asked).await?);
            }
            Ok::<_, Ended>(said)
        };
        let said = self.executor.block_on(self.process, time_max, dialogue)?;
        self.check();
        said.ok()
    }

    pub fn put(&self, node: usize, body: Vec<u8>) -> Option<Said> {
        let asked = Asked::Put { priority: 0, delay_s: 0, ttr_s: 60, body: Bytes::from(body) };
        self.ask(node, Nanos::from_secs(5), vec![asked]).and_then(|mut said| said.pop())
    }

    /// All nodes run and have applied all that is committed, which is this much at least.
    pub fn agrees(&self, committed_min: Index) -> bool {
        let committed = self.cluster.oracle().committed().get();
        let applied = self.cluster.oracle().applied();
        committed >= committed_min
            && applied.len() == self.members().len()
            && applied.values().all(|applied| *applied == committed)
    }

    /// What each node's disk durably holds, if nothing of it is damaged.
    pub fn metas(&self, member: &Member) -> Option<Vec<EntryMeta>> {
        let log = self.cluster.medium_log(member).ok().filter(|log| log.faulty.is_empty())?;
        Some(log.entries.iter().map(|entry| entry.meta).collect())
    }

    /// The power goes everywhere, and everything that was written is there.
    pub fn stop(self) -> Vec<SimDisk> {
        for member in self.members() {
            self.cluster.cut_power(member, Crash::Power(SectorOdds::NEW));
        }
        let disks = self.members().iter().map(|member| member.disk().durable_image()).collect();
        self.executor.end();
        disks
    }
}

pub fn segment_path(number: SegmentNumber) -> PathBuf {
    segments_dir(std::path::Path::new("/data"), ShardId(0)).join(file_name(number))
}
