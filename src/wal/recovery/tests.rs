//! Crashes at every change of random histories, damage in every place of a log, and disks without room.

mod bench;
mod crashes;
mod damage;
mod full;
mod rewriting;
