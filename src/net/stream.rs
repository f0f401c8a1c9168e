//! Frames off a reader, one after the other, and the deadline under which a stranger's first frame must arrive.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::assembler::Assembler;
use super::frame::{Frame, FrameError};
use crate::io::{Reader, Runtime, Writer};
use crate::types::Nanos;

/// Why there is no further frame.
#[derive(Debug, thiserror::Error)]
pub enum StreamEnd {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection ended inside a frame")]
    Cut,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The reading half of a connection, owned by one task.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    assembler: Assembler,
}

impl<R: Reader> FrameReader<R> {
    #[must_use]
    pub fn new(reader: R, payload_bytes_max: usize) -> FrameReader<R> {
        FrameReader { reader, assembler: Assembler::new(payload_bytes_max) }
    }

    /// The reader, and what was read from it but is not yet part of a frame that was handed over.
    #[must_use]
    pub fn into_parts(self) -> (R, Assembler) {
        (self.reader, self.assembler)
    }

    #[must_use]
    pub fn from_parts(reader: R, assembler: Assembler) -> FrameReader<R> {
        FrameReader { reader, assembler }
    }

    /// From the next frame on, longer payloads pass.
    pub fn set_payload_bytes_max(&mut self, payload_bytes_max: usize) {
        self.assembler.set_payload_bytes_max(payload_bytes_max);
    }

    /// The next frame. Never raced: once polled, it must be awaited to its end.
    pub async fn next(&mut self) -> Result<Frame, StreamEnd> {
        loop {
            if let Some(frame) = self.assembler.next_frame()? {
                return Ok(frame);
            }
            let (buffer, bytes_max) = self.assembler.take_buffer();
            let (read, buffer) = self.reader.read(buffer, bytes_max).await;
            self.assembler.give_back(buffer);
            if read? == 0 {
                return Err(if self.assembler.is_between_frames() { StreamEnd::Closed } else { StreamEnd::Cut });
            }
        }
    }
}

/// Closes a connection unless it is dropped in time: a pending read then ends, so that nothing has to race it.
pub struct Deadline {
    state: Rc<RefCell<DeadlineState>>,
}

enum DeadlineState {
    Running {
        close: Box<dyn Fn()>,
    },
    /// Nothing of the connection is held any longer, though the task sleeps on.
    Met,
    Missed,
}

impl Deadline {
    #[must_use]
    pub fn start<R: Runtime>(runtime: &R, after: Nanos, writer: &impl Writer) -> Deadline {
        let state = Rc::new(RefCell::new(DeadlineState::Running { close: writer.closer() }));
        let (task, watched) = (runtime.clone(), state.clone());
        runtime.spawn(async move {
            task.sleep(after).await;
            let mut state = watched.borrow_mut();
            if let DeadlineState::Running { close } = &*state {
                close();
                *state = DeadlineState::Missed;
            }
        });
        Deadline { state }
    }

    #[must_use]
    pub fn is_missed(&self) -> bool {
        matches!(*self.state.borrow(), DeadlineState::Missed)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        if let DeadlineState::Running { .. } = *state {
            *state = DeadlineState::Met;
        }
    }
}
