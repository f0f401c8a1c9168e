//! The log on disk.
pub mod entry;
