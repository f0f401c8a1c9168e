//! The rings between the core threads of a node: one for each ordered pair, each between two queues. Everything that
//! gathered in a queue during one turn of its thread leaves with one wake-up of the other thread.

use std::rc::Rc;

use super::queue::Queue;
use crate::io::crossing::{Consumer, Full, Producer, crossing};
use crate::io::{Runtime, yield_now};
use crate::types::Nanos;

/// Items in flight from one core to another. More wait in the queue before the ring.
const RING_ITEMS: usize = 1024;

/// How long a thread waits whose ring is full: the other one is busy, and takes everything when it comes to it.
const FULL_PAUSE: Nanos = Nanos::from_micros(200);

/// One thread's ends of its rings.
pub struct RingEnds<T> {
    /// By core; none to itself.
    to: Vec<Option<Producer<T>>>,
    from: Vec<Consumer<T>>,
}

/// The ends for each of `cores` threads.
#[must_use]
pub fn connect_all<T: Send>(cores: usize) -> Vec<RingEnds<T>> {
    let mut all: Vec<RingEnds<T>> = (0..cores).map(|_| RingEnds { to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..cores {
        for to in 0..cores {
            let ring = (from != to).then(|| crossing(RING_ITEMS));
            let (producer, consumer) = ring.unzip();
            all[from].to.push(producer);
            all[to].from.extend(consumer);
        }
    }
    all
}

/// Queues to each other core, by number, with none to this one.
type Lanes<T> = Vec<Option<Rc<Queue<T>>>>;

impl<T: Send + 'static> RingEnds<T> {
    /// Starts to carry, on this thread: what is pushed into a lane leaves, what arrives comes into the inbox.
    pub fn start(self, rt: &impl Runtime) -> (Lanes<T>, Rc<Queue<T>>) {
        let lanes = self.to.into_iter().map(|ring| {
            ring.map(|ring| {
                let lane = Rc::default();
                rt.spawn(send(rt.clone(), Rc::clone(&lane), ring));
                lane
            })
        });
        let lanes = lanes.collect();
        let inbox = Rc::default();
        for ring in self.from {
            rt.spawn(receive(ring, Rc::clone(&inbox)));
        }
        (lanes, inbox)
    }
}

async fn send<T: Send>(rt: impl Runtime, lane: Rc<Queue<T>>, mut ring: Producer<T>) {
    loop {
        lane.wait().await;
        for mut item in lane.take() {
            while let Err(Full(back)) = ring.push(item) {
                if ring.is_abandoned() {
                    return;
                }
                item = back;
                ring.wake();
                rt.sleep(FULL_PAUSE).await;
            }
        }
        ring.wake();
    }
}

async fn receive<T: Send>(mut ring: Consumer<T>, inbox: Rc<Queue<T>>) {
    let mut batch = Vec::new();
    while ring.next_batch(&mut batch).await.is_ok() {
        for item in batch.drain(..) {
            inbox.push(item);
        }
        // A thread that never stops sending must not keep this one from working on what it sent.
        yield_now().await;
    }
}
