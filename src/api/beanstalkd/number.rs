//! The two number grammars of the protocol, byte for byte. Neither ever panics or wraps silently where the original
//! does not.

/// Reads a decimal number: spaces, then digits, nothing else in front. Gives it and what follows, or nothing if it
/// does not start with a digit or does not fit.
pub fn read_u64(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = &text[text.iter().take_while(|&&byte| byte == b' ').count()..];
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    Some((decimal(&text[..digits])?, &text[digits..]))
}

/// As [`read_u64`], for numbers of 32 bits.
pub fn read_u32(text: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = read_u64(text)?;
    Some((u32::try_from(number).ok()?, rest))
}

/// What C's `strtoul` followed by a cut to 32 bits makes of a text: white space and a sign are tolerated, as is
/// anything behind the digits, and a minus sign negates modulo 2^64. `kick` alone is read like this.
pub fn read_like_strtoul(text: &[u8]) -> Option<u32> {
    let spaces = text.iter().take_while(|&&byte| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')).count();
    let text = &text[spaces..];
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let number = decimal(&text[..digits])?;
    let number = if negative { number.wrapping_neg() } else { number };
    #[expect(clippy::cast_possible_truncation, reason = "the original cuts the number to 32 bits")]
    Some(number as u32)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_starts_with_a_digit_behind_spaces_only() {
        assert_eq!(read_u64(b"12 3"), Some((12, &b" 3"[..])));
        assert_eq!(read_u64(b"  7x"), Some((7, &b"x"[..])));
        assert_eq!(read_u64(b"007"), Some((7, &b""[..])));
        for bad in [&b""[..], b" ", b"-1", b"+1", b"\t1", b"x"] {
            assert_eq!(read_u64(bad), None);
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        assert_eq!(read_u64(b"18446744073709551615"), Some((u64::MAX, &b""[..])));
        assert_eq!(read_u64(b"18446744073709551616"), None);
        assert_eq!(read_u32(b"4294967295"), Some((u32::MAX, &b""[..])));
        assert_eq!(read_u32(b"4294967296"), None);
        assert_eq!(read_u64(&[b'9'; 200]), None);
    }

    #[test]
    fn a_kick_bound_is_read_as_strtoul_does() {
        assert_eq!(read_like_strtoul(b" \t+5xyz"), Some(5));
        assert_eq!(read_like_strtoul(b"-1"), Some(u32::MAX));
        assert_eq!(read_like_strtoul(b"4294967296"), Some(0));
        assert_eq!(read_like_strtoul(b"-18446744073709551616"), None);
        assert_eq!(read_like_strtoul(b"- 1"), None);
        assert_eq!(read_like_strtoul(b""), None);
    }
}
