//! Sockets that a service manager has opened for this process (`LISTEN_FDS`, see sd_listen_fds(3)): clients come from these,
//! and from no others.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::config::{Draft, Key};
use crate::fatal::Fatal;
use crate::io::uring::BoundSocket;

/// Who is named as having set the addresses of clients.
const ORIGIN: &str = "LISTEN_FDS";

/// The sockets that were passed to this process; none where it was started in any other way. To be asked once.
///
/// # Errors
/// One of the descriptors is nothing that clients can be accepted from.
pub fn sockets() -> Result<Vec<BoundSocket>, Fatal> {
    let refused = |descriptor: String, why: io::Error| Fatal::PortTaken {
        address: format!("{descriptor} of {ORIGIN}"),
        purpose: "clients",
        why: why.to_string(),
    };
    let descriptors = sd_notify::listen_fds().map_err(|why| refused("the descriptors".to_owned(), why))?;
    let inherit = |descriptor| {
        // SAFETY: the service manager has opened it for this process, sd_notify has found it open, and nobody else here takes it.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        BoundSocket::inherit(owned).map_err(|why| refused(format!("descriptor {descriptor}"), why))
    };
    descriptors.map(inherit).collect()
}

pub fn addresses(sockets: &[BoundSocket]) -> Vec<String> {
    sockets.iter().map(|socket| socket.address().to_owned()).collect()
}

/// Lays the addresses of the sockets over what is configured.
pub fn lay_over(draft: &mut Draft, addresses: &[String]) {
    if addresses.is_empty() {
        return;
    }
    let key = Key::find("clients").expect("the key is in the table");
    draft.override_with_flag(key, ORIGIN, addresses.join(","));
}
