//! Linearizability of reads, from outside: what a node answers to a question must come of a state that holds everything that
//! anybody knew committed when the question was asked (Raft thesis 6.4; D3 of the faults).
//!
//! Stronger than a look at the answers (`history`): a stale state that happens to say the same is found too.

use std::collections::BTreeMap;

use crate::api::Operation;
use crate::shard::effect::ConnectionId;
use crate::types::{Index, NodeId};

/// What was asked and has no answer yet.
#[derive(Debug, Default)]
pub struct Freshness {
    /// The highest index that anybody knew committed, by node, connection and ticket.
    asked: BTreeMap<(NodeId, ConnectionId, u64), Index>,
    held: u64,
}

impl Freshness {
    /// A client of the node asks; `committed` is what anybody knew committed before.
    pub fn ask(
        &mut self,
        node: NodeId,
        connection: ConnectionId,
        ticket: u64,
        operation: &Operation,
        committed: Index,
    ) {
        if is_question(operation) {
            self.asked.insert((node, connection, ticket), committed);
        }
    }

    /// The node answers, having applied so much.
    ///
    /// # Errors
    /// If that was too little.
    pub fn answer(
        &mut self,
        node: NodeId,
        connection: ConnectionId,
        ticket: u64,
        applied: Index,
    ) -> Result<(), String> {
        let Some(committed) = self.asked.remove(&(node, connection, ticket)) else { return Ok(()) };
        self.held += 1;
        if applied < committed {
            return Err(format!(
                "node {node} answers a question from the state at entry {applied}; entry {committed} was committed when it \
                 was asked"
            ));
        }
        Ok(())
    }

    /// The node's process is gone, and with it what it was asked.
    pub fn forget(&mut self, node: NodeId) {
        self.asked.retain(|(asked, _, _), _| *asked != node);
    }

    /// Answers that were held against what was committed.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }
}

/// Whether the answer is a look at the state. A poll is not among them: what it finds is what the leader saw.
fn is_question(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Peek { .. }
            | Operation::PeekReady { .. }
            | Operation::PeekDelayed { .. }
            | Operation::PeekBuried { .. }
            | Operation::StatsJob { .. }
            | Operation::StatsTube { .. }
            | Operation::Stats
            | Operation::ListTubes
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::JobId;

    const NODE: NodeId = NodeId(1);
    const CONNECTION: ConnectionId = ConnectionId(7);

    #[test]
    fn an_answer_from_an_older_state_than_was_committed_is_told() {
        let mut freshness = Freshness::default();
        let question = Operation::Peek { job: JobId(1) };
        freshness.ask(NODE, CONNECTION, 1, &question, Index(5));
        freshness.ask(NODE, CONNECTION, 2, &question, Index(5));
        assert_eq!(freshness.answer(NODE, CONNECTION, 1, Index(5)), Ok(()));
        assert!(freshness.answer(NODE, CONNECTION, 2, Index(4)).is_err());
        assert_eq!(freshness.held(), 2);
    }

    #[test]
    fn commands_and_what_an_earlier_process_was_asked_are_not_judged() {
        let mut freshness = Freshness::default();
        freshness.ask(NODE, CONNECTION, 1, &Operation::Delete { job: JobId(1) }, Index(5));
        freshness.ask(NODE, CONNECTION, 2, &Operation::Stats, Index(5));
        freshness.forget(NODE);
        assert_eq!(freshness.answer(NODE, CONNECTION, 1, Index(1)), Ok(()));
        assert_eq!(freshness.answer(NODE, CONNECTION, 2, Index(1)), Ok(()));
        assert_eq!(freshness.held(), 0);
    }
}
