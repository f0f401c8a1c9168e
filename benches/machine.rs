//! What applying costs, per command, while a million jobs wait. In memory, one thread, entries of 64 commands,
//! bodies of 256 bytes; encoding the entries is not measured. One job's life is a RESERVE and a DELETE.

use std::time::{Duration, Instant};

use beaver_raft::job::Machine;
use beaver_raft::job::codec::{body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Applied, Batch, Class, Command, Numbered, Origin, Outcome, TubeList};
use beaver_raft::types::{BootEpoch, Index, JobId, NodeId, SessionId, Term, Times};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const WAITING: u64 = 1_000_000;
const COMMANDS_PER_ENTRY: u64 = 64;
const SESSION: SessionId = SessionId { node: NodeId(1), boot: BootEpoch(1), number: 1 };
const TUBE: &[u8] = b"orders";
const BODY: [u8; 256] = [7; 256];

struct Bench {
    machine: Machine,
    seq: u64,
    bytes: Vec<u8>,
    out: Vec<Applied>,
    /// How many classes the jobs are spread over.
    classes: u32,
}

impl Bench {
    fn with_waiting_jobs(classes: u32) -> Bench {
        let mut bench = Bench { machine: Machine::new(), seq: 0, bytes: Vec::new(), out: Vec::new(), classes };
        bench.add(Command::SessionOpen);
        bench.apply();
        for _ in 0..WAITING / COMMANDS_PER_ENTRY {
            bench.apply_puts();
        }
        bench
    }

    fn add(&mut self, command: Command<'_>) {
        encode(&Numbered { origin: Origin::Session { session: SESSION, seq: self.seq }, command }, &mut self.bytes);
        self.seq += 1;
    }

    fn apply(&mut self) -> Duration {
        self.out.clear();
        let index = Index(self.machine.applied().index.0 + 1);
        let first_job = self.machine.next_job();
        let batch = Batch { index, term: Term(1), times: Times::default(), first_job, commands: &self.bytes };
        let start = Instant::now();
        self.machine.apply(batch, &mut self.out).expect("these commands apply");
        let took = start.elapsed();
        self.bytes.clear();
        took
    }

    fn apply_puts(&mut self) -> Duration {
        let first = self.machine.next_job().0;
        for job in first..first + COMMANDS_PER_ENTRY {
            let priority = (job % u64::from(self.classes)) as u32;
            let class = Class { tube: TUBE, priority, ttr_s: 60, delay_s: 0 };
            self.add(Command::Enqueue { class, body_hash: body_hash(&BODY), body: &BODY });
        }
        self.apply()
    }

    fn apply_reserves(&mut self) -> Duration {
        let tubes = encode_tubes([TUBE]);
        for _ in 0..COMMANDS_PER_ENTRY {
            self.add(Command::Reserve { tubes: TubeList { encoded: &tubes } });
        }
        self.apply()
    }

    fn apply_deletes(&mut self, jobs: &[JobId]) -> Duration {
        for &job in jobs {
            self.add(Command::Delete { job, class: None });
        }
        self.apply()
    }

    fn apply_lives(&mut self) -> Duration {
        let reserving = self.apply_reserves();
        let jobs: Vec<JobId> = self.out.iter().filter_map(reserved).collect();
        assert_eq!(jobs.len() as u64, COMMANDS_PER_ENTRY);
        reserving + self.apply_deletes(&jobs)
    }
}

fn reserved(applied: &Applied) -> Option<JobId> {
    match applied.outcome {
        Outcome::Reserved { job, .. } => Some(job),
        _ => None,
    }
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(COMMANDS_PER_ENTRY)).sample_size(20);
    for (name, classes) in [("one class", 1), ("a thousand classes", 1000)] {
        group.bench_function(format!("put, {name}"), |bencher| {
            let mut bench = Bench::with_waiting_jobs(classes);
            bencher.iter_custom(|times| (0..times).map(|_| bench.apply_puts()).sum());
        });
        group.bench_function(format!("reserve and delete, {name}"), |bencher| {
            let mut bench = Bench::with_waiting_jobs(classes);
            bencher.iter_custom(|times| {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    bench.apply_puts();
                    took += bench.apply_lives();
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
