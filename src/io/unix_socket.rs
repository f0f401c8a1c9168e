//! Unix sockets: listening with a mode from the start on, and paths of any length.
//!
//! It must never remove anything that is not a socket.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// `sun_path` of a socket address holds so many bytes and a final NUL.
pub const PATH_BYTES_MAX: usize = 107;

/// The address of a path. A path that is too long for one is named by way of its directory, which stays open as long
/// as this lives.
struct PathAddress {
    address: SockAddr,
    _directory: Option<File>,
}

impl PathAddress {
    fn of(path: &Path) -> io::Result<PathAddress> {
        if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
            return Ok(PathAddress { address: SockAddr::unix(path)?, _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory =
            fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(parent)?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(PathAddress { address: SockAddr::unix(short)?, _directory: Some(directory) })
    }
}

/// Listens at `path`, where nothing may be. `mode`: the permissions of the socket; without one, those that the umask leaves.
///
/// # Errors
/// Something is there, or the socket cannot be made.
pub fn listen(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let socket = match mode {
        None => socket,
        // Linux makes the file with the permissions of the socket, less the umask: at no time may more users connect.
        Some(mode) => {
            let file = File::from(OwnedFd::from(socket));
            file.set_permissions(Permissions::from_mode(mode))?;
            Socket::from(OwnedFd::from(file))
        }
    };
    socket.bind(&PathAddress::of(path)?.address)?;
    if let Some(mode) = mode {
        // The umask may have taken some.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    Ok(socket)
}

/// Connects to the socket at `path`. The call returns at once: a listener whose backlog is full refuses (`WouldBlock`).
///
/// # Errors
/// Nobody listens there.
pub fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&PathAddress::of(path)?.address)?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Whether there is a socket at `path`.
///
/// # Errors
/// Something else is there, or nobody may look.
pub fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
        Ok(_) => {
            let text = format!("{} exists and is not a socket", path.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_has_its_mode_whatever_the_umask_is() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let path = directory.path().join(format!("{mode:o}"));
            let _socket = listen(&path, Some(mode), 1).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn a_path_longer_than_an_address_holds_is_listened_at_and_reached() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&long).unwrap();
        let path = long.join("s");
        assert!(!is_there(&path).unwrap());
        let listener = UnixListener::from(OwnedFd::from(listen(&path, Some(0o600), 1).unwrap()));
        assert!(is_there(&path).unwrap());
        let mut near = UnixStream::from(OwnedFd::from(connect(&path).unwrap()));
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"x").unwrap();
        drop(near);
        let mut came = String::new();
        far.read_to_string(&mut came).unwrap();
        assert_eq!(came, "x");
    }

    #[test]
    fn a_file_is_not_taken_for_a_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "kept").unwrap();
        assert_eq!(is_there(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(listen(&path, None, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
