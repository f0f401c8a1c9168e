//! What must hold before a node may start, each found out by trying it, each told in one sentence.
//!
//! It must never let a node start on a medium that forgets, or fail later for a limit that could be seen now.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{AlignedBuf, BLOCK_BYTES, is_full};

/// The bulk thread and a few cores run with 1 MiB and not with 512 KiB, where rings count (without CAP_IPC_LOCK).
const LOCKED_BYTES_MIN: u64 = 2 << 20;

/// Descriptors without which a node cannot serve, beside those it keeps for itself: a few clients.
const CLIENT_FILES_MIN: u64 = 64;

#[derive(Debug, Error)]
pub enum StartupError {
    #[error("this kernel has no io_uring; Linux 6.1 or later is needed")]
    NoUring,
    #[error("io_uring is switched off: set the sysctl kernel.io_uring_disabled to 0 (it is {0})")]
    UringDisabled(String),
    #[error(
        "io_uring is not permitted here; a container or a service manager filters system calls \
         (allow io_uring_setup, io_uring_enter and io_uring_register)"
    )]
    UringNotPermitted,
    #[error("io_uring does not work: {0}")]
    UringBroken(io::Error),
    #[error(
        "this process may lock {have} bytes of memory and needs {LOCKED_BYTES_MIN}; raise LimitMEMLOCK in its unit, \
         or `ulimit -l`"
    )]
    TooLittleLockedMemory { have: u64 },
    #[error(
        "this process may open {have} files and needs at least {needed}; raise LimitNOFILE in its unit, or `ulimit -n`"
    )]
    TooFewFiles { have: u64, needed: u64 },
    #[error("cannot read the limits of this process: {0}")]
    Limits(io::Error),
    #[error("{0} is on a file system in memory (tmpfs); nothing there survives a power cut")]
    InMemory(PathBuf),
    #[error("the file system of {0} refuses direct I/O; put the data directory on ext4 or XFS")]
    NoDirectIo(PathBuf),
    #[error("cannot write to {path}: {error}")]
    NotWritable { path: PathBuf, error: io::Error },
}

/// Tries io_uring by making a ring and sending one operation through it.
///
/// # Errors
///
/// What is in the way, and what to do about it.
pub fn check_uring() -> Result<(), StartupError> {
    io_uring::IoUring::new(8).and_then(|mut ring| round_trip(&mut ring)).map_err(why_no_uring)
}

fn round_trip(ring: &mut io_uring::IoUring) -> io::Result<()> {
    // SAFETY: the entry holds no address.
    unsafe { ring.submission().push(&io_uring::opcode::Nop::new().build()) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(completion) if completion.result() >= 0 => Ok(()),
        Some(completion) => Err(io::Error::from_raw_os_error(-completion.result())),
        None => Err(io::Error::other("an operation did not complete")),
    }
}

fn why_no_uring(error: io::Error) -> StartupError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => StartupError::NoUring,
        Some(libc::EPERM | libc::EACCES) => match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
            Ok(value) if value.trim() != "0" => StartupError::UringDisabled(value.trim().to_owned()),
            _ => StartupError::UringNotPermitted,
        },
        Some(libc::ENOMEM) => match raise(libc::RLIMIT_MEMLOCK) {
            Ok(have) => StartupError::TooLittleLockedMemory { have },
            Err(_) => StartupError::UringBroken(error),
        },
        _ => StartupError::UringBroken(error),
    }
}

/// Raises the limits of locked memory and of open files as far as this process may.
///
/// # Returns
///
/// How many files it may open beside those that are `kept`.
///
/// # Errors
///
/// They are too low all the same.
pub fn raise_limits(kept: u64) -> Result<u64, StartupError> {
    let have = raise(libc::RLIMIT_MEMLOCK).map_err(StartupError::Limits)?;
    if have < LOCKED_BYTES_MIN {
        return Err(StartupError::TooLittleLockedMemory { have });
    }
    let have = raise(libc::RLIMIT_NOFILE).map_err(StartupError::Limits)?;
    let needed = kept + CLIENT_FILES_MIN;
    if have < needed {
        return Err(StartupError::TooFewFiles { have, needed });
    }
    Ok(have - kept)
}

/// Raises a soft limit to its hard one and returns it.
fn raise(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is a valid limit; a refusal leaves the old one in force.
        if unsafe { libc::setrlimit(resource, &raw const raised) } == 0 {
            return Ok(raised.rlim_cur);
        }
    }
    Ok(limit.rlim_cur)
}

/// Tries the data directory by writing one block to it directly and synchronously. A full disk passes: that it refuses a block says
/// nothing against it, and a node that is started on it makes room.
///
/// # Errors
///
/// Why it cannot hold a log.
pub fn check_directory(directory: &Path) -> Result<(), StartupError> {
    let failed = |error| StartupError::NotWritable { path: directory.to_owned(), error };
    // Since Linux 6.6 a tmpfs takes O_DIRECT and means nothing by it, so it is asked for by name.
    if file_system_kind(directory).map_err(failed)? == libc::TMPFS_MAGIC {
        return Err(StartupError::InMemory(directory.to_owned()));
    }
    let path = directory.join(format!("probe-{}", std::process::id()));
    let tried = write_directly(&path);
    let removed = fs::remove_file(&path);
    match tried {
        Err(error) if is_full(&error) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(StartupError::NoDirectIo(directory.to_owned()))
        }
        Err(error) => Err(failed(error)),
        Ok(()) => removed.map_err(failed),
    }
}

fn write_directly(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC);
    options.open(path)?.write_all_at(&AlignedBuf::zeroed(BLOCK_BYTES), 0)
}

fn file_system_kind(path: &Path) -> io::Result<libc::c_long> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statfs is a valid one.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte, and `stat` is a valid place for the answer.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_type)
}

/// Bytes that this process may still take on the file system of `path`.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statvfs is a valid one.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte, and `stat` is a valid place for the answer.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether nobody listens on a TCP port yet. Core threads that share a port cannot tell another process that shares it
/// too from one of their own; this asks before the first of them listens.
///
/// # Errors
///
/// The address is in use, or not one of this host.
pub fn check_port(address: &str) -> io::Result<()> {
    use std::net::ToSocketAddrs;
    // Of several addresses of a name, listeners take the first.
    let Some(address) = address.to_socket_addrs()?.next() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no address is known for {address}")));
    };
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // Without reuse-port: this is what makes the question exclusive.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes_and_the_probe_leaves_nothing_behind() {
        check_uring().unwrap();
        let all = raise_limits(0).unwrap();
        assert_eq!(raise_limits(100).unwrap(), all - 100);
        assert!(
            matches!(raise_limits(all), Err(StartupError::TooFewFiles { have, needed }) if have == all && needed > all)
        );
        // Beside the test binary, not in /tmp, which may be a tmpfs.
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        check_directory(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn memory_is_no_place_for_a_log() {
        let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("skipped: there is no /dev/shm here");
            return;
        };
        let error = check_directory(directory.path()).unwrap_err();
        assert!(matches!(error, StartupError::InMemory(_)), "{error}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = check_directory(Path::new("/no/such/directory")).unwrap_err().to_string();
        assert!(error.contains("/no/such/directory"), "{error}");
    }

    #[test]
    fn each_refusal_of_the_kernel_is_told_apart() {
        let why = |number| why_no_uring(io::Error::from_raw_os_error(number));
        assert!(matches!(why(libc::ENOSYS), StartupError::NoUring));
        assert!(matches!(why(libc::EPERM), StartupError::UringNotPermitted | StartupError::UringDisabled(_)));
        assert!(matches!(why(libc::ENOMEM), StartupError::TooLittleLockedMemory { .. }));
        assert!(matches!(why(libc::EIO), StartupError::UringBroken(_)));
    }

    #[test]
    fn a_port_that_somebody_shares_is_not_free() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
        assert_eq!(check_port(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        check_port(&address).unwrap();
    }
}
