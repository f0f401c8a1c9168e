//! The framing of a client's bytes: lines, bodies and what has to be skipped, from pieces of any size.
//!
//! It must never hold more than it was given (a body grows as it arrives, not as it is announced) or than there is memory for
//! (a body beyond the budget is skipped, and its put refused), never give another result for another split of the same bytes
//! as long as there is, and never lose step: whatever a client sends, the next
//! command starts where the original would look for it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::body_budget::BodyBudget;
use super::grammar::{Line, parse_line};
use super::reply::Refusal;
use super::request::{Counted, Parsed, Request};

/// The longest command line, in bytes, with its CRLF.
pub const LINE_BYTES_MAX: usize = 224;

/// Pieces are joined up to this length. While a command waits, a client that sends a byte at a time would else be held in memory many
/// times over. Not longer, since a body that lies within a piece keeps all of it.
const JOINED_BYTES_MAX: usize = 4 << 10;

/// Turns pieces of a byte stream into requests, one for each call of [`Parser::poll_parsed`].
#[derive(Debug)]
pub struct Parser {
    body_bytes_max: u32,
    /// Bytes not looked at yet. No piece is empty, and neighbours that can be joined are together above [`JOINED_BYTES_MAX`].
    input: VecDeque<Bytes>,
    input_bytes: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The start of a line that has not ended yet: at most [`LINE_BYTES_MAX`] bytes, no CRLF among them.
    Line(Vec<u8>),
    /// A line that is too long: everything up to the next CRLF goes. `cr`: the last byte seen was CR.
    TooLong { cr: bool },
    /// The body of a put and its CRLF.
    Body { put: Put, read: Unfinished },
    /// The body of a put that is refused.
    Refused { bytes_left: u64, refusal: Refusal },
}

/// What came of a body in earlier pieces.
#[derive(Debug, Default)]
struct Unfinished {
    bytes: Vec<u8>,
    /// Of the budget: the room in `bytes`.
    taken: usize,
}

impl Unfinished {
    /// Adds a part of a body of `whole` bytes, unless there is no memory for it.
    fn extend(&mut self, part: &[u8], whole: usize, budget: &BodyBudget) -> bool {
        let needed = self.bytes.len() + part.len();
        if needed > self.taken {
            let room = needed.max(2 * self.taken).min(whole);
            if !budget.take(room - self.taken) {
                return false;
            }
            self.taken = room;
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(part);
        true
    }
}

#[derive(Debug, Clone, Copy)]
struct Put {
    priority: u32,
    delay_s: u32,
    ttr_s: u32,
    bytes: usize,
}

impl Parser {
    #[must_use]
    pub fn new(body_bytes_max: u32) -> Parser {
        Parser { body_bytes_max, input: VecDeque::new(), input_bytes: 0, state: State::Line(Vec::new()) }
    }

    /// Takes the next piece of the stream. Bodies that lie within one piece share its memory.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.input_bytes += piece.len();
            if let Some(piece) = self.join(piece) {
                self.input.push_back(piece);
            }
        }
    }

    /// Adds a piece to the last one, if they are short and no body keeps that one; gives it back otherwise.
    fn join(&mut self, piece: Bytes) -> Option<Bytes> {
        let last = self.input.back_mut().filter(|last| last.len() + piece.len() <= JOINED_BYTES_MAX);
        let Some(last) = last else { return Some(piece) };
        match std::mem::take(last).try_into_mut() {
            Ok(mut joined) => {
                joined.extend_from_slice(&piece);
                *last = joined.freeze();
                None
            }
            Err(kept) => {
                *last = kept;
                Some(piece)
            }
        }
    }

    /// Bytes that were pushed and not looked at yet.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        self.input_bytes
    }

    /// The next request, or nothing until more bytes come. The length of a put's body stays taken from the budget: whoever is done with
    /// the put gives it back.
    pub fn poll_parsed(&mut self, budget: &BodyBudget) -> Option<Parsed> {
        while !self.input.is_empty() {
            let parsed = match self.state {
                State::Line(_) => self.read_line(),
                State::TooLong { cr } => self.skip_line(cr),
                State::Body { put, .. } => self.read_body(put, budget),
                State::Refused { bytes_left, refusal } => self.skip_body(bytes_left, refusal),
            };
            if parsed.is_some() {
                return parsed;
            }
        }
        None
    }

    fn read_line(&mut self) -> Option<Parsed> {
        let (State::Line(start), Some(piece)) = (&mut self.state, self.input.front()) else { return None };
        let window = &piece[..piece.len().min(LINE_BYTES_MAX - start.len())];
        let body_bytes_max = self.body_bytes_max;
        let (line, taken) = match (find_crlf(start.last() == Some(&b'\r'), window), start.is_empty()) {
            (Some(end), true) => (parse_line(&window[..end - 2], body_bytes_max), end),
            (Some(end), false) => {
                start.extend_from_slice(&window[..end]);
                (parse_line(&start[..start.len() - 2], body_bytes_max), end)
            }
            (None, _) => {
                start.extend_from_slice(window);
                let taken = window.len();
                if start.len() == LINE_BYTES_MAX {
                    self.state = State::TooLong { cr: start.last() == Some(&b'\r') };
                }
                self.advance(taken);
                return None;
            }
        };
        self.advance(taken);
        let (state, parsed) = match line {
            Line::Whole(parsed) => (State::Line(Vec::new()), Some(parsed)),
            Line::PutTooBig { bytes } => (State::Refused { bytes_left: bytes, refusal: Refusal::JobTooBig }, None),
            Line::Put { priority, delay_s, ttr_s, bytes } => {
                let bytes = usize::try_from(bytes).expect("a u32 fits a usize on every supported machine");
                let put = Put { priority, delay_s, ttr_s, bytes };
                (State::Body { put, read: Unfinished::default() }, None)
            }
        };
        self.state = state;
        parsed
    }

    fn skip_line(&mut self, cr: bool) -> Option<Parsed> {
        let piece = self.input.front()?;
        match find_crlf(cr, piece) {
            Some(end) => {
                self.advance(end);
                self.state = State::Line(Vec::new());
                Some(Parsed::refused(Refusal::BadFormat))
            }
            None => {
                self.state = State::TooLong { cr: piece.last() == Some(&b'\r') };
                self.advance(piece.len());
                None
            }
        }
    }

    fn read_body(&mut self, put: Put, budget: &BodyBudget) -> Option<Parsed> {
        let (State::Body { read, .. }, Some(piece)) = (&mut self.state, self.input.front()) else { return None };
        let whole = put.bytes + 2;
        let missing = whole - read.bytes.len();
        let taken = piece.len().min(missing);
        let is_within_piece = taken == whole;
        let is_kept = if is_within_piece { budget.take(whole) } else { read.extend(&piece[..taken], whole, budget) };
        if !is_kept {
            budget.give_back(read.taken);
            self.state = State::Refused { bytes_left: missing as u64, refusal: Refusal::OutOfMemory };
            return None;
        }
        if taken < missing {
            self.advance(taken);
            return None;
        }
        let mut body =
            if is_within_piece { piece.slice(..whole) } else { Bytes::from(std::mem::take(&mut read.bytes)) };
        self.advance(taken);
        self.state = State::Line(Vec::new());
        let request = if body.ends_with(b"\r\n") {
            budget.give_back(2);
            body.truncate(put.bytes);
            Request::Put { priority: put.priority, delay_s: put.delay_s, ttr_s: put.ttr_s, body }
        } else {
            budget.give_back(whole);
            Request::PutUnterminated
        };
        Some(Parsed { counted: Some(Counted::Put), request })
    }

    /// What has yet to come of the body that is being read, with its CRLF.
    #[must_use]
    pub fn body_bytes_left(&self) -> u64 {
        match &self.state {
            State::Body { put, read } => (put.bytes + 2 - read.bytes.len()) as u64,
            State::Refused { bytes_left, .. } => *bytes_left,
            State::Line(_) | State::TooLong { .. } => 0,
        }
    }

    /// Gives back what an unfinished body has taken: nothing more is read.
    pub fn close(&mut self, budget: &BodyBudget) {
        if let State::Body { read, .. } = &self.state {
            budget.give_back(read.taken);
        }
        self.state = State::Line(Vec::new());
    }

    fn skip_body(&mut self, bytes_left: u64, refusal: Refusal) -> Option<Parsed> {
        let piece_bytes = self.input.front()?.len();
        let taken = usize::try_from(bytes_left).map_or(piece_bytes, |left| left.min(piece_bytes));
        self.advance(taken);
        let bytes_left = bytes_left - taken as u64;
        if bytes_left > 0 {
            self.state = State::Refused { bytes_left, refusal };
            return None;
        }
        self.state = State::Line(Vec::new());
        Some(Parsed { counted: Some(Counted::Put), request: Request::Refused(refusal) })
    }

    fn advance(&mut self, bytes: usize) {
        let piece = self.input.front_mut().expect("bytes are taken from the piece that was looked at");
        piece.advance(bytes);
        self.input_bytes -= bytes;
        if piece.is_empty() {
            self.input.pop_front();
        }
    }
}

/// The end of the first CRLF in a piece, whose first byte may be the LF of one that began before it.
fn find_crlf(cr_before: bool, piece: &[u8]) -> Option<usize> {
    if cr_before && piece.first() == Some(&b'\n') {
        return Some(1);
    }
    piece.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2)
}

#[cfg(test)]
pub(super) mod tests;
