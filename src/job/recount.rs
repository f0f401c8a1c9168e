//! The full recount of an image: every live job is hashed again, and each tube must come to the fingerprint that apply has
//! kept. In proportion to the jobs, so it runs behind a node that serves already, on any thread but a core's.

use std::collections::BTreeMap;

use super::fingerprint::{Fingerprint, TubeSeed};
use super::image::{ArchivedIdsImage, ArchivedImage, ArchivedJobImage};
use super::ready::ClassKey;
use super::record::{Reservation, State};
use super::restore::{bitmap, record};
use crate::types::{BootEpoch, JobId, Nanos, NodeId, SessionId};

/// The jobs of a tube are not those that its fingerprint was kept of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the jobs of tube {tube} have the fingerprint {found}, and the state was kept with {kept}")]
pub struct RecountError {
    pub tube: u64,
    pub kept: Fingerprint,
    pub found: Fingerprint,
}

/// Counts all live jobs of an image afresh; how many there are.
///
/// # Errors
/// They are not those that its fingerprints are of.
pub fn recount(image: &ArchivedImage) -> Result<u64, RecountError> {
    let mut jobs = 0;
    let mut sums: BTreeMap<u64, (TubeSeed, Fingerprint)> = BTreeMap::new();
    for tube in image.tubes.iter() {
        let seed = TubeSeed::of(&tube.name);
        let mut sum = Fingerprint::default();
        for waiting in tube.waiting.iter() {
            let class = ClassKey::from(&waiting.class);
            let mut add = |job| {
                jobs += 1;
                sum += seed.hash_bit(JobId(job), class);
            };
            match &waiting.ids {
                ArchivedIdsImage::Few(ids) => ids.iter().for_each(|id| add(id.to_native())),
                // One that cannot be read adds nothing, and the sum shows it.
                ArchivedIdsImage::Many(bytes) => bitmap(bytes).unwrap_or_default().iter().for_each(add),
            }
        }
        sums.insert(tube.id.to_native(), (seed, sum));
    }
    each_record(image, |job, state| {
        jobs += 1;
        if let Some((seed, sum)) = sums.get_mut(&job.tube.to_native()) {
            *sum += seed.hash_record(JobId(job.job.to_native()), &record(job, state));
        }
    });
    for tube in image.tubes.iter() {
        let kept = Fingerprint::from(&tube.fingerprint);
        let (_, found) = sums[&tube.id.to_native()];
        if kept != found {
            return Err(RecountError { tube: tube.id.to_native(), kept, found });
        }
    }
    Ok(jobs)
}

fn each_record(image: &ArchivedImage, mut each: impl FnMut(&ArchivedJobImage, State)) {
    let boots: BTreeMap<u8, u64> = image.boots.iter().map(|boot| (boot.node, boot.epoch.to_native())).collect();
    image.differing.iter().for_each(|job| each(job, State::Ready));
    for delayed in image.delayed.iter() {
        each(&delayed.job, State::Delayed { until: Nanos(delayed.until.to_native()) });
    }
    for buried in image.buried.iter() {
        each(&buried.job, State::Buried { order: buried.order.to_native() });
    }
    for reserved in image.in_flight.iter() {
        let boot = BootEpoch(boots.get(&reserved.node).copied().unwrap_or_default());
        let session = SessionId { node: NodeId(reserved.node), boot, number: reserved.session.to_native() };
        let (epoch, deadline) = (reserved.epoch.to_native(), Nanos(reserved.deadline.to_native()));
        each(&reserved.job, State::Reserved(Reservation { session, epoch, deadline }));
    }
}
