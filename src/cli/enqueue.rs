//! `beaver-raft enqueue`: puts the jobs of a file, many on their way at once, and says of each that was not acknowledged
//! what became of it. It never sends a job twice: what is unknown after a broken connection is told, not guessed.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::halt::Halt;
use super::jobs_file::{Defaults, Jobs, JobsError, Place, check_tube};
use super::lanes::{Lanes, Outcome};
use super::output;
use crate::config::Address;

/// A node without a quorum hangs up within 10 s and a sixteenth (`no_quorum_timeout_ms`), unless it is configured otherwise,
/// and what it says until then is news. Three times as long, since jobs may also wait here while other connections stand still.
const TIMEOUT_S_DEFAULT: u32 = 30;
const PROGRESS_EVERY_TTY: Duration = Duration::from_millis(200);
const PROGRESS_EVERY_LOG: Duration = Duration::from_secs(10);

/// Put the jobs of a JSON file into the queue
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is a JSON array of jobs, or one job after the other (JSON lines):
  {\"body\": \"...\", \"tube\": \"mail\", \"priority\": 10, \"delay\": 0, \"ttr\": 60}
All but the body may be left out. An object or an array as the body is stored as
compact JSON. Bytes that are no text go into \"body_base64\".

Exits with 0 if every job was acknowledged, else with 1 after saying which were
not. No job is ever sent twice.")]
pub struct EnqueueArgs {
    /// The jobs; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Any node of the cluster: host:port or unix:/path
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:11300", value_parser = Address::parse)]
    server: Address,
    /// Tube of jobs that name none
    #[arg(long, default_value = "default")]
    tube: String,
    /// Priority of jobs that name none; 0 is the most urgent
    #[arg(long, default_value_t = 1024)]
    priority: u32,
    /// Seconds before jobs that name none become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    delay: u32,
    /// Seconds that a worker has for jobs that name none
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    ttr: u32,
    /// Begin with this job of the file, counted from 1: continues where an earlier run stopped
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    from: u64,
    /// Give up a connection on which no answer came for so long; more than the nodes' `no_quorum_timeout_ms`
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_S_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// Only read the file and say whether all of it could be put
    #[arg(long)]
    check: bool,
}

/// How an enqueue ended, other than well.
struct Stop {
    /// The first job that was certainly not sent, where it was read.
    at: Option<Place>,
    why: String,
}

/// Does it, reports to standard output and standard error, and gives the exit status.
pub fn enqueue(args: &EnqueueArgs) -> u8 {
    let defaults = Defaults { tube: args.tube.clone(), priority: args.priority, delay_s: args.delay, ttr_s: args.ttr };
    if let Err(why) = check_tube(&args.tube) {
        output::complain(&format!("--tube: {why}\n"));
        return 2;
    }
    let opened = if args.file.as_os_str() == "-" {
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(&args.file)
    };
    let file = match opened {
        Ok(file) => file,
        Err(e) => {
            output::complain(&format!("cannot read {}: {e}\n", args.file.display()));
            return 1;
        }
    };
    if args.check { check(Jobs::new(file, defaults)) } else { put_all(args, file, defaults) }
}

fn check(mut jobs: Jobs<File>) -> u8 {
    let mut count = 0_u64;
    loop {
        match jobs.next(&mut || ()) {
            Ok(Some(_)) => count += 1,
            Ok(None) => {
                output::print(&format!("{count} jobs, all of them well-formed; none was sent\n"));
                return 0;
            }
            Err(why) => {
                output::complain(&format!("{why}\n"));
                output::print(&format!("{count} well-formed jobs before that; none was sent\n"));
                return 1;
            }
        }
    }
}

fn put_all(args: &EnqueueArgs, file: File, defaults: Defaults) -> u8 {
    let bytes = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    let (halt, input) = Halt::with_input(file);
    if let Err(why) = halt.on_signals() {
        output::complain(&format!("an interrupt will end this without a report: {why}\n"));
    }
    let outcome = Arc::new(Outcome::new(halt));
    let answer_timeout = Duration::from_secs(args.timeout.into());
    let mut lanes = Lanes::new(args.server.clone(), answer_timeout, Arc::clone(&outcome));
    let mut progress = Progress::new(bytes);
    let stop = feed(args.from, &mut Jobs::new(input, defaults), &mut lanes, &outcome, &mut progress);
    lanes.finish();
    progress.end();

    let ledger = outcome.ledger();
    let mut complaints = ledger.report();
    if let Some(Stop { at, why }) = &stop {
        complaints.push_str(&match at {
            Some(place) => format!("stopped before job {} (line {}): {why}\n", place.number, place.line),
            None => format!("{why}\n"),
        });
    } else if let (Some(why), 1..) = (outcome.halt.reason(), ledger.unknown()) {
        complaints.push_str(&format!("{why}\n"));
    }
    output::complain(&complaints);
    // Whether it can be told or not, the status says what became of the jobs.
    output::print(&format!(
        "{} acknowledged, {} not enqueued, {} unknown{}\n",
        ledger.acknowledged,
        ledger.refused(),
        ledger.unknown(),
        if stop.is_some() { "; the rest was not sent" } else { "" }
    ));
    if let Some(Stop { at: Some(place), .. }) = stop {
        let named =
            if ledger.refused() + ledger.unknown() > 0 { ", without the jobs that are named above" } else { "" };
        // What was left out this time is left out the next time too.
        let from = place.number.max(args.from);
        output::complain(&format!("to continue from there{named}: the same command with --from {from}\n"));
    }
    u8::from(!complaints.is_empty())
}

/// Sends until the end of the input, or until there is a reason to stop.
fn feed<R: Read>(
    from: u64,
    jobs: &mut Jobs<R>,
    lanes: &mut Lanes,
    outcome: &Outcome,
    progress: &mut Progress,
) -> Option<Stop> {
    loop {
        let (place, job) = match (jobs.next(&mut || lanes.flush()), outcome.halt.reason()) {
            (Ok(Some((place, _))), Some(why)) => return Some(Stop { at: Some(place), why }),
            (Err(JobsError::Read(_)), Some(why)) => return Some(Stop { at: Some(jobs.upcoming()), why }),
            (Ok(Some(next)), None) => next,
            (Ok(None), _) => return None,
            (Err(JobsError::Job { place, why }), _) => return Some(Stop { at: Some(place), why }),
            (Err(other), _) => return Some(Stop { at: None, why: format!("{other}; nothing after that was sent") }),
        };
        if place.number < from {
            continue;
        }
        if let Err(broken) = lanes.put(place, &job) {
            return Some(Stop { at: Some(place), why: outcome.halt.reason().unwrap_or(broken) });
        }
        progress.show(outcome, jobs.bytes_consumed());
    }
}

/// How far it is: a line that is rewritten on a terminal, now and then a line elsewhere.
struct Progress {
    bytes: Option<u64>,
    started: Instant,
    shown: Instant,
    terminal: bool,
    drawn: bool,
}

impl Progress {
    fn new(bytes: Option<u64>) -> Progress {
        let now = Instant::now();
        Progress { bytes, started: now, shown: now, terminal: io::stderr().is_terminal(), drawn: false }
    }

    fn show(&mut self, outcome: &Outcome, consumed: u64) {
        let every = if self.terminal { PROGRESS_EVERY_TTY } else { PROGRESS_EVERY_LOG };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        self.drawn = true;
        let acknowledged = outcome.ledger().acknowledged;
        let rate = acknowledged as f64 / self.started.elapsed().as_secs_f64();
        let share = match self.bytes {
            Some(bytes) if bytes > 0 => format!(", {} % of the file read", consumed * 100 / bytes),
            _ => String::new(),
        };
        let mut stderr = io::stderr().lock();
        let (before, after) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let _ = write!(stderr, "{before}{acknowledged} acknowledged, {rate:.0}/s{share}{after}");
        let _ = stderr.flush();
    }

    fn end(&self) {
        if self.terminal && self.drawn {
            output::complain("\r\x1b[K");
        }
    }
}
