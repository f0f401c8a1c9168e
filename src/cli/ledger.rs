//! What became of each job of an `enqueue`: only what is not acknowledged is kept, as runs of neighbours, so that a
//! million good jobs cost nothing and a million lost ones a line.

use std::fmt::{self, Write};

use super::jobs_file::Place;

/// Why a job is not known to be in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The server said no: it is not in the queue.
    Refused(String),
    /// It was sent, and the connection broke before an answer: it is in the queue or not.
    Unknown,
}

/// Neighbouring jobs of one fate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    first: Place,
    last: Place,
    fate: Fate,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub acknowledged: u64,
    runs: Vec<Run>,
}

impl Ledger {
    pub fn acknowledge(&mut self) {
        self.acknowledged += 1;
    }

    pub fn note(&mut self, place: Place, fate: Fate) {
        // Jobs of one connection come in order, so a neighbour is nearly always the last run or not far before it.
        let neighbour =
            self.runs.iter_mut().rev().take(32).find(|run| run.last.number + 1 == place.number && run.fate == fate);
        match neighbour {
            Some(run) => run.last = place,
            None => self.runs.push(Run { first: place, last: place, fate }),
        }
    }

    #[must_use]
    pub fn refused(&self) -> u64 {
        self.count(|fate| matches!(fate, Fate::Refused(_)))
    }

    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.count(|fate| matches!(fate, Fate::Unknown))
    }

    fn count(&self, counts: impl Fn(&Fate) -> bool) -> u64 {
        self.runs.iter().filter(|run| counts(&run.fate)).map(Run::jobs).sum()
    }

    /// For each fate, how many jobs met it and which, as ranges of their numbers, with lines where those differ.
    #[must_use]
    pub fn report(&self) -> String {
        let mut runs = self.runs.clone();
        runs.sort_by(|a, b| a.fate.cmp(&b.fate).then(a.first.cmp(&b.first)));
        // Several connections interleave their jobs: what they lost together is one run again.
        runs.dedup_by(|next, kept| {
            let joins = kept.last.number + 1 == next.first.number && kept.fate == next.fate;
            if joins {
                kept.last = next.last;
            }
            joins
        });
        let mut report = String::new();
        for of_fate in runs.chunk_by(|a, b| a.fate == b.fate) {
            let jobs: u64 = of_fate.iter().map(Run::jobs).sum();
            let ranges: Vec<String> = of_fate.iter().map(Run::to_string).collect();
            let noun = if jobs == 1 { "job" } else { "jobs" };
            let _ = writeln!(report, "{jobs} {noun} {}: {}", of_fate[0].fate, ranges.join(", "));
        }
        report
    }
}

impl Run {
    fn jobs(&self) -> u64 {
        self.last.number - self.first.number + 1
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { first, last, .. } = self;
        let one = first == last;
        let numbers_are_lines = first.number == first.line && last.number == last.line;
        match (one, numbers_are_lines) {
            (true, true) => write!(f, "{}", first.number),
            (false, true) => write!(f, "{}-{}", first.number, last.number),
            (true, false) => write!(f, "{} (line {})", first.number, first.line),
            (false, false) => write!(f, "{}-{} (lines {}-{})", first.number, last.number, first.line, last.line),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Refused(why) if why == "DRAINING" => f.write_str(
                "not enqueued (DRAINING: the cluster has no majority, or this node drains; nothing was stored; try again)",
            ),
            Fate::Refused(why) => write!(f, "not enqueued ({why})"),
            Fate::Unknown => f.write_str("unknown (sent and not answered: in the queue or not)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> Place {
        Place { number, line: number + 1 }
    }

    #[test]
    fn jobs_of_one_fate_are_told_as_ranges_in_the_order_of_the_input() {
        let mut ledger = Ledger::default();
        ledger.acknowledge();
        for number in [5, 7, 9, 6, 8, 12] {
            ledger.note(place(number), Fate::Unknown);
        }
        ledger.note(place(2), Fate::Refused("JOB_TOO_BIG".to_owned()));
        ledger.note(Place { number: 20, line: 20 }, Fate::Unknown);
        assert_eq!(
            ledger.report(),
            "1 job not enqueued (JOB_TOO_BIG): 2 (line 3)\n\
             7 jobs unknown (sent and not answered: in the queue or not): 5-9 (lines 6-10), 12 (line 13), 20\n"
        );
        let mut ledger_of_drain = Ledger::default();
        (1..=3).for_each(|number| {
            ledger_of_drain.note(Place { number, line: number }, Fate::Refused("DRAINING".to_owned()))
        });
        assert_eq!(
            ledger_of_drain.report(),
            "3 jobs not enqueued (DRAINING: the cluster has no majority, or this node drains; nothing was stored; try \
             again): 1-3\n"
        );
        assert_eq!((ledger.acknowledged, ledger.refused(), ledger.unknown()), (1, 1, 7));
    }
}
