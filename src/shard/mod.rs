//! One Raft group put together: consensus, the replicated state machine, the log's index, and both sides of its clients'
//! sessions. Takes events, gives effects; decides without I/O, clock or chance.
//!
//! ```text
//!  client ── handle_operation ─┐                               ┌─> Answer
//!  peers ─── handle_message ───┤   sessions ─> leading ─> raft ├─> Send
//!  disk ──── handle_appended ──┤        ^         (entries)  │ ├─> Append, SaveVote
//!  clock ─── handle_time ──────┘        └── apply <─ commit ─┘ └─> ReadEntries, ReadCommand, Stop
//! ```
//!
//! Chapters, in reading order: `effect` (what comes out), `gate` (what must be durable before what leaves), `cache` and
//! `closing` and `floor` (where entries and jobs are), `sessions` (the side of the client's node), `leading`, `waits`,
//! `references` (the side of the leader), `surveys` (questions about all tubes), `steps` (work that is too much for one turn), `placement` (which node that should be), `operations` (what clients ask), `peers`
//! (what other nodes say), `apply` (what is committed), `markers` (what is kept of it), `giving` and `installing` (a node that is behind the log and one
//! that is not), `copies` (jobs that cannot be read here), `write_watch` and `pace` (what stands
//! still), `freshness` (how old this node's state is); `repair` (a shard whose
//! log is damaged, before it takes part).

pub mod apply;
pub mod cache;
pub mod clock;
pub mod closing;
pub mod copies;
pub mod effect;
pub mod floor;
mod freshness;
pub mod gate;
pub mod giving;
pub mod installing;
pub mod leading;
pub mod markers;
pub mod operations;
mod pace;
pub mod peers;
pub mod placement;
pub mod reads;
pub mod references;
pub mod repair;
pub mod sessions;
pub mod status;
pub mod steps;
pub mod surveys;
pub mod waits;
pub mod write_watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use self::cache::EntryCache;
use self::clock::LogClock;
use self::copies::Copies;
use self::effect::{Append, ConnectionId, Effect, Stop};
use self::freshness::Freshness;
use self::gate::Gate;
use self::giving::Giving;
use self::leading::Leading;
use self::markers::Markers;
use self::peers::Peer;
use self::reads::{BodyReads, Reads};
use self::references::NodeReferences;
use self::sessions::Sessions;
use self::steps::Steps;
use self::surveys::Surveys;
use crate::api::Answer;
use crate::api::beanstalkd::output_budget::AnswerBudget;
use crate::job::{DepthScan, Machine};
use crate::mutation::{self, Mutation};
use crate::net::message::PeerMessage;
use crate::net::standing::Standing;
use crate::raft::membership::Membership;
use crate::raft::message::{self, EntryMeta, Token, Vote};
use crate::raft::quorum::Tally;
use crate::raft::{Log, PeerProgress, ProgressState, Raft};
use crate::types::{BootEpoch, Incarnation, Index, JobId, LogPosition, Nanos, NodeId, ShardId, Term, Times};
use crate::wal::catalog::{Catalog, Piece};
use crate::wal::entry::{Draft, Entry, EntryKind, LogIdentity};
use crate::wal::index::{LogIndex, Placement, SegmentNumber};
use crate::wal::rows::{RowError, Rows};

/// The two readings of this node's clocks that come with every event.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic, counts suspended time.
    pub now: Nanos,
    /// Since the Unix epoch; may jump.
    pub wall: Nanos,
}

/// What does not change while the shard runs.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    pub node: NodeId,
    pub boot: BootEpoch,
    pub log: LogIdentity,
    pub raft: crate::raft::Config,
    pub membership: Membership,
    /// A batch grows to this many bytes before a second entry is begun.
    pub entry_bytes_target: usize,
    /// Recent entries kept in memory.
    pub cache_bytes_max: usize,
    /// The log is kept for peers that lag by no more than this.
    pub lagging_bytes_max: u64,
    /// What this node's clients have put, and no answer was applied to, takes no more memory than this and one job. Those that closed
    /// their connections have theirs here still, where nothing else counts it.
    pub outstanding_bytes_max: usize,
    /// Room for bodies on their way to clients.
    pub answers: Arc<AnswerBudget>,
    /// An operation waits this long while there is no quorum; then its connection is closed.
    pub no_quorum_timeout: Nanos,
    /// Where this shard's leader belongs; none where whoever was elected may stay.
    pub preferred_leader: Option<NodeId>,
    /// A marker is proposed when the log has grown by at least so many bytes. 0: never.
    pub marker_bytes: u64,
    /// For Raft's randomised timeouts.
    pub seed: u64,
}

/// What recovery found in the log.
#[derive(Debug)]
pub struct Recovered {
    pub vote: Vote,
    /// The state that a snapshot holds, or the one before the first entry. Never above `committed`.
    pub machine: Machine,
    pub log: Log,
    /// What has its rows in files: everything below the base of `index`.
    pub pieces: Vec<Piece>,
    pub index: LogIndex,
    pub rows: Rows,
    /// The highest index that the log itself knows to be committed.
    pub committed: Index,
    pub last_times: Times,
}

/// Invariants: applied <= committed <= last; every entry above `applied`, and every one that is not durable, is in the
/// cache or can be read back by `catalog`.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    raft: Raft,
    machine: Machine,
    gate: Gate,
    clock: LogClock,
    cache: EntryCache,
    catalog: Catalog,
    /// The segment whose rows are on their way to a file.
    closing: Option<SegmentNumber>,
    sessions: Sessions,
    markers: Markers,
    giving: Giving,
    copies: Copies,
    reads: Reads,
    bodies: BodyReads,
    surveys: Surveys,
    steps: Steps,
    depths: DepthScan,
    references: NodeReferences,
    /// What this node's connections reference, not yet told to the leader.
    reference_changes: Vec<crate::net::message::ReferenceDelta>,
    peers: BTreeMap<NodeId, Peer>,
    /// Nodes that were found here to have gone back, with which directory, until that is committed.
    went_back: BTreeMap<NodeId, Incarnation>,
    leading: Option<Leading>,
    /// The leader that this node's sessions hand their commands to, if it can be reached.
    upstream: Option<(NodeId, Term)>,
    freshness: Freshness,
    /// Since when there is none.
    upstream_lost: Option<Nanos>,
    /// When an entry was last applied here, or the first of the outstanding commands was handed over.
    last_progress: Nanos,
    /// Before then nobody has waited for too long, as was seen the last time.
    given_up_until: Nanos,
    /// Waits whose end a leader confirmed, up to an index that is not yet applied here.
    ended_waits: Vec<EndedWait>,
    /// How often waits of this node were registered with a leader.
    registrations: u64,
    /// Lease deadlines of reservations whose sessions wait, less the safety margin.
    deadlines_soon: BTreeSet<(Nanos, ConnectionId)>,
    /// Commands for a leader on another node that gather for one message.
    forward: Vec<Bytes>,
    /// Entries that an event brought, until Raft says which of them to store.
    arriving: Vec<Entry>,
    /// Appends that were begun and are not yet durable, oldest first.
    appending: VecDeque<PendingAppend>,
    committed: Index,
    applied: LogPosition,
    /// Whether a read of committed entries from the log is under way.
    reading_back: bool,
    /// This node's own disk has room; and, as its leader says, the disks of a majority have.
    own_room: bool,
    cluster_room: bool,
    /// An append waits for room: this node learns of nothing more that is committed.
    log_lacks_room: bool,
    next_read: u64,
    effects: VecDeque<Effect>,
    counters: status::Counters,
    stopped: bool,
}

/// A leader's word that nothing it proposed for a wait is above `index`. Void once the wait is registered in another term.
#[derive(Debug, Clone, Copy)]
struct EndedWait {
    index: Index,
    term: Term,
    connection: ConnectionId,
    registration: u64,
}

#[derive(Debug)]
struct PendingAppend {
    token: Token,
    truncate_after: Option<Index>,
    /// Each entry with its first job's id and how many jobs it holds.
    metas: Vec<(EntryMeta, JobId, u32)>,
}

impl Shard {
    #[must_use]
    pub fn new(config: ShardConfig, recovered: Recovered, moment: Moment) -> Shard {
        let last = recovered.log.last();
        let durable = Token { term: last.term, index: last.index };
        let mut raft = Raft::new(
            config.raft.clone(),
            config.membership.clone(),
            recovered.vote,
            recovered.log,
            recovered.committed,
            moment.now,
            config.seed,
        );
        let peers = config
            .membership
            .members()
            .into_iter()
            .filter(|&node| node != config.node)
            .map(|node| (node, Peer::default()))
            .collect();
        // Above a snapshot that was just put in its place the log is empty.
        let last_times = recovered.machine.last_times().latest(recovered.last_times);
        raft.await_admission();
        let mut shard = Shard {
            raft,
            markers: Markers::new(recovered.machine.applied(), recovered.machine.digest(), moment.now),
            applied: recovered.machine.applied(),
            machine: recovered.machine,
            gate: Gate::new(durable, recovered.vote),
            clock: LogClock::new(moment.now, last.term, last_times),
            cache: EntryCache::new(config.cache_bytes_max),
            catalog: Catalog::new(recovered.pieces, recovered.index, recovered.rows),
            closing: None,
            giving: Giving::default(),
            copies: Copies::default(),
            sessions: Sessions::new(config.node, config.boot),
            reads: Reads::default(),
            bodies: BodyReads::default(),
            surveys: Surveys::default(),
            steps: Steps::default(),
            depths: DepthScan::default(),
            references: NodeReferences::new(),
            reference_changes: Vec::new(),
            peers,
            went_back: BTreeMap::new(),
            leading: None,
            upstream: None,
            freshness: Freshness::default(),
            upstream_lost: Some(moment.now),
            last_progress: moment.now,
            given_up_until: moment.now,
            ended_waits: Vec::new(),
            registrations: 0,
            deadlines_soon: BTreeSet::new(),
            forward: Vec::new(),
            arriving: Vec::new(),
            appending: VecDeque::new(),
            committed: recovered.committed,
            reading_back: false,
            own_room: true,
            cluster_room: true,
            log_lacks_room: false,
            next_read: 0,
            effects: VecDeque::new(),
            counters: status::Counters::default(),
            stopped: false,
            config,
        };
        assert!(shard.applied.index <= shard.committed, "a snapshot holds only what was committed");
        shard.shut_out();
        shard.follow_raft(moment);
        shard.apply_committed(moment);
        shard
    }

    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When `handle_time` must be called at the latest.
    #[must_use]
    pub fn next_deadline(&self, moment: Moment) -> Nanos {
        let mut deadline = self.raft.next_deadline();
        // Nothing is proposed by a state that is not the present one: what brings it up to date comes as an event.
        let is_caught_up = self.applied.index >= self.committed;
        if is_caught_up && self.leading.as_ref().is_some_and(|leading| !leading.has_tick()) {
            deadline = deadline.min(self.next_tick(moment));
        }
        if let Some(at) = self.leading.as_ref().and_then(|leading| leading.waits.next_postponed()) {
            deadline = deadline.min(at);
        }
        if let Some(at) = self.next_giving_up() {
            deadline = deadline.min(at);
        }
        if let Some(look) = self.next_placement_look(moment) {
            deadline = deadline.min(look);
        }
        if is_caught_up {
            deadline = deadline.min(self.next_marker());
        }
        deadline.min(self.next_deadline_soon(moment)).min(self.copies.next_deadline())
    }

    pub fn handle_time(&mut self, moment: Moment) {
        self.raft.handle_time(moment.now);
        self.follow_raft(moment);
        self.watch_progress(moment);
        self.watch_freshness(moment);
        self.propose_tick(moment);
        self.end_postponed(moment);
        self.give_up_waiting(moment);
        self.watch_deadlines(moment);
        self.mind_placement(moment);
        self.offer_snapshots(moment);
        self.seek_copies(moment);
    }

    /// Everything that one turn of events gathered goes on its way. Call after each batch of events, before taking
    /// effects.
    pub fn flush(&mut self, moment: Moment) {
        self.take_steps(moment);
        self.send_gathered();
        self.propose_marker(moment);
        self.form_entries(moment);
        self.save_snapshot();
        self.mend_files(moment);
    }

    pub fn handle_vote_saved(&mut self, moment: Moment, vote: Vote) {
        for (to, message) in self.gate.handle_voted(vote) {
            self.send_raft(moment, to, message);
        }
        self.raft.handle_vote_saved(moment.now, vote);
        self.follow_raft(moment);
    }

    /// The oldest append that was begun is durable; where its entries lie.
    pub fn handle_appended(&mut self, moment: Moment, placements: &[Placement]) {
        self.log_lacks_room = false;
        let done = self.appending.pop_front().expect("an append completes once and in order");
        // What a later append cuts off is dead already: nobody may find it.
        let later_cuts = self.appending.iter().filter_map(|later| later.truncate_after);
        let overwritten = later_cuts.min().filter(|_| !mutation::is_on(Mutation::LateCompletion));
        let is_dead = |index: Index| overwritten.is_some_and(|after| index > after);
        for ((meta, first_job, job_count), placement) in done.metas.iter().zip(placements) {
            if !is_dead(meta.position.index) {
                self.catalog.push_place(meta.position.index, *placement, *first_job, *job_count);
            }
        }
        let durable = Token {
            term: done.token.term,
            index: overwritten.map_or(done.token.index, |after| after.min(done.token.index)),
        };
        for (to, message) in self.gate.handle_durable(durable) {
            self.send_raft(moment, to, message);
        }
        self.raft.handle_appended(moment.now, done.token);
        self.follow_raft(moment);
        self.close_segment();
        self.evict();
    }

    /// Whether this node's disk has room for more enqueues.
    pub fn handle_room(&mut self, has_room: bool) {
        self.own_room = has_room;
        self.count_room();
    }

    /// An append waits for room on this node's disk; nothing was written of it. Others may have room: one of them leads on,
    /// if it can be reached. To be told again while it lasts.
    pub fn handle_log_lacks_room(&mut self, moment: Moment) {
        self.log_lacks_room = true;
        self.handle_room(false);
        let Some(leading) = self.leading.as_ref() else { return };
        let has_room = |node: NodeId| leading.room.get(&node).copied().unwrap_or(false);
        let best = self
            .raft
            .progress()
            .filter(|peer| has_room(peer.node) && self.peers.get(&peer.node).is_some_and(|peer| peer.connected))
            .max_by_key(|peer| peer.matched);
        if let Some(successor) = best.map(|peer| peer.node) {
            // Where it is refused, one is under way, or it was too early: the next time will do.
            let _ = self.raft.transfer(moment.now, Some(successor));
            self.follow_raft(moment);
        }
    }

    /// The leader's part: whether the disks of a majority have room. A node that has not said counts as roomy.
    pub(in crate::shard) fn count_room(&mut self) {
        let Some(leading) = self.leading.as_mut() else { return };
        leading.room.insert(self.config.node, self.own_room);
        let has_room = |node: NodeId| Some(leading.room.get(&node).copied().unwrap_or(true));
        self.cluster_room = self.config.membership.tally(has_room) == Tally::Won;
    }

    /// The leader's part: whether some node has said that its disk has no room.
    fn is_room_lacking(&self) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.room.values().any(|has_room| !has_room))
    }

    /// The disk does not answer: lead no longer (E12), where another node could.
    pub fn handle_disk_stalled(&mut self, moment: Moment) {
        self.give_up_leadership(moment);
    }

    fn give_up_leadership(&mut self, moment: Moment) {
        if self.leads() && self.another_could_lead(moment) {
            self.counters.leaderships_given_up += 1;
            self.raft.step_down(moment.now);
            self.follow_raft(moment);
        }
    }

    /// Whether some voter answers, has everything that is committed, and wrote what is being written here. Without one, nobody
    /// would lead, or somebody who does no better.
    fn another_could_lead(&self, moment: Moment) -> bool {
        let voters = self.config.membership.voters();
        let written = match self.appending.is_empty() {
            true => self.raft.durable(),
            false => self.raft.durable().next(),
        };
        let needed = self.raft.committed().max(written);
        self.raft
            .progress()
            .any(|peer| voters.contains(&peer.node) && self.answers(moment, &peer) && peer.matched >= needed)
    }

    /// Whether a peer of this leader has answered within an election timeout.
    fn answers(&self, moment: Moment, peer: &PeerProgress) -> bool {
        let is_connected = self.peers.get(&peer.node).is_some_and(|state| state.connected);
        is_connected && moment.now < peer.contact.saturating_add(self.config.raft.election_timeout_max)
    }

    /// Heartbeats overtake all else, so they say nothing of whether this leader gets anything done, and their answers
    /// nothing of whether a follower does. A leader whose own write or whose applying stands still for two election
    /// timeouts gives way; a follower that answers and takes nothing for two of the longest is remembered, to be reported.
    fn watch_progress(&mut self, moment: Moment) {
        let Some(mut leading) = self.leading.take() else { return };
        let config = &self.config.raft;
        let follower_limit = Nanos(2 * config.election_timeout_max.0);
        let last = self.raft.last_position().index;
        let mut stuck = BTreeSet::new();
        for peer in self.raft.progress() {
            // One that is behind the log pulls a snapshot, which is told elsewhere.
            let lags = peer.matched < last && peer.state != ProgressState::Behind && self.answers(moment, &peer);
            let pace = leading.peers.entry(peer.node).or_default();
            if pace.stands_still(moment.now, peer.matched, lags, follower_limit) {
                stuck.insert(peer.node);
            }
        }
        leading.stuck_peers = stuck;
        let limit = Nanos(2 * config.election_timeout_min.0);
        // Lack of room is answered elsewhere: not every other node has some.
        let writes = !self.appending.is_empty() && !self.log_lacks_room;
        let is_write_stuck = leading.write.stands_still(moment.now, self.raft.durable(), writes, limit);
        let applies = self.applied.index < self.committed;
        let is_apply_stuck = leading.apply.stands_still(moment.now, self.applied.index, applies, limit);
        self.leading = Some(leading);
        if is_write_stuck || is_apply_stuck {
            self.give_up_leadership(moment);
        }
    }

    /// Whether this node comes to what its leader commits, within the time after which a leader
    /// reports that a follower takes nothing.
    fn watch_freshness(&mut self, moment: Moment) {
        let limit = Nanos(2 * self.config.raft.election_timeout_max.0);
        self.freshness.look(moment.now, self.applied.index, limit);
    }

    /// Hands leadership over where another node can take it. False where there is nothing to hand over.
    pub fn transfer_leadership(&mut self, moment: Moment) -> bool {
        let begun = self.leads() && self.raft.transfer(moment.now, None).is_ok();
        self.follow_raft(moment);
        begun
    }

    /// How far the promises reach that this node may have made: said to peers, who compare it with what they were told.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { term: self.raft.saved_term(), index: self.raft.durable() }
    }

    #[must_use]
    pub fn leads(&self) -> bool {
        self.leading.is_some()
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.config.log.shard
    }

    /// The consensus of this shard, to be looked at.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// How many commands of this node's clients are on their way, to be looked at.
    #[must_use]
    pub fn commands_under_way(&self) -> usize {
        self.sessions.outstanding_count()
    }

    /// The state behind the last entry applied, to be looked at.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// An entry that is in memory, to be looked at.
    #[must_use]
    pub fn recent_entry(&self, index: Index) -> Option<&Entry> {
        self.cache.get(index)
    }

    fn stop(&mut self, why: Stop) {
        if !std::mem::replace(&mut self.stopped, true) {
            self.effects.push_back(Effect::Stop(why));
        }
    }

    fn answer(&mut self, connection: ConnectionId, ticket: u64, answer: Answer) {
        self.effects.push_back(Effect::Answer { connection, ticket, answer });
    }

    /// Carries out what Raft decided, until it has nothing more to say.
    fn follow_raft(&mut self, moment: Moment) {
        while let Some(effect) = self.raft.poll_effect() {
            match effect {
                message::Effect::SaveVote(vote) => self.effects.push_back(Effect::SaveVote(vote)),
                message::Effect::Append { truncate_after, entries, token } => {
                    self.append(truncate_after, &entries, token);
                }
                message::Effect::Send { to, message, when } => {
                    if let Some(message) = self.gate.pass(when, to, message) {
                        self.send_raft(moment, to, message);
                    }
                }
                message::Effect::Commit(index) => {
                    self.committed = index;
                    self.apply_committed(moment);
                }
                message::Effect::Lead(term) => self.lead(moment, term),
                message::Effect::Follow { term, leader } => self.follow(moment, term, leader),
                message::Effect::ReadReady { read, index } => self.handle_read_confirmed(moment, read, index),
                message::Effect::ReadLost { read } => self.handle_read_lost(read),
                message::Effect::Stop(reason) => self.stop(Stop::Raft(reason)),
            }
        }
    }

    fn append(&mut self, truncate_after: Option<Index>, metas: &[EntryMeta], token: Token) {
        if self.stopped {
            // The entry before could not be taken.
            return;
        }
        if let Some(after) = truncate_after {
            self.cut(after, token.term);
        }
        let mut entries = Vec::with_capacity(metas.len());
        for meta in metas {
            let position = meta.position;
            let first = self.arriving.first().map_or(position.index, |entry| entry.meta.position.index);
            let found = position.index.0.checked_sub(first.0).and_then(|place| self.arriving.get(place as usize));
            let entry = found.expect("Raft stores only what just arrived, which is contiguous").clone();
            assert_eq!(entry.meta, *meta, "Raft stores what arrived unchanged");
            if let Err(error) = self.catalog.push_rows(&entry) {
                return self.stop_unreadable(position, &error);
            }
            self.counters.entries_appended += 1;
            self.counters.bytes_appended += entry.shared.len() as u64;
            self.cache.push(entry.clone());
            entries.push(entry);
        }
        let metas = entries.iter().map(|entry| (entry.meta, entry.first_job, entry.job_count)).collect();
        self.appending.push_back(PendingAppend { token, truncate_after, metas });
        self.effects.push_back(Effect::Append(Append { truncate_after, entries, commit: self.committed, token }));
    }

    fn stop_unreadable(&mut self, position: LogPosition, error: &RowError) {
        self.stop(Stop::UnreadableCommand { position, why: error.to_string() });
    }

    /// Entries above `after` are dead: the durable mark is lowered first (R1), then everything that knew of them.
    fn cut(&mut self, after: Index, term: Term) {
        self.gate.lower_durable(Token { term, index: after });
        self.cache.truncate_after(after);
        let next_job = self.index_next_job(after);
        self.catalog.truncate_after(after, next_job);
    }

    /// The id that follows the last job at or below an index.
    fn index_next_job(&self, after: Index) -> JobId {
        if let Some(entry) = self.cache.get(after) {
            return JobId(entry.first_job.0 + u64::from(entry.job_count));
        }
        self.catalog.next_job_after(after)
    }

    /// Everything up to here is durable on this node.
    fn durable_upto(&self) -> Index {
        self.appending.front().map_or(self.raft.last_position().index, |oldest| {
            oldest.metas.first().map_or(oldest.token.index, |(meta, _, _)| Index(meta.position.index.0 - 1))
        })
    }

    fn evict(&mut self) {
        let durable = self.durable_upto();
        self.cache.evict(self.applied.index.min(durable));
    }

    fn lead(&mut self, moment: Moment, term: Term) {
        self.clock.lead(moment.now, term, moment.wall);
        let before = self.leading.replace(Leading::new(term));
        self.steps.retire(before);
        self.count_room();
        self.counters.elections_won += 1;
        self.propose(moment, EntryKind::NoOp, &[], 0);
        self.follow_raft(moment);
        self.find_upstream(moment);
    }

    fn follow(&mut self, moment: Moment, _term: Term, _leader: Option<NodeId>) {
        let before = self.leading.take();
        self.steps.retire(before);
        self.find_upstream(moment);
    }

    /// While a write is in flight, commands gather; the next entry takes them all.
    fn form_entries(&mut self, moment: Moment) {
        while self.appending.is_empty() && self.raft.takes_entries() {
            let Some(leading) = self.leading.as_mut().filter(|leading| leading.has_commands()) else { return };
            let formed = leading.form(&self.catalog, &self.machine, self.config.entry_bytes_target);
            let index = self.propose(moment, EntryKind::Commands, &formed.payload, formed.job_count);
            if let Some(leading) = self.leading.as_mut() {
                leading.handle_proposed(index, formed.ticks, formed.waits, formed.drops);
            }
            self.counters.handle_proposed(index, moment.now);
            self.follow_raft(moment);
            if mutation::is_on(Mutation::ReplyBeforeCommit) {
                self.committed = index;
                self.apply_committed(moment);
            }
            for key in formed.registered {
                self.serve_registered(moment, key);
            }
        }
    }

    /// Makes an entry and gives it to Raft; its index. Effects follow with `follow_raft`.
    fn propose(&mut self, moment: Moment, kind: EntryKind, payload: &[u8], job_count: u32) -> Index {
        let index = self.raft.last_position().index.next();
        let draft = Draft {
            position: LogPosition::new(self.raft.term(), index),
            prev_chain: self.raft.last_chain(),
            kind,
            times: self.clock.stamp(moment.now, moment.wall),
            first_job: self.catalog.next_job(),
            job_count,
            payload,
        };
        let entry = Entry::encode(draft, &self.config.log);
        let meta = entry.meta;
        self.arriving.clear();
        self.arriving.push(entry);
        self.raft.propose(moment.now, meta).expect("only a leader that accepts proposals makes entries");
        index
    }

    fn next_tick(&self, moment: Moment) -> Nanos {
        moment.now.saturating_add(self.clock.until(moment.now, moment.wall, self.machine.next_due()))
    }

    fn propose_tick(&mut self, moment: Moment) {
        let stamp = self.clock.foreseen(moment.now, moment.wall);
        if !self.machine.next_due().is_reached(stamp) || self.applied.index < self.committed {
            return;
        }
        if let Some(leading) = self.leading.as_mut() {
            leading.tick();
        }
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.effects.push_back(Effect::Send { to, message });
    }
}

fn names(tubes: &[Bytes]) -> impl Iterator<Item = &[u8]> {
    tubes.iter().map(|tube| &tube[..])
}

#[cfg(test)]
mod tests;
