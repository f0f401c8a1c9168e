//! A job that lives and whose ENQ, below the log's floor, cannot be read here any more: its body is looked for at the other nodes.
//!
//! It must never take for the job what is not an ENQ of its class with the body that it names; and where nobody has one, the
//! node stops, as for all that was durable and cannot be read.

use std::collections::BTreeMap;

use super::effect::Stop;
use super::reads::BodyRead;
use super::{Moment, Shard};
use crate::job::codec::{Commands, body_hash};
use crate::job::command::Command;
use crate::net::message::{Given, Part, PeerMessage, Pull, Pulled};
use crate::types::{Index, JobId, Nanos, NodeId};

/// Who did not have it is asked again after this time: its newest snapshot may be another one for a moment.
const ASK_EVERY: Nanos = Nanos::from_millis(200);

/// After this, nobody has it.
const PATIENCE: Nanos = Nanos::from_secs(10);

#[derive(Debug)]
struct Missing {
    reads: Vec<BodyRead>,
    /// Why it cannot be read here.
    why: Stop,
    since: Nanos,
    ask_at: Nanos,
}

#[derive(Debug, Default)]
pub struct Copies(BTreeMap<JobId, Missing>);

impl Copies {
    pub(super) fn next_deadline(&self) -> Nanos {
        self.0.values().map(|missing| missing.ask_at).min().unwrap_or(Nanos(u64::MAX))
    }

    /// Those who wait for one.
    pub(super) fn connections(&self) -> impl Iterator<Item = super::effect::ConnectionId> {
        self.0.values().flat_map(|missing| &missing.reads).map(|read| read.connection)
    }
}

impl Shard {
    /// A read of a live job failed, for which a node would stop. Above the floor it does, and repairs its log as it starts again.
    pub(super) fn seek_copy(&mut self, moment: Moment, read: BodyRead, index: Index, why: Stop) {
        if self.peers.is_empty() || index > self.raft.log().floor().index {
            return self.stop(why);
        }
        self.counters.copies_sought += 1;
        let (since, ask_at) = (moment.now, moment.now);
        let missing = Missing { reads: Vec::new(), why, since, ask_at };
        self.copies.0.entry(read.job).or_insert(missing).reads.push(read);
        self.seek_copies(moment);
    }

    pub(super) fn seek_copies(&mut self, moment: Moment) {
        let late = |missing: &Missing| moment.now >= missing.since.saturating_add(PATIENCE);
        let late: Vec<JobId> = self.copies.0.iter().filter(|(_, missing)| late(missing)).map(|(&job, _)| job).collect();
        for job in late {
            let Some(Missing { reads, why, .. }) = self.copies.0.remove(&job) else { continue };
            let lives = self.catalog.find(job).is_some_and(|found| self.machine.is_live(job, &found.class));
            if lives {
                return self.stop(why);
            }
            // It has ended meanwhile, also where somebody may have had it.
            reads.into_iter().for_each(|read| self.answer_gone(read));
        }
        let Some(snapshot) = self.giving.newest_name() else { return };
        let due = self.copies.0.iter_mut().filter(|(_, missing)| moment.now >= missing.ask_at);
        let due: Vec<JobId> = due
            .map(|(&job, missing)| {
                missing.ask_at = moment.now.saturating_add(ASK_EVERY);
                job
            })
            .collect();
        let connected: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| peer.connected).map(|(&node, _)| node).collect();
        for (job, &to) in due.iter().flat_map(|job| connected.iter().map(move |to| (*job, to))) {
            self.send(to, PeerMessage::Pull(Pull { snapshot, part: Part::Jobs(vec![job]) }));
        }
    }

    /// What another node gave: true if it was looked for here, and not by who pulls a snapshot.
    pub fn handle_copy(&mut self, pulled: &Pulled) -> bool {
        let Given::Jobs(jobs) = &pulled.what else { return false };
        let Some(given) = jobs.first().filter(|given| self.copies.0.contains_key(&given.job)) else { return false };
        let Some(Ok(located)) = Commands::new(&given.enqueue).next() else { return true };
        let Command::Enqueue { class, body_hash: hash, body } = located.numbered.command else { return true };
        let is_of_class = self.catalog.find(given.job).is_none_or(|known| known.class == class);
        if is_of_class
            && body_hash(body) == hash
            && let Some(missing) = self.copies.0.remove(&given.job)
        {
            missing.reads.into_iter().for_each(|read| self.hand_out(read, given.enqueue.slice_ref(body)));
        }
        true
    }
}
