//! The parser of the client protocol: never panics, never holds more of a line than a line may have, and understands a
//! stream in the same way however it is cut into pieces.
#![no_main]

use beaver_raft::api::beanstalkd::body_budget::{BodyBudget, BodyLimits};
use beaver_raft::api::beanstalkd::parser::Parser;
use beaver_raft::api::beanstalkd::request::Parsed;
use beaver_raft_fuzz::input::Input;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const BODY_BYTES_MAX: u32 = 64;

fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Parsed> {
    let mut parser = Parser::new(BODY_BYTES_MAX);
    let budget = BodyBudget::share(BodyLimits { bytes_max: BODY_BYTES_MAX, together_bytes_max: 1 << 30 }, 1);
    let mut parsed = Vec::new();
    for piece in pieces {
        parser.push(Bytes::copy_from_slice(piece));
        parsed.extend(std::iter::from_fn(|| parser.poll_parsed(&budget)));
        assert_eq!(parser.input_bytes(), 0, "what can't be understood yet is taken in all the same");
    }
    parsed
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let lengths = [input.byte(), input.byte(), input.byte()].map(|length| usize::from(length) + 1);
    let stream = input.remainder();
    let mut rest = stream;
    let pieces = lengths.iter().cycle().map_while(|&length| {
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(parse(pieces), parse(std::iter::once(stream)));
});
