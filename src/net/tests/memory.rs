//! A world in memory for tests of links: one thread, virtual time, streams that can be cut, held up and cut short.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use crate::io::{
    AlignedBuf, DirEntry, Disk, File, Listener, OpenMode, Pieces, Reader, Runtime, Wire, WireOptions, Writer,
};
use crate::types::Nanos;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The whole world; each clone is the same one.
#[derive(Clone)]
pub struct World {
    inner: Rc<Inner>,
    disk: NoDisk,
}

struct Inner {
    now: Cell<Nanos>,
    random: Cell<u64>,
    tasks: RefCell<Vec<Option<Task>>>,
    ready: Arc<Ready>,
    timers: RefCell<BTreeMap<(Nanos, u64), Waker>>,
    timers_made: Cell<u64>,
    network: Network,
}

#[derive(Default)]
struct Ready(Mutex<VecDeque<usize>>);

struct TaskWaker {
    task: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.0.lock().unwrap().push_back(self.task);
    }
}

impl World {
    pub fn new() -> World {
        let inner = Inner {
            now: Cell::new(Nanos::from_secs(1)),
            random: Cell::new(1),
            tasks: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            timers_made: Cell::new(0),
            network: Network::default(),
        };
        World { inner: Rc::new(inner), disk: NoDisk }
    }

    /// Lets everything happen that happens within this time.
    pub fn run(&self, duration: Nanos) {
        let end = self.now().saturating_add(duration);
        loop {
            self.run_ready();
            let next = self.inner.timers.borrow().first_key_value().map(|(&key, _)| key);
            match next {
                Some(key) if key.0 <= end => {
                    self.inner.now.set(key.0);
                    let waker = self.inner.timers.borrow_mut().remove(&key).unwrap();
                    waker.wake();
                }
                _ => break,
            }
        }
        self.inner.now.set(end);
    }

    /// Runs until nothing can go on without time.
    pub fn settle(&self) {
        self.run_ready();
    }

    fn run_ready(&self) {
        loop {
            let Some(id) = self.inner.ready.0.lock().unwrap().pop_front() else { return };
            let Some(mut task) = self.inner.tasks.borrow_mut()[id].take() else { continue };
            let waker = Waker::from(Arc::new(TaskWaker { task: id, ready: self.inner.ready.clone() }));
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                self.inner.tasks.borrow_mut()[id] = Some(task);
            }
        }
    }

    pub fn network(&self) -> &Network {
        &self.inner.network
    }
}

impl Runtime for World {
    type Disk = NoDisk;
    type Wire = World;

    fn disk(&self) -> &NoDisk {
        &self.disk
    }

    fn wire(&self) -> &World {
        self
    }

    fn now(&self) -> Nanos {
        self.inner.now.get()
    }

    fn wall(&self) -> Nanos {
        self.now()
    }

    fn thread_time(&self) -> Nanos {
        self.now()
    }

    fn random(&self) -> u64 {
        let random = self.inner.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.inner.random.set(random);
        random >> 11
    }

    async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }

    async fn sleep(&self, duration: Nanos) {
        let number = self.inner.timers_made.get();
        self.inner.timers_made.set(number + 1);
        let key = (self.now().saturating_add(duration), number);
        poll_fn(|context| {
            if self.now() >= key.0 {
                self.inner.timers.borrow_mut().remove(&key);
                return Poll::Ready(());
            }
            self.inner.timers.borrow_mut().insert(key, context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.inner.tasks.borrow_mut();
        self.inner.ready.0.lock().unwrap().push_back(tasks.len());
        tasks.push(Some(Box::pin(task)));
    }
}

/// Every stream ever connected, oldest first, and who listens where.
#[derive(Default)]
pub struct Network {
    listeners: RefCell<BTreeMap<String, Rc<RefCell<Accepts>>>>,
    streams: RefCell<Vec<Stream>>,
}

#[derive(Default)]
struct Accepts {
    waiting: VecDeque<(MemoryReader, MemoryWriter)>,
    closed: bool,
    waker: Option<Waker>,
}

/// Both directions of one connection.
#[derive(Clone)]
pub struct Stream {
    pub to_listener: Pipe,
    pub to_dialer: Pipe,
}

/// One direction of a stream. Writes wait while it holds more than its capacity.
#[derive(Clone, Default)]
pub struct Pipe(Rc<RefCell<PipeState>>);

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    closed: bool,
    /// Nothing is delivered, not even the end.
    held: bool,
    /// Writes wait.
    full: bool,
    /// The stream breaks after so many more bytes.
    breaks_after: Option<usize>,
    wakers: Vec<Waker>,
}

impl Pipe {
    fn change(&self, change: impl FnOnce(&mut PipeState)) {
        let mut state = self.0.borrow_mut();
        change(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
    }

    pub fn hold(&self) {
        self.change(|state| state.held = true);
    }

    pub fn release(&self) {
        self.change(|state| state.held = false);
    }

    pub fn set_full(&self, full: bool) {
        self.change(|state| state.full = full);
    }

    pub fn break_after(&self, bytes: usize) {
        self.change(|state| state.breaks_after = Some(bytes));
    }

    pub fn close(&self) {
        self.change(|state| state.closed = true);
    }

    pub fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut broken = false;
        self.change(|state| {
            broken = state.closed;
            if !broken {
                let passes = state.breaks_after.map_or(bytes.len(), |left| left.min(bytes.len()));
                state.bytes.extend(&bytes[..passes]);
                if let Some(left) = &mut state.breaks_after {
                    *left -= passes;
                    state.closed = *left == 0;
                }
            }
        });
        if broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl Stream {
    pub fn cut(&self) {
        self.to_listener.close();
        self.to_dialer.close();
    }
}

impl Network {
    pub fn streams(&self) -> Vec<Stream> {
        self.streams.borrow().clone()
    }

    pub fn newest(&self) -> Stream {
        self.streams.borrow().last().expect("something was connected").clone()
    }

    /// The process that listens there dies: its port is free, its streams end.
    pub fn kill(&self, address: &str) {
        self.listeners.borrow_mut().remove(address);
        self.streams().iter().for_each(Stream::cut);
    }
}

impl Wire for World {
    type Listener = MemoryListener;
    type Reader = MemoryReader;
    type Writer = MemoryWriter;
    type Detached = (MemoryReader, MemoryWriter);

    fn listen(&self, address: &str, _options: WireOptions) -> io::Result<MemoryListener> {
        let accepts = Rc::<RefCell<Accepts>>::default();
        self.network().listeners.borrow_mut().insert(address.to_owned(), accepts.clone());
        Ok(MemoryListener { address: address.to_owned(), accepts })
    }

    async fn connect(&self, address: &str, _options: WireOptions) -> io::Result<(MemoryReader, MemoryWriter)> {
        self.sleep(Nanos::from_micros(50)).await;
        let accepts = self.network().listeners.borrow().get(address).cloned();
        let accepts = accepts.ok_or(io::ErrorKind::ConnectionRefused)?;
        let stream = Stream { to_listener: Pipe::default(), to_dialer: Pipe::default() };
        self.network().streams.borrow_mut().push(stream.clone());
        let mut accepts = accepts.borrow_mut();
        accepts.waiting.push_back((MemoryReader(stream.to_listener.clone()), MemoryWriter::new(&stream, true)));
        if let Some(waker) = accepts.waker.take() {
            waker.wake();
        }
        Ok((MemoryReader(stream.to_dialer.clone()), MemoryWriter::new(&stream, false)))
    }

    fn detach(reader: MemoryReader, writer: MemoryWriter) -> io::Result<(MemoryReader, MemoryWriter)> {
        Ok((reader, writer))
    }

    fn attach(&self, stream: (MemoryReader, MemoryWriter)) -> (MemoryReader, MemoryWriter) {
        stream
    }
}

pub struct MemoryListener {
    address: String,
    accepts: Rc<RefCell<Accepts>>,
}

impl Listener for MemoryListener {
    type Reader = MemoryReader;
    type Writer = MemoryWriter;

    async fn accept(&self) -> io::Result<(MemoryReader, MemoryWriter)> {
        poll_fn(|context| {
            let mut accepts = self.accepts.borrow_mut();
            if accepts.closed {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if let Some(halves) = accepts.waiting.pop_front() {
                return Poll::Ready(Ok(halves));
            }
            accepts.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }

    fn close(&self) {
        let mut accepts = self.accepts.borrow_mut();
        accepts.closed = true;
        if let Some(waker) = accepts.waker.take() {
            waker.wake();
        }
    }
}

pub struct MemoryReader(Pipe);

impl Reader for MemoryReader {
    async fn read(&mut self, mut buf: Vec<u8>, bytes_max: usize) -> (io::Result<usize>, Vec<u8>) {
        let read = poll_fn(|context| {
            let mut state = self.0.0.borrow_mut();
            if !state.held && (!state.bytes.is_empty() || state.closed) {
                let bytes = state.bytes.len().min(bytes_max);
                buf.extend(state.bytes.drain(..bytes));
                return Poll::Ready(bytes);
            }
            state.wakers.push(context.waker().clone());
            Poll::Pending
        });
        let read = pin!(read).await;
        (Ok(read), buf)
    }
}

pub struct MemoryWriter {
    out: Pipe,
    stream: Stream,
}

impl MemoryWriter {
    fn new(stream: &Stream, is_listener: bool) -> MemoryWriter {
        let out = if is_listener { &stream.to_dialer } else { &stream.to_listener };
        MemoryWriter { out: out.clone(), stream: stream.clone() }
    }
}

impl Writer for MemoryWriter {
    async fn write(&mut self, chunks: Vec<Bytes>) -> io::Result<()> {
        poll_fn(|context| {
            let mut state = self.out.0.borrow_mut();
            if !state.full || state.closed {
                return Poll::Ready(());
            }
            state.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.out.write(&chunks.concat())
    }

    fn shutdown(&self) {
        self.stream.cut();
    }

    fn peer_host(&self) -> String {
        "one".to_owned()
    }

    fn closer(&self) -> Box<dyn Fn()> {
        let stream = self.stream.clone();
        Box::new(move || stream.cut())
    }
}

/// Links have nothing to do with disks.
#[derive(Clone)]
pub struct NoDisk;

impl File for NoDisk {
    async fn read_at(&self, _buf: AlignedBuf, _offset: u64) -> (io::Result<()>, AlignedBuf) {
        unreachable!()
    }
    async fn write_at(&self, _buf: AlignedBuf, _offset: u64) -> (io::Result<()>, AlignedBuf) {
        unreachable!()
    }
    async fn sync(&self) -> io::Result<()> {
        unreachable!()
    }
    fn bytes(&self) -> u64 {
        unreachable!()
    }
}

impl Disk for NoDisk {
    type File = NoDisk;
    type Map = Vec<u8>;

    async fn open(&self, _path: &Path, _mode: OpenMode) -> io::Result<NoDisk> {
        unreachable!()
    }
    async fn create_dir(&self, _path: &Path) -> io::Result<()> {
        unreachable!()
    }
    async fn list(&self, _dir: &Path) -> io::Result<Vec<DirEntry>> {
        unreachable!()
    }
    async fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        unreachable!()
    }
    async fn unlink(&self, _path: &Path) -> io::Result<()> {
        unreachable!()
    }
    async fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        unreachable!()
    }
    async fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        unreachable!()
    }
    async fn read_small(&self, _path: &Path, _bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        unreachable!()
    }
    async fn replace_small(&self, _path: &Path, _content: &[u8]) -> io::Result<()> {
        unreachable!()
    }
    async fn make_zeroed(&self, _path: PathBuf, _bytes: u64) -> io::Result<()> {
        unreachable!()
    }
    async fn make_filled(&self, _path: PathBuf, _pieces: Pieces) -> io::Result<u64> {
        unreachable!()
    }
    async fn read_cold(&self, _path: &Path, _offset: u64, _bytes: usize) -> io::Result<AlignedBuf> {
        unreachable!()
    }
    async fn map(&self, _path: &Path) -> io::Result<Vec<u8>> {
        unreachable!()
    }
    async fn make_allocated(&self, _path: &Path, _bytes: u64) -> io::Result<()> {
        unreachable!()
    }
}
