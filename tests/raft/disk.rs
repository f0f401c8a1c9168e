//! What one node has on its disk, and what is on the way there: the ground truth that a crash leaves behind.

use std::collections::VecDeque;

use beaver_raft::raft::message::{EntryMeta, Token, Vote, When};
use beaver_raft::raft::{Log, Membership};
use beaver_raft::types::{ChainHash, Index, LogPosition, NodeId};

/// Whether a majority of the voters (of both sets, on the way between two) is of some kind. Counted here, and not by the
/// functions under test.
pub fn is_majority(membership: &Membership, is_one: impl Fn(NodeId) -> bool) -> bool {
    [membership.voters(), membership.outgoing()].iter().all(|voters| {
        let others = voters.iter().filter(|node| !is_one(**node)).count();
        voters.is_empty() || voters.len() - others > others
    })
}

/// The chain hash before the first entry.
pub const FIRST_CHAIN: ChainHash = ChainHash(0xbea7e5);

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Disk {
    /// Durable entries, from index 1.
    pub entries: Vec<EntryMeta>,
    pub vote: Vote,
    pub appends: VecDeque<PendingAppend>,
    pub votes: VecDeque<Vote>,
    /// The newest append that completed since the start.
    completed: Token,
    pub holds_appends: bool,
    pub holds_votes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PendingAppend {
    pub truncate_after: Option<Index>,
    pub entries: Vec<EntryMeta>,
    pub token: Token,
}

impl Disk {
    /// Makes the oldest append durable.
    pub fn complete_append(&mut self) -> Option<Token> {
        let append = self.appends.pop_front()?;
        if let Some(kept) = append.truncate_after {
            self.entries.truncate(usize::try_from(kept.0).unwrap());
        }
        self.entries.extend(append.entries);
        for (index, meta) in (1..).zip(&self.entries) {
            assert_eq!(meta.position.index, Index(index), "the log on disk has no gaps");
        }
        self.completed = append.token;
        Some(append.token)
    }

    pub fn complete_vote(&mut self) -> Option<Vote> {
        let vote = self.votes.pop_front()?;
        self.vote = vote;
        Some(vote)
    }

    /// The node dies: what was on its way is lost.
    pub fn crash(&mut self) {
        self.appends.clear();
        self.votes.clear();
        self.completed = Token::default();
    }

    pub fn allows(&self, when: &When) -> bool {
        match when {
            When::Now => true,
            When::Durable(token) => self.completed >= *token,
            When::Voted(vote) => {
                (self.vote.term, self.vote.voted_for.is_some()) >= (vote.term, vote.voted_for.is_some())
            }
        }
    }

    pub fn holds(&self, position: LogPosition, chain: ChainHash) -> bool {
        let place = usize::try_from(position.index.0).unwrap().checked_sub(1);
        place.and_then(|place| self.entries.get(place)).is_some_and(|meta| meta.chain == chain)
    }

    pub fn log(&self) -> Log {
        let mut log = Log::new(LogPosition::ORIGIN, FIRST_CHAIN);
        self.entries.iter().for_each(|meta| log.append(*meta));
        log
    }
}
