//! How far the start of a node is, for the service manager: when `systemctl start` may return, and
//! what it waits for.
//!
//! It must never wait for a leader: the first member of a cluster that starts cold has none, and
//! the second is started only when `systemctl start` of the first has returned.

use std::fmt;
use std::time::Duration;

use crate::status::{RoleName, StatusReport};

/// A node that no peer has answered yet is ready after this: they may be down. Peers that are there
/// answer the first attempt to connect within milliseconds, and a refusal ends the node or keeps it
/// from being ready.
pub const PEER_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The log is being read.
    Recovers(String),
    /// No peer has admitted this node yet, and none refuses it.
    AwaitsPeers,
    /// Peers refuse this node, none has admitted it, and there may still be a majority that does.
    Refused(String),
    Serves,
}

impl Start {
    /// `recovered_for`: how long all shards have been recovered; none while one is not.
    #[must_use]
    pub fn of(report: &StatusReport, recovered_for: Option<Duration>) -> Start {
        let Some(recovered_for) = recovered_for else {
            return Start::Recovers(report.ready().err().unwrap_or_default().join("; "));
        };
        if report.admitted {
            return Start::Serves;
        }
        if !report.refused_by.is_empty() {
            let says: Vec<String> =
                report.refused_by.iter().map(|refusal| format!("node {}: {}", refusal.node, refusal.why)).collect();
            return Start::Refused(says.join("; "));
        }
        if recovered_for < PEER_PATIENCE { Start::AwaitsPeers } else { Start::Serves }
    }

    /// Whether a shard has still to read its log, or to repair it.
    #[must_use]
    pub fn is_recovering(report: &StatusReport) -> bool {
        report.shards.iter().any(|shard| shard.role == RoleName::Recovering)
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Start::Recovers(how_far) => f.write_str(how_far),
            Start::AwaitsPeers => f.write_str("waiting for a peer to admit this node"),
            Start::Refused(why) => write!(f, "refused by {why}"),
            Start::Serves => f.write_str("serving"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{RefusalStatus, ShardStatus};

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn report(role: RoleName, admitted: bool, refused_by: &[u8]) -> StatusReport {
        let refusal = |node: &u8| RefusalStatus { node: *node, why: "another cluster".to_owned() };
        StatusReport {
            admitted,
            refused_by: refused_by.iter().map(refusal).collect(),
            shards: vec![ShardStatus { role, ..ShardStatus::default() }],
            ..StatusReport::default()
        }
    }

    #[test]
    fn a_node_that_recovers_says_how_far_it_is() {
        let recovering = report(RoleName::Recovering, false, &[]);
        assert!(Start::is_recovering(&recovering));
        assert_eq!(Start::of(&recovering, None).to_string(), "shard 0: recovering");
    }

    #[test]
    fn a_recovered_node_is_ready_when_a_peer_admits_it_whatever_others_say_and_without_a_leader() {
        assert_eq!(Start::of(&report(RoleName::Follower, true, &[]), NOW), Start::Serves);
        assert_eq!(Start::of(&report(RoleName::Follower, true, &[3]), NOW), Start::Serves);
    }

    #[test]
    fn where_nobody_answers_it_is_ready_after_a_while() {
        let alone = report(RoleName::Follower, false, &[]);
        assert_eq!(Start::of(&alone, NOW), Start::AwaitsPeers);
        assert_eq!(Start::of(&alone, Some(PEER_PATIENCE)), Start::Serves);
    }

    #[test]
    fn a_refused_node_is_not_ready_however_long_it_waits() {
        let refused = report(RoleName::Follower, false, &[2]);
        let start = Start::of(&refused, Some(100 * PEER_PATIENCE));
        assert_eq!(start.to_string(), "refused by node 2: another cluster");
    }
}
