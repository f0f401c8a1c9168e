//! What waiting jobs cost: every byte that the state machine asks of the allocator is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use beaver_raft::job::Machine;
use beaver_raft::job::codec::{body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Batch, Class, Command, Numbered, Origin, Outcome, TubeList};
use beaver_raft::types::{BootEpoch, Index, JobId, NodeId, SessionId, Term, Times};

/// Bytes allocated and not freed, as asked for: without what the allocator itself adds.
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the block came from `alloc` above, with this layout, and so from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SESSION: SessionId = SessionId { node: NodeId(1), boot: BootEpoch(1), number: 1 };

/// A machine with one client, whose own buffers keep their size after the first entry.
struct Load {
    machine: Machine,
    seq: u64,
    bytes: Vec<u8>,
    out: Vec<beaver_raft::job::command::Applied>,
}

impl Load {
    fn new() -> Load {
        let mut load = Load { machine: Machine::new(), seq: 0, bytes: Vec::new(), out: Vec::new() };
        load.bytes.reserve(1 << 20);
        load.out.reserve(1 << 10);
        load.add(Command::SessionOpen);
        load.apply();
        load
    }

    fn add(&mut self, command: Command<'_>) {
        encode(&Numbered { origin: Origin::Session { session: SESSION, seq: self.seq }, command }, &mut self.bytes);
        self.seq += 1;
    }

    fn apply(&mut self) {
        self.out.clear();
        let index = Index(self.machine.applied().index.0 + 1);
        let first_job = self.machine.next_job();
        let batch = Batch { index, term: Term(1), times: Times::default(), first_job, commands: &self.bytes };
        self.machine.apply(batch, &mut self.out).expect("these commands apply");
        self.bytes.clear();
    }

    fn put(&mut self, count: u64, class: impl Fn(u64) -> Class<'static>) {
        for job in 0..count {
            self.add(Command::Enqueue { class: class(job), body_hash: body_hash(b""), body: b"" });
            if job % 256 == 255 {
                self.apply();
            }
        }
        self.apply();
    }
}

/// Bytes of memory per waiting job.
fn cost(count: u64, class: impl Fn(u64) -> Class<'static>) -> f64 {
    let mut load = Load::new();
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    load.put(count, class);
    let after = LIVE_BYTES.load(Ordering::Relaxed);
    assert_eq!(load.machine.counts().ready, count);
    (after - before) as f64 / count as f64
}

const PLAIN: Class<'static> = Class { tube: b"orders", priority: 1024, ttr_s: 60, delay_s: 0 };

const MILLION: u64 = 1_000_000;

/// One test, because the allocator counts for the whole process.
#[test]
fn a_waiting_job_costs_about_a_bit() {
    let plain = cost(MILLION, |_| PLAIN);
    assert!(plain < 0.25, "one tube, one class: {plain} bytes per job");

    const TUBES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
    let mixed = cost(MILLION, |job| Class { tube: TUBES[job as usize % 4], priority: job as u32 / 4 % 3, ..PLAIN });
    assert!(mixed < 2.0, "four tubes of three priorities: {mixed} bytes per job");

    // A class that holds every hundredth job is a list of 16-bit numbers, not a bitmap.
    let sparse = cost(MILLION, |job| Class { priority: (job % 100) as u32, ..PLAIN });
    assert!(sparse < 4.0, "a hundred priorities: {sparse} bytes per job");

    // The worst there is: each job has a class of its own.
    let own = cost(MILLION / 10, |job| Class { priority: job as u32, ..PLAIN });
    assert!(own < 110.0, "a priority per job: {own} bytes per job");

    println!("bytes per waiting job: {plain:.3} plain, {mixed:.3} mixed, {sparse:.3} sparse, {own:.1} own class");
    the_memory_of_finished_jobs_is_given_back();
}

fn the_memory_of_finished_jobs_is_given_back() {
    let mut load = Load::new();
    let tubes = encode_tubes([PLAIN.tube]);
    load.put(1, |_| PLAIN);
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    load.put(50_000, |_| PLAIN);
    for _ in 0..50_000 {
        load.add(Command::Reserve { tubes: TubeList { encoded: &tubes } });
        load.apply();
        let Outcome::Reserved { job, .. } = load.out[0].outcome else { panic!("a job is ready") };
        load.add(Command::Delete { job, class: None });
        load.apply();
    }
    assert_eq!(load.machine.counts().ready, 1);
    assert_eq!(load.machine.peek_ready(PLAIN.tube), Some(JobId(50_001)));
    let after = LIVE_BYTES.load(Ordering::Relaxed);
    assert!(after < before + 4096, "{} bytes are kept for jobs that are gone", after - before);
}
