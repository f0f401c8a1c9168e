//! Real processes in trouble: full and hanging disks, no quorum, bad input, wrong directories, stops under load. What was
//! acknowledged stays, nothing is answered that is not committed, and each refusal is one clear sentence.

#[path = "../cluster/mod.rs"]
mod cluster;

mod bad_input;
mod full_disk;
mod left_behind;
mod many_tubes;
mod links;
mod listening;
mod log_reader;
mod no_quorum;
mod operator;
mod put_back;
mod refusals;
mod service_manager;
mod small_disk;
mod stall;
mod stop;
mod unread;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cluster::Connection;

/// Waits until something holds; long enough for a busy machine.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(40), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A put, and what is answered; none if the connection was closed.
pub fn try_put(connection: &mut Connection, body: &str) -> Option<String> {
    connection.send(&format!("put 100 0 60 {}\r\n{body}\r\n", body.len()));
    connection.line()
}

/// Takes and deletes every job; the bodies, of which none may come twice.
pub fn drain(connection: &mut Connection) -> BTreeSet<String> {
    let mut bodies = BTreeSet::new();
    while let Some((id, body)) = connection.reserve(0) {
        assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
        assert!(bodies.insert(body), "job {id} came before");
    }
    bodies
}
