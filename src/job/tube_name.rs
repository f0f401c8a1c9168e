//! Names of tubes, and lists of them as commands carry them: one length byte and the name, for each.

use super::codec::Fault;
use super::command::TubeList;

/// The longest tube name, in bytes.
pub const TUBE_NAME_BYTES_MAX: usize = 200;

/// Whether clients may call a tube so: 1 to 200 bytes of letters, digits and `-+/;.$_()`, no hyphen in front.
#[must_use]
pub fn tube_name_is_legal(name: &[u8]) -> bool {
    tube_name_has_legal_length(name) && name[0] != b'-' && name.iter().copied().all(tube_name_byte_is_legal)
}

/// Whether the byte may stand in a tube name, if not in every place.
#[must_use]
pub fn tube_name_byte_is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-+/;.$_()".contains(&byte)
}

fn tube_name_has_legal_length(name: &[u8]) -> bool {
    (1..=TUBE_NAME_BYTES_MAX).contains(&name.len())
}

/// A name that came from within: front doors refuse others.
pub(super) fn checked_tube(tube: &[u8]) -> &[u8] {
    assert!(tube_name_has_legal_length(tube), "a tube name has 1 to 200 bytes");
    tube
}

/// A name that came from outside.
pub(super) fn decode_tube(name: &[u8]) -> Result<&[u8], Fault> {
    tube_name_has_legal_length(name).then_some(name).ok_or(Fault::TubeName)
}

/// Tube names as a [`TubeList`] holds them, in the order given.
///
/// # Panics
/// If a name is empty or longer than 200 bytes.
#[must_use]
pub fn encode_tubes<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for name in names {
        encoded.push(u8::try_from(checked_tube(name).len()).expect("at most 200"));
        encoded.extend_from_slice(name);
    }
    encoded
}

impl<'a> TubeList<'a> {
    /// Proves the lengths of an encoded list.
    pub fn decode(encoded: &'a [u8]) -> Result<TubeList<'a>, Fault> {
        let mut rest = encoded;
        while let Some((&length, behind)) = rest.split_first() {
            let (name, behind) = behind.split_at_checked(length.into()).ok_or(Fault::WrongLength)?;
            decode_tube(name)?;
            rest = behind;
        }
        Ok(TubeList { encoded })
    }

    /// The names, in order. Ends early where the list was not proven and its lengths are wrong.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.encoded;
        std::iter::from_fn(move || {
            let (&length, behind) = rest.split_first()?;
            let (name, behind) = behind.split_at_checked(length.into())?;
            rest = behind;
            Some(name)
        })
    }
}
