//! sim.
pub mod disk;
