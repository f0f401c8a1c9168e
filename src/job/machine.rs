//! What the state machine holds. It must be a function of the entries applied and of nothing else: every
//! collection is ordered, nothing is hashed with a seed of the process.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::record::Record;
use super::sessions::Sessions;
use super::totals::Totals;
use super::tube::{Tube, TubeId, Tubes};
use crate::types::{Incarnation, JobId, LogPosition, Nanos, NodeId, Times};

/// The replicated state of one shard.
///
/// Invariants (checked by [`Machine::verify`]):
/// - a live job is either one bit in the set of its class or one record, never both;
/// - a record of a ready job differs from its ENQ, so that equal states have one form;
/// - each record is in exactly the indexes that its state names, under the deadline or order that it holds;
/// - the counts and the fingerprint of a tube are those of its live jobs, and the totals those of all tubes;
/// - `times` never run backwards.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// The last entry applied.
    pub(super) applied: LogPosition,
    /// The latest times of the entries applied: the only clock there is.
    pub(super) times: Times,
    /// The first id that no applied entry has given (or burnt).
    pub(super) next_job: JobId,
    /// The fencing token of the next reservation; ascends, is never given twice.
    pub(super) next_epoch: u64,
    /// The place of the next buried job in the line of its tube.
    pub(super) next_burial: u64,
    /// Reservations that ran out, ever.
    pub(super) timeouts: u64,
    /// Jobs enqueued, ever.
    pub(super) total_jobs: u64,
    pub(super) tubes: Tubes,
    pub(super) totals: Totals,
    /// Every live job that is not a bit.
    pub(super) records: BTreeMap<JobId, Record>,
    pub(super) sessions: Sessions,
    /// Reserved jobs by the lease time at which their reservation ends.
    pub(super) leases: BTreeSet<(Nanos, JobId)>,
    /// Delayed jobs of all tubes by the wall time at which they become ready.
    pub(super) delays: BTreeSet<(Nanos, JobId)>,
    /// Paused tubes by the wall time at which they serve again.
    pub(super) pauses: BTreeSet<(Nanos, TubeId)>,
    /// Nodes that forgot what they had promised, and with which directory.
    pub(super) shut_out: BTreeMap<NodeId, Incarnation>,
    pub(super) news: News,
}

/// What entries did that the leader may want to act upon, until it takes it. Never larger than there are tubes and nodes,
/// also where nobody takes anything.
#[derive(Debug, Default)]
pub(super) struct News {
    created: BTreeSet<TubeId>,
    made_ready: BTreeSet<TubeId>,
    filled: BTreeSet<TubeId>,
    emptied: BTreeSet<TubeId>,
    shut_out: BTreeSet<NodeId>,
}

impl News {
    pub(super) fn created(&mut self, tube: TubeId) {
        self.created.insert(tube);
    }

    pub(super) fn made_ready(&mut self, tube: TubeId) {
        self.made_ready.insert(tube);
    }

    pub(super) fn filled(&mut self, tube: TubeId) {
        self.filled.insert(tube);
    }

    pub(super) fn emptied(&mut self, tube: TubeId) {
        self.emptied.insert(tube);
    }

    pub(super) fn shut_out(&mut self, node: NodeId) {
        self.shut_out.insert(node);
    }

    pub(super) fn dropped(&mut self, tube: TubeId) {
        self.created.remove(&tube);
        self.made_ready.remove(&tube);
        self.filled.remove(&tube);
        self.emptied.remove(&tube);
    }
}

impl PartialEq for News {
    /// Who was told what is no part of the state: it differs between a leader and its followers.
    fn eq(&self, _: &News) -> bool {
        true
    }
}

impl Eq for News {}

impl Machine {
    /// The state before the first entry: no job, no session, and the tube `default`.
    #[must_use]
    pub fn new() -> Machine {
        Machine {
            applied: LogPosition::ORIGIN,
            times: Times::default(),
            next_job: JobId(1),
            next_epoch: 1,
            next_burial: 0,
            timeouts: 0,
            total_jobs: 0,
            tubes: Tubes::new(),
            totals: Totals::default(),
            records: BTreeMap::new(),
            sessions: Sessions::default(),
            leases: BTreeSet::new(),
            delays: BTreeSet::new(),
            pauses: BTreeSet::new(),
            shut_out: BTreeMap::new(),
            news: News::default(),
        }
    }

    /// The tubes that got their record since this was last asked, and have it still. In order of creation.
    pub fn take_created(&mut self) -> Vec<Bytes> {
        let tubes = std::mem::take(&mut self.news.created);
        self.names_of(&tubes, |_| true)
    }

    /// The tubes in which jobs became ready, or whose pause ended, since this was last asked, and which can serve
    /// now. In order of creation.
    pub fn take_made_ready(&mut self) -> Vec<Bytes> {
        let tubes = std::mem::take(&mut self.news.made_ready);
        self.names_of(&tubes, Tube::serves)
    }

    /// The tubes that got their first job since this was last asked, and have one still. In order of creation.
    pub fn take_filled(&mut self) -> Vec<Bytes> {
        let tubes = std::mem::take(&mut self.news.filled);
        self.names_of(&tubes, |tube| !tube.is_empty())
    }

    /// The tubes that lost their last job since this was last asked, and are empty still: a TUBE_DROP may follow
    /// where nothing refers to them. In order of creation.
    pub fn take_emptied(&mut self) -> Vec<Bytes> {
        let tubes = std::mem::take(&mut self.news.emptied);
        self.names_of(&tubes, Tube::is_droppable)
    }

    /// The nodes that were shut out since this was last asked, and with which directory.
    pub fn take_shut_out(&mut self) -> Vec<(NodeId, Incarnation)> {
        let nodes = std::mem::take(&mut self.news.shut_out);
        nodes.into_iter().filter_map(|node| Some((node, self.shut_out(node)?))).collect()
    }

    fn names_of(&self, tubes: &BTreeSet<TubeId>, are: impl Fn(&Tube) -> bool) -> Vec<Bytes> {
        let tubes = tubes.iter().filter_map(|&id| self.tubes.get(id));
        tubes.filter(|tube| are(tube)).map(|tube| tube.name.clone()).collect()
    }
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::new()
    }
}
