//! Limits of what is said again and again: of one kind of line, about one peer, shard or address, so many pass in a minute. The rest
//! is counted, and the count is a line of its own when the minute is over.
//!
//! Lines for debugging pass always: who asks for them wants all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::metrics::Counter;

const WINDOW: Duration = Duration::from_secs(60);

/// Lines of one kind about one thing that pass within a window.
const LINES_MAX: u32 = 10;

/// Different things that one kind of line may be about at a time; those beyond that share a limit. Whoever has many addresses
/// must not get many lines by that, nor memory.
const SUBJECTS_MAX: usize = 256;

/// Fields that say what a line is about.
const SUBJECTS: [&str; 4] = ["from", "peer", "shard", "file"];

#[derive(Debug)]
pub struct Limits {
    state: Mutex<State>,
    suppressed: Counter,
}

#[derive(Debug, Default)]
struct State {
    kinds: HashMap<Identifier, HashMap<String, Window>>,
    /// Whom to wake when the first line is held back.
    summariser: Option<Thread>,
}

#[derive(Debug)]
struct Window {
    ends: Instant,
    level: Level,
    passed: u32,
    held_back: u64,
    /// The first line that was held back.
    example: String,
}

/// Lines of one kind that did not pass.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    level: Level,
    /// `name=value` of the fields that say what the lines are about.
    subject: String,
    count: u64,
    example: String,
}

impl Limits {
    pub fn new(suppressed: Counter) -> Limits {
        Limits { state: Mutex::default(), suppressed }
    }

    /// Starts the thread that says what was held back.
    pub fn summarise(self: Arc<Limits>) {
        let limits = Arc::clone(&self);
        let started = thread::Builder::new().name("log limits".to_owned()).spawn(move || {
            loop {
                match limits.next_due() {
                    Some(due) => thread::park_timeout(due.saturating_duration_since(Instant::now())),
                    None => thread::park(),
                }
                for summary in limits.take_due(Some(Instant::now())) {
                    summary.tell();
                }
            }
        });
        // Without it the counts come with the end of the process, and are in the metrics before.
        self.state().summariser = started.ok().map(|handle| handle.thread().clone());
    }

    /// Says now what was held back.
    pub fn tell_all(&self) {
        for summary in self.take_due(None) {
            summary.tell();
        }
    }

    fn let_pass(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        // What this module says is limited by what it counts.
        if *metadata.level() > Level::INFO || metadata.target() == module_path!() {
            return true;
        }
        let mut subject = Subject::default();
        event.record(&mut subject);
        self.admit(metadata.callsite(), *metadata.level(), subject.0, Instant::now(), || text_of(event))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line of this kind about this subject passes.
    fn admit(
        &self,
        kind: Identifier,
        level: Level,
        subject: String,
        now: Instant,
        example: impl FnOnce() -> String,
    ) -> bool {
        let mut state = self.state();
        let subjects = state.kinds.entry(kind).or_default();
        if subjects.len() >= SUBJECTS_MAX && !subjects.contains_key(&subject) {
            // A window that is over and held nothing back is no use any more.
            subjects.retain(|_, window| window.held_back > 0 || window.ends > now);
        }
        let subject = if subjects.len() >= SUBJECTS_MAX && !subjects.contains_key(&subject) {
            "others".to_owned()
        } else {
            subject
        };
        let ends = now + WINDOW;
        let new = Window { ends, level, passed: 0, held_back: 0, example: String::new() };
        let window = match subjects.entry(subject) {
            Entry::Vacant(entry) => entry.insert(new),
            Entry::Occupied(entry) => {
                let window = entry.into_mut();
                if window.ends <= now && window.held_back == 0 {
                    *window = new;
                }
                window
            }
        };
        if window.passed < LINES_MAX {
            window.passed += 1;
            return true;
        }
        window.held_back += 1;
        self.suppressed.inc();
        if window.held_back == 1 {
            window.example = example();
            if let Some(summariser) = &state.summariser {
                summariser.unpark();
            }
        }
        false
    }

    /// When the next summary is to be told.
    fn next_due(&self) -> Option<Instant> {
        let state = self.state();
        let windows = state.kinds.values().flat_map(HashMap::values);
        windows.filter(|window| window.held_back > 0).map(|window| window.ends).min()
    }

    /// What was held back in windows that are over at this time; or in all.
    fn take_due(&self, now: Option<Instant>) -> Vec<Summary> {
        let mut state = self.state();
        let mut due = Vec::new();
        for subjects in state.kinds.values_mut() {
            subjects.retain(|subject, window| {
                let is_over = now.is_none_or(|now| window.ends <= now);
                if is_over && window.held_back > 0 {
                    due.push(Summary {
                        level: window.level,
                        subject: subject.clone(),
                        count: window.held_back,
                        example: std::mem::take(&mut window.example),
                    });
                }
                !is_over
            });
        }
        due
    }
}

impl Summary {
    fn tell(&self) {
        let Summary { subject, count, example, .. } = self;
        let about = if subject.is_empty() { String::new() } else { format!(" about {subject}") };
        // Of a macro's levels none can be chosen while the program runs.
        match self.level {
            Level::ERROR => tracing::error!("{count} more lines{about} within a minute, like: {example}"),
            Level::WARN => tracing::warn!("{count} more lines{about} within a minute, like: {example}"),
            _ => tracing::info!("{count} more lines{about} within a minute, like: {example}"),
        }
    }
}

/// A format that leaves out the lines that do not pass. A filter of the subscriber's would be asked before others have
/// had their say, and one that refuses a single event leaves the subscriber's own bookkeeping behind.
pub struct Limited<F> {
    pub limits: Arc<Limits>,
    pub format: F,
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.limits.let_pass(event) { self.format.format_event(context, writer, event) } else { Ok(()) }
    }
}

/// The fields that say what an event is about.
#[derive(Default)]
struct Subject(String);

impl Visit for Subject {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if SUBJECTS.contains(&field.name()) {
            let space = if self.0.is_empty() { "" } else { " " };
            let _ = write!(self.0, "{space}{}={value:?}", field.name());
        }
    }
}

/// The message of an event, with its other fields behind it.
fn text_of(event: &Event<'_>) -> String {
    #[derive(Default)]
    struct Text {
        message: String,
        fields: String,
    }
    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            let _ = match field.name() {
                "message" => write!(self.message, "{value:?}"),
                name => write!(self.fields, " {name}={value:?}"),
            };
        }
    }
    let mut text = Text::default();
    event.record(&mut text);
    text.message + &text.fields
}

#[cfg(test)]
mod tests {
    use tracing::Metadata;

    use super::*;

    fn kind() -> Identifier {
        static SITE: tracing::callsite::DefaultCallsite = {
            static META: Metadata<'static> = tracing::metadata! {
                name: "test",
                target: "test",
                level: Level::WARN,
                fields: &[],
                callsite: &SITE,
                kind: tracing::metadata::Kind::EVENT
            };
            tracing::callsite::DefaultCallsite::new(&META)
        };
        tracing::callsite::Identifier(&SITE)
    }

    fn say(limits: &Limits, subject: &str, times: usize, now: Instant) -> usize {
        let admit = |n: usize| limits.admit(kind(), Level::WARN, subject.to_owned(), now, || format!("line {n}"));
        (0..times).filter(|&n| admit(n)).count()
    }

    #[test]
    fn twenty_thousand_lines_of_one_kind_are_ten_and_a_count_in_each_minute() {
        let (limits, start) = (Limits::new(Counter::default()), Instant::now());
        assert_eq!(limits.next_due(), None);
        assert_eq!(say(&limits, "from=a", 20_000, start), 10);
        assert_eq!(limits.next_due(), Some(start + WINDOW));
        assert_eq!(limits.take_due(Some(start + WINDOW / 2)), []);
        let summaries = limits.take_due(Some(start + WINDOW));
        let [Summary { level, subject, count, example }] = &summaries[..] else { panic!("one: {summaries:?}") };
        assert_eq!((*level, subject.as_str(), *count, example.as_str()), (Level::WARN, "from=a", 19_990, "line 10"));
        assert_eq!(limits.suppressed.get(), 19_990);
        assert_eq!((limits.next_due(), limits.take_due(None)), (None, Vec::new()));
        assert_eq!(say(&limits, "from=a", 20, start + WINDOW), 10, "a new minute");
    }

    #[test]
    fn who_is_loud_silences_nobody_else() {
        let (limits, now) = (Limits::new(Counter::default()), Instant::now());
        assert_eq!(say(&limits, "from=a", 100, now), 10);
        assert_eq!(say(&limits, "from=b", 100, now), 10);
        assert_eq!(limits.take_due(None).len(), 2);
    }

    #[test]
    fn whoever_has_many_addresses_gets_neither_many_lines_nor_memory() {
        let (limits, now) = (Limits::new(Counter::default()), Instant::now());
        let passed: usize = (0..20_000).map(|n| say(&limits, &format!("from={n}"), 1, now)).sum();
        assert_eq!(passed, SUBJECTS_MAX + LINES_MAX as usize);
        let kept = |limits: &Limits| limits.state().kinds.values().map(HashMap::len).sum::<usize>();
        assert_eq!(kept(&limits), SUBJECTS_MAX + 1);
        // A minute later those that held nothing back give way.
        assert_eq!(say(&limits, "from=late", 1, now + WINDOW), 1);
        assert_eq!(kept(&limits), 2, "the late one, and the others' count");
        assert_eq!(limits.take_due(None).len(), 1);
    }
}
