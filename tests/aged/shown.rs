//! What a node that keeps snapshots tells of them: in `/metrics`, in `/status`, and in `beaver-raft status`.

use std::process::Command;

use crate::cluster::{BINARY, Cluster, Node};
use crate::{OFTEN, eventually, shown};

/// What the metrics say at one moment.
fn metrics(node: &Node) -> impl Fn(&str) -> f64 {
    let text = node.ask_admin("/metrics").unwrap_or_default();
    move |name| {
        let begins = format!("beaver_raft_{name}{{");
        let line = text.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }
}

#[test]
fn snapshots_compaction_and_fingerprints_are_shown_by_every_node() {
    let mut cluster = Cluster::prepare_with("shown", OFTEN);
    cluster.start_all();
    let mut connection = cluster.nodes[cluster.leader()].connect();
    for round in 0..200 {
        for turn in 0..5 {
            let id = connection.put(&format!("{round:0500}"));
            if turn > 0 {
                assert_eq!(connection.call(&format!("delete {id}")), "DELETED");
            }
        }
    }
    for node in &cluster.nodes {
        eventually("a file that was rewritten", || metrics(node)("rewritten_files") > 0.0);
        let metric = metrics(node);
        assert!(metric("snapshots_written") >= 2.0 && metric("snapshot_seconds_count") >= 2.0);
        assert!(metric("snapshot_index") > 0.0 && metric("snapshot_bytes") >= 12_288.0);
        assert!(metric("log_floor") > 0.0 && metric("snapshot_age_seconds") < 60.0);
        assert!(metric("compaction_bytes") > 0.0 && metric("store_segments") > 0.0);
        let (kept, live) = (metric("kept_bytes"), metric("kept_live_bytes"));
        assert!(live > 0.0 && live < kept, "{live} of {kept} bytes live");
        // One is being made ahead, and may not have its bytes yet.
        assert!(metric("segments") > 1.0 && metric("log_bytes") >= (metric("segments") - 1.0) * 65_536.0);
        assert!(metric("install_bytes") == 0.0 && metric("install_all_bytes") == 0.0);
    }
    // At the same marker all nodes show the same fingerprint.
    let marked = || -> Vec<(u64, String)> {
        let status = |node: &Node| node.status().map(|status| status["shards"][0].clone()).unwrap_or_default();
        let shards = cluster.nodes.iter().map(status);
        shards
            .map(|shard| (shard["marker_index"].as_u64().unwrap_or(0), shard["marker_fingerprint"].to_string()))
            .collect()
    };
    eventually("the same fingerprint", || {
        let marked = marked();
        marked[0].0 > 0 && marked[0].1.len() == 34 && marked.iter().all(|other| *other == marked[0])
    });
    let admin = cluster.nodes[0].admin.to_string();
    let all: Vec<String> = cluster.nodes.iter().map(|node| node.admin.to_string()).collect();
    let output = Command::new(BINARY).args(["status", "--admin", &all.join(",")]).output().expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains(&admin) && text.contains("BELOW FLOOR"), "{text}");
    assert!(text.lines().any(|line| line.trim().starts_with("1  ") && line.contains("KiB")), "{text}");
    assert!(shown(&cluster.nodes[0], "dropped_files") + shown(&cluster.nodes[0], "rewritten_files") > 0);
}
