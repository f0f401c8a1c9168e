//! Real processes on loopback, for tests: a cluster of three, and connections to it that speak the protocol by hand.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Of the clusters that are prepared here.
pub const CLUSTER_ID: &str = "00000000000000000000000000007e57";

pub const BINARY: &str = env!("CARGO_BIN_EXE_beaver-raft");

/// Long enough for a busy machine; no test asserts a time.
const PATIENCE: Duration = Duration::from_secs(30);

/// An address on loopback that nobody listens on now and that was not given before. Not one of those from which the
/// system takes ports for outgoing connections: it may be taken by one before a node listens there.
pub fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    loop {
        let place = std::process::id().wrapping_mul(997).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + place).expect("below the ports of outgoing connections");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("it is bound");
        }
    }
}

/// A fresh directory on the disk of the build (which is no tmpfs).
pub fn fresh_directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the target directory is writable");
    directory
}

pub struct Node {
    pub number: usize,
    pub config: PathBuf,
    pub data: PathBuf,
    pub clients: SocketAddr,
    pub admin: SocketAddr,
    child: Option<Child>,
}

pub struct Cluster {
    pub directory: PathBuf,
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Three prepared nodes, not started.
    pub fn prepare(name: &str) -> Cluster {
        Cluster::prepare_with(name, "")
    }

    /// `more`: further lines of each node's configuration.
    pub fn prepare_with(name: &str, more: &str) -> Cluster {
        Cluster::prepare_sharded(name, 3, 1, more)
    }

    pub fn prepare_sharded(name: &str, size: usize, shards: u16, more: &str) -> Cluster {
        let cluster = Cluster::lay_out(name, size, shards, more);
        for node in &cluster.nodes {
            node.init();
        }
        cluster
    }

    /// Configurations, whose data directories are not made yet.
    pub fn lay_out(name: &str, size: usize, shards: u16, more: &str) -> Cluster {
        let directory = fresh_directory(name);
        let peers: Vec<SocketAddr> = (0..size).map(|_| free_address()).collect();
        let members: Vec<String> = peers.iter().enumerate().map(|(n, peer)| format!("{}: {peer}", n + 1)).collect();
        let nodes = (1..=size).map(|number| {
            let (clients, admin) = (free_address(), free_address());
            let config = directory.join(format!("node{number}.yaml"));
            let text = format!(
                "cluster: test\ncluster_id: {CLUSTER_ID}\nnode: {number}\ndata: {}\nclients: {clients}\npeers: {}\nadmin: {admin}\n\
                 members: {{ {} }}\nshards: {shards}\n{more}",
                directory.join(format!("data{number}")).display(),
                peers[number - 1],
                members.join(", "),
            );
            fs::write(&config, text).expect("the directory is writable");
            let data = directory.join(format!("data{number}"));
            Node { number, config, data, clients, admin, child: None }
        });
        Cluster { nodes: nodes.collect(), directory }
    }

    pub fn start(name: &str) -> Cluster {
        let mut cluster = Cluster::prepare(name);
        cluster.start_all();
        cluster
    }

    pub fn start_all(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        self.leader();
    }

    /// The place of the node that leads, once one does and every running node knows it.
    pub fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let running: Vec<usize> = (0..self.nodes.len()).filter(|&n| self.nodes[n].child.is_some()).collect();
            let statuses: Vec<Option<serde_json::Value>> = running.iter().map(|&n| self.nodes[n].status()).collect();
            let leads = |status: &Option<serde_json::Value>| {
                status.as_ref().is_some_and(|status| status["shards"][0]["role"] == "leader")
            };
            let knows = |status: &Option<serde_json::Value>| {
                status.as_ref().is_some_and(|status| status["shards"][0]["leader"].is_u64())
            };
            if statuses.iter().all(knows)
                && let Some(place) = statuses.iter().position(leads)
            {
                return running[place];
            }
            assert!(begun.elapsed() < PATIENCE, "no leader was found: {statuses:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn follower(&self) -> usize {
        let leader = self.leader();
        (0..self.nodes.len()).find(|&n| n != leader && self.nodes[n].child.is_some()).expect("another node runs")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Node {
    pub fn command(&self, what: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.arg(what).arg("--config").arg(&self.config);
        command
    }

    /// Prepares the data directory.
    pub fn init(&self) {
        let prepared = self.command("init").output().expect("the binary runs");
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "node {} runs", self.number);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.config.with_extension("log"))
            .expect("the directory is writable");
        let child = self.command("run").stdout(Stdio::null()).stderr(log).spawn().expect("the binary runs");
        self.child = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("a killed child ends");
        }
    }

    /// SIGTERM, and what became of it.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    pub fn signal(&self, signal: i32) {
        let child = self.child.as_ref().expect("the node runs");
        // SAFETY: `kill` only takes numbers; the child is not reaped yet, so its id is its own.
        let sent = unsafe { libc::kill(i32::try_from(child.id()).expect("a process id"), signal) };
        assert_eq!(sent, 0);
    }

    /// SIGSTOP, and until every thread stands still: it reaches one of them, which stops the others when it comes to run.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let process = self.child.as_ref().expect("the node runs").id();
        let begun = Instant::now();
        let stands_still = |thread: &fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in parentheses.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        loop {
            let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the node runs");
            if threads.flatten().all(|thread| stands_still(&thread)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "node {} does not stop", self.number);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            let child = self.child.as_mut().expect("the node runs");
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.child = None;
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "node {} does not end", self.number);
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }

    /// `/status`, if the node answers.
    pub fn status(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.ask_admin("/status")?).ok()
    }

    /// What the admin port answers, if it does.
    pub fn ask_admin(&self, path: &str) -> Option<String> {
        ask(self.admin, path)
    }

    /// The value of a metric of shard 0, if the node answers.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.ask_admin("/metrics")?;
        let mut values = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("{shard=\"0\"} "));
        values.next()?.parse().ok()
    }

    /// A connection to this node, once it takes one.
    pub fn connect(&self) -> Connection {
        Connection::open(self.clients)
    }
}

/// What an admin port answers, if it does.
pub fn ask(admin: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

pub struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let begun = Instant::now();
        let stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{address} takes no connection: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        stream.set_nodelay(true).expect("a TCP stream");
        stream.set_read_timeout(Some(PATIENCE)).expect("a TCP stream");
        let reader = BufReader::new(stream.try_clone().expect("file descriptors are left"));
        Connection { stream, reader }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("the node reads");
    }

    /// The next line, without its end; none if the node closed the connection.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(_) => line.strip_suffix("\r\n").map(str::to_owned),
            // Closed while the node still had something to read.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer in time: {error}"),
        }
    }

    pub fn call(&mut self, command: &str) -> String {
        self.send(&format!("{command}\r\n"));
        self.line().expect("an answer")
    }

    /// What a command is answered that gives YAML.
    pub fn document(&mut self, command: &str) -> String {
        let bytes = usize::try_from(id_of(&self.call(command), "OK")).expect("it fits into memory");
        let mut document = vec![0; bytes + 2];
        self.reader.read_exact(&mut document).expect("all of it comes in time");
        document.truncate(bytes);
        String::from_utf8(document).expect("names of tubes are ASCII")
    }

    pub fn put(&mut self, body: &str) -> u64 {
        let reply = self.call(&format!("put 100 0 60 {}\r\n{body}", body.len()));
        id_of(&reply, "INSERTED")
    }

    /// A job, if one is ready.
    pub fn reserve(&mut self, timeout_s: u32) -> Option<(u64, String)> {
        let reply = self.call(&format!("reserve-with-timeout {timeout_s}"));
        if reply == "TIMED_OUT" {
            return None;
        }
        let id = id_of(&reply, "RESERVED");
        Some((id, self.line().expect("a body")))
    }
}

/// The id in a reply such as `INSERTED 7`.
pub fn id_of(reply: &str, word: &str) -> u64 {
    let rest = reply.strip_prefix(word).unwrap_or_else(|| panic!("{word} was expected, not {reply}"));
    rest.trim().split(' ').next().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no id in {reply}"))
}
