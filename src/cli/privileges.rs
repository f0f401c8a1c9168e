//! Becoming another user for good, as servers that are started by root do.

use std::ffi::{CStr, CString};
use std::io;

/// Gives up the current user, group and supplementary groups for those of `name`. Called before any thread starts.
///
/// # Errors
/// If there is no such user or the system refuses; nothing may be served then.
pub fn become_user(name: &str) -> Result<(), String> {
    let name = CString::new(name).map_err(|_| "the name holds a NUL".to_owned())?;
    let (user, group) = look_up(&name)?;
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().to_string()) };
    // SAFETY: plain system calls; `name` is NUL-terminated and outlives the call. Groups go first: without root's user
    // they could no longer be changed.
    unsafe {
        check(libc::initgroups(name.as_ptr(), group))?;
        check(libc::setgid(group))?;
        check(libc::setuid(user))
    }
}

fn look_up(name: &CStr) -> Result<(libc::uid_t, libc::gid_t), String> {
    // SAFETY: `getpwnam` is called before any other thread exists, and what it points to is copied at once.
    unsafe {
        let entry = libc::getpwnam(name.as_ptr());
        if entry.is_null() {
            return Err("there is no such user".to_owned());
        }
        Ok(((*entry).pw_uid, (*entry).pw_gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_does_not_exist_cannot_be_become() {
        assert_eq!(become_user("no such user"), Err("there is no such user".to_owned()));
        assert!(become_user("a\0b").is_err());
    }

    #[test]
    fn root_is_found() {
        assert_eq!(look_up(c"root"), Ok((0, 0)));
    }
}
