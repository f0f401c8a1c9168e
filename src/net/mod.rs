//! Frames between nodes, and the connections that carry them. One connection carries one shard in one direction: every
//! node dials every other; who dials sends, who was dialled receives. Nothing here decides anything of the protocol, and
//! everything may be lost: upper layers resend.
//!
//! To read in this order: `message` (what is said), `frame` and `assembler` (how it lies on a stream), `fields` and `codec`
//! (how a message becomes a payload), `handshake` and `refusal`
//! (who may say it), `link` (events and limits), `outbox`, `dialer`,
//! `acceptor` (the two ends), `greeting` (how an accepted connection gets to the thread of its shard).

pub mod message;
pub mod standing;

pub mod assembler;
pub mod codec;
pub mod fields;
pub mod frame;
pub mod handshake;
pub mod refusal;

pub mod acceptor;
pub mod backoff;
pub mod dialer;
pub mod greeting;
pub mod link;
pub mod outbox;
pub mod refused;
pub mod stream;

#[cfg(test)]
mod tests;
