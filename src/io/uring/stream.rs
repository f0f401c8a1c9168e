//! The two halves of a stream, TCP or Unix: one reader and one writer, each owned by one task.
//!
//! It must never lose bytes silently: whoever drops a read in flight finds the stream shut down.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use io_uring::opcode;
use socket2::SockRef;

use super::op;
use crate::io::{Reader, Writer};

/// Up to this many bytes, chunks are copied together and sent in one operation; above it, the kernel gathers them from
/// where they are. A reply is some tens of bytes, a copy of 16 KiB takes about a microsecond.
const COALESCED_BYTES_MAX: usize = 16 * 1024;

/// The kernel takes at most 1024 pieces in one gathered send (UIO_MAXIOV).
const PIECES_MAX: usize = 1024;

pub(super) fn split(socket: Rc<OwnedFd>) -> (UringReader, UringWriter) {
    (UringReader { socket: Rc::clone(&socket) }, UringWriter { socket, coalesced: Vec::new() })
}

/// Undoes `split`, so that another thread may have the socket.
pub(super) fn join(reader: UringReader, writer: UringWriter) -> io::Result<OwnedFd> {
    drop(reader);
    // An operation in flight holds the socket too, and its completion belongs to this thread's ring.
    Rc::try_unwrap(writer.socket).map_err(|shared| {
        shut_down(&shared);
        io::Error::other("an operation on the stream is under way")
    })
}

pub(super) fn shut_down(socket: &OwnedFd) {
    // An error means that the stream is not connected any more, which is what was asked for.
    let _ = SockRef::from(socket).shutdown(Shutdown::Both);
}

/// Shuts a stream down when an operation on it is abandoned half way.
struct ShutDownUnlessDone<'a> {
    socket: &'a OwnedFd,
    done: bool,
}

impl Drop for ShutDownUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.done {
            shut_down(self.socket);
        }
    }
}

pub struct UringReader {
    socket: Rc<OwnedFd>,
}

impl Reader for UringReader {
    async fn read(&mut self, mut buf: Vec<u8>, bytes_max: usize) -> (io::Result<usize>, Vec<u8>) {
        assert!(bytes_max > 0, "a read of nothing looks like the end of the stream");
        let bytes_max = bytes_max.min(1 << 30);
        let start = buf.len();
        buf.reserve(bytes_max);
        // The bytes that a dropped read would have returned are gone, and what follows them makes no sense.
        let mut guard = ShutDownUnlessDone { socket: &self.socket, done: false };
        loop {
            // SAFETY: the address is that of the vector's spare capacity, at least `bytes_max` bytes after `start`;
            // the heap memory stays where it is when the vector is moved, and nobody else can reach it.
            let operation = unsafe {
                op::submit(&self.socket, buf, |fd, buf: &Vec<u8>| {
                    opcode::Recv::new(fd, buf.as_ptr().cast_mut().wrapping_add(start), bytes_max as u32).build()
                })
            };
            let (result, returned) = operation.await;
            buf = returned;
            match result {
                Ok(count) => {
                    assert!(count <= bytes_max, "the kernel reads no more than it was asked for");
                    // SAFETY: the kernel has initialised `count` bytes after `start`, within the capacity.
                    unsafe { buf.set_len(start + count) };
                    guard.done = true;
                    return (Ok(count), buf);
                }
                Err(error) if op::is_transient(&error) => tokio::task::yield_now().await,
                Err(error) => {
                    guard.done = true;
                    return (Err(error), buf);
                }
            }
        }
    }
}

pub struct UringWriter {
    socket: Rc<OwnedFd>,
    /// Empty between writes; keeps its capacity, at most `COALESCED_BYTES_MAX`.
    coalesced: Vec<u8>,
}

impl Writer for UringWriter {
    async fn write(&mut self, mut chunks: Vec<Bytes>) -> io::Result<()> {
        chunks.retain(|chunk| !chunk.is_empty());
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        let socket = Rc::clone(&self.socket);
        // Half a frame on the wire would make nonsense of every later one.
        let mut guard = ShutDownUnlessDone { socket: &socket, done: false };
        let result = if chunks.is_empty() {
            Ok(())
        } else if chunks.len() > 1 && bytes <= COALESCED_BYTES_MAX {
            self.write_coalesced(&chunks).await
        } else {
            self.write_gathered(chunks).await
        };
        guard.done = result.is_ok();
        result
    }

    fn shutdown(&self) {
        shut_down(&self.socket);
    }

    fn peer_host(&self) -> String {
        match SockRef::from(&*self.socket).peer_addr() {
            Ok(address) if address.is_unix() => "this host".to_owned(),
            Ok(address) => {
                address.as_socket().map_or_else(String::new, |address| address.ip().to_canonical().to_string())
            }
            // It is gone already.
            Err(_) => "an unknown host".to_owned(),
        }
    }

    fn closer(&self) -> Box<dyn Fn()> {
        // Not an owner: a closer that is kept for long must not keep the descriptor open.
        let socket: Weak<OwnedFd> = Rc::downgrade(&self.socket);
        Box::new(move || {
            if let Some(socket) = socket.upgrade() {
                shut_down(&socket);
            }
        })
    }
}

impl UringWriter {
    async fn write_coalesced(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        let mut buf = std::mem::take(&mut self.coalesced);
        for chunk in chunks {
            buf.extend_from_slice(chunk);
        }
        let mut done = 0;
        while done < buf.len() {
            // SAFETY: the address lies `done` bytes into the vector's heap memory, which does not move with it.
            let operation = unsafe {
                op::submit(&self.socket, buf, |fd, buf: &Vec<u8>| {
                    let length = (buf.len() - done) as u32;
                    let start = buf.as_ptr().wrapping_add(done);
                    opcode::Send::new(fd, start, length).flags(SEND_FLAGS).build()
                })
            };
            let (result, returned) = operation.await;
            buf = returned;
            done += sent(result).await?;
        }
        buf.clear();
        self.coalesced = buf;
        Ok(())
    }

    async fn write_gathered(&mut self, mut chunks: Vec<Bytes>) -> io::Result<()> {
        // Both ends of the list are consumed as bytes leave; it is kept reversed so that the front is cheap to drop.
        chunks.reverse();
        while !chunks.is_empty() {
            let gathered = Gathered::new(chunks);
            // SAFETY: the message header and the pieces are boxed, so they stay where they are when `gathered` is
            // moved; they point into the chunks, which it owns too and which are immutable.
            let operation = unsafe {
                op::submit(&self.socket, gathered, |fd, gathered| {
                    opcode::SendMsg::new(fd, &raw const *gathered.header).flags(SEND_FLAGS as u32).build()
                })
            };
            let (result, gathered) = operation.await;
            chunks = gathered.chunks;
            drop_front(&mut chunks, sent(result).await?);
        }
        Ok(())
    }
}

/// No signal when the peer is gone; and all of it if the kernel can, so that one operation is one completion.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

async fn sent(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if op::is_transient(&error) => {
            tokio::task::yield_now().await;
            Ok(0)
        }
        result => result,
    }
}

/// Takes the first `bytes` bytes off a reversed list of chunks.
fn drop_front(chunks: &mut Vec<Bytes>, mut bytes: usize) {
    while bytes > 0 {
        let front = chunks.last_mut().expect("no more is sent than there was");
        if front.len() > bytes {
            *front = front.slice(bytes..);
            return;
        }
        bytes -= front.len();
        chunks.pop();
    }
}

/// Chunks, last first, and the description of the first of them in order that the kernel reads.
struct Gathered {
    chunks: Vec<Bytes>,
    header: Box<libc::msghdr>,
    _pieces: Box<[libc::iovec]>,
}

impl Gathered {
    fn new(chunks: Vec<Bytes>) -> Gathered {
        let mut pieces: Box<[libc::iovec]> = chunks
            .iter()
            .rev()
            .take(PIECES_MAX)
            .map(|chunk| libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() })
            .collect();
        // SAFETY: a message header of zeros is valid: no address, no pieces, no control data.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_iov = pieces.as_mut_ptr();
        header.msg_iovlen = pieces.len();
        Gathered { chunks, header, _pieces: pieces }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_bytes_are_taken_off_the_front_also_inside_a_chunk() {
        let mut chunks = vec![Bytes::from_static(b"ghi"), Bytes::from_static(b"def"), Bytes::from_static(b"abc")];
        drop_front(&mut chunks, 4);
        assert_eq!(chunks, [&b"ghi"[..], &b"ef"[..]]);
        drop_front(&mut chunks, 2);
        assert_eq!(chunks, [&b"ghi"[..]]);
        drop_front(&mut chunks, 3);
        assert!(chunks.is_empty());
    }
}
