//! Entries survive the way to bytes and back, and nothing else passes for one.

use proptest::prelude::*;

use super::*;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(0xfeed_beef), shard: ShardId(3) };

fn draft(payload: &[u8]) -> Draft<'_> {
    Draft {
        position: LogPosition::new(Term(7), Index(42)),
        prev_chain: ChainHash(99),
        kind: EntryKind::Commands,
        times: Times { lease: Nanos(5), wall: Nanos(6) },
        first_job: JobId(1000),
        job_count: 2,
        payload,
    }
}

#[test]
fn an_entry_survives_its_own_bytes() {
    let made = Entry::encode(draft(b"commands"), &LOG);
    let read = Entry::decode(made.shared.clone(), &LOG).unwrap();
    assert_eq!(read.meta, made.meta);
    assert_eq!(read.prev_chain, ChainHash(99));
    assert_eq!(read.kind, EntryKind::Commands);
    assert_eq!(read.times, Times { lease: Nanos(5), wall: Nanos(6) });
    assert_eq!((read.first_job, read.job_count), (JobId(1000), 2));
    assert_eq!(read.payload(), b"commands");
    assert_eq!(read.payload_bytes(), &b"commands"[..]);
    assert_eq!(read.meta.bytes as usize, made.shared.len());
    assert!(!read.meta.membership);
}

#[test]
fn every_kind_survives_and_only_a_membership_says_so() {
    for kind in [EntryKind::Commands, EntryKind::Membership, EntryKind::NoOp, EntryKind::Marker] {
        let made = Entry::encode(Draft { kind, ..draft(b"") }, &LOG);
        let read = Entry::decode(made.shared, &LOG).unwrap();
        assert_eq!(read.kind, kind);
        assert_eq!(read.meta.membership, kind == EntryKind::Membership);
    }
}

#[test]
fn an_entry_of_another_log_is_refused_by_name() {
    let made = Entry::encode(draft(b"x"), &LOG);
    let other_shard = LogIdentity { shard: ShardId(4), ..LOG };
    let foreign = EntryError::Foreign { cluster: LOG.cluster, shard: LOG.shard };
    assert_eq!(Entry::decode(made.shared.clone(), &other_shard).unwrap_err(), foreign);
    let other_cluster = LogIdentity { cluster: ClusterId(1), ..LOG };
    assert_eq!(Entry::decode(made.shared, &other_cluster).unwrap_err(), foreign);
}

#[test]
fn logs_of_different_identity_have_different_hashes() {
    let other = LogIdentity { shard: ShardId(4), ..LOG };
    assert_ne!(origin_chain(&LOG), origin_chain(&other));
    assert_ne!(Entry::encode(draft(b"x"), &LOG).meta.chain, Entry::encode(draft(b"x"), &other).meta.chain);
}

#[test]
fn the_chain_hash_covers_what_came_before_and_the_payload() {
    let chain = Entry::encode(draft(b"x"), &LOG).meta.chain;
    let other_past = Entry::encode(Draft { prev_chain: ChainHash(98), ..draft(b"x") }, &LOG);
    assert_ne!(other_past.meta.chain, chain);
    assert_ne!(Entry::encode(draft(b"y"), &LOG).meta.chain, chain);
}

#[test]
fn no_single_flipped_bit_passes() {
    let made = Entry::encode(draft(b"some commands"), &LOG);
    for bit in 0..made.shared.len() * 8 {
        let mut bytes = made.shared.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Entry::decode(Bytes::from(bytes), &LOG).is_err(), "bit {bit}");
    }
}

#[test]
fn an_entry_with_a_damaged_payload_keeps_its_identity() {
    let made = Entry::encode(draft(b"some commands"), &LOG);
    let mut bytes = made.shared.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(Entry::decode(Bytes::from(bytes.clone()), &LOG).unwrap_err(), EntryError::PayloadHash);
    let named = Entry::identify(&bytes, &LOG).unwrap();
    assert_eq!(named, Identified { meta: made.meta, prev_chain: made.prev_chain });
}

#[test]
fn numbers_from_which_counting_on_could_overflow_are_refused() {
    let huge = 1 << 53;
    let draft = draft(b"x");
    for draft in [
        Draft { position: LogPosition::new(Term(1), Index(huge)), ..draft },
        Draft { position: LogPosition::new(Term(huge), Index(1)), ..draft },
        Draft { first_job: JobId(huge), ..draft },
        Draft { first_job: JobId(u64::MAX), job_count: u32::MAX, ..draft },
    ] {
        let made = Entry::encode(draft, &LOG);
        assert_eq!(Entry::decode(made.shared, &LOG).unwrap_err(), EntryError::NumberTooLarge);
    }
}

#[test]
fn a_stated_length_is_not_believed() {
    let made = Entry::encode(draft(b"some commands"), &LOG);
    for kept in 0..made.shared.len() {
        assert!(Entry::decode(made.shared.slice(..kept), &LOG).is_err());
    }
    let mut longer = made.shared.to_vec();
    longer.push(0);
    let error = Entry::decode(Bytes::from(longer), &LOG).unwrap_err();
    assert_eq!(error, EntryError::Length { stated: 13, present: 14 });
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Entry::decode(Bytes::from(bytes), &LOG).is_err());
    }

    /// As above, but past the checksum: the header is whole and says anything.
    #[test]
    fn no_header_makes_the_decoder_panic(
        fields in proptest::collection::vec(any::<u8>(), HEADER_BYTES),
        keep in any::<u16>(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let honest = Entry::encode(draft(&payload), &LOG);
        let (good, _) = Header::ref_from_prefix(&honest.shared).unwrap();
        let mut bytes = good.as_bytes().to_vec();
        for (at, field) in fields.iter().enumerate() {
            if keep >> (at % 16) & 1 == 0 && at >= 4 {
                bytes[at] = *field;
            }
        }
        let mut header = Header::read_from_bytes(&bytes).unwrap();
        header.crc = U32::new(header.checksum());
        let mut shared = header.as_bytes().to_vec();
        shared.extend_from_slice(&payload);
        if let Ok(entry) = Entry::decode(Bytes::from(shared), &LOG) {
            prop_assert_eq!(entry.payload(), &payload[..]);
        }
    }

    #[test]
    fn any_payload_survives(payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let made = Entry::encode(draft(&payload), &LOG);
        let read = Entry::decode(made.shared.clone(), &LOG).unwrap();
        prop_assert_eq!(read.payload(), &payload[..]);
        prop_assert_eq!(read.meta, made.meta);
    }
}
