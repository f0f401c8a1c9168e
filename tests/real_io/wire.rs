//! Streams: what goes in comes out in order, and every end is told to the other.

use std::cell::Cell;
use std::rc::Rc;

use beaver_raft::io::uring::{UringReader, UringRuntime, UringWriter};
use beaver_raft::io::{Listener, Reader, Runtime, Wire, WireOptions, Writer};
use beaver_raft::types::Nanos;
use bytes::Bytes;

use crate::world::{directory, on_core};

type Halves = (UringReader, UringWriter);

async fn connected(runtime: &UringRuntime, address: &str, options: WireOptions) -> (Halves, Halves) {
    let listener = runtime.wire().listen(address, options).expect("a free address");
    let near = runtime.wire().connect(&listener.local_address(), options).await.expect("somebody listens");
    let far = listener.accept().await.expect("somebody connects");
    (near, far)
}

async fn read_exactly(reader: &mut UringReader, bytes: usize) -> Vec<u8> {
    let mut buf = Vec::new();
    while buf.len() < bytes {
        let missing = bytes - buf.len();
        let (result, returned) = reader.read(buf, missing).await;
        buf = returned;
        assert_ne!(result.expect("the stream holds"), 0, "the stream ended after {} bytes", buf.len());
    }
    buf
}

fn addresses(dir: &std::path::Path) -> [String; 4] {
    let unix = format!("unix:{}", dir.join("socket").display());
    ["127.0.0.1:0".to_owned(), "localhost:0".to_owned(), "[::1]:0".to_owned(), unix]
}

#[test]
fn chunks_of_every_size_arrive_in_order_over_every_kind_of_address() {
    let dir = directory();
    for address in addresses(dir.path()) {
        on_core(|runtime| async move {
            let ((_, mut writer), (mut reader, _)) = connected(&runtime, &address, WireOptions::Peer).await;
            let chunk = |bytes: usize, seed: u8| Bytes::from(vec![seed; bytes]);
            let batches = [
                vec![chunk(5, 1)],
                vec![],
                vec![chunk(10, 2), chunk(0, 0), chunk(7, 3)],
                vec![chunk(100_000, 4), chunk(1, 5), chunk(3_000_000, 6)],
                (0..3000).map(|n| chunk(20, n as u8)).collect(),
            ];
            let expected: Vec<u8> = batches.iter().flatten().flatten().copied().collect();
            runtime.spawn(async move {
                for batch in batches {
                    writer.write(batch).await.expect("the stream holds");
                }
            });
            assert_eq!(read_exactly(&mut reader, expected.len()).await, expected);
            let (end, _) = reader.read(Vec::new(), 10).await;
            assert_eq!(end.expect("the writer has gone, and its reader too"), 0);
        });
    }
}

#[test]
fn a_read_appends_to_what_the_buffer_holds_and_takes_no_more_than_asked() {
    on_core(|runtime| async move {
        let ((_, mut writer), (mut reader, _)) = connected(&runtime, "127.0.0.1:0", WireOptions::Client).await;
        writer.write(vec![Bytes::from_static(b"hello world")]).await.expect("the stream holds");
        let (count, buf) = reader.read(b"> ".to_vec(), 5).await;
        assert_eq!((count.expect("the stream holds"), &buf[..]), (5, &b"> hello"[..]));
        let (_, buf) = reader.read(buf, 100).await;
        assert_eq!(buf, b"> hello world");
    });
}

#[test]
fn a_shutdown_ends_the_pending_read_on_both_sides() {
    on_core(|runtime| async move {
        for by_closer in [false, true] {
            let ((mut near, writer), (mut far, _far_writer)) =
                connected(&runtime, "127.0.0.1:0", WireOptions::Client).await;
            let clock = runtime.clone();
            runtime.spawn(async move {
                clock.sleep(Nanos::from_millis(5)).await;
                if by_closer { writer.closer()() } else { writer.shutdown() }
            });
            assert_eq!(near.read(Vec::new(), 10).await.0.expect("an end is no error"), 0);
            assert_eq!(far.read(Vec::new(), 10).await.0.expect("an end is no error"), 0);
        }
    });
}

#[test]
fn a_shutdown_ends_a_write_that_the_peer_does_not_read() {
    on_core(|runtime| async move {
        let ((_near, mut writer), _far) = connected(&runtime, "127.0.0.1:0", WireOptions::Peer).await;
        let (closer, clock) = (writer.closer(), runtime.clone());
        runtime.spawn(async move {
            clock.sleep(Nanos::from_millis(20)).await;
            closer();
        });
        let megabyte = Bytes::from(vec![0; 1 << 20]);
        assert!(writer.write(vec![megabyte; 64]).await.is_err());
    });
}

#[test]
fn two_hundred_streams_of_one_core_do_not_mix() {
    on_core(|runtime| async move {
        let listener = runtime.wire().listen("127.0.0.1:0", WireOptions::Client).expect("a free address");
        let address = listener.local_address();
        let server = runtime.clone();
        runtime.spawn(async move {
            while let Ok((mut reader, mut writer)) = listener.accept().await {
                server.spawn(async move {
                    loop {
                        let (result, buf) = reader.read(Vec::new(), 4096).await;
                        match result {
                            Ok(0) | Err(_) => return,
                            Ok(_) => writer.write(vec![Bytes::from(buf)]).await.expect("the client reads"),
                        }
                    }
                });
            }
        });
        let open = Rc::new(Cell::new(200));
        for number in 0..200_u64 {
            let (client, address, open) = (runtime.clone(), address.clone(), Rc::clone(&open));
            runtime.spawn(async move {
                let options = WireOptions::Client;
                let (mut reader, mut writer) = client.wire().connect(&address, options).await.expect("it listens");
                for round in 0..50 {
                    let sent = Bytes::from(vec![(number + round) as u8; 1 + (number * round) as usize % 9000]);
                    writer.write(vec![sent.clone()]).await.expect("the server reads");
                    assert_eq!(read_exactly(&mut reader, sent.len()).await, sent);
                }
                open.set(open.get() - 1);
            });
        }
        while open.get() > 0 {
            runtime.sleep(Nanos::from_millis(1)).await;
        }
    });
}

#[test]
fn a_closer_of_a_stream_that_has_gone_does_nothing() {
    on_core(|runtime| async move {
        let ((near, writer), (mut far, _far_writer)) = connected(&runtime, "127.0.0.1:0", WireOptions::Client).await;
        let closer = writer.closer();
        drop((near, writer));
        assert_eq!(far.read(Vec::new(), 10).await.0.expect("an end is no error"), 0);
        closer();
    });
}

#[test]
fn closing_a_listener_ends_the_pending_accept_and_every_later_one() {
    let dir = directory();
    for address in addresses(dir.path()) {
        on_core(|runtime| async move {
            let listener = Rc::new(runtime.wire().listen(&address, WireOptions::Client).expect("a free address"));
            let ended = Rc::new(Cell::new(false));
            let (task_listener, task_ended) = (Rc::clone(&listener), Rc::clone(&ended));
            runtime.spawn(async move {
                assert!(task_listener.accept().await.is_err());
                task_ended.set(true);
            });
            runtime.sleep(Nanos::from_millis(5)).await;
            assert!(!ended.get());
            listener.close();
            assert!(listener.accept().await.is_err());
            while !ended.get() {
                runtime.sleep(Nanos::from_millis(1)).await;
            }
        });
    }
}

#[test]
fn a_core_ends_although_reads_and_accepts_are_pending() {
    on_core(|runtime| async move {
        let ((mut near, near_writer), far) = connected(&runtime, "127.0.0.1:0", WireOptions::Client).await;
        let listener = runtime.wire().listen("127.0.0.1:0", WireOptions::Client).expect("a free address");
        runtime.spawn(async move {
            let _ = listener.accept().await;
        });
        runtime.spawn(async move {
            let _keep = (near_writer, far);
            let _ = near.read(Vec::new(), 10).await;
        });
        runtime.sleep(Nanos::from_millis(5)).await;
    });
}

#[test]
fn a_read_that_is_dropped_in_flight_shuts_the_stream_down() {
    on_core(|runtime| async move {
        let ((mut near, _near_writer), (mut far, _far_writer)) =
            connected(&runtime, "127.0.0.1:0", WireOptions::Client).await;
        let read = near.read(Vec::new(), 10);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), read).await.is_err());
        assert_eq!(far.read(Vec::new(), 10).await.0.expect("an end is no error"), 0);
    });
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    let dir = directory();
    let path = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").expect("room");
    on_core(|runtime| async move {
        let address = format!("unix:{}", path.display());
        let listener = runtime.wire().listen(&address, WireOptions::Client).expect("the stale one goes");
        assert_eq!(listener.local_address(), address);
        let second = runtime.wire().listen(&address, WireOptions::Client).err().expect("it is live");
        assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
        assert!(runtime.wire().listen(&format!("unix:{}", file.display()), WireOptions::Client).is_err());
        assert!(file.exists());
    });
}

#[test]
fn a_connect_to_nobody_fails_and_one_to_a_silent_host_times_out() {
    on_core(|runtime| async move {
        let port = {
            let listener = runtime.wire().listen("127.0.0.1:0", WireOptions::Client).expect("a free address");
            listener.local_address()
        };
        let refused = runtime.wire().connect(&port, WireOptions::Peer).await.err().expect("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(runtime.wire().connect("no-such-host.invalid:1", WireOptions::Peer).await.is_err());
        assert!(runtime.wire().connect("nonsense", WireOptions::Peer).await.is_err());
        // A full backlog is as silent as a host that is not there.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        silent.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("valid").into()).expect("a free port");
        silent.listen(0).expect("a socket");
        let address = silent.local_addr().expect("bound").as_socket().expect("IP").to_string();
        let mut kept = Vec::new();
        let error = loop {
            match runtime.wire().connect(&address, WireOptions::Peer).await {
                Ok(halves) => kept.push(halves),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    });
}
