//! Standard output of a command.
//!
//! It must never end the process: that nobody reads it, or that it can't be written, says nothing of what the command did.

use std::io::{self, ErrorKind, Write};

/// Writes a text. False where that failed, which is told; that nobody reads it any more is no failure.
pub fn print(text: &str) -> bool {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "beaver-raft: cannot write to standard output: {error}");
            false
        }
        _ => true,
    }
}
