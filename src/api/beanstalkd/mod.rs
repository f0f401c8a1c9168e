//! The beanstalkd protocol, as its clients know it: every command, every reply, every limit.
//!
//! ```text
//!   wire ──> server ──> connection ──> parser ──> grammar ──> number
//!                          │  │            └──────> request
//!                          │  └──> waits, poll, watch_list, outbox ──> shards
//!   wire <── server <── output <── reply, stats <──────────────────── shards
//! ```
//!
//! All but `server` is without I/O. Read `request` and `grammar` for what is understood, `connection` for what is
//! done about it, `waits` for the one hard command.

pub mod body_budget;
pub mod connection;
pub mod front_door;
pub mod grammar;
pub mod number;
pub mod outbox;
pub mod output;
pub mod output_budget;
pub mod parser;
pub mod poll;
pub mod reply;
pub mod request;
pub mod server;
pub mod signal;
pub mod stats;
pub mod waits;
pub mod watch_list;
