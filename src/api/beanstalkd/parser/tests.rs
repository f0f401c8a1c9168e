//! Framing, and above all that the split of the bytes does not matter.

use proptest::prelude::*;

use super::*;
use crate::api::beanstalkd::body_budget::BodyLimits;
use crate::api::beanstalkd::front_door::tests::bodies_up_to;

fn parse_pieces(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<Parsed> {
    let mut parser = Parser::new(100);
    let budget = BodyBudget::share(bodies_up_to(100), 1);
    let mut all = Vec::new();
    for piece in pieces {
        parser.push(piece.into());
        all.extend(std::iter::from_fn(|| parser.poll_parsed(&budget)));
        assert_eq!(parser.input_bytes(), 0);
    }
    all
}

fn parse(bytes: &[u8]) -> Vec<Request> {
    parse_pieces([bytes.to_vec()]).into_iter().map(|parsed| parsed.request).collect()
}

fn put(body: &'static [u8]) -> Request {
    Request::Put { priority: 1, delay_s: 2, ttr_s: 3, body: Bytes::from_static(body) }
}

const BAD_FORMAT: Request = Request::Refused(Refusal::BadFormat);
const UNKNOWN: Request = Request::Refused(Refusal::UnknownCommand);

#[test]
fn a_body_is_taken_by_its_length_whatever_it_holds() {
    assert_eq!(parse(b"put 1 2 3 4\r\n\r\n\r\n\r\nstats\r\n"), [put(b"\r\n\r\n"), Request::Stats]);
    assert_eq!(parse(b"put 1 2 3 0\r\n\r\n"), [put(b"")]);
    assert_eq!(parse(b"put 1 2 3 2\r\n\0\0\r\n"), [put(b"\0\0")]);
}

#[test]
fn a_body_without_crlf_uses_up_two_bytes_more_than_announced() {
    assert_eq!(parse(b"put 1 2 3 1\r\nabcstats\r\n"), [Request::PutUnterminated, Request::Stats]);
    assert_eq!(parse(b"put 1 2 3 1\r\na\rxstats\r\n"), [Request::PutUnterminated, Request::Stats]);
}

#[test]
fn a_body_that_is_too_big_is_skipped() {
    let mut bytes = b"put 1 2 3 101\r\n".to_vec();
    bytes.extend([b'\n'; 103]);
    bytes.extend(b"stats\r\n");
    assert_eq!(parse(&bytes), [Request::Refused(Refusal::JobTooBig), Request::Stats]);
}

#[test]
fn the_body_behind_a_malformed_put_is_read_as_a_command() {
    assert_eq!(parse(b"put x 2 3 4\r\nstat\r\nstats\r\n"), [BAD_FORMAT, UNKNOWN, Request::Stats]);
}

#[test]
fn a_line_of_224_bytes_is_read_and_one_of_225_is_skipped() {
    for (line_bytes, expected) in [(224, UNKNOWN), (225, BAD_FORMAT), (226, BAD_FORMAT), (5000, BAD_FORMAT)] {
        let mut bytes = vec![b'x'; line_bytes - 2];
        bytes.extend(b"\r\nstats\r\n");
        assert_eq!(parse(&bytes), [expected, Request::Stats], "{line_bytes}");
    }
}

#[test]
fn a_lone_cr_or_lf_ends_no_line() {
    assert_eq!(parse(b"a\nb\rc\r\r\nstats\r\n"), [UNKNOWN, Request::Stats]);
}

#[test]
fn the_longest_command_fits() {
    let name = "n".repeat(200);
    let line = format!("pause-tube {name} 4294967295\r\n");
    assert_eq!(line.len(), LINE_BYTES_MAX);
    assert_eq!(parse(line.as_bytes()), [Request::PauseTube { tube: name.into(), duration_s: u32::MAX }]);
}

#[test]
fn a_body_within_one_piece_is_not_copied() {
    let piece = Bytes::from_static(b"put 1 2 3 4\r\nbody\r\n");
    let mut parser = Parser::new(100);
    let budget = BodyBudget::share(bodies_up_to(100), 1);
    parser.push(piece.clone());
    let Some(Parsed { request: Request::Put { body, .. }, .. }) = parser.poll_parsed(&budget) else { panic!("a put") };
    assert_eq!(body.as_ptr(), piece[13..].as_ptr());
}

#[test]
fn single_bytes_that_wait_are_held_as_few_pieces() {
    let commands = b"put 1 2 3 4\r\nbody\r\nstats\r\n".repeat(2000);
    let mut parser = Parser::new(100);
    let budget = BodyBudget::share(bodies_up_to(100), 1);
    for byte in &commands {
        parser.push(Bytes::copy_from_slice(&[*byte]));
    }
    assert_eq!(parser.input_bytes(), commands.len());
    let pieces = commands.len().div_ceil(JOINED_BYTES_MAX);
    assert_eq!(parser.input.len(), pieces);
    let room: usize = std::mem::take(&mut parser.input)
        .into_iter()
        .map(|piece| {
            let joined = piece.try_into_mut().expect("nobody else holds it");
            let capacity = joined.capacity();
            parser.input.push_back(joined.freeze());
            capacity
        })
        .sum();
    assert!(room <= 2 * JOINED_BYTES_MAX * pieces, "{room} bytes for {}", commands.len());
    let parsed: Vec<_> = std::iter::from_fn(|| parser.poll_parsed(&budget)).map(|parsed| parsed.request).collect();
    assert_eq!(parsed.len(), 4000);
    assert!(parsed.chunks(2).all(|two| *two == [put(b"body"), Request::Stats]));
}

#[test]
fn a_piece_that_a_body_keeps_or_that_is_long_is_not_added_to() {
    let mut parser = Parser::new(100);
    let budget = BodyBudget::share(bodies_up_to(100), 1);
    parser.push(Bytes::copy_from_slice(b"put 1 2 3 4\r\nbody\r\nsta"));
    let Some(Parsed { request: Request::Put { body, .. }, .. }) = parser.poll_parsed(&budget) else { panic!("a put") };
    parser.push(Bytes::copy_from_slice(b"ts"));
    assert_eq!(parser.input.len(), 2);
    let long = Bytes::from(vec![b'x'; JOINED_BYTES_MAX]);
    parser.push(long.clone());
    assert_eq!(parser.input.back().map(|piece| piece.as_ptr()), Some(long.as_ptr()), "it is not copied");
    assert_eq!(&body[..], b"body");
}

#[test]
fn a_body_beyond_the_budget_is_skipped_and_its_put_refused() {
    let budget = BodyBudget::share(BodyLimits { bytes_max: 100, together_bytes_max: 150 }, 1);
    let (mut slow, mut quick) = (Parser::new(100), Parser::new(100));
    slow.push(Bytes::from(format!("put 1 2 3 90\r\n{}", "x".repeat(60))));
    assert_eq!(slow.poll_parsed(&budget), None);
    assert_eq!(budget.taken_bytes(), 60);

    let put_of_95 = Bytes::from(format!("put 1 2 3 95\r\n{}\r\n", "y".repeat(95)));
    for ends in [&[111][..], &[70, 111], &[70, 90, 111]] {
        let mut told = Vec::new();
        let mut begin = 0;
        for &end in ends {
            quick.push(put_of_95.slice(begin..end));
            begin = end;
            told.extend(std::iter::from_fn(|| quick.poll_parsed(&budget)).map(|parsed| parsed.request));
        }
        assert_eq!(told, [Request::Refused(Refusal::OutOfMemory)], "{ends:?}");
        assert_eq!(budget.taken_bytes(), 60, "{ends:?}");
    }
    assert_eq!(budget.refused(), 3);

    slow.push(Bytes::from(format!("{}\r\nput 1 2 3 5\r\n12", "x".repeat(30))));
    let Some(Parsed { request: Request::Put { body, .. }, .. }) = slow.poll_parsed(&budget) else { panic!("a put") };
    assert_eq!(budget.taken_bytes(), 90);
    budget.give_back(body.len());
    assert_eq!(slow.poll_parsed(&budget), None);
    assert_eq!(budget.taken_bytes(), 2);
    slow.close(&budget);
    assert_eq!(budget.taken_bytes(), 0);
}

/// Something a client might send, sane or not, and unfinished at times.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "put 1 2 3 ",
        "put ",
        "reserve",
        "reserve-with-timeout ",
        "reserve-job ",
        "delete ",
        "release ",
        "bury ",
        "kick ",
        "kick-job ",
        "touch ",
        "peek",
        "peek ",
        "peek-ready",
        "stats",
        "stats-job ",
        "stats-tube ",
        "use ",
        "watch ",
        "ignore ",
        "list-tubes",
        "list-tube-used",
        "list-tubes-watched",
        "quit",
        "pause-tube ",
        "default",
        "0",
        "1",
        "3",
        "100",
        "101",
        "150",
        "4294967296",
        " ",
        "-",
        "\r",
        "\n",
        "\r\n",
        "\0",
        "x",
    ]);
    let well_formed_put = prop::collection::vec(any::<u8>(), 0..120).prop_map(|body| {
        let mut bytes = format!("put 1 2 3 {}\r\n", body.len()).into_bytes();
        bytes.extend(body);
        bytes.extend(b"\r\n");
        bytes
    });
    prop_oneof![
        6 => words.prop_map(|word| word.as_bytes().to_vec()),
        4 => Just(b"\r\n".to_vec()),
        2 => well_formed_put,
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (200usize..260).prop_map(|bytes| vec![b'y'; bytes]),
    ]
}

/// The stream as one piece, and the same stream cut at random places (never more than 20 bytes apart at times).
pub(in crate::api::beanstalkd) fn stream_and_cuts() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let stream = prop::collection::vec(fragment(), 0..40).prop_map(|fragments| fragments.concat());
    let lengths = prop_oneof![
        prop::collection::vec(1usize..4, 1..50),
        prop::collection::vec(1usize..20, 1..50),
        prop::collection::vec(1usize..400, 1..20),
    ];
    (stream, lengths)
}

pub(in crate::api::beanstalkd) fn cut(stream: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = stream;
    let mut pieces = Vec::new();
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    pieces
}

/// What the stream means, told from its definition without any buffering: the model to compare with.
fn model(mut stream: &[u8]) -> Vec<Parsed> {
    let mut all = Vec::new();
    while let Some(end) = stream.windows(2).position(|pair| pair == b"\r\n") {
        let line = &stream[..end];
        stream = &stream[end + 2..];
        if line.len() + 2 > LINE_BYTES_MAX {
            all.push(Parsed::refused(Refusal::BadFormat));
            continue;
        }
        let counted = Some(Counted::Put);
        match parse_line(line, 100) {
            Line::Whole(parsed) => all.push(parsed),
            Line::PutTooBig { bytes } => {
                let Some(rest) = stream.get(usize::try_from(bytes).unwrap()..) else { break };
                stream = rest;
                all.push(Parsed { counted, request: Request::Refused(Refusal::JobTooBig) });
            }
            Line::Put { priority, delay_s, ttr_s, bytes } => {
                let bytes = bytes as usize;
                let Some((whole, rest)) = stream.split_at_checked(bytes + 2) else { break };
                stream = rest;
                let request = match whole.strip_suffix(b"\r\n") {
                    Some(body) => Request::Put { priority, delay_s, ttr_s, body: Bytes::copy_from_slice(body) },
                    None => Request::PutUnterminated,
                };
                all.push(Parsed { counted, request });
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_split_of_the_bytes_gives_what_they_mean_as_a_whole((stream, lengths) in stream_and_cuts()) {
        let expected = model(&stream);
        prop_assert_eq!(&parse_pieces([stream.clone()]), &expected);
        prop_assert_eq!(&parse_pieces(stream.iter().map(|&byte| vec![byte])), &expected);
        prop_assert_eq!(&parse_pieces(cut(&stream, &lengths)), &expected);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        parse_pieces([bytes]);
    }
}

#[test]
fn what_a_body_lacks_is_known_while_it_comes() {
    let budget = BodyBudget::share(bodies_up_to(1 << 20), 1);
    let mut parser = Parser::new(100_000);
    let mut push = |bytes: &[u8]| {
        parser.push(Bytes::copy_from_slice(bytes));
        while parser.poll_parsed(&budget).is_some() {}
        parser.body_bytes_left()
    };
    assert_eq!(push(b"put 0 0 1 50000\r\n"), 50_002);
    assert_eq!(push(&[b'x'; 20_000]), 30_002);
    assert_eq!(
        push(&[[b'x'; 30_000].as_slice(), b"\r\nput 0 0 1 200000\r\n"].concat()),
        200_002,
        "of one that is refused, too"
    );
    assert_eq!(push(&[b'x'; 200_000]), 2);
    assert_eq!(push(b"\r\nstats"), 0);
}
