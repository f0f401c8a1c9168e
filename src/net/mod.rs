//! Frames between nodes.
pub mod message;
