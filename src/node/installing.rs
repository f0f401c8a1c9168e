//! A node that is behind the log pulls a snapshot beside its shard, which goes on voting by the log that it has; and where all of it has
//! come, the shard is opened anew from it.
//!
//! It must never give up what the shard has before what takes its place is decided on, durably; nor ask faster than the bulk path may
//! write, nor for more than one thing at a time.

use std::rc::Rc;

use prometheus_client::metrics::counter::Counter;

use super::core::Setup;
use super::host::{Event, Host};
use super::opening::STORE_BYTES_MAX;
use crate::config::Config;
use crate::io::{Disk, Runtime};
use crate::net::message::{Given, JOBS_PER_PULL_MAX, Part, PeerMessage, Pull, Pulled};
use crate::shard::effect::Wanted;
use crate::snapshot::install::{Arrived, InstallError, InstallPlace, Staging, Whole};
use crate::status::InstallStatus;
use crate::types::{Nanos, NodeId, SnapshotName};
use crate::wal::entry::LogIdentity;

/// Who has not answered for so long is asked no more, for now.
const ANSWER_PATIENCE: Nanos = Nanos::from_secs(2);

/// Between attempts: the first pause, which doubles up to the last.
const RETRY_AFTER_MIN: Nanos = Nanos::from_millis(50);
const RETRY_AFTER_MAX: Nanos = Nanos::from_secs(2);

/// All are asked so often before the attempt is given up. The leader offers what there is again.
const ROUNDS_MAX: usize = 8;

/// A snapshot that came in full, with all jobs in it, and waits to be put in its place.
pub struct Staged<D: Disk> {
    pub name: SnapshotName,
    pub whole: Whole,
    pub staging: Staging<D>,
}

#[must_use]
pub fn install_place(config: &Config, identity: LogIdentity) -> InstallPlace {
    InstallPlace::new(&config.data, identity, config.tunables.segment_bytes_max.min(STORE_BYTES_MAX))
}

/// The task that pulls whatever the shard wants.
pub async fn pull_wanted<R: Runtime>(host: Rc<Host<R>>, setup: Setup, place: InstallPlace) {
    let Setup { config, metrics, .. } = setup;
    let bytes_per_second = config.tunables.bulk_bytes_per_second;
    let pulled = metrics.shard(place.identity.shard).pulled_jobs;
    let others: Vec<NodeId> = config.members.keys().copied().filter(|node| *node != config.node).collect();
    let mut pause = RETRY_AFTER_MIN;
    while !host.is_over() {
        host.wait_for(&host.wanted).await;
        let Some(wanted) = host.wanted.take().pop_back() else { continue };
        if host.staged.borrow().is_some() || host.committed.get() != wanted.after {
            continue;
        }
        let shard = place.identity.shard;
        let SnapshotName { position, bytes, .. } = wanted.snapshot;
        tracing::info!(
            %shard,
            "behind the log: node {} offers the snapshot of entry {position} ({bytes} bytes), and the log here is known to be \
             committed up to entry {}",
            wanted.from,
            wanted.after
        );
        let begun = host.rt.now();
        let mut peers = vec![wanted.from];
        peers.extend(others.iter().copied().filter(|node| *node != wanted.from));
        let mut pulling =
            Pulling { host: &host, wanted, peers, at: 0, bytes_per_second, jobs: 0, pulled: pulled.clone() };
        host.is_pulling.set(true);
        let came = pulling.run(place.clone()).await;
        host.is_pulling.set(false);
        host.pulled.take();
        host.install.set(None);
        match came {
            Ok(Some(staged)) => {
                let took_ms = host.rt.now().saturating_sub(begun).0 / 1_000_000;
                tracing::info!(%shard, jobs = pulling.jobs, took_ms, "the snapshot of entry {position} is here, with its jobs");
                *host.staged.borrow_mut() = Some(Box::new(staged));
                host.events.push(Event::Staged);
                pause = RETRY_AFTER_MIN;
                continue;
            }
            Ok(None) => {}
            Err(error) if error.is_of_peer() || error.is_lack_of_room() => {
                tracing::warn!(%shard, "{error}; it is pulled again")
            }
            // Nothing of the shard's depends on it.
            Err(error) => tracing::error!(%shard, "a snapshot could not be pulled: {error}"),
        }
        host.pause(pause).await;
        pause = pause.saturating_add(pause).min(RETRY_AFTER_MAX);
    }
}

struct Pulling<'a, R: Runtime> {
    host: &'a Rc<Host<R>>,
    wanted: Wanted,
    /// In the order in which they are asked; `at` is the one whose turn it is.
    peers: Vec<NodeId>,
    at: usize,
    bytes_per_second: u64,
    jobs: u64,
    pulled: Counter,
}

impl<R: Runtime> Pulling<'_, R> {
    /// None where nobody gives it, or it is not wanted any more.
    async fn run(&mut self, place: InstallPlace) -> Result<Option<Staged<R::Disk>>, InstallError> {
        let name = self.wanted.snapshot;
        let disk = self.host.rt.disk().clone();
        let mut staging = Staging::open(disk, place, self.wanted.after, self.wanted.first_job).await?;
        while let Some(offset) = staging.next_offset(name).await? {
            let Some(given) = self.ask(Part::File { offset }).await else { return Ok(None) };
            if let Given::Piece { offset, bytes } = given {
                let begun = self.host.rt.now();
                self.show(offset + bytes.len() as u64);
                staging.take_piece(offset, &bytes).await?;
                self.slow_down(begun, bytes.len()).await;
            }
        }
        let (whole, snapshot) = staging.finish_snapshot().await?;
        if let Err(error) = self.host.rt.beside(move || snapshot.recount()).await {
            staging.discard().await?;
            return Err(error.into());
        }
        loop {
            let asked = staging.next_jobs(&whole, JOBS_PER_PULL_MAX);
            if asked.is_empty() {
                break;
            }
            let Some(given) = self.ask(Part::Jobs(asked.clone())).await else {
                // What came so far need not come again.
                staging.flush().await?;
                return Ok(None);
            };
            if let Given::Jobs(jobs) = given {
                let begun = self.host.rt.now();
                let arrived: Vec<Arrived> = jobs
                    .into_iter()
                    .map(|given| Arrived {
                        job: given.job,
                        index: given.index,
                        wall: given.wall,
                        enqueue: given.enqueue,
                    })
                    .collect();
                staging.take_jobs(&whole, &asked, &arrived).await?;
                self.jobs += arrived.len() as u64;
                self.pulled.inc_by(arrived.len() as u64);
                self.show(name.bytes);
                self.slow_down(begun, arrived.iter().map(|job| job.enqueue.len()).sum()).await;
            }
        }
        staging.flush().await?;
        if let Err(error) = staging.check_count(&whole).await {
            staging.discard().await?;
            return Err(error);
        }
        Ok(Some(Staged { name, whole, staging }))
    }

    /// Lets others see how far it is.
    fn show(&self, bytes: u64) {
        let SnapshotName { position, bytes: all_bytes, .. } = self.wanted.snapshot;
        let from = self.peers[self.at % self.peers.len()].0;
        self.host.install.set(Some(InstallStatus { from, index: position.index.0, bytes, all_bytes, jobs: self.jobs }));
    }

    /// The answer of whoever gives one; none where nobody does, or the snapshot is not wanted any more.
    async fn ask(&mut self, part: Part) -> Option<Given> {
        let mut pause = RETRY_AFTER_MIN;
        for attempt in 1..=ROUNDS_MAX * self.peers.len() {
            if !self.is_wanted() {
                return None;
            }
            let peer = self.peers[self.at % self.peers.len()];
            self.host.pulled.take();
            let pull = Pull { snapshot: self.wanted.snapshot, part: part.clone() };
            self.host.send(peer, &PeerMessage::Pull(pull));
            if let Some(given) = self.hear(peer, &part).await {
                return Some(given);
            }
            self.at += 1;
            if attempt.is_multiple_of(self.peers.len()) {
                self.host.pause(pause).await;
                pause = pause.saturating_add(pause).min(RETRY_AFTER_MAX);
            }
        }
        None
    }

    fn is_wanted(&self) -> bool {
        !self.host.is_over() && self.host.committed.get() == self.wanted.after
    }

    async fn hear(&self, peer: NodeId, part: &Part) -> Option<Given> {
        let deadline = self.host.rt.now().saturating_add(ANSWER_PATIENCE);
        while self.is_wanted() {
            let left = deadline.saturating_sub(self.host.rt.now());
            if left == Nanos::ZERO {
                return None;
            }
            tokio::select! {
                biased;
                () = self.host.wait_for(&self.host.pulled) => {}
                () = self.host.rt.sleep(left) => {}
            }
            for (from, Pulled { snapshot, what }) in self.host.pulled.take() {
                if snapshot != self.wanted.snapshot {
                    continue;
                }
                // What fits may also come of one who was asked before, and needed longer.
                match (&what, part) {
                    (Given::Nothing, _) if from == peer => return None,
                    (Given::Piece { offset: given, .. }, Part::File { offset }) if given == offset => {
                        return Some(what);
                    }
                    (Given::Jobs(jobs), Part::Jobs(asked)) if jobs.first().map(|given| &given.job) == asked.first() => {
                        return Some(what);
                    }
                    // An answer to what was asked before.
                    _ => {}
                }
            }
        }
        None
    }

    /// Keeps to the rate of the bulk path.
    async fn slow_down(&self, begun: Nanos, bytes: usize) {
        let due = Nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second.max(1));
        let elapsed = self.host.rt.now().saturating_sub(begun);
        if due > elapsed {
            self.host.pause(due.saturating_sub(elapsed)).await;
        }
    }
}
