//! The beanstalkd front door over real sockets and the real state machine, without a log or other nodes: what clients
//! are told must come out right whatever lies in between.

mod shard;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use beaver_raft::api::beanstalkd::body_budget::BodyLimits;
use beaver_raft::api::beanstalkd::front_door::{FrontDoor, NodeFacts, ResourceUsage};
use beaver_raft::api::beanstalkd::output_budget::OutputLimits;
use beaver_raft::api::beanstalkd::request::BODY_BYTES_MAX_DEFAULT;
use beaver_raft::api::beanstalkd::server::serve_connection;
use beaver_raft::io::bulk::{Bulk, BulkOptions};
use beaver_raft::io::uring::{CoreOptions, start_core_thread};
use beaver_raft::io::{Listener, Runtime, Wire, WireOptions};
use beaver_raft::types::Nanos;

use shard::MemoryShards;

/// Starts a server that lives as long as the test process; gives its address and what its connections share.
fn start(shards: u16) -> (String, Arc<FrontDoor>) {
    start_at("127.0.0.1:0".into(), shards)
}

fn start_at(address: String, shards: u16) -> (String, Arc<FrontDoor>) {
    let facts = NodeFacts {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        instance: 1,
        hostname: "test".into(),
        os: "test".into(),
        platform: "test".into(),
        started: Nanos::ZERO,
        segment_bytes_max: 1,
        has_binlog: true,
        resource_usage: ResourceUsage::default,
    };
    let door = Arc::new(FrontDoor::new(
        shards,
        1,
        BodyLimits { bytes_max: BODY_BYTES_MAX_DEFAULT, together_bytes_max: 1 << 30 },
        OutputLimits { together_bytes_max: 1 << 30, stall: Nanos::from_secs(600) },
        facts,
    ));
    let bulk = Bulk::start(BulkOptions::default()).expect("a bulk thread");
    let (send, receive) = mpsc::channel();
    let shared = door.clone();
    start_core_thread(0, "front-door", CoreOptions::new(bulk), move |runtime| async move {
        let listener = runtime.wire().listen(&address, WireOptions::Client).expect("a free port");
        send.send(listener.local_address()).expect("the test waits for it");
        let link = MemoryShards::new(runtime.clone(), shared.shards);
        runtime.spawn(link.clone().keep_time());
        for number in 1.. {
            let (reader, writer) = listener.accept().await.expect("a client");
            let served = serve_connection(runtime.clone(), reader, writer, Rc::clone(&link), number, shared.clone(), 0);
            runtime.spawn(served);
        }
    })
    .expect("a core thread");
    (receive.recv().expect("the server listens"), door)
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("a server");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("the server reads");
    }

    #[track_caller]
    fn expect(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        self.stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{expected:?}: {error}"));
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        line
    }

    #[track_caller]
    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an end");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

#[test]
fn a_job_goes_its_way() {
    let (address, _) = start(1);
    let mut client = Client::connect(&address);
    client.send(
        "put 5 0 60 5\r\nhello\r\nreserve\r\ntouch 1\r\nbury 1 7\r\nkick 1\r\nreserve-job 1\r\ndelete 1\r\nquit\r\n",
    );
    client.expect("INSERTED 1\r\nRESERVED 1 5\r\nhello\r\nTOUCHED\r\nBURIED\r\nKICKED 1\r\n");
    client.expect("RESERVED 1 5\r\nhello\r\nDELETED\r\n");
    client.expect_end();
}

#[test]
fn a_waiting_worker_gets_a_job_of_another_client() {
    let (address, door) = start(1);
    let (mut worker, mut producer) = (Client::connect(&address), Client::connect(&address));
    worker.send("reserve\r\nlist-tube-used\r\n");
    while door.counts().waiting == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    producer.send("put 0 0 60 1\r\nx\r\n");
    producer.expect("INSERTED 1\r\n");
    worker.expect("RESERVED 1 1\r\nx\r\nUSING default\r\n");
}

#[test]
fn a_worker_that_vanishes_gives_its_job_back_and_is_no_longer_counted() {
    let (address, door) = start(1);
    let (mut worker, mut other) = (Client::connect(&address), Client::connect(&address));
    worker.send("put 0 0 60 1\r\nx\r\nreserve\r\n");
    worker.expect("INSERTED 1\r\nRESERVED 1 1\r\nx\r\n");
    drop(worker);
    other.send("reserve-with-timeout 10\r\n");
    other.expect("RESERVED 1 1\r\nx\r\n");
    assert_eq!(door.counts().connections, 1);
}

#[test]
fn a_reserve_times_out_and_a_half_closed_client_too() {
    let (address, _) = start(2);
    let mut client = Client::connect(&address);
    client.send("watch a\r\nwatch b\r\nwatch c\r\nreserve-with-timeout 1\r\n");
    client.expect("WATCHING 2\r\nWATCHING 3\r\nWATCHING 4\r\nTIMED_OUT\r\n");
    client.send("reserve\r\n");
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    client.expect("TIMED_OUT\r\n");
    client.expect_end();
}

#[test]
fn workers_on_several_shards_get_each_job_once() {
    const JOBS: usize = 300;
    let (address, _) = start(3);
    let tubes = ["a", "b", "c", "d", "e", "f"];
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let mut worker = Client::connect(&address);
            thread::spawn(move || {
                for tube in tubes {
                    worker.send(format!("watch {tube}\r\n"));
                    worker.line();
                }
                let mut got = Vec::new();
                loop {
                    worker.send("reserve-with-timeout 2\r\n");
                    let reply = worker.line();
                    let Some(rest) = reply.strip_prefix("RESERVED ") else { break };
                    let id: u64 = rest.split(' ').next().unwrap().parse().unwrap();
                    let body = worker.line();
                    worker.send(format!("delete {id}\r\n"));
                    worker.expect("DELETED\r\n");
                    got.push(body.trim().to_owned());
                }
                got
            })
        })
        .collect();
    let mut producer = Client::connect(&address);
    for n in 0..JOBS {
        let body = n.to_string();
        producer.send(format!("use {}\r\nput 0 0 60 {}\r\n{body}\r\n", tubes[n % tubes.len()], body.len()));
    }
    for _ in 0..JOBS {
        assert!(producer.line().starts_with("USING"));
        assert!(producer.line().starts_with("INSERTED"));
    }
    let mut got: Vec<usize> =
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).map(|body| body.parse().unwrap()).collect();
    got.sort_unstable();
    assert_eq!(got, (0..JOBS).collect::<Vec<_>>());
}

#[test]
fn a_client_that_reads_nothing_is_waited_for_and_loses_nothing() {
    let (address, _) = start(1);
    let mut client = Client::connect(&address);
    let body = "x".repeat(60_000);
    client.send(format!("put 0 0 60 {}\r\n{body}\r\n", body.len()));
    client.expect("INSERTED 1\r\n");
    let asks = 1000;
    let mut sender = client.stream.get_ref().try_clone().unwrap();
    let sending = thread::spawn(move || sender.write_all("peek 1\r\n".repeat(asks).as_bytes()).unwrap());
    thread::sleep(Duration::from_millis(300));
    for _ in 0..asks {
        client.expect(&format!("FOUND 1 {}\r\n{body}\r\n", body.len()));
    }
    sending.join().unwrap();
}

#[test]
fn random_streams_are_answered_as_debians_beanstalkd_answers_them() {
    if !Path::new("/usr/bin/beanstalkd").exists() {
        println!("skipped: Debian's beanstalkd is not installed");
        return;
    }
    let (address, _) = start(1);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential.py");
    let status = Command::new("python3")
        .args([script.as_os_str(), "--seconds".as_ref(), "10".as_ref(), "--server".as_ref(), address.as_ref()])
        .status()
        .expect("python3");
    assert!(status.success());
}

/// Not a test: serves at FRONT_DOOR_LISTEN until it is stopped, to let other programs loose on the front door.
#[test]
#[ignore = "runs until it is stopped"]
fn serve() {
    let shards = std::env::var("FRONT_DOOR_SHARDS").map_or(1, |shards| shards.parse().expect("a number"));
    let address = std::env::var("FRONT_DOOR_LISTEN").expect("FRONT_DOOR_LISTEN is HOST:PORT");
    println!("listening on {}", start_at(address, shards).0);
    loop {
        thread::park();
    }
}
