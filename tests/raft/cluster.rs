//! A group of nodes in one thread. Time, links and disks do what the test says, and after every step of every node all
//! invariants are checked, the commit index against the disks themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use beaver_raft::raft::invariants::{GroupHistory, Observed, check_step};
use beaver_raft::raft::message::{Body, Effect, EntryMeta, Message, StopReason, When};
use beaver_raft::raft::{Config, Membership, Raft};
use beaver_raft::types::{ChainHash, Index, LogPosition, Nanos, NodeId, Term};

use crate::disk::{Disk, PendingAppend, is_majority};

pub const MS: u64 = 1_000_000;

pub type Link = (u8, u8);

#[derive(Debug)]
pub struct Cluster {
    pub now: Nanos,
    pub membership: Membership,
    pub members: BTreeMap<u8, Member>,
    /// Messages on their way, per direction, in the order in which they left.
    pub links: BTreeMap<Link, VecDeque<Message>>,
    /// What is sent here is lost.
    cut: BTreeSet<Link>,
    /// What is sent here stays on its way until the test delivers it.
    held: BTreeSet<Link>,
    history: GroupHistory,
    pub tune: fn(&mut Config),
    starts: u64,
    /// Reads that were asked for, and the newest index that was committed anywhere at that time.
    reads: BTreeMap<u64, Index>,
    /// Every message that was delivered or lost, counted by kind.
    pub sent: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
pub struct Member {
    pub raft: Option<Raft>,
    pub disk: Disk,
    waiting: Vec<(NodeId, Message, When)>,
    observed: Option<Observed>,
    pub ready: BTreeMap<u64, Index>,
    pub lost: BTreeSet<u64>,
    pub follows: Vec<(Term, Option<NodeId>)>,
    pub stopped: Option<StopReason>,
    /// The node gets no time and no messages, as if it was stopped by a signal.
    pub suspended: bool,
}

impl Cluster {
    pub fn new(voters: u8) -> Cluster {
        Cluster::with(Membership::new((1..=voters).map(NodeId), []).unwrap())
    }

    pub fn with(membership: Membership) -> Cluster {
        Cluster::tuned(membership, |_| {})
    }

    pub fn tuned(membership: Membership, tune: fn(&mut Config)) -> Cluster {
        let mut cluster = Cluster::stopped(membership);
        cluster.tune = tune;
        cluster.start_all();
        cluster
    }

    /// A group none of whose nodes runs yet; their disks may be prepared.
    pub fn stopped(membership: Membership) -> Cluster {
        let members = membership.members().into_iter().map(|node| (node.0, Member::default())).collect();
        Cluster {
            now: Nanos(1_000 * MS),
            membership,
            members,
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            history: GroupHistory::default(),
            tune: |_| {},
            starts: 0,
            reads: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    // Nodes.

    pub fn start_all(&mut self) {
        for id in self.ids() {
            self.start(id);
        }
    }

    pub fn start(&mut self, id: u8) {
        self.starts += 1;
        let mut config = Config::new(NodeId(id));
        (self.tune)(&mut config);
        let member = self.members.get_mut(&id).unwrap();
        assert!(member.raft.is_none());
        let (vote, log, seed) = (member.disk.vote, member.disk.log(), self.starts * 1_000 + u64::from(id));
        let raft = Raft::new(config, self.membership.clone(), vote, log, Index::ZERO, self.now, seed);
        member.raft = Some(raft);
        self.after_step(id);
    }

    /// Power off: memory and all that is on its way to the disk or the links of this node is gone.
    pub fn crash(&mut self, id: u8) {
        let member = self.members.get_mut(&id).unwrap();
        member.raft = None;
        member.observed = None;
        member.waiting.clear();
        member.disk.crash();
        self.history.forget(NodeId(id));
        self.links.retain(|(from, to), _| *from != id && *to != id);
    }

    pub fn ids(&self) -> Vec<u8> {
        self.members.keys().copied().collect()
    }

    pub fn raft(&self, id: u8) -> &Raft {
        self.members[&id].raft.as_ref().expect("the node runs")
    }

    pub fn disk(&mut self, id: u8) -> &mut Disk {
        &mut self.members.get_mut(&id).unwrap().disk
    }

    pub fn runs(&self, id: u8) -> bool {
        self.members[&id].raft.is_some()
    }

    /// The leader of the latest term, if one leads.
    pub fn leader(&self) -> Option<u8> {
        let leaders = self.members.iter().filter(|(_, member)| member.raft.as_ref().is_some_and(Raft::is_leader));
        leaders.max_by_key(|(_, member)| member.raft.as_ref().map(Raft::term)).map(|(id, _)| *id)
    }

    pub fn terms(&self) -> Vec<u64> {
        self.members.values().filter_map(|member| member.raft.as_ref()).map(|raft| raft.term().0).collect()
    }

    /// Terms of a node's log, from index 1.
    pub fn log_terms(&self, id: u8) -> Vec<u64> {
        self.raft(id).log().iter().map(|meta| meta.position.term.0).collect()
    }

    pub fn committed(&self, id: u8) -> u64 {
        self.raft(id).committed().0
    }

    /// The newest index known committed anywhere, ever.
    pub fn committed_anywhere(&self) -> Index {
        self.history.committed().next_back().map_or(Index::ZERO, |(position, _)| position.index)
    }

    // Events.

    /// Lets one node take a step; the invariants are checked behind it.
    pub fn step<T>(&mut self, id: u8, event: impl FnOnce(&mut Raft, Nanos) -> T) -> T {
        let now = self.now;
        let raft = self.members.get_mut(&id).unwrap().raft.as_mut().expect("the node runs");
        let result = event(raft, now);
        self.after_step(id);
        result
    }

    fn after_step(&mut self, id: u8) {
        while let Some(effect) = self.members.get_mut(&id).unwrap().raft.as_mut().unwrap().poll_effect() {
            self.begin(id, effect);
        }
        let member = self.members.get_mut(&id).unwrap();
        let raft = member.raft.as_ref().unwrap();
        if let Some(observed) = &member.observed {
            check_step(observed, raft).unwrap();
        }
        member.observed = Some(Observed::of(raft));
        self.history.observe(raft).unwrap();
        self.release_sends(id);
    }

    fn begin(&mut self, id: u8, effect: Effect) {
        let member = self.members.get_mut(&id).unwrap();
        match effect {
            Effect::SaveVote(vote) => member.disk.votes.push_back(vote),
            Effect::Append { truncate_after, entries, token } => {
                member.disk.appends.push_back(PendingAppend { truncate_after, entries, token });
            }
            Effect::Send { to, message, when } => {
                assert_ne!(to, NodeId(id), "nobody writes to itself");
                member.waiting.push((to, message, when));
            }
            Effect::Commit(index) => self.check_commit_against_disks(id, index),
            Effect::Lead(term) => {
                assert_eq!(member.raft.as_ref().unwrap().term(), term);
                self.propose(id, 0).expect("a new leader takes its first entry");
            }
            Effect::Follow { term, leader } => member.follows.push((term, leader)),
            Effect::ReadReady { read, index } => {
                assert!(index >= self.reads[&read], "read {read} misses what was committed before it");
                assert!(index <= member.raft.as_ref().unwrap().committed());
                assert_eq!(member.ready.insert(read, index), None);
            }
            Effect::ReadLost { read } => assert!(member.lost.insert(read)),
            Effect::Stop(reason) => member.stopped = Some(reason),
        }
    }

    /// Not what nodes claim counts, but what their disks hold (R1).
    fn check_commit_against_disks(&self, id: u8, index: Index) {
        let meta = self.raft(id).log().get(index).expect("what is committed is in the log");
        let durable_on = |node: NodeId| self.members[&node.0].disk.holds(meta.position, meta.chain);
        let is_durable = is_majority(&self.membership, durable_on);
        assert!(is_durable, "node {id} commits {} without a majority of disks", meta.position);
    }

    fn release_sends(&mut self, id: u8) {
        let member = self.members.get_mut(&id).unwrap();
        let (go, wait) = member.waiting.drain(..).partition(|(_, _, when)| member.disk.allows(when));
        member.waiting = wait;
        let go: Vec<(NodeId, Message, When)> = go;
        for (to, message, _) in go {
            *self.sent.entry(kind(&message)).or_default() += 1;
            let link = (id, to.0);
            if !self.cut.contains(&link) && self.members.get(&to.0).is_some_and(|member| member.raft.is_some()) {
                self.links.entry(link).or_default().push_back(message);
            }
        }
    }

    /// Appends one entry; what it says is `payload`.
    pub fn propose(&mut self, id: u8, payload: u64) -> Option<LogPosition> {
        let raft = self.raft(id);
        let meta = next_entry(raft, payload);
        self.step(id, |raft, now| raft.propose(now, meta)).ok().map(|()| meta.position)
    }

    pub fn read(&mut self, id: u8, read: u64) {
        self.reads.insert(read, self.committed_anywhere());
        self.step(id, |raft, now| raft.request_read(now, read));
    }

    pub fn complete_append(&mut self, id: u8) -> bool {
        match self.disk(id).complete_append() {
            Some(token) => {
                self.step(id, |raft, now| raft.handle_appended(now, token));
                true
            }
            None => false,
        }
    }

    pub fn complete_vote(&mut self, id: u8) -> bool {
        match self.disk(id).complete_vote() {
            Some(vote) => {
                self.step(id, |raft, now| raft.handle_vote_saved(now, vote));
                true
            }
            None => false,
        }
    }

    /// Hands the message at `place` of a link to its receiver.
    pub fn deliver(&mut self, link: Link, place: usize) -> bool {
        let taken = self.links.get_mut(&link).and_then(|queue| queue.remove(place));
        match taken {
            Some(message) => {
                self.inject(link.0, link.1, message);
                true
            }
            None => false,
        }
    }

    /// Gives a node a message, whether or not it was ever sent.
    pub fn inject(&mut self, from: u8, to: u8, message: Message) {
        if self.runs(to) {
            self.step(to, |raft, now| raft.handle_message(now, NodeId(from), message));
        }
    }

    // Faults.

    pub fn cut(&mut self, from: u8, to: u8) {
        self.cut.insert((from, to));
        self.links.remove(&(from, to));
    }

    pub fn cut_both(&mut self, one: u8, other: u8) {
        self.cut(one, other);
        self.cut(other, one);
    }

    pub fn isolate(&mut self, id: u8) {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.cut_both(id, other);
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.held.clear();
    }

    pub fn hold(&mut self, from: u8, to: u8) {
        self.held.insert((from, to));
    }

    pub fn release(&mut self, from: u8, to: u8) {
        self.held.remove(&(from, to));
    }

    pub fn drop_all(&mut self, from: u8, to: u8) {
        self.links.remove(&(from, to));
    }

    // Progress.

    /// Delivers and completes whatever is not held until nothing is left to do. No time passes.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for id in self.ids() {
                while self.is_awake(id) && !self.members[&id].disk.holds_votes && self.complete_vote(id) {
                    moved = true;
                }
                while self.is_awake(id) && !self.members[&id].disk.holds_appends && self.complete_append(id) {
                    moved = true;
                }
            }
            let links: Vec<Link> = self.links.keys().copied().collect();
            for link in links {
                let open = !self.held.contains(&link) && self.is_awake(link.1);
                while open && self.deliver(link, 0) {
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn is_awake(&self, id: u8) -> bool {
        self.runs(id) && !self.members[&id].suspended
    }

    /// Lets time pass; nodes are called at their deadlines and everything settles in between.
    pub fn advance(&mut self, duration_ms: u64) {
        let end = self.now.saturating_add(Nanos(duration_ms * MS));
        self.settle();
        loop {
            let awake = self.ids().into_iter().filter(|id| self.is_awake(*id));
            let next = awake.map(|id| (self.raft(id).next_deadline(), id)).min();
            let Some((deadline, id)) = next.filter(|(deadline, _)| *deadline <= end) else { break };
            self.now = self.now.max(deadline);
            self.step(id, Raft::handle_time);
            self.settle();
        }
        self.now = end;
    }

    /// Lets time pass until somebody leads and its first entry is committed; at most `limit_ms`. Returns the leader.
    pub fn elect(&mut self, limit_ms: u64) -> u8 {
        for _ in 0..limit_ms {
            self.settle();
            if let Some(leader) = self.leader()
                && self.raft(leader).log().term_at(self.raft(leader).committed()) == Some(self.raft(leader).term())
            {
                return leader;
            }
            self.advance(1);
        }
        panic!("nobody leads after {limit_ms} ms: {:?}", self.terms());
    }

    /// Makes this node seek an election now, and win it.
    pub fn elect_node(&mut self, id: u8) {
        self.step(id, |raft, now| raft.handle_message(now, NodeId(u8::MAX), timeout_now(raft.term())));
        self.settle();
        assert!(self.raft(id).is_leader(), "node {id} leads");
    }

    /// Everybody runs and is connected, nothing is held: the group must agree on all there is, and on something new.
    pub fn must_recover(&mut self) {
        self.heal();
        for id in self.ids() {
            let disk = self.disk(id);
            (disk.holds_appends, disk.holds_votes) = (false, false);
            self.members.get_mut(&id).unwrap().suspended = false;
            if !self.runs(id) {
                self.start(id);
            }
        }
        let leader = self.elect(10_000);
        self.advance(1_000);
        let leader = self.leader().unwrap_or(leader);
        self.propose(leader, 77).expect("the leader takes entries");
        self.advance(1_000);
        let last = self.raft(leader).last_position();
        for id in self.ids() {
            assert_eq!(self.raft(id).last_position(), last, "node {id} has the whole log");
            assert_eq!(self.raft(id).committed(), last.index, "node {id} knows all of it committed");
            assert_eq!(self.members[&id].stopped, None);
        }
    }
}

pub fn next_entry(raft: &Raft, payload: u64) -> EntryMeta {
    let position = LogPosition::new(raft.term(), raft.last_position().index.next());
    entry(position, raft.last_chain(), payload)
}

/// An entry whose chain hash stands for its position, what it says, and all before it.
pub fn entry(position: LogPosition, before: ChainHash, payload: u64) -> EntryMeta {
    let mut chain = before.0;
    for word in [position.term.0, position.index.0, payload] {
        chain = (chain ^ u128::from(word)).wrapping_mul(0x2d35_8dcc_aa6c_78a5_8bb8_4b93_962e_acc9).rotate_left(41);
    }
    EntryMeta { position, chain: ChainHash(chain), bytes: 100, membership: false }
}

pub fn timeout_now(term: Term) -> Message {
    Message { term, body: Body::TimeoutNow }
}

fn kind(message: &Message) -> &'static str {
    match &message.body {
        Body::PreVoteRequest { .. } => "pre-vote request",
        Body::PreVoteReply { .. } => "pre-vote reply",
        Body::VoteRequest { .. } => "vote request",
        Body::VoteReply { .. } => "vote reply",
        Body::Append { entries, .. } if entries.is_empty() => "empty append",
        Body::Append { .. } => "append",
        Body::AppendAccepted { .. } => "accepted",
        Body::AppendRejected { .. } => "rejected",
        Body::TimeoutNow => "timeout now",
    }
}
