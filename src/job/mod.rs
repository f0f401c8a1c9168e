//! The replicated state machine: what a shard's entries mean. It reads nothing but the entries it is given: no
//! clock, no file, no randomness; so every node that applied the same entries holds the same state.
//!
//! ```text
//!                  put, delay 0                       reserve
//!   (no job) ------------------------>  READY  --------------------->  RESERVED
//!      |                                ^ ^ ^                            | | |
//!      | put, delay > 0                 | | |    release, timeout,       | | |
//!      |                          kick, | | |    session closed          | | |
//!      v                          due   | | +----------------------------+ | |
//!   DELAYED ----------------------------+ |                                | |
//!      ^                                  | kick                           | |
//!      |                                BURIED <--------- bury ------------+ |
//!      +------------------------------- release, delay > 0 ------------------+
//!
//!   Any but one reserved by somebody else may be deleted; any but a reserved one may be reserved by its id.
//! ```
//!
//! A ready job that does not differ from its ENQ is one bit (`job_set`) in the set of its class; every other
//! job has a `record` in memory. Bodies are never here, they stay in the log.
//!
//! To read: `command` and `view` (what goes in and comes out), `codec` (its bytes), `machine` (what the state is),
//! `apply` (what an entry does to it), `transition` (the two moves all changes are made of), then the parts; at last
//! `capture`, `image`, `restore` and `recount` (how it is kept and comes back).

pub mod codec;
pub mod command;
pub mod view;

mod machine;

mod apply;
mod execute;
mod expiry;
mod transition;

mod capture;
mod image;
mod recount;
mod restore;

mod digest;
mod fingerprint;
mod invariants;
mod job_set;
mod pause;
mod queries;
mod ready;
mod record;
mod scan;
mod sessions;
mod totals;
mod tube;
mod tube_name;

pub use apply::ApplyError;
pub use capture::Capture;
pub use expiry::{Due, TRANSITIONS_PER_ENTRY_MAX};
pub use fingerprint::Fingerprint;
pub use image::{ArchivedImage, Image};
pub use machine::Machine;
pub use queries::Enqueued;
pub use recount::{RecountError, recount};
pub use restore::RestoreError;
pub use scan::{DepthScan, TubeCursor};
