//! A connection whose peer has said who it is and was not answered yet: from here it goes to its shard's thread.
//!
//! The thread that accepts a connection can't know whose it is before it has read the Hello. It must not do more than
//! that for a shard of another thread: who is admitted, and which connection is the newest, is decided in one place.

use std::io;

use super::assembler::Assembler;
use super::handshake::Hello;
use super::stream::FrameReader;
use crate::io::Wire;
use crate::types::ShardId;

/// On the thread that read the Hello, or on that which serves it.
pub struct Greeted<W: Wire> {
    pub(super) hello: Hello,
    pub(super) reader: FrameReader<W::Reader>,
    pub(super) writer: W::Writer,
}

/// Between the two threads.
pub struct DetachedGreeted<W: Wire> {
    hello: Hello,
    /// What the peer has sent behind its Hello; nothing, if it waits to be welcomed.
    assembler: Assembler,
    stream: W::Detached,
}

impl<W: Wire> Greeted<W> {
    /// The shard that the peer wants to talk to, which need not exist.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.hello.shard
    }

    /// # Errors
    /// The stream can't leave this thread; it is shut down.
    pub fn detach(self) -> io::Result<DetachedGreeted<W>> {
        let (reader, assembler) = self.reader.into_parts();
        let stream = W::detach(reader, self.writer)?;
        Ok(DetachedGreeted { hello: self.hello, assembler, stream })
    }
}

impl<W: Wire> DetachedGreeted<W> {
    #[must_use]
    pub fn attach(self, wire: &W) -> Greeted<W> {
        let (reader, writer) = wire.attach(self.stream);
        Greeted { hello: self.hello, reader: FrameReader::from_parts(reader, self.assembler), writer }
    }
}
