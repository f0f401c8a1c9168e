//! What a node keeps only while it leads the shard: commands that gather for the next entry, who waits, who references
//! what, and whose reads are being confirmed. All of it is soft; the next leader is told anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::markers::MarkerReports;
use super::pace::Pace;
use super::placement::Placement;
use super::references::References;
use super::waits::{Ended, WaitKey, Waits};
use crate::api::beanstalkd::request::BODY_BYTES_MAX_LIMIT;
use crate::job::codec::{self, Commands};
use crate::job::command::{Class, Command, Numbered, Origin, TubeList};
use crate::job::{Machine, TubeCursor};
use crate::net::message::ReadAbout;
use crate::types::{Index, JobId, NodeId, Term};
use crate::wal::catalog::Catalog;
use crate::wal::entry::PAYLOAD_BYTES_MAX;

/// The longest command that fits an entry: a job's body, a name, some numbers.
const COMMAND_BYTES_MAX: usize = BODY_BYTES_MAX_LIMIT as usize + (32 << 10);

/// The longest list of tubes of a wait. Its RESERVE may stand in an entry behind the longest command.
const TUBES_BYTES_MAX: usize = (1 << 20) - (64 << 10);

const _: () = assert!(COMMAND_BYTES_MAX + TUBES_BYTES_MAX + (1 << 10) <= PAYLOAD_BYTES_MAX);

/// A read whose index the leader is confirming.
#[derive(Debug)]
pub enum LeaderRead {
    /// A read of a client of this node, by its number among this node's reads.
    Own {
        read: u64,
    },
    Peer {
        node: NodeId,
        read: u64,
        about: ReadAbout,
    },
    Poll {
        key: WaitKey,
    },
}

/// What gathers for the next entry, in the order of its arrival.
#[derive(Debug)]
enum Queued {
    Command(Bytes),
    /// The RESERVE of a wait.
    Reserve(WaitKey, Bytes),
    /// A wait whose session may have commands queued in front of it: it must not be served before they are in the log.
    Wait {
        key: WaitKey,
        registration: u64,
        tubes: Bytes,
        poll: bool,
    },
}

impl Queued {
    fn bytes(&self) -> usize {
        match self {
            Queued::Command(encoded) | Queued::Reserve(_, encoded) => encoded.len(),
            Queued::Wait { .. } => 0,
        }
    }
}

/// At most one TICK is on its way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tick {
    None,
    Queued,
    Proposed(Index),
}

/// A batch that is ready to become an entry.
#[derive(Debug)]
pub struct Formed {
    pub payload: Vec<u8>,
    pub job_count: u32,
    pub waits: Vec<WaitKey>,
    /// Whether a TICK is among them.
    pub ticks: bool,
    /// Waits that are registered only now.
    pub registered: Vec<WaitKey>,
    /// Tubes that are to be forgotten.
    pub drops: Vec<Bytes>,
}

#[derive(Debug)]
pub struct Leading {
    pub term: Term,
    queue: VecDeque<Queued>,
    /// The waits in the queue, each with its last registration. One that is not here is not wanted any more.
    queued_waits: BTreeMap<WaitKey, u64>,
    pub waits: Waits,
    pub references: References,
    reads: BTreeMap<u64, LeaderRead>,
    next_read: u64,
    /// Which waits' RESERVEs stand in which entry that is not yet applied; ascending.
    proposed: VecDeque<(Index, Vec<WaitKey>)>,
    /// Whether the no-op of this term was applied here: only then is everything of earlier terms settled.
    pub settled: bool,
    /// Withdrawn waits whose end can be confirmed only once the term is settled.
    pub unconfirmed: Vec<Ended>,
    /// Polls whose read is confirmed, and the index that must be applied before they are told that there is nothing.
    pub polls: Vec<(Index, WaitKey)>,
    tick: Tick,
    /// Tubes whose TUBE_DROP is queued or proposed, and those of them that stand in entries not yet applied; ascending.
    drops_queued: BTreeSet<Bytes>,
    drops_proposed: VecDeque<(Index, Vec<Bytes>)>,
    /// Pages of the tubes without a job that other nodes asked for, with the index of the read; at most one per node.
    pub pages: VecDeque<(Index, PageRequest)>,
    pub sweep: Sweep,
    pub markers: MarkerReports,
    /// Which voters last reported room on their disks.
    pub room: BTreeMap<NodeId, bool>,
    pub placement: Placement,
    /// This node's own log, its applying, and the others' logs.
    pub(super) write: Pace,
    pub(super) apply: Pace,
    pub(super) peers: BTreeMap<NodeId, Pace>,
    /// Those that answer heartbeats and have taken no append for long, though they lack entries.
    pub stuck_peers: BTreeSet<NodeId>,
}

impl Leading {
    #[must_use]
    pub fn new(term: Term) -> Leading {
        Leading {
            term,
            queue: VecDeque::new(),
            queued_waits: BTreeMap::new(),
            waits: Waits::default(),
            references: References::default(),
            reads: BTreeMap::new(),
            next_read: 0,
            proposed: VecDeque::new(),
            settled: false,
            unconfirmed: Vec::new(),
            polls: Vec::new(),
            tick: Tick::None,
            drops_queued: BTreeSet::new(),
            drops_proposed: VecDeque::new(),
            pages: VecDeque::new(),
            sweep: Sweep::default(),
            markers: MarkerReports::default(),
            room: BTreeMap::new(),
            placement: Placement::default(),
            write: Pace::default(),
            apply: Pace::default(),
            peers: BTreeMap::new(),
            stuck_peers: BTreeSet::new(),
        }
    }

    /// Takes a command that was checked (`check_forwarded`) or made here.
    pub fn accept(&mut self, encoded: Bytes) {
        self.queue.push_back(Queued::Command(encoded));
    }

    pub fn accept_system(&mut self, command: Command<'_>) {
        let mut encoded = Vec::new();
        codec::encode(&Numbered { origin: Origin::System, command }, &mut encoded);
        self.accept(Bytes::from(encoded));
    }

    fn accept_reserve(&mut self, key: WaitKey, tubes: &[u8]) {
        self.queue.push_back(Queued::Reserve(key, Bytes::from(encode_reserve(key, tubes))));
    }

    /// Registers a wait, behind everything that its session handed over before. True if it is registered by now.
    pub fn register(&mut self, key: WaitKey, registration: u64, tubes: Bytes, poll: bool) -> bool {
        if self.queue.is_empty() {
            self.waits.register(key, registration, tubes, poll);
            return true;
        }
        self.queued_waits.insert(key, registration);
        self.queue.push_back(Queued::Wait { key, registration, tubes, poll });
        false
    }

    /// Ends a wait. True if nothing is proposed for it, so that its end may be confirmed at once.
    pub fn withdraw(&mut self, key: WaitKey, registration: u64) -> bool {
        self.queued_waits.remove(&key);
        self.waits.withdraw(key, registration)
    }

    /// A node's connection is lost: it will register anew what it still wants, and report what it references.
    pub fn forget_node(&mut self, node: NodeId) {
        self.queued_waits.retain(|(session, _), _| session.node != node);
        self.waits.forget_node(node);
        self.references.forget_node(node);
    }

    /// Queues a RESERVE for this wait, if it is idle.
    pub fn reserve_for(&mut self, key: WaitKey) {
        if let Some(tubes) = self.waits.propose(key) {
            self.accept_reserve(key, &tubes);
        }
    }

    /// Queues RESERVEs for the oldest idle waits on a tube, at most as many as it has ready jobs.
    pub fn serve_waits(&mut self, tube: &[u8], ready: u64) {
        for _ in 0..ready {
            let Some((key, tubes)) = self.waits.propose_for(tube) else { return };
            self.accept_reserve(key, &tubes);
        }
    }

    #[must_use]
    pub fn has_tick(&self) -> bool {
        self.tick != Tick::None
    }

    /// Queues a TICK, unless one is on its way.
    pub fn tick(&mut self) {
        if self.tick == Tick::None {
            self.tick = Tick::Queued;
            self.accept_system(Command::Tick);
        }
    }

    pub fn handle_applied(&mut self, index: Index) {
        if matches!(self.tick, Tick::Proposed(at) if at <= index) {
            self.tick = Tick::None;
        }
    }

    /// Queues a TUBE_DROP once.
    pub fn drop_tube(&mut self, tube: &Bytes) {
        if self.drops_queued.insert(tube.clone()) {
            self.accept_system(Command::TubeDrop { tube });
        }
    }

    /// The tubes whose TUBE_DROPs stood in entries up to `index`, which is applied: another one may follow.
    pub fn take_dropped(&mut self, index: Index) -> Vec<Bytes> {
        let mut tubes = Vec::new();
        while self.drops_proposed.front().is_some_and(|(at, _)| *at <= index) {
            tubes.extend(self.drops_proposed.pop_front().expect("just seen").1);
        }
        for tube in &tubes {
            self.drops_queued.remove(tube);
        }
        tubes
    }

    #[must_use]
    pub fn has_commands(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes commands for the next entry: as many as gathered, up to `payload_bytes_max` (but at least one). Behind an
    /// ENQ that makes a job ready, the RESERVE of a worker that waits for it goes into the same entry.
    #[must_use]
    pub fn form(&mut self, catalog: &Catalog, machine: &Machine, payload_bytes_max: usize) -> Formed {
        let mut formed = Formed {
            payload: Vec::new(),
            job_count: 0,
            waits: Vec::new(),
            ticks: false,
            registered: Vec::new(),
            drops: Vec::new(),
        };
        let gathered: usize = self.queue.iter().take(4096).map(Queued::bytes).sum();
        formed.payload.reserve(gathered.min(payload_bytes_max));
        while let Some(queued) = self.queue.front() {
            // A wait takes no room. It always goes with the command before it, so that none is ever left in front.
            let is_wait = matches!(queued, Queued::Wait { .. });
            let is_full = formed.payload.len() + queued.bytes() > payload_bytes_max;
            if !is_wait && !formed.payload.is_empty() && is_full {
                break;
            }
            match self.queue.pop_front().expect("just seen") {
                Queued::Command(encoded) => self.write(&encoded, (catalog, machine), &mut formed),
                Queued::Reserve(key, encoded) => {
                    formed.payload.extend_from_slice(&encoded);
                    formed.waits.push(key);
                }
                Queued::Wait { key, registration, tubes, poll } => {
                    if self.queued_waits.get(&key) == Some(&registration) {
                        self.queued_waits.remove(&key);
                        self.waits.register(key, registration, tubes, poll);
                        formed.registered.push(key);
                    }
                }
            }
        }
        assert!(!formed.payload.is_empty(), "waits queue only behind commands");
        formed
    }

    fn write(&mut self, encoded: &[u8], (catalog, machine): (&Catalog, &Machine), formed: &mut Formed) {
        let located = Commands::new(encoded).next().expect("a queued command was checked").expect("and is readable");
        let Numbered { origin, command } = located.numbered;
        match command {
            Command::Enqueue { class, .. } => {
                formed.payload.extend_from_slice(encoded);
                formed.job_count += 1;
                if class.delay_s == 0
                    && let Some((key, tubes)) = self.waits.propose_for(class.tube)
                {
                    formed.payload.extend_from_slice(&encode_reserve(key, &tubes));
                    formed.waits.push(key);
                }
            }
            // A job that waits as a bit is found by its class, which never changes: the log has it.
            Command::Delete { job, class: None } => {
                let class = class_of(job, catalog, machine);
                codec::encode(&Numbered { origin, command: Command::Delete { job, class } }, &mut formed.payload);
            }
            Command::ReserveJob { job, class: None } => {
                let class = class_of(job, catalog, machine);
                codec::encode(&Numbered { origin, command: Command::ReserveJob { job, class } }, &mut formed.payload);
            }
            Command::Pause { tube, duration_s, referenced: false } => {
                let referenced = self.references.is_referenced(tube);
                let command = Command::Pause { tube, duration_s, referenced };
                codec::encode(&Numbered { origin, command }, &mut formed.payload);
            }
            Command::Tick => {
                formed.payload.extend_from_slice(encoded);
                formed.ticks = true;
            }
            Command::TubeDrop { tube } => {
                formed.payload.extend_from_slice(encoded);
                formed.drops.push(Bytes::copy_from_slice(tube));
            }
            _ => formed.payload.extend_from_slice(encoded),
        }
    }

    /// What was formed became the entry at `index`.
    pub fn handle_proposed(&mut self, index: Index, ticks: bool, waits: Vec<WaitKey>, drops: Vec<Bytes>) {
        if !drops.is_empty() {
            self.drops_proposed.push_back((index, drops));
        }
        if ticks {
            self.tick = Tick::Proposed(index);
        }
        for &key in &waits {
            self.waits.handle_proposed(key, index);
        }
        if !waits.is_empty() {
            self.proposed.push_back((index, waits));
        }
    }

    /// The waits whose RESERVEs stood in entries up to `index`, which is applied.
    pub fn take_proposed(&mut self, index: Index) -> Vec<WaitKey> {
        let mut keys = Vec::new();
        while self.proposed.front().is_some_and(|(at, _)| *at <= index) {
            keys.extend(self.proposed.pop_front().expect("just seen").1);
        }
        keys
    }

    /// Remembers a read; its number for `Raft::request_read`.
    #[must_use]
    pub fn begin_read(&mut self, read: LeaderRead) -> u64 {
        let number = self.next_read;
        self.next_read += 1;
        self.reads.insert(number, read);
        number
    }

    pub fn take_read(&mut self, number: u64) -> Option<LeaderRead> {
        self.reads.remove(&number)
    }

    /// A page is to be given. A node wants one at a time: who asks again has lost the answer, or its wish for it.
    pub fn ask_for_page(&mut self, index: Index, page: PageRequest) {
        self.pages.retain(|(_, other)| other.node != page.node);
        self.pages.push_back((index, page));
    }

    /// Forgets some of what it knew, at most in proportion to this; whether that was all. Of a leader that leads no more.
    pub fn dismantle(&mut self, names_max: usize) -> bool {
        let is_gone = self.waits.dismantle(names_max);
        self.references.dismantle(names_max) && is_gone
    }
}

/// A page of tubes that a node asks for, as `net::message::ReadAbout::BareTubes` says.
#[derive(Debug)]
pub struct PageRequest {
    pub node: NodeId,
    pub read: u64,
    pub after: Option<Bytes>,
}

/// A look at all tubes without a job for those that nobody references, some at a time.
#[derive(Debug, Default)]
pub struct Sweep {
    next: Option<TubeCursor>,
    /// Something changed behind what was looked at.
    is_wanted_again: bool,
}

impl Sweep {
    /// Every tube is to be looked at from now on.
    pub fn want(&mut self) {
        self.is_wanted_again = self.next.is_some();
        self.next.get_or_insert(TubeCursor::START);
    }

    /// Where to look next.
    #[must_use]
    pub fn next(&self) -> Option<TubeCursor> {
        self.next
    }

    /// The tubes before `next` were looked at; none: all were.
    pub fn handle_swept(&mut self, next: Option<TubeCursor>) {
        let again = next.is_none() && std::mem::take(&mut self.is_wanted_again);
        self.next = if again { Some(TubeCursor::START) } else { next };
    }
}

/// The class that a command is to carry which names this job. Where the log cannot tell, the state can, as far as it is applied; none
/// where neither can, and the command is answered "again".
fn class_of<'a>(job: JobId, catalog: &'a Catalog, machine: &'a Machine) -> Option<Class<'a>> {
    match catalog.find(job) {
        Ok(found) => Some(found.map_or(Class::OF_NO_JOB, |found| found.class)),
        Err(_) if job >= machine.next_job() => None,
        // What has ended stays ended.
        Err(_) => Some(machine.find_class(job).unwrap_or(Class::OF_NO_JOB)),
    }
}

fn encode_reserve((session, seq): WaitKey, tubes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let command = Command::Reserve { tubes: TubeList { encoded: tubes } };
    codec::encode(&Numbered { origin: Origin::Session { session, seq }, command }, &mut encoded);
    encoded
}

/// Whether `encoded` is exactly one readable command that this node may have sent.
#[must_use]
pub fn is_forwardable(encoded: &[u8], from: NodeId) -> bool {
    if encoded.len() > COMMAND_BYTES_MAX {
        return false;
    }
    let mut commands = Commands::new(encoded);
    let Some(Ok(located)) = commands.next() else { return false };
    let is_its_own = match (located.numbered.origin, located.numbered.command) {
        (Origin::Session { session, .. }, _) => session.node == from,
        (Origin::System, Command::NodeBoot { node, .. }) => node == from,
        // Told by those who saw it.
        (Origin::System, Command::NodeWentBack { node, .. }) => node != from,
        (Origin::System, _) => false,
    };
    is_its_own && commands.next().is_none()
}

/// Whether these are the tubes of a wait that an entry has room for.
#[must_use]
pub fn is_waitable(tubes: &[u8]) -> bool {
    tubes.len() <= TUBES_BYTES_MAX && TubeList::decode(tubes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::codec::body_hash;
    use crate::types::{BootEpoch, SessionId};

    fn put(body: &[u8]) -> Vec<u8> {
        let session = SessionId { node: NodeId(2), boot: BootEpoch(1), number: 1 };
        let class = Class { tube: &[b't'; 200], priority: 1, ttr_s: 1, delay_s: 0 };
        let command = Command::Enqueue { class, body_hash: body_hash(body), body };
        let mut encoded = Vec::new();
        codec::encode(&Numbered { origin: Origin::Session { session, seq: 1 }, command }, &mut encoded);
        encoded
    }

    /// Entries have a bound, and a leader that is made to exceed it ends; and so would the next one.
    #[test]
    fn what_no_entry_has_room_for_is_refused() {
        let longest = put(&vec![0; BODY_BYTES_MAX_LIMIT as usize]);
        assert!(is_forwardable(&longest, NodeId(2)));
        assert!(!is_forwardable(&put(&vec![0; COMMAND_BYTES_MAX]), NodeId(2)));
        let tubes = |count: usize| [&[200][..], &[b't'; 200]].concat().repeat(count);
        let most = tubes(TUBES_BYTES_MAX / 201);
        assert!(is_waitable(&most));
        assert!(!is_waitable(&tubes(TUBES_BYTES_MAX / 201 + 1)));
        let key = (SessionId { node: NodeId(2), boot: BootEpoch(1), number: 1 }, 2);
        assert!(longest.len() + encode_reserve(key, &most).len() <= PAYLOAD_BYTES_MAX);
    }
}
