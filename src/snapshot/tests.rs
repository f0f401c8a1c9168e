//! A snapshot is there as a whole or does not count, and what is damaged is found before it is used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::shelf::{self, restore_newest, tidy};
use super::*;
use crate::io::{BLOCK_BYTES, Disk};
use crate::job::Machine;
use crate::job::codec::{body_hash, encode};
use crate::job::command::{Batch, Class, Command, Numbered, Origin};
use crate::raft::Membership;
use crate::sim::disk::block_on::block_on;
use crate::sim::disk::{Crash, SectorOdds, SimDisk};
use crate::types::{BootEpoch, ChainHash, ClusterId, Index, JobId, NodeId, SessionId, ShardId, Term, Times};
use crate::wal::entry::LogIdentity;

mod install;

const IDENTITY: LogIdentity = LogIdentity { cluster: ClusterId(7), shard: ShardId(1) };
const ROOM: u64 = 1 << 30;

fn dir() -> &'static Path {
    Path::new("/snapshots")
}

fn disk() -> SimDisk {
    let disk = SimDisk::new(1, ROOM);
    block_on(disk.create_dir(dir())).unwrap();
    disk
}

/// A machine at this index, which has as many tubes with a job each, so that its image fills some chunks.
fn machine(index: u64) -> Machine {
    let mut machine = Machine::new();
    let session = SessionId { node: NodeId(1), boot: BootEpoch(1), number: 1 };
    for at in 1..=index {
        let mut commands = Vec::new();
        encode(&Numbered { origin: Origin::Session { session, seq: 0 }, command: Command::SessionOpen }, &mut commands);
        for seq in (at - 1) * 300 + 1..=at * 300 {
            let tube = format!("tube {seq} {}", "x".repeat(100));
            let class = Class { tube: tube.as_bytes(), priority: 1, ttr_s: 1, delay_s: 0 };
            let command = Command::Enqueue { class, body_hash: body_hash(b""), body: b"" };
            encode(&Numbered { origin: Origin::Session { session, seq }, command }, &mut commands);
        }
        let first_job = JobId((at - 1) * 300 + 1);
        let batch = Batch { index: Index(at), term: Term(1), times: Times::default(), first_job, commands: &commands };
        machine.apply(batch, &mut Vec::new()).unwrap();
    }
    machine
}

fn frame(machine: &Machine) -> Frame {
    let membership = Membership::new([1, 2, 3].map(NodeId), []).unwrap();
    Frame::partial(&machine.capture(), IDENTITY, ChainHash(5), membership)
}

fn write_one(disk: &SimDisk, machine: &Machine) -> Result<Written, writing::WriteError> {
    block_on(write(disk, dir(), frame(machine), Contents::Partial(machine.capture())))
}

fn path(index: u64) -> PathBuf {
    dir().join(shelf::file_name(Index(index)))
}

#[test]
fn what_was_written_is_opened_and_restored_and_is_the_same_on_another_disk() {
    let machine = machine(3);
    let disk = disk();
    let written = write_one(&disk, &machine).unwrap();
    assert_eq!(written.path, path(3));
    let snapshot = block_on(open(&disk, &written.path, &IDENTITY)).unwrap();
    assert_eq!(snapshot.frame(), &frame(&machine));
    assert!(snapshot.header.chunks() > 2, "{}", snapshot.header.chunks());
    assert!(snapshot.restore().unwrap() == machine);
    assert_eq!(snapshot.recount(), Ok(900));
    let other = self::disk();
    write_one(&other, &machine).unwrap();
    let bytes = |disk: &SimDisk| disk.peek(&written.path, 0, written.bytes as usize).unwrap();
    assert_eq!(bytes(&disk), bytes(&other));
}

#[test]
fn a_full_snapshot_has_the_bodies_besides() {
    let machine = machine(1);
    let disk = disk();
    let frame = Frame { kind: Kind::Full, ..frame(&machine) };
    let body: Bodies = Box::new(|job| Ok(job.0.to_le_bytes().repeat(20)));
    let written = block_on(write(&disk, dir(), frame, Contents::Full(machine.capture(), body))).unwrap();
    let snapshot = block_on(open(&disk, &written.path, &IDENTITY)).unwrap();
    assert!(snapshot.restore().unwrap() == machine);
    let bodies: Vec<_> = snapshot.bodies().unwrap().collect();
    assert_eq!(bodies.len(), 300);
    assert!(bodies.iter().all(|(job, body)| *body == job.0.to_le_bytes().repeat(20)));
    write_one(&disk, &self::machine(2)).unwrap();
    let partial = block_on(open(&disk, &path(2), &IDENTITY)).unwrap();
    assert!(partial.bodies().is_err());
}

#[test]
fn a_bit_that_flips_anywhere_is_found_before_anything_is_used() {
    let machine = machine(2);
    let disk = disk();
    let written = write_one(&disk, &machine).unwrap();
    // One bit of each kind of byte: all of the header, then some of each block.
    let header = (0..1400).chain((1400..4096).step_by(64));
    let rest = (4096..written.bytes).step_by(509);
    for (at, byte) in header.chain(rest).enumerate() {
        let bit = byte * 8 + at as u64 % 8;
        disk.flip_bit(&written.path, bit).unwrap();
        assert!(block_on(verify(&disk, &written.path, &IDENTITY)).is_err(), "byte {byte}");
        disk.flip_bit(&written.path, bit).unwrap();
    }
    block_on(verify(&disk, &written.path, &IDENTITY)).unwrap();
    disk.make_unreadable(&written.path, written.bytes - BLOCK_BYTES as u64, 512).unwrap();
    assert!(block_on(verify(&disk, &written.path, &IDENTITY)).is_err(), "a sector that cannot be read");
}

#[test]
fn a_file_of_another_log_or_cut_short_or_named_otherwise_is_refused() {
    let disk = disk();
    write_one(&disk, &machine(1)).unwrap();
    let other = LogIdentity { shard: ShardId(2), ..IDENTITY };
    assert!(matches!(block_on(verify(&disk, &path(1), &other)), Err(frame::Invalid::Foreign { .. })));
    block_on(disk.rename(&path(1), &path(9))).unwrap();
    let found = block_on(restore_newest(&disk, dir(), &IDENTITY)).unwrap();
    assert!(found.newest.is_none());
    assert!(matches!(found.refused[..], [OpenError::Misnamed { .. }]), "{:?}", found.refused);
    block_on(disk.make_allocated(&path(4), 8192)).unwrap();
    let found = block_on(restore_newest(&disk, dir(), &IDENTITY)).unwrap();
    assert_eq!(found.refused.len(), 2, "zeros are no snapshot");
}

#[test]
fn a_damaged_newest_snapshot_is_told_of_and_the_one_before_is_used() {
    let disk = disk();
    let (older, newer) = (machine(2), machine(3));
    write_one(&disk, &older).unwrap();
    let written = write_one(&disk, &newer).unwrap();
    disk.flip_bit(&written.path, (written.bytes - 5000) * 8).unwrap();
    let found = block_on(restore_newest(&disk, dir(), &IDENTITY)).unwrap();
    assert!(found.newest.unwrap().1 == older);
    assert_eq!(found.refused.len(), 1);
}

#[test]
fn a_crash_at_any_step_of_writing_leaves_the_older_snapshot_or_the_newer_one() {
    let (older, newer) = (machine(2), machine(3));
    let odds = SectorOdds { new: 0.4, torn: 0.2, garbage: 0.2 };
    let mut outcomes = [0, 0];
    for crash in [Crash::Process, Crash::Power(odds), Crash::Power(SectorOdds::OLD), Crash::Power(SectorOdds::NEW)] {
        let disk = disk();
        write_one(&disk, &older).unwrap();
        let before = disk.changes();
        for step in 1.. {
            let disk = disk.fork();
            disk.stop_at(before + step);
            let is_done = write_one(&disk, &newer).is_ok();
            let disk = disk.crash(crash);
            let found = block_on(restore_newest(&disk, dir(), &IDENTITY)).unwrap();
            assert!(found.refused.is_empty(), "what has the name of a snapshot is whole: {:?}", found.refused);
            let (_, machine) = found.newest.expect("the older one was durable");
            assert!(machine == older || machine == newer);
            outcomes[usize::from(machine == newer)] += 1;
            // The next life writes the same snapshot again, over what was left.
            assert!(write_one(&disk, &newer).is_ok());
            block_on(tidy(&disk, dir(), &[Index(2), Index(3)], &BTreeSet::new())).unwrap();
            assert_eq!(disk.files().len(), 2);
            if is_done {
                assert!(machine == newer);
                break;
            }
        }
    }
    assert!(outcomes[0] > 4 && outcomes[1] > 4, "{outcomes:?}");
}

#[test]
fn two_are_kept_and_what_was_left_half_written_goes() {
    let disk = disk();
    for index in 1..=4 {
        write_one(&disk, &machine(index)).unwrap();
    }
    block_on(disk.make_allocated(&dir().join("00000000000000000009.snap.tmp"), 4096)).unwrap();
    block_on(disk.make_allocated(&dir().join("a note"), 4096)).unwrap();
    block_on(tidy(&disk, dir(), &[Index(4)], &BTreeSet::new())).unwrap();
    assert_eq!(block_on(shelf::list(&disk, dir())).unwrap().len(), 4, "one that is whole is not two");
    block_on(tidy(&disk, dir(), &[Index(3), Index(4)], &BTreeSet::new())).unwrap();
    let kept: Vec<Index> = block_on(shelf::list(&disk, dir())).unwrap().into_iter().map(|file| file.0).collect();
    assert_eq!(kept, [Index(4), Index(3)]);
    assert_eq!(disk.files().len(), 3, "a file that is none of ours stays");
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let disk = disk();
    write_one(&disk, &machine(1)).unwrap();
    disk.set_capacity(disk.files()[0].1 + 20_000);
    let error = write_one(&disk, &machine(3)).unwrap_err();
    assert!(error.is_lack_of_room(), "{error}");
    assert_eq!(disk.files().len(), 1);
}
