//! Runs a future that never has to wait, as all are on a simulated disk without delays.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// # Panics
/// If the future has to wait.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a future on a disk without delays had to wait"),
    }
}
