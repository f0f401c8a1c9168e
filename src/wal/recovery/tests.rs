//! Crashes at every change of random histories, and damage in every place of a log.

mod bench;
mod crashes;
mod damage;
