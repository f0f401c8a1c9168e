//! What the partial snapshot saves: bytes, time to write and time to recover, beside a full one (bodies and all) of the
//! same state, written and read by the same road. Prints a table, and writes it and a plot to `perf/reports/`.
//!
//! `cargo bench --bench snapshot [-- --jobs 10000,100000 --dir DIRECTORY --report DIRECTORY]`. The snapshots are on the file
//! system of `--dir`; they are written, synced, read back and verified, and recovery reads them with direct I/O, so that
//! the page cache helps neither kind. Bodies of the full one come from memory, which favours it; its recovery leaves
//! them in the map, and `loaded` is the time with the bodies taken into memory, as queues without a log in place do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use beaver_raft::io::bulk::{Bulk, BulkOptions};
use beaver_raft::io::uring::{CoreOptions, block_on_core};
use beaver_raft::io::{Disk, Runtime};
use beaver_raft::job::Machine;
use beaver_raft::job::codec::{body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Applied, Batch, Class, Command, Numbered, Origin, Outcome, TubeList};
use beaver_raft::raft::Membership;
use beaver_raft::snapshot::{Bodies, Contents, Frame, Kind, open, write};
use beaver_raft::types::{BootEpoch, ChainHash, ClusterId, Index, JobId, NodeId, SessionId, ShardId, Term, Times};
use beaver_raft::wal::entry::LogIdentity;
use clap::Parser;
use plotters::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const COMMANDS_PER_ENTRY: usize = 64;
const SESSION: SessionId = SessionId { node: NodeId(1), boot: BootEpoch(1), number: 1 };
const IDENTITY: LogIdentity = LogIdentity { cluster: ClusterId(1), shard: ShardId(0) };
const TUBE: &[u8] = b"orders";
const BODY_BYTES: usize = 256;
const ROUNDS: usize = 3;
/// The plain mix is also measured with so many times the largest backlog.
const PLAIN_TIMES: u64 = 10;

#[derive(Parser)]
struct Options {
    /// Live jobs, for each table's part.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    jobs: Vec<u64>,
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/perf/reports"))]
    report: PathBuf,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the live jobs are, per cent; the rest waits. With `holes`, as many again were enqueued among them and are finished.
#[derive(Clone, Copy)]
struct Mix {
    name: &'static str,
    in_flight: u64,
    delayed: u64,
    buried: u64,
    holes: bool,
}

const MIXES: [Mix; 6] = [
    Mix { name: "plain", in_flight: 0, delayed: 0, buried: 0, holes: false },
    Mix { name: "random holes", in_flight: 0, delayed: 0, buried: 0, holes: true },
    Mix { name: "1 % in flight", in_flight: 1, delayed: 0, buried: 0, holes: true },
    Mix { name: "10 % delayed", in_flight: 0, delayed: 10, buried: 0, holes: true },
    Mix { name: "10 % buried", in_flight: 0, delayed: 0, buried: 10, holes: true },
    Mix { name: "10 % of each", in_flight: 10, delayed: 10, buried: 10, holes: true },
];

struct Queue {
    machine: Machine,
    seq: u64,
    bytes: Vec<u8>,
    pending: usize,
    out: Vec<Applied>,
}

impl Queue {
    fn of(mix: Mix, jobs: u64) -> Queue {
        let mut queue = Queue { machine: Machine::new(), seq: 0, bytes: Vec::new(), pending: 0, out: Vec::new() };
        queue.add(Command::SessionOpen);
        queue.apply();
        let enqueued = if mix.holes { jobs * 2 } else { jobs };
        let mut random = ChaCha8Rng::seed_from_u64(jobs);
        let delayed = |random: &mut ChaCha8Rng| random.random_range(0..100) < mix.delayed;
        let delays: Vec<u32> = (0..enqueued).map(|_| if delayed(&mut random) { 3600 } else { 0 }).collect();
        for (job, &delay_s) in (1..).zip(&delays) {
            let body = body(JobId(job));
            queue.add(Command::Enqueue { class: class(delay_s), body_hash: body_hash(&body), body: &body });
        }
        queue.apply();
        if mix.holes {
            queue.finish_half(&delays, &mut random);
        }
        queue.work_on(jobs * (mix.in_flight + mix.buried) / 100, jobs * mix.buried / 100);
        queue
    }

    fn finish_half(&mut self, delays: &[u32], random: &mut ChaCha8Rng) {
        let mut all: Vec<u64> = (1..=delays.len() as u64).collect();
        all.shuffle(random);
        for &job in &all[..all.len() / 2] {
            self.add(Command::Delete { job: JobId(job), class: Some(class(delays[job as usize - 1])) });
        }
        self.apply();
    }

    /// Reserves so many, and buries some of them.
    fn work_on(&mut self, reserved: u64, buried: u64) {
        let tubes = encode_tubes([TUBE]);
        let mut taken = Vec::new();
        for _ in 0..reserved {
            self.add(Command::Reserve { tubes: TubeList { encoded: &tubes } });
            taken.extend(self.out.drain(..).filter_map(|applied| reserved_job(&applied)));
        }
        self.apply();
        taken.extend(self.out.drain(..).filter_map(|applied| reserved_job(&applied)));
        for &job in taken.iter().take(buried as usize) {
            self.add(Command::Bury { job, priority: 1 });
        }
        self.apply();
    }

    fn add(&mut self, command: Command<'_>) {
        encode(&Numbered { origin: Origin::Session { session: SESSION, seq: self.seq }, command }, &mut self.bytes);
        self.seq += 1;
        self.pending += 1;
        if self.pending == COMMANDS_PER_ENTRY {
            self.apply();
        }
    }

    fn apply(&mut self) {
        if self.pending == 0 {
            return;
        }
        self.out.clear();
        let index = Index(self.machine.applied().index.0 + 1);
        let first_job = self.machine.next_job();
        let batch = Batch { index, term: Term(1), times: Times::default(), first_job, commands: &self.bytes };
        self.machine.apply(batch, &mut self.out).expect("these commands apply");
        self.bytes.clear();
        self.pending = 0;
    }
}

fn class(delay_s: u32) -> Class<'static> {
    Class { tube: TUBE, priority: 1, ttr_s: 60, delay_s }
}

fn reserved_job(applied: &Applied) -> Option<JobId> {
    match applied.outcome {
        Outcome::Reserved { job, .. } => Some(job),
        _ => None,
    }
}

fn body(job: JobId) -> Vec<u8> {
    job.0.to_le_bytes().repeat(BODY_BYTES / 8)
}

/// Times are medians.
#[derive(Clone, Copy)]
struct Cost {
    bytes: u64,
    write: Duration,
    recover: Duration,
    /// With the bodies in memory.
    loaded: Duration,
}

struct Row {
    mix: &'static str,
    jobs: u64,
    /// How long the shard is held up.
    capture: Duration,
    partial: Cost,
    full: Cost,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let bulk = Bulk::start(BulkOptions { bytes_per_second: u64::MAX, ..BulkOptions::default() })?;
    let dir = options.dir.join("bench-snapshot");
    let mut rows = Vec::new();
    for mix in MIXES {
        let largest = options.jobs.iter().max().filter(|_| mix.name == MIXES[0].name).map(|most| most * PLAIN_TIMES);
        for jobs in options.jobs.iter().copied().chain(largest) {
            let queue = Queue::of(mix, jobs);
            let row = measure(mix, jobs, &queue.machine, &dir, &bulk)?;
            println!("{}", line(&row));
            rows.push(row);
        }
    }
    std::fs::create_dir_all(&options.report)?;
    std::fs::write(options.report.join("snapshot.md"), page(&rows))?;
    plot(&rows, &options.report.join("snapshot.svg")).map_err(io::Error::other)
}

fn measure(mix: Mix, jobs: u64, machine: &Machine, dir: &Path, bulk: &Bulk) -> io::Result<Row> {
    let captures = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        let capture = machine.capture();
        let took = begun.elapsed();
        drop(capture);
        took
    });
    let capture = median(captures.collect());
    let partial = cost(Kind::Partial, machine, dir, bulk)?;
    let full = cost(Kind::Full, machine, dir, bulk)?;
    Ok(Row { mix: mix.name, jobs, capture, partial, full })
}

fn cost(kind: Kind, machine: &Machine, dir: &Path, bulk: &Bulk) -> io::Result<Cost> {
    let rounds = (0..ROUNDS).map(|_| one(kind, machine, dir, bulk)).collect::<io::Result<Vec<Cost>>>()?;
    let of = |part: fn(&Cost) -> Duration| median(rounds.iter().map(part).collect());
    Ok(Cost {
        bytes: rounds[0].bytes,
        write: of(|cost| cost.write),
        recover: of(|cost| cost.recover),
        loaded: of(|cost| cost.loaded),
    })
}

fn one(kind: Kind, machine: &Machine, dir: &Path, bulk: &Bulk) -> io::Result<Cost> {
    block_on_core(&CoreOptions::new(bulk.clone()), async |runtime| {
        let disk = runtime.disk();
        disk.create_dir(dir).await?;
        let begun = Instant::now();
        let capture = machine.capture();
        let membership = Membership::new([NodeId(1)], []).map_err(io::Error::other)?;
        let frame = Frame { kind, ..Frame::partial(&capture, IDENTITY, ChainHash(0), membership) };
        let bodies: Bodies = Box::new(|job| Ok(body(job)));
        let contents = match kind {
            Kind::Partial => Contents::Partial(capture),
            Kind::Full => Contents::Full(capture, bodies),
        };
        let written = write(disk, dir, frame, contents).await.map_err(io::Error::other)?;
        let write = begun.elapsed();
        let begun = Instant::now();
        let snapshot = open(disk, &written.path, &IDENTITY).await.map_err(io::Error::other)?;
        let restored = snapshot.restore().map_err(io::Error::other)?;
        let recover = begun.elapsed();
        let bodies: BTreeMap<JobId, Vec<u8>> = match kind {
            Kind::Partial => BTreeMap::new(),
            Kind::Full => {
                snapshot.bodies().map_err(io::Error::other)?.map(|(job, body)| (job, body.to_vec())).collect()
            }
        };
        let loaded = begun.elapsed();
        assert!(restored.digest() == machine.digest(), "what is recovered is what was written");
        assert!(bodies.iter().all(|(&job, found)| *found == body(job)));
        disk.unlink(&written.path).await?;
        Ok(Cost { bytes: written.bytes, write, recover, loaded })
    })?
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn ratio(full: Duration, partial: Duration) -> f64 {
    full.as_secs_f64() / partial.as_secs_f64()
}

fn smaller(row: &Row) -> f64 {
    row.full.bytes as f64 / row.partial.bytes as f64
}

const HEAD: &str = "\
| mix | jobs | partial, bytes | full, bytes | smaller | capture, ms | partial write, ms | full write, ms | faster | partial recover, ms | full recover, ms | faster | full loaded, ms |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

fn line(row: &Row) -> String {
    let Row { mix, jobs, capture, partial, full } = row;
    format!(
        "| {mix} | {jobs} | {} | {} | {:.0}x | {:.2} | {:.1} | {:.1} | {:.1}x | {:.1} | {:.1} | {:.1}x | {:.1} |",
        partial.bytes,
        full.bytes,
        smaller(row),
        millis(*capture),
        millis(partial.write),
        millis(full.write),
        ratio(full.write, partial.write),
        millis(partial.recover),
        millis(full.recover),
        ratio(full.recover, partial.recover),
        millis(full.loaded),
    )
}

fn page(rows: &[Row]) -> String {
    let mut page = format!(
        "# Partial and full snapshots\n\nOf the same states, written by `cargo bench --bench snapshot`: bodies of \
         {BODY_BYTES} bytes, medians of {ROUNDS}. Written means synced, read back, verified and renamed; recovered means \
         verified with direct reads, mapped, and the state restored and its digest compared. The full one's bodies come \
         from memory and stay in the map, which favours it; `loaded` is with its bodies taken into memory. `capture` is \
         how long the shard is held up, with either kind.\n\n{HEAD}\n"
    );
    for row in rows {
        let _ = writeln!(page, "{}", line(row));
    }
    let least = |of: fn(&Row) -> f64| rows.iter().map(of).fold(f64::INFINITY, f64::min);
    let _ = writeln!(
        page,
        "\nThe least gain of all rows: {:.1}x smaller, {:.1}x faster to recover.\n\n![bytes and recovery](snapshot.svg)",
        least(smaller),
        least(|row| ratio(row.full.recover, row.partial.recover)),
    );
    page
}

/// Bytes and time to recover over the number of jobs, both logarithmic; a line for each mix.
fn plot(rows: &[Row], path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let area = SVGBackend::new(path, (1100, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(550);
    type Value = fn(&Cost) -> f64;
    let parts: [(_, &str, Value); 2] = [
        (left, "snapshot, bytes", |cost| cost.bytes as f64),
        (right, "recovery, milliseconds", |cost| millis(cost.recover)),
    ];
    for (area, caption, value) in parts {
        let jobs = rows.iter().map(|row| row.jobs as f64);
        let (from, to) = (jobs.clone().fold(f64::INFINITY, f64::min), jobs.fold(0.0, f64::max));
        let values = || rows.iter().flat_map(|row| [value(&row.partial), value(&row.full)]);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d((from..to * 1.1).log_scale(), (low / 2.0..high * 2.0).log_scale())?;
        chart.configure_mesh().x_desc("live jobs").label_style(("sans-serif", 12)).draw()?;
        for (number, mix) in MIXES.iter().enumerate() {
            let points = |of: fn(&Row) -> &Cost| {
                let of_mix = rows.iter().filter(|row| row.mix == mix.name);
                of_mix.map(move |row| (row.jobs as f64, value(of(row)))).collect::<Vec<_>>()
            };
            let color = Palette99::pick(number).to_rgba();
            chart
                .draw_series(LineSeries::new(points(|row| &row.partial), color.stroke_width(2)).point_size(3))?
                .label(format!("partial, {}", mix.name))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            if number == 0 {
                chart
                    .draw_series(LineSeries::new(points(|row| &row.full), BLACK.stroke_width(2)).point_size(3))?
                    .label("full, plain")
                    .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.stroke_width(2)));
            }
        }
        let legend = SeriesLabelPosition::UpperLeft;
        chart
            .configure_series_labels()
            .position(legend)
            .label_font(("sans-serif", 11))
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    area.present()?;
    Ok(())
}
