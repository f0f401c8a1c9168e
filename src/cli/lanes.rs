//! The connections of an `enqueue`: each tube's jobs go one way, many at once, and what is answered is written down.
//!
//! It must never send a job twice, nor leave one out of the ledger that may have been sent.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{Receiver as Queue, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::{Receiver, Reply, Sender, connect};
use super::halt::Halt;
use super::jobs_file::{Job, Place};
use super::ledger::{Fate, Ledger};
use crate::config::Address;

/// Puts on their way on one connection; the server reads no further than this anyway.
const OUTSTANDING_MAX: usize = 256;
/// The first so many tubes have a connection each: changing tubes within one would make each put wait for those before
/// it. Further tubes share them. Jobs of one tube always go the same way, in order.
const LANES_MAX: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What all connections of one run report to.
pub struct Outcome {
    pub halt: Arc<Halt>,
    ledger: Mutex<Ledger>,
}

impl Outcome {
    pub fn new(halt: Arc<Halt>) -> Outcome {
        Outcome { halt, ledger: Mutex::default() }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
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

pub struct Lanes {
    server: Address,
    answer_timeout: Duration,
    lanes: Vec<Lane>,
    outcome: Arc<Outcome>,
}

impl Lanes {
    pub fn new(server: Address, answer_timeout: Duration, outcome: Arc<Outcome>) -> Lanes {
        Lanes { server, answer_timeout, lanes: Vec::new(), outcome }
    }

    /// Sends one job. An error means that it was certainly not sent.
    pub fn put(&mut self, place: Place, job: &Job) -> Result<(), String> {
        let at = self.lane_of(&job.tube)?;
        if self.lanes[at].tube != job.tube {
            self.expect(at, Expected::Using)?;
            let lane = &mut self.lanes[at];
            lane.sender.command(&format!("use {}", job.tube)).map_err(|e| format!("the connection broke: {e}"))?;
            lane.tube.clone_from(&job.tube);
        }
        self.expect(at, Expected::Put(place))?;
        let lane = &mut self.lanes[at];
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
            // As where too many are outstanding.
            self.flush();
            self.lanes.push(self.open(tube)?);
            return Ok(self.lanes.len() - 1);
        }
        let mut hasher = DefaultHasher::new();
        tube.hash(&mut hasher);
        Ok(usize::try_from(hasher.finish() % LANES_MAX as u64).expect("less than LANES_MAX"))
    }

    fn open(&self, owner: &str) -> Result<Lane, String> {
        let client = connect(&self.server, CONNECT_TIMEOUT, self.answer_timeout).map_err(|e| e.to_string())?;
        self.outcome.halt.add(client.scissors().map_err(|e| e.to_string())?);
        let (expected, queue) = sync_channel(OUTSTANDING_MAX);
        let (receiver, outcome) = (client.receiver, Arc::clone(&self.outcome));
        let reader = std::thread::spawn(move || read_replies(receiver, &queue, &outcome));
        Ok(Lane { owner: owner.to_owned(), tube: "default".to_owned(), sender: client.sender, expected, reader })
    }

    /// Announces a reply to the reader; where too many are outstanding, lets it catch up.
    fn expect(&mut self, at: usize, expected: Expected) -> Result<(), String> {
        let gone = "the connection broke".to_owned();
        match self.lanes[at].expected.try_send(expected) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(gone),
            Err(TrySendError::Full(expected)) => {
                // This may take a while. No reader is to wait for answers to what lies here.
                self.flush();
                self.lanes[at].expected.send(expected).map_err(|_| gone)
            }
        }
    }

    pub fn flush(&mut self) {
        for lane in &mut self.lanes {
            if lane.sender.flush().is_err() {
                lane.sender.close();
            }
        }
    }

    /// Waits for every reply that is still to come.
    pub fn finish(&mut self) {
        self.flush();
        for Lane { mut sender, expected, reader, .. } in self.lanes.drain(..) {
            drop(expected);
            let _ = reader.join();
            sender.close();
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
                    outcome.halt.stop(format!("the server answered {refusal}"));
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
                outcome.halt.stop(why);
                // Whoever sends must not wait for a server that has nothing to say.
                receiver.cut();
                broken = true;
            }
        }
    }
}
