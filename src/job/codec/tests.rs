//! What the byte format must hold to, whatever the bytes.

use proptest::prelude::*;

use super::*;
use crate::job::command::{Class, Origin, TubeList};
use crate::types::{BodyHash, BootEpoch, Incarnation, JobId, NodeId, SessionId};

/// A command that owns its bytes, for generators.
#[derive(Debug, Clone)]
struct Recipe {
    kind: usize,
    session: SessionId,
    seq: u64,
    job: u64,
    numbers: [u32; 3],
    tubes: Vec<Vec<u8>>,
    body: Vec<u8>,
    hinted: bool,
}

const KINDS: usize = 17;

impl Recipe {
    fn encode(&self, out: &mut Vec<u8>) {
        let tubes = encode_tubes(self.tubes.iter().map(Vec::as_slice));
        let [priority, ttr_s, delay_s] = self.numbers;
        let tube = self.tubes[0].as_slice();
        let class = Class { tube, priority, ttr_s, delay_s };
        let hint = self.hinted.then_some(class);
        let job = JobId(self.job);
        let client = Origin::Session { session: self.session, seq: self.seq };
        let (origin, command) = match self.kind {
            0 => (client, Command::Enqueue { class, body_hash: body_hash(&self.body), body: &self.body }),
            1 => (client, Command::Reserve { tubes: TubeList { encoded: &tubes } }),
            2 => (client, Command::ReserveJob { job, class: hint }),
            3 => (client, Command::Unreserve { job, epoch: self.seq }),
            4 => (client, Command::Delete { job, class: hint }),
            5 => (client, Command::Release { job, priority, delay_s }),
            6 => (client, Command::Bury { job, priority }),
            7 => (client, Command::Touch { job }),
            8 => (client, Command::Kick { tube, bound: self.seq }),
            9 => (client, Command::KickJob { job }),
            10 => (client, Command::Pause { tube, duration_s: delay_s, referenced: self.hinted }),
            11 => (Origin::Session { session: self.session, seq: 0 }, Command::SessionOpen),
            12 => (client, Command::SessionClosed),
            13 => (Origin::System, Command::NodeBoot { node: self.session.node, boot: self.session.boot }),
            14 => (Origin::System, Command::Tick),
            15 => {
                let incarnation = Incarnation(u128::from(self.seq) << 40 | u128::from(self.job));
                (Origin::System, Command::NodeWentBack { node: self.session.node, incarnation })
            }
            _ => (Origin::System, Command::TubeDrop { tube }),
        };
        let numbered = Numbered { origin, command };
        let start = out.len();
        encode(&numbered, out);
        let decoded: Vec<_> = Commands::new(&out[start..]).collect();
        assert_eq!(decoded.len(), 1);
        assert_eq!(decoded[0].expect("it was encoded").numbered, numbered);
    }
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let session = (any::<u8>(), any::<u64>(), any::<u64>()).prop_map(|(node, boot, number)| SessionId {
        node: NodeId(node),
        boot: BootEpoch(boot),
        number,
    });
    let tubes = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=TUBE_NAME_BYTES_MAX), 1..4);
    let body = prop::collection::vec(any::<u8>(), 0..300);
    (0..KINDS, session, any::<(u64, u64)>(), any::<[u32; 3]>(), tubes, body, any::<bool>()).prop_map(
        |(kind, session, (seq, job), numbers, tubes, body, hinted)| Recipe {
            kind,
            session,
            seq,
            job,
            numbers,
            tubes,
            body,
            hinted,
        },
    )
}

proptest! {
    #[test]
    fn every_command_comes_back_as_it_went_in_and_lies_where_it_is_said_to_lie(recipes in prop::collection::vec(recipe(), 0..12)) {
        let mut batch = Vec::new();
        for recipe in &recipes {
            recipe.encode(&mut batch);
        }
        let mut next = 0;
        let mut count = 0;
        for located in Commands::new(&batch) {
            let located = located.expect("it was encoded");
            prop_assert_eq!(located.offset, next);
            next += located.length;
            count += 1;
            match (located.numbered.command, located.body_offset) {
                (Command::Enqueue { body, .. }, Some(at)) => {
                    prop_assert_eq!(body, &batch[at..at + body.len()]);
                    prop_assert_eq!(at + body.len(), next);
                }
                (_, place) => prop_assert_eq!(place, None),
            }
        }
        prop_assert_eq!((count, next), (recipes.len(), batch.len()));
    }

    #[test]
    fn a_batch_with_a_changed_byte_is_refused_or_is_the_encoding_of_something_else(
        recipe in recipe(), at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        let mut batch = Vec::new();
        recipe.encode(&mut batch);
        let at = at.index(batch.len());
        batch[at] ^= flip;
        let mut again = Vec::new();
        let decoded: Result<Vec<_>, _> = Commands::new(&batch).collect();
        if let Ok(commands) = decoded {
            for located in commands {
                encode(&located.numbered, &mut again);
            }
            prop_assert_eq!(again, batch);
        }
    }

    #[test]
    fn a_cut_batch_gives_what_is_whole_and_then_one_error(recipes in prop::collection::vec(recipe(), 1..5), at in any::<prop::sample::Index>()) {
        let mut batch = Vec::new();
        let mut ends = vec![0];
        for recipe in &recipes {
            recipe.encode(&mut batch);
            ends.push(batch.len());
        }
        let at = at.index(batch.len());
        let decoded: Vec<_> = Commands::new(&batch[..at]).collect();
        let whole = ends.iter().filter(|&&end| end <= at).count() - 1;
        prop_assert_eq!(decoded.iter().filter(|located| located.is_ok()).count(), whole);
        prop_assert_eq!(decoded.len() - whole, usize::from(!ends.contains(&at)));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..20u8, length in 0..500u32) {
        let _ = Commands::new(&bytes).count();
        // The same behind a header that passes, so that the fields are reached.
        let origin = u8::from(!(14..=16).contains(&kind));
        let mut framed = vec![kind, VERSION, origin, 0];
        framed.extend_from_slice(&length.to_le_bytes());
        framed.extend_from_slice(&[0; 24]);
        framed.extend_from_slice(&bytes);
        let _ = Commands::new(&framed).count();
        let _ = TubeList::decode(&bytes);
        let _ = TubeList { encoded: &bytes }.iter().count();
    }
}

fn encoded_tick() -> Vec<u8> {
    let mut batch = Vec::new();
    encode(&Numbered { origin: Origin::System, command: Command::Tick }, &mut batch);
    batch
}

fn fault(batch: &[u8]) -> Fault {
    let errors: Vec<_> = Commands::new(batch).filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1);
    errors[0].fault
}

#[test]
fn an_unknown_kind_or_version_is_named() {
    let mut batch = encoded_tick();
    batch[0] = 77;
    assert_eq!(fault(&batch), Fault::UnknownKind { kind: 77 });
    let mut batch = encoded_tick();
    batch[1] = 9;
    assert_eq!(fault(&batch), Fault::UnknownVersion { kind: Kind::Tick as u8, version: 9 });
}

#[test]
fn a_length_below_the_header_or_beyond_the_batch_is_impossible() {
    for length in [0u32, 31, 33, u32::MAX] {
        let mut batch = encoded_tick();
        batch[4..8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(fault(&batch), Fault::LengthImpossible { stated: length as usize, present: 32 });
    }
}

#[test]
fn a_clock_tick_cannot_come_from_a_session() {
    let mut batch = encoded_tick();
    batch[2] = SESSION;
    assert_eq!(fault(&batch), Fault::WrongOrigin);
}

#[test]
fn an_error_says_where_its_command_begins() {
    let mut batch = encoded_tick();
    batch.extend_from_slice(&[1; 5]);
    let error = Commands::new(&batch).find_map(Result::err).expect("five bytes are no header");
    assert_eq!(error.to_string(), "command at byte 32 of its batch: 5 bytes are left, its header needs 32");
}

#[test]
fn tube_names_are_those_of_the_protocol() {
    assert!(tube_name_is_legal(b"default"));
    assert!(tube_name_is_legal(b"aZ09-+/;.$_()"));
    assert!(tube_name_is_legal(&[b'a'; 200]));
    assert!(!tube_name_is_legal(&[b'a'; 201]));
    for name in [b"".as_slice(), b"-a", b"a b", b"a\0", b"a\n", b"\xff", b"a{b}", b"a,b"] {
        assert!(!tube_name_is_legal(name), "{name:?}");
    }
}

#[test]
fn the_bytes_of_an_enqueue_are_these() {
    let mut batch = Vec::new();
    let session = SessionId { node: NodeId(3), boot: BootEpoch(2), number: 5 };
    let class = Class { tube: b"ab", priority: 1, ttr_s: 2, delay_s: 3 };
    let command = Command::Enqueue { class, body_hash: BodyHash(7), body: b"xyz" };
    encode(&Numbered { origin: Origin::Session { session, seq: 4 }, command }, &mut batch);
    #[rustfmt::skip]
    let expected = [
        1, 1, 1, 3, 69, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0,
        7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        b'a', b'b', b'x', b'y', b'z',
    ];
    assert_eq!(batch, expected);
}

#[test]
fn the_identity_of_a_body_is_the_same_in_every_version_of_the_program() {
    assert_eq!(format!("{:032x}", body_hash(b"").0), "57bd4a6edb24c8be28b5844c9b13ae89");
    assert_eq!(format!("{:032x}", body_hash(&[7; 1000]).0), "ef344a498a3e6d64df11d696872f28ae");
}
