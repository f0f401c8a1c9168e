//! What is said of peers that this node does not let in: each for each reason once a minute, though they try again every second.

use std::collections::BTreeMap;

use super::handshake::{Refusal, RefusalCode};
use crate::types::{Nanos, NodeId};

const SAY_EVERY: Nanos = Nanos::from_secs(60);

/// A delayed connection that a newer one has overtaken is normal. Two processes with the same identity overtake each other
/// all the time.
const SUPERSEDED_MIN: u64 = 3;

/// Peers by the number that they say they have; none said no number that was understood.
#[derive(Debug, Default)]
pub struct RefusedPeers(BTreeMap<(Option<NodeId>, RefusalCode), Refusals>);

#[derive(Debug, Default)]
struct Refusals {
    /// The minute that is counted.
    since: Nanos,
    /// Since then, and before the last line.
    count: u64,
    is_said: bool,
}

impl RefusedPeers {
    /// What to say of a refusal, if anything. `from`: the host from which the connection came.
    pub fn say(&mut self, now: Nanos, node: Option<NodeId>, refusal: &Refusal, from: &str) -> Option<String> {
        let code = refusal.code;
        // This node starts or stops, and says so itself.
        if code == RefusalCode::Unready {
            return None;
        }
        let new = || Refusals { since: now, ..Refusals::default() };
        let refusals = self.0.entry((node, code)).or_insert_with(new);
        let mut before = 0;
        if now.saturating_sub(refusals.since) >= SAY_EVERY {
            before = if refusals.is_said { refusals.count.saturating_sub(1) } else { 0 };
            *refusals = new();
        }
        refusals.count += 1;
        let least = if code == RefusalCode::Superseded { SUPERSEDED_MIN } else { 1 };
        if refusals.is_said || refusals.count < least {
            return None;
        }
        refusals.is_said = true;
        let who = node.map_or_else(|| "a peer".to_owned(), |node| format!("node {node}"));
        let more = if before > 0 { format!(" ({before} times more since this was said)") } else { String::new() };
        if code == RefusalCode::Superseded {
            return Some(format!(
                "two processes run as {who} with the same data, one of them at {from}: a cloned machine, or a copied directory? \
                 Stop one of them{more}"
            ));
        }
        let advice = code.advice().map_or_else(String::new, |advice| format!("; {advice}"));
        Some(format!("refused {who} at {from}: {refusal}{advice}{more}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(code: RefusalCode, seconds: u64, per_second: u64) -> Vec<String> {
        let mut peers = RefusedPeers::default();
        let refusal = Refusal::new(code, "node 2 is another");
        let times = (0..seconds * per_second).map(|n| Nanos::from_millis(n * 1000 / per_second));
        times.filter_map(|now| peers.say(now, Some(NodeId(2)), &refusal, "192.0.2.7")).collect()
    }

    #[test]
    fn a_peer_of_another_cluster_is_one_line_a_minute_that_says_where_it_is() {
        let lines = lines(RefusalCode::Cluster, 120, 3);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("refused node 2 at 192.0.2.7: node 2 is another; check `members`"), "{lines:?}");
        assert!(lines[1].ends_with("(179 times more since this was said)"), "{lines:?}");
    }

    #[test]
    fn two_processes_of_one_identity_are_told_from_a_connection_that_was_late() {
        assert_eq!(lines(RefusalCode::Superseded, 1, 2), Vec::<String>::new());
        let lines = lines(RefusalCode::Superseded, 60, 4);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("two processes run as node 2 with the same data, one of them at 192.0.2.7"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_node_that_starts_says_nothing_of_those_who_come_early() {
        assert_eq!(lines(RefusalCode::Unready, 120, 10), Vec::<String>::new());
    }
}
