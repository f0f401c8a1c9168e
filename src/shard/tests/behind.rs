//! Snapshots between nodes as the shard meets them, one event at a time: offers that are taken or not, files that go while something in them
//! is read, and floors of which no term is known.

use std::sync::Arc;

use roaring::RoaringTreemap;

use super::*;
use crate::net::message::{Given, Part, Pull, Pulled};
use crate::shard::effect::Wanted;
use crate::shard::giving::Kept;
use crate::types::SnapshotName;
use crate::wal::catalog::{Piece, PieceName};
use crate::wal::keeper::{Change, NewFloor};
use crate::wal::store::{StoreDraft, StoredJob, open_store};

fn effects(shard: &mut Shard) -> Vec<Effect> {
    std::iter::from_fn(|| shard.poll_effect()).collect()
}

fn named(position: LogPosition) -> SnapshotName {
    SnapshotName { position, hash: 7, bytes: 12_288 }
}

fn kept(position: LogPosition, jobs: impl IntoIterator<Item = u64>) -> Kept {
    Kept { name: named(position), live: Arc::new(jobs.into_iter().collect::<RoaringTreemap>()) }
}

fn roles(world: &World) -> (NodeId, NodeId, NodeId) {
    let leader = world.leader().expect("it is settled");
    let [one, other] = world.nodes.iter().copied().filter(|&node| node != leader).collect::<Vec<_>>()[..] else {
        panic!("two follow")
    };
    (leader, one, other)
}

/// What a node wants to pull when it is offered this.
fn offered(world: &mut World, to: NodeId, from: NodeId, term: Term, position: LogPosition) -> Option<Wanted> {
    let moment = world.moment();
    let shard = world.shards.get_mut(&to).expect("it runs");
    shard.handle_message(moment, from, PeerMessage::Offer { term, snapshot: named(position) });
    effects(shard).into_iter().find_map(|effect| match effect {
        Effect::Install(wanted) => Some(wanted),
        _ => None,
    })
}

#[test]
fn s3_s9_an_offer_is_taken_of_the_leader_alone_and_only_of_what_is_not_here() {
    let mut world = settled(3);
    let (leader, node, other) = roles(&world);
    assert_eq!(world.call(leader, FIRST, put("before")), Answer::Inserted { job: JobId(1) });
    world.run_until("all to have it", |world| world.shards[&node].committed == world.shards[&leader].committed);
    let (committed, term) = (world.shards[&node].committed, world.shards[&node].raft.term());
    let ahead = LogPosition::new(term, Index(committed.0 + 100));
    let wanted = Some(Wanted { from: leader, snapshot: named(ahead), after: committed, first_job: JobId(2) });
    assert_eq!(offered(&mut world, node, leader, term, ahead), wanted);
    assert_eq!(offered(&mut world, node, leader, term, ahead), wanted, "it is said again until it is here");
    assert_eq!(offered(&mut world, node, other, term, ahead), None, "another follower does not know what is needed");
    assert_eq!(offered(&mut world, node, leader, Term(term.0 - 1), ahead), None, "it led then, perhaps");
    assert_eq!(offered(&mut world, leader, node, term, ahead), None, "a leader lacks nothing");
    let here = LogPosition::new(term, committed);
    assert_eq!(offered(&mut world, node, leader, term, here), None, "that was applied");

    // An entry that is here, and is not known to be committed; and one of another term in its place.
    world.ask(leader, FIRST, put("on its way"));
    world.deliver(leader, node);
    let last = world.shards[&node].raft.last_position();
    assert!(last.index > committed && world.shards[&node].committed == committed);
    assert_eq!(offered(&mut world, node, leader, term, last), None, "what follows it may be acknowledged here");
    let unlike = LogPosition::new(Term(term.0 + 1), last.index);
    assert!(offered(&mut world, node, leader, term, unlike).is_some(), "the log here is another one from there on");

    // It stands for election: whoever led, it hears nobody.
    let late = Moment { now: world.now.saturating_add(Nanos::from_secs(60)), ..world.moment() };
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.handle_time(late);
    shard.handle_time(Moment { now: late.now.saturating_add(Nanos::from_secs(60)), ..late });
    assert_eq!((shard.raft.leader(), shard.raft.term()), (None, term));
    assert_eq!(offered(&mut world, node, leader, term, ahead), None);
}

#[test]
fn s3_what_was_pulled_waits_for_what_is_being_written_and_is_wanted_no_more_when_the_log_brought_it() {
    let mut world = settled(3);
    let (leader, node, _) = roles(&world);
    assert_eq!(world.call(leader, FIRST, put("before")), Answer::Inserted { job: JobId(1) });
    world.run_until("all to have it", |world| world.shards[&node].committed == world.shards[&leader].committed);
    let (committed, term) = (world.shards[&node].committed, world.shards[&node].raft.term());
    let ahead = named(LogPosition::new(term, Index(committed.0 + 100)));
    let shard = &world.shards[&node];
    assert!(shard.wants(&ahead, committed) && shard.is_at_rest());
    assert!(!shard.wants(&ahead, Index(committed.0 - 1)), "its jobs were chosen for another state");
    assert!(!world.shards[&leader].wants(&ahead, committed));

    world.ask(leader, FIRST, put("on its way"));
    world.deliver(leader, node);
    let shard = &world.shards[&node];
    assert!(shard.wants(&ahead, committed), "nothing came of it yet");
    assert!(!shard.is_at_rest(), "an append would be lost half-way");
    world.complete_append(node);
    assert!(world.shards[&node].is_at_rest());
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.reading_back = true;
    assert!(!shard.is_at_rest(), "entries are on their way into the state");
    shard.reading_back = false;
    world.run_until("the entry to be committed", |world| world.shards[&node].committed > committed);
    assert!(!world.shards[&node].wants(&ahead, committed), "the log goes on without it");
}

/// A single node, most of whose log has rows in files and is not in memory any more.
fn aged() -> World {
    let mut world = settled(1);
    for round in 0..40 {
        let put = world.call(NodeId(1), FIRST, put(&format!("{round} {}", "x".repeat(300))));
        assert!(matches!(put, Answer::Inserted { .. }));
    }
    assert!(world.shards[&NodeId(1)].catalog.pieces().len() > 3);
    world
}

/// The first file with jobs, given up for a store segment that holds all of them; one of the jobs.
fn move_first_file(world: &mut World, node: NodeId) -> JobId {
    let moment = world.moment();
    let shard = world.shards.get_mut(&node).expect("it runs");
    let pieces = shard.catalog.pieces();
    let piece = pieces.iter().find(|piece| piece.footer.jobs() > 0).expect("some hold jobs").clone();
    let mut draft = StoreDraft::new(SegmentNumber(1), IDENTITY);
    for row in piece.footer.rows_from(piece.footer.first_job()) {
        let entry = &world.disks[&node].entries[(row.index.0 - 1) as usize];
        let enqueue = &entry.payload()[row.offset as usize..(row.offset + row.bytes) as usize];
        draft.push(&StoredJob { job: row.job, index: row.index, wall: row.wall, class: row.class, enqueue });
    }
    let content = Bytes::from(draft.finish());
    let footer = Rc::new(open_store(&content, SegmentNumber(1), &IDENTITY).expect("just made"));
    let job = footer.first_job();
    let floor = Some(piece.footer.subject().last);
    let added = vec![Piece { name: PieceName::Store(SegmentNumber(1)), footer }];
    shard.handle_files_changed(moment, Change { floor, removed: vec![piece.name], added });
    assert_eq!(shard.raft.log().floor().index, piece.footer.subject().last);
    job
}

fn first_job_in_a_file(world: &World, node: NodeId) -> JobId {
    let pieces = world.shards[&node].catalog.pieces();
    pieces.iter().find(|piece| piece.footer.jobs() > 0).expect("some hold jobs").footer.first_job()
}

#[test]
fn s8_a_body_whose_file_is_given_up_while_it_is_read_is_read_where_it_stands_now() {
    let (mut world, node) = (aged(), NodeId(1));
    let (moment, job) = (world.moment(), first_job_in_a_file(&world, node));
    let shard = world.shards.get_mut(&node).expect("it runs");
    let reads = |shard: &mut Shard| {
        effects(shard).into_iter().find_map(|effect| match effect {
            Effect::ReadCommand { read, at } => Some((read, at)),
            _ => None,
        })
    };
    shard.handle_operation(moment, SECOND, 1, Operation::Peek { job });
    let (read, at) = reads(shard).expect("its entry has left memory");
    assert!(matches!(at, EnqueueAt::Log { .. }));
    assert_eq!(move_first_file(&mut world, node), job);
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.handle_command_read(moment, read, Err("the file is gone".to_owned()));
    let (again, at) = reads(shard).expect("it is looked for once more");
    assert!(matches!(at, EnqueueAt::Store(at) if at.job == job), "{at:?}");
    let index = shard.catalog.find(job).expect("rows").expect("a row").at.expect("a place").0;
    let entry = &world.disks[&node].entries[(index.0 - 1) as usize];
    let enqueue = entry.payload_bytes();
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.handle_command_read(moment, again, Ok(enqueue));
    let answer = effects(shard).into_iter().find_map(|effect| match effect {
        Effect::Answer { connection: SECOND, ticket: 1, answer } => Some(answer),
        _ => None,
    });
    assert!(
        matches!(&answer, Some(Answer::Found { job: found, body }) if *found == job && body.len() > 300),
        "{answer:?}"
    );
}

#[test]
fn s8_jobs_that_were_moved_while_they_were_read_for_a_peer_are_given_from_where_they_stand_now() {
    let (mut world, node, peer) = (aged(), NodeId(1), NodeId(2));
    let (moment, job) = (world.moment(), first_job_in_a_file(&world, node));
    let shard = world.shards.get_mut(&node).expect("it runs");
    let kept = kept(shard.applied, [job.0]);
    let snapshot = kept.name;
    shard.handle_snapshot_found(kept);
    let gives = |shard: &mut Shard| {
        effects(shard).into_iter().find_map(|effect| match effect {
            Effect::GiveJobs { to, snapshot: of, jobs } if to == peer && of == snapshot => Some(jobs),
            _ => None,
        })
    };
    let pull = Pull { snapshot, part: Part::Jobs(vec![job]) };
    shard.handle_message(moment, peer, PeerMessage::Pull(pull));
    let places = gives(shard).expect("it lives in the snapshot");
    assert!(matches!(places[..], [place] if matches!(place.at, EnqueueAt::Log { .. })));
    move_first_file(&mut world, node);
    let shard = world.shards.get_mut(&node).expect("it runs");
    shard.handle_not_given(peer, snapshot, places[0]);
    let places = gives(shard).expect("it lives still");
    assert!(matches!(places[..], [place] if matches!(place.at, EnqueueAt::Store(_)) && place.job == job));
    // Where it cannot be read there either, it is damaged: others are asked, and the file is mended.
    shard.handle_not_given(peer, snapshot, places[0]);
    let nothing = effects(shard).into_iter().any(|effect| {
        matches!(effect, Effect::Send { to, message: PeerMessage::Pulled(Pulled { what: Given::Nothing, .. }) } if to == peer)
    });
    assert!(nothing);
    assert!(shard.catalog.take_bad().contains(&PieceName::Store(SegmentNumber(1))));
}

#[test]
fn s8_entries_that_fall_below_the_floor_while_they_are_read_for_a_peer_that_lags_end_no_node() {
    let mut world = settled(3);
    let (leader, lagging, other) = roles(&world);
    world.disconnect(leader, lagging, false);
    world.disconnect(lagging, leader, false);
    for round in 0..40 {
        let put = world.call(other, FIRST, put(&format!("{round} {}", "x".repeat(300))));
        assert!(matches!(put, Answer::Inserted { .. }));
    }
    assert_eq!(world.leader(), Some(leader));
    let moment = world.moment();
    let shard = world.shards.get_mut(&leader).expect("it runs");
    shard.handle_peer_up(moment, lagging);
    let read = effects(shard).into_iter().find_map(|effect| match effect {
        Effect::ReadEntries { read, .. } => Some(read),
        _ => None,
    });
    let read = read.expect("what it lacks is not in memory any more");
    let (floor, _) = shard.catalog.closed_end(shard.applied.index).expect("segments have rows");
    shard.handle_files_changed(moment, Change { floor: Some(floor), removed: Vec::new(), added: Vec::new() });
    shard.handle_entries_read(moment, read, Err("the file is gone".to_owned()));
    let stop = effects(shard).into_iter().find(|effect| matches!(effect, Effect::Stop(_)));
    assert!(stop.is_none(), "{stop:?}");
}

#[test]
fn s9_a_floor_whose_term_is_not_known_here_is_passed_over_and_a_later_one_is_not() {
    let (mut world, node) = (aged(), NodeId(1));
    let moment = world.moment();
    let shard = world.shards.get_mut(&node).expect("it runs");
    let newest = kept(shard.applied, [1]);
    let retained = |shard: &mut Shard, older: Index| {
        shard.handle_snapshot_kept(moment, newest.clone(), Some(older));
        let floors = effects(shard).into_iter().filter_map(|effect| match effect {
            Effect::Keep(Keep::Retain { floor, .. }) => Some(floor),
            _ => None,
        });
        let floors: Vec<Option<NewFloor>> = floors.collect();
        assert_eq!(floors.len(), 1, "what lives is told in any case");
        floors[0]
    };
    let ends: Vec<Index> = shard.catalog.pieces().iter().map(|piece| piece.footer.subject().last).collect();
    let floor = retained(shard, ends[1]).expect("a segment ends there");
    assert_eq!((floor.position.index, Some(floor.chain)), (ends[1], shard.raft.log().chain_at(ends[1])));
    // As behind an install: the log begins there, and files of the one before it are kept for their jobs.
    shard.handle_files_changed(moment, Change { floor: Some(ends[1]), removed: Vec::new(), added: Vec::new() });
    assert_eq!(shard.raft.log().position_at(ends[0]), None);
    assert_eq!(retained(shard, ends[0]), None);
    assert_eq!(retained(shard, Index(ends[1].0 - 1)), None);
    assert_eq!(retained(shard, ends[1]), None, "it is there already");
    assert_eq!(retained(shard, ends[2]).map(|floor| floor.position.index), Some(ends[2]));
}

/// A snapshot that was just put in its place may be all there is.
#[test]
fn the_times_go_on_from_a_snapshot_above_which_the_log_is_empty() {
    let (world, node) = (settled(1), NodeId(1));
    let shard = &world.shards[&node];
    let times = Times { lease: Nanos::from_secs(864_000), wall: Nanos::from_secs(1 << 31) };
    let mut machine = Machine::new();
    let batch =
        crate::job::command::Batch { index: Index(1), term: Term(1), times, first_job: JobId(1), commands: &[] };
    machine.apply(batch, &mut Vec::new()).expect("it applies");
    let recovered = Recovered {
        vote: Vote::default(),
        machine,
        log: Log::new(LogPosition::new(Term(1), Index(1)), origin_chain(&IDENTITY)),
        pieces: Vec::new(),
        index: LogIndex::default(),
        rows: Rows::default(),
        committed: Index(1),
        last_times: Times::default(),
    };
    let anew = Shard::new(shard.config.clone(), recovered, world.moment());
    let estimate = anew.clock.estimate(world.now);
    assert_eq!(estimate, times);
}

#[test]
fn s9_a_snapshot_that_is_below_the_floor_by_now_is_offered_to_nobody() {
    let mut world = settled(3);
    let (leader, lagging, other) = roles(&world);
    world.disconnect(leader, lagging, false);
    world.disconnect(lagging, leader, false);
    for round in 0..40 {
        world.call(other, FIRST, put(&format!("{round} {}", "x".repeat(300))));
    }
    let moment = world.moment();
    let shard = world.shards.get_mut(&leader).expect("it runs");
    let ends: Vec<Index> = shard.catalog.pieces().iter().map(|piece| piece.footer.subject().last).collect();
    let old = shard.raft.log().position_at(ends[0]).expect("it is in the log");
    shard.handle_snapshot_found(kept(old, []));
    shard.handle_files_changed(moment, Change { floor: Some(ends[2]), removed: Vec::new(), added: Vec::new() });
    world.connect(leader, lagging);
    world.connect(lagging, leader);
    world.run_dry();
    let offers = |world: &mut World, now: Nanos| {
        let shard = world.shards.get_mut(&leader).expect("it leads");
        let behind =
            shard.raft.progress().any(|peer| peer.node == lagging && peer.state == crate::raft::ProgressState::Behind);
        assert!(behind, "what it lacks is below the floor");
        shard.offer_snapshots(Moment { now, ..moment });
        effects(shard).into_iter().find_map(|effect| match effect {
            Effect::Send { message: PeerMessage::Offer { snapshot, .. }, .. } => Some(snapshot),
            _ => None,
        })
    };
    let now = world.now;
    assert_eq!(offers(&mut world, now), None, "nobody could go on from it");
    let shard = world.shards.get_mut(&leader).expect("it leads");
    let newer = shard.applied;
    shard.handle_snapshot_found(kept(newer, []));
    assert_eq!(offers(&mut world, now).map(|name| name.position), Some(newer));
    assert_eq!(offers(&mut world, now), None, "it was told just now");
    assert!(offers(&mut world, now.saturating_add(Nanos::from_secs(1))).is_some(), "it is told again");
}
