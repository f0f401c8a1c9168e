//! What a node that keeps snapshots tells of them: in `/metrics`, in `/status`, and in `beaver-raft status`.

use std::process::Command;

use crate::cluster::{BINARY, Cluster, Node};
use crate::{OFTEN, eventually, shown};

fn metric(node: &Node, name: &str) -> f64 {
    let metrics = node.ask_admin("/metrics").unwrap_or_default();
    let begins = format!("beaver_raft_{name}{{");
    let line = metrics.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("{name}: {metrics}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
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
        eventually("a file that was rewritten", || metric(node, "rewritten_files") > 0.0);
        assert!(metric(node, "snapshots_written") >= 2.0 && metric(node, "snapshot_seconds_count") >= 2.0);
        assert!(metric(node, "snapshot_index") > 0.0 && metric(node, "snapshot_bytes") >= 12_288.0);
        assert!(metric(node, "log_floor") > 0.0 && metric(node, "snapshot_age_seconds") < 60.0);
        assert!(metric(node, "compaction_bytes") > 0.0 && metric(node, "store_segments") > 0.0);
        let (kept, live) = (metric(node, "kept_bytes"), metric(node, "kept_live_bytes"));
        assert!(live > 0.0 && live < kept, "{live} of {kept} bytes live");
        assert!(metric(node, "segments") > 1.0 && metric(node, "log_bytes") >= metric(node, "segments") * 65_536.0);
        assert!(metric(node, "install_bytes") == 0.0 && metric(node, "install_all_bytes") == 0.0);
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
