//! A shard whose log is damaged, on its core thread: looks for copies at its peers and has them written, until the log is whole
//! and the shard can run. What it looks for and gives up, `shard::repair` decides.
//!
//! Clients that ask meanwhile wait as they do where no leader is known, and no longer.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::core::Setup;
use super::host::{Event, Host};
use super::installing::{Staged, install_place, pull_wanted};
use super::living::put_in_place;
use super::opening::{FaultyShard, OpenedShard, Opening, open_shard};
use crate::api::{Answer, Operation};
use crate::fatal::Fatal;
use crate::io::{Disk, Runtime};
use crate::metrics::ShardMetrics;
use crate::net::message::{Fetch, Held, PeerMessage};
use crate::shard::effect::{ConnectionId, Wanted};
use crate::shard::repair::{Effect, Outcome, Repair};
use crate::status::{RoleName, ShardStatus};
use crate::types::{Index, JobId, Nanos, NodeId, ShardId, Start};
use crate::wal::directory::Opened;
use crate::wal::index::Placement;
use crate::wal::rewrite::{Plan, RewriteError, rewrite};

/// The status is shown this often, and the waiting clients looked at.
const PUBLISH_EVERY: Nanos = Nanos::from_millis(250);

/// The operator is told this often what is waited for, while it stays the same.
const TELL_EVERY: Nanos = Nanos::from_secs(10);

/// A rewrite that found no room, or damage that was not there before, is tried again after this long.
const RETRY_AFTER: Nanos = Nanos::from_secs(1);

/// What a repair needs beside its host.
pub struct Mending<R: Runtime> {
    host: Rc<Host<R>>,
    setup: Setup,
    directory: Opened,
    shard: ShardId,
    metrics: ShardMetrics,
    /// Peers that this node has dialled, and that have dialled it.
    connected: BTreeMap<NodeId, Start>,
    incoming: BTreeMap<NodeId, Start>,
    has_room: Option<bool>,
    /// Operations of clients, and since when they wait.
    waiting: VecDeque<(Nanos, ConnectionId, u64, Operation)>,
    /// By all repairs of this process.
    repaired: u64,
    told: Option<(Nanos, String)>,
}

/// How far one repair came.
enum Came<D: Disk> {
    To(Outcome),
    /// A snapshot is here that holds all that the log did.
    Pulled(Box<Staged<D>>),
    /// What was whole is not: the log must be read again.
    Undone,
}

impl<R: Runtime> Mending<R> {
    #[must_use]
    pub fn new(host: &Rc<Host<R>>, setup: &Setup, directory: &Opened, shard: ShardId) -> Mending<R> {
        Mending {
            host: Rc::clone(host),
            setup: setup.clone(),
            directory: directory.clone(),
            shard,
            metrics: setup.metrics.shard(shard),
            connected: BTreeMap::new(),
            incoming: BTreeMap::new(),
            has_room: None,
            waiting: VecDeque::new(),
            repaired: 0,
            told: None,
        }
    }

    /// Returns the shard when it can run, with everything that happened before it in its queue; none where the node ends
    /// first.
    pub async fn run(mut self, mut faulty: FaultyShard) -> Option<OpenedShard<R::Disk>> {
        let mut given_up: Option<Index> = None;
        loop {
            tracing::error!("{}; it is looked for at the other nodes", faulty.why);
            let kept = faulty.floor.map(|_| Vec::new());
            let came = self.repair(faulty).await;
            self.host.life.finish().await;
            match came? {
                Came::Pulled(staged) => {
                    if !put_in_place(&self.host, &self.setup, self.shard, *staged, kept).await {
                        return None;
                    }
                }
                Came::To(Outcome::Whole) => tracing::info!(shard = %self.shard, "the log is whole again"),
                Came::To(Outcome::GiveUp(from)) => {
                    tracing::warn!(
                        shard = %self.shard,
                        "entry {from} of the log is damaged and was never committed, as the other nodes show: it is given \
                         up, with what follows"
                    );
                    given_up = Some(from);
                }
                Came::Undone => self.host.rt.sleep(RETRY_AFTER).await,
            }
            match open_shard(&self.host.rt, &self.setup, &self.directory, self.shard, given_up).await {
                Ok(Opening::Ready(opened)) => {
                    self.hand_over();
                    return Some(*opened);
                }
                Ok(Opening::Faulty(again)) => faulty = *again,
                Err(fatal) => {
                    self.host.fate.seal(fatal);
                    return None;
                }
            }
        }
    }

    async fn repair(&mut self, faulty: FaultyShard) -> Option<Came<R::Disk>> {
        let (floor, first_job) = faulty.floor.unwrap_or((Index::ZERO, JobId(1)));
        self.begin_pulling(floor);
        let config = &self.setup.config;
        let others = config.members.keys().copied().filter(|node| *node != config.node).collect();
        let begin = if faulty.needs_snapshot { Repair::by_snapshot } else { Repair::new };
        let mut repair = begin(others, faulty.term, faulty.inventory, self.host.rt.now());
        for &peer in self.connected.keys() {
            repair.handle_peer_up(self.host.rt.now(), peer);
        }
        let before = self.repaired;
        let mut publish_at = Nanos::ZERO;
        let mut to_write: Option<(Nanos, Box<Plan>)> = None;
        while !self.host.fate.is_sealed() {
            let now = self.host.rt.now();
            for event in self.host.events.take_all() {
                self.handle(&mut repair, now, event);
            }
            repair.handle_time(now);
            while let Some(effect) = repair.poll_effect() {
                match effect {
                    Effect::Send { to, message } => self.host.send(to, &message),
                    Effect::Give { to, fetch, placements } => self.give(to, fetch, &placements).await,
                    Effect::Rewrite(plan) => to_write = Some((now, plan)),
                    Effect::Install { from, snapshot } => {
                        // Above the floor nothing is relied on.
                        self.host.want(Wanted { from, snapshot, after: floor, first_job });
                    }
                }
            }
            if let Some((_, plan)) = to_write.take_if(|(at, _)| *at <= now) {
                match self.write(&plan).await {
                    Ok(()) => {
                        repair.handle_rewritten(self.host.rt.now(), &plan);
                        self.repaired = before + repair.repaired();
                    }
                    Err(error) if error.is_lack_of_room() => {
                        tracing::warn!(shard = %self.shard, "the repair waits for room: {error}");
                        to_write = Some((now.saturating_add(RETRY_AFTER), plan));
                    }
                    Err(RewriteError::Read(error)) => {
                        tracing::warn!(shard = %self.shard, "more of the log is damaged: {error}");
                        return Some(Came::Undone);
                    }
                    Err(error @ RewriteError::Write { .. }) => {
                        self.host.fate.seal(Fatal::from(error));
                        return None;
                    }
                }
            }
            if let Some(outcome) = repair.outcome() {
                return Some(Came::To(outcome));
            }
            if let Some(staged) = self.host.staged.borrow_mut().take() {
                return Some(Came::Pulled(staged));
            }
            if now >= publish_at {
                publish_at = now.saturating_add(PUBLISH_EVERY);
                self.publish(&repair, now);
                self.give_up_waiting(now);
            }
            let deadline = to_write.as_ref().map_or(Nanos(u64::MAX), |(at, _)| *at);
            let deadline = deadline.min(repair.next_deadline()).min(publish_at);
            let pause = deadline.saturating_sub(self.host.rt.now());
            tokio::select! {
                biased;
                () = self.host.events.wait() => {}
                () = self.host.rt.sleep(pause) => {}
            }
        }
        None
    }

    /// Where the others' logs begin behind what is damaged here, a snapshot of theirs takes this log's place.
    fn begin_pulling(&self, floor: Index) {
        let host = Rc::clone(&self.host);
        host.life.begin();
        host.committed.set(floor);
        let place = install_place(&self.setup.config, self.directory.identity.log(self.shard));
        let pulling = pull_wanted(Rc::clone(&host), self.setup.clone(), place);
        self.host.rt.spawn(async move { host.life.task(pulling).await });
    }

    fn handle(&mut self, repair: &mut Repair, now: Nanos, event: Event) {
        match event {
            Event::PeerUp { peer, start } => {
                self.connected.insert(peer, start);
                repair.handle_peer_up(now, peer);
            }
            Event::PeerLost { peer, .. } => {
                self.connected.remove(&peer);
                repair.handle_peer_lost(peer);
            }
            Event::IncomingUp { peer, start } => {
                self.incoming.insert(peer, start);
                self.host.nudge(peer);
            }
            Event::IncomingLost(peer) => {
                self.incoming.remove(&peer);
            }
            Event::Doubtful(peer) => self.host.nudge(peer),
            // It is refused already; it is dialled again, and told of again to a shard that can tell a leader.
            Event::WentBack { .. } => {}
            Event::Message { from, message: PeerMessage::Pulled(pulled) } => self.host.note_pulled(from, pulled),
            Event::Message { from, message } => repair.handle_message(now, from, message),
            Event::Operation { connection, ticket, operation } => {
                self.waiting.push_back((now, connection, ticket, operation));
            }
            Event::Closed(connection) => self.waiting.retain(|(_, of, _, _)| *of != connection),
            Event::Room(has_room) => self.has_room = Some(has_room),
            // A shard that does not run yet leads nothing, and asked for nothing.
            Event::TransferLeadership
            | Event::LogLacksRoom
            | Event::DiskIsSlow
            | Event::SnapshotWritten
            | Event::SnapshotKept { .. }
            | Event::NotGiven { .. }
            | Event::Staged
            | Event::Stopping
            | Event::VoteSaved(_)
            | Event::Appended(_)
            | Event::EntriesRead { .. }
            | Event::CommandRead { .. }
            | Event::BodyGivenUp(_)
            | Event::RowsMapped(_)
            | Event::FilesChanged(_)
            | Event::FoundDamaged(_)
            | Event::Lacking { .. } => {}
        }
    }

    async fn give(&self, to: NodeId, fetch: Fetch, placements: &[Placement]) {
        let held = match self.host.reader.read_entries(placements).await {
            Ok(entries) => Held::Entries(entries),
            Err(error) => {
                tracing::warn!(shard = %self.shard, "node {to} looks for a copy of entry {}: {error}", fetch.last);
                Held::Faulty
            }
        };
        self.host.send(to, &Repair::answer(fetch, held));
    }

    async fn write(&self, plan: &Plan) -> Result<(), RewriteError> {
        let host = &self.host;
        let identity = self.directory.identity.log(self.shard);
        host.begin_write(host.rt.now());
        let written = rewrite(host.rt.disk(), &host.reader, &identity, plan).await;
        host.end_write();
        host.reader.forget(plan.header.number);
        written
    }

    /// As a shard without a leader does: a put is sent elsewhere, everyone else is hung up on.
    fn give_up_waiting(&mut self, now: Nanos) {
        let patience = Nanos::from_millis(self.setup.config.tunables.no_quorum_timeout_ms);
        let is_over = |(since, ..): &(Nanos, ConnectionId, u64, Operation)| now >= since.saturating_add(patience);
        let count = self.waiting.iter().take_while(|waiting| is_over(waiting)).count();
        for (_, connection, ticket, operation) in self.waiting.drain(..count) {
            match operation {
                Operation::Put { .. } => self.host.answers.answer(connection, ticket, Answer::TryElsewhere),
                _ => self.host.answers.answer(connection, 0, Answer::Hangup),
            }
        }
    }

    fn publish(&mut self, repair: &Repair, now: Nanos) {
        let waits_for = repair.waits_for();
        if let Some(text) = &waits_for
            && self
                .told
                .as_ref()
                .is_none_or(|(at, told)| told != text && *at <= now || at.saturating_add(TELL_EVERY) <= now)
        {
            tracing::warn!(shard = %self.shard, "does not serve: {text}");
            self.told = Some((now, text.clone()));
        }
        self.metrics.repaired_entries.inc_by(self.repaired.saturating_sub(self.metrics.repaired_entries.get()));
        self.setup.board.publish(ShardStatus {
            shard: self.shard.0,
            role: RoleName::Recovering,
            last_index: repair.last().0,
            committed: repair.committed().0,
            faulty: repair.faulty(),
            repaired: self.repaired,
            repair: waits_for,
            room: self.has_room.unwrap_or(true),
            ..ShardStatus::default()
        });
    }

    /// The shard hears of everything that still holds.
    fn hand_over(&mut self) {
        self.metrics.repaired_entries.inc_by(self.repaired.saturating_sub(self.metrics.repaired_entries.get()));
        let events = &self.host.events;
        let since = events.take_all();
        self.incoming.iter().for_each(|(&peer, &start)| events.push(Event::IncomingUp { peer, start }));
        self.connected.iter().for_each(|(&peer, &start)| events.push(Event::PeerUp { peer, start }));
        if let Some(has_room) = self.has_room {
            events.push(Event::Room(has_room));
        }
        for (_, connection, ticket, operation) in self.waiting.drain(..) {
            events.push(Event::Operation { connection, ticket, operation });
        }
        since.into_iter().for_each(|event| events.push(event));
    }
}
