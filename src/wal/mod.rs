//! The log on disk: formats, group commit, recovery. Pure decisions, and long sequential work as async functions over
//! `io`'s traits; nothing here knows a runtime, and nothing here decides for consensus.

pub mod entry;
pub mod format;
pub mod index;
pub mod rows;
pub mod footer;
pub mod catalog;
pub mod segment;
pub mod writer;

pub mod decision;
pub mod recovery;
pub mod inventory;
pub mod rewrite;

pub mod directory;
pub mod manifest;
pub mod store;
pub mod compaction;
mod salvage;
pub mod cold;
pub mod keeper;
pub mod inspection;
pub mod open_files;
pub mod reader;
pub mod vote;
