//! node.
pub mod admin;
