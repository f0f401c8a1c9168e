//! What the operating system asks of a running node: to stop, to drain, or to read its configuration again. The first two are told to
//! every core thread that listens.
//!
//! It must never do anything in a signal handler but wake the thread that waits for signals, and never listen to a signal that was
//! ignored when the process started: whoever started it (`nohup`, a shell that puts it in the background) wants it kept from it.

use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

/// What was asked for. The later variants include the earlier: a node that stops takes no new jobs either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Request {
    #[default]
    Serve,
    /// SIGUSR1, as beanstalkd has it: no new jobs, everything else goes on.
    Drain,
    /// SIGTERM or SIGINT: finish what is under way, then end.
    Stop,
    /// A second one of these: end now.
    StopNow,
}

impl Request {
    fn after(self, signal: i32) -> Request {
        match (signal, self) {
            (SIGUSR1, _) => self.max(Request::Drain),
            (_, Request::Serve | Request::Drain) => Request::Stop,
            (_, Request::Stop | Request::StopNow) => Request::StopNow,
        }
    }
}

/// Those of these signals that are not ignored. To be asked before a handler is set.
#[must_use]
pub fn heeded(signals: &[i32]) -> Vec<i32> {
    signals.iter().copied().filter(|&signal| !is_ignored(signal)).collect()
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and `action` is a valid place for what is set now.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, and where the call succeeded it filled it in.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Starts the thread that waits for signals. Each core thread takes a clone of what is returned and awaits `changed`
/// on it: it is woken where it is, whatever its runtime. `reread` runs at SIGHUP, on a thread of its own: the file may be
/// on a disk that hangs, and SIGTERM must be heard all the same.
///
/// # Errors
///
/// A handler cannot be set, or a thread cannot be made.
pub fn requests(reread: impl FnMut() + Send + 'static) -> io::Result<watch::Receiver<Request>> {
    let mut signals = Signals::new(heeded(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1]))?;
    let (told, requests) = watch::channel(Request::default());
    let rereading = start_rereading(reread)?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                // Where one waits already, that one reads what is there now.
                let _ = rereading.try_send(());
            } else {
                told.send_modify(|request| *request = request.after(signal));
            }
        }
    })?;
    Ok(requests)
}

fn start_rereading(mut reread: impl FnMut() + Send + 'static) -> io::Result<SyncSender<()>> {
    let (asking, asked) = sync_channel(1);
    thread::Builder::new().name("reload".to_owned()).spawn(move || {
        for () in asked {
            reread();
        }
    })?;
    Ok(asking)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_only_ever_grows() {
        use Request::{Drain, Serve, Stop, StopNow};
        for (before, signal, after) in [
            (Serve, SIGUSR1, Drain),
            (Serve, SIGTERM, Stop),
            (Drain, SIGUSR1, Drain),
            (Drain, SIGINT, Stop),
            (Stop, SIGUSR1, Stop),
            (Stop, SIGTERM, StopNow),
            (StopNow, SIGINT, StopNow),
        ] {
            assert_eq!(before.after(signal), after);
        }
    }

    #[test]
    fn a_signal_that_is_ignored_is_not_heeded() {
        // No other test of this process has to do with this one.
        let signal = libc::SIGURG;
        assert_eq!(heeded(&[signal, SIGTERM]), [signal, SIGTERM]);
        // SAFETY: a plain system call.
        let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
        assert_eq!(heeded(&[signal, SIGTERM]), [SIGTERM]);
        // SAFETY: as above.
        unsafe { libc::signal(signal, before) };
    }
}
