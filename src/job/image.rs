//! The state in the form in which a partial snapshot holds it: plain numbers, sorted, nothing that depends on how the state
//! came to be. It must never hold a body, a place in a file, or anything that one node has and another has not.
//!
//! Equal states have equal images, and equal images equal bytes: lists are sorted by the key that each names, the kind of a set
//! follows from what it holds (`capture`), and the archive fills what lies between fields with zeros.

use rkyv::{Archive, Serialize};

use super::fingerprint::Fingerprint;

/// All of a machine. The order of the parts is that of the design: queue, in flight, delayed, buried, completed.
#[derive(Debug, Archive, Serialize)]
pub struct Image {
    /// Of the last entry applied.
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) lease: u64,
    pub(super) wall: u64,
    pub(super) next_job: u64,
    pub(super) next_epoch: u64,
    pub(super) next_burial: u64,
    pub(super) next_tube: u64,
    pub(super) timeouts: u64,
    pub(super) total_jobs: u64,
    /// By id, which is the order of creation.
    pub(super) tubes: Vec<TubeImage>,
    /// Ready jobs that differ from their ENQ. By job, as the next three.
    pub(super) differing: Vec<JobImage>,
    pub(super) in_flight: Vec<InFlightImage>,
    pub(super) delayed: Vec<DelayedImage>,
    pub(super) buried: Vec<BuriedImage>,
    /// By node.
    pub(super) boots: Vec<BootImage>,
    /// By node and number: what each open session has done.
    pub(super) sessions: Vec<SessionImage>,
    /// By node.
    pub(super) shut_out: Vec<ShutOutImage>,
}

#[derive(Debug, Archive, Serialize)]
pub struct TubeImage {
    pub(super) id: u64,
    pub(super) total_jobs: u64,
    pub(super) deletes: u64,
    pub(super) pauses: u64,
    /// The lowest id of a waiting job: none of the jobs below it waits.
    pub(super) cursor: Option<u64>,
    /// Live jobs of every state.
    pub(super) count: u64,
    pub(super) pause: Option<PauseImage>,
    pub(super) name: Vec<u8>,
    /// The waiting jobs that are as their ENQ made them, by class.
    pub(super) waiting: Vec<WaitingImage>,
    pub(super) fingerprint: FingerprintImage,
}

#[derive(Debug, Archive, Serialize)]
pub struct PauseImage {
    pub(super) until: u64,
    pub(super) duration_s: u32,
}

/// The exact set of the waiting jobs of one class.
#[derive(Debug, Archive, Serialize)]
pub struct WaitingImage {
    pub(super) class: ClassImage,
    pub(super) ids: IdsImage,
}

#[derive(Debug, Archive, Serialize)]
pub struct ClassImage {
    pub(super) priority: u32,
    pub(super) ttr_s: u32,
    pub(super) delay_s: u32,
}

#[derive(Debug, Archive, Serialize)]
pub enum IdsImage {
    /// Ascending.
    Few(Vec<u64>),
    /// A 64-bit Roaring bitmap in its portable form, each container the smallest that holds it.
    Many(Vec<u8>),
}

/// What the record of a job holds beside its state.
#[derive(Debug, Archive, Serialize)]
pub struct JobImage {
    pub(super) job: u64,
    pub(super) tube: u64,
    pub(super) class: ClassImage,
    pub(super) priority: u32,
    pub(super) delay_s: u32,
    pub(super) reserves: u32,
    pub(super) timeouts: u32,
    pub(super) releases: u32,
    pub(super) buries: u32,
    pub(super) kicks: u32,
}

#[derive(Debug, Archive, Serialize)]
pub struct InFlightImage {
    pub(super) job: JobImage,
    /// The number of a session of `node`'s present boot.
    pub(super) session: u64,
    pub(super) epoch: u64,
    pub(super) deadline: u64,
    pub(super) node: u8,
}

#[derive(Debug, Archive, Serialize)]
pub struct DelayedImage {
    pub(super) job: JobImage,
    pub(super) until: u64,
}

#[derive(Debug, Archive, Serialize)]
pub struct BuriedImage {
    pub(super) job: JobImage,
    pub(super) order: u64,
}

#[derive(Debug, Archive, Serialize)]
pub struct BootImage {
    pub(super) epoch: u64,
    pub(super) highest: Option<u64>,
    pub(super) node: u8,
}

#[derive(Debug, Archive, Serialize)]
pub struct SessionImage {
    pub(super) number: u64,
    pub(super) last_seq: u64,
    pub(super) node: u8,
}

/// The incarnation little-endian, as bytes, for the same reason as a fingerprint.
#[derive(Debug, Archive, Serialize)]
pub struct ShutOutImage {
    pub(super) incarnation: [u8; 16],
    pub(super) node: u8,
}

/// Little-endian: as bytes it asks for no alignment, and so for no padding.
#[derive(Debug, Archive, Serialize)]
pub struct FingerprintImage {
    bytes: [u8; 16],
}

impl From<Fingerprint> for FingerprintImage {
    fn from(fingerprint: Fingerprint) -> FingerprintImage {
        FingerprintImage { bytes: fingerprint.0.to_le_bytes() }
    }
}

impl From<&ArchivedFingerprintImage> for Fingerprint {
    fn from(image: &ArchivedFingerprintImage) -> Fingerprint {
        Fingerprint(u128::from_le_bytes(image.bytes))
    }
}
