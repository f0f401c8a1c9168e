//! Ends an `enqueue` early: at a signal, or when the server is of no more use. Tells who feeds the connections, wakes him
//! where he waits for input, and cuts connections that would keep him waiting.
//!
//! It must never leave anybody waiting: what became of the jobs is told behind all of them.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::client::Scissors;
use crate::io::signals::heeded;

/// How long the answers to what was sent may still come after a signal: every one of them is a job less that is unknown.
const GRACE: Duration = Duration::from_secs(1);
const LOOK_FOR_SIGNALS_EVERY: Duration = Duration::from_millis(20);
const PIECE_BYTES: usize = 64 << 10;

/// Why a run ends early, and what has to be ended with it.
#[derive(Debug)]
pub struct Halt {
    halting: AtomicBool,
    why: Mutex<Option<String>>,
    connections: Mutex<Connections>,
    input: SyncSender<Piece>,
}

#[derive(Debug, Default)]
struct Connections {
    open: Vec<Scissors>,
    /// A connection that is opened later is cut at once.
    are_cut: bool,
}

/// What comes of the input.
#[derive(Debug)]
enum Piece {
    /// No bytes: the end.
    Read(io::Result<Vec<u8>>),
    /// There may be no more, and nobody is to wait for it.
    Halted,
}

/// The input, read by a thread of its own, since nothing ends the wait for bytes that do not come.
#[derive(Debug)]
pub struct Input {
    pieces: Receiver<Piece>,
    halt: Arc<Halt>,
    piece: Vec<u8>,
    at: usize,
}

impl Halt {
    /// With the input that ends when this halts.
    pub fn with_input(file: File) -> (Arc<Halt>, Input) {
        let (input, pieces) = sync_channel(1);
        let halt = Arc::new(Halt {
            halting: AtomicBool::new(false),
            why: Mutex::default(),
            connections: Mutex::default(),
            input: input.clone(),
        });
        thread::spawn(move || read_pieces(file, &input));
        (Arc::clone(&halt), Input { pieces, halt, piece: Vec::new(), at: 0 })
    }

    /// The first signal ends the sending, and soon the waiting for answers; a second one ends that at once. Further ones
    /// end the process as usual, and so without a report.
    ///
    /// # Errors
    /// A handler cannot be set, or the thread cannot be made.
    pub fn on_signals(self: &Arc<Halt>) -> io::Result<()> {
        let mut signals = Signals::new(heeded(&[SIGINT, SIGTERM]))?;
        let halt = Arc::clone(self);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if signals.forever().next().is_none() {
                return;
            }
            halt.stop("interrupted".to_owned());
            let patience_ends = Instant::now() + GRACE;
            while Instant::now() < patience_ends && signals.pending().next().is_none() {
                thread::sleep(LOOK_FOR_SIGNALS_EVERY);
            }
            halt.cut();
            for signal in signals.forever() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })?;
        Ok(())
    }

    /// Nothing more is to be sent. The first reason counts.
    pub fn stop(&self, why: String) {
        self.why.lock().expect("nothing panics while it holds the reason").get_or_insert(why);
        self.halting.store(true, Ordering::Release);
        // If the channel is full, nobody waits at it: whoever takes a piece looks at the reason before the next one.
        let _ = self.input.try_send(Piece::Halted);
    }

    pub fn reason(&self) -> Option<String> {
        if !self.halting.load(Ordering::Acquire) {
            return None;
        }
        self.why.lock().expect("nothing panics while it holds the reason").clone()
    }

    /// A connection that may have to be cut.
    pub fn add(&self, scissors: Scissors) {
        let mut connections = self.connections.lock().expect("nothing panics while it holds the connections");
        if connections.are_cut {
            scissors.cut();
        }
        connections.open.push(scissors);
    }

    fn cut(&self) {
        let mut connections = self.connections.lock().expect("nothing panics while it holds the connections");
        connections.are_cut = true;
        connections.open.iter().for_each(Scissors::cut);
    }
}

fn read_pieces(mut file: File, pieces: &SyncSender<Piece>) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = match file.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read,
        };
        let is_last = !matches!(read, Ok(1..));
        let read = read.map(|bytes| {
            piece.truncate(bytes);
            piece
        });
        if pieces.send(Piece::Read(read)).is_err() || is_last {
            return;
        }
    }
}

impl Read for Input {
    /// To be called no more once it gave an error or the end.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let halted = || io::Error::other("it was halted");
            if self.halt.reason().is_some() {
                return Err(halted());
            }
            match self.pieces.recv().expect("the halt holds an end of the channel") {
                Piece::Read(piece) => (self.piece, self.at) = (piece?, 0),
                Piece::Halted => return Err(halted()),
            }
        }
        let taken = (self.piece.len() - self.at).min(buf.len());
        buf[..taken].copy_from_slice(&self.piece[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}
