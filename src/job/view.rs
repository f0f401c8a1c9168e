//! What the state machine shows of itself to those who only look.

use bytes::Bytes;

use crate::types::JobId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    Ready,
    Delayed,
    Reserved,
    Buried,
}

/// One job, at one moment of the log's clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    pub job: JobId,
    pub tube: Bytes,
    pub state: JobState,
    pub priority: u32,
    /// Seconds since its ENQ.
    pub age_s: u64,
    /// The delay it was last put or released with.
    pub delay_s: u32,
    pub ttr_s: u32,
    /// Seconds until a reservation or a delay ends; else 0.
    pub time_left_s: u64,
    pub reserves: u32,
    pub timeouts: u32,
    pub releases: u32,
    pub buries: u32,
    pub kicks: u32,
}

/// Counts of one tube.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TubeCounts {
    /// Ready jobs with a priority below 1024.
    pub urgent: u64,
    pub ready: u64,
    pub reserved: u64,
    pub delayed: u64,
    pub buried: u64,
    /// Jobs ever put into it since its record exists.
    pub total_jobs: u64,
    pub deletes: u64,
    pub pauses: u64,
    /// The pause last asked for, and what is left of it, in seconds; both 0 where none runs.
    pub pause_s: u32,
    pub pause_left_s: u64,
}

/// How many jobs of each state are in a tube.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TubeDepth {
    pub tube: Bytes,
    pub ready: u64,
    pub reserved: u64,
    pub delayed: u64,
    pub buried: u64,
    pub is_paused: bool,
    /// The ready job that was put first. None where none is ready, or they are of so many priorities and classes that it is not
    /// looked for.
    pub oldest_ready: Option<JobId>,
}

/// Counts of the whole state machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub urgent: u64,
    pub ready: u64,
    pub reserved: u64,
    pub delayed: u64,
    pub buried: u64,
    pub timeouts: u64,
    pub total_jobs: u64,
    pub tubes: u64,
    pub sessions: u64,
}
