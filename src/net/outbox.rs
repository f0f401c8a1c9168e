//! What waits to be sent to one peer for one shard: bounded, never blocking, in two lanes.
//!
//! - **control**: consensus without entries (votes, heartbeats, acknowledgements). An election or a heartbeat never waits
//!   behind more than the one batch that is being written.
//! - **ordered**: everything else, in the order of the pushes. A session's wait stays behind its commands, entries behind
//!   the entries before them.
//!
//! An append without entries is control as long as it speaks only of what was sent before everything queued, as
//! heartbeats do. One whose `prev` is among the queued entries stays behind them, since the peer would reject it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::codec;
use super::frame::{EncodedFrame, FrameBuilder, FrameKind, MessageTooLong};
use super::link::LinkLimits;
use super::message::{PeerMessage, RaftMessage};
use crate::raft::message::{Body, Message};
use crate::types::Index;

/// A batch takes ordered frames until it holds this many bytes, and always one; with it a control message that arrives
/// while the batch is written waits for no more than this, or for one frame that is longer.
const BATCH_BYTES: usize = 256 * 1024;

/// Why a message was not taken; it is lost, and its sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    #[error("there is no connection to the peer")]
    Down,
    #[error("too much waits for the peer")]
    Full,
    #[error(transparent)]
    TooLong(#[from] MessageTooLong),
}

/// One handle of many to the same queue. The dialer writes what is pushed.
#[derive(Debug, Clone)]
pub struct Outbox {
    state: Rc<RefCell<State>>,
}

#[derive(Debug)]
struct State {
    limits: LinkLimits,
    /// Counts connections; a connection that ended can't end the one after it.
    connection: u64,
    /// Messages are taken: a connection is up.
    open: bool,
    /// No further connection is wanted; what is queued still goes out.
    closed: bool,
    /// Dial at once, whatever the backoff says.
    nudged: bool,
    control: Lane,
    ordered: Lane,
    /// The dialer's task, where it waits for any of this to change.
    dialer: Option<Waker>,
}

#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Queued>,
    bytes: usize,
    /// How many of the bytes are held here and nowhere else.
    own_bytes: usize,
}

#[derive(Debug)]
struct Queued {
    frame: EncodedFrame,
    /// Of an append with entries: they follow this index.
    entries_after: Option<Index>,
    own_bytes: usize,
}

impl Lane {
    fn push(&mut self, frame: EncodedFrame, entries_after: Option<Index>, own_bytes: usize) {
        self.bytes += frame.bytes;
        self.own_bytes += own_bytes;
        self.frames.push_back(Queued { frame, entries_after, own_bytes });
    }

    fn pop(&mut self) -> Option<EncodedFrame> {
        let Queued { frame, own_bytes, .. } = self.frames.pop_front()?;
        self.bytes -= frame.bytes;
        self.own_bytes -= own_bytes;
        Some(frame)
    }

    /// The index that the oldest queued entries follow.
    fn entries_after(&self) -> Option<Index> {
        self.frames.iter().find_map(|queued| queued.entries_after)
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
        self.own_bytes = 0;
    }
}

/// What goes out in one write.
#[derive(Debug, Default)]
pub struct Batch {
    pub chunks: Vec<Bytes>,
    pub frames: u64,
    pub bytes: usize,
}

impl Batch {
    fn add(&mut self, mut frame: EncodedFrame) {
        self.chunks.append(&mut frame.chunks);
        self.frames += 1;
        self.bytes += frame.bytes;
    }
}

impl Outbox {
    #[must_use]
    pub fn new(limits: LinkLimits) -> Outbox {
        let state = State {
            limits,
            connection: 0,
            open: false,
            closed: false,
            nudged: false,
            control: Lane::default(),
            ordered: Lane::default(),
            dialer: None,
        };
        Outbox { state: Rc::new(RefCell::new(state)) }
    }

    /// Queues a message for the connection that is up, in no time. What is queued when the connection is lost is lost
    /// with it.
    pub fn push(&self, message: &PeerMessage) -> Result<(), PushError> {
        let mut state = self.state.borrow_mut();
        if !state.open || state.closed {
            return Err(PushError::Down);
        }
        let is_control = state.is_control(message);
        if is_control && state.control.frames.len() >= state.limits.queued_control_frames_max {
            return Err(PushError::Full);
        }
        // What sessions hand over is bounded by their number, and all of it may have to go at once after a leader change.
        let is_raft = matches!(message, PeerMessage::Raft(_));
        if is_raft && !is_control && state.ordered.frames.len() >= state.limits.queued_frames_max {
            return Err(PushError::Full);
        }
        let mut frame = FrameBuilder::new();
        codec::encode(message, &mut frame);
        let frame = frame.finish(FrameKind::Message, state.limits.payload_bytes_max)?;
        if is_control {
            let bytes = frame.bytes;
            state.control.push(frame, None, bytes);
        } else {
            // Commands are held by their sessions until they are applied, and share that memory: to refuse them here would
            // free none, and what a node must hand over after a leader change could never pass.
            let own_bytes = if matches!(message, PeerMessage::Commands { .. }) { 0 } else { frame.bytes };
            // One message always fits, however long: else it could never be sent.
            let before = state.ordered.own_bytes;
            if before > 0 && before + own_bytes > state.limits.queued_bytes_max {
                return Err(PushError::Full);
            }
            state.ordered.push(frame, entries_after(message), own_bytes);
        }
        state.wake();
        Ok(())
    }

    /// Whether messages are taken.
    #[cfg(test)]
    pub(super) fn is_up(&self) -> bool {
        self.state.borrow().open
    }

    /// Bytes that wait, beside the batch being written.
    #[cfg(test)]
    pub(super) fn queued_bytes(&self) -> usize {
        let state = self.state.borrow();
        state.control.bytes + state.ordered.bytes
    }

    /// Dial now if no connection is up: the peer has just been heard of.
    pub fn nudge(&self) {
        let mut state = self.state.borrow_mut();
        if !state.open {
            state.nudged = true;
            state.wake();
        }
    }

    /// Gives up the connection that is up, with what is queued for it; the next one is dialled at once. For a sender whose
    /// messages must not be lost singly.
    pub fn break_off(&self) {
        let connection = self.state.borrow().connection;
        self.end_connection(connection);
    }

    /// Ends the link for good, once what is queued was written.
    pub fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        state.wake();
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// A connection is up; gives its number.
    pub(super) fn begin_connection(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        assert!(!state.open, "one connection at a time");
        state.open = true;
        state.nudged = false;
        state.connection += 1;
        state.connection
    }

    /// The connection of this number is lost, and what was queued for it. Ending it again, late, ends no other.
    pub(super) fn end_connection(&self, connection: u64) {
        let mut state = self.state.borrow_mut();
        if state.open && state.connection == connection {
            state.open = false;
            state.control.clear();
            state.ordered.clear();
            state.wake();
        }
    }

    /// The next batch to write; none once the connection was lost, or the link closed and everything written.
    pub(super) async fn next_batch(&self) -> Option<Batch> {
        poll_fn(|context| self.state.borrow_mut().poll_batch(context)).await
    }

    /// Ready when dialling must not wait any longer: nudged, or closed.
    pub(super) fn poll_nudged(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if std::mem::take(&mut state.nudged) || state.closed {
            return Poll::Ready(());
        }
        state.dialer = Some(context.waker().clone());
        Poll::Pending
    }
}

impl State {
    fn is_control(&self, message: &PeerMessage) -> bool {
        match message {
            PeerMessage::Raft(raft) if !raft.entries.is_empty() => false,
            PeerMessage::Raft(RaftMessage { message: Message { body: Body::Append { prev, .. }, .. }, .. }) => {
                self.ordered.entries_after().is_none_or(|queued| prev.index <= queued)
            }
            PeerMessage::Raft(_) => true,
            _ => false,
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.dialer.take() {
            waker.wake();
        }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Batch>> {
        if !self.open {
            return Poll::Ready(None);
        }
        let mut batch = Batch::default();
        while let Some(frame) = self.control.pop() {
            batch.add(frame);
        }
        let ordered_bytes_before = self.ordered.bytes;
        while ordered_bytes_before - self.ordered.bytes < BATCH_BYTES
            && let Some(frame) = self.ordered.pop()
        {
            batch.add(frame);
        }
        if batch.frames > 0 {
            return Poll::Ready(Some(batch));
        }
        if self.closed {
            return Poll::Ready(None);
        }
        self.dialer = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The index that the entries of an append follow.
fn entries_after(message: &PeerMessage) -> Option<Index> {
    match message {
        PeerMessage::Raft(RaftMessage {
            message: Message { body: Body::Append { prev, .. }, .. }, entries, ..
        }) if !entries.is_empty() => Some(prev.index),
        _ => None,
    }
}
