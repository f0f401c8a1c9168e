//! A promise survives every crash, and damage is never taken for its absence.

use super::*;
use crate::sim::disk::block_on::block_on;
use crate::sim::disk::{Crash, Faults, SectorOdds, SimDisk};

const ME: VoteIdentity =
    VoteIdentity { log: LogIdentity { cluster: ClusterId(5), shard: ShardId(1) }, incarnation: Incarnation(77) };

fn path() -> PathBuf {
    PathBuf::from("/vote")
}

fn prepared(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed, 1 << 20);
    block_on(VoteFile::create(&disk, &path(), ME)).unwrap();
    disk
}

fn open(disk: &SimDisk) -> Result<(VoteFile<SimDisk>, Vote), VoteError> {
    block_on(VoteFile::open(disk, &path(), ME))
}

fn vote(term: u64) -> Vote {
    Vote { term: Term(term), voted_for: (!term.is_multiple_of(3)).then_some(NodeId((term % 7 + 1) as u8)) }
}

#[test]
fn a_new_file_has_promised_nothing() {
    assert_eq!(open(&prepared(1)).unwrap().1, Vote::default());
}

#[test]
fn every_vote_comes_back() {
    let disk = prepared(1);
    for term in 1..10 {
        let (mut file, before) = open(&disk).unwrap();
        assert_eq!(before.term, Term(term - 1));
        block_on(file.save(vote(term))).unwrap();
        assert_eq!(open(&disk).unwrap().1, vote(term));
    }
}

/// Crashes in the middle of saving, of opening, and of opening again; what was saved is never forgotten, and what was
/// once read is never taken back.
#[test]
fn no_crash_takes_a_vote_back_or_makes_the_file_unreadable() {
    let odds = SectorOdds { new: 0.3, torn: 0.3, garbage: 0.3 };
    for seed in 0..400 {
        let mut disk = prepared(seed);
        // What was acknowledged or read once, and what a save was begun for.
        let (mut promised, mut begun) = (0, 0);
        for round in 0..8 {
            let stop_at = disk.changes() + 1 + (seed + round) % 8;
            disk.stop_at(stop_at);
            if let Ok((mut file, read)) = open(&disk) {
                assert!(promised <= read.term.0 && read.term.0 <= begun, "seed {seed}");
                promised = read.term.0;
                begun = promised + 1;
                while block_on(file.save(vote(begun))).is_ok() {
                    promised = begun;
                    begun += 1;
                }
            }
            disk = disk.crash(if round % 3 == 0 { Crash::Process } else { Crash::Power(odds) });
            let image = disk.fork();
            let (_, read) = open(&image).unwrap();
            assert!(promised <= read.term.0 && read.term.0 <= begun, "seed {seed}: {read:?}, promised {promised}");
            assert_eq!(read, if read.term.0 == 0 { Vote::default() } else { vote(read.term.0) });
            // What an open file told survives the loss of what was not durable.
            let image = image.crash(Crash::Power(SectorOdds::OLD));
            assert_eq!(open(&image).unwrap().1, read);
        }
    }
}

fn damage(disk: &SimDisk, slot: u64) {
    disk.flip_bit(&path(), (slot * BLOCK + 20) * 8).unwrap();
}

#[test]
fn one_damaged_copy_of_each_pair_does_no_harm_and_is_healed() {
    for slots in [[0, 2], [0, 3], [1, 2], [1, 3]] {
        for saved in 1..4 {
            let disk = prepared(1);
            let mut file = open(&disk).unwrap().0;
            for term in 1..=saved {
                block_on(file.save(vote(term))).unwrap();
            }
            slots.iter().for_each(|slot| damage(&disk, *slot));
            assert_eq!(open(&disk).unwrap().1, vote(saved));
            // Healed: the other copies may go now.
            slots.iter().for_each(|slot| damage(&disk, slot ^ 1));
            assert_eq!(open(&disk).unwrap().1, vote(saved));
        }
    }
}

#[test]
fn two_damaged_copies_of_a_pair_may_have_held_the_newest_vote() {
    for (first, second) in [(0, 1), (2, 3)] {
        let disk = prepared(1);
        block_on(open(&disk).unwrap().0.save(vote(1))).unwrap();
        damage(&disk, first);
        disk.make_unreadable(&path(), second * BLOCK, 512).unwrap();
        let Err(error) = open(&disk) else { panic!("it may not vote") };
        let reason = Unreadable::BothCopies { first: first * BLOCK };
        assert!(matches!(&error, VoteError::Unreadable { reason: found, .. } if *found == reason), "{error}");
    }
}

#[test]
fn a_pair_that_lost_a_write_is_noticed_once_the_next_vote_is_saved() {
    let disk = prepared(1);
    let mut file = open(&disk).unwrap().0;
    block_on(file.save(vote(1))).unwrap();
    let pair = slot_of(file.sequence, 0) as u64 * BLOCK;
    let before = disk.peek(&path(), pair, 2 * BLOCK as usize).unwrap();
    block_on(file.save(vote(2))).unwrap();
    block_on(file.save(vote(3))).unwrap();
    block_on(file.save(vote(4))).unwrap();
    disk.poke(&path(), pair, &before).unwrap();
    let Err(error) = open(&disk) else { panic!("it may not vote") };
    assert!(matches!(error, VoteError::Unreadable { reason: Unreadable::LostWrite { .. }, .. }), "{error}");
}

#[test]
fn a_slot_is_valid_in_its_own_block_only() {
    let disk = prepared(1);
    block_on(open(&disk).unwrap().0.save(vote(1))).unwrap();
    let copy = disk.peek(&path(), 0, BLOCK as usize).unwrap();
    disk.poke(&path(), BLOCK, &copy).unwrap();
    assert!(decode(&copy, 1, ME, &path()).unwrap().is_none());
    assert!(decode(&copy, 0, ME, &path()).unwrap().is_some());
    assert_eq!(open(&disk).unwrap().1, vote(1));
}

#[test]
fn another_nodes_file_is_refused_by_name() {
    let disk = prepared(1);
    let other = VoteIdentity { incarnation: Incarnation(78), ..ME };
    let refused = block_on(VoteFile::open(&disk, &path(), other)).map(|_| ());
    assert!(matches!(refused, Err(VoteError::OtherIncarnation { .. })));
    let other = VoteIdentity { log: LogIdentity { cluster: ClusterId(6), ..ME.log }, ..ME };
    let refused = block_on(VoteFile::open(&disk, &path(), other)).map(|_| ());
    assert!(matches!(refused, Err(VoteError::Foreign { .. })));
}

#[test]
fn a_missing_or_short_file_is_no_empty_vote() {
    let disk = SimDisk::new(1, 1 << 20);
    assert!(matches!(open(&disk), Err(VoteError::Open { .. })));
    block_on(disk.make_zeroed(path(), BLOCK)).unwrap();
    assert!(matches!(open(&disk), Err(VoteError::Unreadable { reason: Unreadable::Length { .. }, .. })));
}

#[test]
fn nothing_is_written_after_a_failed_write() {
    let disk = prepared(1);
    let mut file = open(&disk).unwrap().0;
    disk.set_faults(Faults { sync_error: 1.0, ..Faults::default() });
    assert!(matches!(block_on(file.save(vote(1))), Err(VoteError::Write { .. })));
    disk.set_faults(Faults::default());
    assert!(matches!(block_on(file.save(vote(1))), Err(VoteError::AfterFailure { .. })));
}
