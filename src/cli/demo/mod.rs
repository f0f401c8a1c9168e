//! `beaver-raft demo`: a cluster of three processes on this machine under load, its leader killed and brought back, and an
//! audit of every job at the end. It uses what any operator has: the program, the protocol, the admin port.

mod audit;
mod cluster;
mod display;
mod history;
mod load;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use audit::{Findings, audit};
use cluster::{Cluster, View};
use display::Display;
use load::Load;

use super::output;
use crate::io::signals::heeded;

const STARTING: Duration = Duration::from_secs(20);
const CATCHING_UP: Duration = Duration::from_secs(15);
const DRAINING: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The status that a shell expects of a command that an interrupt ended.
const INTERRUPTED: u8 = 130;
/// Entries that a member under load may be behind and still count as caught up.
const CAUGHT_UP_WITHIN: u64 = 64;

/// Three nodes on this machine: load, a killed leader, its return, and an audit of every job
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Where the nodes keep their data meanwhile; on a disk with direct I/O
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long the load runs
    #[arg(long, value_name = "SECONDS", default_value_t = 18, value_parser = clap::value_parser!(u64).range(3..=600))]
    seconds: u64,
    /// Keep data and logs of the nodes
    #[arg(long)]
    keep: bool,
}

/// Runs it all; the exit status is 0 only if the audit found nothing.
pub fn demo(args: &DemoArgs) -> u8 {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in heeded(&[SIGINT, SIGTERM, SIGHUP]) {
        if let Err(why) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            output::complain(&format!("beaver-raft demo: an interrupt will not clean up: {why}\n"));
        }
    }
    let mut display = Display::new();
    let mut cluster = match Cluster::prepare(args.dir.as_deref(), args.keep) {
        Ok(cluster) => cluster,
        Err(why) => {
            output::complain(&format!("beaver-raft demo: {why}\n"));
            return 1;
        }
    };
    let mut stage = Stage { cluster: &mut cluster, display: &mut display, load: None, interrupted: &interrupted };
    let played = stage.play(Duration::from_secs(args.seconds));
    stage.display.end();
    match played {
        Ok(findings) => {
            output::print(&findings.to_string());
            u8::from(!findings.passed())
        }
        Err(_) if interrupted.load(Ordering::Relaxed) => {
            output::complain("beaver-raft demo: interrupted; the nodes are ended and their data removed\n");
            INTERRUPTED
        }
        Err(why) => {
            output::complain(&format!("beaver-raft demo: {why}\n"));
            output::complain(&cluster.last_words());
            cluster.keep();
            1
        }
    }
}

/// What the play is made of.
struct Stage<'a> {
    cluster: &'a mut Cluster,
    display: &'a mut Display,
    load: Option<Load>,
    interrupted: &'a AtomicBool,
}

impl Stage<'_> {
    fn play(&mut self, load_for: Duration) -> Result<Findings, String> {
        self.display.event(&format!("three nodes, data in {}", self.cluster.directory().display()));
        self.cluster.start_all()?;
        self.until("a leader and three ready nodes", STARTING, |view| view.all_ready())?;
        let view = self.look()?;
        let leader = view.leader().ok_or("the leader is gone again")?;
        self.display.event(&format!("ready; node {leader} leads"));

        let load = Load::start(&self.cluster.client_addresses());
        self.display.event(&format!("load: {load}"));
        self.load = Some(load);
        self.watch_for(load_for / 3)?;

        let gap = self.kill_the_leader(load_for / 3)?;
        self.bring_back(gap.victim)?;
        self.watch_for(load_for / 3)?;
        let findings = self.drain_and_audit(&gap)?;
        self.cluster.stop_all()?;
        self.display.event("all nodes stopped when told to");
        Ok(findings)
    }

    /// SIGKILL, and how long no put was acknowledged.
    fn kill_the_leader(&mut self, watch: Duration) -> Result<Gap, String> {
        let before = self.look()?;
        let victim = before.leader().ok_or("there is no leader to kill")?;
        let load = self.load.as_ref().expect("the load was started");
        load.tally().watch_gap(victim);
        self.cluster.kill(victim)?;
        self.display
            .event(&format!("kill -9 node {victim}, the leader, with {} puts acknowledged", load.tally().puts()));
        let killed = Instant::now();
        self.until("a new leader", STARTING, |view| view.leader().is_some_and(|leader| leader != victim))?;
        let view = self.look()?;
        let leader = view.leader().ok_or("the new leader is gone again")?;
        self.watch_for(watch.saturating_sub(killed.elapsed()))?;
        let tally = self.load.as_ref().expect("the load was started").tally();
        let gap = Gap { victim, pause_ms: tally.gap_ms(), errors_at_survivors: tally.errors_at_survivors() };
        self.display.event(&format!(
            "node {leader} leads now; no put was acknowledged for {} ms; clients of the other nodes saw {} errors",
            gap.pause_ms, gap.errors_at_survivors
        ));
        Ok(gap)
    }

    fn bring_back(&mut self, victim: u8) -> Result<(), String> {
        let behind = self.look()?.last_index().saturating_sub(self.cluster.last_seen(victim));
        self.cluster.start(victim)?;
        self.display.event(&format!("node {victim} starts again, {behind} entries behind"));
        let started = Instant::now();
        self.until("the returned node to catch up", CATCHING_UP, |view| view.is_level(victim, CAUGHT_UP_WITHIN))?;
        self.display.event(&format!("node {victim} has caught up after {} ms", started.elapsed().as_millis()));
        Ok(())
    }

    fn drain_and_audit(&mut self, gap: &Gap) -> Result<Findings, String> {
        self.load.as_mut().expect("the load was started").stop_producers();
        self.display.event("producers have stopped; workers empty the queue");
        let started = Instant::now();
        let mut view = self.look()?;
        while !(view.leader().is_some() && view.depth() == Some(0)) && started.elapsed() < DRAINING {
            self.watch_for(LOOK_EVERY)?;
            view = self.look()?;
        }
        let left = view.depth();
        let load = self.load.take().expect("the load was started");
        let history = load.finish();
        Ok(audit(&history, gap, left))
    }

    /// Looks and shows until `so` holds.
    fn until(&mut self, what: &str, patience: Duration, so: impl Fn(&View) -> bool) -> Result<(), String> {
        let started = Instant::now();
        while !so(&self.look()?) {
            if started.elapsed() > patience {
                return Err(format!("waited {} s in vain for {what}", patience.as_secs()));
            }
            std::thread::sleep(LOOK_EVERY / 4);
        }
        Ok(())
    }

    fn watch_for(&mut self, duration: Duration) -> Result<(), String> {
        let started = Instant::now();
        while started.elapsed() < duration {
            self.look()?;
            std::thread::sleep(LOOK_EVERY.min(duration.saturating_sub(started.elapsed())));
        }
        Ok(())
    }

    fn look(&mut self) -> Result<View, String> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err("interrupted".to_owned());
        }
        let view = self.cluster.look()?;
        self.display.show(&view, self.load.as_ref().map(Load::tally));
        Ok(view)
    }
}

/// What clients noticed of the leader's death.
#[derive(Debug, Clone, Copy)]
struct Gap {
    victim: u8,
    pause_ms: u64,
    errors_at_survivors: u64,
}
