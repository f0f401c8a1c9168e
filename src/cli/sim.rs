//! `beaver-raft sim`: runs seeds of the simulator, so that anyone can look for a failure, or repeat one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::sim::faults::FaultKind;
use crate::sim::run::{RunOptions, RunReport, run_seed};

/// Run simulated clusters under faults, one run a seed, and judge each
#[derive(Debug, Args)]
pub struct SimArgs {
    /// How many seeds to run
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; alone, the only one
    #[arg(long)]
    seed: Option<u64>,
    /// End after this long, whatever is left
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Only this fault; may be given several times. Otherwise each seed draws its own
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<FaultKind>,
    /// Print every event as it happens
    #[arg(long)]
    trace: bool,
    /// Run each seed twice, and fail where the two runs differ
    #[arg(long)]
    twice: bool,
    /// Go on behind a failure
    #[arg(long)]
    keep_going: bool,
    /// Seeds run at once; by default as many as there are cores
    #[arg(long)]
    threads: Option<usize>,
}

/// What all runs together were made of.
#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    failed: Vec<u64>,
    events: u64,
    simulated_s: u64,
    entries: u64,
    answered: u64,
    unknown: u64,
    leaders: u64,
    cuts: u64,
    resets: u64,
    faults: BTreeMap<FaultKind, u64>,
}

impl Totals {
    fn add(&mut self, report: &RunReport) {
        self.events += report.events;
        self.simulated_s += report.simulated.0 / 1_000_000_000;
        self.entries += report.entries;
        self.answered += report.history.answered;
        self.unknown += report.history.unknown;
        self.leaders += report.group.leaders;
        self.cuts += report.group.cuts;
        self.resets += report.network.resets;
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
    }

    fn print(&self, took: Duration) {
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!(
            "{} seeds in {} s, {} failed: {} events, {} simulated minutes, {} entries, {} answers, {} unknown outcomes",
            self.runs,
            took.as_secs(),
            self.failed.len(),
            self.events,
            self.simulated_s / 60,
            self.entries,
            self.answered,
            self.unknown
        );
        println!("{} leaders, {} logs cut, {} streams reset", self.leaders, self.cuts, self.resets);
        println!("faults: {}", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") });
        if !self.failed.is_empty() {
            println!("failed seeds: {:?}", self.failed);
        }
    }
}

/// 0 if nothing was found, else 1.
pub fn sim(args: &SimArgs) -> u8 {
    let begun = Instant::now();
    let first = args.seed.unwrap_or(0);
    let count = if args.seed.is_some() && args.seeds == 100 { 1 } else { args.seeds };
    let deadline = args.seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let options = RunOptions {
        faults: (!args.faults.is_empty()).then(|| args.faults.clone()),
        chaos_max: None,
        trace: args.trace,
    };
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let threads = if args.trace { 1 } else { threads };
    let next = AtomicU64::new(first);
    let stopping = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let work = || {
        while !stopping.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                return;
            }
            let failed = run_one(seed, &options, args.twice, &totals);
            if failed && !args.keep_going {
                stopping.store(true, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().expect("no run panics while it counts");
    totals.print(begun.elapsed());
    u8::from(!totals.failed.is_empty())
}

/// Runs one seed; whether it failed.
fn run_one(seed: u64, options: &RunOptions, twice: bool, totals: &Mutex<Totals>) -> bool {
    let result = run_seed(seed, options);
    let hash = result.as_ref().map_or_else(|failure| failure.hash, |report| report.hash);
    let again = twice.then(|| run_seed(seed, options));
    let differs = again.is_some_and(|again| again.map_or_else(|failure| failure.hash, |report| report.hash) != hash);
    let mut totals = totals.lock().expect("no run panics while it counts");
    totals.runs += 1;
    let failed = match &result {
        Ok(report) => {
            totals.add(report);
            false
        }
        Err(failure) => {
            println!("{failure}\nrepeat it with: beaver-raft sim --seed {seed} --trace\n");
            true
        }
    };
    if differs {
        println!("seed {seed} gave two different runs: something other than the seed decides\n");
    }
    if failed || differs {
        totals.failed.push(seed);
    }
    failed || differs
}
