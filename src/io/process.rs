//! What the operating system says of this process and its host.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::time::Duration;

/// Processor time that this process used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub user: Duration,
    pub system: Duration,
}

/// The host as `uname` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub os_version: String,
    pub machine: String,
}

#[must_use]
pub fn usage() -> Usage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a valid place for an rusage for the length of the call.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage of oneself can't fail");
    // SAFETY: zeroed is a valid rusage, and the call filled it in.
    let usage = unsafe { usage.assume_init() };
    Usage { user: duration(usage.ru_utime), system: duration(usage.ru_stime) }
}

/// Bytes of physical memory that this process takes; 0 where the system does not say.
#[must_use]
pub fn resident_bytes() -> u64 {
    // SAFETY: the call takes a number and gives one.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages.saturating_mul(page)
}

fn duration(time: libc::timeval) -> Duration {
    let micros = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_usec);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[must_use]
pub fn host() -> Host {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `names` is a valid place for a utsname for the length of the call.
    let result = unsafe { libc::uname(names.as_mut_ptr()) };
    assert_eq!(result, 0, "uname can't fail");
    // SAFETY: zeroed is a valid utsname, and the call filled it in.
    let names = unsafe { names.assume_init() };
    // SAFETY: uname ends each name with a zero within its array.
    let text = |name: &[libc::c_char]| unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    Host { name: text(&names.nodename), os_version: text(&names.version), machine: text(&names.machine) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_used_some_time_on_a_host_with_a_name() {
        let mut sum = 0u64;
        while usage().user + usage().system < Duration::from_millis(1) {
            sum = sum.wrapping_add(1);
        }
        assert!(resident_bytes() > 1 << 20, "{}", resident_bytes());
        assert!(!host().name.is_empty() && !host().machine.is_empty());
    }
}
