//! Sizes and times with their units, as people write them: `16MiB`, `50ms`. A number alone counts what
//! the key counts.

/// What a number of a key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Milliseconds,
    /// Something that has no units: connections, a percentage.
    Plain,
}

impl Unit {
    /// By the name that the table of keys has for it.
    pub(super) fn of(name: &str) -> Unit {
        match name {
            "bytes" => Unit::Bytes,
            "milliseconds" => Unit::Milliseconds,
            _ => Unit::Plain,
        }
    }
}

/// Why a text is no number. Empty where there is nothing to add to "must be 1 to 9 (bytes)".
pub(super) type Why = String;

/// The number that a text says, in the unit of its key.
///
/// # Errors
/// It is no number, an ambiguous one, or one that no 64 bits hold.
pub(super) fn parse(text: &str, unit: Unit) -> Result<u64, Why> {
    let digits_end = text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let (number, suffix) = (&text[..digits_end], text[digits_end..].trim_start());
    let number = whole(number)?;
    let Some(each) = worth(suffix, unit).map_err(|why| format!("`{text}` {why}"))? else { return Err(Why::new()) };
    number.checked_mul(each).ok_or_else(|| format!("`{text}` is more than 64 bits hold"))
}

/// Digits, with underscores between them.
pub(super) fn whole(text: &str) -> Result<u64, Why> {
    let digits = text.replace('_', "");
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        let decimal = digits.trim_start_matches('0');
        let decimal = if decimal.is_empty() { "0" } else { decimal };
        return Err(format!("a number with a leading zero is octal to some and decimal to others: write {decimal}"));
    }
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !text.starts_with(|c: char| c != '_') {
        return Err(Why::new());
    }
    digits.parse().map_err(|_| format!("`{text}` is more than 64 bits hold"))
}

/// How many of the key's unit one of the suffix is; none where it is no unit of that kind.
fn worth(suffix: &str, unit: Unit) -> Result<Option<u64>, &'static str> {
    const AMBIGUOUS_BYTES: &str = "may count in thousands or in 1024s: write KiB, MiB, GiB or TiB, or all digits";
    const AMBIGUOUS_TIME: &str = "may mean milliseconds or minutes: write ms or min";
    const TOO_FINE: &str = "is finer than a millisecond";
    Ok(Some(match (unit, suffix) {
        (_, "") | (Unit::Bytes, "B") | (Unit::Milliseconds, "ms") => 1,
        (Unit::Bytes, "KiB") => 1 << 10,
        (Unit::Bytes, "MiB") => 1 << 20,
        (Unit::Bytes, "GiB") => 1 << 30,
        (Unit::Bytes, "TiB") => 1 << 40,
        (Unit::Milliseconds, "s") => 1000,
        (Unit::Milliseconds, "min") => 60_000,
        (Unit::Milliseconds, "h") => 3_600_000,
        (Unit::Milliseconds, "m" | "M") => return Err(AMBIGUOUS_TIME),
        (Unit::Milliseconds, "us" | "µs" | "μs" | "ns") => return Err(TOO_FINE),
        (Unit::Bytes, other) if is_ambiguous_size(other) => return Err(AMBIGUOUS_BYTES),
        _ => return Ok(None),
    }))
}

/// `M`, `MB`, `mb`: to some 1,000,000, to others 1,048,576; and bits may be meant.
fn is_ambiguous_size(suffix: &str) -> bool {
    let letters = suffix.to_ascii_lowercase();
    let prefix = letters.strip_suffix('b').unwrap_or(&letters);
    matches!(prefix.strip_suffix('i').unwrap_or(prefix), "" | "k" | "m" | "g" | "t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_take_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("65_536", 65_536),
            ("7B", 7),
            ("64KiB", 65_536),
            ("16MiB", 16 << 20),
            ("16 MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse(text, Unit::Bytes), Ok(bytes), "{text}");
        }
        for (text, milliseconds) in
            [("50", 50), ("50ms", 50), ("1s", 1000), ("10 s", 10_000), ("2min", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text, Unit::Milliseconds), Ok(milliseconds), "{text}");
        }
        assert_eq!(parse("20", Unit::Plain), Ok(20));
    }

    #[test]
    fn what_may_mean_two_things_is_refused_and_says_what_to_write() {
        for text in ["16M", "16MB", "16mb", "16k", "1KB", "1G", "1gib", "1mib", "1Mb", "3T", "1b"] {
            let why = parse(text, Unit::Bytes).expect_err(text);
            assert_eq!(
                why,
                format!("`{text}` may count in thousands or in 1024s: write KiB, MiB, GiB or TiB, or all digits")
            );
        }
        let why = parse("5m", Unit::Milliseconds).expect_err("ambiguous");
        assert_eq!(why, "`5m` may mean milliseconds or minutes: write ms or min");
        let why = parse("50us", Unit::Milliseconds).expect_err("too fine");
        assert_eq!(why, "`50us` is finer than a millisecond");
        for (text, unit) in
            [("017", Unit::Plain), ("017", Unit::Bytes), ("0_17ms", Unit::Milliseconds), ("00017", Unit::Plain)]
        {
            let why = parse(text, unit).expect_err(text);
            assert_eq!(why, "a number with a leading zero is octal to some and decimal to others: write 17");
        }
        assert_eq!(
            whole("00"),
            Err("a number with a leading zero is octal to some and decimal to others: write 0".into())
        );
    }

    #[test]
    fn what_64_bits_do_not_hold_is_refused() {
        for text in ["18446744073709551616", "16777216TiB", "99999999999999999999KiB"] {
            let why = parse(text, Unit::Bytes).expect_err(text);
            assert!(why.ends_with("is more than 64 bits hold"), "{why}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", "x", "-1", "+1", "1.5MiB", "1e3", "0x1F", "_1", "1 2", "MiB", "1MiBs", "1MiB 2", "10%", "1s500ms", " 1",
        ] {
            for unit in [Unit::Bytes, Unit::Milliseconds, Unit::Plain] {
                assert!(parse(text, unit).is_err(), "{text} {unit:?}");
            }
        }
        assert!(parse("1s", Unit::Bytes).is_err() && parse("1KiB", Unit::Milliseconds).is_err());
        assert!(parse("1KiB", Unit::Plain).is_err() && parse("1ms", Unit::Plain).is_err());
    }
}
