//! A hash of the whole state, for comparing two machines that applied the same entries. Jobs enter by the
//! fingerprints of their tubes, so that it costs in proportion to tubes and sessions, not to jobs.

use xxhash_rust::xxh3::Xxh3;

use super::machine::Machine;

const SEED: u64 = u64::from_le_bytes(*b"beaverDG");

impl Machine {
    /// Equal states have equal digests; states that differ in anything, almost surely different ones.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut hash = Xxh3::with_seed(SEED);
        let mut add = |numbers: &[u64]| numbers.iter().for_each(|number| hash.update(&number.to_le_bytes()));
        add(&[self.applied.term.0, self.applied.index.0, self.times.lease.0, self.times.wall.0]);
        add(&[self.next_job.0, self.next_epoch, self.next_burial, self.timeouts, self.total_jobs]);
        add(&[self.tubes.next_id().0, self.tubes.len() as u64, self.sessions.len() as u64]);
        add(&[self.shut_out.len() as u64]);
        for tube in self.tubes.iter() {
            let (low, high) = (tube.fingerprint.0 as u64, (tube.fingerprint.0 >> 64) as u64);
            let (until, duration_s) = tube.pause.map_or((0, 0), |pause| (pause.until.0, pause.duration_s));
            add(&[tube.id.0, tube.seed.0, low, high, until, duration_s.into()]);
            add(&[tube.total_jobs, tube.deletes, tube.pauses]);
        }
        for (node, epoch, highest) in self.sessions.boots() {
            add(&[node.0.into(), epoch.0, u64::from(highest.is_some()), highest.unwrap_or(0)]);
        }
        for (id, session) in self.sessions.iter() {
            add(&[id.node.0.into(), id.boot.0, id.number, session.last_seq]);
        }
        for (node, incarnation) in &self.shut_out {
            add(&[node.0.into(), incarnation.0 as u64, (incarnation.0 >> 64) as u64]);
        }
        hash.digest128()
    }
}
