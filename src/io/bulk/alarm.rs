//! Wakes the executor of the bulk thread from other threads, as often as it takes.
//!
//! It must never be silent because it was rung before: an executor that slept through a wake-up is woken
//! by the next.

use std::future::poll_fn;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// A waker that is kept, not used up. A message to a task would not do: only the first of several wakes a
/// task that has not run since, so the second could not mend what the first one ran into.
pub(super) struct Alarm {
    waker: OnceLock<Waker>,
    pause: Duration,
    rung: Mutex<Option<Instant>>,
}

impl Alarm {
    /// `pause`: it is rung no more often than that, whoever rings it. Each time adds a reference to the
    /// waker until the executor looks, and glommio counts them in 16 bits.
    pub(super) fn new(pause: Duration) -> Alarm {
        Alarm { waker: OnceLock::new(), pause, rung: Mutex::default() }
    }

    /// A task of the executor that does nothing, whenever it is woken. It never ends.
    pub(super) async fn rest(&self) {
        poll_fn(|context| {
            self.waker.get_or_init(|| context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// Wakes the executor; nothing, before it has run for the first time.
    pub(super) fn ring(&self) {
        let Some(waker) = self.waker.get() else { return };
        let now = Instant::now();
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if rung.is_none_or(|rung| now.saturating_duration_since(rung) >= self.pause) {
            *rung = Some(now);
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_ring_wakes_an_executor_that_has_not_run_since_the_last() {
        let (alarm, woken) = (Alarm::new(Duration::ZERO), Arc::new(Counted::default()));
        alarm.ring();
        let waker = Waker::from(Arc::clone(&woken));
        assert!(pin!(alarm.rest()).poll(&mut Context::from_waker(&waker)).is_pending());
        for count in 1..=3 {
            alarm.ring();
            assert_eq!(woken.0.load(Ordering::Relaxed), count);
        }
    }

    #[test]
    fn rings_that_follow_each_other_at_once_are_one() {
        let (alarm, woken) = (Alarm::new(Duration::from_secs(3600)), Arc::new(Counted::default()));
        let waker = Waker::from(Arc::clone(&woken));
        assert!(pin!(alarm.rest()).poll(&mut Context::from_waker(&waker)).is_pending());
        alarm.ring();
        alarm.ring();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }
}
