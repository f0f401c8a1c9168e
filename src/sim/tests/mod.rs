//! Whole nodes in chosen trouble.

mod answer_rooms;
mod damaged_logs;
mod group;
