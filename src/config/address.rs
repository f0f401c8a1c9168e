//! Addresses as operators write them: `host:port` or `unix:/path`. Checked in form here, resolved by `io`.

use std::fmt;

/// `host:port` (a name, an IPv4 address, or an IPv6 address in brackets) or `unix:/path`; proven in form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

/// `sun_path` of a Unix socket address holds 108 bytes and a final NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

impl Address {
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.len() > UNIX_PATH_BYTES_MAX {
                return Err(format!("`{text}` is no socket path of 1 to {UNIX_PATH_BYTES_MAX} bytes"));
            }
            return Ok(Address(text.to_owned()));
        }
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("`{text}` is neither host:port nor unix:/path"))?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty()
            || host.contains(|c: char| c.is_whitespace() || c == '/')
            || (host.contains(':') && !bracketed)
        {
            return Err(format!("`{text}` is not host:port (an IPv6 address stands in brackets: [::1]:11300)"));
        }
        if port.starts_with('+') || port.parse::<u16>().is_err() {
            return Err(format!("{port} is not a valid port (0 to 65535)"));
        }
        Ok(Address(text.to_owned()))
    }

    /// The address of a node that has no peers and that nobody dials.
    #[must_use]
    pub fn nowhere() -> Address {
        Address("nowhere:0".to_owned())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_unix(&self) -> bool {
        self.0.starts_with("unix:")
    }

    /// The port, where there is one; 0 lets the system choose.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        if self.is_unix() { None } else { self.0.rsplit_once(':')?.1.parse().ok() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
