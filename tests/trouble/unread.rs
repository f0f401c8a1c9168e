//! Clients that ask for much and read nothing: they have a part of the memory, for a time, and nobody else waits for them.

use super::{eventually, try_put};
use crate::cluster::{Cluster, Connection, Node};

const BODY_BYTES: usize = 16 << 20;
/// As `output_bytes_max` is set here; three quarters of it for bodies, of those three quarters for large ones.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
const LARGE_BYTES_MAX: u64 = OUTPUT_BYTES_MAX / 16 * 9;

#[test]
fn clients_that_read_nothing_take_no_more_memory_than_is_set_and_are_closed() {
    let settings = format!(
        "job_bytes_max: {BODY_BYTES}\nrecent_bytes_max: 1048576\noutput_bytes_max: {OUTPUT_BYTES_MAX}\noutput_stall_ms: 2000\n"
    );
    let mut cluster = Cluster::prepare_sharded("unread", 1, 1, &settings);
    cluster.start_all();
    let node = &cluster.nodes[0];
    let mut polite = node.connect();
    let large = "x".repeat(BODY_BYTES);
    assert_eq!(try_put(&mut polite, &large).as_deref(), Some("INSERTED 1"));
    // The job leaves the memory of recent entries.
    for _ in 0..40 {
        assert!(try_put(&mut polite, &"y".repeat(60_000)).is_some_and(|line| line.starts_with("INSERTED")));
    }

    let mut lazy: Vec<Connection> = (0..20).map(|_| node.connect()).collect();
    for connection in &mut lazy {
        connection.send("peek 1\r\n");
    }
    let mut most = 0;
    eventually("bodies wait for room", || {
        most = most.max(metric(node, "output_bytes"));
        metric(node, "answers_waited_total") > 0
    });
    // A short answer waits for none of them; a body that is read back has room beside large ones.
    assert_eq!(polite.call("list-tube-used"), "USING default");
    assert_eq!(polite.call("peek 2"), "FOUND 2 60000");
    assert_eq!(polite.line().map(|body| body.len()), Some(60_000));

    eventually("all that read nothing are closed", || {
        most = most.max(metric(node, "output_bytes"));
        let in_vain = metric(node, "answers_given_up_total");
        in_vain + metric(node, "connections_stalled_total") == lazy.len() as u64
    });
    // A few have room at a time. The others do not wait for each of these.
    let in_vain = metric(node, "answers_given_up_total");
    assert!(2 * in_vain > lazy.len() as u64, "{in_vain} of {} were closed while they waited", lazy.len());
    assert!((BODY_BYTES as u64..=LARGE_BYTES_MAX + (1 << 20)).contains(&most), "{most} bytes of answers");
    eventually("nothing is left of them", || metric(node, "output_bytes") == 0);
    assert_eq!(polite.call("peek 1"), format!("FOUND 1 {BODY_BYTES}"));
    assert!(polite.line() == Some(large), "whoever reads has all of it");
}

fn metric(node: &Node, name: &str) -> u64 {
    let text = node.ask_admin("/metrics").expect("the admin port answers");
    let value = text.lines().find_map(|line| {
        let rest = line.strip_prefix("beaver_raft_")?.strip_prefix(name)?;
        rest.trim_start_matches("{}").strip_prefix(' ')
    });
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}
