//! The program as operators and scripts meet it: what it prints, and the status with which it exits.

mod directories;
mod enqueue;
mod stand_in;
mod start;
mod status;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_beaver-raft");

/// What a run of the program came to.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn beaver_raft<S: AsRef<OsStr>>(arguments: &[S]) -> Ended {
    run(Command::new(BINARY).args(arguments), "")
}

/// Runs a command with this input, out of reach of the settings of whoever runs the tests.
pub fn run(command: &mut Command, input: &str) -> Ended {
    let mut running = Running::start(command);
    running.write(input);
    running.close_input();
    running.end()
}

/// A command that runs, and goes with the test.
pub struct Running {
    child: Child,
    input: Option<mpsc::Sender<String>>,
    outputs: [JoinHandle<String>; 2],
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BEAVER_RAFT_") {
                command.env_remove(name);
            }
        }
        // Whoever runs the tests in the background of a script ignores SIGINT, and a program goes on ignoring what it is born with.
        // SAFETY: `signal` is async-signal-safe and touches nothing of the parent.
        unsafe {
            command.pre_exec(|| match libc::signal(libc::SIGINT, libc::SIG_DFL) {
                libc::SIG_ERR => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            })
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let mut stdin = child.stdin.take().expect("it is piped");
        let (input, written) = mpsc::channel::<String>();
        std::thread::spawn(move || {
            for text in written {
                // A program that refuses early does not read to the end.
                let _ = stdin.write_all(text.as_bytes());
            }
        });
        let stdout = collect(child.stdout.take().expect("it is piped"));
        let stderr = collect(child.stderr.take().expect("it is piped"));
        Running { child, input: Some(input), outputs: [stdout, stderr] }
    }

    /// Gives it input, without waiting until it has taken it.
    pub fn write(&mut self, text: &str) {
        self.input.as_ref().expect("it is open").send(text.to_owned()).expect("the writer does not panic");
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    pub fn interrupt(&self) {
        let process = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: `kill` takes two numbers; the child was not waited for yet, so the id is its own.
        assert_eq!(unsafe { libc::kill(process, libc::SIGINT) }, 0);
    }

    /// Waits until it ends, which every command does soon that is not kept from it.
    pub fn end(mut self) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is this process's child") {
                break status;
            }
            if started.elapsed() > Duration::from_secs(20) {
                self.child.kill().expect("it runs");
                let [stdout, stderr] = self.outputs.map(|output| output.join().expect("text"));
                panic!("it does not end; it said {stdout:?} and {stderr:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let [stdout, stderr] = self.outputs.map(|output| output.join().expect("text"));
        Ended { status: status.code(), stdout, stderr }
    }
}

fn collect(mut output: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).expect("text");
        text
    })
}

/// A fresh directory on the disk of the build.
pub fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("command-line-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("the target directory is writable");
    path
}

#[test]
fn without_a_command_it_says_what_there_is() {
    let ended = beaver_raft::<&str>(&[]);
    assert_eq!(ended.status, Some(2));
    for command in ["run", "init", "beanstalkd", "enqueue", "status", "demo"] {
        assert!(ended.stderr.contains(&format!("  {command} ")), "{command} in {}", ended.stderr);
    }
}

#[test]
fn an_output_that_nobody_takes_ends_no_command_by_a_panic() {
    let jobs = directory("output").join("jobs.json");
    std::fs::write(&jobs, "{\"body\":\"a\"}\n").expect("it can be written");
    let check = format!("enqueue --server 127.0.0.1:1 --check --file {}", jobs.display());
    // Nobody reads a pipe whose reader ends at once; nothing can be written to a full device.
    for (command, unread, full) in [("reference metrics", 0, 1), ("beanstalkd --help", 0, 1), (&check, 0, 0)] {
        let piped = format!("set -o pipefail; (sleep 0.3; {BINARY} {command}) | true");
        let ended = run(Command::new("bash").args(["-c", &piped]), "");
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(unread), ""), "{command}");
        let ended = run(Command::new("bash").args(["-c", &format!("{BINARY} {command} >/dev/full")]), "");
        assert_eq!(ended.status, Some(full), "{command}: {}", ended.stderr);
        assert!(
            ended.stderr.starts_with("beaver-raft: cannot write to standard output"),
            "{command}: {}",
            ended.stderr
        );
    }
    std::fs::remove_dir_all(jobs.parent().expect("it is in a directory")).expect("it is there");
}
