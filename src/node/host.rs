//! One shard on its core thread: events in, effects carried out. Decides nothing.
//!
//! Every turn takes events that gathered, as many as are a bounded amount of work, lets the shard decide, and starts what it
//! decided. Disk and network work goes on in tasks of its own, which push their completions back as events.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use super::acquaintance::{Ledger, NodeGate};
use super::answer_rooms::AnswerRooms;
use super::fate::Fate;
use super::giving::{give_jobs, give_piece};
use super::installing::Staged;
use super::intake::{Intake, Taken};
use super::queue::Queue;
use super::snapshots::SnapshotView;
use super::write_times::WriteTimes;
use crate::api::{Answer, Operation};
use crate::fatal::Fatal;
use crate::io::{Disk, Runtime, yield_now};
use crate::net::message::{PeerMessage, Pulled};
use crate::net::outbox::{Outbox, PushError};
use crate::raft::message::Vote;
use crate::shard::effect::{Append, ConnectionId, Effect, JobPlace, Keep, SnapshotDraft, Stop, Wanted};
use crate::shard::giving::Kept;
use crate::shard::write_watch::WriteWatch;
use crate::shard::{Moment, Shard};
use crate::status::{InstallStatus, LatencyStatus};
use crate::types::{Incarnation, Index, JobId, Nanos, NodeId, SnapshotName, Start};
use crate::wal::catalog::{EnqueueAt, PieceName};
use crate::wal::entry::Entry;
use crate::wal::footer::Footer;
use crate::wal::index::Placement;
use crate::wal::keeper::{Census, Change};
use crate::wal::reader::{LogReader, ReadError};
use crate::wal::segment::parse_file_name;
use crate::wal::store::StoreReader;

/// The status of a shard is shown this often, unless a look at it takes long: there may be a million tubes. So small a part of the time
/// goes to it, at most.
const PUBLISH_EVERY: Nanos = Nanos::from_millis(250);
const PUBLISH_PART_MAX: u64 = 32;

/// A bound on memory, and many more than a device needs to be busy; not measured beyond that.
pub const BODY_READS_MAX: usize = 128;

#[derive(Debug)]
pub enum Event {
    Operation {
        connection: ConnectionId,
        ticket: u64,
        operation: Operation,
    },
    Closed(ConnectionId),
    PeerUp {
        peer: NodeId,
        start: Start,
    },
    PeerLost {
        peer: NodeId,
        refused: bool,
    },
    IncomingUp {
        peer: NodeId,
        start: Start,
    },
    IncomingLost(NodeId),
    /// The peer's directory was seen to be older than what the peer has told: this node admits it no more.
    WentBack {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// The peer has to be dialled, to learn whether it went back.
    Doubtful(NodeId),
    Message {
        from: NodeId,
        message: PeerMessage,
    },
    VoteSaved(Vote),
    Appended(Vec<Placement>),
    EntriesRead {
        read: u64,
        entries: Result<Vec<Entry>, String>,
    },
    CommandRead {
        read: u64,
        command: Result<Bytes, String>,
    },
    /// A body found no room for too long.
    BodyGivenUp(u64),
    RowsMapped(Rc<Footer>),
    FilesChanged(Change),
    /// A file that is written no more is damaged.
    FoundDamaged(PieceName),
    /// A file cannot be mended without copies of these jobs.
    Lacking {
        jobs: Vec<JobId>,
        why: String,
    },
    Room(bool),
    /// An append waits for room for a new segment.
    LogLacksRoom,
    /// The disk has left a write unanswered for so long that another node should lead.
    DiskIsSlow,
    SnapshotWritten,
    /// A snapshot is verified; and where the one before it stands, if that is, too.
    SnapshotKept {
        newest: Kept,
        older: Option<Index>,
    },
    /// The first of the jobs that a peer pulls could not be read at this place.
    NotGiven {
        to: NodeId,
        snapshot: SnapshotName,
        place: JobPlace,
    },
    /// A snapshot was pulled, and waits to take the log's place.
    Staged,
    /// The node is about to stop in peace.
    Stopping,
    TransferLeadership,
}

/// Where the shard's answers go: to the connections of this core thread, or over a ring to another's.
pub trait Answers {
    fn answer(&self, connection: ConnectionId, ticket: u64, answer: Answer);
}

/// Who sees the shard's status and counters.
pub trait Observer {
    fn observe(&self, shard: &mut Shard, now: Nanos, disk: DiskView);
    /// A turn has ended: how much work it was, and what processor time of the thread it took.
    fn turned(&self, items: usize, took: Nanos);
}

/// Sees what goes into the shard and comes out of it, and the shard after each of its turns. Simulation checks its invariants
/// here; a node that serves has none.
pub trait TurnWatch {
    /// The event is about to be handled.
    fn handed(&self, shard: &Shard, event: &Event);
    /// The effect is about to be carried out.
    fn decided(&self, shard: &Shard, effect: &Effect);
    fn turned(&self, shard: &Shard, moment: Moment);
}

impl Event {
    /// Whether it still means something to a shard that is opened anew.
    #[must_use]
    pub fn outlives_its_shard(&self) -> bool {
        match self {
            Event::Operation { .. }
            | Event::Closed(_)
            | Event::PeerUp { .. }
            | Event::PeerLost { .. }
            | Event::IncomingUp { .. }
            | Event::IncomingLost(_)
            | Event::WentBack { .. }
            | Event::Doubtful(_)
            | Event::Message { .. }
            | Event::Room(_)
            | Event::Stopping
            | Event::TransferLeadership => true,
            Event::VoteSaved(_)
            | Event::Appended(_)
            | Event::EntriesRead { .. }
            | Event::CommandRead { .. }
            | Event::BodyGivenUp(_)
            | Event::RowsMapped(_)
            | Event::FilesChanged(_)
            | Event::FoundDamaged(_)
            | Event::Lacking { .. }
            | Event::LogLacksRoom
            | Event::DiskIsSlow
            | Event::SnapshotWritten
            | Event::SnapshotKept { .. }
            | Event::NotGiven { .. }
            | Event::Staged => false,
        }
    }
}

/// What the shard itself does not know of its disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskView {
    /// How long the disk has left writes unanswered.
    /// The time of the node's clock.
    pub at: Nanos,
    pub stalled: Option<Nanos>,
    pub segments: u64,
    pub log_bytes: u64,
    /// Of the segment for which the log waits.
    pub log_needs_bytes: Option<u64>,
    pub log_writes: LatencyStatus,
    pub census: Census,
    pub snapshot: SnapshotView,
    /// For how long there has been no newer one.
    pub snapshot_age: Nanos,
    pub install: Option<InstallStatus>,
}

pub struct Host<R: Runtime> {
    pub rt: R,
    pub events: Rc<Intake>,
    pub log_work: Queue<Append>,
    pub votes: Queue<Vote>,
    pub to_snapshot: Queue<SnapshotDraft>,
    pub last_snapshot: Rc<Cell<SnapshotView>>,
    /// What is being pulled, and how far that is.
    pub install: Cell<Option<InstallStatus>>,
    pub to_keep: Queue<Keep>,
    /// Snapshots that this node lacks, what others gave of one, and one that came in full.
    pub wanted: Queue<Wanted>,
    pub pulled: Queue<(NodeId, Pulled)>,
    pub is_pulling: Cell<bool>,
    pub staged: RefCell<Option<Box<Staged<R::Disk>>>>,
    /// Bodies are read back so many at a time: each takes memory, and ten thousand workers may wait when a backlog is opened.
    pub body_reads: Semaphore,
    /// Bodies that are read back have room first, until the client has taken them.
    pub answer_rooms: AnswerRooms,
    /// Who is being given something at the moment.
    pub giving: RefCell<BTreeSet<NodeId>>,
    pub snapshots: PathBuf,
    pub life: Life,
    pub links: BTreeMap<NodeId, Outbox>,
    pub gate: Rc<NodeGate<R::Disk>>,
    pub ledger: Rc<Ledger>,
    pub reader: LogReader<R::Disk>,
    pub stores: StoreReader<R::Disk>,
    pub answers: Rc<dyn Answers>,
    pub observer: Rc<dyn Observer>,
    pub watch: Option<Rc<dyn TurnWatch>>,
    pub fate: Rc<Fate>,
    /// Writes of the log and the vote that are under way.
    pub writes: RefCell<WriteWatch>,
    /// The first of them was begun.
    pub writing: Notify,
    /// Bytes of the new segment for which an append waits, where there is no room for it. That is no slow write, and no
    /// failed one.
    pub log_lacks_room: Cell<Option<u64>>,
    pub write_times: RefCell<WriteTimes>,
    /// Segment files of the log, spares included, and their bytes, when they were last counted.
    pub log_extent: Cell<(u64, u64)>,
    /// What the shard's files hold, as the keeper last counted.
    pub census: Cell<Census>,
    /// What was counted before a snapshot took the log's place, the last time.
    pub earlier_census: Cell<Census>,
    /// The files that have rows, ascending, each with the last of its entries that count.
    pub cold_files: RefCell<Vec<(PieceName, Index)>>,
    /// Snapshots that were whole once, and are not.
    pub damaged_snapshots: RefCell<BTreeSet<Index>>,
    /// Leads now, as of the last turn; for shutdown.
    pub leads: Cell<bool>,
    /// A marker or a snapshot is under way, as of the last turn; for shutdown.
    pub is_marking: Cell<bool>,
    /// Up to where the log is known to be committed, as of the last turn.
    pub committed: Cell<Index>,
    /// Snapshots that others may be pulling, as of the last turn.
    pub pinned: RefCell<BTreeSet<Index>>,
}

impl<R: Runtime> Host<R> {
    fn moment(&self) -> Moment {
        Moment { now: self.rt.now(), wall: self.rt.wall() }
    }

    /// A write is under way; whoever watches the disk looks again when it may be late.
    pub fn begin_write(&self, now: Nanos) {
        self.writes.borrow_mut().begin(now);
        self.writing.notify_one();
    }

    pub fn end_write(&self) {
        self.writes.borrow_mut().complete(self.rt.now());
    }

    /// Counts the log's segment files anew, after some were made or removed.
    pub async fn measure_log(&self) {
        // What cannot be listed now is counted the next time.
        let Ok(files) = self.rt.disk().list(self.reader.directory()).await else { return };
        let segments = files.iter().filter(|file| parse_file_name(&file.name).is_some());
        self.log_extent.set(segments.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.bytes)));
    }

    /// What a job was put with: its ENQ as it stands in the log or in a store segment. Whether it is whole is still to be seen.
    ///
    /// # Errors
    /// If it cannot be read, or something else is there.
    pub async fn read_enqueue(&self, at: &EnqueueAt) -> Result<Bytes, ReadError> {
        match at {
            EnqueueAt::Log { placement, offset, bytes } => self.reader.read_payload(placement, *offset, *bytes).await,
            EnqueueAt::Store(at) => self.stores.read(at).await,
        }
    }

    /// Whether something is still to be written or decided.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.writes.borrow().is_writing()
            || !self.log_work.is_empty()
            || !self.votes.is_empty()
            || !self.events.is_empty()
    }

    /// Whether this life of the shard is over, and its tasks are to end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.fate.is_sealed() || self.life.is_over()
    }

    /// Returns when there may be something in the queue, or this life of the shard is over.
    pub async fn wait_for<T>(&self, queue: &Queue<T>) {
        tokio::select! {
            biased;
            () = queue.wait() => {}
            () = self.life.end() => {}
        }
    }

    /// Sleeps for so long, or until this life of the shard is over.
    pub async fn pause(&self, pause: Nanos) {
        tokio::select! {
            biased;
            () = self.life.end() => {}
            () = self.rt.sleep(pause) => {}
        }
    }

    /// Runs the shard until the node's fate is sealed; or until it is to be opened anew, from what was staged for it.
    pub async fn run(self: Rc<Self>, mut shard: Shard) -> Option<(Shard, Staged<R::Disk>)> {
        let mut publish_at = Nanos::ZERO;
        while !self.fate.is_sealed() {
            let moment = self.moment();
            let begun = self.rt.thread_time();
            let Taken { events, items } = self.events.take();
            for event in events {
                if let Some(watch) = &self.watch {
                    watch.handed(&shard, &event);
                }
                self.handle(&mut shard, moment, event);
            }
            if shard.next_deadline(moment) <= moment.now {
                shard.handle_time(moment);
            }
            shard.flush(moment);
            self.ledger.set_own(shard.standing());
            while let Some(effect) = shard.poll_effect() {
                if let Some(watch) = &self.watch {
                    watch.decided(&shard, &effect);
                }
                self.carry_out(effect);
            }
            self.leads.set(shard.leads());
            self.is_marking.set(shard.is_marking());
            self.committed.set(shard.raft().committed());
            *self.pinned.borrow_mut() = shard.pinned_snapshots();
            if let Some(watch) = &self.watch {
                watch.turned(&shard, moment);
            }
            if moment.now >= publish_at {
                let begun = self.rt.now();
                let stalled = self.writes.borrow().waited();
                let (segments, log_bytes) = self.log_extent.get();
                let (snapshot, census) = (self.last_snapshot.get(), self.census.get());
                let snapshot_age = moment.now.saturating_sub(snapshot.since);
                let install = self.install.get();
                let log_needs_bytes = self.log_lacks_room.get();
                let log_writes = self.write_times.borrow().summary();
                let view = DiskView {
                    at: begun,
                    stalled,
                    segments,
                    log_bytes,
                    log_needs_bytes,
                    log_writes,
                    census,
                    snapshot,
                    snapshot_age,
                    install,
                };
                self.observer.observe(&mut shard, moment.now, view);
                let took = self.rt.now().saturating_sub(begun);
                let pause = PUBLISH_EVERY.max(Nanos(took.0.saturating_mul(PUBLISH_PART_MAX)));
                publish_at = moment.now.saturating_add(pause);
            }
            let items = items + shard.take_items_stepped();
            self.observer.turned(items, self.rt.thread_time().saturating_sub(begun));
            if let Some(staged) = self.take_staged(&shard) {
                return Some((shard, staged));
            }
            if self.events.is_empty() && !shard.has_steps() {
                let deadline = shard.next_deadline(moment).min(publish_at);
                let now = self.rt.now();
                tokio::select! {
                    biased;
                    () = self.events.wait() => {}
                    () = self.rt.sleep(deadline.saturating_sub(now)) => {}
                }
            } else {
                yield_now().await;
            }
        }
        None
    }

    /// What was staged, once the shard has nothing under way any more. What it no longer wants is forgotten.
    fn take_staged(&self, shard: &Shard) -> Option<Staged<R::Disk>> {
        let mut staged = self.staged.borrow_mut();
        let is_wanted = staged.as_ref().map(|staged| shard.wants(&staged.name, staged.staging.after()))?;
        if !is_wanted {
            *staged = None;
            return None;
        }
        let is_at_rest = !self.writes.borrow().is_writing()
            && self.log_work.is_empty()
            && self.votes.is_empty()
            && shard.is_at_rest();
        if is_at_rest { staged.take().map(|staged| *staged) } else { None }
    }

    fn handle(&self, shard: &mut Shard, moment: Moment, event: Event) {
        match event {
            Event::Operation { connection, ticket, operation } => {
                shard.handle_operation(moment, connection, ticket, operation);
            }
            Event::Closed(connection) => shard.handle_closed(moment, connection),
            Event::PeerUp { peer, start } => {
                shard.handle_start(moment, peer, start);
                shard.handle_peer_up(moment, peer);
            }
            Event::PeerLost { peer, refused } => shard.handle_peer_lost(moment, peer, refused),
            // It dials, so it is there: dial it at once.
            Event::IncomingUp { peer, start } => {
                shard.handle_incoming_start(moment, peer, start);
                shard.handle_incoming_up(peer);
                self.nudge(peer);
            }
            Event::WentBack { node, incarnation } => shard.handle_went_back(moment, node, incarnation),
            Event::Doubtful(peer) => self.nudge(peer),
            Event::IncomingLost(peer) => shard.handle_incoming_lost(peer),
            Event::Message { from, message: PeerMessage::Pulled(pulled) } => {
                if !shard.handle_copy(moment, &pulled) {
                    self.note_pulled(from, pulled);
                }
            }
            Event::Message { from, message } => shard.handle_message(moment, from, message),
            Event::VoteSaved(vote) => shard.handle_vote_saved(moment, vote),
            Event::Appended(placements) => shard.handle_appended(moment, &placements),
            Event::EntriesRead { read, entries } => shard.handle_entries_read(moment, read, entries),
            Event::CommandRead { read, command } => shard.handle_command_read(moment, read, command),
            Event::BodyGivenUp(read) => shard.handle_body_given_up(read),
            Event::RowsMapped(footer) => shard.handle_rows_mapped(footer),
            Event::FilesChanged(change) => {
                for name in &change.removed {
                    match *name {
                        PieceName::Log(number) => self.reader.forget(number),
                        PieceName::Store(number) => self.stores.forget(number),
                    }
                }
                shard.handle_files_changed(moment, change);
            }
            Event::FoundDamaged(name) => shard.handle_found_damaged(name),
            Event::Lacking { jobs, why } => shard.handle_lacking(moment, jobs, &why),
            Event::Room(has_room) => shard.handle_room(has_room),
            Event::LogLacksRoom => shard.handle_log_lacks_room(moment),
            Event::DiskIsSlow => shard.handle_disk_stalled(moment),
            Event::SnapshotWritten => shard.handle_snapshot_written(),
            Event::SnapshotKept { newest, older } => shard.handle_snapshot_kept(moment, newest, older),
            Event::NotGiven { to, snapshot, place } => shard.handle_not_given(to, snapshot, place),
            // What is staged is looked at in each turn.
            Event::Staged => {}
            Event::Stopping => shard.handle_stopping(),
            Event::TransferLeadership => {
                shard.transfer_leadership(moment);
            }
        }
    }

    /// What Raft sends and what is fetched may be lost; what sessions hand over must not be, on a connection that goes on: it is broken off,
    /// and everything is handed over again on the next one.
    fn handle_unsent(&self, to: NodeId, message: &PeerMessage, error: PushError) {
        match (error, message) {
            (PushError::Down, _)
            | (
                PushError::Full,
                PeerMessage::Raft(_)
                | PeerMessage::Fetch(_)
                | PeerMessage::Fetched(_)
                | PeerMessage::Offer { .. }
                | PeerMessage::Pull(_)
                | PeerMessage::Pulled(_),
            ) => {}
            (PushError::Full, _) => {
                tracing::warn!("too much waits for node {to}: the connection is made anew");
                self.links[&to].break_off();
            }
            (PushError::TooLong(error), _) => self.fate.seal(Fatal::Internal(format!("to node {to}: {error}"))),
        }
    }

    fn fatal(&self, why: &Stop) -> Fatal {
        match why {
            Stop::Raft(_) => Fatal::ChainConflict(why.to_string()),
            Stop::StateDiffers { .. } => Fatal::StateDiffers(why.to_string()),
            Stop::UnreadableCommand { .. } => Fatal::FaultyLog(why.to_string()),
            Stop::JobLost { .. } => Fatal::JobLost(why.to_string()),
            // The next start finds what is damaged, and looks for copies of it.
            Stop::BodyMismatch { .. } | Stop::UnreadableLog { .. } => {
                Fatal::ReadFailed { path: self.reader.directory().to_path_buf(), why: why.to_string() }
            }
        }
    }

    pub fn send(&self, to: NodeId, message: &PeerMessage) {
        if let Some(link) = self.links.get(&to)
            && let Err(error) = link.push(message)
        {
            self.handle_unsent(to, message, error);
        }
    }

    /// One gift at a time goes to a peer; who does not wait for it asks again.
    fn give(self: &Rc<Self>, to: NodeId, gift: impl Future<Output = ()> + 'static) {
        if self.giving.borrow_mut().insert(to) {
            let host = Rc::clone(self);
            self.rt.spawn(async move {
                gift.await;
                host.giving.borrow_mut().remove(&to);
            });
        }
    }

    /// Late answers are for nobody.
    pub fn note_pulled(&self, from: NodeId, pulled: Pulled) {
        if self.is_pulling.get() {
            self.pulled.push((from, pulled));
        }
    }

    /// Only the last snapshot that is wanted counts.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.take();
        self.wanted.push(wanted);
    }

    pub fn nudge(&self, peer: NodeId) {
        if let Some(link) = self.links.get(&peer) {
            link.nudge();
        }
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::SaveVote(vote) => self.votes.push(vote),
            Effect::Append(append) => self.log_work.push(append),
            Effect::Send { to, message } => self.send(to, &message),
            Effect::Answer { connection, ticket, answer } => self.answers.answer(connection, ticket, answer),
            Effect::ReadEntries { read, placements } => {
                let host = Rc::clone(self);
                self.rt.spawn(async move {
                    let entries = host.reader.read_entries(&placements).await.map_err(|error| error.to_string());
                    host.events.push(Event::EntriesRead { read, entries });
                });
            }
            Effect::ReadCommand { read, at } => {
                let host = Rc::clone(self);
                self.rt.spawn(async move {
                    let Some(room) = host.answer_rooms.take(&host.rt, at.bytes() as usize).await else {
                        return host.events.push(Event::BodyGivenUp(read));
                    };
                    let turn = host.body_reads.acquire().await.expect("it is never closed");
                    let command = host.read_enqueue(&at).await.map_err(|error| error.to_string());
                    drop(turn);
                    let command = command.map(|command| room.hold(command));
                    host.events.push(Event::CommandRead { read, command });
                });
            }
            Effect::Keep(work) => self.to_keep.push(work),
            Effect::WriteSnapshot(draft) => self.to_snapshot.push(*draft),
            Effect::GivePiece { to, snapshot, offset } => {
                self.give(to, give_piece(Rc::clone(self), to, snapshot, offset))
            }
            Effect::GiveJobs { to, snapshot, jobs } => self.give(to, give_jobs(Rc::clone(self), to, snapshot, jobs)),
            Effect::Install(wanted) => self.want(wanted),
            Effect::ShutOut { node, incarnation } => {
                let host = Rc::clone(self);
                self.rt.spawn(async move {
                    host.gate.shut_out(node, incarnation, &host.fate).await;
                    if let Some(link) = host.links.get(&node) {
                        link.break_off();
                    }
                });
            }
            Effect::Stop(why) => self.fate.seal(self.fatal(&why)),
        }
    }
}

/// One life of a shard in a process: from its opening to its end, or to its next opening. Its tasks end with it.
#[derive(Debug, Default)]
pub struct Life {
    is_over: Cell<bool>,
    tasks: Cell<usize>,
    changed: Notify,
}

impl Life {
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Returns when it is over.
    pub async fn end(&self) {
        while !self.is_over() {
            let changed = self.changed.notified();
            if self.is_over() {
                return;
            }
            changed.await;
        }
    }

    pub fn begin(&self) {
        self.is_over.set(false);
    }

    /// Ends it; returns when all its tasks have ended.
    pub async fn finish(&self) {
        self.is_over.set(true);
        self.changed.notify_waiters();
        while self.tasks.get() > 0 {
            self.changed.notified().await;
        }
    }

    /// A task of this life.
    pub async fn task(&self, work: impl Future<Output = ()>) {
        self.tasks.set(self.tasks.get() + 1);
        work.await;
        self.tasks.set(self.tasks.get() - 1);
        self.changed.notify_waiters();
    }
}

/// Ends when either does.
pub async fn until(stop: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop => {}
        () = work => {}
    }
}
