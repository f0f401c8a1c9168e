use super::super::frame::{FrameKind, HEADER_BYTES};
use super::super::message::{
    Fetch, Fetched, Given, GivenJob, Held, PULLED_BYTES_MAX, Part, Pull, Pulled, RaftMessage, ReadAbout,
    ReferenceDelta, ReferencePart, Soft,
};
use super::*;
use crate::raft::message::{Body, Message};
use crate::types::{
    BootEpoch, ChainHash, ClusterId, Index, JobId, LogPosition, Nanos, NodeId, SessionId, ShardId, SnapshotName, Term,
    Times,
};
use crate::wal::entry::{Draft, Entry, EntryKind};
use proptest::prelude::*;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(0x00be_a7e5), shard: ShardId(3) };

fn payload(message: &PeerMessage) -> Bytes {
    let mut frame = FrameBuilder::new();
    encode(message, &mut frame);
    let chunks = frame.finish(FrameKind::Message, 1 << 30).expect("far below").chunks;
    Bytes::from(chunks.concat()).slice(HEADER_BYTES..)
}

fn position() -> impl Strategy<Value = LogPosition> {
    (number(), number()).prop_map(|(term, index)| LogPosition::new(Term(term), Index(index)))
}

/// Of a term or an index.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..10u64, 0..1u64 << 53, Just((1 << 53) - 1)]
}

fn session() -> impl Strategy<Value = SessionId> {
    (1u8.., any::<u64>(), any::<u64>()).prop_map(|(node, boot, number)| SessionId {
        node: NodeId(node),
        boot: BootEpoch(boot),
        number,
    })
}

fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), length).prop_map(Bytes::from)
}

fn tube() -> impl Strategy<Value = Bytes> {
    prop_oneof![9 => bytes(1..20), 1 => bytes(200..201)]
}

fn tube_list() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(tube(), 0..5).prop_map(|names| {
        names.iter().flat_map(|name| [&[u8::try_from(name.len()).expect("a name")], &name[..]].concat()).collect()
    })
}

fn times() -> impl Strategy<Value = Times> {
    (any::<u64>(), any::<u64>()).prop_map(|(lease, wall)| Times { lease: Nanos(lease), wall: Nanos(wall) })
}

/// Chained entries behind `prev`, whose terms rise now and then.
fn chain(prev: LogPosition, steps: &[(u64, Bytes)]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let (mut before, mut prev_chain) = (prev, ChainHash(7));
    for (term_rise, payload) in steps {
        before = LogPosition::new(Term(before.term.0 + term_rise), before.index.next());
        entries.push(entry(before, prev_chain, payload));
        prev_chain = entries.last().expect("just pushed").meta.chain;
    }
    entries
}

fn entry(position: LogPosition, prev_chain: ChainHash, payload: &[u8]) -> Entry {
    let draft = Draft {
        position,
        prev_chain,
        kind: EntryKind::Commands,
        times: Times::default(),
        first_job: JobId(1),
        job_count: 0,
        payload,
    };
    Entry::encode(draft, &LOG)
}

fn append(term: Term, prev: LogPosition, entries: Vec<Entry>) -> PeerMessage {
    let metas = entries.iter().map(|entry| entry.meta).collect();
    let body = Body::Append { prev, entries: metas, commit: Index(5), round: 6 };
    let times = Times { lease: Nanos(1), wall: Nanos(2) };
    PeerMessage::Raft(RaftMessage { message: Message { term, body }, entries, times, room: true, durable: Index(3) })
}

fn appends() -> impl Strategy<Value = PeerMessage> {
    let steps = prop::collection::vec((0u64..2, bytes(0..300)), 0..6);
    (0u64..1000, 0u64..1000, 0u64..3, steps).prop_map(|(term, index, above, steps)| {
        let prev = LogPosition::new(Term(term), Index(index));
        let entries = chain(prev, &steps);
        let last = entries.last().map_or(prev, |entry| entry.meta.position);
        append(Term(last.term.0 + above), prev, entries)
    })
}

fn bodies() -> impl Strategy<Value = Body> {
    prop_oneof![
        position().prop_map(|last| Body::PreVoteRequest { last }),
        any::<bool>().prop_map(|granted| Body::PreVoteReply { granted }),
        (position(), any::<bool>()).prop_map(|(last, transfer)| Body::VoteRequest { last, transfer }),
        any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        (number(), any::<u64>()).prop_map(|(matched, round)| Body::AppendAccepted { matched: Index(matched), round }),
        (position(), position(), any::<u64>()).prop_map(|(prev, hint, round)| Body::AppendRejected {
            prev,
            hint,
            round
        }),
        Just(Body::TimeoutNow),
    ]
}

fn others() -> impl Strategy<Value = PeerMessage> {
    (number(), bodies(), times(), any::<bool>(), number()).prop_map(|(term, body, times, room, durable)| {
        let (message, durable) = (Message { term: Term(term), body }, Index(durable));
        PeerMessage::Raft(RaftMessage { message, entries: vec![], times, room, durable })
    })
}

fn about() -> impl Strategy<Value = ReadAbout> {
    prop_oneof![
        Just(ReadAbout::State),
        tube().prop_map(ReadAbout::Tube),
        Just(ReadAbout::TubeCount),
        prop::option::of(tube()).prop_map(|after| ReadAbout::BareTubes { after }),
    ]
}

fn soft() -> impl Strategy<Value = Soft> {
    prop_oneof![
        Just(Soft::Nothing),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(using, watching, waiting)| Soft::Tube {
            using,
            watching,
            waiting
        }),
        any::<u64>().prop_map(Soft::TubeCount),
        (prop::collection::vec(tube(), 0..6), any::<bool>())
            .prop_map(|(names, is_more)| Soft::BareTubes { names, is_more }),
    ]
}

fn part() -> impl Strategy<Value = ReferencePart> {
    let of_report = (any::<bool>(), any::<bool>()).prop_map(|(first, last)| ReferencePart::of_report(first, last));
    prop_oneof![Just(ReferencePart::Changes), Just(ReferencePart::Left), of_report]
}

fn references() -> impl Strategy<Value = Vec<ReferenceDelta>> {
    let change = (tube(), any::<i64>(), any::<i64>()).prop_map(|(tube, using, watching)| ReferenceDelta {
        tube,
        using,
        watching,
    });
    prop::collection::vec(change, 0..6)
}

fn messages() -> impl Strategy<Value = PeerMessage> {
    let term = || number().prop_map(Term);
    let numbered = || (term(), session(), any::<u64>(), any::<u64>());
    prop_oneof![
        4 => appends(),
        4 => others(),
        2 => (term(), prop::collection::vec(bytes(1..300), 0..6))
            .prop_map(|(term, commands)| PeerMessage::Commands { term, commands }),
        1 => (numbered(), any::<bool>(), tube_list())
            .prop_map(|((term, session, seq, registration), poll, tubes)| {
                PeerMessage::Wait { term, session, seq, registration, poll, tubes }
            }),
        1 => (numbered(), any::<bool>()).prop_map(|((term, session, seq, registration), at_once)| {
            PeerMessage::Withdraw { term, session, seq, registration, at_once }
        }),
        1 => (numbered(), number()).prop_map(|((term, session, seq, registration), applied)| {
            PeerMessage::WaitEnded { term, session, seq, registration, applied: Index(applied) }
        }),
        1 => (term(), any::<u64>(), about()).prop_map(|(term, read, about)| PeerMessage::Read { term, read, about }),
        1 => (term(), any::<u64>(), number(), soft()).prop_map(|(term, read, index, soft)| {
            PeerMessage::ReadAnswer { term, read, index: Index(index), soft }
        }),
        1 => (term(), number(), any::<u128>()).prop_map(|(term, marker, digest)| {
            PeerMessage::MarkerDigest { term, marker: Index(marker), digest }
        }),
        1 => (term(), part(), references())
            .prop_map(|(term, part, changes)| PeerMessage::References { term, part, changes }),
        1 => term().prop_map(|term| PeerMessage::LeftTaken { term }),
        1 => Just(PeerMessage::Fetch(Fetch::SNAPSHOT)),
        1 => (1u64..1 << 52, 0u64..1 << 52, prop::option::of(any::<u128>())).prop_map(|(first, more, chain)| {
            let last = Index(first + more);
            PeerMessage::Fetch(Fetch { first: Index(first), last, chain: chain.map(ChainHash) })
        }),
        1 => fetched(),
        1 => (term(), snapshot()).prop_map(|(term, snapshot)| PeerMessage::Offer { term, snapshot }),
        1 => (snapshot(), 0u64..40).prop_map(|(snapshot, block)| {
            PeerMessage::Pull(Pull { snapshot, part: Part::File { offset: block * 4096 } })
        }),
        1 => (snapshot(), jobs()).prop_map(|(snapshot, jobs)| {
            PeerMessage::Pull(Pull { snapshot, part: Part::Jobs(jobs) })
        }),
        1 => pulled(),
    ]
}

/// Of a file of more than 40 blocks.
fn snapshot() -> impl Strategy<Value = SnapshotName> {
    (position(), any::<u128>(), 41u64..100_000).prop_map(|(position, hash, blocks)| SnapshotName {
        position,
        hash,
        bytes: blocks * 4096,
    })
}

fn jobs() -> impl Strategy<Value = Vec<JobId>> {
    prop::collection::btree_set(1u64.., 1..20).prop_map(|jobs| jobs.into_iter().map(JobId).collect())
}

fn pulled() -> impl Strategy<Value = PeerMessage> {
    let piece = (0u64..40, 1usize..4).prop_map(|(block, blocks)| Given::Piece {
        offset: block * 4096,
        bytes: Bytes::from(vec![7; blocks.min(41 - block as usize) * 4096]),
    });
    let jobs = (jobs(), prop::collection::vec((1u64..9, any::<u64>(), bytes(0..90)), 20)).prop_map(|(jobs, rest)| {
        let mut at = 0;
        let given = jobs.into_iter().zip(rest).map(|(job, (step, wall, enqueue))| {
            at += step;
            GivenJob { job, index: Index(at), wall: Nanos(wall), enqueue }
        });
        Given::Jobs(given.collect())
    });
    let what = prop_oneof![piece, jobs, Just(Given::Nothing)];
    (snapshot(), what).prop_map(|(snapshot, what)| PeerMessage::Pulled(Pulled { snapshot, what }))
}

#[test]
fn a_piece_beyond_its_snapshot_or_of_no_whole_blocks_and_jobs_out_of_order_are_no_messages() {
    let position = LogPosition::new(Term(1), Index(9));
    let snapshot = SnapshotName { position, hash: 5, bytes: 3 * 4096 };
    let refused = |message: PeerMessage| assert!(decode(payload(&message), &LOG).is_err(), "{message:?}");
    let piece = |offset, bytes: usize| {
        PeerMessage::Pulled(Pulled { snapshot, what: Given::Piece { offset, bytes: Bytes::from(vec![1; bytes]) } })
    };
    assert!(decode(payload(&piece(4096, 2 * 4096)), &LOG).is_ok());
    for (offset, bytes) in [(4096, 3 * 4096), (3 * 4096, 4096), (1, 4096), (0, 4095), (0, 0)] {
        refused(piece(offset, bytes));
    }
    let long = SnapshotName { bytes: 4 * PULLED_BYTES_MAX, ..snapshot };
    let bytes = Bytes::from(vec![1; PULLED_BYTES_MAX as usize + 4096]);
    refused(PeerMessage::Pulled(Pulled { snapshot: long, what: Given::Piece { offset: 0, bytes } }));
    refused(PeerMessage::Pull(Pull { snapshot, part: Part::File { offset: 3 * 4096 } }));
    let jobs = |jobs: &[u64]| {
        PeerMessage::Pull(Pull { snapshot, part: Part::Jobs(jobs.iter().copied().map(JobId).collect()) })
    };
    for ids in [&[][..], &[0], &[2, 1], &[2, 2]] {
        refused(jobs(ids));
    }
    refused(jobs(&(1..=1025).collect::<Vec<u64>>()));
    let given = |job, index| GivenJob { job: JobId(job), index: Index(index), wall: Nanos(0), enqueue: Bytes::new() };
    for wrong in [vec![], vec![given(2, 5), given(1, 5)], vec![given(1, 5), given(2, 4)], vec![given(1, 0)]] {
        refused(PeerMessage::Pulled(Pulled { snapshot, what: Given::Jobs(wrong) }));
    }
}

fn fetched() -> impl Strategy<Value = PeerMessage> {
    let steps = prop::collection::vec((0u64..2, bytes(0..300)), 1..6);
    let nothing =
        prop_oneof![Just(Held::Faulty), Just(Held::Absent), Just(Held::Unknown), snapshot().prop_map(Held::Below)];
    let leads = || prop::option::of(number().prop_map(Term));
    prop_oneof![
        (0u64..1000, any::<bool>(), leads(), steps).prop_map(|(index, names_it, leads, steps)| {
            let entries = chain(LogPosition::new(Term(1), Index(index)), &steps);
            let meta = entries.last().expect("at least one").meta;
            let chain = names_it.then_some(meta.chain);
            PeerMessage::Fetched(Fetched { last: meta.position.index, chain, leads, held: Held::Entries(entries) })
        }),
        (number(), prop::option::of(any::<u128>()), leads(), nothing).prop_map(|(last, chain, leads, held)| {
            PeerMessage::Fetched(Fetched { last: Index(last), chain: chain.map(ChainHash), leads, held })
        }),
    ]
}

/// Entries have no equality; their derived text has every field.
fn text(message: &PeerMessage) -> String {
    format!("{message:?}")
}

proptest! {
    #[test]
    fn every_message_decodes_as_it_was_encoded(message in messages()) {
        let payload = payload(&message);
        let decoded = decode(payload.clone(), &LOG).expect("whole");
        prop_assert_eq!(text(&decoded), text(&message));
    }

    #[test]
    fn no_part_of_a_message_is_a_message_and_nothing_may_follow_one(message in messages(), cut in any::<prop::sample::Index>()) {
        let payload = payload(&message);
        prop_assert!(decode(payload.slice(..cut.index(payload.len())), &LOG).is_err());
        prop_assert!(decode(Bytes::from([&payload[..], &[0]].concat()), &LOG).is_err());
    }

    #[test]
    fn a_changed_payload_never_panics_and_never_encodes_differently(
        message in messages(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut changed = payload(&message).to_vec();
        for (at, value) in changes {
            let at = at.index(changed.len());
            changed[at] = value;
        }
        // The frame's checksum is out of the way here: what decodes all the same is the one message of these bytes.
        if let Ok(decoded) = decode(Bytes::from(changed.clone()), &LOG) {
            prop_assert_eq!(&payload(&decoded)[..], &changed[..]);
        }
    }

    #[test]
    fn garbage_never_panics(kind in 0u8..12, body in 0u8..10, garbage in prop::collection::vec(any::<u8>(), 0..200)) {
        let _decoded = decode(Bytes::from([&[kind, body], &garbage[..]].concat()), &LOG);
    }
}

fn refused(message: &PeerMessage) -> DecodeError {
    decode(payload(message), &LOG).expect_err("must not pass")
}

#[test]
fn an_append_with_a_gap_is_refused() {
    let prev = LogPosition::new(Term(1), Index(4));
    let mut entries = chain(prev, &[(0, Bytes::new()), (0, Bytes::new()), (0, Bytes::new())]);
    entries.remove(1);
    let error = refused(&append(Term(1), prev, entries));
    assert!(matches!(error, DecodeError::NotContiguous { expected: Index(6), .. }), "{error}");
    let entries = chain(LogPosition::new(Term(1), Index(5)), &[(0, Bytes::new())]);
    let error = refused(&append(Term(1), prev, entries));
    assert!(matches!(error, DecodeError::NotContiguous { expected: Index(5), .. }), "{error}");
}

#[test]
fn an_append_whose_terms_fall_or_pass_the_senders_is_refused() {
    let prev = LogPosition::new(Term(3), Index(4));
    let falling = vec![entry(LogPosition::new(Term(2), Index(5)), ChainHash(1), b"")];
    let error = refused(&append(Term(4), prev, falling));
    assert!(matches!(error, DecodeError::TermBackwards { before: Term(3), .. }), "{error}");
    let rising = chain(prev, &[(2, Bytes::new())]);
    let error = refused(&append(Term(4), prev, rising));
    assert!(matches!(error, DecodeError::TermAhead { term: Term(4), .. }), "{error}");
}

#[test]
fn an_append_of_entries_that_do_not_link_is_refused() {
    let prev = LogPosition::new(Term(1), Index(4));
    let mut entries = chain(prev, &[(0, Bytes::new()), (0, Bytes::new())]);
    entries[1] = entry(entries[1].meta.position, ChainHash(99), b"");
    let error = refused(&append(Term(1), prev, entries));
    assert!(matches!(error, DecodeError::ChainBroken { .. }), "{error}");
}

#[test]
fn an_entry_of_another_log_is_refused() {
    let prev = LogPosition::new(Term(1), Index(4));
    let message = append(Term(1), prev, chain(prev, &[(0, Bytes::from_static(b"job"))]));
    for other in [LogIdentity { shard: ShardId(4), ..LOG }, LogIdentity { cluster: ClusterId(1), ..LOG }] {
        let error = decode(payload(&message), &other).expect_err("another log");
        assert!(matches!(error, DecodeError::Entry { number: 0, .. }), "{error}");
    }
}

#[test]
fn a_count_that_the_rest_cannot_hold_is_refused_before_memory_is_taken() {
    let mut fields = vec![COMMANDS];
    fields.put_u64_le(1);
    fields.put_u32_le(u32::MAX);
    let error = decode(Bytes::from(fields), &LOG).expect_err("no such many");
    assert!(matches!(error, DecodeError::Count { what: "commands", left: 0, .. }), "{error}");
}

#[test]
fn names_of_tubes_are_neither_empty_nor_long() {
    for length in [0u8, 201] {
        let mut fields = vec![READ];
        fields.put_u64_le(1);
        fields.put_u64_le(1);
        fields.put_u8(1);
        fields.put_u8(length);
        fields.put_bytes(b'x', usize::from(length));
        let error = decode(Bytes::from(fields), &LOG).expect_err("no name");
        assert!(matches!(error, DecodeError::TubeName { .. }), "{error}");
    }
}

#[test]
fn entries_and_commands_are_neither_copied_out_nor_in() {
    let body = Bytes::from(vec![b'x'; 10_000]);
    let prev = LogPosition::new(Term(1), Index(4));
    let entries = chain(prev, &[(0, body.clone())]);
    let sent = entries[0].shared.as_ptr();
    let mut frame = FrameBuilder::new();
    encode(&append(Term(1), prev, entries), &mut frame);
    let chunks = frame.finish(FrameKind::Message, 1 << 20).expect("short enough").chunks;
    assert_eq!(chunks[1].as_ptr(), sent);

    let payload = payload(&PeerMessage::Commands { term: Term(1), commands: vec![body] });
    let within = payload.as_ptr_range();
    let Ok(PeerMessage::Commands { commands, .. }) = decode(payload, &LOG) else { panic!("whole") };
    assert!(within.contains(&commands[0].as_ptr()));
}

#[test]
fn a_term_or_index_that_no_shard_reaches_is_no_message() {
    for value in [1 << 53, u64::MAX] {
        let vote = Body::VoteRequest { last: LogPosition::new(Term(1), Index(value)), transfer: false };
        for (term, body) in [(value, Body::TimeoutNow), (1, vote)] {
            let message = Message { term: Term(term), body };
            let (times, durable) = (Times::default(), Index::ZERO);
            let message = RaftMessage { message, entries: vec![], times, room: true, durable };
            let error = decode(payload(&PeerMessage::Raft(message)), &LOG).expect_err("too large");
            assert!(matches!(error, DecodeError::Unknown { .. }), "{error}");
        }
    }
}

#[test]
fn fetched_entries_are_those_that_were_asked_for_or_no_message() {
    let prev = LogPosition::new(Term(1), Index(4));
    let entries = chain(prev, &[(0, Bytes::new()), (0, Bytes::new())]);
    let last = entries[1].meta;
    let answer = |last, chain, entries: &[Entry]| {
        PeerMessage::Fetched(Fetched { last, chain, leads: None, held: Held::Entries(entries.to_vec()) })
    };
    assert!(decode(payload(&answer(Index(6), Some(last.chain), &entries)), &LOG).is_ok());
    assert!(decode(payload(&answer(Index(6), None, &entries)), &LOG).is_ok());
    let other_index = answer(Index(5), Some(last.chain), &entries);
    let other_chain = answer(Index(6), Some(ChainHash(1)), &entries);
    let none = answer(Index(6), Some(last.chain), &[]);
    let unlinked = [entry(prev, ChainHash(99), b""), entries[0].clone(), entries[1].clone()];
    let unlinked = answer(Index(6), Some(last.chain), &unlinked);
    for wrong in [other_index, other_chain, none, unlinked] {
        refused(&wrong);
    }
}
