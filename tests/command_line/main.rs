//! The program as operators and scripts meet it: what it prints, and the status with which it exits.

mod enqueue;
mod stand_in;
mod start;
mod status;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BEAVER_RAFT_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // A program that refuses early does not read to the end.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("the writer does not panic");
    Ended {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
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
