//! A wake-up between tasks of one thread. A signal that nobody waits for is kept; several are one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// At most one task waits for it at a time.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    pub fn raise(&self) {
        self.raised.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Until it is raised, or at once if it was since the last wait. Dropping the future loses nothing.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.take() {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            if !waiter.as_ref().is_some_and(|waiter| waiter.will_wake(context.waker())) {
                *waiter = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_signal_wakes_its_waiter_and_is_kept_while_there_is_none() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);
        let signal = Signal::default();
        {
            let mut wait = pin!(signal.wait());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            signal.raise();
            signal.raise();
            assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
            assert!(wait.as_mut().poll(&mut context).is_ready());
        }
        assert!(pin!(signal.wait()).poll(&mut context).is_pending(), "several raises are one");
        signal.raise();
        assert!(pin!(signal.wait()).poll(&mut context).is_ready(), "a wait that was dropped took nothing along");
    }
}
