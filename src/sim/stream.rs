//! A TCP connection as its two kernels see it: ordered bytes, acknowledgements, retransmission, resets, and silence.
//!
//! ```text
//!   writer -> [ sent, not yet delivered ] ~~ link ~~> [ inbox ] -> reader
//!                      ^ acknowledged  <~~ link back ~~ delivered
//! ```
//!
//! Bytes leave the sender's buffer only when an acknowledgement came back, so a link that is cut one way stops a stream
//! as it does in the world: the data arrives, the writer still runs full, and at last gives up.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::task::Waker;

use super::executor::GroupId;
use super::network::{HostId, Network};
use crate::io::WireOptions;
use crate::types::Nanos;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub(super) u64);

/// One end of a stream: 0 dialled, 1 accepted.
pub(super) type Side = usize;

const RETRANSMIT_MIN: Nanos = Nanos::from_millis(200);
const RETRANSMIT_MAX: Nanos = Nanos::from_secs(2);
/// How long an idle stream goes between two probes.
const KEEPALIVE: Nanos = Nanos::from_secs(30);
/// How long a stream may hear nothing while it has something to say.
const PEER_TIMEOUT: Nanos = Nanos::from_secs(5);
const CLIENT_TIMEOUT: Nanos = Nanos::from_secs(60);
/// How long an idle stream may hear nothing.
const IDLE_TIMEOUT: Nanos = Nanos::from_secs(90);

pub(super) struct Stream {
    pub(super) ends: [End; 2],
    /// `pipes[side]` carries what `side` writes.
    pub(super) pipes: [Pipe; 2],
}

pub(super) struct End {
    pub(super) host: HostId,
    pub(super) owner: GroupId,
    pub(super) state: EndState,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// How many of reader and writer are still held.
    pub(super) halves: u8,
    heard_at: Nanos,
    timeout: Nanos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndState {
    Open,
    /// Its process closed it; its kernel still sends what was written.
    Closed,
    Failed(ErrorKind),
    /// Its kernel knows nothing of it (any more).
    Gone,
}

impl End {
    /// The stream is broken here. Who must be woken to learn of it.
    fn fail(&mut self, kind: ErrorKind) -> [Option<Waker>; 2] {
        self.state = match self.state {
            EndState::Open => EndState::Failed(kind),
            _ => EndState::Gone,
        };
        [self.reader.take(), self.writer.take()]
    }
}

/// One direction. Positions count bytes since the stream began.
#[derive(Default)]
pub(super) struct Pipe {
    /// Written and not yet delivered.
    outbox: VecDeque<u8>,
    /// Delivered and not yet read.
    pub(super) inbox: VecDeque<u8>,
    sent: u64,
    delivered: u64,
    acknowledged: u64,
    /// Nothing is written any more.
    finished: bool,
    pub(super) end_delivered: bool,
    end_acknowledged: bool,
    /// Since when the oldest unacknowledged byte waits.
    waiting_since: Option<Nanos>,
    retransmit: Nanos,
    /// A timer looks after what waits.
    is_watched: bool,
    /// Packets of one stream arrive in order.
    arrives_after: Nanos,
    buffer_max: u64,
}

impl Pipe {
    fn new(buffer_max: u64) -> Pipe {
        Pipe { retransmit: RETRANSMIT_MIN, buffer_max, ..Pipe::default() }
    }

    pub(super) fn room(&self) -> usize {
        usize::try_from(self.buffer_max.saturating_sub(self.sent - self.acknowledged)).unwrap_or(usize::MAX)
    }

    fn is_settled(&self) -> bool {
        self.acknowledged == self.sent && self.finished == self.end_acknowledged
    }

    /// Moves what has arrived into the inbox, as far as the window is open. How much.
    fn deliver(&mut self, up_to: u64) -> usize {
        let window = self.buffer_max.saturating_sub(self.inbox.len() as u64);
        let arrived = up_to.min(self.sent).saturating_sub(self.delivered).min(window);
        let count = usize::try_from(arrived).expect("no more than the outbox holds");
        self.inbox.extend(self.outbox.drain(..count));
        self.delivered += arrived;
        count
    }
}

/// What a packet says to the kernel it comes to.
#[derive(Debug, Clone, Copy)]
enum Packet {
    /// Bytes up to this position, perhaps none that are new, and perhaps the end.
    Data {
        up_to: u64,
        end: bool,
    },
    Acknowledge {
        up_to: u64,
        end: bool,
    },
    Reset,
}

impl Network {
    pub(super) fn open_stream(&self, hosts: [HostId; 2], owners: [GroupId; 2], options: [WireOptions; 2]) -> StreamId {
        let id = StreamId(self.0.stream_last.get() + 1);
        self.0.stream_last.set(id.0);
        let now = self.0.executor.now();
        let end = |side: Side| End {
            host: hosts[side],
            owner: owners[side],
            state: EndState::Open,
            reader: None,
            writer: None,
            halves: 2,
            heard_at: now,
            timeout: match options[side] {
                WireOptions::Peer => PEER_TIMEOUT,
                WireOptions::Client => CLIENT_TIMEOUT,
            },
        };
        let pipe = |side: Side| {
            Pipe::new(match options[side] {
                WireOptions::Peer => 4 << 20,
                WireOptions::Client => 256 << 10,
            })
        };
        let stream = Stream { ends: [end(0), end(1)], pipes: [pipe(0), pipe(1)] };
        self.0.streams.borrow_mut().insert(id, stream);
        self.probe_in(KEEPALIVE, id, 0);
        self.probe_in(KEEPALIVE, id, 1);
        id
    }

    /// Takes as many of the bytes as there is room for. How many.
    pub(super) fn push(&self, id: StreamId, side: Side, bytes: &[u8]) -> usize {
        let mut streams = self.0.streams.borrow_mut();
        let pipe = &mut streams.get_mut(&id).expect("an open end keeps its stream").pipes[side];
        let taken = bytes.len().min(pipe.room());
        pipe.outbox.extend(&bytes[..taken]);
        pipe.sent += taken as u64;
        drop(streams);
        if taken > 0 {
            self.wait_for_acknowledgement(id, side);
            self.transmit(id, side);
        }
        taken
    }

    /// Sends what was written, and the end if there is one.
    fn transmit(&self, id: StreamId, side: Side) {
        let streams = self.0.streams.borrow();
        let Some(stream) = streams.get(&id) else { return };
        let packet = Packet::Data { up_to: stream.pipes[side].sent, end: stream.pipes[side].finished };
        drop(streams);
        self.send(id, side, packet);
    }

    fn send(&self, id: StreamId, side: Side, packet: Packet) {
        let now = self.0.executor.now();
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get_mut(&id) else { return };
        let (from, to) = (stream.ends[side].host, stream.ends[1 - side].host);
        let arrives = now.saturating_add(self.draw_delay(from, to)).max(stream.pipes[side].arrives_after);
        stream.pipes[side].arrives_after = arrives;
        drop(streams);
        let network = self.clone();
        self.0.executor.call_in(arrives.saturating_sub(now), move || {
            if network.passes(from, to) {
                network.receive(id, 1 - side, packet);
            }
        });
    }

    /// A packet has come to `side`.
    fn receive(&self, id: StreamId, side: Side, packet: Packet) {
        let now = self.0.executor.now();
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get_mut(&id) else { return };
        let end = &mut stream.ends[side];
        if matches!(end.state, EndState::Gone | EndState::Failed(_)) {
            drop(streams);
            if !matches!(packet, Packet::Reset) {
                self.send(id, side, Packet::Reset);
            }
            return;
        }
        end.heard_at = now;
        let mut wakers = [None, None];
        let mut answer = None;
        match packet {
            Packet::Data { up_to, end: with_end } => {
                let pipe = &mut stream.pipes[1 - side];
                if end.state == EndState::Closed && up_to.min(pipe.sent) > pipe.delivered {
                    // Nobody will read this; the sender must learn that it is lost.
                    end.state = EndState::Gone;
                    answer = Some(Packet::Reset);
                } else {
                    pipe.deliver(up_to);
                    if with_end && pipe.delivered == pipe.sent {
                        pipe.end_delivered = true;
                    }
                    wakers[0] = end.reader.take();
                    answer = Some(Packet::Acknowledge { up_to: pipe.delivered, end: pipe.end_delivered });
                }
            }
            Packet::Acknowledge { up_to, end: with_end } => {
                let pipe = &mut stream.pipes[side];
                if up_to > pipe.acknowledged {
                    pipe.retransmit = RETRANSMIT_MIN;
                }
                pipe.acknowledged = pipe.acknowledged.max(up_to);
                pipe.end_acknowledged |= with_end;
                pipe.waiting_since = if pipe.is_settled() { None } else { Some(now) };
                wakers[1] = end.writer.take();
            }
            Packet::Reset => {
                wakers = end.fail(ErrorKind::ConnectionReset);
                self.count(|counts| counts.resets += 1);
            }
        }
        drop(streams);
        wakers.into_iter().flatten().for_each(Waker::wake);
        if let Some(packet) = answer {
            self.send(id, side, packet);
        }
        self.forget_if_over(id);
    }

    /// The reader made room: what the window held back goes on.
    pub(super) fn window_opened(&self, id: StreamId, side: Side) {
        let streams = self.0.streams.borrow();
        let Some(stream) = streams.get(&id) else { return };
        let pipe = &stream.pipes[1 - side];
        let packet = Packet::Acknowledge { up_to: pipe.delivered, end: pipe.end_delivered };
        let waits = pipe.delivered < pipe.sent;
        drop(streams);
        if waits {
            self.send(id, side, packet);
            self.transmit(id, 1 - side);
        }
    }

    fn wait_for_acknowledgement(&self, id: StreamId, side: Side) {
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get_mut(&id) else { return };
        let pipe = &mut stream.pipes[side];
        pipe.waiting_since.get_or_insert(self.0.executor.now());
        let is_watched = std::mem::replace(&mut pipe.is_watched, true);
        drop(streams);
        if !is_watched {
            self.watch_in(RETRANSMIT_MIN, id, side);
        }
    }

    fn watch_in(&self, delay: Nanos, id: StreamId, side: Side) {
        let network = self.clone();
        self.0.executor.call_in(delay, move || network.watch(id, side));
    }

    /// Sends again what waits for too long, and at last gives up.
    fn watch(&self, id: StreamId, side: Side) {
        let now = self.0.executor.now();
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get_mut(&id) else { return };
        let (end, pipe) = (&mut stream.ends[side], &mut stream.pipes[side]);
        let is_over = matches!(end.state, EndState::Failed(_) | EndState::Gone);
        let Some(since) = pipe.waiting_since.filter(|_| !is_over) else {
            pipe.is_watched = false;
            return;
        };
        let waited = now.saturating_sub(since);
        if waited >= end.timeout {
            drop(streams);
            self.give_up(id, side);
            return;
        }
        let is_due = waited >= pipe.retransmit;
        if is_due {
            pipe.retransmit = Nanos(pipe.retransmit.0 * 2).min(RETRANSMIT_MAX);
        }
        let next = pipe.retransmit;
        drop(streams);
        if is_due {
            self.count(|counts| counts.retransmissions += 1);
            self.transmit(id, side);
        }
        self.watch_in(next, id, side);
    }

    fn probe_in(&self, delay: Nanos, id: StreamId, side: Side) {
        let network = self.clone();
        self.0.executor.call_in(delay, move || network.probe(id, side));
    }

    /// Asks whether the other kernel still knows of the stream.
    fn probe(&self, id: StreamId, side: Side) {
        let now = self.0.executor.now();
        let streams = self.0.streams.borrow();
        let Some(stream) = streams.get(&id) else { return };
        let end = &stream.ends[side];
        if matches!(end.state, EndState::Failed(_) | EndState::Gone) {
            return;
        }
        let is_silent = now.saturating_sub(end.heard_at) >= IDLE_TIMEOUT;
        drop(streams);
        if is_silent {
            self.give_up(id, side);
        } else {
            self.transmit(id, side);
            self.probe_in(KEEPALIVE, id, side);
        }
    }

    fn give_up(&self, id: StreamId, side: Side) {
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get_mut(&id) else { return };
        let wakers = stream.ends[side].fail(ErrorKind::TimedOut);
        drop(streams);
        self.count(|counts| counts.timed_out += 1);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.forget_if_over(id);
    }

    /// The process closes its end: what was written still goes out, then the end; where it left bytes unread, a reset.
    pub(super) fn close(&self, id: StreamId, side: Side) {
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get_mut(&id) else { return };
        let end = &mut stream.ends[side];
        if end.state != EndState::Open {
            return;
        }
        let wakers = [end.reader.take(), end.writer.take()];
        let left_unread = !stream.pipes[1 - side].inbox.is_empty();
        if left_unread {
            stream.ends[side].state = EndState::Gone;
        } else {
            stream.ends[side].state = EndState::Closed;
            stream.pipes[side].finished = true;
        }
        drop(streams);
        wakers.into_iter().flatten().for_each(Waker::wake);
        if left_unread {
            self.send(id, side, Packet::Reset);
        } else {
            self.wait_for_acknowledgement(id, side);
            self.transmit(id, side);
        }
        self.forget_if_over(id);
    }

    /// One of reader and writer was dropped; with the second the end is closed.
    pub(super) fn drop_half(&self, id: StreamId, side: Side) {
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get_mut(&id) else { return };
        stream.ends[side].halves -= 1;
        let is_last = stream.ends[side].halves == 0;
        drop(streams);
        if is_last {
            self.close(id, side);
            self.forget_if_over(id);
        }
    }

    pub(super) fn close_streams_of(&self, process: GroupId) {
        for (id, side) in self.ends_where(|end| end.owner == process) {
            self.close(id, side);
        }
    }

    /// Every end on this host is gone, and nobody is told.
    pub(super) fn vanish(&self, host: HostId) {
        for (id, side) in self.ends_where(|end| end.host == host) {
            let mut streams = self.0.streams.borrow_mut();
            let Some(stream) = streams.get_mut(&id) else { continue };
            stream.ends[side].state = EndState::Gone;
            let pipe = &mut stream.pipes[side];
            pipe.outbox.clear();
            pipe.sent = pipe.delivered;
        }
    }

    /// Breaks every stream between two hosts, at whatever byte they have come to. How many were open.
    pub fn cut_streams(&self, a: HostId, b: HostId) -> usize {
        let mut cut = 0;
        let ids: Vec<StreamId> = self.0.streams.borrow().keys().copied().collect();
        for id in ids {
            let mut streams = self.0.streams.borrow_mut();
            let Some(stream) = streams.get_mut(&id) else { continue };
            let hosts = [stream.ends[0].host, stream.ends[1].host];
            if hosts != [a, b] && hosts != [b, a] {
                continue;
            }
            let mut wakers = Vec::new();
            let mut with_bytes = false;
            for side in [0, 1] {
                let pipe = &mut stream.pipes[side];
                with_bytes |= !pipe.outbox.is_empty();
                let arrived = pipe.delivered + self.0.random.between(0, pipe.sent - pipe.delivered);
                pipe.deliver(arrived);
            }
            for end in stream.ends.iter_mut().filter(|end| matches!(end.state, EndState::Open | EndState::Closed)) {
                cut += usize::from(end.state == EndState::Open);
                wakers.extend(end.fail(ErrorKind::ConnectionReset));
            }
            drop(streams);
            self.count(|counts| counts.cut_with_bytes += u64::from(with_bytes));
            wakers.into_iter().flatten().for_each(Waker::wake);
            self.forget_if_over(id);
        }
        if cut > 0 {
            self.tell(format_args!("streams between {} and {} broken", self.host_name(a), self.host_name(b)));
        }
        cut
    }

    fn ends_where(&self, is_meant: impl Fn(&End) -> bool) -> Vec<(StreamId, Side)> {
        let streams = self.0.streams.borrow();
        let both = streams.iter().flat_map(|(id, stream)| [(*id, 0, &stream.ends[0]), (*id, 1, &stream.ends[1])]);
        both.filter(|(_, _, end)| is_meant(end)).map(|(id, side, _)| (id, side)).collect()
    }

    /// Forgets a stream that neither process holds and of which neither kernel has more to say.
    fn forget_if_over(&self, id: StreamId) {
        let mut streams = self.0.streams.borrow_mut();
        let Some(stream) = streams.get(&id) else { return };
        let is_over = [0, 1].into_iter().all(|side| match stream.ends[side].state {
            EndState::Open => false,
            EndState::Closed => stream.pipes[side].is_settled() || stream.ends[1 - side].state == EndState::Gone,
            EndState::Failed(_) => stream.ends[side].halves == 0,
            EndState::Gone => true,
        });
        if is_over {
            let removed = streams.remove(&id);
            drop(streams);
            drop(removed);
        }
    }

    /// How many streams any kernel still knows of.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.0.streams.borrow().len()
    }
}
