//! What the operating system asks of a running node: to stop, or to drain. Told to every core thread that listens.
//!
//! It must never do anything in a signal handler but wake the thread that waits for signals.

use std::io;
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
    /// SIGTERM, SIGINT or SIGHUP (its terminal is gone): finish what is under way, then end.
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

/// Starts the thread that waits for signals. Each core thread takes a clone of what is returned and awaits `changed`
/// on it: it is woken where it is, whatever its runtime.
///
/// # Errors
///
/// A handler cannot be set, or the thread cannot be made.
pub fn requests() -> io::Result<watch::Receiver<Request>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let (told, requests) = watch::channel(Request::default());
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            told.send_modify(|request| *request = request.after(signal));
        }
    })?;
    Ok(requests)
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
            (Serve, SIGHUP, Stop),
            (Stop, SIGUSR1, Stop),
            (Stop, SIGTERM, StopNow),
            (StopNow, SIGINT, StopNow),
        ] {
            assert_eq!(before.after(signal), after);
        }
    }
}
