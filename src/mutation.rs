//! Bugs that real systems shipped, which can be put back one at a time, to see that the simulator finds them. Without the
//! feature `mutants` none exists: [`is_on`] is then the constant `false`.
//!
//! It must never be possible to switch one on in a program that serves: only the simulator does, for its own thread.
//!
//! A new one is a line in the list below, an `if mutation::is_on(..)` where the bug was, and a profile of faults under
//! which it shows (`sim::mutants`).

use std::fmt;
use std::str::FromStr;

macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $mutation:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutation { $($(#[doc = $doc])+ $mutation,)* }

        impl Mutation {
            pub const ALL: &'static [Mutation] = &[$(Mutation::$mutation,)*];

            /// As it is written on the command line: the id of the fault it belongs to, or a word.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Mutation::$mutation => $name,)* }
            }
        }
    };
}

mutations! {
    /// A cut leaves the durable mark where it was, so a node acknowledges what it has yet to write.
    StaleDurableMark = "r1",
    /// An append that was overwritten while it was under way counts when it completes.
    LateCompletion = "r2",
    /// The commit index is taken from an unsorted list of matches.
    UnsortedQuorum = "r4",
    /// A leader commits entries of earlier terms by counting.
    EarlierTermByCounting = "r5",
    /// An append that brings nothing new cuts off what follows it.
    StaleAppendCuts = "r6",
    /// Bytes in flight are not given back when a follower's state changes.
    InFlightBytesKept = "r9",
    /// A node that hears its leader helps others to replace it.
    PreVoteWithoutRecency = "e2",
    /// A vote is answered before it is durable.
    VoteBeforeDurable = "e10",
    /// A read is confirmed by answers to what was sent before it was asked.
    ReadByEarlierRound = "d3",
    /// A node that leads again goes on from its own earlier clock, which nobody went by meanwhile.
    EarlierClockKept = "earlier-clock",
    /// A command that is handed over twice happens twice.
    NoDeduplication = "no-deduplication",
    /// A leader applies and answers what it has just appended.
    ReplyBeforeCommit = "reply-before-commit",
    /// A snapshot holds the bit of a job that has finished.
    ForgottenHole = "forgotten-hole",
    /// A snapshot lacks the record of a ready job that differs from its ENQ.
    DroppedRecord = "dropped-record",
    /// A file in which one job lives is given up as one in which none does.
    LiveFileDropped = "live-file-dropped",
    /// The log's floor is raised to whatever is applied, above what the snapshots cover.
    FloorAboveSnapshots = "floor-above-snapshots",
    /// A start under a lower boot number than one that was admitted is believed.
    LowerBootAccepted = "lower-boot",
    /// A second start under one boot number is believed.
    OtherStartAccepted = "other-start",
    /// A node that is in an earlier term than it answered in is believed.
    LowerTermAccepted = "lower-term",
    /// A node that holds less than it acknowledged in the same term is believed.
    LowerIndexAccepted = "lower-index",
    /// A directory with votes of another time than the rest is opened.
    PartialRestoreAccepted = "partial-restore",
    /// A start votes, acknowledges and opens sessions before a majority knows of it.
    UnadmittedStartPromises = "unadmitted-start",
    /// A leader counts what a former start of a follower acknowledged.
    FormerMatchKept = "former-match",
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(text: &str) -> Result<Mutation, String> {
        Mutation::ALL.iter().find(|mutation| mutation.name() == text).copied().ok_or_else(|| {
            let names: Vec<&str> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
            format!("there is no bug `{text}` to put back; there are {}", names.join(", "))
        })
    }
}

/// Whether this bug is put back, for this thread.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is_on(mutation: Mutation) -> bool {
    switch::ON.get() == Some(mutation)
}

#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn is_on(_: Mutation) -> bool {
    false
}

/// Runs with a bug put back, on this thread; what runs on others is as it was. The run must not unwind.
///
/// # Panics
/// If there is a bug to put back, and the program was built without any.
pub fn with<T>(mutation: Option<Mutation>, run: impl FnOnce() -> T) -> T {
    #[cfg(feature = "mutants")]
    let before = switch::ON.replace(mutation);
    #[cfg(not(feature = "mutants"))]
    assert_eq!(mutation, None, "built without the feature `mutants`");
    let result = run();
    #[cfg(feature = "mutants")]
    switch::ON.set(before);
    result
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        pub(super) static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_on_unless_it_is_asked_for() {
        assert!(Mutation::ALL.iter().all(|mutation| !is_on(*mutation)));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn one_is_on_while_it_is_asked_for_and_on_no_other_thread() {
        with(Some(Mutation::UnsortedQuorum), || {
            assert!(is_on(Mutation::UnsortedQuorum) && !is_on(Mutation::LateCompletion));
            let elsewhere = std::thread::spawn(|| is_on(Mutation::UnsortedQuorum)).join();
            assert!(!elsewhere.expect("it ends"));
        });
        assert!(!is_on(Mutation::UnsortedQuorum));
    }
}
