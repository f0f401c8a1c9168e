//! Three nodes as child processes on loopback: prepared, started, killed and looked at as an operator would.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::TryRng;
use rand::rngs::SysRng;

use crate::cli::status::fetch;
use crate::config::Address;
use crate::status::{RoleName, ShardStatus, StatusReport};
use crate::types::ClusterId;

const NODES: u8 = 3;
const STOPPING: Duration = Duration::from_secs(10);
const LOG_LINES_SHOWN: usize = 8;

/// The processes and their directory. Dropping it ends and removes them.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    program: PathBuf,
    nodes: Vec<Node>,
    keep: bool,
}

#[derive(Debug)]
struct Node {
    id: u8,
    clients: Address,
    admin: String,
    process: Option<Child>,
    /// The last index of its log when it was last looked at.
    last_seen: u64,
}

/// The cluster at one moment; a node that did not answer has no report.
#[derive(Debug)]
pub struct View {
    pub nodes: Vec<(u8, Option<u32>, Option<StatusReport>)>,
}

impl View {
    fn shards(&self) -> impl Iterator<Item = (u8, &ShardStatus)> {
        self.nodes.iter().filter_map(|(id, _, report)| report.as_ref()?.shards.first().map(|shard| (*id, shard)))
    }

    fn leading(&self) -> Option<(u8, &ShardStatus)> {
        self.shards().filter(|(_, shard)| shard.role == RoleName::Leader).max_by_key(|(_, shard)| shard.term)
    }

    pub fn leader(&self) -> Option<u8> {
        self.leading().map(|(id, _)| id)
    }

    pub fn all_ready(&self) -> bool {
        self.leader().is_some()
            && self.nodes.iter().all(|(_, _, report)| report.as_ref().is_some_and(|report| report.ready().is_ok()))
    }

    /// The end of the leader's log.
    pub fn last_index(&self) -> u64 {
        self.leading().map_or(0, |(_, shard)| shard.last_index)
    }

    /// Jobs in the queue, in any state.
    pub fn depth(&self) -> Option<u64> {
        let (_, shard) = self.leading()?;
        Some(shard.jobs.ready + shard.jobs.reserved + shard.jobs.delayed + shard.jobs.buried)
    }

    /// Whether a node has applied all but the newest few entries.
    pub fn is_level(&self, node: u8, within: u64) -> bool {
        let head = self.last_index();
        head > 0 && self.shards().any(|(id, shard)| id == node && shard.applied + within >= head)
    }
}

fn draw_cluster_id() -> Result<ClusterId, String> {
    let draw = || SysRng.try_next_u64().map(u128::from).map_err(|e| format!("no random numbers: {e}"));
    Ok(ClusterId(draw()? << 64 | draw()?))
}

impl Cluster {
    /// Finds a place, writes a configuration for each node, and prepares its directory.
    pub fn prepare(wanted: Option<&Path>, keep: bool) -> Result<Cluster, String> {
        let program = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
        let directory = place(wanted)?;
        let mut cluster = Cluster { directory, program, nodes: Vec::new(), keep };
        let ports = free_ports(3 * usize::from(NODES)).map_err(|e| format!("no free ports: {e}"))?;
        let (clients, rest) = ports.split_at(usize::from(NODES));
        let (peers, admins) = rest.split_at(usize::from(NODES));
        let members: Vec<String> = (1..=NODES).zip(peers).map(|(id, port)| format!("{id}: 127.0.0.1:{port}")).collect();
        let cluster_id = draw_cluster_id()?;
        for id in 1..=NODES {
            let at = usize::from(id) - 1;
            let config = format!(
                "cluster: demo\ncluster_id: {cluster_id}\nnode: {id}\ndata: {}\nclients: 127.0.0.1:{}\nadmin: 127.0.0.1:{}\nmembers: {{ {} }}\n\
                 disk_reserve_bytes: 16777216\n",
                cluster.directory.join(format!("node-{id}")).display(),
                clients[at],
                admins[at],
                members.join(", "),
            );
            fs::write(cluster.config_file(id), config).map_err(|e| format!("{}: {e}", cluster.directory.display()))?;
            let address =
                Address::parse(&format!("127.0.0.1:{}", clients[at])).expect("a loopback address is well-formed");
            let admin = format!("127.0.0.1:{}", admins[at]);
            cluster.nodes.push(Node { id, clients: address, admin, process: None, last_seen: 0 });
            cluster.init(id)?;
        }
        Ok(cluster)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn client_addresses(&self) -> Vec<Address> {
        self.nodes.iter().map(|node| node.clients.clone()).collect()
    }

    pub fn last_seen(&self, id: u8) -> u64 {
        self.nodes[usize::from(id) - 1].last_seen
    }

    /// Leaves directory and logs behind, for whoever wants to know more.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn start_all(&mut self) -> Result<(), String> {
        (1..=NODES).try_for_each(|id| self.start(id))
    }

    pub fn start(&mut self, id: u8) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file(id)).map_err(|e| e.to_string())?;
        let mut command = self.command("run", id);
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        // SAFETY: `prctl` is async-signal-safe and touches nothing of the parent. However this process ends, the nodes do too.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let process = command.spawn().map_err(|e| format!("node {id} could not be started: {e}"))?;
        self.nodes[usize::from(id) - 1].process = Some(process);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self, id: u8) -> Result<(), String> {
        match self.nodes[usize::from(id) - 1].process.take() {
            Some(mut process) => process.kill().and_then(|()| process.wait()).map(drop).map_err(|e| e.to_string()),
            None => Err(format!("node {id} does not run")),
        }
    }

    /// Asks every running node for its status; one that ended without being told to is an error.
    pub fn look(&mut self) -> Result<View, String> {
        for node in &mut self.nodes {
            let ended = node.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(format!("node {} ended by itself: {status}", node.id));
            }
        }
        let reports: Vec<Option<StatusReport>> = std::thread::scope(|scope| {
            let ask = |node: &Node| node.process.as_ref().map(|_| node.admin.clone());
            let asking: Vec<_> =
                self.nodes.iter().map(|node| ask(node).map(|admin| scope.spawn(move || fetch(&admin).ok()))).collect();
            asking.into_iter().map(|thread| thread?.join().ok()?).collect()
        });
        let mut view = View { nodes: Vec::new() };
        for (node, report) in self.nodes.iter_mut().zip(reports) {
            if let Some(shard) = report.as_ref().and_then(|report| report.shards.first()) {
                node.last_seen = shard.last_index;
            }
            view.nodes.push((node.id, node.process.as_ref().map(Child::id), report));
        }
        Ok(view)
    }

    /// SIGTERM to all, at once, and waits for them to end well.
    pub fn stop_all(&mut self) -> Result<(), String> {
        for process in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
            let pid = i32::try_from(process.id()).map_err(|e| e.to_string())?;
            // SAFETY: a plain system call; the child was not waited for yet, so the pid is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let started = Instant::now();
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            let status = loop {
                match process.try_wait().map_err(|e| e.to_string())? {
                    Some(status) => break status,
                    None if started.elapsed() > STOPPING => {
                        return Err(format!("node {} did not stop when told to", node.id));
                    }
                    None => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            node.process = None;
            if !status.success() {
                return Err(format!("node {} did not stop well: {status}", node.id));
            }
        }
        Ok(())
    }

    /// The ends of the nodes' logs.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for id in 1..=NODES {
            let log = fs::read_to_string(self.log_file(id)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                words.push_str(&format!("  node {id}: {line}\n"));
            }
        }
        words.push_str(&format!("  all of it is kept in {}\n", self.directory.display()));
        words
    }

    fn init(&self, id: u8) -> Result<(), String> {
        let output = self.command("init", id).output().map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("node {id} could not be prepared: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    fn command(&self, what: &str, id: u8) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(what).arg("--config").arg(self.config_file(id)).stdin(Stdio::null());
        // What the operator set for a real node is not meant for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(crate::config::ENVIRONMENT_PREFIX) {
                command.env_remove(name);
            }
        }
        command
    }

    fn config_file(&self, id: u8) -> PathBuf {
        self.directory.join(format!("node-{id}.yaml"))
    }

    fn log_file(&self, id: u8) -> PathBuf {
        self.directory.join(format!("node-{id}.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if !self.keep {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// A new directory: where it was wanted, or the first usual place whose file system has direct I/O. The place for temporary
/// files comes late: it is often in memory, and a queue that was never on a disk would show little.
fn place(wanted: Option<&Path>) -> Result<PathBuf, String> {
    let usual = [PathBuf::from("/var/tmp"), PathBuf::from("target"), PathBuf::from("."), std::env::temp_dir()];
    let candidates = wanted.map_or(usual.to_vec(), |wanted| vec![wanted.to_owned()]);
    let mut refusals = Vec::new();
    for parent in candidates {
        let directory = parent.join(format!("beaver-raft-demo-{}", std::process::id()));
        match fs::create_dir_all(&directory).and_then(|()| try_direct_io(&directory)) {
            Ok(()) => return directory.canonicalize().map_err(|e| e.to_string()),
            Err(why) => {
                let _ = fs::remove_dir(&directory);
                refusals.push(format!("{}: {why}", parent.display()));
            }
        }
    }
    Err(format!("no directory on a disk with direct I/O (name one with --dir): {}", refusals.join("; ")))
}

fn try_direct_io(directory: &Path) -> io::Result<()> {
    let probe = directory.join("probe");
    let opened: io::Result<File> =
        OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&probe);
    let _ = fs::remove_file(&probe);
    opened.map(drop)
}

/// Ports that nobody listens on now. All are held until the last is found, so that they differ.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
