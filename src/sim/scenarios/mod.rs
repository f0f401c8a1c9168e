//! Named situations that broke real systems, played with whole nodes: each test sets one up, and says how it must end. What
//! a group of bare state machines can show is in `tests/raft`; here is what takes disks, processes, clocks and clients.
//!
//! `docs/scenarios.md` maps the ids in the names to what they stand for.

mod stage;

mod clients;
mod damage;
mod full_disk;
mod gray;
mod installs;
mod linearizable;
mod many_tubes;
mod offers;
mod partitions;
mod put_back;
mod rot;
mod stops;
