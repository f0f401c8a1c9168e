//! Standard output and standard error of a command that does not serve. What a node says goes through `logging`.
//!
//! It must never end the process: that nobody reads it, or that it can't be written, says nothing of what the command did.

use std::io::{self, ErrorKind, Write};

/// Writes a text. False where that failed, which is told; that nobody reads it any more is no failure.
pub fn print(text: &str) -> bool {
    match write(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(&format!("beaver-raft: cannot write to standard output: {error}\n"));
            false
        }
        _ => true,
    }
}

/// Writes a text to standard error. Where that fails there is nobody left to tell; the exit status still says what it says.
pub fn complain(text: &str) {
    let mut error = io::stderr().lock();
    let _ = error.write_all(text.as_bytes()).and_then(|()| error.flush());
}

/// Writes a text.
///
/// # Errors
/// It cannot be written, also because nobody reads it any more.
pub fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush())
}
