//! Consensus.
pub mod message;
