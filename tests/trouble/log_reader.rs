//! Nobody reads the log, or its device is full: a node serves and ends as ever, with the status that says why.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{BINARY, Cluster, Connection, free_address, fresh_directory};
use crate::eventually;

/// Both ends of a pipe that takes no more bytes. The descriptors block, as those that a shell gives.
fn full_pipe() -> (File, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for both descriptors, which belong to nobody else.
    let (read, write) = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    };
    set_nonblocking(&write, true);
    while (&write).write(&[b'.'; 4096]).is_ok() {}
    while (&write).write(b".").is_ok() {}
    set_nonblocking(&write, false);
    (read, write.into())
}

fn flags(descriptor: &impl AsRawFd) -> i32 {
    // SAFETY: asks for the flags of a descriptor that is open.
    unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) }
}

fn set_nonblocking(descriptor: &impl AsRawFd, is_set: bool) {
    let flags = flags(descriptor) & !libc::O_NONBLOCK | if is_set { libc::O_NONBLOCK } else { 0 };
    // SAFETY: sets flags of a descriptor that is open.
    assert_eq!(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags) }, 0);
}

fn full_device() -> Stdio {
    File::options().write(true).open("/dev/full").expect("every Linux has it").into()
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process ended with, which must be soon.
fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().expect("it runs");
            panic!("it does not end: {:?}", child.wait());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: `kill` only takes numbers; the child is not reaped yet, so its id is its own.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).expect("a process id"), signal) }, 0);
}

fn single(data: &Path, listen: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["run", "--listen", listen, "--data"]).arg(data);
    command
}

#[test]
fn a_node_whose_log_nobody_reads_serves_stops_and_says_what_is_missing() {
    let mut cluster = Cluster::prepare_with("unread", "log: debug\n");
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    let node = &cluster.nodes[0];
    let (mut read, write) = full_pipe();
    let watched = write.try_clone().expect("file descriptors are left");
    let mut child = Running(node.command("run").stderr(write).spawn().expect("the binary runs"));

    let mut client = node.connect();
    client.put("before");
    // Each is a line of the log.
    let lost = || crate::bad_input::counter(node, "log_lines_lost");
    eventually("lines are lost, and counted", || {
        for _ in 0..500 {
            drop(TcpStream::connect(crate::bad_input::peers(node)).expect("it listens"));
        }
        assert_eq!(node.ask_admin("/healthz").as_deref(), Some("ok\n"));
        client.put("meanwhile");
        lost() > 0
    });
    assert_eq!(flags(&watched) & libc::O_NONBLOCK, 0, "others have the descriptor open, too");

    drop(watched);
    let reader = std::thread::spawn(move || {
        let mut log = Vec::new();
        read.read_to_end(&mut log).map(|_| String::from_utf8_lossy(&log).into_owned())
    });
    client.put("after");
    signal(&child.0, libc::SIGTERM);
    assert!(wait(&mut child.0).success());
    let log = reader.join().expect("it reads").expect("a pipe can be read");
    assert!(log.contains("lines of the log are missing here"), "{} bytes", log.len());
}

#[test]
fn a_node_whose_log_nobody_reads_stops_when_it_is_told_to() {
    let directory = fresh_directory("unread-stop");
    let clients = free_address();
    let (read, write) = full_pipe();
    let mut command = single(&directory.join("data"), &clients.to_string());
    let mut child = Running(command.stderr(write).spawn().expect("the binary runs"));
    Connection::open(clients).put("kept");
    signal(&child.0, libc::SIGTERM);
    assert!(wait(&mut child.0).success());
    drop(read);
    std::fs::remove_dir_all(directory).expect("it is there");
}

/// A node that holds its directory, and what a second one there ends with.
fn of_a_second_node(stderr: impl Fn() -> Stdio) -> Option<i32> {
    let directory = fresh_directory("held");
    let (data, address) = (directory.join("data"), free_address());
    let mut command = single(&data, &address.to_string());
    let first = Running(command.stderr(Stdio::null()).spawn().expect("the binary runs"));
    Connection::open(address).put("here");
    let mut second = single(&data, "127.0.0.1:0").stderr(stderr()).spawn().expect("the binary runs");
    let status = wait(&mut second);
    drop(first);
    std::fs::remove_dir_all(directory).expect("it is there");
    status.code()
}

#[test]
fn a_fatal_end_has_its_status_whether_its_sentence_is_read_or_not() {
    let pipe = full_pipe();
    assert_eq!(of_a_second_node(|| pipe.1.try_clone().expect("file descriptors are left").into()), Some(12));
    assert_eq!(of_a_second_node(full_device), Some(12));
    assert_eq!(of_a_second_node(|| Stdio::from(closed_pipe())), Some(12));
}

/// Nobody can ever read what is written there.
fn closed_pipe() -> OwnedFd {
    let (read, write) = std::io::pipe().expect("file descriptors are left");
    drop(read);
    write.into()
}

#[test]
fn a_drop_in_whose_log_has_a_full_device_serves_and_leaves_no_directory_behind() {
    for stderr in [full_device(), closed_pipe().into()] {
        let parent = fresh_directory("full-device");
        let address = free_address();
        let mut command = Command::new(BINARY);
        command.args(["beanstalkd", "-l", "127.0.0.1", "-f0", "-VV", "-p", &address.port().to_string()]);
        let mut child = Running(command.env("TMPDIR", &parent).stderr(stderr).spawn().expect("the binary runs"));
        let mut client = Connection::open(address);
        for n in 0..100 {
            client.put(&format!("job {n}"));
        }
        signal(&child.0, libc::SIGTERM);
        assert!(wait(&mut child.0).success());
        let left: Vec<_> = std::fs::read_dir(&parent).expect("it is there").collect();
        assert!(left.is_empty(), "{left:?}");
        std::fs::remove_dir_all(parent).expect("it is there");
    }
}

#[test]
fn commands_that_cannot_complain_end_with_their_status() {
    let directory = fresh_directory("complaints");
    let jobs = directory.join("jobs");
    std::fs::write(&jobs, "{\"body\": 1}").expect("it can be written");
    let jobs = jobs.display().to_string();
    for (arguments, status) in [
        (vec!["run", "--config", "/no/such/file"], 2),
        (vec!["init", "--config", "/no/such/file"], 2),
        (vec!["status"], 2),
        (vec!["status", "--admin", "127.0.0.1:1"], 1),
        (vec!["enqueue", "--file", "/no/such/file"], 1),
        (vec!["enqueue", "--tube", "not a name", "--file", &jobs], 2),
        (vec!["enqueue", "--check", "--file", &jobs], 1),
        (vec!["inspect", "--data", "/no/such/directory"], 13),
        (vec!["beanstalkd", "-u", "nobody-of-this-name"], 23),
        (vec!["beanstalkd", "-z", "lots"], 2),
        (vec!["no-command"], 2),
    ] {
        let mut child = Command::new(BINARY)
            .args(&arguments)
            .env("TMPDIR", &directory)
            .stdout(Stdio::null())
            .stderr(full_device())
            .spawn()
            .expect("the binary runs");
        assert_eq!(wait(&mut child).code(), Some(status), "{arguments:?}");
    }
    std::fs::remove_dir_all(directory).expect("it is there");
}

#[test]
fn lines_for_the_journal_have_their_priority_and_others_have_none() {
    let directory = fresh_directory("journal");
    let log = directory.join("log");
    let logged = |named: &dyn Fn(&File) -> String, data: &str| {
        let _earlier = std::fs::remove_file(&log);
        let append = || File::options().create(true).append(true).open(&log).expect("it can be made");
        let file = append();
        let mut command = single(&directory.join(data), "127.0.0.1:0");
        command.env("JOURNAL_STREAM", named(&file));
        let mut child = Running(command.stderr(file).spawn().expect("the binary runs"));
        // By then it holds its directory.
        eventually("it listens", || read(&log).contains("listening for clients"));
        let fatal = single(&directory.join(data), "127.0.0.1:0")
            .env("JOURNAL_STREAM", named(&append()))
            .stderr(append())
            .status()
            .expect("the binary runs");
        assert_eq!(fatal.code(), Some(12));
        signal(&child.0, libc::SIGTERM);
        assert!(wait(&mut child.0).success());
        read(&log)
    };
    let very_file = |file: &File| {
        let file = file.metadata().expect("it is open");
        format!("{}:{}", file.dev(), file.ino())
    };
    let for_journal = logged(&very_file, "data");
    for line in for_journal.lines() {
        let priority = if line.contains("is in use by") { "<3>beaver-raft: " } else { "<" };
        assert!(line.starts_with(priority), "{line}");
        assert!(!line.contains("INFO") || line.starts_with("<6> INFO"), "{line}");
    }
    assert!(for_journal.contains("<3>beaver-raft: the data directory"), "{for_journal}");

    let for_others = logged(&|_| "1:1".to_owned(), "other");
    assert!(for_others.lines().all(|line| !line.starts_with('<')), "{for_others}");
    assert!(for_others.contains("\nbeaver-raft: the data directory"), "{for_others}");
    std::fs::remove_dir_all(directory).expect("it is there");
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).expect("it is there")
}

/// Ignored by whoever starts a process, as `nohup` does.
fn ignoring(command: &mut Command, signal: i32) -> &mut Command {
    let ignore = move || {
        // SAFETY: a plain system call.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: what runs between fork and exec is async-signal-safe.
    unsafe { command.pre_exec(ignore) }
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    for ignored in [libc::SIGHUP, libc::SIGINT] {
        let directory = fresh_directory("ignored");
        let address = free_address();
        let mut command = single(&directory.join("data"), &address.to_string());
        let log = directory.join("log");
        command.stderr(File::create(&log).expect("it can be made"));
        let mut child = Running(ignoring(&mut command, ignored).spawn().expect("the binary runs"));
        let mut client = Connection::open(address);
        for _ in 0..3 {
            signal(&child.0, ignored);
            client.put("it goes on");
        }
        signal(&child.0, libc::SIGTERM);
        assert!(wait(&mut child.0).success());
        assert!(!read(&log).contains("SIGHUP"), "{}", read(&log));
        std::fs::remove_dir_all(directory).expect("it is there");
    }
}

#[test]
fn a_hangup_has_the_level_of_the_log_read_again_and_stops_nobody() {
    let mut cluster = Cluster::start("hangup");
    let place = cluster.follower();
    let node = &cluster.nodes[place];
    let text = std::fs::read_to_string(&node.config).expect("it was written");
    let says = |what: &str| eventually(what, || node.log().contains(what));
    let mut client = node.connect();

    assert!(!node.log().contains("DEBUG"), "{}", node.log());
    std::fs::write(&node.config, format!("{text}log: debug\n")).expect("it can be written");
    node.signal(libc::SIGHUP);
    says("the log's level is debug, after info");
    drop(TcpStream::connect(crate::bad_input::peers(node)).expect("it listens"));
    says("DEBUG");

    std::fs::write(&node.config, format!("{text}log: loud\n")).expect("it can be written");
    node.signal(libc::SIGHUP);
    says("nothing is changed");
    std::fs::write(&node.config, format!("{text}log: debug\nstop_timeout_ms: 4321\n")).expect("it can be written");
    node.signal(libc::SIGHUP);
    says("the log's level stays debug; what else was changed takes a restart");
    client.put("it serves");
    assert!(cluster.nodes[place].stop().success());
}
