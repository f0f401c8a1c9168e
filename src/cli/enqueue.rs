//! `beaver-raft enqueue`: puts the jobs of a file, many on their way at once, and says of each that was not acknowledged
//! what became of it. It never sends a job twice: what is unknown after a broken connection is told, not guessed.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Queue, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Receiver, Reply, Sender, connect};
use super::jobs_file::{Defaults, Job, Jobs, JobsError, Place, check_tube};
use super::ledger::{Fate, Ledger};
use super::output;
use crate::config::Address;

/// Puts on their way on one connection; the server reads no further than this anyway.
const OUTSTANDING_MAX: usize = 256;
/// The first so many tubes have a connection each: changing tubes within one would make each put wait for those before
/// it. Further tubes share them. Jobs of one tube always go the same way, in order.
const LANES_MAX: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PROGRESS_EVERY_TTY: Duration = Duration::from_millis(200);
const PROGRESS_EVERY_LOG: Duration = Duration::from_secs(10);

/// Put the jobs of a JSON file into the queue
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is a JSON array of jobs, or one job after the other (JSON lines):
  {\"body\": \"...\", \"tube\": \"mail\", \"priority\": 10, \"delay\": 0, \"ttr\": 60}
All but the body may be left out. Bytes that are no text go into \"body_base64\".

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
        eprintln!("--tube: {why}");
        return 2;
    }
    let (input, bytes): (Box<dyn Read>, Option<u64>) = if args.file.as_os_str() == "-" {
        (Box::new(io::stdin().lock()), None)
    } else {
        match File::open(&args.file) {
            Ok(file) => {
                let bytes = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
                (Box::new(file), bytes)
            }
            Err(e) => {
                eprintln!("cannot read {}: {e}", args.file.display());
                return 1;
            }
        }
    };
    let jobs = Jobs::new(input, defaults);
    if args.check { check(jobs) } else { put_all(args, jobs, bytes) }
}

fn check(mut jobs: Jobs<Box<dyn Read>>) -> u8 {
    let mut count = 0_u64;
    loop {
        match jobs.next() {
            Ok(Some(_)) => count += 1,
            Ok(None) => {
                output::print(&format!("{count} jobs, all of them well-formed; none was sent\n"));
                return 0;
            }
            Err(why) => {
                eprintln!("{why}");
                output::print(&format!("{count} well-formed jobs before that; none was sent\n"));
                return 1;
            }
        }
    }
}

fn put_all(args: &EnqueueArgs, mut jobs: Jobs<Box<dyn Read>>, bytes: Option<u64>) -> u8 {
    let interrupted = Arc::new(AtomicBool::new(false));
    // The first interrupt ends the sending and leads to the report; a second one ends the process as usual.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let second = signal_hook::flag::register_conditional_default(signal, Arc::clone(&interrupted));
        let first = signal_hook::flag::register(signal, Arc::clone(&interrupted));
        if let Err(why) = second.and(first) {
            eprintln!("an interrupt will end this without a report: {why}");
        }
    }
    let outcome = Arc::new(Outcome::default());
    let mut lanes = Lanes { server: args.server.clone(), lanes: Vec::new(), outcome: Arc::clone(&outcome) };
    let mut progress = Progress::new(bytes);
    let stop = feed(args.from, &mut jobs, &mut lanes, &interrupted, &mut progress);
    lanes.finish();
    progress.end();

    let ledger = outcome.ledger();
    let mut complaints = ledger.report();
    if let Some(Stop { at, why }) = &stop {
        complaints.push_str(&match at {
            Some(place) => format!("stopped before job {} (line {}): {why}\n", place.number, place.line),
            None => format!("{why}\n"),
        });
    }
    eprint!("{complaints}");
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
        eprintln!("to continue from there{named}: the same command with --from {}", place.number);
    }
    u8::from(!complaints.is_empty())
}

/// Sends until the end of the input, or until there is a reason to stop.
fn feed(
    from: u64,
    jobs: &mut Jobs<Box<dyn Read>>,
    lanes: &mut Lanes,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Option<Stop> {
    loop {
        if jobs.is_drained() {
            lanes.flush();
        }
        let (place, job) = match jobs.next() {
            Ok(Some(next)) => next,
            Ok(None) => return None,
            Err(JobsError::Job { place, why }) => return Some(Stop { at: Some(place), why }),
            Err(other) => return Some(Stop { at: None, why: format!("{other}; nothing after that was sent") }),
        };
        if place.number < from {
            continue;
        }
        if interrupted.load(Ordering::Relaxed) {
            return Some(Stop { at: Some(place), why: "interrupted".to_owned() });
        }
        if let Some(why) = lanes.outcome.reason_to_stop() {
            return Some(Stop { at: Some(place), why });
        }
        if let Err(why) = lanes.put(place, &job) {
            return Some(Stop { at: Some(place), why });
        }
        progress.show(&lanes.outcome, jobs.bytes_consumed());
    }
}

/// What all connections of one run report to.
#[derive(Default)]
struct Outcome {
    ledger: Mutex<Ledger>,
    stop: Mutex<Option<String>>,
    stopping: AtomicBool,
}

impl Outcome {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
    }

    fn stop(&self, why: String) {
        self.stop.lock().expect("nothing panics while it holds the reason").get_or_insert(why);
        self.stopping.store(true, Ordering::Release);
    }

    fn reason_to_stop(&self) -> Option<String> {
        if !self.stopping.load(Ordering::Acquire) {
            return None;
        }
        self.stop.lock().expect("nothing panics while it holds the reason").clone()
    }
}

/// A reply that is still to come.
enum Expected {
    Using,
    Put(Place),
}

/// One connection: this thread sends, another one reads the replies.
struct Lane {
    /// The tube that it was opened for: that one's jobs go here to the end.
    owner: String,
    /// The tube that was named last.
    tube: String,
    sender: Sender,
    expected: SyncSender<Expected>,
    reader: JoinHandle<()>,
}

struct Lanes {
    server: Address,
    lanes: Vec<Lane>,
    outcome: Arc<Outcome>,
}

impl Lanes {
    /// Sends one job. An error means that it was certainly not sent.
    fn put(&mut self, place: Place, job: &Job) -> Result<(), String> {
        let at = self.lane_of(&job.tube)?;
        let lane = &mut self.lanes[at];
        if lane.tube != job.tube {
            lane.expect(Expected::Using)?;
            lane.sender.command(&format!("use {}", job.tube)).map_err(|e| format!("the connection broke: {e}"))?;
            lane.tube.clone_from(&job.tube);
        }
        lane.expect(Expected::Put(place))?;
        // From here on the reader answers for the job: if this fails, it finds the connection ended.
        if lane.sender.put(job.priority, job.delay_s, job.ttr_s, &job.body).is_err() {
            lane.sender.close();
        }
        Ok(())
    }

    /// The way of a tube, the same for the whole run, whichever tubes were named last on each: jobs that take different
    /// ways may overtake each other.
    fn lane_of(&mut self, tube: &str) -> Result<usize, String> {
        if let Some(at) = self.lanes.iter().position(|lane| lane.owner == tube) {
            return Ok(at);
        }
        if self.lanes.len() < LANES_MAX {
            self.lanes.push(Lane::open(&self.server, tube, Arc::clone(&self.outcome))?);
            return Ok(self.lanes.len() - 1);
        }
        let mut hasher = DefaultHasher::new();
        tube.hash(&mut hasher);
        Ok(usize::try_from(hasher.finish() % LANES_MAX as u64).expect("less than LANES_MAX"))
    }

    fn flush(&mut self) {
        for lane in &mut self.lanes {
            if lane.sender.flush().is_err() {
                lane.sender.close();
            }
        }
    }

    /// Waits for every reply that is still to come.
    fn finish(&mut self) {
        self.flush();
        for Lane { mut sender, expected, reader, .. } in self.lanes.drain(..) {
            drop(expected);
            let _ = reader.join();
            sender.close();
        }
    }
}

impl Lane {
    fn open(server: &Address, owner: &str, outcome: Arc<Outcome>) -> Result<Lane, String> {
        let client = connect(server, CONNECT_TIMEOUT, None).map_err(|e| e.to_string())?;
        let (expected, queue) = sync_channel(OUTSTANDING_MAX);
        let receiver = client.receiver;
        let reader = std::thread::spawn(move || read_replies(receiver, &queue, &outcome));
        Ok(Lane { owner: owner.to_owned(), tube: "default".to_owned(), sender: client.sender, expected, reader })
    }

    /// Announces a reply to the reader; where too many are outstanding, sends what waits and lets it catch up.
    fn expect(&mut self, expected: Expected) -> Result<(), String> {
        let gone = "the connection broke".to_owned();
        match self.expected.try_send(expected) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(gone),
            Err(TrySendError::Full(expected)) => {
                if self.sender.flush().is_err() {
                    self.sender.close();
                }
                self.expected.send(expected).map_err(|_| gone)
            }
        }
    }
}

/// Reads one reply for each that is expected; after a broken connection, whatever was sent is unknown.
fn read_replies(mut receiver: Receiver, queue: &Queue<Expected>, outcome: &Outcome) {
    let mut broken = false;
    for expected in queue {
        if broken {
            if let Expected::Put(place) = expected {
                outcome.ledger().note(place, Fate::Unknown);
            }
            continue;
        }
        let reply = receiver.reply();
        match (expected, reply) {
            (Expected::Using, Ok(Reply::Using)) => {}
            (Expected::Put(_), Ok(Reply::Inserted(_))) => outcome.ledger().acknowledge(),
            (Expected::Put(place), Ok(Reply::Other(refusal))) => {
                if refusal != "JOB_TOO_BIG" {
                    // Room, draining: the next one would fare no better.
                    outcome.stop(format!("the server answered {refusal}"));
                }
                outcome.ledger().note(place, Fate::Refused(refusal));
            }
            (expected, reply) => {
                let why = match reply {
                    Ok(nonsense) => format!("the server answered {nonsense:?}, which makes no sense here"),
                    Err(error) => error.to_string(),
                };
                if let Expected::Put(place) = expected {
                    outcome.ledger().note(place, Fate::Unknown);
                }
                outcome.stop(why);
                broken = true;
            }
        }
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
            eprint!("\r\x1b[K");
        }
    }
}
