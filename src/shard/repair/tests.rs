//! What proves that an entry may be given up, and what does not.

use super::*;
use crate::raft::message::EntryMeta;
use crate::types::{ClusterId, JobId, LogPosition, ShardId, Times};
use crate::wal::entry::{Draft, EntryKind, LogIdentity, origin_chain};
use crate::wal::format::{BLOCK, SegmentEpoch, SegmentHeader, record_bytes};
use crate::wal::inventory::Slot;

const LOG: LogIdentity = LogIdentity { cluster: ClusterId(7), shard: ShardId(0) };
const NOW: Nanos = Nanos::from_secs(1);
const NUMBER: SegmentNumber = SegmentNumber(1);

fn log(entries: u64, payload: &[u8]) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    for index in 1..=entries {
        let draft = Draft {
            position: LogPosition::new(Term(1), Index(index)),
            prev_chain: log.last().map_or(origin_chain(&LOG), |last| last.meta.chain),
            kind: EntryKind::Commands,
            times: Times::default(),
            first_job: JobId(1),
            job_count: 0,
            payload,
        };
        log.push(Entry::encode(draft, &LOG));
    }
    log
}

/// A node of five whose last term is 3, with a log of five entries in one segment. Of the faulty ones those are named that say so.
struct Bench {
    log: Vec<Entry>,
    repair: Repair,
}

impl Bench {
    fn new(others: &[u8], faulty: &[(u64, bool)], committed: u64) -> Bench {
        let log = log(5, b"job");
        let slot = |meta: EntryMeta| {
            let index = meta.position.index;
            let offset = BLOCK * index.0;
            match faulty.iter().find(|(faulty, _)| *faulty == index.0) {
                Some((_, named)) => Slot::Faulty { chain: named.then_some(meta.chain), segment: NUMBER, offset },
                None => Slot::Whole { meta, placement: Placement { segment: NUMBER, offset, bytes: meta.bytes } },
            }
        };
        let header = SegmentHeader {
            number: NUMBER,
            epoch: SegmentEpoch(0),
            bytes: 16 * BLOCK,
            base: Index::ZERO,
            base_chain: origin_chain(&LOG),
            durable_upto: Index::ZERO,
            commit: Index::ZERO,
        };
        let slots = log.iter().map(|entry| slot(entry.meta)).collect();
        let inventory = Inventory::new(Index::ZERO, slots, vec![header], Index(committed));
        let others: BTreeSet<NodeId> = others.iter().map(|node| NodeId(*node)).collect();
        let mut repair = Repair::new(others.clone(), Term(3), inventory, NOW);
        others.into_iter().for_each(|node| repair.handle_peer_up(NOW, node));
        Bench { log, repair }
    }

    fn want(&self) -> Fetch {
        self.repair.want.expect("something is wanted").fetch
    }

    fn say(&mut self, from: u8, leads: Option<u64>, held: Held) {
        let Fetch { last, chain, .. } = self.want();
        let fetched = Fetched { last, chain, leads: leads.map(Term), held };
        self.repair.handle_message(NOW, NodeId(from), PeerMessage::Fetched(fetched));
    }

    fn entries(&self, first: u64, last: u64) -> Held {
        Held::Entries(self.log[first as usize - 1..last as usize].to_vec())
    }

    /// Carries out what is to be written; which entries those were.
    fn write(&mut self) -> Vec<u64> {
        let effects: Vec<Effect> = std::iter::from_fn(|| self.repair.poll_effect()).collect();
        let plan = effects.into_iter().find_map(|effect| match effect {
            Effect::Rewrite(plan) => Some(plan),
            _ => None,
        });
        let plan = plan.expect("something is to be written");
        let end = plan.pieces.last().map_or(0, |piece| piece.placement.offset + record_bytes(piece.placement.bytes));
        assert!(end <= plan.header.bytes);
        self.repair.handle_rewritten(NOW, &plan);
        let given = plan.pieces.iter().filter(|piece| matches!(piece.source, crate::wal::rewrite::Source::Given(_)));
        given.map(|piece| piece.index.0).collect()
    }
}

#[test]
fn a_run_of_lost_entries_is_found_from_its_end_each_naming_the_one_before() {
    let mut bench = Bench::new(&[2, 3], &[(2, false), (3, false), (4, true)], 0);
    assert_eq!((bench.want().first, bench.want().last), (Index(2), Index(4)));
    assert_eq!(bench.want().chain, Some(bench.log[3].meta.chain));
    let answer = bench.entries(3, 4);
    bench.say(2, None, answer);
    assert_eq!((bench.want().last, bench.want().chain), (Index(2), Some(bench.log[1].meta.chain)));
    assert_eq!(bench.repair.outcome(), None);
    // More than was asked for does no harm.
    let answer = bench.entries(1, 2);
    bench.say(3, None, answer);
    assert_eq!(bench.write(), [2, 3, 4]);
    assert_eq!(bench.repair.outcome(), Some(Outcome::Whole));
    assert_eq!((bench.repair.faulty(), bench.repair.repaired()), (0, 3));
}

#[test]
fn an_entry_is_given_up_when_every_other_voter_lacks_it_and_not_when_a_majority_does() {
    let mut bench = Bench::new(&[2, 3, 4, 5], &[(4, true)], 3);
    for node in [2, 3, 4] {
        bench.say(node, None, Held::Absent);
        assert_eq!(bench.repair.outcome(), None, "node 5 may be the leader that counts the copy here");
    }
    bench.say(5, None, Held::Absent);
    assert_eq!(bench.repair.outcome(), Some(Outcome::GiveUp(Index(4))));
}

#[test]
fn a_peer_whose_copy_is_damaged_too_or_that_cannot_tell_keeps_an_entry_from_being_given_up() {
    for held in [Held::Faulty, Held::Unknown] {
        let mut bench = Bench::new(&[2, 3], &[(5, true)], 3);
        bench.say(2, None, held.clone());
        bench.say(3, None, Held::Absent);
        assert_eq!(bench.repair.outcome(), None, "{held:?}");
        let told = bench.repair.waits_for().expect("it waits");
        assert!(told.contains("entry 5 is damaged here") && told.contains("node 3: never had it"), "{told}");
        // The copy there is repaired by now.
        let answer = bench.entries(5, 5);
        bench.say(2, None, answer);
        assert_eq!(bench.write(), [5]);
        assert_eq!(bench.repair.outcome(), Some(Outcome::Whole));
    }
}

#[test]
fn a_leaders_word_counts_if_this_node_acknowledged_nothing_in_a_later_term() {
    let mut bench = Bench::new(&[2, 3], &[(4, true)], 3);
    bench.say(2, Some(2), Held::Absent);
    assert_eq!(bench.repair.outcome(), None, "an old leader knows nothing of term 3");
    bench.say(2, Some(3), Held::Absent);
    assert_eq!(bench.repair.outcome(), Some(Outcome::GiveUp(Index(4))));
}

#[test]
fn what_is_known_to_be_committed_is_never_given_up() {
    let mut bench = Bench::new(&[2, 3], &[(4, true)], 4);
    bench.say(2, Some(9), Held::Absent);
    bench.say(3, None, Held::Absent);
    assert_eq!(bench.repair.outcome(), None);
    assert!(bench.repair.waits_for().is_some());
}

#[test]
fn what_nothing_names_is_taken_from_a_leader_only() {
    let mut bench = Bench::new(&[2, 3], &[(5, false)], 3);
    assert_eq!(bench.want().chain, None);
    for leads in [None, Some(2)] {
        let answer = bench.entries(5, 5);
        bench.say(2, leads, answer);
        assert_eq!(bench.repair.outcome(), None, "{leads:?}: it may be what an older leader left there");
    }
    let answer = bench.entries(5, 5);
    bench.say(2, Some(3), answer);
    assert_eq!(bench.write(), [5]);
    assert_eq!(bench.repair.outcome(), Some(Outcome::Whole));
}

#[test]
fn what_a_leader_has_in_another_length_is_another_entry() {
    let mut bench = Bench::new(&[2, 3], &[(4, false), (5, false)], 3);
    let longer = log(5, &[1; 60_000]);
    bench.say(2, Some(3), Held::Entries(longer[4..].to_vec()));
    bench.say(2, Some(3), Held::Entries(longer[3..4].to_vec()));
    assert_eq!(bench.repair.outcome(), Some(Outcome::GiveUp(Index(4))));
}

#[test]
fn what_is_before_an_entry_that_is_given_up_is_repaired() {
    let mut bench = Bench::new(&[2, 3], &[(2, true), (5, true)], 3);
    assert_eq!(bench.want().last, Index(5));
    bench.say(2, None, Held::Absent);
    bench.say(3, None, Held::Absent);
    assert_eq!(bench.want().last, Index(2));
    assert_eq!(bench.repair.outcome(), None);
    let answer = bench.entries(2, 2);
    bench.say(3, None, answer);
    assert_eq!(bench.write(), [2]);
    assert_eq!(bench.repair.outcome(), Some(Outcome::GiveUp(Index(5))));
}

#[test]
fn an_answer_to_another_question_is_none() {
    let mut bench = Bench::new(&[2, 3], &[(4, true)], 3);
    let chain = Some(ChainHash(1));
    for (last, chain) in [(Index(4), chain), (Index(4), None), (Index(5), Some(bench.log[3].meta.chain))] {
        for from in [2, 3] {
            let fetched = Fetched { last, chain, leads: Some(Term(9)), held: Held::Absent };
            bench.repair.handle_message(NOW, NodeId(from), PeerMessage::Fetched(fetched));
        }
    }
    assert_eq!(bench.repair.outcome(), None);
}

#[test]
fn whoever_had_no_copy_is_asked_again() {
    let mut bench = Bench::new(&[2, 3], &[(4, true)], 3);
    while bench.repair.poll_effect().is_some() {}
    bench.repair.handle_peer_lost(NodeId(3));
    let later = bench.repair.next_deadline();
    bench.repair.handle_time(later);
    let asked: Vec<NodeId> = std::iter::from_fn(|| bench.repair.poll_effect())
        .map(|effect| match effect {
            Effect::Send { to, message: PeerMessage::Fetch(_) } => to,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [NodeId(2)]);
    assert!(bench.repair.next_deadline() > later);
}
