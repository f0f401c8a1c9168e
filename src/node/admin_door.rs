//! Who may hold a connection to the admin port, and for how long: a client that is slow, or many of one address, must
//! not keep the health check of another out.
//!
//! - A connection on which nothing was answered for some time is closed, whatever came in meanwhile: a request that is
//!   sent byte by byte has that long.
//! - One address has at most half of the places. A newcomer takes the place of the connection that has been idle for
//!   longest: of its own address where that has its share, else of all, where all places are taken. So a client that
//!   asks at once is answered even while others of its address dial again as often as they are closed.
//! - Places are taken from others at a bounded rate, so that each is kept long enough for a request and its answer.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// Before a place is taken from its holder. With 16 places for an address a newcomer keeps its own for 32 ms at least.
const DISPLACEMENT_PAUSE: Duration = Duration::from_millis(2);

/// How many connections there may be at once.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    pub all: usize,
    /// Of one address.
    pub each: usize,
}

/// The client's host: its IPv4 address, or the network of its IPv6 address, which is one subscriber's.
/// None on a Unix socket.
pub type Source = Option<IpAddr>;

/// Where a connection comes from.
#[must_use]
pub fn source_of(address: SocketAddr) -> Source {
    Some(match address.ip().to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    })
}

/// Who holds places. `T`: what ends a holder's connection when it is dropped.
#[derive(Debug)]
struct Places<T> {
    shares: Shares,
    /// The one that has been idle for longest first.
    held: Vec<Held<T>>,
    taken: u64,
}

#[derive(Debug)]
struct Held<T> {
    place: u64,
    source: Source,
    end: T,
}

impl<T> Places<T> {
    fn new(shares: Shares) -> Places<T> {
        assert!(0 < shares.each && shares.each <= shares.all, "an address has a place, and no more than all");
        Places { shares, held: Vec::new(), taken: 0 }
    }

    /// Whom a newcomer displaces.
    fn victim(&self, source: Source) -> Option<usize> {
        let own = |held: &Held<T>| held.source == source;
        if self.held.iter().filter(|held| own(held)).count() >= self.shares.each {
            self.held.iter().position(own)
        } else if self.held.len() >= self.shares.all {
            Some(0)
        } else {
            None
        }
    }

    /// The newcomer's place, and what ends the one that is displaced.
    fn take(&mut self, source: Source, end: T) -> (u64, Option<T>) {
        let displaced = self.victim(source).map(|victim| self.held.remove(victim).end);
        self.taken += 1;
        self.held.push(Held { place: self.taken, source, end });
        (self.taken, displaced)
    }

    /// The holder was answered something.
    fn touch(&mut self, place: u64) {
        if let Some(at) = self.held.iter().position(|held| held.place == place) {
            self.held[at..].rotate_left(1);
        }
    }

    fn leave(&mut self, place: u64) {
        self.held.retain(|held| held.place != place);
    }
}

type SharedPlaces = Arc<Mutex<Places<oneshot::Sender<()>>>>;

fn lock(places: &SharedPlaces) -> MutexGuard<'_, Places<oneshot::Sender<()>>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener that gives every connection a place.
pub struct Bounded<L: Listener> {
    listener: L,
    source_of: fn(&L::Addr) -> Source,
    places: SharedPlaces,
    silence_max: Duration,
}

impl<L: Listener> Bounded<L> {
    pub fn new(listener: L, source_of: fn(&L::Addr) -> Source, shares: Shares, silence_max: Duration) -> Bounded<L> {
        Bounded { listener, source_of, places: Arc::new(Mutex::new(Places::new(shares))), silence_max }
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Connection<L::Io>, L::Addr) {
        let (stream, address) = self.listener.accept().await;
        let source = (self.source_of)(&address);
        let must_displace = lock(&self.places).victim(source).is_some();
        if must_displace {
            tokio::time::sleep(DISPLACEMENT_PAUSE).await;
        }
        let (end, displaced) = oneshot::channel();
        let (place, other) = lock(&self.places).take(source, end);
        drop(other);
        let (silence_max, places) = (self.silence_max, Arc::clone(&self.places));
        let deadline = Box::pin(tokio::time::sleep(silence_max));
        (Connection { stream, displaced, deadline, silence_max, places, place }, address)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

/// Ends where it has waited too long since its last answer, or where another takes its place.
pub struct Connection<S> {
    stream: S,
    displaced: oneshot::Receiver<()>,
    deadline: Pin<Box<Sleep>>,
    silence_max: Duration,
    places: SharedPlaces,
    place: u64,
}

impl<S> Connection<S> {
    fn unless_over<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let is_over = polled.is_pending()
            && (self.deadline.as_mut().poll(context).is_ready()
                || Pin::new(&mut self.displaced).poll(context).is_ready());
        if is_over { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { polled }
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        lock(&self.places).leave(self.place);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buf);
        self.unless_over(context, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(_)) = polled {
            let next = Instant::now() + self.silence_max;
            self.deadline.as_mut().reset(next);
            lock(&self.places).touch(self.place);
        }
        self.unless_over(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Source {
        source_of(SocketAddr::from(([10, 0, 0, last], 1)))
    }

    fn holders(places: &Places<&'static str>) -> Vec<&'static str> {
        places.held.iter().map(|held| held.end).collect()
    }

    #[test]
    fn an_address_that_has_its_share_displaces_its_own() {
        let mut places = Places::new(Shares { all: 4, each: 2 });
        places.take(host(2), "other");
        places.take(host(1), "a");
        places.take(host(1), "b");
        assert_eq!(places.take(host(1), "c").1, Some("a"));
        assert_eq!(holders(&places), ["other", "b", "c"]);
    }

    #[test]
    fn where_all_places_are_taken_the_longest_idle_goes() {
        let mut places = Places::new(Shares { all: 3, each: 2 });
        let (a, _) = places.take(host(1), "a");
        places.take(host(1), "b");
        let (c, _) = places.take(host(2), "c");
        places.touch(a);
        assert_eq!(places.take(host(3), "d").1, Some("b"));
        assert_eq!(holders(&places), ["c", "a", "d"]);
        places.leave(c);
        assert_eq!(places.victim(host(4)), None, "who leaves makes room");
        places.touch(c);
        places.leave(c);
        assert_eq!(holders(&places), ["a", "d"], "who was displaced or has left is nobody");
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_one_is_ipv4() {
        let source = |text: &str| source_of(SocketAddr::new(text.parse().unwrap(), 1));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("::ffff:10.0.0.1"), host(1));
    }
}
