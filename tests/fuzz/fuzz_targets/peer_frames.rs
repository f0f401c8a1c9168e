//! What peers say: the assembler gives the same frames and the same error however a stream is cut; no payload makes a
//! decoder panic or take memory that its bytes do not back; what decodes is encoded to something that decodes to the same.
#![no_main]

use beaver_raft::net::assembler::Assembler;
use beaver_raft::net::codec;
use beaver_raft::net::frame::{EncodedFrame, Frame, FrameBuilder, FrameError, FrameKind, HEADER_BYTES};
use beaver_raft::net::handshake::{Hello, Refusal, Welcome};
use beaver_raft::net::message::{PeerMessage, RaftMessage};
use beaver_raft::raft::message::{Body, Message};
use beaver_raft::types::{ClusterId, Index, JobId, LogPosition, Nanos, ShardId, Term, Times};
use beaver_raft::wal::entry::{Draft, Entry, EntryKind, LogIdentity, origin_chain};
use beaver_raft_fuzz::input::Input;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(5), shard: ShardId(1) };
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

fn assemble(stream: &[u8], read_bytes: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut assembler = Assembler::new(PAYLOAD_BYTES_MAX);
    let (mut frames, mut rest) = (Vec::new(), stream);
    loop {
        match assembler.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) if rest.is_empty() => return (frames, None),
            Ok(None) => {
                let (mut buffer, room) = assembler.take_buffer();
                assert!(room > 0, "a read of nothing looks like the end of the stream");
                let (now, later) = rest.split_at(room.min(rest.len()).min(read_bytes));
                buffer.extend_from_slice(now);
                assembler.give_back(buffer);
                rest = later;
            }
            Err(error) => return (frames, Some(error)),
        }
    }
}

fn payload(frame: &EncodedFrame) -> Bytes {
    Bytes::from(frame.chunks.concat()).slice(HEADER_BYTES..)
}

fn decode(payload: &Bytes) {
    if let Ok(message) = codec::decode(payload.clone(), &LOG) {
        let mut builder = FrameBuilder::new();
        codec::encode(&message, &mut builder);
        let again = builder.finish(FrameKind::Message, usize::MAX).expect("it came in a frame");
        let again = codec::decode(self::payload(&again), &LOG).expect("what was encoded decodes");
        assert_eq!(format!("{message:?}"), format!("{again:?}"));
    }
    if let Ok(hello) = Hello::decode(payload.clone()) {
        assert_eq!(&self::payload(&hello.encode()), payload);
    }
    if let Ok(welcome) = Welcome::decode(payload.clone()) {
        assert_eq!(&self::payload(&welcome.encode()), payload);
    }
    if let Ok(refusal) = Refusal::decode(payload.clone()) {
        assert!(!refusal.text.contains(char::is_control), "a stranger's text is fit for a log line");
    }
}

/// An append whose entries have true checksums, which no fuzzer guesses; then some of its bytes are changed.
fn append(input: &mut Input<'_>) -> Bytes {
    let prev = LogPosition::new(Term(input.number() % (1 << 40)), Index(input.number() % (1 << 40)));
    let (mut at, mut chain, mut entries) = (prev, origin_chain(&LOG), Vec::new());
    for _ in 0..input.below(4) {
        at = LogPosition::new(Term(at.term.0 + u64::from(input.below(2))), at.index.next());
        let length = usize::from(input.byte());
        let draft = Draft {
            position: at,
            prev_chain: chain,
            kind: [EntryKind::Commands, EntryKind::NoOp, EntryKind::Membership][usize::from(input.below(3))],
            times: Times { lease: Nanos(input.number()), wall: Nanos(input.number()) },
            first_job: JobId(input.number()),
            job_count: input.u32(),
            payload: input.bytes(length),
        };
        let entry = Entry::encode(draft, &LOG);
        chain = entry.meta.chain;
        entries.push(entry);
    }
    let metas = entries.iter().map(|entry| entry.meta).collect();
    let body = Body::Append { prev, entries: metas, commit: Index(input.number()), round: input.number() };
    let message = Message { term: Term(at.term.0 + u64::from(input.below(2))), body };
    let mut builder = FrameBuilder::new();
    let message = RaftMessage { message, entries, times: Times::default(), room: true, durable: Index::ZERO };
    codec::encode(&PeerMessage::Raft(message), &mut builder);
    let mut bytes = payload(&builder.finish(FrameKind::Message, usize::MAX).expect("short")).to_vec();
    while !input.is_empty() {
        let place = usize::from(input.u16()) % bytes.len();
        bytes[place] ^= input.byte();
    }
    Bytes::from(bytes)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.below(4) {
        0 => decode(&Bytes::copy_from_slice(input.remainder())),
        1 => decode(&append(&mut input)),
        2 => {
            let read_bytes = usize::from(input.byte()) + 1;
            let stream = input.remainder();
            assert_eq!(assemble(stream, read_bytes), assemble(stream, usize::MAX));
        }
        _ => {
            // Whole frames, so that what is behind the checksums is reached; then damage.
            let (read_bytes, damage) = (usize::from(input.byte()) + 1, input.u32() as usize);
            let mut stream = Vec::new();
            while !input.is_empty() {
                let kind = [FrameKind::Hello, FrameKind::Welcome, FrameKind::Refused, FrameKind::Message];
                let kind = kind[usize::from(input.below(4))];
                let length = usize::from(input.u16());
                let mut builder = FrameBuilder::new();
                builder.fields().extend_from_slice(input.bytes(length));
                stream.extend(builder.finish(kind, PAYLOAD_BYTES_MAX).expect("short").chunks.concat());
            }
            if let Some(byte) = stream.get_mut(damage) {
                *byte ^= 0x10;
            }
            let (frames, error) = assemble(&stream, read_bytes);
            assert_eq!((&frames, &error), (&assemble(&stream, usize::MAX).0, &assemble(&stream, usize::MAX).1));
            assert_eq!(error.is_some(), damage < stream.len(), "damage is noticed, and nothing else is");
            frames.iter().for_each(|frame| decode(&frame.payload));
        }
    }
});
