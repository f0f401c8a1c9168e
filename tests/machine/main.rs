//! The state machine, through its public face: what the protocol asks of it, what sessions guarantee, and random
//! commands against a model that is too simple to be wrong.

mod driver;
mod model;

mod expiry;
mod hints;
mod protocol;
mod random;
mod sessions;
mod snapshots;
