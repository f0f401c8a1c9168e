//! The events of one shard until a turn takes them: what keeps the group alive first, then everybody else in fair shares.
//!
//! ```text
//!     consensus, disk, links ─────────> urgent ──────────────────────────> first in each turn
//!     client 1 ─> │ │ │ │ ─┐
//!     client 2 ─> │ │      ├─> in turn, some of each ──> up to ITEMS_PER_TURN_MAX in all
//!     peer 3   ─> │ │ │    ─┘
//! ```
//!
//! Events of one source keep their order. Those of different sources may overtake each other, so
//! nothing may depend on what a client asked before another client did, but for what it was
//! answered. What consensus says to a peer may overtake the rest of what that peer sends, but
//! nothing overtakes the beginning or the end of its connection, or is overtaken by them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use tokio::sync::Notify;

use super::host::Event;
use crate::api::Operation;
use crate::net::message::{Given, PeerMessage};
use crate::shard::effect::ConnectionId;
use crate::types::NodeId;

/// A turn takes urgent events of no more items than this and one event's, and as many again of others. One item is what takes
/// a few microseconds.
pub const ITEMS_PER_TURN_MAX: usize = 512;

/// No event counts for more items than this, whatever it holds: what it brings beyond is the shard's to cut into steps.
pub const ITEMS_PER_EVENT_MAX: usize = 1024;

/// What a client, and what a peer, may have handled before it is another's turn.
const CLIENT_SHARE: usize = 16;
const PEER_SHARE: usize = 128;

/// So many bytes are hashed or copied in the time of an item.
const BYTES_PER_ITEM: usize = 16 << 10;

/// So many short things of one message are an item: names of tubes, commands to pass on.
const THINGS_PER_ITEM: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Peer(NodeId),
    Client(ConnectionId),
    /// Bodies that were read for clients.
    Bodies,
}

/// None: the event is urgent.
fn source(event: &Event) -> Option<Source> {
    match event {
        Event::Operation { connection, .. } | Event::Closed(connection) => Some(Source::Client(*connection)),
        Event::Message { message: PeerMessage::Raft(_), .. } => None,
        Event::Message { from: peer, .. } => Some(Source::Peer(*peer)),
        Event::CommandRead { .. } | Event::BodyGivenUp(_) => Some(Source::Bodies),
        _ => None,
    }
}

/// About how much work an event is.
fn items(event: &Event) -> usize {
    let (things, bytes) = match event {
        Event::Operation { operation: Operation::Put { body, .. }, .. } => (0, body.len()),
        Event::Operation { operation: Operation::Reserve { tubes, .. }, .. } => (tubes.len(), 0),
        Event::Message { message, .. } => match message {
            PeerMessage::Commands { commands, .. } => {
                (commands.len(), commands.iter().map(bytes::Bytes::len).sum::<usize>())
            }
            // A name has a byte of length in front, and a few more.
            PeerMessage::Wait { tubes, .. } => (tubes.len() / 8, 0),
            PeerMessage::References { changes, .. } => (changes.len(), 0),
            PeerMessage::Pulled(pulled) => match &pulled.what {
                Given::Piece { bytes, .. } => (0, bytes.len()),
                Given::Jobs(jobs) => (jobs.len(), jobs.iter().map(|job| job.enqueue.len()).sum::<usize>()),
                Given::Nothing => (0, 0),
            },
            PeerMessage::Raft(raft) => (0, raft.entries.iter().map(|entry| entry.shared.len()).sum()),
            _ => (0, 0),
        },
        Event::CommandRead { command: Ok(command), .. } => (0, command.len()),
        Event::EntriesRead { entries: Ok(entries), .. } => (0, entries.iter().map(|entry| entry.shared.len()).sum()),
        _ => (0, 0),
    };
    (1 + things / THINGS_PER_ITEM + bytes / BYTES_PER_ITEM).min(ITEMS_PER_EVENT_MAX)
}

/// Unbounded in itself; whoever pushes is bounded (outstanding operations per connection, in-flight appends per peer).
#[derive(Debug, Default)]
pub struct Intake {
    waiting: RefCell<Waiting>,
    pushed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    urgent: VecDeque<Event>,
    /// Never empty, and each in `turns` once.
    by_source: BTreeMap<Source, VecDeque<Event>>,
    turns: VecDeque<Source>,
}

impl Waiting {
    /// All that a source has here comes before any event that is pushed from now on.
    fn hasten(&mut self, source: Source) {
        if let Some(events) = self.by_source.remove(&source) {
            self.turns.retain(|other| *other != source);
            self.urgent.extend(events);
        }
    }

    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.turns.is_empty()
    }
}

/// What one turn handles.
#[derive(Debug)]
pub struct Taken {
    pub events: Vec<Event>,
    pub items: usize,
}

impl Intake {
    pub fn push(&self, event: Event) {
        let mut waiting = self.waiting.borrow_mut();
        let was_empty = waiting.is_empty();
        match source(&event) {
            None => {
                if let Event::IncomingUp { peer, .. } | Event::IncomingLost(peer) = event {
                    waiting.hasten(Source::Peer(peer));
                }
                waiting.urgent.push_back(event);
            }
            Some(source) => {
                let Waiting { by_source, turns, .. } = &mut *waiting;
                by_source
                    .entry(source)
                    .or_insert_with(|| {
                        turns.push_back(source);
                        VecDeque::new()
                    })
                    .push_back(event);
            }
        }
        drop(waiting);
        if was_empty {
            self.pushed.notify_one();
        }
    }

    /// What the next turn handles, in this order. The rest stays for those behind it.
    pub fn take(&self) -> Taken {
        let mut waiting = self.waiting.borrow_mut();
        let Waiting { urgent, by_source, turns } = &mut *waiting;
        let mut taken = Taken { events: Vec::new(), items: 0 };
        while taken.items < ITEMS_PER_TURN_MAX
            && let Some(event) = urgent.pop_front()
        {
            taken.items += items(&event);
            taken.events.push(event);
        }
        let end = taken.items + ITEMS_PER_TURN_MAX;
        // The beginning or the end of a peer's connection may be among what is left of the urgent ones.
        let takes_of_peers = urgent.is_empty();
        let mut held = VecDeque::new();
        while taken.items < end
            && let Some(source) = turns.pop_front()
        {
            if matches!(source, Source::Peer(_)) && !takes_of_peers {
                held.push_back(source);
                continue;
            }
            let queue = by_source.get_mut(&source).expect("whose turn it is has something");
            let share = if matches!(source, Source::Client(_)) { CLIENT_SHARE } else { PEER_SHARE };
            let share_end = end.min(taken.items + share);
            while taken.items < share_end
                && let Some(event) = queue.pop_front()
            {
                taken.items += items(&event);
                taken.events.push(event);
            }
            if queue.is_empty() {
                by_source.remove(&source);
            } else {
                turns.push_back(source);
            }
        }
        held.append(turns);
        *turns = held;
        taken
    }

    /// Everything that was pushed so far.
    pub fn take_all(&self) -> Vec<Event> {
        let mut all = Vec::new();
        while !self.is_empty() {
            all.append(&mut self.take().events);
        }
        all
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Returns when there may be something to take.
    pub async fn wait(&self) {
        while self.is_empty() {
            self.pushed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::Vote;
    use crate::types::{Index, Term};

    fn delete(connection: u64, ticket: u64) -> Event {
        let operation = Operation::Delete { job: crate::types::JobId(1) };
        Event::Operation { connection: ConnectionId(connection), ticket, operation }
    }

    fn tickets(taken: &Taken, of: u64) -> Vec<u64> {
        let ticket = |event: &Event| match event {
            Event::Operation { connection, ticket, .. } if connection.0 == of => Some(*ticket),
            _ => None,
        };
        taken.events.iter().filter_map(ticket).collect()
    }

    #[test]
    fn a_turn_is_bounded_and_its_rest_comes_in_the_next_ones_in_order() {
        let intake = Intake::default();
        (0..2000).for_each(|ticket| intake.push(delete(1, ticket)));
        let mut seen = Vec::new();
        while !intake.is_empty() {
            let taken = intake.take();
            assert!(taken.items <= ITEMS_PER_TURN_MAX && taken.items == taken.events.len());
            seen.extend(tickets(&taken, 1));
        }
        assert!(seen.iter().copied().eq(0..2000));
    }

    #[test]
    fn what_keeps_the_group_alive_overtakes_what_clients_ask() {
        let intake = Intake::default();
        (0..2000).for_each(|ticket| intake.push(delete(1, ticket)));
        intake.push(Event::VoteSaved(Vote::default()));
        assert!(matches!(intake.take().events[0], Event::VoteSaved(_)));
    }

    #[test]
    fn a_client_with_one_request_waits_for_no_other_clients_many() {
        let intake = Intake::default();
        for connection in 1..=20 {
            (0..2000).for_each(|ticket| intake.push(delete(connection, ticket)));
        }
        intake.push(delete(99, 7));
        assert_eq!(tickets(&intake.take(), 99), [7]);
    }

    #[test]
    fn work_counts_not_events() {
        let tubes = |count: usize| vec![bytes::Bytes::from_static(b"t"); count];
        let reserve = |count| Event::Operation {
            connection: ConnectionId(1),
            ticket: 1,
            operation: Operation::Reserve { tubes: tubes(count), poll: false },
        };
        assert_eq!((items(&reserve(1)), items(&reserve(1000)), items(&delete(1, 1))), (1, 126, 1));
        let wait = |bytes: usize| Event::Message {
            from: NodeId(2),
            message: PeerMessage::Wait {
                term: Term(1),
                session: crate::types::SessionId { node: NodeId(2), boot: crate::types::BootEpoch(1), number: 1 },
                seq: 1,
                registration: 1,
                poll: false,
                tubes: bytes::Bytes::from(vec![0; bytes]),
            },
        };
        assert_eq!(items(&wait(1 << 20)), ITEMS_PER_EVENT_MAX);
        let intake = Intake::default();
        (0..20).for_each(|_| intake.push(wait(8000)));
        assert_eq!(intake.take().events.len(), 5, "126 items each");
    }

    #[test]
    fn what_a_peer_sent_and_the_end_of_its_connection_keep_their_order() {
        let intake = Intake::default();
        let report = |peer| Event::Message {
            from: NodeId(peer),
            message: PeerMessage::MarkerDigest { term: Term(1), marker: Index(1), digest: 1 },
        };
        (0..700).for_each(|_| intake.push(report(2)));
        intake.push(report(3));
        intake.push(Event::IncomingLost(NodeId(2)));
        intake.push(report(2));
        intake.push(Event::VoteSaved(Vote::default()));
        let all = intake.take_all();
        let ends = |event: &Event| matches!(event, Event::IncomingLost(_));
        let of_two = |event: &&Event| matches!(event, Event::Message { from: NodeId(2), .. });
        let end = all.iter().position(ends).expect("it was pushed");
        assert_eq!(all.len(), 704);
        assert_eq!(all[..end].iter().filter(of_two).count(), 700);
        assert_eq!(all[end..].iter().filter(of_two).count(), 1);
    }
}
