//! The Beaver partial snapshot: everything of a shard's state but the bodies of its jobs, which stay in the log. It names the
//! exact set of the jobs that wait, and holds whatever else differs from what the log's entries say.
//!
//! ```text
//!   0          header: frame, lengths, hash of the table, hash of the header          one block
//!   4096       table: one hash for each chunk of the body                             whole blocks
//!   ...        body: the archived image, used in place                                whole blocks, the end zero
//! ```
//!
//! Never counted before it was read back, never used before every chunk was verified, and never changed: the same index has
//! the same bytes on every node. `docs/partial-snapshot.md` says what is in it and why that is enough.
//!
//! To read: `frame` (what a snapshot is of, and its header), `archive` (its body), `writing`, `reading`, `shelf` (which are
//! kept), `install` (one of another node's in the place of a log), `completion` (the last part of that), `foreseen` and `inspection`
//! (for whoever looks from outside).

pub mod archive;
pub mod completion;
pub mod foreseen;
pub mod frame;
pub mod inspection;
pub mod install;
pub mod reading;
pub mod shelf;
pub mod writing;

pub use archive::{Bodies, Contents};
pub use frame::{Frame, Kind};
pub use reading::{OpenError, Snapshot, open, verify, verify_file};
pub use writing::{Written, write};

#[cfg(test)]
mod tests;
