//! What must hold of every run, judged from outside: none of this is used by what it judges.
//!
//! `queue` is what the log means, said a second time and as plainly as possible; `history` is what clients saw, held
//! against it; `group` watches the nodes while they run, `stability` whether anybody disturbs a leader, `freshness` whether
//! anybody answers from an old state, `leases` whether reservations are given their time; `medium` reads what their disks truly hold, and `durable` keeps up with it.

pub mod durable;
pub mod freshness;
pub mod group;
pub mod history;
pub mod leases;
pub mod medium;
pub mod queue;
pub mod stability;
