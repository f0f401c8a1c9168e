//! Tubes: where the jobs of one name wait. A tube has a record from its first job or pause until TUBE_DROP;
//! whether connections use or watch it is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use super::fingerprint::{Fingerprint, TubeSeed};
use super::machine::News;
use super::ready::Ready;
use crate::types::{JobId, Nanos};

/// The tube that always exists.
const DEFAULT: &[u8] = b"default";

/// Ascends with the creation of tubes; a tube that is dropped and created again is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TubeId(pub(super) u64);

/// The default tube is the first ever created.
const DEFAULT_ID: TubeId = TubeId(0);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tube {
    pub(super) id: TubeId,
    pub(super) name: Bytes,
    pub(super) seed: TubeSeed,
    pub(super) ready: Ready,
    pub(super) reserved: u64,
    /// By the wall time at which they become ready.
    pub(super) delayed: BTreeSet<(Nanos, JobId)>,
    /// In the order in which they were buried.
    pub(super) buried: BTreeMap<u64, JobId>,
    pub(super) pause: Option<Pause>,
    /// Jobs ever put into it, jobs deleted from it, pauses asked for, since its record exists.
    pub(super) total_jobs: u64,
    pub(super) deletes: u64,
    pub(super) pauses: u64,
    /// Over the live jobs.
    pub(super) fingerprint: Fingerprint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// The wall time at which it ends.
    pub(super) until: Nanos,
    /// As it was asked for.
    pub(super) duration_s: u32,
}

impl Tube {
    pub(super) fn new(id: TubeId, name: Bytes) -> Tube {
        Tube {
            id,
            seed: TubeSeed::of(&name),
            name,
            ready: Ready::default(),
            reserved: 0,
            delayed: BTreeSet::new(),
            buried: BTreeMap::new(),
            pause: None,
            total_jobs: 0,
            deletes: 0,
            pauses: 0,
            fingerprint: Fingerprint::default(),
        }
    }

    /// Whether a RESERVE finds a job in it.
    pub(super) fn serves(&self) -> bool {
        self.pause.is_none() && self.ready.count() > 0
    }

    /// All that live in it.
    pub(super) fn jobs(&self) -> u64 {
        self.ready.count() + self.reserved + self.delayed.len() as u64 + self.buried.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs() == 0
    }

    /// Whether TUBE_DROP would forget it.
    pub(super) fn is_droppable(&self) -> bool {
        self.id != DEFAULT_ID && self.is_empty()
    }
}

/// Invariants: `names` and `tubes` hold the same tubes; `vacant` those of them that have no job, the default one apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tubes {
    next: TubeId,
    names: BTreeMap<Bytes, TubeId>,
    /// In order of creation. Boxed, because a tube is far larger than what a tree's node should move about.
    tubes: BTreeMap<TubeId, Box<Tube>>,
    vacant: BTreeSet<TubeId>,
}

impl Tubes {
    pub(super) fn new() -> Tubes {
        let mut tubes =
            Tubes { next: DEFAULT_ID, names: BTreeMap::new(), tubes: BTreeMap::new(), vacant: BTreeSet::new() };
        tubes.create(DEFAULT);
        tubes
    }

    /// Tubes as they once were, in order of creation; none if they never were so. Which of them are vacant is not known yet.
    pub(super) fn restore(next: TubeId, tubes: Vec<Tube>) -> Option<Tubes> {
        let is_ordered = tubes.is_sorted_by(|one, next| one.id < next.id) && tubes.last()?.id < next;
        let has_default = tubes.first().is_some_and(|first| first.id == DEFAULT_ID && first.name == DEFAULT);
        let count = tubes.len();
        let names: BTreeMap<Bytes, TubeId> = tubes.iter().map(|tube| (tube.name.clone(), tube.id)).collect();
        let tubes = tubes.into_iter().map(|tube| (tube.id, Box::new(tube))).collect();
        (is_ordered && has_default && names.len() == count).then_some(Tubes {
            next,
            names,
            tubes,
            vacant: BTreeSet::new(),
        })
    }

    /// The id of the tube that is created next.
    pub(super) fn next_id(&self) -> TubeId {
        self.next
    }

    pub(super) fn len(&self) -> usize {
        self.tubes.len()
    }

    /// All tubes, in order of creation.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tube> {
        self.tubes.values().map(Box::as_ref)
    }

    pub(super) fn id(&self, name: &[u8]) -> Option<TubeId> {
        self.names.get(name).copied()
    }

    pub(super) fn get(&self, id: TubeId) -> Option<&Tube> {
        self.tubes.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: TubeId) -> Option<&mut Tube> {
        self.tubes.get_mut(&id).map(Box::as_mut)
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<&Tube> {
        self.get(self.id(name)?)
    }

    pub(super) fn named_mut(&mut self, name: &[u8]) -> Option<&mut Tube> {
        let id = self.id(name)?;
        self.tubes.get_mut(&id).map(Box::as_mut)
    }

    /// The tube of a live job or a pause.
    pub(super) fn existing(&self, id: TubeId) -> &Tube {
        self.tubes.get(&id).expect("a tube is dropped after its jobs, and with its pause")
    }

    pub(super) fn existing_mut(&mut self, id: TubeId) -> &mut Tube {
        self.tubes.get_mut(&id).expect("a tube is dropped after its jobs, and with its pause")
    }

    /// The tube called so; created if it has no record.
    pub(super) fn named_or_created(&mut self, name: &[u8], news: &mut News) -> &mut Tube {
        let id = self.id(name).unwrap_or_else(|| {
            let id = self.create(name);
            news.created(id);
            id
        });
        self.tubes.get_mut(&id).expect("a named tube has a record")
    }

    /// The tube gets its first job.
    pub(super) fn fill(&mut self, id: TubeId) {
        self.vacant.remove(&id);
    }

    /// The tube has lost its last job.
    pub(super) fn empty(&mut self, id: TubeId) {
        if id != DEFAULT_ID {
            self.vacant.insert(id);
        }
    }

    /// The tubes that TUBE_DROP would forget, in order of creation.
    pub(super) fn vacant(&self) -> &BTreeSet<TubeId> {
        &self.vacant
    }

    /// Finds the vacant tubes from the ground up.
    pub(super) fn recount_vacant(&self) -> BTreeSet<TubeId> {
        self.iter().filter(|tube| tube.is_droppable()).map(|tube| tube.id).collect()
    }

    /// All jobs have been put back into tubes that were restored.
    pub(super) fn restore_vacant(&mut self) {
        self.vacant = self.recount_vacant();
    }

    /// At most so many tubes with these ids, in order of creation.
    pub(super) fn range(&self, ids: Range<TubeId>, tubes_max: usize) -> impl Iterator<Item = &Tube> {
        self.tubes.range(ids).take(tubes_max).map(|(_, tube)| tube.as_ref())
    }

    fn create(&mut self, name: &[u8]) -> TubeId {
        let id = self.next;
        self.next = TubeId(id.0 + 1);
        // Copied out of the batch: a slice of it would keep the whole batch in memory.
        let name = Bytes::copy_from_slice(name);
        self.names.insert(name.clone(), id);
        self.tubes.insert(id, Box::new(Tube::new(id, name)));
        self.empty(id);
        id
    }

    /// Forgets a tube if it has no jobs and is not the default one; gives it back.
    pub(super) fn drop_if_empty(&mut self, name: &[u8]) -> Option<Box<Tube>> {
        let id = self.named(name).filter(|tube| tube.is_droppable())?.id;
        self.names.remove(name);
        self.vacant.remove(&id);
        self.tubes.remove(&id)
    }
}
