//! What many tubes and busy monitors do to everybody else: three real nodes on loopback, 100,000
//! tubes, and clients that ask for all of them, wait for all of them, and leave all at once; then
//! the leader is killed.
//!
//! `cargo bench --bench turns [-- --tubes 100000 --seconds 20]`. A bystander puts a job of 256 bytes
//! every 10 ms through a follower. The other clients run under SCHED_IDLE, so that on a small
//! machine they take no processor time from the nodes. Prints, for each load: the slowest put of
//! the bystander, the longest turn of a core thread in processor time and in items of work, and
//! the terms before and after.

#[allow(dead_code, reason = "shared with the tests of processes")]
#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use cluster::{Cluster, Connection};

const MONITORS: usize = 10;
const LISTERS: usize = 200;
const LISTS_EACH: usize = 100;
const WORKERS: usize = 500;
const WATCHED_EACH: usize = 1000;
const PUT_EVERY: Duration = Duration::from_millis(10);

#[derive(Parser)]
struct Options {
    /// Tubes, with a job each.
    #[arg(long, default_value_t = 100_000)]
    tubes: usize,
    /// How long each load lasts.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let mut cluster = Cluster::start("turns");
    let leader = cluster.leader();
    let follower = cluster.follower();
    let begun = Instant::now();
    make_tubes(&cluster.nodes[follower], options.tubes);
    println!("{} tubes with a job each, made in {:.1} s", options.tubes, begun.elapsed().as_secs_f64());
    println!("{:<44} {:>12} {:>14} {:>12} {:>9}", "load", "worst put ms", "longest turn ms", "items a turn", "terms");
    let length = Duration::from_secs(options.seconds);
    let address = cluster.nodes[follower].clients;
    let report = |name: &str, load: &dyn Fn(&Arc<AtomicBool>) -> Vec<JoinHandle<()>>| {
        let before = term(&cluster);
        let bystander = Bystander::start(address);
        let stop = Arc::new(AtomicBool::new(false));
        let clients = load(&stop);
        thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("a client does not panic"));
        let worst = bystander.stop();
        print_row(&cluster, name, worst, before);
    };
    report("nothing else", &|_| Vec::new());
    report("10 clients, stats once a second", &|stop| {
        (0..MONITORS).map(|_| spawn_idle(stop, move |stop| ask_for_stats(address, stop))).collect()
    });
    report("200 clients, 100 list-tubes pipelined", &|stop| {
        (0..LISTERS).map(|_| spawn_idle(stop, move |stop| ask_for_lists(address, stop))).collect()
    });
    report("500 workers on 1000 tubes leave at once", &|stop| {
        let tubes = options.tubes;
        (0..WORKERS).map(|nth| spawn_idle(stop, move |stop| wait_and_leave(address, nth, tubes, stop))).collect()
    });
    let before = term(&cluster);
    let bystander = Bystander::start(address);
    thread::sleep(Duration::from_secs(1));
    cluster.nodes[leader].kill();
    thread::sleep(Duration::from_secs(3));
    let worst = bystander.stop();
    print_row(&cluster, "the leader is killed", worst, before);
}

fn print_row(cluster: &Cluster, name: &str, worst: Duration, term_before: u64) {
    let longest = largest(cluster, "beaver_raft_longest_turn_seconds") * 1000.0;
    let items = largest(cluster, "beaver_raft_longest_turn_items");
    let terms = format!("{term_before}-{}", term(cluster));
    println!("{name:<44} {:>12.1} {longest:>14.1} {items:>12} {terms:>9}", worst.as_secs_f64() * 1e3);
}

/// One job in each tube, through one node, many puts at a time.
fn make_tubes(node: &cluster::Node, count: usize) {
    let mut connection = node.connect();
    for first in (0..count).step_by(500) {
        let last = (first + 500).min(count);
        let mut commands = String::new();
        for nth in first..last {
            let _ = write!(commands, "use tube-{nth}\r\nput 1 0 60 1\r\nx\r\n");
        }
        connection.send(&commands);
        (first..last).for_each(|_| {
            assert!(connection.line().is_some_and(|line| line.starts_with("USING")));
            assert!(connection.line().is_some_and(|line| line.starts_with("INSERTED")));
        });
    }
}

struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Bystander {
    fn start(address: SocketAddr) -> Bystander {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut connection = Connection::open(address);
            connection.call("use bystander");
            let (body, mut worst) = ("x".repeat(256), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                connection.put(&body);
                worst = worst.max(begun.elapsed());
                thread::sleep(PUT_EVERY.saturating_sub(begun.elapsed()));
            }
            worst
        });
        Bystander { stop, thread }
    }

    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every put is answered")
    }
}

/// Runs a client on a thread of its own, which only gets the processor time that nobody else wants.
fn spawn_idle(stop: &Arc<AtomicBool>, client: impl FnOnce(&AtomicBool) + Send + 'static) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    let work = move || {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: `none` is a valid parameter for the length of the call; 0 is the calling thread.
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) };
        assert_eq!(result, 0, "a thread may always lower its own claim");
        client(&stop);
    };
    thread::Builder::new().stack_size(128 << 10).spawn(work).expect("threads are left")
}

fn ask_for_stats(address: SocketAddr, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(address).expect("the node takes connections");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a TCP stream");
    let mut answer = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(b"stats\r\n").expect("the node reads");
        // The answer is short and comes in one piece or a few.
        let _ = stream.read(&mut answer).expect("stats are answered");
        thread::sleep(Duration::from_secs(1));
    }
}

/// Reads whatever comes, as fast as it may.
fn ask_for_lists(address: SocketAddr, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(address).expect("the node takes connections");
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a TCP stream");
    stream.write_all("list-tubes\r\n".repeat(LISTS_EACH).as_bytes()).expect("the node reads");
    let mut answer = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let _ = stream.read(&mut answer);
    }
}

fn wait_and_leave(address: SocketAddr, nth: usize, tubes: usize, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(address).expect("the node takes connections");
    let mut commands = String::new();
    for tube in 0..WATCHED_EACH {
        // Names without a job: it waits.
        let _ = write!(commands, "watch empty-{}\r\n", (nth * WATCHED_EACH + tube) % tubes);
    }
    commands.push_str("ignore default\r\nreserve\r\n");
    stream.write_all(commands.as_bytes()).expect("the node reads");
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a TCP stream");
    let mut answers = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let _ = stream.read(&mut answers);
    }
}

fn term(cluster: &Cluster) -> u64 {
    let terms = cluster.nodes.iter().filter_map(|node| node.status()?["shards"][0]["term"].as_u64());
    terms.max().expect("a node answers")
}

/// The largest value that a node shows.
fn largest(cluster: &Cluster, metric: &str) -> f64 {
    let values = cluster.nodes.iter().filter_map(|node| node.metric(metric));
    values.fold(0.0, f64::max)
}
