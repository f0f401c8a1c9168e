//! What the operator hears of the links to peers: a peer that cannot be reached, and for how long; a link that broke, and is there
//! again. A peer is one thing to him, however many shards have a link to it.
//!
//! It must never say the same again and again: a reason that lasts is said once a minute. The
//! status shows what it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::types::{Nanos, NodeId, ShardId};

const SAY_EVERY: Nanos = Nanos::from_secs(60);

/// What a start or a stop of the peer brings along is said only where it lasts.
const PASSING_MAX: Nanos = Nanos::from_secs(10);

/// Different reasons that are told apart within a minute. Texts are a peer's: they must not take memory without bound.
const REASONS_MAX: usize = 8;

/// Of all threads of the node. Locked when a link changes or an attempt to connect fails.
#[derive(Debug, Default)]
pub struct Contacts(Mutex<BTreeMap<NodeId, Contact>>);

#[derive(Debug, Default)]
struct Contact {
    /// Shards whose link is up, and shards that try to have one.
    up: BTreeSet<ShardId>,
    down: BTreeSet<ShardId>,
    /// Since when `down` has not been empty.
    since: Option<Nanos>,
    /// A line said that something is wrong, or that a link broke.
    is_said: bool,
    /// Why the last attempt failed, until a link of each shard is up again.
    why: Option<String>,
    /// Reasons, and when each was said.
    said: BTreeMap<String, Nanos>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Info(String),
    Warn(String),
}

impl Contacts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Contact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard's link to a peer is up. `address`: where the peer was dialled.
    pub fn connected(&self, now: Nanos, peer: NodeId, shard: ShardId, address: &str) -> Option<Line> {
        let mut contacts = self.lock();
        let contact = contacts.entry(peer).or_default();
        let is_first = contact.up.is_empty();
        contact.up.insert(shard);
        contact.down.remove(&shard);
        if !contact.down.is_empty() {
            return None;
        }
        let since = contact.since.take();
        contact.why = None;
        contact.said.clear();
        match since {
            Some(since) if std::mem::take(&mut contact.is_said) => {
                let lasted = Lasted(now.saturating_sub(since));
                Some(Line::Info(format!("connected to node {peer} at {address} again, after {lasted}")))
            }
            _ => is_first.then(|| Line::Info(format!("connected to node {peer} at {address}"))),
        }
    }

    /// A shard's link to a peer broke.
    pub fn lost(&self, now: Nanos, peer: NodeId, shard: ShardId, address: &str) -> Option<Line> {
        let mut contacts = self.lock();
        let contact = contacts.entry(peer).or_default();
        contact.up.remove(&shard);
        contact.down.insert(shard);
        if contact.since.is_some() {
            return None;
        }
        contact.since = Some(now);
        contact.is_said = true;
        Some(Line::Info(format!("the connection to node {peer} at {address} broke")))
    }

    /// An attempt to reach a peer failed. `why`: a clause that names the peer. `is_passing`: a reason that a start or a stop of the
    /// peer brings along.
    pub fn failed(&self, now: Nanos, peer: NodeId, shard: ShardId, why: &str, is_passing: bool) -> Option<Line> {
        let mut contacts = self.lock();
        let contact = contacts.entry(peer).or_default();
        contact.up.remove(&shard);
        contact.down.insert(shard);
        let lasted = now.saturating_sub(*contact.since.get_or_insert(now));
        if contact.why.as_deref() != Some(why) {
            contact.why = Some(why.to_owned());
        }
        if is_passing && lasted < PASSING_MAX {
            return None;
        }
        contact.said.retain(|_, at| now.saturating_sub(*at) < SAY_EVERY);
        if contact.said.contains_key(why) || contact.said.len() >= REASONS_MAX {
            return None;
        }
        contact.said.insert(why.to_owned(), now);
        contact.is_said = true;
        let so_far = if lasted < PASSING_MAX { String::new() } else { format!(", for {} now", Lasted(lasted)) };
        Some(Line::Warn(format!("{why}; trying again{so_far}")))
    }

    /// Why the last attempt to reach a peer failed, a clause that names it, and since when a link
    /// to it is missing.
    pub fn trouble(&self, peer: NodeId) -> Option<(String, Nanos)> {
        let contacts = self.lock();
        let contact = contacts.get(&peer)?;
        contact.why.clone().zip(contact.since)
    }
}

/// A time as one says it.
struct Lasted(Nanos);

impl fmt::Display for Lasted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.0 / 1_000_000;
        match (ms / 1000, ms / 60_000, ms / 3_600_000) {
            (0, _, _) => write!(f, "{ms} ms"),
            (seconds @ 1..=119, _, _) => write!(f, "{seconds} s"),
            (_, minutes @ 2..=119, _) => write!(f, "{minutes} minutes"),
            (_, _, hours) => write!(f, "{hours} hours"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const SHARD: ShardId = ShardId(0);

    fn warn(text: &str) -> Option<Line> {
        Some(Line::Warn(text.to_owned()))
    }

    fn info(text: &str) -> Option<Line> {
        Some(Line::Info(text.to_owned()))
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_said_at_once_and_once_a_minute_with_how_long() {
        let contacts = Contacts::default();
        let why = "cannot reach node 2 at nosuch.invalid:24122: name not known";
        let failed = |second: u64| contacts.failed(Nanos::from_secs(second), PEER, SHARD, why, false);
        let lines: Vec<Line> = (0..181).filter_map(failed).collect();
        let said = |so_far: &str| Line::Warn(format!("{why}; trying again{so_far}"));
        assert_eq!(lines, [said(""), said(", for 60 s now"), said(", for 2 minutes now"), said(", for 3 minutes now")]);
        let up = contacts.connected(Nanos::from_secs(7300), PEER, SHARD, "two:1");
        assert_eq!(up, info("connected to node 2 at two:1 again, after 2 hours"));
    }

    #[test]
    fn the_links_of_many_shards_to_a_peer_are_one_to_the_operator() {
        let contacts = Contacts::default();
        let shards = || (0..16).map(ShardId);
        let up: Vec<_> = shards().filter_map(|shard| contacts.connected(Nanos(0), PEER, shard, "two:1")).collect();
        assert_eq!(up, [Line::Info("connected to node 2 at two:1".to_owned())]);
        let at = Nanos::from_millis;
        let lost: Vec<_> = shards().filter_map(|shard| contacts.lost(at(5), PEER, shard, "two:1")).collect();
        assert_eq!(lost, [Line::Info("the connection to node 2 at two:1 broke".to_owned())]);
        let why = "cannot reach node 2 at two:1: connection refused";
        let failed: Vec<_> = shards().filter_map(|shard| contacts.failed(at(6), PEER, shard, why, false)).collect();
        assert_eq!(failed, [Line::Warn(format!("{why}; trying again"))]);
        let again: Vec<_> = shards().filter_map(|shard| contacts.connected(at(255), PEER, shard, "two:1")).collect();
        assert_eq!(again, [Line::Info("connected to node 2 at two:1 again, after 250 ms".to_owned())]);
    }

    #[test]
    fn what_is_in_the_way_now_is_known_until_the_links_of_all_shards_are_up() {
        let (contacts, at) = (Contacts::default(), Nanos::from_secs);
        let failed = |second, shard, why, is_passing| {
            contacts.failed(at(second), PEER, ShardId(shard), why, is_passing);
        };
        assert_eq!(contacts.trouble(PEER), None);
        failed(5, 0, "it is not ready", true);
        assert_eq!(contacts.trouble(PEER), Some(("it is not ready".to_owned(), at(5))), "not said, and known");
        failed(6, 1, "connection refused", false);
        assert_eq!(contacts.trouble(PEER), Some(("connection refused".to_owned(), at(5))));
        contacts.connected(at(7), PEER, ShardId(0), "two:1");
        assert!(contacts.trouble(PEER).is_some());
        contacts.connected(at(8), PEER, ShardId(1), "two:1");
        assert_eq!(contacts.trouble(PEER), None);
        contacts.lost(at(9), PEER, SHARD, "two:1");
        assert_eq!(contacts.trouble(PEER), None, "nobody has tried yet");
    }

    #[test]
    fn another_reason_is_said_at_once_but_not_without_end() {
        let contacts = Contacts::default();
        let failed = |n: usize| contacts.failed(Nanos::from_secs(1), PEER, SHARD, &format!("reason {n}"), false);
        assert_eq!(failed(0), warn("reason 0; trying again"));
        assert_eq!(failed(1), warn("reason 1; trying again"));
        assert_eq!(failed(0), None);
        assert_eq!((2..1000).filter_map(failed).count(), REASONS_MAX - 2);
    }

    #[test]
    fn what_a_start_of_the_peer_brings_along_is_said_only_where_it_lasts() {
        let contacts = Contacts::default();
        let failed = |second| contacts.failed(Nanos::from_secs(second), PEER, SHARD, "it is not ready", true);
        assert_eq!((failed(100), failed(109)), (None, None));
        assert_eq!(failed(110), warn("it is not ready; trying again, for 10 s now"));
        let other = Contacts::default();
        assert_eq!(other.failed(Nanos(1), PEER, SHARD, "it is not ready", true), None);
        let up = other.connected(Nanos(2), PEER, SHARD, "two:1");
        assert_eq!(up, info("connected to node 2 at two:1"), "nothing was said that is over now");
    }
}
