//! Lines for systemd's journal: each begins with its priority, as syslog counts them (`<3>` is an error, `<7>` for debugging). Without
//! that the journal takes every line for information, and `journalctl -p err` shows none.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error goes to the journal. systemd names the socket in `JOURNAL_STREAM`, by device and inode; whoever
/// inherits the variable may have redirected standard error since.
pub fn is_standard_error() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(descriptor) = std::io::stderr().as_fd().try_clone_to_owned() else { return false };
    File::from(descriptor).metadata().is_ok_and(|file| names(&named, file.dev(), file.ino()))
}

/// `named`: `device:inode`, in decimal.
fn names(named: &str, device: u64, inode: u64) -> bool {
    named.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// As syslog counts them.
pub fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Each line of a text with its priority in front, and an end.
pub fn with_priority(level: Level, text: &str) -> String {
    text.lines().map(|line| format!("<{}>{line}\n", priority(level))).collect()
}

/// A format of events, with priorities.
pub struct Prioritised<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        writer.write_str(&with_priority(*event.metadata().level(), &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_stream_that_is_named_is_the_journal() {
        assert!(names("9:1234", 9, 1234));
        for named in ["", "9", "9:", "9:12345", "8:1234", "9:1234:5", "a:b"] {
            assert!(!names(named, 9, 1234), "{named}");
        }
    }

    #[test]
    fn every_line_of_a_text_has_its_priority() {
        assert_eq!(with_priority(Level::ERROR, "a\nb\n"), "<3>a\n<3>b\n");
        assert_eq!(with_priority(Level::WARN, "c"), "<4>c\n");
        assert_eq!(with_priority(Level::TRACE, "d"), "<7>d\n");
    }
}
