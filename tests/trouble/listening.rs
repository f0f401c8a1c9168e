//! How clients come in: early, through sockets of a service manager, and through a Unix socket with permissions of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::cluster::{BINARY, Cluster, fresh_directory};
use crate::eventually;

/// The socket in the data directory is made behind those for clients.
#[test]
fn a_client_that_connects_while_a_node_recovers_is_not_refused() {
    let mut cluster = Cluster::prepare_sharded("early", 1, 4, "cores: 2\n");
    for _ in 0..5 {
        cluster.nodes[0].start();
        let node = &cluster.nodes[0];
        let begun = node.data.join("admin.sock");
        while !begun.exists() {
            std::thread::yield_now();
        }
        let mut client = TcpStream::connect(node.clients).expect("it waits in the backlog");
        assert_eq!(ask(&mut client), "USING default\r\n");
        // What a killed node leaves would be taken for the next one's.
        assert!(cluster.nodes[0].stop().success());
        assert!(!cluster.nodes[0].data.join("admin.sock").exists());
    }
}

fn ask(stream: &mut (impl Write + std::io::Read)) -> String {
    stream.write_all(b"list-tube-used\r\n").expect("somebody reads");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    line
}

/// Starts a drop-in to which these are passed as a service manager does.
fn activate(passed: &[RawFd], data: &std::path::Path) -> Child {
    let passed = passed.to_vec();
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\"", BINARY, "beanstalkd", "-l", "127.0.0.1", "-p", "1", "-b"]);
    command.arg(data).env("LISTEN_FDS", passed.len().to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
    let place = move || {
        // First out of the way of the places that others have to go to.
        for (place, &descriptor) in passed.iter().enumerate() {
            let (away, place) = (100 + place as RawFd, 3 + place as RawFd);
            // SAFETY: numbers only; the descriptors are open, and their copies are this child's own.
            unsafe { libc::dup2(descriptor, away) };
            assert!(place < 10);
        }
        for place in 0..passed.len() as RawFd {
            // SAFETY: as above.
            unsafe { libc::dup2(100 + place, 3 + place) };
        }
        Ok(())
    };
    // SAFETY: what runs between fork and exec calls nothing but dup2.
    unsafe { command.pre_exec(place) };
    command.spawn().expect("sh runs")
}

fn stop(mut child: Child) {
    // SAFETY: numbers only; the child is not reaped yet.
    unsafe { libc::kill(i32::try_from(child.id()).expect("a process id"), libc::SIGTERM) };
    assert!(child.wait().expect("it was started").success());
}

#[test]
fn clients_come_through_the_sockets_that_a_service_manager_passes_and_outlive_its_service() {
    let directory = fresh_directory("activated");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let unix = UnixListener::bind(directory.join("s")).expect("the path is short enough");
    let address = tcp.local_addr().expect("bound");
    for _ in 0..2 {
        // These wait for a service that is not there yet.
        let mut first = TcpStream::connect(address).expect("the manager listens");
        let mut second = UnixStream::connect(directory.join("s")).expect("the manager listens");
        let child = activate(&[tcp.as_raw_fd(), unix.as_raw_fd()], &directory.join("data"));
        assert_eq!(ask(&mut first), "USING default\r\n");
        assert_eq!(ask(&mut second), "USING default\r\n");
        stop(child);
        assert!(directory.join("s").exists(), "it is the manager's");
    }
    let _ = fs::remove_dir_all(&directory);
}

#[test]
fn a_descriptor_that_takes_no_clients_is_refused_by_its_number() {
    let directory = fresh_directory("unsuitable");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let ended = activate(&[datagrams.as_raw_fd()], &directory.join("data")).wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(10), "{told}");
    assert!(
        told.contains("cannot listen on descriptor 3 of LISTEN_FDS for clients: it is a socket of another kind"),
        "{told}"
    );
    let _ = fs::remove_dir_all(&directory);
}

#[test]
fn a_unix_socket_has_the_permissions_that_are_configured_whatever_the_umask_is() {
    let directory = fresh_directory("permissions");
    let path = directory.join("s");
    let mut child = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" \"$@\"", BINARY, "run", "--clients-mode", "0660", "--data"])
        .arg(directory.join("data"))
        .arg("--listen")
        .arg(format!("unix:{}", path.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh runs");
    eventually("somebody listens", || path.exists() || child.try_wait().expect("started").is_some());
    eventually("the permissions are set", || {
        fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == 0o660)
    });
    assert_eq!(ask(&mut UnixStream::connect(&path).expect("somebody listens")), "USING default\r\n");
    stop(child);
    assert!(!path.exists());
    let _ = fs::remove_dir_all(&directory);
}
