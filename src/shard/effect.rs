//! What a shard wants done. Every effect is unconditional by the time it leaves: its condition was data until it held
//! (`gate.rs`).

use std::fmt;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::api::Answer;
use crate::job::Capture;
use crate::net::message::{GivenJob, PeerMessage};
use crate::raft::message::{StopReason, Token, Vote};
use crate::snapshot::Frame;
use crate::types::{Incarnation, Index, JobId, LogPosition, Nanos, NodeId, SnapshotName};
use crate::wal::catalog::{EnqueueAt, PieceName};
use crate::wal::entry::Entry;
use crate::wal::footer::{FooterDraft, Subject};
use crate::wal::index::Placement;
use crate::wal::keeper::NewFloor;

/// A client connection of this node, unique while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What is to be done with files that are written no more.
#[derive(Debug)]
pub enum Keep {
    /// Write the rows of a segment to a file beside it and map them, then `handle_rows_mapped`. Where it cannot be done now,
    /// later.
    Rows { subject: Subject, rows: FooterDraft },
    /// The log may count from `floor` on, and of what is below only these jobs live; then `handle_files_changed`, and again
    /// whenever files have changed.
    Retain { floor: Option<NewFloor>, live: Arc<RoaringTreemap> },
    /// Read all of a file, and make whole what is not; then `handle_files_changed` or `handle_lacking`.
    Mend(PieceName),
    /// Other nodes' copies of jobs, which were looked for by `handle_lacking`.
    Copies(Vec<GivenJob>),
}

#[derive(Debug)]
pub enum Effect {
    /// Make the vote durable, then `handle_vote_saved`. Never behind an append.
    SaveVote(Vote),
    /// Write, in the order of these effects; then `handle_appended`.
    Append(Append),
    Send {
        to: NodeId,
        message: PeerMessage,
    },
    Answer {
        connection: ConnectionId,
        ticket: u64,
        answer: Answer,
    },
    /// Admit this incarnation of a node no more, durably; where it is this node's own, stop.
    ShutOut {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// Read these entries back from the log, then `handle_entries_read`.
    ReadEntries {
        read: u64,
        placements: Vec<Placement>,
    },
    /// Read a job's ENQ, then `handle_command_read`; or `handle_body_given_up`.
    ReadCommand {
        read: u64,
        at: EnqueueAt,
    },
    /// One at a time, in the order of these effects, beside everything else.
    Keep(Keep),
    /// Write this snapshot beside everything else, then `handle_snapshot_written`. One at a time.
    WriteSnapshot(Box<SnapshotDraft>),
    /// Read this part of a snapshot and give it to a peer.
    GivePiece {
        to: NodeId,
        snapshot: SnapshotName,
        offset: u64,
    },
    /// Read these jobs' ENQs and give them to a peer, as many as can be read.
    GiveJobs {
        to: NodeId,
        snapshot: SnapshotName,
        jobs: Vec<JobPlace>,
    },
    /// Pull this snapshot and the jobs in it that are not here, beside everything else; and when that is done, open the shard
    /// anew from it, if [`crate::shard::Shard::wants`] it still. Said again every now and then.
    Install(Wanted),
    /// The node must stop.
    Stop(Stop),
}

/// Where a job's ENQ stands, and what else a node that takes it over needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobPlace {
    pub job: JobId,
    /// Of its entry.
    pub index: Index,
    pub wall: Nanos,
    pub at: EnqueueAt,
}

/// A snapshot that a node lacks which is behind the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Who offered it.
    pub from: NodeId,
    pub snapshot: SnapshotName,
    /// The last entry that is known to be committed here: the jobs that came with it and before are here.
    pub after: Index,
    /// The first job that is not.
    pub first_job: JobId,
}

/// A state, and what it is of.
#[derive(Debug)]
pub struct SnapshotDraft {
    pub frame: Frame,
    pub capture: Capture,
}

#[derive(Debug)]
pub struct Append {
    /// Entries above this index are dead before the new ones are written.
    pub truncate_after: Option<Index>,
    pub entries: Vec<Entry>,
    /// The highest index that is known to be committed, a hint that recovery uses.
    pub commit: Index,
    pub token: Token,
}

/// Why a shard can't go on. Each is evidence of a fault that going on would hide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    Raft(StopReason),
    /// A committed entry holds what this version can't read.
    UnreadableCommand {
        position: LogPosition,
        why: String,
    },
    /// The body of a job that was read back from the log is not the one that was put.
    BodyMismatch {
        position: LogPosition,
        why: String,
    },
    /// An entry that was durable could not be read back.
    UnreadableLog {
        why: String,
    },
    /// A job lives below the log's floor, and neither this node nor any that could be asked can give it out.
    JobLost {
        job: JobId,
        why: String,
    },
    /// The state of this node at a marker is not that of the majority; or no majority agrees on one.
    StateDiffers {
        marker: Index,
        own: u128,
        majority: Option<u128>,
    },
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Raft(StopReason::ChainConflict { position, .. }) => write!(
                f,
                "entry {position} (index@term) here and on the leader differ: one of the two logs was damaged or belongs to another history"
            ),
            Stop::Raft(StopReason::CommittedConflict { position, commit }) => write!(
                f,
                "a leader wants to overwrite entry {position} (index@term), but entries up to {commit} are committed here"
            ),
            Stop::Raft(StopReason::TwoLeaders { term, .. }) => {
                write!(f, "two nodes lead in term {term}: one of them withdrew a vote, or its disk did")
            }
            Stop::UnreadableCommand { position, why } => {
                write!(f, "the committed entry {position} (index@term) can't be applied: {why}")
            }
            Stop::BodyMismatch { position, why } => {
                write!(f, "a job's body in entry {position} (index@term) can't be given out: {why}")
            }
            Stop::StateDiffers { marker, own, majority: Some(majority) } => write!(
                f,
                "at entry {marker} it has the digest {own:032x}, and a majority has {majority:032x}; keep the data directory \
                 for a report, and replace it: a new one is filled from the other nodes"
            ),
            Stop::StateDiffers { marker, own, majority: None } => write!(
                f,
                "at entry {marker} no majority of the nodes has the same state (this one's digest is {own:032x}), so the shard \
                 stops; keep the data directories of all nodes for a report, and restore a backup"
            ),
            Stop::JobLost { job, why } => write!(
                f,
                "job {job} is waited for and cannot be given out ({why}), and no other node that could be asked has it whole: \
                 restore that file from a backup, or delete the job by its id and start again"
            ),
            Stop::UnreadableLog { why } => write!(f, "the log can't be read back: {why}"),
        }
    }
}
