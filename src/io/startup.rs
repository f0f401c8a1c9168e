//! What must hold before a node may start, each found out by trying it, each told in one sentence.
//!
//! It must never let a node start on a medium that forgets, or fail later for a limit that could be seen now.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{AlignedBuf, BLOCK_BYTES, is_full};

/// The bulk thread and a few cores run with 1 MiB and not with 512 KiB, where rings count (without CAP_IPC_LOCK).
const LOCKED_BYTES_MIN: u64 = 2 << 20;

/// With this much, glommio can register its 512 KiB with its three rings wherever they lie: the kernel
/// counts whole huge pages (2 MiB), of which they may touch two, once for each ring, so up to 12 MiB. With
/// the 8 MiB that Linux gives, some starts register them and some do not.
const LOCKED_BYTES_EASY: u64 = 16 << 20;

/// Descriptors without which a node cannot serve, beside those it keeps for itself: a few clients.
const CLIENT_FILES_MIN: u64 = 64;

#[derive(Debug, Error)]
pub enum StartupError {
    #[error("Linux {release} answers that it has no io_uring (6.1 or later is needed, with CONFIG_IO_URING); {filter}")]
    NoUring { release: String, filter: Filter },
    #[error("io_uring is switched off: set the sysctl kernel.io_uring_disabled to 0 (it is {0})")]
    UringDisabled(String),
    #[error("io_uring is not permitted here; {0}")]
    UringNotPermitted(Filter),
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

/// Whether system calls are filtered before the kernel looks at them, and may be answered with anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    InForce,
    Absent,
    Unknown,
}

impl Filter {
    /// Of this thread: `Seccomp` is 0 without a filter, 1 where next to nothing is allowed, 2 with one.
    fn of_this_thread() -> Filter {
        match own_status("Seccomp").as_deref() {
            Some("0") => Filter::Absent,
            Some(_) => Filter::InForce,
            None => Filter::Unknown,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALLOW: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the container's or the unit's \
                             filter";
        match self {
            Filter::InForce => write!(
                formatter,
                "system calls of this process are filtered (Seccomp in /proc/self/status is not 0), so the filter may \
                 have answered, not the kernel: {ALLOW}"
            ),
            Filter::Absent => {
                write!(formatter, "system calls of this process are not filtered (Seccomp in /proc/self/status is 0)")
            }
            Filter::Unknown => write!(
                formatter,
                "system calls may be filtered, as containers do (see Seccomp in /proc/self/status: 0 is no filter): \
                 {ALLOW}"
            ),
        }
    }
}

/// What the kernel says of this thread under `name`.
fn own_status(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/thread-self/status").ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim().to_owned())
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
        Some(libc::ENOSYS) => {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
            StartupError::NoUring { release, filter: Filter::of_this_thread() }
        }
        Some(libc::EPERM | libc::EACCES) => match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
            Ok(value) if value.trim() != "0" => StartupError::UringDisabled(value.trim().to_owned()),
            _ => StartupError::UringNotPermitted(Filter::of_this_thread()),
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
    if have < LOCKED_BYTES_EASY && !may_lock_all() {
        tracing::info!(
            "this process may lock {have} bytes of memory: enough, but its bulk thread may have to write without registered \
             buffers, which takes a little more processor time; it need not with {LOCKED_BYTES_EASY} (LimitMEMLOCK in its \
             unit, or `ulimit -l`)"
        );
    }
    let have = raise(libc::RLIMIT_NOFILE).map_err(StartupError::Limits)?;
    let needed = kept + CLIENT_FILES_MIN;
    if have < needed {
        return Err(StartupError::TooFewFiles { have, needed });
    }
    Ok(have - kept)
}

/// Whether the limit of locked memory does not count for this process.
fn may_lock_all() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let effective = own_status("CapEff").and_then(|value| u64::from_str_radix(&value, 16).ok());
    effective.is_some_and(|effective| effective & (1 << CAP_IPC_LOCK) != 0)
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

/// What stands at the path of a data directory, before anything is changed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupancy {
    Nothing,
    NotADirectory,
    /// It is empty but for what starts that went no further leave behind.
    Empty,
    /// One of its files is there that only a data directory has.
    Ours,
    /// The log of a beanstalkd: one of its files.
    Binlog {
        file: String,
    },
    /// Of something else: some of the names in it, in order.
    Foreign {
        holds: String,
    },
}

/// So many names are told of a directory that holds something else.
const NAMES_TOLD_MAX: usize = 3;

/// Looks at a data directory and changes nothing. `is_ours`: whether only a data directory of ours has a
/// file of this name; `is_tolerated`: whether one may be there before it is prepared.
///
/// # Errors
///
/// It cannot be looked at.
pub fn look_at(
    directory: &Path,
    is_ours: impl Fn(&str) -> bool,
    is_tolerated: impl Fn(&str) -> bool,
) -> io::Result<Occupancy> {
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupancy::Nothing),
        // A file stands where one of the directories above it should be.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Occupancy::Nothing),
        Err(error) => return Err(error),
        Ok(found) if !found.is_dir() => return Ok(Occupancy::NotADirectory),
        Ok(_) => {}
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names.iter().any(|name| is_ours(name)) {
        return Ok(Occupancy::Ours);
    }
    if let Some(file) = names.iter().find(|name| is_binlog(name)) {
        return Ok(Occupancy::Binlog { file: file.clone() });
    }
    names.retain(|name| !is_tolerated(name));
    let more = names.len().saturating_sub(NAMES_TOLD_MAX);
    let mut holds = names.iter().take(NAMES_TOLD_MAX).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        holds.push_str(&format!(" and {more} more"));
    }
    Ok(if names.is_empty() { Occupancy::Empty } else { Occupancy::Foreign { holds } })
}

/// `binlog.1`: what beanstalkd calls the files of its log.
fn is_binlog(name: &str) -> bool {
    name.strip_prefix("binlog.").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
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

/// A seccomp filter as containers have them, for tests.
#[cfg(test)]
pub(super) mod filtered {
    /// One call is answered with an error from now on, for this thread and those that it makes.
    pub(in crate::io) fn filter_call(number: libc::c_long, errno: libc::c_int) {
        let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
        let number = u32::try_from(number).unwrap();
        let mut steps = [
            // The number of the call is the first word of what a filter sees.
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        // SAFETY: no pointers.
        let may_filter = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: `filter` is a valid program for the length of the call, which copies it.
        let filters = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        assert_eq!((may_filter, filters), (0, 0), "{}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::filtered::filter_call;
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
        assert!(matches!(why(libc::ENOSYS), StartupError::NoUring { .. }));
        assert!(matches!(why(libc::EPERM), StartupError::UringNotPermitted(_) | StartupError::UringDisabled(_)));
        assert!(matches!(why(libc::ENOMEM), StartupError::TooLittleLockedMemory { .. }));
        assert!(matches!(why(libc::EIO), StartupError::UringBroken(_)));
    }

    #[test]
    fn c6_a_filter_that_hides_io_uring_is_told_from_a_kernel_without_it() {
        for (errno, says) in [(libc::ENOSYS, "has no io_uring"), (libc::EPERM, "is not permitted here")] {
            let told = std::thread::spawn(move || {
                filter_call(libc::SYS_io_uring_setup, errno);
                check_uring().unwrap_err().to_string()
            });
            let told = told.join().unwrap();
            assert!(told.contains(says), "{told}");
            assert!(told.contains("Seccomp in /proc/self/status is not 0"), "{told}");
            assert!(told.contains("allow io_uring_setup"), "{told}");
        }
    }

    #[test]
    fn c6_without_a_filter_nobody_is_sent_to_look_for_one() {
        let told = Filter::Absent.to_string();
        assert!(told.contains("are not filtered") && !told.contains("allow"), "{told}");
        let told = Filter::Unknown.to_string();
        assert!(told.contains("may be filtered") && told.contains("/proc/self/status"), "{told}");
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
