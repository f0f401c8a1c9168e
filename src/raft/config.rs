//! The numbers that an operator or a simulation may turn. None of them may change what is safe, only what is fast.

use crate::types::{Nanos, NodeId};

/// Times are on the monotonic clock of the node. The defaults suit hosts of one site.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// A follower seeks an election when it has heard no leader for a random time in `min..max`. Whoever heard one
    /// within `min` refuses its vote, and a leader that reached no quorum within `max` steps down.
    pub election_timeout_min: Nanos,
    pub election_timeout_max: Nanos,
    pub heartbeat_interval: Nanos,
    /// Appends with entries that one follower may have unanswered, by count and by bytes of their entries. One
    /// message may pass the limit of bytes, so that an entry of any size can be sent.
    pub in_flight_messages_max: usize,
    pub in_flight_bytes_max: u64,
    /// What one append carries at most; always at least one entry.
    pub append_entries_max: usize,
    pub append_bytes_max: u64,
}

impl Config {
    #[must_use]
    pub fn new(id: NodeId) -> Config {
        Config {
            id,
            election_timeout_min: Nanos::from_millis(150),
            election_timeout_max: Nanos::from_millis(300),
            heartbeat_interval: Nanos::from_millis(50),
            in_flight_messages_max: 256,
            in_flight_bytes_max: 16 << 20,
            append_entries_max: 64,
            append_bytes_max: 1 << 20,
        }
    }

    /// What is wrong with these numbers, if anything.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.heartbeat_interval == Nanos::ZERO {
            return Err(ConfigError::NoHeartbeat);
        }
        if self.election_timeout_min.0 < self.heartbeat_interval.0.saturating_mul(2) {
            return Err(ConfigError::TimeoutBelowHeartbeat);
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return Err(ConfigError::TimeoutsNotARange);
        }
        if self.in_flight_messages_max == 0 || self.append_entries_max == 0 {
            return Err(ConfigError::NoWindow);
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the heartbeat interval must not be zero")]
    NoHeartbeat,
    #[error("the smallest election timeout must be at least two heartbeat intervals, or a healthy leader is lost")]
    TimeoutBelowHeartbeat,
    #[error("the largest election timeout must be above the smallest, or votes split for ever")]
    TimeoutsNotARange,
    #[error("a follower must be allowed at least one message in flight, and an append at least one entry")]
    NoWindow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_numbers_that_cannot_work_are_named() {
        let good = Config::new(NodeId(1));
        assert_eq!(good.check(), Ok(()));
        let slow_heartbeat = Config { heartbeat_interval: Nanos::from_millis(100), ..good.clone() };
        assert_eq!(slow_heartbeat.check(), Err(ConfigError::TimeoutBelowHeartbeat));
        let one_timeout = Config { election_timeout_max: good.election_timeout_min, ..good.clone() };
        assert_eq!(one_timeout.check(), Err(ConfigError::TimeoutsNotARange));
        let no_window = Config { in_flight_messages_max: 0, ..good };
        assert_eq!(no_window.check(), Err(ConfigError::NoWindow));
    }
}
