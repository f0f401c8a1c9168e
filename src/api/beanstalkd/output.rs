//! Bytes on their way to a client, in chunks for a vectored write. Small pieces are gathered, large bodies are
//! passed on as they are.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// Bodies from this size on are chunks of their own instead of being copied.
pub const BODY_BYTES_SHARED_MIN: usize = 2048;

#[derive(Debug, Default)]
pub struct Output {
    /// Complete chunks; none is empty. What is in `tail` comes after them.
    chunks: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
    /// Of `bytes` and `bytes_taken`: those that have no room of their own (`output_budget`).
    own_bytes: usize,
    /// Taken by the writer and not confirmed as written.
    bytes_taken: usize,
    own_bytes_taken: usize,
}

impl Output {
    /// Bytes that wait, or are with the writer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.bytes_taken
    }

    /// Bytes that wait for the writer.
    #[must_use]
    pub fn bytes_waiting(&self) -> usize {
        self.bytes
    }

    /// Bytes that wait, or are with the writer, but for bodies that came with room in the budget of their own.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    pub fn push_line(&mut self, line: fmt::Arguments<'_>) {
        let before = self.tail.len();
        fmt::write(&mut self.tail, line).expect("formatting into memory does not fail");
        self.bytes += self.tail.len() - before;
        self.own_bytes += self.tail.len() - before;
    }

    /// The body of a job. A short one is copied; a long one has room of its own.
    pub fn push_body(&mut self, body: &Bytes) {
        if body.len() < BODY_BYTES_SHARED_MIN {
            self.own_bytes += body.len();
        }
        self.push(body);
    }

    /// Bytes that were made for this output.
    pub fn push_document(&mut self, document: &Bytes) {
        self.own_bytes += document.len();
        self.push(document);
    }

    fn push(&mut self, body: &Bytes) {
        self.bytes += body.len();
        if body.len() < BODY_BYTES_SHARED_MIN {
            self.tail.extend_from_slice(body);
        } else {
            self.end_chunk();
            self.chunks.push(body.clone());
        }
    }

    /// Everything there is, for the writer. [`Output::written`] follows when it has gone out.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.end_chunk();
        self.bytes_taken += std::mem::take(&mut self.bytes);
        self.own_bytes_taken = self.own_bytes;
        std::mem::take(&mut self.chunks)
    }

    /// What was taken has been written.
    pub fn written(&mut self) {
        self.bytes_taken = 0;
        self.own_bytes -= std::mem::take(&mut self.own_bytes_taken);
    }

    fn end_chunk(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_between_lines_and_large_bodies() {
        let mut output = Output::default();
        let large = Bytes::from(vec![b'x'; BODY_BYTES_SHARED_MIN]);
        output.push_line(format_args!("A\r\n"));
        output.push_body(&Bytes::from_static(b"small"));
        output.push_body(&large);
        output.push_line(format_args!("\r\n"));
        assert_eq!((output.bytes(), output.own_bytes()), (10 + large.len(), 10));
        let chunks = output.take();
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks.concat(), [b"A\r\nsmall", &large[..], b"\r\n"].concat());
        assert_eq!(output.bytes(), 10 + large.len());
        output.push_document(&large);
        assert_eq!(output.own_bytes(), 10 + large.len());
        output.written();
        assert_eq!((output.bytes(), output.own_bytes()), (large.len(), large.len()));
        assert_eq!(output.take(), std::slice::from_ref(&large));
        output.written();
        assert_eq!((output.bytes(), output.own_bytes()), (0, 0));
        assert!(output.take().is_empty());
    }
}
