//! The load: producers and workers on every node, one command at a time each, that go on at another node when theirs is
//! gone, and write down what they saw.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::history::{Event, JobName};
use crate::cli::client::{Client, ClientError, Reply, connect};
use crate::config::Address;

const PRODUCERS_PER_NODE: usize = 2;
const WORKERS_PER_NODE: usize = 4;
/// Producers wait while so many jobs are in the queue, so that emptying it takes no longer than a moment.
const BACKLOG_MAX: u64 = 4_000;
const TTR_S: u32 = 20;
const PRIORITY: u32 = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than a node keeps a command waiting for a quorum before it hangs up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);
const NO_VICTIM: u64 = 0;

/// What the display shows while the load runs, and what clients notice of a killed node.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    puts: AtomicU64,
    completed: AtomicU64,
    unknown: AtomicU64,
    /// Microseconds after `started` of the last acknowledged put.
    last_put_us: AtomicU64,
    /// The longest time between two acknowledged puts since a node was killed.
    gap_us: AtomicU64,
    victim: AtomicU64,
    errors_at_survivors: AtomicU64,
}

impl Tally {
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }

    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// From now on the longest pause counts, and errors of clients of every node but the victim.
    pub fn watch_gap(&self, victim: u8) {
        self.gap_us.store(0, Ordering::Relaxed);
        self.victim.store(u64::from(victim), Ordering::Release);
    }

    pub fn gap_ms(&self) -> u64 {
        self.gap_us.load(Ordering::Relaxed) / 1000
    }

    pub fn errors_at_survivors(&self) -> u64 {
        self.errors_at_survivors.load(Ordering::Relaxed)
    }

    fn note_put(&self) {
        self.puts.fetch_add(1, Ordering::Relaxed);
        let now_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let before_us = self.last_put_us.fetch_max(now_us, Ordering::Relaxed);
        self.gap_us.fetch_max(now_us.saturating_sub(before_us), Ordering::Relaxed);
    }

    fn note_error(&self, node: u64) {
        let victim = self.victim.load(Ordering::Acquire);
        if victim != NO_VICTIM && victim != node {
            self.errors_at_survivors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Running producers and workers.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Tally>,
    stop_producing: Arc<AtomicBool>,
    stop_working: Arc<AtomicBool>,
    producers: Vec<JoinHandle<Vec<Event>>>,
    workers: Vec<JoinHandle<Vec<Event>>>,
    history: Vec<Event>,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (producers, workers) = (self.producers.len(), self.workers.len());
        write!(f, "{producers} producers and {workers} workers, spread over all nodes, one command at a time each")
    }
}

impl Load {
    /// `addresses[i]` is node i + 1.
    pub fn start(addresses: &[Address]) -> Load {
        let tally = Arc::new(Tally {
            started: Instant::now(),
            puts: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            last_put_us: AtomicU64::new(0),
            gap_us: AtomicU64::new(0),
            victim: AtomicU64::new(NO_VICTIM),
            errors_at_survivors: AtomicU64::new(0),
        });
        let stop_producing = Arc::new(AtomicBool::new(false));
        let stop_working = Arc::new(AtomicBool::new(false));
        let visitor = |number: usize, stop: &Arc<AtomicBool>| Visitor {
            addresses: addresses.to_vec(),
            at: number % addresses.len(),
            client: None,
            tally: Arc::clone(&tally),
            stop: Arc::clone(stop),
            seen: Vec::new(),
        };
        let producers = (0..PRODUCERS_PER_NODE * addresses.len()).map(|number| {
            let visitor = visitor(number, &stop_producing);
            std::thread::spawn(move || produce(visitor, u32::try_from(number).expect("a few")))
        });
        let workers = (0..WORKERS_PER_NODE * addresses.len()).map(|number| {
            let visitor = visitor(number, &stop_working);
            std::thread::spawn(move || work(visitor))
        });
        let (producers, workers) = (producers.collect(), workers.collect());
        Load { tally, stop_producing, stop_working, producers, workers, history: Vec::new() }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Ends the producers, each after the answer to its last put.
    pub fn stop_producers(&mut self) {
        self.stop_producing.store(true, Ordering::Relaxed);
        self.history.extend(self.producers.drain(..).flat_map(|thread| thread.join().unwrap_or_default()));
    }

    /// Ends everyone and gives all that was seen.
    pub fn finish(mut self) -> Vec<Event> {
        self.stop_producers();
        self.stop_working.store(true, Ordering::Relaxed);
        self.history.extend(self.workers.drain(..).flat_map(|thread| thread.join().unwrap_or_default()));
        self.history
    }
}

/// One client: at home at one node, at another one when that is gone.
struct Visitor {
    addresses: Vec<Address>,
    at: usize,
    client: Option<Client>,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    seen: Vec<Event>,
}

impl Visitor {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The connection, made anew and introduced with `hello` where there is none; none while no node can be reached.
    fn client(&mut self, hello: &[&str]) -> Option<&mut Client> {
        if self.client.is_none() {
            match introduce(&self.addresses[self.at], hello) {
                Ok(client) => self.client = Some(client),
                Err(_) => {
                    self.at = (self.at + 1) % self.addresses.len();
                    std::thread::sleep(TRY_AGAIN_AFTER);
                }
            }
        }
        self.client.as_mut()
    }

    /// The connection is of no more use.
    fn lost(&mut self) {
        self.tally.note_error(self.at as u64 + 1);
        self.client = None;
    }
}

fn introduce(address: &Address, hello: &[&str]) -> Result<Client, ClientError> {
    let mut client = connect(address, CONNECT_TIMEOUT, ANSWER_TIMEOUT)?;
    for line in hello {
        client.call(line)?;
    }
    Ok(client)
}

fn produce(mut visitor: Visitor, producer: u32) -> Vec<Event> {
    let mut number = 0;
    while !visitor.stopped() {
        let tally = &visitor.tally;
        if tally.puts().saturating_sub(tally.completed()) > BACKLOG_MAX {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let Some(client) = visitor.client(&["use demo"]) else { continue };
        let job = JobName { producer, number };
        number += 1;
        match client.put(PRIORITY, 0, TTR_S, &job.body()) {
            Ok(Reply::Inserted(id)) => {
                visitor.tally.note_put();
                visitor.seen.push(Event::PutAcknowledged { job, id });
            }
            // A refusal (no room, draining) is an answer: the job is not in the queue.
            Ok(_) => std::thread::sleep(TRY_AGAIN_AFTER),
            Err(_) => {
                visitor.tally.unknown.fetch_add(1, Ordering::Relaxed);
                visitor.seen.push(Event::PutUnknown { job });
                visitor.lost();
            }
        }
    }
    visitor.seen
}

fn work(mut visitor: Visitor) -> Vec<Event> {
    let started = visitor.tally.started;
    while !visitor.stopped() {
        let Some(client) = visitor.client(&["watch demo"]) else { continue };
        match client.call("reserve-with-timeout 1") {
            Ok(Reply::Reserved { id, body }) => {
                let since = started.elapsed();
                match JobName::of_body(&body) {
                    Some(job) => {
                        visitor.seen.push(Event::Delivered { job, id, at: since });
                        complete(&mut visitor, job, id, since);
                    }
                    None => visitor.seen.push(Event::Strange { id }),
                }
            }
            Ok(_) => {}
            Err(_) => visitor.lost(),
        }
    }
    visitor.seen
}

fn complete(visitor: &mut Visitor, job: JobName, id: u64, since: Duration) {
    let Some(client) = visitor.client.as_mut() else { return };
    match client.call(&format!("delete {id}")) {
        Ok(Reply::Deleted) => {
            visitor.tally.completed.fetch_add(1, Ordering::Relaxed);
            let at = visitor.tally.started.elapsed();
            visitor.seen.push(Event::Completed { job, since, at });
        }
        Ok(_) => visitor.seen.push(Event::CompletionRefused { job }),
        Err(_) => {
            visitor.tally.unknown.fetch_add(1, Ordering::Relaxed);
            visitor.seen.push(Event::CompletionUnknown { job });
            visitor.lost();
        }
    }
}
