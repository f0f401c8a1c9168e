//! `beaver-raft sim`: runs seeds of the simulator, so that anyone can look for a failure, or repeat one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{panic, thread};

use clap::Args;

use super::{logging, output};
use crate::mutation::Mutation;
use crate::sim::coverage::Coverage;
use crate::sim::faults::FaultKind;
use crate::sim::lasting::Lasting;
use crate::sim::mutants::{Hunt, Mutant, NOT_FOUND, hunt, mutants};
use crate::sim::regressions::REGRESSIONS;
use crate::sim::run::{RunOptions, RunReport, run_seed};

/// Says a line. What nobody reads is still counted: by the exit status.
macro_rules! say {
    ($($text:tt)*) => {
        _ = output::print(&format!("{}\n", format_args!($($text)*)))
    };
}

/// Run simulated clusters under faults, one run a seed, and judge each
#[derive(Debug, Args)]
pub struct SimArgs {
    /// How many seeds to run; by default 100, or 1 where the first is given
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long)]
    seed: Option<u64>,
    /// End after this long, whatever is left
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Only this fault; may be given several times. Otherwise each seed draws its own
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<FaultKind>,
    /// What stays broken for good behind the chaos. Otherwise some seeds draw something
    #[arg(long, value_name = "NAME")]
    lasting: Option<Lasting>,
    /// Run the seeds that once failed
    #[arg(long)]
    regressions: bool,
    /// Fail if something that runs are there to test never came up
    #[arg(long)]
    require_coverage: bool,
    /// Put this bug back (needs the feature `mutants`)
    #[arg(long, value_name = "NAME")]
    mutant: Option<Mutation>,
    /// Put back every bug that is known to be found (or the one that is named), and fail if one is not
    #[arg(long)]
    mutants: bool,
    /// Let the nodes keep snapshots
    #[arg(long)]
    snapshots: bool,
    /// Print every event as it happens, and what the nodes log
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
    installs: u64,
    resets: u64,
    faults: BTreeMap<FaultKind, u64>,
    coverage: Coverage,
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
        self.installs += report.group.installs;
        self.resets += report.network.resets;
        self.coverage.add(&report.coverage);
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
    }

    fn print(&self, took: Duration) {
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        say!(
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
        say!(
            "{} leaders, {} logs cut, {} snapshots installed, {} streams reset",
            self.leaders,
            self.cuts,
            self.installs,
            self.resets
        );
        say!("faults: {}", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") });
        for (what, count) in self.coverage.iter().filter(|(what, _)| !what.starts_with("fault ")) {
            say!("{count:>8} {what}");
        }
        if !self.failed.is_empty() {
            say!("failed seeds: {:?}", self.failed);
        }
    }
}

/// 0 if nothing was found, else 1.
pub fn sim(args: &SimArgs) -> u8 {
    if args.mutants {
        return hunt_mutants(args);
    }
    let profile = args.mutant.and_then(|put_back| mutants().into_iter().find(|mutant| mutant.mutation == put_back));
    let options = RunOptions {
        faults: (!args.faults.is_empty()).then(|| args.faults.clone()),
        lasting: args.lasting,
        profile: profile.map(|mutant| mutant.profile),
        mutation: args.mutant,
        trace: args.trace,
        ..RunOptions::default()
    };
    if args.trace {
        logging::start_in_simulation();
    }
    let begun = Instant::now();
    let first = args.seed.unwrap_or(0);
    let runs: Vec<(u64, bool)> = match args.regressions {
        true => REGRESSIONS.iter().map(|regression| (regression.seed, regression.snapshots)).collect(),
        false => {
            let count = args.seeds.unwrap_or(if args.seed.is_some() { 1 } else { 100 });
            (first..first + count).map(|seed| (seed, args.snapshots)).collect()
        }
    };
    let deadline = args.seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let threads = if args.trace { 1 } else { threads };
    let next = AtomicUsize::new(0);
    let stopping = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let work = || {
        while !stopping.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let Some(&(seed, snapshots)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let failed = run_one(seed, &RunOptions { snapshots, ..options.clone() }, args.twice, &totals);
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
    let missing = totals.coverage.missing();
    if args.require_coverage && !missing.is_empty() {
        say!("never came up, so nothing is known about it:\n  {}", missing.join("\n  "));
        return 1;
    }
    u8::from(!totals.failed.is_empty())
}

fn hunt_mutants(args: &SimArgs) -> u8 {
    if !cfg!(feature = "mutants") {
        say!("this program was built without bugs to put back: build it with the feature `mutants`");
        return 1;
    }
    // A bug that is found may be found by an assertion.
    panic::set_hook(Box::new(|_| {}));
    let (first, mut all) = (args.seed.unwrap_or(0), mutants());
    all.retain(|mutant| match args.mutant {
        Some(named) => named == mutant.mutation,
        None => !NOT_FOUND.contains(&mutant.mutation),
    });
    if args.mutant.is_none() {
        NOT_FOUND
            .iter()
            .for_each(|hole| say!("{hole}: not looked for, since the seeds that CI can afford do not find it"));
    }
    let (next, good) = (AtomicUsize::new(0), AtomicBool::new(true));
    let work = || {
        while let Some(mutant) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let hunt = hunt(mutant, first);
            print_hunt(mutant, &hunt);
            good.fetch_and(hunt.is_good(), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)) {
            scope.spawn(work);
        }
    });
    u8::from(!good.into_inner())
}

fn print_hunt(mutant: &Mutant, hunt: &Hunt) {
    let Mutant { mutation, seeds_max, .. } = mutant;
    let took = hunt.took.as_secs_f64();
    match &hunt.found {
        Some((seeds, what)) => say!("{mutation}: found in seed {seeds} of {seeds_max}, after {took:.1} s: {what}"),
        None => say!("{mutation}: NOT FOUND in {seeds_max} seeds, {took:.1} s"),
    }
    if let Some(false_alarm) = &hunt.false_alarm {
        say!("{mutation}: the code as it ships fails in the same seeds:\n{false_alarm}");
    }
}

/// What makes another run of a seed.
fn flags(options: &RunOptions) -> String {
    let mut flags = String::new();
    options.faults.iter().flatten().for_each(|fault| flags += &format!(" --fault {fault}"));
    options.lasting.iter().for_each(|lasting| flags += &format!(" --lasting {lasting}"));
    options.mutation.iter().for_each(|mutation| flags += &format!(" --mutant {mutation}"));
    if options.snapshots {
        flags += " --snapshots";
    }
    flags
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
            say!("{failure}\nrepeat it with: beaver-raft sim --seed {seed}{} --trace\n", flags(options));
            true
        }
    };
    if differs {
        say!("seed {seed} gave two different runs: something other than the seed decides\n");
    }
    if failed || differs {
        totals.failed.push(seed);
    }
    failed || differs
}
