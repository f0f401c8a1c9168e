//! A one-way ring between two core threads: one producer, one consumer, no locks while both are awake.
//!
//! It must never lose a wake-up, and never wake a consumer that is awake: a system call per message is what it is
//! there to avoid. The producer pushes what it has and wakes once; the consumer takes all there is at once.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use thiserror::Error;

/// A ring for `capacity` items. Either half may be moved to its thread before it is used.
#[must_use]
pub fn crossing<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let (items_in, items_out) = rtrb::RingBuffer::new(capacity);
    let bell = Arc::new(Bell::default());
    (Producer { items: items_in, bell: Arc::clone(&bell) }, Consumer { items: items_out, bell })
}

/// The ring is full: the consumer's core is behind. The item comes back.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the ring to the other core is full")]
pub struct Full<T>(pub T);

/// The producer has gone, and everything it pushed was taken.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the other core has ended")]
pub struct Ended;

/// How a producer wakes a sleeping consumer: through the waker of its task, which its runtime turns into one write to
/// the eventfd that its thread sleeps on.
#[derive(Default)]
struct Bell {
    sleeping: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    /// The consumer says that it is about to sleep. It must look at the ring once more afterwards.
    fn arm(&self, context: &Context<'_>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        self.sleeping.store(true, Ordering::Release);
        // Dekker's handshake with `ring`: of "asleep, then look at the ring" and "push, then look for a sleeper", at
        // least one must see the other.
        fence(Ordering::SeqCst);
    }

    fn disarm(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Acquire) {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

pub struct Producer<T> {
    items: rtrb::Producer<T>,
    bell: Arc<Bell>,
}

impl<T: Send> Producer<T> {
    /// Puts an item into the ring. The consumer may sleep on until [`Producer::wake`].
    ///
    /// # Errors
    ///
    /// No room. The caller must wake the consumer before it waits for room.
    pub fn push(&mut self, item: T) -> Result<(), Full<T>> {
        self.items.push(item).map_err(|rtrb::PushError::Full(item)| Full(item))
    }

    /// Wakes the consumer if it sleeps. To be called once behind a batch of pushes.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// Whether the consumer has gone, so that nobody will ever take what is pushed.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.items.is_abandoned()
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // The ring must be seen as abandoned before the bell rings: a consumer that is woken looks, and would sleep again.
        let (empty, _) = rtrb::RingBuffer::new(0);
        drop(std::mem::replace(&mut self.items, empty));
        self.bell.ring();
    }
}

pub struct Consumer<T> {
    items: rtrb::Consumer<T>,
    bell: Arc<Bell>,
}

impl<T: Send> Consumer<T> {
    /// Appends everything in the ring to `batch`, after waiting until there is something. Nothing is lost when the
    /// future is dropped.
    ///
    /// # Errors
    ///
    /// The producer has gone and the ring is empty.
    pub async fn next_batch(&mut self, batch: &mut Vec<T>) -> Result<(), Ended> {
        poll_fn(|context| self.poll_batch(context, batch)).await
    }

    fn poll_batch(&mut self, context: &Context<'_>, batch: &mut Vec<T>) -> Poll<Result<(), Ended>> {
        if self.take_all(batch) {
            return Poll::Ready(Ok(()));
        }
        self.bell.arm(context);
        // Asked before the last look: what was pushed before the producer went is still to be taken.
        let ended = self.items.is_abandoned();
        if self.take_all(batch) {
            self.bell.disarm();
            return Poll::Ready(Ok(()));
        }
        if ended { Poll::Ready(Err(Ended)) } else { Poll::Pending }
    }

    /// Whether there was anything.
    fn take_all(&mut self, batch: &mut Vec<T>) -> bool {
        let slots = self.items.slots();
        if slots == 0 {
            return false;
        }
        let chunk = self.items.read_chunk(slots).expect("only this consumer takes items out");
        batch.extend(chunk);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

    use super::*;

    #[derive(Default)]
    struct CountedWakes(AtomicUsize);

    impl Wake for CountedWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_is_taken_at_once_and_only_a_sleeper_is_woken_and_only_once() {
        let (mut producer, mut consumer) = crossing(8);
        let wakes = Arc::new(CountedWakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let context = Context::from_waker(&waker);
        let mut batch = Vec::new();

        producer.push(1).unwrap();
        producer.wake();
        assert!(consumer.poll_batch(&context, &mut batch).is_ready());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "it was awake");

        assert!(consumer.poll_batch(&context, &mut batch).is_pending());
        for item in 2..5 {
            producer.push(item).unwrap();
        }
        producer.wake();
        producer.wake();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(consumer.poll_batch(&context, &mut batch).is_ready());
        assert_eq!(batch, [1, 2, 3, 4]);
    }

    #[test]
    fn a_full_ring_gives_the_item_back() {
        let (mut producer, _consumer) = crossing(1);
        producer.push("first").unwrap();
        assert_eq!(producer.push("second"), Err(Full("second")));
    }

    #[test]
    fn what_a_producer_left_behind_is_taken_before_its_end_is_told() {
        let (mut producer, mut consumer) = crossing(4);
        let context = Context::from_waker(Waker::noop());
        let mut batch = Vec::new();
        producer.push(7).unwrap();
        drop(producer);
        assert_eq!(consumer.poll_batch(&context, &mut batch), Poll::Ready(Ok(())));
        assert_eq!(consumer.poll_batch(&context, &mut batch), Poll::Ready(Err(Ended)));
        assert_eq!(batch, [7]);
    }

    #[test]
    fn a_sleeping_consumer_is_woken_by_the_end_of_its_producer() {
        let (producer, mut consumer) = crossing::<u8>(4);
        let wakes = Arc::new(CountedWakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let context = Context::from_waker(&waker);
        assert!(consumer.poll_batch(&context, &mut Vec::new()).is_pending());
        drop(producer);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(consumer.poll_batch(&context, &mut Vec::new()), Poll::Ready(Err(Ended)));
    }

    #[test]
    fn nothing_is_lost_or_reordered_between_two_threads_that_both_fall_asleep() {
        const ITEMS: u32 = 200_000;
        let (mut producer, mut consumer) = crossing(64);
        let pushing = thread::spawn(move || {
            for item in 0..ITEMS {
                let mut item = item;
                while let Err(Full(back)) = producer.push(item) {
                    item = back;
                    producer.wake();
                    thread::yield_now();
                }
                // Batches of every length; the last one of all is woken for by the producer's end.
                if item % 13 == 0 {
                    producer.wake();
                }
            }
        });
        let taking = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async move {
                let mut all = Vec::new();
                while consumer.next_batch(&mut all).await.is_ok() {}
                all
            })
        });
        pushing.join().unwrap();
        assert!(taking.join().unwrap().into_iter().eq(0..ITEMS));
    }
}
