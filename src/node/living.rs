//! A shard's lives in one process: opened from its directory, run, and where a snapshot of another node takes its log's place, opened anew.
//!
//! It must never open the files of a shard as long as a task of its life before may write to one.

use std::rc::Rc;

use super::core::Setup;
use super::disk_watch::watch_disk;
use super::host::{Event, Host, until};
use super::installing::{Staged, install_place, pull_wanted};
use super::keeping::{keep_files, publish};
use super::log_writer::{Spares, make_spares, write_log, write_votes};
use super::mending::Mending;
use super::opening::{OpenedShard, Opening, open_shard};
use super::restoring::recount;
use super::scrubbing::Scrubber;
use super::snapshots::{Shelf, SnapshotView, write_snapshots};
use crate::fatal::Fatal;
use crate::io::Runtime;
use crate::shard::{Moment, Shard};
use crate::types::{Index, Nanos, ShardId};
use crate::wal::cold::ColdPlace;
use crate::wal::directory::{Opened, segments_dir, snapshots_dir, stores_dir};
use crate::wal::index::SegmentNumber;

/// What a shard needs beside its host, in each of its lives.
pub struct Lives<R: Runtime> {
    pub host: Rc<Host<R>>,
    pub setup: Setup,
    pub directory: Opened,
    pub shard: ShardId,
    /// When the opening of the first was begun.
    pub begun: Nanos,
}

impl<R: Runtime> Lives<R> {
    /// Returns where the node ends.
    pub async fn live(mut self, opening: Opening<R::Disk>) {
        let Some(mut opened) = self.make_whole(opening).await else { return };
        while let Some((before, staged)) = self.run(opened).await {
            self.begun = self.host.rt.now();
            let Some(next) = self.open_anew(&before, staged).await else { return };
            opened = next;
            let moment = Moment { now: self.host.rt.now(), wall: self.host.rt.wall() };
            opened.shard.succeed(moment, before);
        }
    }

    async fn make_whole(&self, opening: Opening<R::Disk>) -> Option<OpenedShard<R::Disk>> {
        match opening {
            Opening::Ready(opened) => Some(*opened),
            Opening::Faulty(faulty) => {
                Mending::new(&self.host, &self.setup, &self.directory, self.shard).run(*faulty).await
            }
        }
    }

    /// The shard takes part from now on. Returns it with what takes its log's place; none where the node ends.
    async fn run(&self, mut opened: OpenedShard<R::Disk>) -> Option<(Shard, Staged<R::Disk>)> {
        let (host, rt, shard) = (&self.host, &self.host.rt, self.shard);
        let elapsed = rt.now().saturating_sub(self.begun);
        self.setup.metrics.node.recovery_seconds.observe(elapsed.duration().as_secs_f64());
        tracing::info!(
            %shard,
            "log recovered in {} ms: {} entries above its floor, known to be committed up to entry {}",
            elapsed.0 / 1_000_000,
            opened.entries,
            opened.committed
        );
        let config = &self.setup.config;
        let metrics = self.setup.metrics.shard(shard);
        let spares = Rc::new(Spares::default());
        spares.want(opened.writer.spares_wanted());
        host.life.begin();
        self.spawn(watch_disk(Rc::clone(host)));
        self.spawn(make_spares(Rc::clone(host), Rc::clone(&spares)));
        self.spawn(write_log(Rc::clone(host), opened.writer, spares, metrics.clone()));
        self.spawn(write_votes(Rc::clone(host), opened.vote_file, metrics.clone()));
        publish(host, &opened.keeper);
        self.spawn(keep_files(Rc::clone(host), opened.keeper, metrics.mended_files.clone()));
        let shelf = Shelf {
            dir: snapshots_dir(&config.data, shard),
            whole: opened.snapshot.iter().map(|snapshot| snapshot.frame().position.index).collect(),
            view: Rc::clone(&host.last_snapshot),
            seconds: self.setup.metrics.shard(shard).snapshot_seconds,
        };
        self.spawn(write_snapshots(Rc::clone(host), shelf));
        if let Some(snapshot) = opened.snapshot {
            host.last_snapshot.set(SnapshotView {
                index: snapshot.frame().position.index,
                bytes: snapshot.header.file_bytes(),
                since: rt.now(),
                ..SnapshotView::default()
            });
            self.spawn(recount(Rc::clone(host), snapshot));
        }
        if config.tunables.scrub_bytes_per_second > 0 {
            let place = ColdPlace {
                segments: segments_dir(&config.data, shard),
                stores: stores_dir(&config.data, shard),
                identity: self.directory.identity.log(shard),
            };
            let snapshots = snapshots_dir(&config.data, shard);
            let scrubber = Scrubber { host: Rc::clone(host), place, snapshots, metrics };
            let over = Rc::clone(host);
            self.spawn(async move { until(over.life.end(), scrubber.run()).await });
        }
        if config.members.len() > 1 {
            let place = install_place(config, self.directory.identity.log(shard));
            self.spawn(pull_wanted(Rc::clone(host), self.setup.clone(), place));
        }
        Rc::clone(host).run(opened.shard).await
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let host = Rc::clone(&self.host);
        self.host.rt.spawn(async move { host.life.task(task).await });
    }

    /// Puts what was pulled in its place, and opens the shard from it; or as it was, where that cannot be done.
    async fn open_anew(&self, before: &Shard, staged: Staged<R::Disk>) -> Option<OpenedShard<R::Disk>> {
        let host = &self.host;
        host.life.finish().await;
        host.to_keep.take();
        host.to_snapshot.take();
        host.wanted.take();
        host.earlier_census.set(host.census.get());
        if !put_in_place(host, &self.setup, self.shard, staged, Some(before.committed_segments())).await {
            return None;
        }
        let opening = open_shard(&host.rt, &self.setup, &self.directory, self.shard, None).await;
        // Only now: reads of the life before may have ended meanwhile.
        let since = host.events.take_all();
        before.connected_peers().for_each(|(peer, start)| host.events.push(Event::PeerUp { peer, start }));
        since.into_iter().filter(Event::outlives_its_shard).for_each(|event| host.events.push(event));
        match opening {
            Ok(opening) => self.make_whole(opening).await,
            Err(fatal) => {
                host.fate.seal(fatal);
                None
            }
        }
    }
}

/// Decides that what was staged takes the log's place, or finds no room to. The shard is opened next in either case; false where
/// the node ends.
pub async fn put_in_place<R: Runtime>(
    host: &Host<R>,
    setup: &Setup,
    shard: ShardId,
    staged: Staged<R::Disk>,
    segments: Option<Vec<(SegmentNumber, Index)>>,
) -> bool {
    host.reader.forget_all();
    host.stores.forget_all();
    let Staged { name, whole, staging } = staged;
    let position = name.position;
    match staging.decide(&whole, segments).await {
        Ok(()) => {
            tracing::info!(%shard, "the snapshot of entry {position} takes the place of the log");
            setup.metrics.shard(shard).installs.inc();
        }
        Err(error) if error.is_lack_of_room() => {
            tracing::warn!(%shard, "the snapshot of entry {position} is not put in its place: {error}");
        }
        Err(error) => {
            host.fate.seal(Fatal::WriteFailed { path: host.snapshots.clone(), why: error.to_string() });
            return false;
        }
    }
    true
}
