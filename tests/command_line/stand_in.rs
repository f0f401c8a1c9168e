//! A stand-in for a server that answers puts as a test wants it: the situations that a real one gets into rarely.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What becomes of a put.
pub enum Answer {
    Inserted,
    Line(&'static str),
    /// None, and the connection stays.
    Silence,
    HangUp,
}

/// A put as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub tube: String,
    pub line: String,
    pub body: Vec<u8>,
}

pub struct StandIn {
    pub address: String,
    puts: Arc<Mutex<Vec<Put>>>,
}

impl StandIn {
    /// `decide` is asked for the n-th put, from 1, over all connections.
    pub fn start(decide: impl Fn(usize) -> Answer + Send + Sync + 'static) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("it is bound").to_string();
        let puts = Arc::new(Mutex::new(Vec::new()));
        let (decide, shared) = (Arc::new(decide), Arc::clone(&puts));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (decide, puts) = (Arc::clone(&decide), Arc::clone(&shared));
                std::thread::spawn(move || serve(stream, &puts, &*decide));
            }
        });
        StandIn { address, puts }
    }

    /// Everything that was put, in the order of its arrival over all connections.
    pub fn puts(&self) -> Vec<Put> {
        self.puts.lock().expect("no server thread panics").clone()
    }

    /// Waits until so many puts have arrived.
    pub fn wait_for_puts(&self, count: usize) {
        let started = Instant::now();
        while self.puts().len() < count {
            assert!(started.elapsed() < Duration::from_secs(20), "{} puts came, not {count}", self.puts().len());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn serve(stream: TcpStream, puts: &Mutex<Vec<Put>>, decide: &dyn Fn(usize) -> Answer) {
    let mut writer = stream.try_clone().expect("a descriptor is free");
    let mut reader = BufReader::new(stream);
    let mut tube = "default".to_owned();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_owned();
        if let Some(name) = line.strip_prefix("use ") {
            tube = name.to_owned();
            let _ = write!(writer, "USING {name}\r\n");
            continue;
        }
        let bytes: usize = line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a put ends with its size");
        let mut body = vec![0; bytes + 2];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        body.truncate(bytes);
        let number = {
            let mut puts = puts.lock().expect("no server thread panics");
            puts.push(Put { tube: tube.clone(), line, body });
            puts.len()
        };
        let _ = match decide(number) {
            Answer::Inserted => write!(writer, "INSERTED {number}\r\n"),
            Answer::Line(text) => write!(writer, "{text}\r\n"),
            Answer::Silence => Ok(()),
            Answer::HangUp => return,
        };
    }
}
