//! What recovery does with what it finds in the place of the next entry: a table, not code, so that every case is seen.
//! It must never cut what may have been acknowledged, and never keep a node from starting for an ordinary power cut.
//!
//! *Evidence* that an entry was durable here is a record written later, in a segment that is not older, that says so
//! (`durable_upto`), a seal among them; nothing else is. With evidence, an entry that cannot be read is **faulty**: it
//! keeps its place, is never voted away and has to come back from a peer. Without, its write was never completed, so nobody was
//! told of it, and the log **ends** before it, whatever may follow.

/// What is in the place where the next entry should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    /// A block of zeros, or the end of the file.
    Nothing,
    Seal,
    /// An entry, whole, that follows the one before.
    Whole,
    /// An entry, whole, that does not follow the one before.
    Stray,
    /// A record of this place whose entry is not whole.
    Damaged,
    /// Not zeros, and no record of this place; or the device cannot read it.
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It is the next entry.
    Keep,
    /// Look behind it for the next entry.
    Pass,
    /// A later segment's header killed what is here: go on there.
    NextSegment,
    /// It was durable and cannot be read.
    Faulty,
    /// The log ends before it.
    End,
}

/// One row: which findings, and in which circumstances, lead to the decision. None: in either.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub found: &'static [Found],
    /// A later segment begins at or before this place in the log.
    pub superseded: bool,
    pub evidence: Option<bool>,
    pub decision: Decision,
}

const ANYTHING: &[Found] =
    &[Found::Nothing, Found::Seal, Found::Whole, Found::Stray, Found::Damaged, Found::Unreadable];

/// Exactly one row holds for every input.
pub const TABLE: &[Row] = &[
    Row { found: ANYTHING, superseded: true, evidence: None, decision: Decision::NextSegment },
    Row { found: &[Found::Whole], superseded: false, evidence: None, decision: Decision::Keep },
    Row { found: &[Found::Seal], superseded: false, evidence: None, decision: Decision::Pass },
    // Nothing was ever written here, or nothing of it arrived: the usual end of a log.
    Row { found: &[Found::Nothing], superseded: false, evidence: Some(false), decision: Decision::End },
    // A write that was lost, or a block that was zeroed.
    Row { found: &[Found::Nothing], superseded: false, evidence: Some(true), decision: Decision::Faulty },
    // A write was torn by a crash.
    Row { found: &[Found::Damaged], superseded: false, evidence: Some(false), decision: Decision::End },
    Row { found: &[Found::Unreadable], superseded: false, evidence: Some(false), decision: Decision::End },
    // Rot, or a sector that cannot be read.
    Row { found: &[Found::Damaged], superseded: false, evidence: Some(true), decision: Decision::Faulty },
    Row { found: &[Found::Unreadable], superseded: false, evidence: Some(true), decision: Decision::Faulty },
    // What preceded this entry is not what it was.
    Row { found: &[Found::Stray], superseded: false, evidence: Some(false), decision: Decision::End },
    Row { found: &[Found::Stray], superseded: false, evidence: Some(true), decision: Decision::Faulty },
];

impl Row {
    fn holds(&self, found: Found, superseded: bool, evidence: bool) -> bool {
        self.found.contains(&found)
            && self.superseded == superseded
            && self.evidence.is_none_or(|needed| needed == evidence)
    }
}

/// The number of the row that holds.
#[must_use]
pub fn row(found: Found, superseded: bool, evidence: bool) -> usize {
    let holds = |row: &Row| row.holds(found, superseded, evidence);
    TABLE.iter().position(holds).expect("a row holds for every input, as a test shows")
}

/// Whether evidence, which may have to be searched for in the rest of the log, makes a difference.
#[must_use]
pub fn depends_on_evidence(found: Found, superseded: bool) -> bool {
    row(found, superseded, false) != row(found, superseded, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_input() -> impl Iterator<Item = (Found, bool, bool)> {
        ANYTHING.iter().flat_map(|&found| {
            [false, true]
                .into_iter()
                .flat_map(move |superseded| [false, true].map(|evidence| (found, superseded, evidence)))
        })
    }

    #[test]
    fn exactly_one_row_holds_for_every_input() {
        for (found, superseded, evidence) in every_input() {
            let rows = TABLE.iter().filter(|row| row.holds(found, superseded, evidence)).count();
            assert_eq!(rows, 1, "{found:?}, superseded {superseded}, evidence {evidence}");
        }
    }

    #[test]
    fn every_row_holds_for_some_input() {
        for (number, _) in TABLE.iter().enumerate() {
            assert!(every_input().any(|(found, superseded, evidence)| row(found, superseded, evidence) == number));
        }
    }

    #[test]
    fn an_entry_with_evidence_never_ends_the_log_and_one_without_is_never_faulty() {
        for (found, superseded, evidence) in every_input() {
            match TABLE[row(found, superseded, evidence)].decision {
                Decision::End => assert!(!evidence),
                Decision::Faulty => assert!(evidence),
                Decision::Keep => assert_eq!(found, Found::Whole),
                Decision::Pass => assert_eq!(found, Found::Seal),
                Decision::NextSegment => assert!(superseded),
            }
        }
    }
}
