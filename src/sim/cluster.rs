//! A cluster of whole nodes on simulated hosts: the shipped node from its directory to its listeners, one process a host.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::clock::Clock;
use super::disk::block_on::block_on;
use super::disk::{Crash, SimDisk};
use super::executor::{Executor, GroupId};
use super::latency::DiskLatency;
use super::network::{HostId, Network};
use super::oracle::durable::{DurableLog, Holding};
use super::oracle::group::GroupOracle;
use super::oracle::medium::{MediumLog, faults_of, read_log};
use super::random::Random;
use super::runtime::SimRuntime;
use crate::api::beanstalkd::body_budget::BodyLimits;
use crate::api::beanstalkd::front_door::{FrontDoor, NodeFacts, ResourceUsage};
use crate::api::beanstalkd::output_budget::OutputLimits;
use crate::config::{Address, Config, Tunables};
use crate::fatal::Fatal;
use crate::io::{BLOCK_BYTES, Disk, Runtime};
use crate::metrics::{Format, Metrics, ShardMetrics};
use crate::net::standing::Standing;
use crate::node::core::{Setup, StopRequest, run_node};
use crate::node::host::TurnWatch;
use crate::node::opening;
use crate::raft::message::Vote;
use crate::snapshot::shelf;
use crate::status::{Board, StatusReport};
use crate::types::{ClusterId, Index, Nanos, NodeId, ShardId, Term};
use crate::wal::decision::TABLE;
use crate::wal::directory::{self, segments_dir, shard_dir, snapshots_dir, stores_dir, vote_path};
use crate::wal::entry::LogIdentity;
use crate::wal::format::{BLOCK, record_bytes};
use crate::wal::index::SegmentNumber;
use crate::wal::segment::{SegmentSizes, file_name, parse_file_name};
use crate::wal::store::parse_store_file_name;
use crate::wal::vote::{VoteFile, newest_readable};

const DATA: &str = "/data";
const CLUSTER: &str = "simulated";

/// Nobody draws it: the same seed is the same run.
pub const CLUSTER_ID: ClusterId = ClusterId(0x51ed);
/// The only shard.
const SHARD: ShardId = ShardId(0);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    pub nodes: u8,
    pub tunables: Tunables,
    pub disk_bytes: u64,
}

/// One host and its node.
pub struct Member {
    pub node: NodeId,
    pub host: HostId,
    pub clock: Clock,
    pub latency: DiskLatency,
    /// The present life of its disk.
    disk: RefCell<SimDisk>,
    process: Cell<Option<GroupId>>,
    stop: RefCell<Rc<StopRequest>>,
    /// Why the process ended by itself, with the exit status; 0 is a clean end.
    ended: Rc<RefCell<Option<(u8, String)>>>,
    starts: Cell<u64>,
    /// What its present process shows of itself.
    shown: RefCell<Option<(Arc<Board>, Arc<Metrics>)>>,
    durable: DurableLog,
    /// Counts of earlier disks, where it was given new ones.
    is_wiped: Cell<bool>,
    /// Its disk told lies: what is on it is no witness of anything.
    is_deceived: Cell<bool>,
    /// Its disk, or a part of it, was put back in an earlier state.
    is_put_back: Cell<Option<PutBack>>,
}

/// What of a disk is put back in the state of an older image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutBack {
    All,
    /// The number of starts and what is known of peers, but no shard.
    Directory,
    Shard,
    Vote,
}

impl PutBack {
    pub const PARTS: [PutBack; 3] = [PutBack::Directory, PutBack::Shard, PutBack::Vote];

    fn has(self, path: &Path) -> bool {
        let shard = shard_dir(Path::new(DATA), SHARD);
        match self {
            PutBack::All => true,
            PutBack::Directory => !path.starts_with(shard),
            PutBack::Shard => path.starts_with(shard),
            PutBack::Vote => path == vote_path(Path::new(DATA), SHARD),
        }
    }
}

/// How it shows on all other nodes that an image is older than what its node has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tell {
    LowerBoot,
    OtherStart,
    LowerTerm,
    LowerIndex,
}

/// What the nodes found on their disks when they started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartCounts {
    pub starts: u64,
    /// How often each row of the recovery table held.
    pub rows: [u64; TABLE.len()],
    /// Incomplete ends of logs that were dropped.
    pub cuts: u64,
    /// Segments with live entries.
    pub segments: u64,
    /// Starts that found a log of more than one of them.
    pub with_segments: u64,
    /// Starts from a snapshot, since the log below it is gone.
    pub from_snapshots: u64,
    /// Starts that found a snapshot of another node, decided on and not yet in its place.
    pub decided_installs: u64,
    /// Starts that found a part of one.
    pub cut_off_pulls: u64,
}

pub struct Cluster {
    executor: Executor,
    network: Network,
    config: ClusterConfig,
    identity: LogIdentity,
    members: Vec<Member>,
    oracle: GroupOracle,
    /// What was durable was damaged somewhere.
    rotten: RefCell<BTreeSet<NodeId>>,
    /// Which commit was last held against the disks.
    judged: Cell<Index>,
    starts: RefCell<StartCounts>,
    /// What every process counted, those that are gone included.
    counted: RefCell<Vec<ShardMetrics>>,
}

impl Cluster {
    /// Prepares the directories of all nodes; starts none.
    #[must_use]
    pub fn new(executor: &Executor, network: &Network, config: ClusterConfig) -> Cluster {
        let random = executor.fork_random();
        let disks = (0..config.nodes).map(|_| SimDisk::new(random.next(), config.disk_bytes)).collect();
        let cluster = Cluster::on(executor, network, config, disks);
        cluster.members.iter().for_each(|member| cluster.prepare(member));
        cluster
    }

    /// A cluster whose nodes have run before, on these disks.
    #[must_use]
    pub fn on(executor: &Executor, network: &Network, config: ClusterConfig, disks: Vec<SimDisk>) -> Cluster {
        let oracle = GroupOracle::new(executor);
        let identity = LogIdentity { cluster: CLUSTER_ID, shard: SHARD };
        let random = executor.fork_random();
        let members = (1..=config.nodes).zip(disks).map(|(number, disk)| {
            let latency = DiskLatency::new(executor);
            let disk = disk.with_latency(Rc::new(latency.clone()));
            Member {
                node: NodeId(number),
                host: network.add_host(&host_name(NodeId(number))),
                clock: Clock::new(executor, &random),
                latency,
                disk: RefCell::new(disk),
                process: Cell::new(None),
                stop: RefCell::default(),
                ended: Rc::default(),
                starts: Cell::new(0),
                shown: RefCell::default(),
                durable: DurableLog::new(Path::new(DATA), identity, SHARD),
                is_wiped: Cell::new(false),
                is_deceived: Cell::new(false),
                is_put_back: Cell::default(),
            }
        });
        let members = members.collect();
        Cluster {
            executor: executor.clone(),
            network: network.clone(),
            config,
            identity,
            members,
            oracle,
            rotten: RefCell::default(),
            judged: Cell::default(),
            starts: RefCell::default(),
            counted: RefCell::default(),
        }
    }

    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    #[must_use]
    pub fn member(&self, node: NodeId) -> &Member {
        &self.members[usize::from(node.0 - 1)]
    }

    #[must_use]
    pub fn oracle(&self) -> &GroupOracle {
        &self.oracle
    }

    #[must_use]
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| self.client_address(member)).collect()
    }

    #[must_use]
    pub fn client_address(&self, member: &Member) -> String {
        format!("{}:11300", host_name(member.node))
    }

    fn node_config(&self, node: NodeId) -> Config {
        let address = |node, port| {
            Address::parse(&format!("{}:{port}", host_name(node))).expect("a host's name and a port are an address")
        };
        let members = self.members.iter().map(|member| (member.node, address(member.node, 7300)));
        Config {
            cluster: CLUSTER.to_owned(),
            cluster_id: Some(CLUSTER_ID),
            node,
            data: PathBuf::from(DATA),
            clients: vec![address(node, 11300)],
            peers: Some(address(node, 7300)),
            admin: None,
            clients_mode: None,
            members: members.collect::<BTreeMap<_, _>>(),
            shards: 1,
            cores: None,
            log: "info".to_owned(),
            embedded: false,
            temporary: false,
            tunables: self.config.tunables.clone(),
        }
    }

    fn runtime(&self, member: &Member) -> SimRuntime {
        let disk = member.disk.borrow().clone();
        SimRuntime::new(&self.executor, &self.network, member.host, &member.clock, disk)
    }

    fn prepare(&self, member: &Member) {
        let (runtime, config) = (self.runtime(member), self.node_config(member.node));
        let process = runtime.process();
        let prepared = self.executor.block_on(process, Nanos::from_secs(60), async move {
            runtime.disk().create_dir(Path::new(DATA)).await.expect("a new disk takes a directory");
            opening::prepare(&runtime, &config).await
        });
        prepared.expect("preparing ends").expect("a new disk can be prepared");
        self.executor.kill(process);
    }

    // Processes.

    pub fn start_all(&self) {
        self.members.iter().for_each(|member| self.start(member));
    }

    /// Starts the node, if it does not run.
    pub fn start(&self, member: &Member) {
        if self.is_running(member) {
            return;
        }
        self.bury(member);
        self.network.power_on(member.host);
        self.survey(member);
        let runtime = self.runtime(member);
        let config = self.node_config(member.node);
        member.process.set(Some(runtime.process()));
        member.starts.set(member.starts.get() + 1);
        *member.ended.borrow_mut() = None;
        let stop = Rc::new(StopRequest::default());
        *member.stop.borrow_mut() = Rc::clone(&stop);
        self.executor.tell(format_args!("node {} starts", member.node));
        let metrics = Arc::new(Metrics::new());
        self.counted.borrow_mut().push(metrics.shard(SHARD));
        let board = Arc::new(Board::new(&config, &metrics));
        *member.shown.borrow_mut() = Some((Arc::clone(&board), Arc::clone(&metrics)));
        let setup = Setup {
            board,
            door: Arc::new(front_door(&config, &runtime, member)),
            metrics,
            config,
            watch: Some(Rc::new(self.oracle.clone()) as Rc<dyn TurnWatch>),
        };
        let (ended, executor, node) = (Rc::clone(&member.ended), self.executor.clone(), member.node);
        let (network, process) = (self.network.clone(), runtime.process());
        runtime.clone().spawn(async move {
            let end = match run_node(runtime, setup, stop).await {
                Ok(()) => (0, "as it was asked to".to_owned()),
                Err(fatal) => (fatal.exit_status(), fatal.to_string()),
            };
            executor.tell(format_args!("node {node} ends with status {}: {}", end.0, end.1));
            *ended.borrow_mut() = Some(end);
            // The process is gone with its main function, whatever its other tasks are at.
            executor.kill(process);
            network.close_all_of(process);
        });
    }

    /// Counts what the node will find on its disk.
    fn survey(&self, member: &Member) {
        let Ok(log) = self.read(&member.disk().image()) else { return };
        self.check_inspection(member, &member.disk().image());
        // What it replays is not in its memory when it is applied.
        self.oracle.note_entries(&log.entries);
        let counts = &mut *self.starts.borrow_mut();
        counts.starts += 1;
        counts.cuts += u64::from(log.was_cut);
        counts.segments += log.segments as u64;
        counts.with_segments += u64::from(log.segments > 1);
        counts.from_snapshots += u64::from(log.floor > Index::ZERO);
        counts.decided_installs += u64::from(log.had_decided_install);
        counts.cut_off_pulls += u64::from(log.has_pulled);
        for (sum, row) in counts.rows.iter_mut().zip(&log.rows) {
            *sum += row;
        }
    }

    /// The sum of what all processes counted, the living and the dead.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.counted.borrow().iter().map(of).sum()
    }

    #[must_use]
    pub fn start_counts(&self) -> StartCounts {
        self.starts.borrow().clone()
    }

    /// What is left of a process that ended by itself: its disk is handed to the next.
    fn bury(&self, member: &Member) {
        if member.process.take().is_some() {
            let disk = member.disk.borrow().crash(Crash::Process);
            *member.disk.borrow_mut() = disk;
            self.oracle.forget(member.node);
        }
    }

    #[must_use]
    pub fn is_running(&self, member: &Member) -> bool {
        member.process.get().is_some_and(|process| self.executor.is_alive(process))
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self, member: &Member) {
        self.executor.tell(format_args!("node {} is asked to stop", member.node));
        member.stop.borrow().ask();
    }

    /// SIGKILL.
    pub fn kill(&self, member: &Member) {
        if let Some(process) = member.process.get() {
            self.executor.tell(format_args!("node {} is killed", member.node));
            self.executor.kill(process);
            self.network.close_all_of(process);
            self.bury(member);
        }
    }

    /// The host loses its power, and with it what its disk had not made durable.
    pub fn cut_power(&self, member: &Member, how: Crash) {
        self.executor.tell(format_args!("node {} loses its power", member.node));
        self.network.power_off(member.host);
        if let Some(process) = member.process.take() {
            self.executor.kill(process);
            self.network.close_all_of(process);
            self.oracle.forget(member.node);
        }
        let disk = member.disk.borrow().crash(how);
        *member.disk.borrow_mut() = disk;
        member.clock.reboot();
    }

    /// The host gets an empty disk, which is prepared as for a new node. It forgets all that it promised.
    pub fn wipe(&self, member: &Member) {
        self.executor.tell(format_args!("node {} is given an empty disk", member.node));
        self.kill(member);
        let disk = SimDisk::new(self.executor.fork_random().next(), self.config.disk_bytes);
        *member.disk.borrow_mut() = disk.with_latency(Rc::new(member.latency.clone()));
        member.is_wiped.set(true);
        self.prepare(member);
    }

    /// Kills the node and puts its disk, or a part of it, back in the state of an earlier image.
    pub fn put_back(&self, member: &Member, image: &SimDisk, what: PutBack) {
        self.executor.tell(format_args!("{what:?} of the disk of node {} is put back", member.node));
        self.kill(member);
        let disk = if what == PutBack::All { image.fork() } else { member.disk().durable_image() };
        disk.put_back(image, |path| what.has(path));
        *member.disk.borrow_mut() = disk.with_latency(Rc::new(member.latency.clone()));
        member.is_put_back.set(Some(what));
    }

    /// Whether this node durably knows that the other went back.
    #[must_use]
    pub fn shuts_out(&self, member: &Member, other: NodeId) -> bool {
        let known = block_on(directory::look(&member.disk().durable_image(), Path::new(DATA)));
        known.is_ok_and(|known| known.peers.get(&other).is_some_and(|peer| peer.went_back))
    }

    /// By what all others, and they all run, must see that this image is older than what the node has told them. None
    /// where one of them can't know. Asked of the disks and of what was seen on its way, not of the nodes.
    #[must_use]
    pub fn tell_of(&self, member: &Member, image: &SimDisk) -> Option<Tell> {
        let data = Path::new(DATA);
        let (start, log) = (block_on(directory::look(image, data)).ok()?.boot.0 + 1, self.read(image).ok()?);
        let vote =
            image.peek_medium(&vote_path(data, SHARD), 0, 4 * BLOCK_BYTES).and_then(|file| newest_readable(&file))?;
        let last_term = log.entries.last().map_or(Term::ZERO, |entry| entry.meta.position.term);
        let said = Standing { term: vote.term.max(last_term), index: log.last() };
        let mut tells = Vec::new();
        for other in self.members.iter().filter(|other| other.node != member.node) {
            let known = block_on(directory::look(&other.disk().durable_image(), data)).ok()?;
            let boot = known.peers.get(&member.node)?.start.boot.0;
            let told = self.oracle.told(other.node, member.node).filter(|_| self.is_running(other));
            tells.push(match told {
                _ if start < boot => Tell::LowerBoot,
                _ if start == boot => Tell::OtherStart,
                Some(told) if said.term < told.term => Tell::LowerTerm,
                Some(told) if said < told => Tell::LowerIndex,
                _ => return None,
            });
        }
        let first = tells.first().copied()?;
        tells.iter().all(|tell| *tell == first).then_some(first)
    }

    /// Whether a directory of which this part is put back holds parts of different times.
    #[must_use]
    pub fn disagrees(&self, member: &Member, image: &SimDisk, part: PutBack) -> bool {
        let now = member.disk().durable_image();
        let data = Path::new(DATA);
        let node = block_on(directory::identify(image, data)).expect("it was prepared");
        let vote = |disk: &SimDisk| block_on(VoteFile::look(disk, &vote_path(data, SHARD), node.vote(SHARD)));
        let (counts, votes) = if part == PutBack::Directory { (image, &now) } else { (&now, image) };
        match (block_on(directory::look(counts, data)), vote(votes)) {
            (Ok(counts), Ok((_, vote))) => !(counts.votes_from..=counts.boot).contains(&vote),
            _ => false,
        }
    }

    /// Whether all others durably know this node's identity, so that they will not take another for it.
    #[must_use]
    pub fn all_know(&self, member: &Member) -> bool {
        let known = format!("\"{}\":", member.node);
        let peers = Path::new(DATA).join("peers");
        let knows = |other: &Member| {
            let image = other.disk().durable_image();
            let file = block_on(image.read_small(&peers, BLOCK_BYTES));
            file.is_ok_and(|file| file.is_some_and(|file| String::from_utf8_lossy(&file).contains(&known)))
        };
        self.members.iter().filter(|other| other.node != member.node).all(knows)
    }

    /// SIGSTOP, or SIGCONT.
    pub fn set_paused(&self, member: &Member, is_paused: bool) {
        let Some(process) = member.process.get() else { return };
        let verb = if is_paused { "paused" } else { "resumed" };
        self.executor.tell(format_args!("node {} is {verb}", member.node));
        if is_paused {
            self.executor.pause(process);
        } else {
            self.executor.resume(process);
        }
    }

    /// Cuts a node off from all others, both ways, or mends that. Its clients still reach it.
    pub fn set_isolated(&self, member: &Member, is_isolated: bool) {
        for other in self.members.iter().filter(|other| other.node != member.node) {
            self.network.set_cut_both(member.host, other.host, is_isolated);
        }
    }

    // The truth.

    fn read(&self, image: &SimDisk) -> Result<MediumLog, Fatal> {
        let tunables = &self.config.tunables;
        let sizes = SegmentSizes { first_bytes: tunables.segment_bytes_min, max_bytes: tunables.segment_bytes_max };
        read_log(image, Path::new(DATA), SHARD, self.identity, sizes)
    }

    /// What the node's disk durably holds.
    ///
    /// # Errors
    /// As the node would be told if it started on it.
    pub fn medium_log(&self, member: &Member) -> Result<MediumLog, Fatal> {
        self.read(&member.disk.borrow().durable_image())
    }

    /// Damages one entry that the node durably holds, of which another node has an intact copy (the atlas of the faults): so
    /// whatever rots can be repaired. Only what is witnessed, since rot in an entry without a witness is not told from a torn
    /// write. Where nodes keep snapshots, only on one node in a run: who looks for what is damaged below the log's floor takes it
    /// from nodes that serve, and two such may wait for each other. True where there was such an entry.
    pub fn rot(&self, member: &Member, random: &Random) -> bool {
        if self.must_stay_whole(member) {
            return false;
        }
        let Ok(log) = self.medium_log(member) else { return false };
        let count = log.entries.len() as u64;
        let index = Index(log.floor.0 + random.between(1, count.max(1)));
        let (Some(chain), Some(place)) = (log.chain_at(index), log.place_of(index)) else { return false };
        let has_copy = |other: &Member| {
            other.node != member.node && self.medium_log(other).is_ok_and(|log| log.chain_at(index) == Some(chain))
        };
        if !self.members.iter().any(has_copy) {
            return false;
        }
        let path = segments_dir(Path::new(DATA), SHARD).join(file_name(place.segment));
        let block = place.offset + BLOCK * random.between(0, record_bytes(place.bytes) / BLOCK - 1);
        let how = random.between(0, 2);
        let bit = (block + random.between(0, 99)) * 8;
        let harm = |disk: &SimDisk| match how {
            0 => disk.flip_bit(&path, bit),
            1 => disk.poke(&path, block, &[0; BLOCK as usize]),
            _ => disk.make_unreadable(&path, block, 512),
        };
        let image = member.disk().durable_image();
        let is_told = harm(&image).is_ok()
            && self.read(&image).is_ok_and(|after| after.faulty.contains(&index) && after.last() == log.last());
        if !is_told || harm(&member.disk()).is_err() {
            return false;
        }
        self.rotten.borrow_mut().insert(member.node);
        self.executor.tell(format_args!("entry {index} rots on node {}", member.node));
        true
    }

    /// Where nodes keep snapshots, one node in a run may rot.
    fn must_stay_whole(&self, member: &Member) -> bool {
        let is_another = self.rotten.borrow().iter().any(|rotten| *rotten != member.node);
        self.config.tunables.snapshot_every_bytes > 0 && is_another
    }

    /// Damages one file that the node writes no more: a store segment, a snapshot, rows, or a segment below the log, at its
    /// head or anywhere. The other nodes hold what was in it. True where there was such a file.
    pub fn rot_cold(&self, member: &Member, random: &Random) -> bool {
        if self.must_stay_whole(member) {
            return false;
        }
        let Ok(log) = self.medium_log(member) else { return false };
        let disk = member.disk();
        let cold: Vec<_> = disk.files().into_iter().filter(|(path, _)| is_cold(path, &log.kept)).collect();
        let Some((path, bytes)) = random.pick(&cold) else { return false };
        let blocks = bytes.div_ceil(BLOCK);
        let block = BLOCK * random.between(0, if random.chance(500_000) { 1.min(blocks - 1) } else { blocks - 1 });
        // All other files are mapped, which a sector that cannot be read makes fail as a whole here, and not in the world.
        let may_fail = path.extension().is_some_and(|end| end == "seg");
        let harmed = match random.between(0, 2) {
            0 => disk.flip_bit(path, (block + random.between(0, 99)) * 8),
            2 if may_fail => disk.make_unreadable(path, block, 512),
            _ => disk.poke(path, block, &[0; BLOCK as usize]),
        };
        if harmed.is_err() {
            return false;
        }
        self.rotten.borrow_mut().insert(member.node);
        self.executor.tell(format_args!("{} rots at offset {block} on node {}", path.display(), member.node));
        true
    }

    /// Whether damage was done to this node's disk: it may have to say that it cannot give out a job.
    #[must_use]
    pub fn is_rotten(&self, member: &Member) -> bool {
        self.rotten.borrow().contains(&member.node)
    }

    /// Damaged entries that the present processes repaired.
    #[must_use]
    pub fn repaired(&self) -> u64 {
        let repaired = |member: &Member| member.status().map_or(0, |(status, _)| status.shards[0].repaired);
        self.members.iter().map(repaired).sum()
    }

    #[must_use]
    pub fn has_rotten(&self) -> bool {
        !self.rotten.borrow().is_empty()
    }

    /// Where nothing rotted and no disk lied, whoever inspects this disk must find no damage on it.
    pub fn check_inspection(&self, member: &Member, image: &SimDisk) {
        if self.has_rotten() || image.was_damaged() || member.is_deceived() {
            return;
        }
        match faults_of(image, Path::new(DATA), SHARD) {
            Ok(faults) if faults.is_empty() => {}
            Ok(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                let what = format!("node {}: an inspection finds damage: {}", member.node, faults.join("; "));
                self.oracle.break_with(what);
            }
            Err(error) => self.oracle.break_with(format!("node {} cannot be inspected: {error}", member.node)),
        }
    }

    /// What is known committed must be durable on a majority, whatever the nodes say: held against the disks whenever a
    /// commit becomes known. (Raft 5.3; R1 of the faults.)
    pub fn check_commit(&self) {
        let (index, chain) = (self.oracle.committed().get(), self.oracle.committed_chain());
        if index == self.judged.replace(index) {
            return;
        }
        let mut holders = 0;
        for member in &self.members {
            if member.is_deceived.get() {
                holders += 1;
                continue;
            }
            match member.durable.holding(&member.disk(), index, chain, || self.medium_log(member)) {
                // What was damaged or taken away since was durable when it was acknowledged.
                Ok(Holding::Holds | Holding::Damaged) => holders += 1,
                Ok(Holding::Lacks) => holders += usize::from(member.has_lost_its_past()),
                Err(error) => return self.oracle.break_with(format!("node {} could not start: {error}", member.node)),
            }
        }
        if holders < self.majority() {
            self.oracle.break_with(format!("entry {index} is committed, and durable on {holders} disks"));
        }
    }

    /// Who was elected must have the votes of a majority durably, whatever the voters say. (Raft 5.2; E10 of the faults.)
    pub fn check_elections(&self) {
        for (leader, term) in self.oracle.take_elected() {
            let has_voted = |member: &&Member| {
                let file = member.disk().peek_medium(&vote_path(Path::new(DATA), SHARD), 0, 4 * BLOCK_BYTES);
                let vote = file.and_then(|file| newest_readable(&file)).unwrap_or_default();
                vote.term > term || vote == (Vote { term, voted_for: Some(leader) }) || member.has_forgotten()
            };
            let votes = self.members.iter().filter(has_voted).count();
            if votes < self.majority() {
                self.oracle.break_with(format!("node {leader} leads term {term} with {votes} durable votes"));
            }
        }
    }

    /// Reads all disks as a whole: what is committed is durable on a majority, each disk is one that a node starts on, and
    /// what was learned of it bit by bit is true.
    pub fn check_durability(&self) {
        let (index, chain) = (self.oracle.committed().get(), self.oracle.committed_chain());
        let mut holders = 0;
        let mut told = String::new();
        for member in &self.members {
            if member.is_deceived.get() {
                holders += 1;
                continue;
            }
            let kept_up = member.durable.chains(&member.disk(), || self.medium_log(member));
            match self.medium_log(member) {
                Ok(log) if log.faulty.is_empty() || self.has_rotten() => {
                    let held: BTreeMap<_, _> =
                        log.entries.iter().map(|entry| (entry.meta.position.index, entry.meta.chain)).collect();
                    let is_same = |mut kept_up: BTreeMap<_, _>| kept_up.split_off(&log.floor.next()) == held;
                    if !self.has_rotten() && !kept_up.is_ok_and(is_same) {
                        let what = format!("the simulator lost track of what is on the disk of node {}", member.node);
                        return self.oracle.break_with(what);
                    }
                    let holds = index <= log.floor || log.holds(index, chain);
                    holders += usize::from(holds || member.has_lost_its_past());
                    let _ = write!(told, "; node {} holds {} entries", member.node, log.entries.len());
                }
                // Unless something damaged what was durable, each disk must be one that a node starts on.
                Ok(log) => {
                    let what = format!("node {}: durable entries are damaged: {:?}", member.node, log.faulty);
                    return self.oracle.break_with(what);
                }
                Err(error) => return self.oracle.break_with(format!("node {} could not start: {error}", member.node)),
            }
        }
        if holders < self.majority() {
            self.oracle.break_with(format!("entry {index} is committed and durable on {holders} disks{told}"));
        }
    }
}

impl Member {
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.disk.borrow().clone()
    }

    /// From now on its disk may say that what it lost is durable.
    pub fn is_deceived_by_its_disk(&self) {
        self.is_deceived.set(true);
    }

    /// Whether it may not know what it promised.
    fn has_forgotten(&self) -> bool {
        self.has_lost_its_past() || self.is_deceived.get()
    }

    /// What it had acknowledged was taken from it.
    fn has_lost_its_past(&self) -> bool {
        self.is_wiped.get() || self.is_put_back.get().is_some()
    }

    /// What of its disk was put back in an earlier state.
    #[must_use]
    pub fn put_back(&self) -> Option<PutBack> {
        self.is_put_back.get()
    }

    /// Whether it may have been lied to.
    #[must_use]
    pub fn is_deceived(&self) -> bool {
        self.is_deceived.get()
    }

    #[must_use]
    pub fn starts(&self) -> u64 {
        self.starts.get()
    }

    /// What it shows at `/status`, and at `/metrics`.
    #[must_use]
    pub fn status(&self) -> Option<(StatusReport, String)> {
        let shown = self.shown.borrow();
        let (board, metrics) = shown.as_ref()?;
        Some((board.report(metrics), metrics.text(Format::OpenMetrics)))
    }

    /// Whether it was given an empty disk at some time.
    #[must_use]
    pub fn is_wiped(&self) -> bool {
        self.is_wiped.get()
    }

    /// Why its process ended by itself.
    #[must_use]
    pub fn ended(&self) -> Option<(u8, String)> {
        self.ended.borrow().clone()
    }
}

/// Whether a file of a node, which keeps these segments below its log's floor, was written once and for all.
fn is_cold(path: &Path, kept: &[SegmentNumber]) -> bool {
    let data = Path::new(DATA);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else { return false };
    if dir == segments_dir(data, SHARD) {
        return name.ends_with(".rows") || parse_file_name(name).is_some_and(|number| kept.contains(&number));
    }
    let is_store = dir == stores_dir(data, SHARD) && parse_store_file_name(name).is_some();
    is_store || (dir == snapshots_dir(data, SHARD) && shelf::parse_file_name(name).is_some())
}

fn host_name(node: NodeId) -> String {
    format!("n{node}")
}

fn front_door(config: &Config, runtime: &SimRuntime, member: &Member) -> FrontDoor {
    let facts = NodeFacts {
        pid: u32::from(member.node.0),
        version: env!("CARGO_PKG_VERSION"),
        instance: runtime.random(),
        hostname: host_name(member.node),
        os: "simulated".to_owned(),
        platform: "simulated".to_owned(),
        started: runtime.now(),
        has_binlog: true,
        segment_bytes_max: config.tunables.segment_bytes_max,
        resource_usage: ResourceUsage::default,
    };
    let tunables = &config.tunables;
    let bodies = BodyLimits { bytes_max: tunables.job_bytes_max, together_bytes_max: tunables.bodies_bytes_max };
    let outputs = OutputLimits {
        together_bytes_max: tunables.output_bytes_max,
        stall: Nanos::from_millis(tunables.output_stall_ms),
    };
    FrontDoor::new(config.shards, 1, bodies, outputs, facts)
}
