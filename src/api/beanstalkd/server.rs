//! A connection on the wire: one task reads, one writes, and one sleeps while there is a deadline. The decisions are
//! the [`Connection`]'s; what happens here is only that bytes and answers reach it and leave it.
//!
//! A read is never raced against anything. A client that does not read what it is sent is not read from either, once
//! a bounded amount of output waits for it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::connection::Connection;
use super::front_door::FrontDoor;
use super::outbox::ShardRequest;
use super::signal::Signal;
use crate::api::Answer;
use crate::io::{Reader, Runtime, Writer};
use crate::types::{Nanos, ShardId};

/// A read offers this much room at first. Many clients wait most of the time, and each holds its buffer meanwhile.
const READ_BYTES_MIN: usize = 2 << 10;

/// The room of a read from a client that fills it with commands. They are handled as they come, and
/// several hundred clients may have theirs handled between two turns of the shard.
const COMMAND_BYTES_MAX: usize = 8 << 10;

/// The room of a read of which a client's body will fill more than that.
const READ_BYTES_MAX: usize = 64 << 10;

/// Output is written in pieces of this size at most: how far the writer is shows whether the client reads.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// What connections know of the shards. `opened` comes first, then requests, then `closed`, each once per connection.
///
/// Requests of one connection to one shard are to arrive in order. Every request but `Reference` and `Withdraw` is to
/// be answered once, through the [`Mailbox`], unless the connection is closed before. `closed` ends the session: its
/// reservations go back, and what is still granted to it is undone.
pub trait ShardLink: 'static {
    fn opened(&self, connection: u64, mailbox: Mailbox);
    fn request(&self, connection: u64, request: ShardRequest);
    fn closed(&self, connection: u64);
}

/// Where answers for one connection go. It may outlive the connection; then answers vanish.
#[derive(Clone)]
pub struct Mailbox {
    deliver: Weak<dyn Deliver>,
}

impl Mailbox {
    /// Hands over an answer. It may be called at any time, from within [`ShardLink::request`] too.
    pub fn deliver(&self, shard: ShardId, ticket: u64, answer: Answer) {
        if let Some(connection) = self.deliver.upgrade() {
            connection.deliver(shard, ticket, answer);
        }
    }

    /// Listens to the client no more, as if it had closed its side: what it has asked for is answered, a wait for a job
    /// ends, then the connection is closed. For a server that stops in peace.
    pub fn finish(&self) {
        if let Some(connection) = self.deliver.upgrade() {
            connection.finish();
        }
    }

    /// Ends the connection: what is written so far still goes out, what is under way is not answered.
    pub fn hang_up(&self) {
        if let Some(connection) = self.deliver.upgrade() {
            connection.hang_up();
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailbox")
    }
}

trait Deliver {
    fn deliver(&self, shard: ShardId, ticket: u64, answer: Answer);
    fn finish(&self);
    fn hang_up(&self);
}

/// Serves one client until it is gone. `number` names the connection towards the link; `core` is the place of this
/// thread's counters in the front door.
pub async fn serve_connection<R, L>(
    runtime: R,
    reader: impl Reader,
    writer: impl Writer,
    link: Rc<L>,
    number: u64,
    door: Arc<FrontDoor>,
    core: usize,
) where
    R: Runtime,
    L: ShardLink,
{
    let shared = Rc::new_cyclic(|this| Shared {
        this: this.clone(),
        runtime: runtime.clone(),
        link,
        number,
        connection: RefCell::new(Connection::new(door, core)),
        mailbox: RefCell::default(),
        ended: Cell::new(false),
        sleeping_until: Cell::new(None),
        read_again: Signal::default(),
        write_again: Signal::default(),
        sleep_again: Signal::default(),
        shut_down: writer.closer(),
    });
    let deliver: Weak<dyn Deliver> = shared.this.clone();
    shared.link.opened(number, Mailbox { deliver });
    shared.step(|_, _| {});
    runtime.spawn(write_replies(shared.clone(), writer));
    read_commands(&shared, reader).await;
}

enum Incoming {
    Answer(ShardId, u64, Answer),
    Finish,
}

struct Shared<R, L: ShardLink> {
    this: Weak<Shared<R, L>>,
    runtime: R,
    link: Rc<L>,
    number: u64,
    connection: RefCell<Connection>,
    /// What came while the connection was busy.
    mailbox: RefCell<VecDeque<Incoming>>,
    /// The link has been told that the connection is closed.
    ended: Cell<bool>,
    /// A task sleeps until then, or is about to.
    sleeping_until: Cell<Option<Nanos>>,
    read_again: Signal,
    write_again: Signal,
    sleep_again: Signal,
    /// Ends a write that the client does not let come to its end.
    shut_down: Box<dyn Fn()>,
}

impl<R: Runtime, L: ShardLink> Shared<R, L> {
    /// Lets the connection handle an event and passes on what comes of it. Within one of these, another does nothing:
    /// the outer one finds what was left in the mailbox.
    fn step(&self, event: impl FnOnce(&mut Connection, Nanos)) {
        let Ok(mut connection) = self.connection.try_borrow_mut() else { return };
        let now = self.runtime.now();
        event(&mut connection, now);
        loop {
            while let Some(request) = connection.poll_request() {
                if !self.ended.get() {
                    self.link.request(self.number, request);
                }
            }
            let incoming = self.mailbox.borrow_mut().pop_front();
            match incoming {
                Some(Incoming::Answer(shard, ticket, answer)) => {
                    connection.handle_answer(now, shard, ticket, answer);
                }
                Some(Incoming::Finish) => connection.handle_eof(now),
                None => break,
            }
        }
        if connection.wants_close() {
            self.end(&mut connection);
        }
        if connection.has_stalled() {
            (self.shut_down)();
        }
        let ended = self.ended.get();
        if connection.has_output() || ended {
            self.write_again.raise();
        }
        if connection.wants_read() || ended {
            self.read_again.raise();
        }
        self.mind_deadline(connection.next_deadline());
    }

    /// Tells the shards that the client has gone. What it was promised may still be on its way to it.
    fn end(&self, connection: &mut Connection) {
        if self.ended.get() {
            return;
        }
        connection.close();
        while let Some(request) = connection.poll_request() {
            self.link.request(self.number, request);
        }
        self.ended.set(true);
        self.link.closed(self.number);
    }

    /// The wire is broken: nobody reads replies any more.
    fn break_off(&self) {
        self.step(|connection, _| connection.close());
    }

    /// A sleep that ends too early does no harm, so a later deadline disturbs nobody.
    fn mind_deadline(&self, deadline: Option<Nanos>) {
        match (self.sleeping_until.get(), deadline) {
            (None, Some(deadline)) => {
                let shared = self.this.upgrade().expect("a task that takes a step holds the connection");
                self.sleeping_until.set(Some(deadline));
                self.runtime.spawn(sleep_until_deadlines(shared));
            }
            (Some(until), Some(deadline)) if deadline < until => self.sleep_again.raise(),
            (Some(_), None) if self.ended.get() => self.sleep_again.raise(),
            _ => {}
        }
    }
}

impl<R: Runtime, L: ShardLink> Deliver for Shared<R, L> {
    fn deliver(&self, shard: ShardId, ticket: u64, answer: Answer) {
        self.mailbox.borrow_mut().push_back(Incoming::Answer(shard, ticket, answer));
        self.step(|_, _| {});
    }

    fn finish(&self) {
        self.mailbox.borrow_mut().push_back(Incoming::Finish);
        self.step(|_, _| {});
    }

    fn hang_up(&self) {
        // Ticket 0 is nobody's: a hang-up is the connection's as a whole.
        self.deliver(ShardId(0), 0, Answer::Hangup);
    }
}

async fn read_commands<R: Runtime, L: ShardLink>(shared: &Shared<R, L>, mut reader: impl Reader) {
    let mut buf = Vec::new();
    let mut room_bytes = READ_BYTES_MIN;
    loop {
        while !shared.connection.borrow().wants_read() {
            if shared.ended.get() {
                return;
            }
            shared.read_again.wait().await;
        }
        buf.clear();
        let (read, filled) = reader.read(buf, room_bytes).await;
        buf = filled;
        match read {
            Ok(0) => shared.step(|connection, now| connection.handle_eof(now)),
            Ok(bytes) => {
                shared.step(|connection, now| connection.handle_bytes(now, Bytes::copy_from_slice(&buf)));
                room_bytes = next_room_bytes(room_bytes, bytes, shared.connection.borrow().body_bytes_left());
                if buf.capacity() > room_bytes {
                    buf = Vec::new();
                }
            }
            Err(_) => return shared.break_off(),
        }
    }
}

/// More room for who fills it, less for who leaves most of it empty.
fn next_room_bytes(room_bytes: usize, read_bytes: usize, body_bytes_left: u64) -> usize {
    let most = if body_bytes_left > COMMAND_BYTES_MAX as u64 { READ_BYTES_MAX } else { COMMAND_BYTES_MAX };
    let room_bytes = room_bytes.min(most);
    if read_bytes >= room_bytes {
        (room_bytes * 4).min(most)
    } else if read_bytes < room_bytes / 4 {
        (room_bytes / 4).max(READ_BYTES_MIN)
    } else {
        room_bytes
    }
}

async fn write_replies<R: Runtime, L: ShardLink>(shared: Rc<Shared<R, L>>, mut writer: impl Writer) {
    loop {
        let mut chunks = Vec::new();
        shared.step(|connection, now| {
            chunks = connection.take_output();
            if !chunks.is_empty() {
                connection.handle_writing(now);
            }
        });
        if !chunks.is_empty() {
            if write_in_pieces(&shared, &mut writer, chunks).await.is_err() {
                shared.break_off();
                break;
            }
            shared.step(|connection, now| connection.handle_written(now));
        } else if shared.ended.get() {
            break;
        } else {
            shared.write_again.wait().await;
        }
    }
    writer.shutdown();
}

async fn write_in_pieces<R: Runtime, L: ShardLink>(
    shared: &Shared<R, L>,
    writer: &mut impl Writer,
    chunks: Vec<Bytes>,
) -> io::Result<()> {
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    if bytes <= PIECE_BYTES_MAX {
        return writer.write(chunks).await;
    }
    let mut chunks = VecDeque::from(chunks);
    while !chunks.is_empty() {
        writer.write(take_piece(&mut chunks)).await?;
        shared.step(|connection, now| connection.handle_progress(now));
    }
    Ok(())
}

/// The first of the chunks, up to the length of a piece.
fn take_piece(chunks: &mut VecDeque<Bytes>) -> Vec<Bytes> {
    let mut piece = Vec::new();
    let mut room_bytes = PIECE_BYTES_MAX;
    while let Some(chunk) = chunks.front_mut() {
        if chunk.len() > room_bytes {
            if room_bytes > 0 {
                piece.push(chunk.split_to(room_bytes));
            }
            break;
        }
        room_bytes -= chunk.len();
        piece.extend(chunks.pop_front());
    }
    piece
}

async fn sleep_until_deadlines<R: Runtime, L: ShardLink>(shared: Rc<Shared<R, L>>) {
    loop {
        let deadline = shared.connection.borrow().next_deadline();
        shared.sleeping_until.set(deadline);
        let Some(deadline) = deadline else { break };
        let now = shared.runtime.now();
        if deadline <= now {
            shared.step(|connection, now| connection.handle_time(now));
            continue;
        }
        // Either may be dropped: a sleep holds nothing, and a signal that is not taken is kept.
        let mut sleep = pin!(shared.runtime.sleep(deadline.saturating_sub(now)));
        let mut again = pin!(shared.sleep_again.wait());
        poll_fn(|context| match sleep.as_mut().poll(context) {
            Poll::Pending => again.as_mut().poll(context),
            Poll::Ready(()) => Poll::Ready(()),
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_all_bytes_in_their_order_and_none_is_too_long() {
        let lengths = [10, PIECE_BYTES_MAX - 10, 1, 3 * PIECE_BYTES_MAX, 5, 2 * PIECE_BYTES_MAX - 6, 7];
        let mut next = 0u8;
        let mut chunk = |length: usize| {
            next += 1;
            Bytes::from(vec![next; length])
        };
        let mut chunks: VecDeque<Bytes> = lengths.into_iter().map(&mut chunk).collect();
        let all = Vec::from(chunks.clone()).concat();
        let mut pieces = Vec::new();
        while !chunks.is_empty() {
            pieces.push(take_piece(&mut chunks).concat());
        }
        assert!(pieces.iter().all(|piece| (1..=PIECE_BYTES_MAX).contains(&piece.len())));
        assert_eq!(pieces.len(), all.len().div_ceil(PIECE_BYTES_MAX));
        assert_eq!(pieces.concat(), all);
    }

    /// A hundred thousand commands of one client are handled as a few hundred at a time; a body comes in few reads.
    #[test]
    fn a2_only_a_body_is_read_in_large_pieces() {
        let grown = |body_bytes_left: u64| {
            (0..10).fold(READ_BYTES_MIN, |room_bytes, _| next_room_bytes(room_bytes, room_bytes, body_bytes_left))
        };
        assert_eq!(grown(0), COMMAND_BYTES_MAX);
        assert_eq!(grown(COMMAND_BYTES_MAX as u64), COMMAND_BYTES_MAX);
        assert_eq!(grown(1 << 20), READ_BYTES_MAX);
        assert_eq!(next_room_bytes(READ_BYTES_MAX, READ_BYTES_MAX, 100), COMMAND_BYTES_MAX, "its body is at its end");
        assert_eq!(next_room_bytes(READ_BYTES_MAX, 100, 0), READ_BYTES_MIN);
    }
}
