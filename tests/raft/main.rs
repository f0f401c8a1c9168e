//! Consensus under scripts and random schedules: whole groups of the shipped state machine over links and disks whose
//! every message and completion the test decides about.

mod cluster;
mod disk;

mod elections;
mod etcd_quorum;
mod figures;
mod flow;
mod model;
mod reads;
mod replication;
mod schedules;
mod starts;
mod transfers;
