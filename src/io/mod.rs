//! The only place that knows a runtime. Everything else sees the world through these traits; the real one
//! stands on tokio-uring and glommio, the simulated one (`sim/`) on virtual time and faulty devices.
//!
//! Futures here run on the thread that made them and are never `Send`. Reads are never raced against
//! anything: a read future, once polled, is awaited to its end.

pub mod buffer;
pub mod bulk;
pub mod crossing;
pub mod lock;
pub mod process;
pub mod signals;
pub mod startup;
pub mod threads;
pub mod unix_socket;
pub mod uring;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::task::Poll;

use bytes::Bytes;

pub use buffer::AlignedBuf;

use crate::types::Nanos;

/// Direct I/O is aligned to this, whatever the device says: offsets, lengths and addresses.
pub const BLOCK_BYTES: usize = 4096;

/// Whether only room is missing: what the disk holds is as certain as before.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// One core thread's world. Cheap to clone.
pub trait Runtime: Clone + 'static {
    type Disk: Disk;
    type Wire: Wire;

    fn disk(&self) -> &Self::Disk;
    fn wire(&self) -> &Self::Wire;
    /// A clock that never goes backwards and counts suspended time (CLOCK_BOOTTIME), in nanoseconds.
    fn now(&self) -> Nanos;
    /// Nanoseconds since the Unix epoch; may jump.
    fn wall(&self) -> Nanos;
    /// Processor time that this thread has taken (CLOCK_THREAD_CPUTIME_ID): not the time in which others ran.
    fn thread_time(&self) -> Nanos;
    fn random(&self) -> u64;
    fn sleep(&self, duration: Nanos) -> impl Future<Output = ()>;
    /// Runs work that takes long on a thread beside all core threads.
    fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T>;
    /// Runs the task on this thread beside all others, until it ends or the thread's world does.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

/// What to do with a file that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Direct, read only; must exist.
    Read,
    /// Direct, read and write, each write durable when it completes; must exist.
    Write,
    /// As `Write`, but creates the file; it must not exist. The directory is not synced.
    Create,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub bytes: u64,
}

/// What a file that is made on the bulk path will hold: asked for piece by piece, never on a core thread, until it gives
/// none. Pieces are of any length.
pub type Pieces = Box<dyn FnMut() -> io::Result<Option<Vec<u8>>> + Send>;

/// Files of one data directory. Names of operations are those of POSIX; none retries a failed write.
pub trait Disk: Clone + 'static {
    type File: File;
    /// The bytes of a file that never changes, at an address that is a multiple of [`BLOCK_BYTES`]. Clones are cheap.
    type Map: AsRef<[u8]> + Clone + Send + 'static;

    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>>;
    /// Creates the directory and syncs its parent; one that exists already is fine.
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Files (not directories) in a directory, sorted by name.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<DirEntry>>>;
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    fn unlink(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes a file that may be gone already.
    fn unlink_if_there(&self, path: &Path) -> impl Future<Output = io::Result<()>> {
        async move {
            match self.unlink(path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                unlinked => unlinked,
            }
        }
    }
    /// Makes creations, renames and unlinks in this directory durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
    /// Bytes that this process may still take on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> impl Future<Output = io::Result<u64>>;
    /// A small file as a whole, or none where there is none; never more than `bytes_max`.
    fn read_small(&self, path: &Path, bytes_max: usize) -> impl Future<Output = io::Result<Option<Vec<u8>>>>;
    /// Replaces a small file: temporary file, sync, rename, sync of the directory.
    fn replace_small(&self, path: &Path, content: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// Bulk path: creates a file of `bytes` zeros, really written (not only allocated) and durable, directory
    /// synced. `bytes` is a multiple of `BLOCK_BYTES`. Slow and rate-limited by design; never on the core thread.
    fn make_zeroed(&self, path: PathBuf, bytes: u64) -> impl Future<Output = io::Result<()>>;
    /// Bulk path: creates a file of these pieces, one behind the other and padded with zeros to whole blocks, written
    /// directly, durable, directory synced; or leaves none. Returns its length. Slow and rate-limited by design, and
    /// apart from `make_zeroed`: neither waits for the other to end.
    fn make_filled(&self, path: PathBuf, pieces: Pieces) -> impl Future<Output = io::Result<u64>>;
    /// Bulk path: reads from a file that nobody writes any more, which is open for this read only: one that is given up meanwhile
    /// takes no room. `offset` and `bytes` are whole blocks; fails as [`File::read_at`] does. Slow and rate-limited by
    /// design, behind all other work.
    fn read_cold(&self, path: &Path, offset: u64, bytes: usize) -> impl Future<Output = io::Result<AlignedBuf>>;
    /// Maps a whole file for reading. It must be one of those that are written once and under another name: never
    /// changed, cut or extended while it may be mapped; unlinking is fine. What the map shows went through the page
    /// cache, and a sector that cannot be read kills the process: verify the file with direct reads before.
    fn map(&self, path: &Path) -> impl Future<Output = io::Result<Self::Map>>;
    /// The emergency road to a segment: allocated but unwritten, durable metadata, directory synced.
    fn make_allocated(&self, path: &Path, bytes: u64) -> impl Future<Output = io::Result<()>>;
}

/// An open file. Offsets and lengths are multiples of [`BLOCK_BYTES`].
pub trait File: Clone + 'static {
    /// Fills the buffer from `offset` to its full length, or fails: an end of file is an error of kind
    /// `UnexpectedEof`. The buffer comes back in either case.
    fn read_at(&self, buf: AlignedBuf, offset: u64) -> impl Future<Output = (io::Result<()>, AlignedBuf)>;
    /// Writes the whole buffer; durable (O_DSYNC, or write + fdatasync) when it returns `Ok`. After an error nothing
    /// is known of what the medium holds, and the caller must stop the node, not retry.
    fn write_at(&self, buf: AlignedBuf, offset: u64) -> impl Future<Output = (io::Result<()>, AlignedBuf)>;
    /// Makes durable whatever a read of this file returns (fdatasync), also what a process that died has written: after a
    /// crash, what can be read is not yet what will be there after the next one. Works on files opened for reading. A
    /// failure is as final as that of a write.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;
    fn bytes(&self) -> u64;
}

/// Streams between nodes and to clients.
pub trait Wire: Clone + 'static {
    type Listener: Listener<Reader = Self::Reader, Writer = Self::Writer>;
    type Reader: Reader;
    type Writer: Writer;
    /// A stream between two core threads: no longer of the one, not yet of the other.
    type Detached: 'static;

    /// `address`: `host:port`, or `unix:/path` where listening.
    fn listen(&self, address: &str, options: WireOptions) -> io::Result<Self::Listener>;
    fn connect(
        &self,
        address: &str,
        options: WireOptions,
    ) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>>;
    /// Takes a stream out of this thread's world; closers that were made of it no longer do anything.
    ///
    /// # Errors
    /// An operation on it is under way. The stream is shut down.
    fn detach(reader: Self::Reader, writer: Self::Writer) -> io::Result<Self::Detached>;
    /// Takes a stream into this thread's world.
    fn attach(&self, stream: Self::Detached) -> (Self::Reader, Self::Writer);
}

/// Which socket options a stream gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireOptions {
    /// nodelay, keepalive.
    Client,
    /// nodelay, keepalive, user timeout: a peer that does not acknowledge is given up within seconds.
    Peer,
}

pub trait Listener: 'static {
    type Reader: Reader;
    type Writer: Writer;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>>;
    /// The bound address, with the port that the system chose if 0 was asked for.
    fn local_address(&self) -> String;
    /// Ends a pending and every later `accept` with an error.
    fn close(&self);
}

/// The reading half of a stream: owned by one task.
pub trait Reader: 'static {
    /// Appends what there is to `buf`, at most `bytes_max` bytes; 0 means the peer closed its side.
    fn read(&mut self, buf: Vec<u8>, bytes_max: usize) -> impl Future<Output = (io::Result<usize>, Vec<u8>)>;
}

/// The writing half of a stream: owned by one task.
pub trait Writer: 'static {
    /// Writes all of it, in order.
    fn write(&mut self, chunks: Vec<Bytes>) -> impl Future<Output = io::Result<()>>;
    /// Closes both directions; the other half's pending read ends.
    fn shutdown(&self);
    /// A handle that shuts the stream down from another task of the same thread.
    fn closer(&self) -> Box<dyn Fn()>;
    /// The host at the other end, for people: without its port, which is another each time.
    fn peer_host(&self) -> String;
}

/// Lets every other task of the thread run once. On a core thread every eighth call returns only after
/// what those tasks had queued on the ring was submitted and what the ring had completed was handed out:
/// a task that has work for ever must not keep the thread from its disk and its network.
pub async fn yield_now() {
    if uring::is_ring_due() {
        return uring::pass_ring().await;
    }
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
