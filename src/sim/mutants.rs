//! The gate that asks whether the simulator finds anything: each bug of `mutation` is put back, and must be found within a
//! fixed number of seeds, while the code as it ships passes the same seeds.
//!
//! A profile turns the swarm towards the circumstances in which its bug shows, as a tester would who knows which part was
//! changed. It must never say what happens when: a script finds only what its author thought of.

use std::time::{Duration, Instant};

use super::faults::{FaultKind, Swarm};
use super::lasting::Lasting;
use super::random::Random;
use super::run::{Profile, RunOptions, run_seed};
use crate::mutation::Mutation;
use crate::types::Nanos;

/// One bug, where to look for it, and for how long.
#[derive(Clone, Copy)]
pub struct Mutant {
    pub mutation: Mutation,
    pub profile: Profile,
    pub seeds_max: u64,
}

/// Not found within what CI can afford, so only looked for by name: holes in the simulator, which are to be filled.
///
/// `r2`: entries are replaced only once the later term is durable, and by then what was being written before is done, as
/// good as always. `tests/raft` plays the exception.
///
/// `unadmitted-start` and `former-match`: each is the second of two guards, and the first (every
/// peer that has evidence refuses the node) holds in runs, where one node goes back that all others
/// know. `scenarios::put_back` plays what gets past it.
pub const NOT_FOUND: &[Mutation] =
    &[Mutation::LateCompletion, Mutation::UnadmittedStartPromises, Mutation::FormerMatchKept];

/// Looked for with the invariants inside of nodes (`raft::invariants::check_node`): it breaks no promise, and a follower
/// that is starved by it is helped by the next change of leader.
const FROM_INSIDE: &[Mutation] = &[Mutation::InFlightBytesKept];

/// They are in what nodes do below their logs.
const NEEDS_SNAPSHOTS: &[Mutation] =
    &[Mutation::ForgottenHole, Mutation::DroppedRecord, Mutation::LiveFileDropped, Mutation::FloorAboveSnapshots];

/// Every bug that can be put back, in the order of `Mutation::ALL`.
#[must_use]
pub fn mutants() -> Vec<Mutant> {
    let mutant = |mutation| {
        let (profile, seeds_max): (Profile, u64) = match mutation {
            Mutation::StaleDurableMark => (cut_logs, 200),
            Mutation::LateCompletion => (cut_logs_on_slow_disks, 200),
            Mutation::UnsortedQuorum => (as_drawn, 20),
            Mutation::EarlierTermByCounting => (changes_of_leader, 60),
            Mutation::StaleAppendCuts => (broken_streams, 40),
            Mutation::InFlightBytesKept => (broken_streams, 40),
            Mutation::PreVoteWithoutRecency => (cut_links, 40),
            Mutation::VoteBeforeDurable => (changes_of_leader, 40),
            Mutation::ReadByEarlierRound => (reads_of_deposed_leaders, 400),
            Mutation::EarlierClockKept => (leaders_that_come_and_go, 40),
            Mutation::NoDeduplication => (changes_of_leader, 40),
            Mutation::ReplyBeforeCommit => (as_drawn, 20),
            Mutation::ForgottenHole | Mutation::DroppedRecord => (nodes_that_start_again, 20),
            Mutation::LiveFileDropped => (nodes_that_start_again, 40),
            Mutation::FloorAboveSnapshots => (nodes_that_start_again, 200),
            Mutation::LowerBootAccepted | Mutation::OtherStartAccepted => (disks_put_back, 40),
            Mutation::LowerTermAccepted | Mutation::LowerIndexAccepted => (disks_of_one_start_put_back, 40),
            Mutation::UnadmittedStartPromises | Mutation::FormerMatchKept => (disks_of_one_start_put_back, 40),
            Mutation::PartialRestoreAccepted => (disks_put_back_in_part, 20),
        };
        Mutant { mutation, profile, seeds_max }
    };
    Mutation::ALL.iter().copied().map(mutant).collect()
}

/// What came of looking for a bug.
#[derive(Debug)]
pub struct Hunt {
    /// How many seeds were run until it was found, and what gave it away.
    pub found: Option<(u64, String)>,
    pub took: Duration,
    /// What the code as it ships did wrong in the same seeds.
    pub false_alarm: Option<String>,
}

impl Hunt {
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.found.is_some() && self.false_alarm.is_none()
    }
}

/// Looks for one bug.
#[must_use]
pub fn hunt(mutant: &Mutant, first_seed: u64) -> Hunt {
    let begun = Instant::now();
    let with = RunOptions {
        profile: Some(mutant.profile),
        mutation: Some(mutant.mutation),
        outside_only: !FROM_INSIDE.contains(&mutant.mutation),
        snapshots: NEEDS_SNAPSHOTS.contains(&mutant.mutation),
        ..RunOptions::default()
    };
    let failing = |number: &u64| run_seed(first_seed + number, &with).err().map(|failure| (number + 1, failure.what));
    let found = (0..mutant.seeds_max).find_map(|number| failing(&number));
    let took = begun.elapsed();
    let seeds = found.as_ref().map_or(0, |(seeds, _)| *seeds);
    let without = RunOptions { mutation: None, ..with };
    let false_alarm = (0..seeds).find_map(|number| run_seed(first_seed + number, &without).err());
    Hunt { found, took, false_alarm: false_alarm.map(|failure| failure.to_string()) }
}

fn as_drawn(_: &mut Swarm, _: &Random) {}

/// Only these faults, all of them, and often.
fn only(swarm: &mut Swarm, random: &Random, faults: &[FaultKind]) {
    swarm.faults = faults.to_vec();
    swarm.pause_max = Nanos::from_millis(random.between(150, 1_000));
}

/// Leaders are cut off with entries of their own, and come back.
fn cut_logs(swarm: &mut Swarm, random: &Random) {
    only(swarm, random, &[FaultKind::Isolate, FaultKind::Pause, FaultKind::SlowLink, FaultKind::SlowDisk]);
}

/// The same, and writes of the log take so long that the cut comes before they are done: also for want of a new segment, which
/// holds up no vote. (Nothing is cut before the term of the cut is durable.)
fn cut_logs_on_slow_disks(swarm: &mut Swarm, random: &Random) {
    let faults =
        [FaultKind::Isolate, FaultKind::FillDisk, FaultKind::FillDisk, FaultKind::SlowDisk, FaultKind::SlowLink];
    let tunables = &mut swarm.cluster.tunables;
    (tunables.segment_bytes_min, tunables.segment_bytes_max) = (65_536, 65_536);
    swarm.workload.body_bytes_max = 20_000;
    only(swarm, random, &faults);
    swarm.pause_max = Nanos::from_millis(500);
    swarm.chaos = Nanos::from_secs(8);
    swarm.workload.pause_max = Nanos::from_millis(10);
    if random.chance(400_000) {
        swarm.cluster.nodes = 5;
    }
}

fn changes_of_leader(swarm: &mut Swarm, random: &Random) {
    only(
        swarm,
        random,
        &[FaultKind::Kill, FaultKind::Isolate, FaultKind::Pause, FaultKind::Restart, FaultKind::SlowLink],
    );
}

/// Leaders are cut off, for longer than an election takes to begin, and lead again.
fn leaders_that_come_and_go(swarm: &mut Swarm, random: &Random) {
    only(swarm, random, &[FaultKind::Isolate, FaultKind::Isolate, FaultKind::CutLink]);
    swarm.chaos = Nanos::from_secs(random.between(8, 15));
}

/// What a snapshot holds is seen by who starts from it.
fn nodes_that_start_again(swarm: &mut Swarm, random: &Random) {
    only(swarm, random, &[FaultKind::Kill, FaultKind::Restart, FaultKind::PowerCut]);
}

/// Of one node, once everything else has healed.
fn disks_put_back(swarm: &mut Swarm, random: &Random) {
    nodes_that_start_again(swarm, random);
    swarm.chaos = Nanos::from_secs(random.between(4, 8));
    swarm.pause_max = Nanos::from_millis(random.between(500, 3_000));
    swarm.lasting = Some(Lasting::PutBack);
}

/// No node starts again before one is put back, so that it is not told by its boot number.
fn disks_of_one_start_put_back(swarm: &mut Swarm, random: &Random) {
    disks_put_back(swarm, random);
    swarm.faults = vec![FaultKind::Isolate, FaultKind::Pause];
}

fn disks_put_back_in_part(swarm: &mut Swarm, random: &Random) {
    disks_put_back(swarm, random);
    swarm.lasting = Some(Lasting::PutBackInPart);
}

fn broken_streams(swarm: &mut Swarm, random: &Random) {
    only(swarm, random, &[FaultKind::BreakStreams, FaultKind::LossyLinks, FaultKind::SlowLink]);
}

/// Of three nodes, two at a time don't hear each other.
fn cut_links(swarm: &mut Swarm, random: &Random) {
    only(swarm, random, &[FaultKind::CutLink]);
}

/// Leaders stand still while answers to what they sent are on their way, and are asked meanwhile.
fn reads_of_deposed_leaders(swarm: &mut Swarm, random: &Random) {
    let (pause, slow) = (FaultKind::Pause, FaultKind::SlowLink);
    only(swarm, random, &[pause, pause, slow, slow, slow, FaultKind::Suspend]);
    swarm.chaos = Nanos::from_secs(random.between(5, 10));
    swarm.workload.peek_ppm = 500_000;
    // They rest long enough to ask when a leader that stands still has been replaced.
    swarm.workload.pause_max = Nanos::from_millis(400);
    swarm.workload.clients = 8;
    swarm.workload.readers = 6;
}
