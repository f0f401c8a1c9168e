//! Log entries: arbitrary bytes never panic; what a leader makes decodes to what it made; any flipped bit is noticed; an
//! entry that does not decode but keeps its header keeps its identity.
#![no_main]

use beaver_raft::types::{ChainHash, ClusterId, Index, JobId, LogPosition, Nanos, ShardId, Term, Times};
use beaver_raft::wal::entry::{Draft, Entry, EntryError, EntryKind, LogIdentity};
use beaver_raft_fuzz::input::Input;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(5), shard: ShardId(1) };

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    if input.below(2) == 0 {
        let raw = Bytes::copy_from_slice(input.remainder());
        let identified = Entry::identify(&raw, &LOG);
        if let Ok(entry) = Entry::decode(raw, &LOG) {
            assert_eq!(identified.expect("a whole entry has a whole header").meta, entry.meta);
        }
        return;
    }
    let kinds = [EntryKind::Commands, EntryKind::Membership, EntryKind::NoOp, EntryKind::Marker];
    let draft = Draft {
        position: LogPosition::new(Term(input.number()), Index(input.number().max(1))),
        prev_chain: ChainHash(u128::from(input.u64())),
        kind: kinds[usize::from(input.below(4))],
        times: Times { lease: Nanos(input.number()), wall: Nanos(input.number()) },
        first_job: JobId(input.number()),
        job_count: input.u32(),
        payload: &[],
    };
    let flipped = input.u32() as usize;
    let entry = Entry::encode(Draft { payload: input.remainder(), ..draft }, &LOG);
    let decoded = match Entry::decode(entry.shared.clone(), &LOG) {
        Err(EntryError::NumberTooLarge) => return,
        decoded => decoded.expect("what was made decodes"),
    };
    assert_eq!(format!("{decoded:?}"), format!("{entry:?}"));
    let mut damaged = entry.shared.to_vec();
    let bit = flipped % (damaged.len() * 8);
    damaged[bit / 8] ^= 1 << (bit % 8);
    if let Ok(identified) = Entry::identify(&damaged, &LOG) {
        assert_eq!((identified.meta, identified.prev_chain), (entry.meta, entry.prev_chain));
    }
    Entry::decode(Bytes::from(damaged), &LOG).expect_err("a flipped bit is noticed");
});
