//! Whole nodes in chosen trouble.

mod damaged_logs;
mod group;
