//! What a node shows of itself. Core threads publish one [`ShardStatus`] each for their shards, by swapping a pointer; the
//! admin port and the command line read. The JSON of `/status` is this, and keys are only ever added to it.

pub mod admission;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use self::admission::Admission;
use crate::config::{Address, Config};
use crate::metrics::{ShardMetrics, gauge_value};
use crate::types::NodeId;

/// A shard whose status is older than this no longer runs. Core threads publish at least once a second.
pub const STALE_AFTER_MS: u64 = 10_000;

/// One node, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    pub node: u8,
    pub cluster: String,
    /// In hexadecimal, as the data directory has them; empty until that was opened. Two clusters of one name have
    /// different ids, and so have two directories that were prepared for one node.
    pub cluster_id: String,
    pub incarnation: String,
    pub version: String,
    pub pid: u32,
    /// When the process began, in milliseconds since the Unix epoch. With `pid` it tells two processes apart.
    pub started_unix_ms: u64,
    pub uptime_s: u64,
    /// Physical memory that the process takes.
    pub memory_bytes: u64,
    pub disk: DiskStatus,
    /// Client connections open now.
    pub connections: u64,
    pub draining: bool,
    /// Whether a peer has admitted this node since it started; true of a node without peers.
    pub admitted: bool,
    /// Peers that refuse this node now.
    pub refused_by: Vec<RefusalStatus>,
    /// Ids and addresses, as configured.
    pub members: Vec<MemberStatus>,
    pub shards: Vec<ShardStatus>,
}

/// The file system of the data directory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// What this process may still take; none before it was looked at.
    pub free_bytes: Option<u64>,
    /// `disk_reserve_bytes`: with no more than this free, this node has no room for new jobs.
    pub reserve_bytes: u64,
    /// What must be free for new jobs to be taken again, where they are not; else 0.
    pub needed_bytes: u64,
}

/// What a peer says that refuses this node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RefusalStatus {
    pub node: u8,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub node: u8,
    /// Where its peers reach it.
    pub address: String,
    /// Where its admin port should be: on its host, as far from its peer port as on the node that reports.
    pub admin: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Not a member that votes yet: the log is being read.
    #[default]
    Recovering,
    Follower,
    Candidate,
    Leader,
    Learner,
}

/// One shard on one node, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardStatus {
    pub shard: u16,
    pub role: RoleName,
    /// The leader that this node knows of in `term`.
    pub leader: Option<u8>,
    pub term: u64,
    pub last_index: u64,
    /// Up to here the log is durable on this node.
    pub durable: u64,
    pub committed: u64,
    pub applied: u64,
    /// Whether this node comes to what is committed without delay: it serves without a wait.
    pub caught_up: bool,
    /// The highest commit index that a leader told this node, which may hold less; at least
    /// `committed`.
    pub leader_committed: u64,
    /// For how many milliseconds this node has not come to what was committed at the beginning of
    /// that time; 0 where it comes to that within two of the longest election timeouts.
    pub behind_ms: u64,
    /// For how many milliseconds the oldest write has been under way; 0 up to one second.
    pub disk_stalled_ms: u64,
    /// While the log is being read: bytes read so far, and in all.
    pub recovered_bytes: u64,
    pub recovery_bytes: u64,
    /// Whether this node's disk has room, and whether a majority has, as the leader says.
    pub room: bool,
    pub cluster_room: bool,
    pub jobs: JobCounts,
    /// Those with the most jobs, at most 20.
    pub deepest_tubes: Vec<TubeStatus>,
    pub sessions: u64,
    /// Workers that wait at this node for a job, while it leads.
    pub waits: u64,
    pub segments: u64,
    pub log_bytes: u64,
    /// Bytes of the segment for which the log waits, because the disk has no room for it; 0 where it waits for none.
    pub log_needs_bytes: u64,
    /// Entries that were durable here and are damaged; the shard does not serve here until they are repaired.
    pub faulty: u64,
    /// Damaged entries that were written again from a copy of another node, by this process.
    pub repaired: u64,
    /// What a repair waits for, and what each other node says.
    pub repair: Option<String>,
    /// The log counts from the entry above this one; what lives from before is kept by job.
    pub floor: u64,
    /// Store segments; bytes of all files below the floor, of what lives in them, and of what was moved into store segments
    /// since the process began; and files below the floor that cannot be read in full.
    pub stores: u64,
    pub kept_bytes: u64,
    pub live_bytes: u64,
    pub moved_bytes: u64,
    pub damaged_files: u64,
    /// The newest snapshot that was written or started from: its entry (0: there is none), its length, how long it took to write
    /// (0: it was started from), how old it is, and how many were written since the process began.
    pub snapshot_index: u64,
    pub snapshot_bytes: u64,
    pub snapshot_ms: u64,
    pub snapshot_age_ms: u64,
    pub snapshots_written: u64,
    /// The last marker that was applied here, and the fingerprint of the state there: the same on every node.
    pub marker_index: u64,
    pub marker_fingerprint: String,
    /// Files below the floor that were given up because nothing lived in them, and that were rewritten, since the process began.
    pub dropped_files: u64,
    pub rewritten_files: u64,
    /// A snapshot of another node that is being pulled.
    pub install: Option<InstallStatus>,
    /// How far each other member is; only the leader knows.
    pub peers: Vec<PeerStatus>,
    /// Members that came back with an older copy of their data directory and are refused for good. What one other member and
    /// one of these alone had stored has one copy.
    pub shut_out: Vec<u8>,
    /// The connections that this node dialled, one to each other member.
    pub links: Vec<LinkStatus>,
    /// What was applied here of late.
    pub rates: RateStatus,
    /// How long the last writes to the log took.
    pub log_writes: LatencyStatus,
    /// Why the shard no longer runs, if so.
    pub stopped: Option<String>,
    /// Milliseconds since the core thread published this; filled in for the reader.
    pub age_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobCounts {
    pub ready: u64,
    pub reserved: u64,
    pub delayed: u64,
    pub buried: u64,
    pub tubes: u64,
    /// Ever put.
    pub total: u64,
    pub timeouts: u64,
}

/// A snapshot on its way here, which is to take the place of a log that ends before the others' begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstallStatus {
    /// Who is asked at the moment.
    pub from: u8,
    /// Its entry.
    pub index: u64,
    /// Of the snapshot's file: what came so far, and in all.
    pub bytes: u64,
    pub all_bytes: u64,
    /// Jobs that came, which were lacking here.
    pub jobs: u64,
}

/// Jobs in one tube.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TubeStatus {
    pub tube: String,
    pub ready: u64,
    pub reserved: u64,
    pub delayed: u64,
    pub buried: u64,
    pub paused: bool,
    /// How long ago the ready job that was put first was put, in milliseconds. Null where none is ready, or those that are have
    /// more than 256 priorities and classes.
    pub oldest_ready_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    pub node: u8,
    pub connected: bool,
    /// Highest index that the peer is known to hold durably.
    pub matched: u64,
    pub in_flight: u64,
    /// probe, replicate or snapshot.
    pub progress: String,
    pub room: bool,
    /// It answers heartbeats, lacks entries, and has taken none for long.
    pub stuck: bool,
}

/// A connection to another member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    pub node: u8,
    pub connected: bool,
    /// For how many milliseconds this has been so. It is looked at a few times a second.
    pub since_ms: u64,
    /// How often the connection broke since the process began.
    pub lost: u64,
    /// Why the last attempt to connect failed, of any shard, until all are connected.
    pub why: Option<String>,
    /// For how many milliseconds the peer has not been reached by all shards, where `why` is there.
    pub unreached_ms: u64,
}

/// What was applied in the last `over_ms` milliseconds, of at most some ten seconds; 0: nothing was counted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RateStatus {
    pub over_ms: u64,
    pub puts: u64,
    pub reserves: u64,
    pub deletes: u64,
}

/// Of the last writes, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LatencyStatus {
    /// How many are counted.
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl StatusReport {
    /// What an operator should know of a node that may be ready all the same: a sentence each.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let DiskStatus { free_bytes, reserve_bytes, needed_bytes } = self.disk;
        match free_bytes {
            Some(free) if needed_bytes > 0 => vec![format!(
                "the disk is full: {free} bytes are free, {needed_bytes} are needed to take new jobs \
                 (disk_reserve_bytes is {reserve_bytes})"
            )],
            _ => Vec::new(),
        }
    }

    /// Whether every shard knows its leader and is up to date here, and the node takes jobs; if not, why.
    ///
    /// # Errors
    /// A sentence for the node that drains, and for each shard that is not ready.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        let drains = self.draining.then(|| "draining: puts are refused".to_owned());
        let shards = self.shards.iter().filter_map(|shard| shard.not_ready().map(|why| shard.says(&why)));
        let reasons: Vec<String> = drains.into_iter().chain(shards).collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Whether every shard runs; if not, why.
    ///
    /// # Errors
    /// A sentence for each shard that does not run.
    pub fn alive(&self) -> Result<(), Vec<String>> {
        let reasons: Vec<String> =
            self.shards.iter().filter_map(|shard| shard.not_alive().map(|why| shard.says(&why))).collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

impl ShardStatus {
    fn says(&self, why: &str) -> String {
        format!("shard {}: {why}", self.shard)
    }

    fn not_alive(&self) -> Option<String> {
        if let Some(why) = &self.stopped {
            return Some(format!("stopped: {why}"));
        }
        (self.age_ms > STALE_AFTER_MS).then(|| format!("has not said anything for {} s", self.age_ms / 1000))
    }

    /// Why no leader is known here, if none is: what this node sees of the others.
    #[must_use]
    pub fn why_no_leader(&self) -> Option<String> {
        if self.leader.is_some() {
            return None;
        }
        let (near, far): (Vec<&LinkStatus>, Vec<&LinkStatus>) = self.links.iter().partition(|link| link.connected);
        let names =
            |links: &[&LinkStatus]| links.iter().map(|link| link.node.to_string()).collect::<Vec<_>>().join(", ");
        let majority = self.links.len().div_ceil(2);
        let why = if self.links.is_empty() {
            return Some("no leader known".to_owned());
        } else if near.is_empty() {
            "it is cut off, no other member is connected".to_owned()
        } else if near.len() < majority {
            format!("no majority is in reach, of the others {} is connected and {} not", names(&near), names(&far))
        } else if self.role == RoleName::Candidate {
            format!("an election is under way, for term {}", self.term)
        } else {
            format!("a majority is in reach (connected: {}), the next election is awaited", names(&near))
        };
        Some(format!("no leader known: {why}"))
    }

    fn not_ready(&self) -> Option<String> {
        if let Some(why) = self.not_alive() {
            return Some(why);
        }
        if self.faulty > 0 {
            let waits = self.repair.as_ref().map_or(String::new(), |text| format!(": {text}"));
            return Some(format!("repairing, {} damaged entries{waits}", self.faulty));
        }
        if self.role == RoleName::Recovering {
            return Some(match self.recovery_bytes {
                0 => "recovering".to_owned(),
                all => format!("recovering, {} % of the log read", self.recovered_bytes * 100 / all),
            });
        }
        if let Some(why) = self.why_no_leader() {
            return Some(why);
        }
        if let Some(InstallStatus { from, index, bytes, all_bytes, jobs }) = self.install {
            return Some(format!(
                "behind the log, pulling the snapshot of entry {index} from node {from}: {bytes} of {all_bytes} bytes, {jobs} jobs"
            ));
        }
        let leader_is_away = self.links.iter().find(|link| Some(link.node) == self.leader && !link.connected);
        if let Some(link) = leader_is_away {
            return Some(format!("node {} leads, and is not connected for {} s", link.node, link.since_ms / 1000));
        }
        let mut reasons = Vec::new();
        if !self.caught_up {
            let all = self.leader_committed.max(self.committed);
            reasons.push(match self.applied < all {
                true => format!("catching up, applied {} of {all}", self.applied),
                false => format!("catching up, applied {}, and how far the leader is, is not known yet", self.applied),
            });
        }
        if self.behind_ms > 0 {
            reasons.push(format!("behind for {}.{} s", self.behind_ms / 1000, self.behind_ms / 100 % 10));
        }
        if self.disk_stalled_ms > 0 {
            reasons.push(format!("the disk has not completed a write for {} ms", self.disk_stalled_ms));
        }
        (!reasons.is_empty()).then(|| reasons.join(", "))
    }

    /// Sets the gauges that show the same as this.
    pub fn observe(&self, metrics: &ShardMetrics) {
        metrics.jobs_ready.set(gauge_value(self.jobs.ready));
        metrics.jobs_reserved.set(gauge_value(self.jobs.reserved));
        metrics.jobs_delayed.set(gauge_value(self.jobs.delayed));
        metrics.jobs_buried.set(gauge_value(self.jobs.buried));
        metrics.tubes.set(gauge_value(self.jobs.tubes));
        metrics.sessions.set(gauge_value(self.sessions));
        metrics.waits.set(gauge_value(self.waits));
        metrics.recovered_bytes.set(gauge_value(self.recovered_bytes));
        metrics.recovery_bytes.set(gauge_value(self.recovery_bytes));
        metrics.term.set(gauge_value(self.term));
        metrics.leader.set(self.leader.map_or(0, i64::from));
        metrics.leading.set(i64::from(self.role == RoleName::Leader));
        metrics.last_index.set(gauge_value(self.last_index));
        metrics.committed_index.set(gauge_value(self.committed));
        metrics.applied_index.set(gauge_value(self.applied));
        metrics.faulty_entries.set(gauge_value(self.faulty));
        metrics.segments.set(gauge_value(self.segments));
        metrics.log_bytes.set(gauge_value(self.log_bytes));
        metrics.floor.set(gauge_value(self.floor));
        metrics.stores.set(gauge_value(self.stores));
        metrics.kept_bytes.set(gauge_value(self.kept_bytes));
        metrics.live_bytes.set(gauge_value(self.live_bytes));
        metrics.moved_bytes.set(gauge_value(self.moved_bytes));
        metrics.damaged_files.set(gauge_value(self.damaged_files));
        metrics.snapshot_index.set(gauge_value(self.snapshot_index));
        metrics.snapshot_bytes.set(gauge_value(self.snapshot_bytes));
        metrics.snapshot_age_seconds.set(gauge_value(self.snapshot_age_ms / 1000));
        metrics.snapshots_written.set(gauge_value(self.snapshots_written));
        metrics.shut_out.set(gauge_value(self.shut_out.len() as u64));
        metrics.marker_index.set(gauge_value(self.marker_index));
        metrics.dropped_files.set(gauge_value(self.dropped_files));
        metrics.rewritten_files.set(gauge_value(self.rewritten_files));
        let install = self.install.unwrap_or_default();
        metrics.install_bytes.set(gauge_value(install.bytes));
        metrics.install_all_bytes.set(gauge_value(install.all_bytes));
    }
}

/// Where core threads leave the status of their shards. Publishing never waits for a reader.
#[derive(Debug)]
pub struct Board {
    started: Instant,
    started_unix_ms: u64,
    node: u8,
    cluster: String,
    members: Vec<MemberStatus>,
    /// Cluster id and incarnation, once the directory was opened.
    identity: OnceLock<(u128, u128)>,
    /// Locked for as long as it takes to copy a few numbers and sentences, and when a link changes.
    admission: Mutex<Admission>,
    reserve_bytes: u64,
    /// [`FREE_UNKNOWN`] before it was looked at.
    free_bytes: AtomicU64,
    shards: Vec<Posted>,
    /// Where clients are served, and whether they ever were.
    clients: String,
    has_served: AtomicBool,
}

const FREE_UNKNOWN: u64 = u64::MAX;

#[derive(Debug)]
struct Posted {
    status: ArcSwap<ShardStatus>,
    metrics: ShardMetrics,
    /// Milliseconds after `Board::started`.
    at_ms: AtomicU64,
}

impl Board {
    #[must_use]
    pub fn new(config: &Config, metrics: &crate::metrics::Metrics) -> Board {
        let posted = |shard| Posted {
            status: ArcSwap::from_pointee(ShardStatus { shard, ..ShardStatus::default() }),
            metrics: metrics.shard(crate::types::ShardId(shard)),
            at_ms: AtomicU64::new(0),
        };
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Board {
            started: Instant::now(),
            started_unix_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            node: config.node.0,
            cluster: config.cluster.clone(),
            members: member_places(config),
            identity: OnceLock::new(),
            admission: Mutex::new(Admission::new(config.members.len())),
            reserve_bytes: config.tunables.disk_reserve_bytes,
            free_bytes: AtomicU64::new(FREE_UNKNOWN),
            shards: (0..config.shards).map(posted).collect(),
            clients: config.clients.iter().map(Address::as_str).collect::<Vec<_>>().join(" and "),
            has_served: AtomicBool::new(false),
        }
    }

    /// Whether every shard serves here for the first time since the start: then, once, where clients are served.
    #[must_use]
    pub fn begins_to_serve(&self) -> Option<&str> {
        if self.has_served.load(Ordering::Relaxed) {
            return None;
        }
        let serves = |posted: &Posted| {
            let status = posted.status.load();
            status.leader.is_some() && status.caught_up
        };
        let is_first = self.shards.iter().all(serves) && !self.has_served.swap(true, Ordering::Relaxed);
        is_first.then_some(&*self.clients)
    }

    /// Shows the status of one shard from now on, here and in its gauges. A core thread does this after changes worth
    /// showing (a few times a second at most) and at least once a second.
    ///
    /// # Panics
    /// If the shard is not one of the configured ones.
    pub fn publish(&self, status: ShardStatus) {
        let posted = &self.shards[usize::from(status.shard)];
        status.observe(&posted.metrics);
        posted.status.store(Arc::new(status));
        posted.at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The data directory was opened, and says whose it is.
    pub fn identify(&self, cluster_id: u128, incarnation: u128) {
        // A directory is opened once per process.
        let _ = self.identity.set((cluster_id, incarnation));
    }

    /// A peer took the connection that this node dialled.
    pub fn note_admitted(&self, peer: u8) {
        self.admission().note_admitted(peer);
    }

    /// A peer refused this node. `is_lasting`: until an operator changes one of the two. Returns why this node can be
    /// part of no majority, if so.
    #[must_use]
    pub fn note_refused(&self, peer: u8, why: &str, is_lasting: bool) -> Option<String> {
        let mut admission = self.admission();
        admission.note_refused(peer, why, is_lasting);
        admission.hopeless()
    }

    /// The free space of the data directory was looked at.
    pub fn note_free(&self, bytes: u64) {
        self.free_bytes.store(bytes.min(FREE_UNKNOWN - 1), Ordering::Relaxed);
    }

    fn admission(&self) -> std::sync::MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self, shards: &[ShardStatus]) -> DiskStatus {
        let free_bytes = Some(self.free_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != FREE_UNKNOWN);
        let log_needs = shards.iter().map(|shard| shard.log_needs_bytes).max().unwrap_or(0);
        DiskStatus {
            free_bytes,
            reserve_bytes: self.reserve_bytes,
            needed_bytes: free_bytes.map_or(0, |free| needed_bytes(free, self.reserve_bytes, log_needs)),
        }
    }

    /// Everything, as of now.
    #[must_use]
    pub fn report(&self, metrics: &crate::metrics::Metrics) -> StatusReport {
        let now_ms = self.now_ms();
        let shards = self.shards.iter().map(|posted| {
            let mut status = ShardStatus::clone(&posted.status.load());
            status.age_ms = now_ms.saturating_sub(posted.at_ms.load(Ordering::Relaxed));
            status
        });
        let shards: Vec<ShardStatus> = shards.collect();
        let admission = self.admission().clone();
        let (cluster_id, incarnation) = self.identity.get().map_or_else(Default::default, |(cluster, incarnation)| {
            (format!("{cluster:032x}"), format!("{incarnation:032x}"))
        });
        StatusReport {
            node: self.node,
            cluster: self.cluster.clone(),
            cluster_id,
            incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_unix_ms: self.started_unix_ms,
            uptime_s: self.started.elapsed().as_secs(),
            memory_bytes: u64::try_from(metrics.node.memory_bytes.get()).unwrap_or(0),
            disk: self.disk(&shards),
            connections: u64::try_from(metrics.node.connections.get()).unwrap_or(0),
            draining: metrics.node.draining.get() != 0,
            admitted: admission.is_admitted(),
            refused_by: admission.refusals().map(|(node, why)| RefusalStatus { node, why: why.to_owned() }).collect(),
            members: self.members.clone(),
            shards,
        }
    }

    /// Milliseconds since the process began.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Bytes that must be free for new jobs to be taken, where there is too little; else 0. `log_needs`: bytes of a segment
/// for which there was no room, or 0.
#[must_use]
pub fn needed_bytes(free: u64, reserve: u64, log_needs: u64) -> u64 {
    let for_jobs = if free > reserve { 0 } else { reserve.saturating_add(1) };
    for_jobs.max(log_needs)
}

/// The members of a configuration, and where their admin ports should be.
#[must_use]
pub fn member_places(config: &Config) -> Vec<MemberStatus> {
    let own_port = |address: Option<&Address>| address.and_then(Address::port).map(i32::from);
    let own_peer_port = own_port(config.members.get(&config.node));
    let distance = own_port(config.admin.as_ref()).zip(own_peer_port).map(|(admin, peers)| admin - peers);
    let admin_of = |node: NodeId, address: &Address| {
        if node == config.node {
            return config.admin.as_ref().map(Address::to_string);
        }
        let port = u16::try_from(i32::from(address.port()?) + distance?).ok().filter(|port| *port != 0)?;
        let (host, _) = address.as_str().rsplit_once(':')?;
        Some(format!("{host}:{port}"))
    };
    let member = |(node, address): (&NodeId, &Address)| MemberStatus {
        node: node.0,
        address: address.to_string(),
        admin: admin_of(*node, address),
    };
    config.members.iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> ShardStatus {
        ShardStatus { role: RoleName::Follower, leader: Some(2), caught_up: true, ..ShardStatus::default() }
    }

    fn report(shards: Vec<ShardStatus>) -> StatusReport {
        StatusReport { node: 1, cluster: "orders".to_owned(), shards, ..StatusReport::default() }
    }

    #[test]
    fn a_node_is_ready_when_every_shard_knows_its_leader_and_has_caught_up() {
        assert_eq!(report(vec![serving()]).ready(), Ok(()));
        let recovering = ShardStatus { recovery_bytes: 200, recovered_bytes: 50, ..ShardStatus::default() };
        assert_eq!(report(vec![recovering]).ready(), Err(vec!["shard 0: recovering, 25 % of the log read".to_owned()]));
        let why = "entry 7 is damaged here; node 2: not connected".to_owned();
        let damaged = ShardStatus { faulty: 3, repair: Some(why.clone()), ..ShardStatus::default() };
        let says = format!("shard 0: repairing, 3 damaged entries: {why}");
        assert_eq!(report(vec![damaged]).ready(), Err(vec![says]));
        let leaderless = ShardStatus { leader: None, shard: 3, ..serving() };
        assert_eq!(report(vec![serving(), leaderless]).ready(), Err(vec!["shard 3: no leader known".to_owned()]));
        let behind = ShardStatus { caught_up: false, applied: 3, committed: 9, ..serving() };
        assert_eq!(report(vec![behind]).ready(), Err(vec!["shard 0: catching up, applied 3 of 9".to_owned()]));
        let unheard = ShardStatus { caught_up: false, applied: 9, committed: 9, ..serving() };
        let says = "shard 0: catching up, applied 9, and how far the leader is, is not known yet".to_owned();
        assert_eq!(report(vec![unheard]).ready(), Err(vec![says]));
        // It takes nothing, and what it knows to be committed reaches no further than what it
        // holds.
        let stuck = ShardStatus { caught_up: false, applied: 9, committed: 9, leader_committed: 70, ..serving() };
        let stuck = ShardStatus { behind_ms: 5_260, disk_stalled_ms: 5_300, ..stuck };
        let says = "shard 0: catching up, applied 9 of 70, behind for 5.2 s, the disk has not completed a write for \
                    5300 ms";
        assert_eq!(report(vec![stuck]).ready(), Err(vec![says.to_owned()]));
        let stalled = ShardStatus { disk_stalled_ms: 1_001, ..serving() };
        let says = "shard 0: the disk has not completed a write for 1001 ms".to_owned();
        assert_eq!(report(vec![stalled]).ready(), Err(vec![says]));
    }

    #[test]
    fn a_shard_without_a_leader_is_alive_and_a_silent_one_is_not() {
        assert_eq!(report(vec![ShardStatus { leader: None, ..serving() }]).alive(), Ok(()));
        assert!(report(vec![ShardStatus { age_ms: STALE_AFTER_MS + 1, ..serving() }]).alive().is_err());
        assert!(report(vec![ShardStatus { stopped: Some("disk".to_owned()), ..serving() }]).alive().is_err());
    }

    #[test]
    fn a_node_without_a_leader_says_what_it_sees_of_the_others() {
        let says = |role, connected: &[u8], all: std::ops::RangeInclusive<u8>| {
            let link = |node| LinkStatus { node, connected: connected.contains(&node), ..LinkStatus::default() };
            let status = ShardStatus { role, leader: None, term: 7, links: all.map(link).collect(), ..serving() };
            status.why_no_leader().expect("there is none")
        };
        let follower = RoleName::Follower;
        assert_eq!(says(follower, &[], 2..=3), "no leader known: it is cut off, no other member is connected");
        let no_majority = "no leader known: no majority is in reach, of the others 2 is connected and 3, 4, 5 not";
        assert_eq!(says(follower, &[2], 2..=5), no_majority);
        assert_eq!(says(RoleName::Candidate, &[2], 2..=3), "no leader known: an election is under way, for term 7");
        assert!(says(follower, &[2, 5], 2..=5).contains("a majority is in reach (connected: 2, 5)"));
        assert!(says(RoleName::Candidate, &[2], 2..=4).contains("no majority"), "two of four are none");
        assert_eq!(serving().why_no_leader(), None);
    }

    #[test]
    fn a_follower_whose_leader_is_not_connected_is_not_ready_and_says_for_how_long() {
        let link = LinkStatus { node: 2, since_ms: 5900, lost: 1, ..LinkStatus::default() };
        let status = ShardStatus { links: vec![link], caught_up: false, ..serving() };
        let says = "shard 0: node 2 leads, and is not connected for 5 s".to_owned();
        assert_eq!(report(vec![status]).ready(), Err(vec![says]));
    }

    #[test]
    fn a_draining_node_is_alive_and_not_ready_and_one_with_a_full_disk_is_ready() {
        let draining = StatusReport { draining: true, ..report(vec![serving()]) };
        assert_eq!((draining.alive(), draining.ready()), (Ok(()), Err(vec!["draining: puts are refused".to_owned()])));
        let disk = DiskStatus { free_bytes: Some(1), reserve_bytes: 4096, needed_bytes: 4097 };
        let full = StatusReport { disk, ..report(vec![serving()]) };
        assert_eq!(full.ready(), Ok(()));
        let remark =
            "the disk is full: 1 bytes are free, 4097 are needed to take new jobs (disk_reserve_bytes is 4096)";
        assert_eq!(full.remarks(), [remark]);
        assert!(report(vec![serving()]).remarks().is_empty());
    }

    #[test]
    fn what_must_be_free_is_more_than_the_reserve_and_room_for_the_log() {
        assert_eq!(needed_bytes(101, 100, 0), 0);
        assert_eq!(needed_bytes(100, 100, 0), 101);
        assert_eq!(needed_bytes(101, 100, 4096), 4096);
        assert_eq!(needed_bytes(0, 8192, 4096), 8193);
    }

    #[test]
    fn a_status_of_another_version_is_still_read() {
        let json = r#"{"shard":1,"role":"leader","term":4,"a_key_of_the_future":true}"#;
        let status: ShardStatus = serde_json::from_str(json).expect("reads");
        assert_eq!((status.shard, status.role, status.term), (1, RoleName::Leader, 4));
    }
}
