//! `io::Wire` over the simulated network: one process's sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::executor::GroupId;
use super::network::{HostId, Network};
use super::stream::{EndState, Side, StreamId};
use crate::io::{Listener, Reader, Wire, WireOptions, Writer};
use crate::types::Nanos;

const CONNECT_TIMEOUT: Nanos = Nanos::from_secs(2);
/// When a SYN that was not answered is sent again.
const SYN_AGAIN: Nanos = Nanos::from_secs(1);
const BACKLOG_MAX: usize = 1024;

#[derive(Clone)]
pub struct SimWire {
    network: Network,
    host: HostId,
    process: GroupId,
}

impl SimWire {
    #[must_use]
    pub fn new(network: &Network, host: HostId, process: GroupId) -> SimWire {
        SimWire { network: network.clone(), host, process }
    }

    /// The host and the port (or path) on it that an address names.
    fn resolve(&self, address: &str) -> io::Result<(HostId, String)> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Ok((self.host, format!("unix:{path}")));
        }
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not host:port"));
        let (name, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let port: u16 = port.parse().map_err(|_| invalid())?;
        let host = match name {
            "0.0.0.0" | "127.0.0.1" | "localhost" | "[::]" | "[::1]" => self.host,
            _ => self
                .network
                .host_named(name)
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address")))?,
        };
        Ok((host, port.to_string()))
    }

    fn halves(&self, id: StreamId, side: Side) -> (SimReader, SimWriter) {
        let half = |_| Half { network: self.network.clone(), id, side };
        (SimReader(half(0)), SimWriter(half(1)))
    }
}

impl Wire for SimWire {
    type Listener = SimListener;
    type Reader = SimReader;
    type Writer = SimWriter;
    type Detached = (SimReader, SimWriter);

    fn listen(&self, address: &str, options: WireOptions) -> io::Result<SimListener> {
        let (host, mut port) = self.resolve(address)?;
        if host != self.host {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{address} is another host's")));
        }
        if port == "0" {
            self.network.0.port_last.set(self.network.0.port_last.get() + 1);
            port = self.network.0.port_last.get().to_string();
        }
        let mut listeners = self.network.0.listeners.borrow_mut();
        // A path left behind by a dead process is removed, as the real wire does; here none is left behind.
        if listeners.contains_key(&(host, port.clone())) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address} is taken")));
        }
        let backlog =
            Rc::new(Backlog { owner: self.process, options, state: RefCell::default(), is_closed: Cell::new(false) });
        listeners.insert((host, port.clone()), Rc::clone(&backlog));
        drop(listeners);
        Ok(SimListener { wire: self.clone(), port, backlog })
    }

    async fn connect(&self, address: &str, options: WireOptions) -> io::Result<(SimReader, SimWriter)> {
        let (to, port) = self.resolve(address)?;
        let (network, from) = (&self.network, self.host);
        let executor = &network.0.executor;
        let deadline = executor.now().saturating_add(CONNECT_TIMEOUT);
        let mut opened = None;
        loop {
            executor.sleep(network.draw_delay(from, to)).await;
            let mut answered = network.passes(from, to);
            if answered && opened.is_none() {
                let backlog = network.0.listeners.borrow().get(&(to, port.clone())).cloned();
                match backlog {
                    None => {
                        executor.sleep(network.draw_delay(to, from)).await;
                        if network.passes(to, from) {
                            network.count(|counts| counts.refused += 1);
                            return Err(io::ErrorKind::ConnectionRefused.into());
                        }
                        answered = false;
                    }
                    // The kernel of a host whose backlog is full says nothing.
                    Some(backlog) if backlog.is_full() => answered = false,
                    Some(backlog) => {
                        let owners = [self.process, backlog.owner];
                        let id = network.open_stream([from, to], owners, [options, backlog.options]);
                        // Held from now on, so that the stream is closed where this future is dropped.
                        opened = Some(self.halves(id, 0));
                        backlog.push(SimWire { host: to, process: backlog.owner, ..self.clone() }.halves(id, 1));
                    }
                }
            }
            if answered {
                executor.sleep(network.draw_delay(to, from)).await;
                if network.passes(to, from)
                    && let Some(halves) = opened.take()
                {
                    network.count(|counts| counts.connected += 1);
                    return Ok(halves);
                }
            }
            let left = deadline.saturating_sub(executor.now());
            if left == Nanos::ZERO {
                network.count(|counts| counts.connects_timed_out += 1);
                return Err(io::ErrorKind::TimedOut.into());
            }
            executor.sleep(SYN_AGAIN.min(left)).await;
        }
    }

    fn detach(reader: SimReader, writer: SimWriter) -> io::Result<(SimReader, SimWriter)> {
        Ok((reader, writer))
    }

    fn attach(&self, stream: (SimReader, SimWriter)) -> (SimReader, SimWriter) {
        stream
    }
}

/// Streams that are connected and not yet accepted.
pub(super) struct Backlog {
    owner: GroupId,
    options: WireOptions,
    state: RefCell<Waiting>,
    is_closed: Cell<bool>,
}

#[derive(Default)]
struct Waiting {
    streams: VecDeque<(SimReader, SimWriter)>,
    acceptor: Option<Waker>,
}

impl Backlog {
    pub(super) fn owner(&self) -> GroupId {
        self.owner
    }

    fn is_full(&self) -> bool {
        self.state.borrow().streams.len() >= BACKLOG_MAX
    }

    fn push(&self, halves: (SimReader, SimWriter)) {
        let mut state = self.state.borrow_mut();
        state.streams.push_back(halves);
        if let Some(acceptor) = state.acceptor.take() {
            acceptor.wake();
        }
    }

    pub(super) fn close(&self) {
        self.is_closed.set(true);
        let waiting = std::mem::take(&mut *self.state.borrow_mut());
        if let Some(acceptor) = waiting.acceptor {
            acceptor.wake();
        }
    }
}

pub struct SimListener {
    wire: SimWire,
    port: String,
    backlog: Rc<Backlog>,
}

impl Listener for SimListener {
    type Reader = SimReader;
    type Writer = SimWriter;

    async fn accept(&self) -> io::Result<(SimReader, SimWriter)> {
        poll_fn(|context| {
            if self.backlog.is_closed.get() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, "the listener is closed")));
            }
            let mut state = self.backlog.state.borrow_mut();
            match state.streams.pop_front() {
                Some(halves) => Poll::Ready(Ok(halves)),
                None => {
                    state.acceptor = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn local_address(&self) -> String {
        match self.port.starts_with("unix:") {
            true => self.port.clone(),
            false => format!("{}:{}", self.wire.network.host_name(self.wire.host), self.port),
        }
    }

    fn close(&self) {
        if !self.backlog.is_closed.get() {
            self.wire.network.0.listeners.borrow_mut().remove(&(self.wire.host, self.port.clone()));
            self.backlog.close();
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        // After a power cut another listener may stand at the same address.
        let mut listeners = self.wire.network.0.listeners.borrow_mut();
        let key = (self.wire.host, self.port.clone());
        let removed = match listeners.get(&key) {
            Some(there) if Rc::ptr_eq(there, &self.backlog) => listeners.remove(&key),
            _ => None,
        };
        drop(listeners);
        drop(removed);
        self.backlog.close();
    }
}

/// Reader or writer of one end.
struct Half {
    network: Network,
    id: StreamId,
    side: Side,
}

impl Drop for Half {
    fn drop(&mut self) {
        self.network.drop_half(self.id, self.side);
    }
}

pub struct SimReader(Half);

impl Reader for SimReader {
    async fn read(&mut self, mut buf: Vec<u8>, bytes_max: usize) -> (io::Result<usize>, Vec<u8>) {
        let result = poll_fn(|context| self.0.poll_read(&mut buf, bytes_max, context.waker())).await;
        (result, buf)
    }
}

impl Half {
    fn poll_read(&self, buf: &mut Vec<u8>, bytes_max: usize, waker: &Waker) -> Poll<io::Result<usize>> {
        let mut streams = self.network.0.streams.borrow_mut();
        // Neither kernel knows of it any more, so this end was closed.
        let Some(stream) = streams.get_mut(&self.id) else { return Poll::Ready(Ok(0)) };
        let (end, pipe) = (&mut stream.ends[self.side], &mut stream.pipes[1 - self.side]);
        if matches!(end.state, EndState::Closed | EndState::Gone) {
            return Poll::Ready(Ok(0));
        }
        if !pipe.inbox.is_empty() && bytes_max > 0 {
            let whole = pipe.inbox.len().min(bytes_max);
            // A read may give less than there is; a parser must not care where bytes are split.
            let count = match self.network.0.random.chance(100_000) {
                true => 1 + self.network.0.random.below_len(whole),
                false => whole,
            };
            buf.extend(pipe.inbox.drain(..count));
            drop(streams);
            self.network.window_opened(self.id, self.side);
            return Poll::Ready(Ok(count));
        }
        if let EndState::Failed(kind) = end.state {
            return Poll::Ready(Err(kind.into()));
        }
        if pipe.end_delivered {
            return Poll::Ready(Ok(0));
        }
        end.reader = Some(waker.clone());
        Poll::Pending
    }

    /// Takes from the front of `chunks` what there is room for, until all is taken.
    fn poll_write(&self, chunks: &mut VecDeque<Bytes>, waker: &Waker) -> Poll<io::Result<()>> {
        loop {
            let Some(chunk) = chunks.front_mut() else { return Poll::Ready(Ok(())) };
            let mut streams = self.network.0.streams.borrow_mut();
            let state = streams.get(&self.id).map_or(EndState::Closed, |stream| stream.ends[self.side].state);
            match state {
                EndState::Open => {}
                EndState::Failed(kind) => return Poll::Ready(Err(kind.into())),
                EndState::Closed | EndState::Gone => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
            let stream = streams.get_mut(&self.id).expect("its end is open");
            if stream.pipes[self.side].room() == 0 && !chunk.is_empty() {
                stream.ends[self.side].writer = Some(waker.clone());
                self.network.count(|counts| counts.back_pressure += 1);
                return Poll::Pending;
            }
            drop(streams);
            let taken = self.network.push(self.id, self.side, chunk);
            drop(chunk.split_to(taken));
            if chunk.is_empty() {
                chunks.pop_front();
            }
        }
    }
}

pub struct SimWriter(Half);

impl Writer for SimWriter {
    async fn write(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        let mut chunks = VecDeque::from(chunks);
        poll_fn(|context| self.0.poll_write(&mut chunks, context.waker())).await
    }

    fn shutdown(&self) {
        self.0.network.close(self.0.id, self.0.side);
    }

    fn peer_host(&self) -> String {
        "a simulated host".to_owned()
    }

    fn closer(&self) -> Box<dyn Fn()> {
        let (network, id, side) = (self.0.network.clone(), self.0.id, self.0.side);
        Box::new(move || network.close(id, side))
    }
}

#[cfg(test)]
mod tests {
    use super::super::executor::Executor;
    use super::super::network::Link;
    use super::*;

    struct World {
        executor: Executor,
        network: Network,
        hosts: [HostId; 2],
        processes: [GroupId; 2],
        wires: [SimWire; 2],
    }

    impl World {
        fn new(seed: u64) -> World {
            let executor = Executor::new(seed);
            let network = Network::new(&executor);
            let hosts = [network.add_host("a"), network.add_host("b")];
            let processes = [executor.new_group(), executor.new_group()];
            let wires = [0, 1].map(|n| SimWire::new(&network, hosts[n], processes[n]));
            World { executor, network, hosts, processes, wires }
        }

        /// A stream from `a` to `b`, both ends held by the harness.
        fn connect(&self) -> [(SimReader, SimWriter); 2] {
            let listener = self.wires[1].listen("b:1", WireOptions::Client).expect("free");
            let wire = self.wires[0].clone();
            let harness = self.executor.new_group();
            let both = async move {
                let dialled = wire.connect("b:1", WireOptions::Client).await.expect("there is a listener");
                let accepted = listener.accept().await.expect("somebody dialled");
                [dialled, accepted]
            };
            self.executor.block_on(harness, Nanos::from_secs(5), both).expect("nothing is in the way")
        }

        fn wait<T: 'static>(&self, seconds: u64, future: impl Future<Output = T> + 'static) -> Option<T> {
            let harness = self.executor.new_group();
            self.executor.block_on(harness, Nanos::from_secs(seconds), future)
        }

        fn read_all(&self, seconds: u64, mut reader: SimReader) -> Option<(Vec<u8>, io::Result<usize>)> {
            self.wait(seconds, async move {
                let mut all = Vec::new();
                loop {
                    let (result, buf) = reader.read(all, 1 << 20).await;
                    all = buf;
                    if !matches!(result, Ok(1..)) {
                        return (all, result);
                    }
                }
            })
        }
    }

    fn numbered_bytes(count: usize) -> Bytes {
        (0..count).map(|n| u8::try_from(n % 251).expect("below 251")).collect()
    }

    #[test]
    fn bytes_arrive_in_order_whatever_is_lost_and_then_the_end() {
        for seed in 0..20 {
            let world = World::new(seed);
            let lossy = Link { loss_ppm: 200_000, late_ppm: 300_000, ..Link::default() };
            let [(_dialled_reader, mut writer), (reader, _accepted_writer)] = world.connect();
            world.network.set_link(world.hosts[0], world.hosts[1], lossy);
            world.network.set_link(world.hosts[1], world.hosts[0], lossy);
            let sent = numbered_bytes(700_000);
            let chunks = vec![sent.slice(..10), Bytes::new(), sent.slice(10..)];
            world.executor.spawn(world.processes[0], async move {
                writer.write(chunks).await.expect("the other end reads");
                writer.shutdown();
            });
            let (received, end) = world.read_all(60, reader).expect("loss only delays");
            assert!(received == sent, "seed {seed}");
            assert_eq!(end.ok(), Some(0));
        }
    }

    #[test]
    fn a_writer_waits_for_a_reader_that_does_not_read() {
        let world = World::new(1);
        let [(_r, mut writer), (reader, _w)] = world.connect();
        let big = numbered_bytes(2 << 20);
        let written = Rc::new(Cell::new(false));
        let (slot, chunks) = (Rc::clone(&written), vec![big.clone()]);
        world.executor.spawn(world.processes[0], async move {
            writer.write(chunks).await.expect("it is read in the end");
            slot.set(true);
            writer.shutdown();
        });
        world.executor.run_until(Nanos::from_secs(30));
        assert!(!written.get());
        assert!(world.network.counts().back_pressure > 0);
        let (received, _) = world.read_all(60, reader).expect("now it is read");
        assert!(received == big && written.get());
    }

    #[test]
    fn nobody_listening_refuses_and_a_cut_or_dark_host_is_silent() {
        let world = World::new(1);
        let dial = |address: &'static str| {
            let wire = world.wires[0].clone();
            let dialled =
                async move { wire.connect(address, WireOptions::Peer).await.map(|_| ()).map_err(|e| e.kind()) };
            world.wait(10, dialled).expect("a connect ends")
        };
        assert_eq!(dial("b:1"), Err(io::ErrorKind::ConnectionRefused));
        assert_eq!(dial("nowhere:1"), Err(io::ErrorKind::NotFound));
        let _listener = world.wires[1].listen("0.0.0.0:1", WireOptions::Peer).expect("free");
        assert_eq!(dial("b:1"), Ok(()));
        world.network.set_cut(world.hosts[1], world.hosts[0], true);
        assert_eq!(dial("b:1"), Err(io::ErrorKind::TimedOut));
        world.network.heal();
        world.network.power_off(world.hosts[1]);
        assert_eq!(dial("b:1"), Err(io::ErrorKind::TimedOut));
        world.network.power_on(world.hosts[1]);
        assert_eq!(dial("b:1"), Err(io::ErrorKind::ConnectionRefused));
    }

    #[test]
    fn a_killed_process_is_noticed_at_once_and_a_dark_host_when_somebody_asks() {
        let world = World::new(1);
        let [(reader, _w), accepted] = world.connect();
        world.executor.spawn(world.processes[1], async move {
            let _held = accepted;
            std::future::pending::<()>().await;
        });
        world.executor.run_until(world.executor.now().saturating_add(Nanos::from_millis(1)));
        world.executor.kill(world.processes[1]);
        world.network.close_all_of(world.processes[1]);
        let (_, end) = world.read_all(1, reader).expect("the kernel says so");
        assert_eq!(end.ok(), Some(0));

        let world = World::new(1);
        let [(reader, mut writer), _accepted] = world.connect();
        world.network.power_off(world.hosts[1]);
        let hears_nothing = world.read_all(20, reader).is_none();
        assert!(hears_nothing, "a dark host says nothing");
        world.network.power_on(world.hosts[1]);
        world.wait(1, async move { writer.write(vec![Bytes::from_static(b"hello?")]).await });
        world.executor.run_until(world.executor.now().saturating_add(Nanos::from_secs(1)));
        assert_eq!(world.network.counts().resets, 1);
    }

    #[test]
    fn a_stream_that_is_cut_one_way_delivers_and_then_gives_up() {
        let world = World::new(1);
        let [(_r, mut writer), (mut reader, _w)] = world.connect();
        world.network.set_cut(world.hosts[1], world.hosts[0], true);
        let result = Rc::new(Cell::new(None));
        let slot = Rc::clone(&result);
        world.executor.spawn(world.processes[0], async move {
            let big = numbered_bytes(1 << 20);
            slot.set(Some(writer.write(vec![big]).await.map_err(|error| error.kind())));
        });
        let (got, _) = world.wait(5, async move { reader.read(Vec::new(), 100).await }).expect("this way is whole");
        assert!(got.is_ok_and(|bytes| bytes > 0));
        world.executor.run_until(Nanos::from_secs(200));
        assert_eq!(result.get(), Some(Err(io::ErrorKind::TimedOut)));
    }

    #[test]
    fn a_healed_cut_goes_on_where_it_stopped() {
        let world = World::new(1);
        let [(_r, mut writer), (reader, _w)] = world.connect();
        world.network.set_cut_both(world.hosts[0], world.hosts[1], true);
        world.wait(1, async move {
            writer.write(vec![Bytes::from_static(b"patience")]).await.expect("there is room");
            writer.shutdown();
        });
        world.executor.run_until(Nanos::from_secs(10));
        world.network.heal();
        let (received, _) = world.read_all(5, reader).expect("it is sent again");
        assert_eq!(received, b"patience");
    }

    #[test]
    fn a_broken_stream_gives_a_part_of_the_bytes_and_then_an_error() {
        let lengths: Vec<usize> = (0..30)
            .map(|seed| {
                let world = World::new(seed);
                let [(_r, mut writer), (reader, _w)] = world.connect();
                world.wait(1, async move { writer.write(vec![numbered_bytes(1_000)]).await });
                assert_eq!(world.network.cut_streams(world.hosts[0], world.hosts[1]), 2);
                let (received, end) = world.read_all(1, reader).expect("it is broken");
                assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
                assert!(received == numbered_bytes(1_000)[..received.len()]);
                received.len()
            })
            .collect();
        assert!(lengths.iter().any(|&bytes| bytes > 0 && bytes < 1_000));
    }

    #[test]
    fn a_closed_listener_ends_its_accept_and_streams_that_are_over_are_forgotten() {
        let world = World::new(1);
        let listener = Rc::new(world.wires[1].listen("b:0", WireOptions::Client).expect("free"));
        assert!(listener.local_address().starts_with("b:4"));
        let closing = Rc::clone(&listener);
        world.executor.call_in(Nanos::from_millis(5), move || closing.close());
        let accepted = world.wait(1, async move { listener.accept().await.map(|_| ()).is_err() });
        assert_eq!(accepted, Some(true));
        drop(world.connect());
        world.executor.run_until(Nanos::from_secs(5));
        assert_eq!(world.network.stream_count(), 0);
    }

    #[test]
    fn an_address_is_taken_once_and_free_again_after_its_process() {
        let world = World::new(1);
        let wire = world.wires[1].clone();
        world.executor.spawn(world.processes[1], async move {
            let _listener = wire.listen("b:9", WireOptions::Peer).expect("free");
            std::future::pending::<()>().await;
        });
        world.executor.run_until(Nanos::from_millis(1));
        let kind = |wire: &SimWire| wire.listen("b:9", WireOptions::Peer).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(kind(&world.wires[1]), Err(io::ErrorKind::AddrInUse));
        assert_eq!(kind(&world.wires[0]), Err(io::ErrorKind::AddrNotAvailable));
        world.executor.kill(world.processes[1]);
        world.network.close_all_of(world.processes[1]);
        assert_eq!(kind(&world.wires[1]), Ok(()));
    }
}
