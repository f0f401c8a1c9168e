//! Headers survive the way to bytes and back, in their own place only.

use super::*;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(77), shard: ShardId(2) };
const PLACE: Place = Place { segment: SegmentNumber(4), epoch: SegmentEpoch(9), offset: 8192 };
const RECORD: Record = Record {
    kind: RecordKind::Entry { shared_bytes: 500 },
    testimony: Testimony { durable_upto: Index(12), commit: Index(11) },
};

fn header() -> SegmentHeader {
    SegmentHeader {
        number: SegmentNumber(4),
        epoch: SegmentEpoch(9),
        bytes: 4 << 20,
        base: Index(13),
        base_chain: ChainHash(55),
        durable_upto: Index(13),
        commit: Index(10),
    }
}

fn encoded_header() -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    header().encode(&LOG, &mut block);
    block
}

fn encoded_record(kind: RecordKind) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    Record { kind, ..RECORD }.encode(PLACE, &mut block);
    block
}

#[test]
fn a_segment_header_survives_its_own_bytes() {
    assert_eq!(FirstBlock::read(&encoded_header(), &LOG), FirstBlock::Header(header()));
}

#[test]
fn a_block_of_zeros_is_a_spare() {
    assert_eq!(FirstBlock::read(&[0; BLOCK_BYTES], &LOG), FirstBlock::Zero);
}

#[test]
fn a_segment_of_another_log_is_told_from_a_damaged_one() {
    let other = LogIdentity { shard: ShardId(3), ..LOG };
    let foreign = FirstBlock::Foreign { cluster: LOG.cluster, shard: LOG.shard };
    assert_eq!(FirstBlock::read(&encoded_header(), &other), foreign);
}

#[test]
fn no_flipped_bit_of_a_segment_header_passes() {
    let good = encoded_header();
    for bit in 0..good.len() * 8 {
        let mut block = good.clone();
        block[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(FirstBlock::read(&block, &LOG), FirstBlock::Unreadable, "bit {bit}");
    }
}

#[test]
fn a_record_survives_its_own_bytes() {
    assert_eq!(Record::read(&encoded_record(RECORD.kind), PLACE), Some(RECORD));
    for last_chain in [Some(ChainHash(u128::MAX - 3)), None] {
        let kind = RecordKind::Seal { last_chain };
        assert_eq!(Record::read(&encoded_record(kind), PLACE), Some(Record { kind, ..RECORD }));
    }
}

#[test]
fn a_record_is_none_in_any_place_but_its_own() {
    let block = encoded_record(RECORD.kind);
    assert_eq!(Record::read(&block, Place { offset: 4096, ..PLACE }), None);
    assert_eq!(Record::read(&block, Place { epoch: SegmentEpoch(8), ..PLACE }), None);
    assert_eq!(Record::read(&block, Place { segment: SegmentNumber(5), ..PLACE }), None);
}

#[test]
fn no_flipped_bit_of_a_placement_header_or_a_seal_passes() {
    let good = encoded_record(RECORD.kind);
    for bit in 0..PLACEMENT_HEADER_BYTES * 8 {
        let mut block = good.clone();
        block[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Record::read(&block, PLACE), None, "bit {bit}");
    }
    let good = encoded_record(RecordKind::Seal { last_chain: Some(ChainHash(7)) });
    for bit in 0..good.len() * 8 {
        let mut block = good.clone();
        block[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Record::read(&block, PLACE), None, "bit {bit}");
    }
}

#[test]
fn an_entry_that_states_an_impossible_length_is_no_record() {
    let shared_bytes = ENTRY_BYTES_MAX as u32 + 1;
    assert_eq!(Record::read(&encoded_record(RecordKind::Entry { shared_bytes }), PLACE), None);
}

#[test]
fn a_record_takes_whole_blocks() {
    assert_eq!(record_bytes(1), BLOCK);
    assert_eq!(record_bytes(4096 - 64), BLOCK);
    assert_eq!(record_bytes(4096 - 63), 2 * BLOCK);
}

#[test]
fn short_blocks_are_refused() {
    for length in 1..PLACEMENT_HEADER_BYTES {
        assert_eq!(Record::read(&vec![1; length], PLACE), None);
        assert_eq!(FirstBlock::read(&vec![1; length], &LOG), FirstBlock::Unreadable);
    }
}
