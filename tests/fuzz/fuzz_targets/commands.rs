//! Commands and the state machine: no bytes make decoding panic, and what decodes has one encoding only; whatever is
//! applied keeps every invariant; two machines that apply the same are equal, and it does not matter how commands are
//! distributed over entries.
#![no_main]

use beaver_raft::job::Machine;
use beaver_raft::job::codec::{Commands, body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Applied, Batch, Class, Command, Numbered, Origin, TubeList};
use beaver_raft::shard::leading::is_forwardable;
use beaver_raft::types::{BootEpoch, JobId, Nanos, NodeId, SessionId, Term, Times};
use beaver_raft_fuzz::input::Input;
use libfuzzer_sys::fuzz_target;

const TUBES: [&[u8]; 4] = [b"default", b"a", b"b", b"-"];

/// Times beyond this are applied too, but not compared: where a deadline saturates, it is due at once, and then in which
/// entry it was set does matter.
const COMPARED_MAX: u64 = 1 << 62;

fn encoded(numbered: &Numbered<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(numbered, &mut bytes);
    bytes
}

fn class<'a>(input: &mut Input<'_>) -> Class<'a> {
    Class {
        tube: TUBES[usize::from(input.below(4))],
        priority: input.number() as u32,
        ttr_s: input.number() as u32,
        delay_s: input.number() as u32 % 3,
    }
}

/// A command of few sessions, tubes and jobs, so that commands meet each other. `next`: the number that each session's
/// next command should have; mostly it is used.
fn command(input: &mut Input<'_>, next: &mut [u64; 3]) -> Vec<u8> {
    let tubes = encode_tubes(TUBES.iter().skip(usize::from(input.below(3))).copied());
    let tube = TUBES[usize::from(input.below(4))];
    let job = JobId(input.number());
    let which = usize::from(input.below(3));
    let body = [7; 3];
    let command = match input.below(18) {
        0..3 => Command::Enqueue { class: class(input), body_hash: body_hash(&body), body: &body },
        3..5 => Command::Reserve { tubes: TubeList { encoded: &tubes } },
        5 => Command::ReserveJob { job, class: (input.below(2) == 0).then(|| class(input)) },
        6 => Command::Unreserve { job, epoch: input.number() },
        7 => Command::Delete { job, class: (input.below(2) == 0).then(|| class(input)) },
        8 => Command::Release { job, priority: input.number() as u32, delay_s: input.number() as u32 },
        9 => Command::Bury { job, priority: input.number() as u32 },
        10 => Command::Touch { job },
        11 => Command::Kick { tube, bound: input.number() },
        12 => Command::KickJob { job },
        13 => Command::Pause { tube, duration_s: input.number() as u32, referenced: input.below(2) == 0 },
        14 => Command::SessionClosed,
        15 => Command::SessionOpen,
        16 => Command::NodeBoot { node: NodeId(1), boot: BootEpoch(u64::from(input.below(3))) },
        _ if input.below(2) == 0 => Command::Tick,
        _ => Command::TubeDrop { tube },
    };
    let origin = match command {
        Command::NodeBoot { .. } | Command::Tick | Command::TubeDrop { .. } => Origin::System,
        _ => {
            let boot = BootEpoch(u64::from(input.below(2)));
            let session = SessionId { node: NodeId(1), boot, number: which as u64 };
            let is_open = command == Command::SessionOpen;
            let seq = if is_open {
                0
            } else if input.below(8) == 7 {
                input.number()
            } else {
                next[which]
            };
            next[which] =
                if is_open { 1 } else { next[which] + u64::from(!matches!(command, Command::Reserve { .. })) };
            Origin::Session { session, seq }
        }
    };
    encoded(&Numbered { origin, command })
}

fn apply(machine: &mut Machine, times: Times, first_job: JobId, commands: &[u8]) -> Option<Vec<Applied>> {
    let mut outcomes = Vec::new();
    let index = machine.applied().index.next();
    let batch = Batch { index, term: Term(1), times, first_job, commands };
    machine.apply(batch, &mut outcomes).ok()?;
    Some(outcomes)
}

/// Applies to both machines, to the second one with an entry for each command; whether they can go on.
fn apply_both(whole: &mut Machine, split: &mut Machine, times: Times, batch: &[Vec<u8>]) -> bool {
    let mut twin_of_whole = Vec::new();
    let Some(outcomes) = apply(whole, times, whole.next_job(), &batch.concat()) else { return false };
    apply(split, times, split.next_job(), &[]).expect("nothing but time");
    for command in batch {
        let first_job = split.next_job();
        twin_of_whole.extend(apply(split, times, first_job, command).expect("applied as part of the whole"));
    }
    if times.lease.0 < COMPARED_MAX && times.wall.0 < COMPARED_MAX {
        assert_eq!(outcomes, twin_of_whole);
        assert_eq!((whole.fingerprint(), whole.counts()), (split.fingerprint(), split.counts()));
    }
    whole.verify();
    assert_eq!(whole.fingerprint(), whole.recount());
    true
}

fn decode(batch: &[u8]) {
    let _ = is_forwardable(batch, NodeId(1));
    for located in Commands::new(batch).flatten() {
        assert_eq!(encoded(&located.numbered), batch[located.offset..located.offset + located.length]);
    }
    // Entries whose commands do not decode stop a node; two nodes stop at the same place.
    let (mut one, mut other) = (Machine::new(), Machine::new());
    for machine in [&mut one, &mut other] {
        apply(machine, Times::default(), JobId(1), batch);
        apply(machine, Times { lease: Nanos(u64::MAX), wall: Nanos(u64::MAX) }, machine.next_job(), &[]);
    }
    assert_eq!(one, other);
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    if input.below(4) == 0 {
        return decode(input.remainder());
    }
    let (mut whole, mut twin, mut split) = (Machine::new(), Machine::new(), Machine::new());
    let (mut times, mut next) = (Times::default(), [1; 3]);
    let boot = encoded(&Numbered {
        origin: Origin::System,
        command: Command::NodeBoot { node: NodeId(1), boot: BootEpoch(0) },
    });
    assert!(apply_both(&mut whole, &mut split, times, &[boot.clone()]));
    apply(&mut twin, times, JobId(1), &boot).expect("applied by the other");
    while !input.is_empty() {
        let step = |input: &mut Input<'_>| match input.byte() {
            small @ 0..250 => u64::from(small % 8) * 500_000_000,
            _ => input.u64(),
        };
        times.lease = Nanos(times.lease.0.saturating_add(step(&mut input)));
        times.wall = Nanos(times.wall.0.saturating_add(step(&mut input)));
        let batch: Vec<Vec<u8>> = (0..input.below(12)).map(|_| command(&mut input, &mut next)).collect();
        let first_job = whole.next_job();
        if !apply_both(&mut whole, &mut split, times, &batch) {
            return;
        }
        apply(&mut twin, times, first_job, &batch.concat()).expect("applied by the other");
        assert_eq!(whole, twin);
        if times.lease.0 >= COMPARED_MAX || times.wall.0 >= COMPARED_MAX {
            return;
        }
    }
});
