//! The replicated state machine.
pub mod command;
pub mod view;
