//! The replicated state machine.
pub mod codec;
pub mod command;
pub mod view;
