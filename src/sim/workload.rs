//! Clients as the world has them: several connections, pipelined puts, workers that die with jobs in hand, questions
//! about jobs that may be gone. They speak the real protocol's bytes, and everything they see goes into the history.
//!
//! A client never asks again for what it has no answer to: what is unknown stays unknown.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use super::dialogue::{Asked, Dialogue, Ended, Said};
use super::executor::{Executor, GroupId};
use super::network::{HostId, Network};
use super::oracle::history::History;
use super::random::Random;
use super::wire::SimWire;
use crate::io::{Wire, WireOptions};
use crate::types::{Index, Nanos};

/// Where jobs go. Few, so that clients meet.
pub const TUBES: [&str; 3] = ["default", "mail", "video"];

/// How many of the jobs seen last are asked about.
const RECENT_MAX: usize = 4;

/// Workers that help to drain.
const DRAIN_HELPERS: u32 = 4;

/// Longer than any reservation that a dead worker may still hold.
const LAST_RESERVATION_S: u32 = 6;

/// How long a client waits for an answer before it gives the connection up.
const PATIENCE: Nanos = Nanos::from_secs(20);

/// What clients do. Every number is drawn anew for each seed (`faults`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadConfig {
    pub clients: u32,
    /// Commands that a client asks on one connection before it takes another.
    pub commands_per_connection_max: u64,
    /// Puts that it asks at once.
    pub pipeline_max: u64,
    pub body_bytes_max: u64,
    /// How long it rests between two commands.
    pub pause_max: Nanos,
    /// How many of a million connections are dropped without a word, with whatever they hold.
    pub vanish_ppm: u32,
    /// How many of a million commands are questions about a job that some client has just seen.
    pub peek_ppm: u32,
    /// Clients, of all, that ask about such jobs and do nothing else: they are never held up by a shard without a leader.
    pub readers: u32,
}

impl Default for WorkloadConfig {
    fn default() -> WorkloadConfig {
        WorkloadConfig {
            clients: 4,
            commands_per_connection_max: 40,
            pipeline_max: 16,
            body_bytes_max: 300,
            pause_max: Nanos::from_millis(60),
            vanish_ppm: 300_000,
            peek_ppm: 0,
            readers: 0,
        }
    }
}

/// What all clients share.
#[derive(Clone)]
pub struct Workload {
    executor: Executor,
    network: Network,
    config: WorkloadConfig,
    /// Addresses of the servers.
    servers: Rc<Vec<String>>,
    history: Rc<RefCell<History>>,
    /// The highest index that any node knows committed, as the group's oracle sees it.
    committed: Rc<Cell<Index>>,
    body_last: Rc<Cell<u64>>,
    /// The jobs that any client saw last, dead or alive.
    recent: Rc<RefCell<VecDeque<u64>>>,
    stopping: Rc<Cell<bool>>,
    running: Rc<Cell<u32>>,
    nonsense: Rc<RefCell<Option<String>>>,
}

impl Workload {
    #[must_use]
    pub fn new(
        executor: &Executor,
        network: &Network,
        config: WorkloadConfig,
        servers: Vec<String>,
        committed: Rc<Cell<Index>>,
    ) -> Workload {
        Workload {
            executor: executor.clone(),
            network: network.clone(),
            config,
            servers: Rc::new(servers),
            history: Rc::default(),
            committed,
            body_last: Rc::default(),
            recent: Rc::default(),
            stopping: Rc::default(),
            running: Rc::default(),
            nonsense: Rc::default(),
        }
    }

    /// Starts the clients, each on a host of its own; the hosts, so that their links can be cut too.
    pub fn start(&self) -> Vec<HostId> {
        (0..self.config.clients)
            .map(|number| {
                let host = self.network.add_host(&format!("client-{number}"));
                self.start_client(host, move |client| client.run(number < self.config.readers));
                host
            })
            .collect()
    }

    /// Starts workers that take and delete jobs until there is none left, wherever they are: several carry off what is at
    /// hand, then one looks for the rest.
    pub fn start_drain(&self, servers: Vec<String>) {
        let workload = Workload { servers: Rc::new(servers), ..self.clone() };
        let helping = Rc::new(Cell::new(DRAIN_HELPERS));
        for number in 0..DRAIN_HELPERS {
            let (host, helping) = (self.network.add_host(&format!("drain-{number}")), Rc::clone(&helping));
            workload.start_client(host, move |client| async move {
                client.help_to_drain().await;
                helping.set(helping.get() - 1);
            });
        }
        let host = self.network.add_host("drain");
        workload.start_client(host, move |client| async move {
            while helping.get() > 0 {
                client.workload.executor.sleep(Nanos::from_millis(10)).await;
            }
            client.drain().await;
        });
    }

    fn start_client<F: Future<Output = ()> + 'static>(&self, host: HostId, run: impl FnOnce(Client) -> F) {
        let group = self.executor.new_group();
        let client = Client {
            workload: self.clone(),
            wire: SimWire::new(&self.network, host, group),
            random: self.executor.fork_random(),
            group,
            seen: BTreeSet::new(),
            only_reads: false,
        };
        self.running.set(self.running.get() + 1);
        let running = Rc::clone(&self.running);
        let work = run(client);
        self.executor.spawn(group, async move {
            work.await;
            running.set(running.get() - 1);
        });
    }

    /// Lets each client end with the commands that are under way.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.get() > 0
    }

    #[must_use]
    pub fn history(&self) -> std::cell::Ref<'_, History> {
        self.history.borrow()
    }

    /// An answer that no server may give, if there was one.
    #[must_use]
    pub fn nonsense(&self) -> Option<String> {
        self.nonsense.borrow().clone()
    }

    fn next_body(&self, bytes_max: u64, random: &Random) -> Bytes {
        let number = self.body_last.get() + 1;
        self.body_last.set(number);
        let mut body = format!("body {number} ").into_bytes();
        let length = random.between(0, bytes_max).max(body.len() as u64);
        body.resize(usize::try_from(length).expect("a body fits into memory"), b'.');
        Bytes::from(body)
    }
}

struct Client {
    workload: Workload,
    wire: SimWire,
    random: Random,
    group: GroupId,
    /// Ids that this client has seen, dead or alive.
    seen: BTreeSet<u64>,
    only_reads: bool,
}

/// One connection and what it holds.
struct Connected {
    dialogue: Dialogue,
    number: usize,
    reserved: BTreeSet<u64>,
}

impl Client {
    async fn run(mut self, only_reads: bool) {
        self.only_reads = only_reads;
        while !self.workload.stopping.get() {
            let Some(mut connected) = self.connect().await else { continue };
            let commands = self.random.between(1, self.workload.config.commands_per_connection_max);
            match self.work(&mut connected, commands).await {
                Ok(()) if !self.random.chance(self.workload.config.vanish_ppm) => self.finish(&mut connected).await,
                Ok(()) | Err(Ended::Lost(_)) => {}
                Err(Ended::Nonsense { asked, line }) => self.note_nonsense(&asked, &line),
            }
        }
    }

    async fn drain(mut self) {
        let mut empty_in_a_row = 0;
        while empty_in_a_row < 3 {
            let Some(mut connected) = self.connect().await else { continue };
            let patience_s = if empty_in_a_row == 0 { LAST_RESERVATION_S } else { 1 };
            match self.drain_some(&mut connected, patience_s).await {
                // The put with which each connection begins.
                Ok(0 | 1) => empty_in_a_row += 1,
                Ok(_) | Err(Ended::Lost(_)) => empty_in_a_row = 0,
                Err(Ended::Nonsense { asked, line }) => {
                    self.note_nonsense(&asked, &line);
                    return;
                }
            }
        }
    }

    /// Carries off what can be had at once, over one connection.
    async fn help_to_drain(mut self) {
        let Some(mut connected) = self.connect().await else { return };
        if let Err(Ended::Nonsense { asked, line }) = self.drain_some(&mut connected, 0).await {
            self.note_nonsense(&asked, &line);
        }
    }

    /// Deletes what it can get, until none came for so long. How many jobs there were.
    async fn drain_some(&mut self, connected: &mut Connected, patience_s: u32) -> Result<u64, Ended> {
        let mut found = 0;
        for tube in TUBES {
            self.converse(connected, &[Asked::Pause { tube, duration_s: 0 }, Asked::Use(tube)]).await?;
            // Buried ones first, then, with the second kick, delayed ones.
            self.converse(connected, &[Asked::Kick(1_000_000), Asked::Kick(1_000_000)]).await?;
        }
        loop {
            let heard = self.converse(connected, &[Asked::Reserve { timeout_s: Some(patience_s) }]).await?;
            match heard.first() {
                Some(Said::Reserved { id, .. }) => {
                    found += 1;
                    self.converse(connected, &[Asked::Delete(*id)]).await?;
                }
                Some(Said::TimedOut) => return Ok(found),
                _ => {}
            }
        }
    }

    fn note_nonsense(&self, asked: &Asked, line: &str) {
        self.workload.executor.tell(format_args!("nonsense: {asked:?} was answered {line:?}"));
        self.workload.nonsense.borrow_mut().get_or_insert_with(|| format!("{asked:?} was answered {line:?}"));
    }

    async fn rest(&self, longest: Nanos) {
        self.workload.executor.sleep(self.random.nanos(Nanos::ZERO, longest)).await;
    }

    /// A new connection, which begins with a put that tells it from all others.
    async fn connect(&mut self) -> Option<Connected> {
        let server = self.random.pick(&self.workload.servers).cloned()?;
        let Ok(halves) = self.wire.connect(&server, WireOptions::Client).await else {
            self.rest(Nanos::from_millis(200)).await;
            return None;
        };
        let number = self.workload.history.borrow_mut().connect();
        let mut connected = Connected { dialogue: Dialogue::new(halves), number, reserved: BTreeSet::new() };
        let mut first = vec![self.draw_put()];
        first.extend(TUBES[1..].iter().map(|tube| Asked::Watch(tube)));
        match self.converse(&mut connected, &first).await {
            Ok(heard) if matches!(heard.first(), Some(Said::Inserted(_))) => Some(connected),
            // Refused: without its first put the log does not tell whose connection this is.
            Ok(_) => {
                self.rest(Nanos::from_millis(200)).await;
                None
            }
            Err(Ended::Lost(_)) => None,
            Err(Ended::Nonsense { asked, line }) => {
                self.note_nonsense(&asked, &line);
                None
            }
        }
    }

    async fn work(&mut self, connected: &mut Connected, commands: u64) -> Result<(), Ended> {
        for _ in 0..commands {
            if self.workload.stopping.get() {
                return Ok(());
            }
            let asked = self.draw(connected);
            self.converse(connected, &asked).await?;
            self.rest(self.workload.config.pause_max).await;
        }
        Ok(())
    }

    /// Deletes or gives back what it holds, as good workers do.
    async fn finish(&mut self, connected: &mut Connected) {
        while let Some(id) = connected.reserved.pop_first() {
            let last = match self.random.chance(700_000) {
                true => Asked::Delete(id),
                false => Asked::Release { id, priority: 7, delay_s: 0 },
            };
            match self.converse(connected, &[last]).await {
                Ok(_) => {}
                Err(Ended::Lost(_)) => return,
                Err(Ended::Nonsense { asked, line }) => return self.note_nonsense(&asked, &line),
            }
        }
    }

    /// Asks all of it, then hears all the answers.
    async fn converse(&mut self, connected: &mut Connected, asked: &[Asked]) -> Result<Vec<Said>, Ended> {
        let workload = self.workload.clone();
        let (now, committed) = (workload.executor.now(), workload.committed.get());
        for one in asked {
            workload.history.borrow_mut().ask(connected.number, one.clone(), now, committed);
        }
        let patience = self.lose_patience(connected);
        connected.dialogue.ask(asked).await?;
        let mut heard = Vec::new();
        for one in asked {
            let said = connected.dialogue.hear(one).await?;
            let (now, committed) = (workload.executor.now(), workload.committed.get());
            workload.history.borrow_mut().hear(connected.number, said.clone(), now, committed);
            self.learn(connected, one, &said);
            heard.push(said);
        }
        patience.set(true);
        Ok(heard)
    }

    /// Closes the connection when its answers take too long; set to true when they came.
    fn lose_patience(&self, connected: &Connected) -> Rc<Cell<bool>> {
        let (answered, closer) = (Rc::new(Cell::new(false)), connected.dialogue.closer());
        let (executor, seen) = (self.workload.executor.clone(), Rc::clone(&answered));
        self.workload.executor.spawn(self.group, async move {
            executor.sleep(PATIENCE).await;
            if !seen.get() {
                closer();
            }
        });
        answered
    }

    fn learn(&mut self, connected: &mut Connected, asked: &Asked, said: &Said) {
        self.note_recent(asked, said);
        match (asked, said) {
            (_, Said::Inserted(id)) => {
                self.seen.insert(*id);
            }
            (_, Said::Reserved { id, .. }) => {
                self.seen.insert(*id);
                connected.reserved.insert(*id);
            }
            (Asked::Delete(id) | Asked::Release { id, .. } | Asked::Bury { id, .. }, _)
            | (Asked::Touch(id), Said::NotFound) => {
                connected.reserved.remove(id);
            }
            _ => {}
        }
    }

    fn note_recent(&self, asked: &Asked, said: &Said) {
        let id = match (asked, said) {
            (_, Said::Inserted(id) | Said::Reserved { id, .. }) | (Asked::Delete(id), Said::Deleted) => *id,
            _ => return,
        };
        let mut recent = self.workload.recent.borrow_mut();
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(id);
    }

    // What to ask.

    fn draw_put(&self) -> Asked {
        Asked::Put {
            priority: if self.random.chance(800_000) { 10 } else { self.draw_u32(0, 2_000) },
            delay_s: if self.random.chance(100_000) { self.draw_u32(1, 2) } else { 0 },
            ttr_s: self.draw_u32(1, 5),
            body: self.workload.next_body(self.workload.config.body_bytes_max, &self.random),
        }
    }

    fn draw_u32(&self, from: u32, to: u32) -> u32 {
        u32::try_from(self.random.between(from.into(), to.into())).expect("between two of them")
    }

    fn draw_tube(&self) -> &'static str {
        self.random.pick(&TUBES).expect("there are some")
    }

    /// An id that exists, existed, or never did.
    fn draw_id(&self) -> u64 {
        let seen: Vec<u64> = self.seen.iter().rev().take(20).copied().collect();
        match self.random.chance(900_000) {
            true => self.random.pick(&seen).copied().unwrap_or(1),
            false => self.random.between(1, 1_000),
        }
    }

    fn draw(&mut self, connected: &Connected) -> Vec<Asked> {
        let held: Vec<u64> = connected.reserved.iter().copied().collect();
        if let Some(&id) = self.random.pick(&held)
            && self.random.chance(600_000)
        {
            return vec![self.draw_about_held(id)];
        }
        if self.random.chance(if self.only_reads { 1_000_000 } else { self.workload.config.peek_ppm }) {
            let recent = self.workload.recent.borrow();
            return vec![Asked::Peek(recent.get(self.random.below_len(recent.len())).copied().unwrap_or(1))];
        }
        match self.random.below(100) {
            0..12 => {
                let count = self.random.between(1, self.workload.config.pipeline_max);
                (0..count).map(|_| self.draw_put()).collect()
            }
            12..65 => vec![Asked::Reserve { timeout_s: Some(self.draw_u32(0, 2)) }],
            65..68 => vec![Asked::Use(self.draw_tube()), self.draw_put()],
            68..72 => vec![Asked::Delete(self.draw_id())],
            72..75 => vec![Asked::ReserveJob(self.draw_id())],
            75..78 => vec![Asked::KickJob(self.draw_id())],
            78..80 => vec![Asked::Kick(self.draw_u32(0, 5))],
            80..81 => vec![Asked::Pause { tube: self.draw_tube(), duration_s: self.draw_u32(0, 1) }],
            81..90 => vec![Asked::Peek(self.draw_id())],
            90..94 => vec![Asked::StatsJob(self.draw_id())],
            94..97 => vec![Asked::StatsTube(self.draw_tube())],
            97..98 => vec![Asked::Stats],
            // A worker's usual round, without waiting for the answers between.
            _ => vec![self.draw_put(), Asked::Reserve { timeout_s: Some(0) }, self.draw_put(), Asked::Peek(1)],
        }
    }

    fn draw_about_held(&self, id: u64) -> Asked {
        match self.random.below(10) {
            0..6 => Asked::Delete(id),
            6 => Asked::Touch(id),
            7 => Asked::Bury { id, priority: self.draw_u32(0, 20) },
            _ => Asked::Release {
                id,
                priority: self.draw_u32(0, 20),
                delay_s: if self.random.chance(300_000) { 1 } else { 0 },
            },
        }
    }
}

#[cfg(test)]
mod tests;
