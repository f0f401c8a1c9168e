//! What happened in a run: a running hash over every event, and the last few hundred events in words.
//!
//! Two runs of one seed must give the same hash; it is what shows that nothing but the seed decides.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write as _};
use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::types::Nanos;

const KEPT_MAX: usize = 400;

/// Clones share one trace.
#[derive(Debug, Clone, Default)]
pub struct Trace(Rc<State>);

#[derive(Debug, Default)]
struct State {
    hash: Cell<u64>,
    events: Cell<u64>,
    printed: Cell<bool>,
    kept: RefCell<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    at: Nanos,
    what: String,
}

impl Trace {
    /// Prints each event that is kept, as it happens.
    pub fn print(&self) {
        self.0.printed.set(true);
    }

    /// Counts an event into the hash only: for what happens too often to be told, such as a task's turn.
    pub fn mix(&self, at: Nanos, kind: u64, what: u64) {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&at.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&kind.to_le_bytes());
        bytes[16..].copy_from_slice(&what.to_le_bytes());
        self.mix_bytes(&bytes);
    }

    fn mix_bytes(&self, bytes: &[u8]) {
        self.0.hash.set(xxh3_64_with_seed(bytes, self.0.hash.get()));
        self.0.events.set(self.0.events.get() + 1);
    }

    /// Tells an event: it goes into the hash, and is kept for the report of a failure.
    pub fn tell(&self, at: Nanos, what: impl fmt::Display) {
        let what = what.to_string();
        self.mix(at, u64::MAX, what.len() as u64);
        self.mix_bytes(what.as_bytes());
        if self.0.printed.get() {
            // Whether anybody reads it decides nothing.
            _ = writeln!(io::stdout(), "{}", Told { at, what: &what });
        }
        let mut kept = self.0.kept.borrow_mut();
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { at, what });
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.events.get()
    }

    /// The events that are kept, oldest first, a line each.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        self.0.kept.borrow().iter().map(|kept| Told { at: kept.at, what: &kept.what }.to_string()).collect()
    }
}

struct Told<'a> {
    at: Nanos,
    what: &'a str,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.0 / 1_000;
        write!(f, "{:>6}.{:06} {}", micros / 1_000_000, micros % 1_000_000, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_every_difference_and_the_tail_is_bounded() {
        let run = |last: &str| {
            let trace = Trace::default();
            for turn in 0..1_000 {
                trace.mix(Nanos(turn), 1, turn);
                trace.tell(Nanos(turn), format_args!("turn {turn}"));
            }
            trace.tell(Nanos(1_000), last);
            trace
        };
        assert_eq!(run("end").hash(), run("end").hash());
        assert_ne!(run("end").hash(), run("End").hash());
        let lines = run("end").last_lines();
        assert_eq!(lines.len(), KEPT_MAX);
        assert_eq!(lines.last().map(String::as_str), Some("     0.000001 end"));
    }
}
