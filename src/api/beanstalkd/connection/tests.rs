//! Conversations: what a client sends, what the shards are asked, what they say, what the client gets.

use super::*;
use crate::api::beanstalkd::body_budget::BodyLimits;
use crate::api::beanstalkd::front_door::tests::{bodies_up_to, facts, roomy};
use crate::api::beanstalkd::front_door::{NodeCounts, NodeFacts};
use crate::api::beanstalkd::output_budget::OutputLimits;
use crate::api::beanstalkd::request::Counted;
use crate::api::routing::shard_of_tube;
use crate::api::{ShardStats, TubeLines, TubeReferences};
use crate::job::view::{Counts, JobState, JobView, TubeCounts};

const A: ShardId = ShardId(0);
const START: Nanos = Nanos(1_000);

struct Client {
    door: Arc<FrontDoor>,
    connection: Connection,
    now: Nanos,
}

impl Client {
    fn new(shards: u16) -> Client {
        Client::at(&Arc::new(FrontDoor::new(shards, 1, bodies_up_to(100), roomy(), facts())))
    }

    fn at(door: &Arc<FrontDoor>) -> Client {
        let mut connection = Connection::new(door.clone(), 0);
        let opening = [ReferenceChange::Use, ReferenceChange::Watch];
        for expected in opening {
            let request = connection.poll_request().expect("a new client refers to the default tube");
            assert_eq!(request.operation, Operation::Reference { tube: DEFAULT_TUBE, change: expected });
        }
        Client { door: door.clone(), connection, now: START }
    }

    fn send(&mut self, bytes: &str) -> &mut Client {
        self.connection.handle_bytes(self.now, Bytes::copy_from_slice(bytes.as_bytes()));
        self
    }

    /// What the shards were asked since the last call.
    fn asked(&mut self) -> Vec<ShardRequest> {
        std::iter::from_fn(|| self.connection.poll_request()).collect()
    }

    /// The one thing that a shard was asked since the last call: its ticket, and what.
    fn asked_once(&mut self) -> (ShardId, u64, Operation) {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let request = asked.remove(0);
        (request.shard, request.ticket, request.operation)
    }

    fn answer(&mut self, shard: ShardId, ticket: u64, answer: Answer) -> &mut Client {
        self.connection.handle_answer(self.now, shard, ticket, answer);
        self
    }

    /// What the client got since the last call; it reads at once.
    fn got(&mut self) -> String {
        let bytes = self.connection.take_output().concat();
        self.connection.handle_written(self.now);
        String::from_utf8(bytes).unwrap()
    }

    /// Sends a command that one shard decides; gives what it was asked and what the client is told.
    fn decide(&mut self, command: &str, answer: Answer) -> (Operation, String) {
        self.send(command);
        let (shard, ticket, operation) = self.asked_once();
        self.answer(shard, ticket, answer);
        (operation, self.got())
    }

    fn counts(&self) -> NodeCounts {
        self.door.counts()
    }
}

fn name(tube: &str) -> Bytes {
    Bytes::copy_from_slice(tube.as_bytes())
}

fn granted(job: u64) -> Answer {
    Answer::Reserved { job: JobId(job), epoch: 3, body: Bytes::from_static(b"body") }
}

fn inserted(job: u64) -> Answer {
    Answer::Inserted { job: JobId(job) }
}

/// A tube of each of the shards.
fn tube_on(shard: u16, shards: u16) -> String {
    let tubes = (0..).map(|n| format!("tube-{n}"));
    tubes.into_iter().find(|tube| shard_of_tube(tube.as_bytes(), shards) == ShardId(shard)).unwrap()
}

#[test]
fn puts_overlap_and_are_answered_in_their_order() {
    let mut client = Client::new(1);
    client.send("put 1 2 3 1\r\na\r\nput 1 2 3 1\r\nb\r\nput 1 2 3 1\r\nxyz");
    let asked = client.asked();
    assert_eq!(asked.len(), 2);
    client.answer(A, asked[1].ticket, inserted(2));
    assert_eq!(client.got(), "");
    client.answer(A, asked[0].ticket, inserted(1));
    assert_eq!(client.got(), "INSERTED 1\r\nINSERTED 2\r\nEXPECTED_CRLF\r\n");
}

#[test]
fn what_changes_jobs_by_their_ids_overlaps_and_is_answered_in_its_order() {
    let mut client = Client::new(2);
    client.send(
        "delete 1\r\nrelease 2 5 0\r\nput 1 0 60 1\r\nx\r\nbury 3 0\r\ntouch 5\r\nkick-job 4\r\ndelete 0\r\npeek 1\r\n",
    );
    let asked = client.asked();
    let places: Vec<ShardId> = asked.iter().map(|request| request.shard).collect();
    assert_eq!(places[..2], [ShardId(0), ShardId(1)]);
    assert_eq!(asked.len(), 6, "the peek has to see what comes before it: {asked:?}");
    let answers = [Answer::Deleted, Answer::NotFound, inserted(9), Answer::Buried, Answer::Touched, Answer::JobKicked];
    for (request, answer) in asked.iter().zip(answers).rev() {
        assert_eq!(client.got(), "");
        client.answer(request.shard, request.ticket, answer);
    }
    let got = client.got();
    let words: Vec<&str> = got.split("\r\n").map(|line| line.split(' ').next().expect("a word")).collect();
    assert_eq!(words, ["DELETED", "NOT_FOUND", "INSERTED", "BURIED", "TOUCHED", "KICKED", "NOT_FOUND", ""]);
    assert!(matches!(client.asked_once().2, Operation::Peek { .. }));
}

/// A kicked job is a waiting worker's before the delete is looked at: the worker's reserve is to come between the two in the log.
/// Found by `tests/differential.py --seed 996997228`.
#[test]
fn of_two_changes_to_one_job_the_second_waits_for_the_first() {
    let mut client = Client::new(2);
    client.send("kick-job 8\r\ndelete 7\r\ndelete 8\r\ntouch 9\r\n");
    let asked = client.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    client.answer(asked[1].shard, asked[1].ticket, Answer::Deleted);
    assert_eq!(client.asked().len(), 0);
    client.answer(asked[0].shard, asked[0].ticket, Answer::JobKicked);
    let asked = client.asked();
    let deleted = JobId::from_client_id(8, 2).expect("it is one of two shards").1;
    assert_eq!(asked[0].operation, Operation::Delete { job: deleted });
    assert_eq!(asked.len(), 2, "{asked:?}");
    client.answer(asked[0].shard, asked[0].ticket, Answer::NotFound);
    client.answer(asked[1].shard, asked[1].ticket, Answer::Touched);
    assert_eq!(client.got(), "KICKED\r\nDELETED\r\nNOT_FOUND\r\nTOUCHED\r\n");
}

#[test]
fn a_put_goes_to_the_tube_in_use_at_its_place_in_the_stream() {
    let mut client = Client::new(1);
    client.send("put 1 2 3 1\r\na\r\nuse t\r\nput 9 0 0 0\r\n\r\n");
    let asked = client.asked();
    let put = |tube: &str, priority, delay_s, ttr_s, body: &'static [u8]| Operation::Put {
        tube: name(tube),
        priority,
        delay_s,
        ttr_s,
        body: Bytes::from_static(body),
    };
    let reference = |tube: &str, change| Operation::Reference { tube: name(tube), change };
    let operations: Vec<Operation> = asked.iter().map(|request| request.operation.clone()).collect();
    assert_eq!(
        operations,
        [
            put("default", 1, 2, 3, b"a"),
            reference("t", ReferenceChange::Use),
            reference("default", ReferenceChange::Unuse),
            put("t", 9, 0, 1, b""),
        ]
    );
    client.answer(A, asked[3].ticket, Answer::OutOfMemory).answer(A, asked[0].ticket, Answer::TryElsewhere);
    assert_eq!(client.got(), "DRAINING\r\nUSING t\r\nOUT_OF_MEMORY\r\n");
}

#[test]
fn a_command_that_is_no_put_waits_for_puts_and_holds_up_what_follows() {
    let mut client = Client::new(1);
    client.send("put 0 0 1 1\r\na\r\npeek 1\r\nput 0 0 1 1\r\nb\r\n");
    let (_, ticket, _) = client.asked_once();
    client.answer(A, ticket, inserted(1));
    let (_, ticket, operation) = client.asked_once();
    assert_eq!(operation, Operation::Peek { job: JobId(1) });
    client.answer(A, ticket, Answer::Found { job: JobId(1), body: Bytes::from_static(b"a") });
    let (_, ticket, operation) = client.asked_once();
    assert!(matches!(operation, Operation::Put { .. }));
    client.answer(A, ticket, inserted(2));
    assert_eq!(client.got(), "INSERTED 1\r\nFOUND 1 1\r\na\r\nINSERTED 2\r\n");
}

#[test]
fn each_command_asks_one_thing_and_tells_the_answer() {
    let mut client = Client::new(1);
    let job = JobId(7);
    let body = Bytes::from_static(b"x");
    let default = DEFAULT_TUBE;
    for (command, operation, answer, told) in [
        ("delete 7\r\n", Operation::Delete { job }, Answer::Deleted, "DELETED\r\n"),
        ("delete 7\r\n", Operation::Delete { job }, Answer::NotFound, "NOT_FOUND\r\n"),
        ("release 7 1 2\r\n", Operation::Release { job, priority: 1, delay_s: 2 }, Answer::Released, "RELEASED\r\n"),
        ("bury 7 1\r\n", Operation::Bury { job, priority: 1 }, Answer::Buried, "BURIED\r\n"),
        ("touch 7\r\n", Operation::Touch { job }, Answer::Touched, "TOUCHED\r\n"),
        ("kick-job 7\r\n", Operation::KickJob { job }, Answer::JobKicked, "KICKED\r\n"),
        (
            "kick 5\r\n",
            Operation::Kick { tube: default.clone(), bound: 5 },
            Answer::Kicked { count: 3 },
            "KICKED 3\r\n",
        ),
        ("reserve-job 7\r\n", Operation::ReserveJob { job }, granted(7), "RESERVED 7 4\r\nbody\r\n"),
        ("peek 7\r\n", Operation::Peek { job }, Answer::Found { job, body: body.clone() }, "FOUND 7 1\r\nx\r\n"),
        ("peek-ready\r\n", Operation::PeekReady { tube: default.clone() }, Answer::NotFound, "NOT_FOUND\r\n"),
        ("peek-delayed\r\n", Operation::PeekDelayed { tube: default.clone() }, Answer::NotFound, "NOT_FOUND\r\n"),
        ("peek-buried\r\n", Operation::PeekBuried { tube: default }, Answer::NotFound, "NOT_FOUND\r\n"),
        ("pause-tube t 9\r\n", Operation::Pause { tube: name("t"), duration_s: 9 }, Answer::Paused, "PAUSED\r\n"),
        ("stats-tube t\r\n", Operation::StatsTube { tube: name("t") }, Answer::NotFound, "NOT_FOUND\r\n"),
        ("stats-job 7\r\n", Operation::StatsJob { job }, Answer::NotFound, "NOT_FOUND\r\n"),
    ] {
        assert_eq!(client.decide(command, answer), (operation, told.to_owned()), "{command}");
    }
}

#[test]
fn an_id_that_no_job_can_have_is_not_asked_for() {
    let mut client = Client::new(3);
    client.send("delete 0\r\npeek 18446744073709551615\r\nstats-job 9007199254740992\r\n");
    assert_eq!(client.asked(), []);
    assert_eq!(client.got(), "NOT_FOUND\r\nNOT_FOUND\r\nNOT_FOUND\r\n");
}

#[test]
fn a_job_is_looked_for_on_the_shard_that_its_id_names() {
    let mut client = Client::new(3);
    client.send("delete 5\r\n");
    let (shard, ticket, operation) = client.asked_once();
    assert_eq!((shard, operation), (ShardId(1), Operation::Delete { job: JobId(2) }));
    client.answer(shard, ticket, Answer::Deleted);
    assert_eq!(client.got(), "DELETED\r\n");
}

#[test]
fn a_reserve_waits_and_holds_up_what_follows() {
    let mut client = Client::new(1);
    client.send("reserve\r\nlist-tube-used\r\n");
    let (_, ticket, operation) = client.asked_once();
    assert_eq!(operation, Operation::Reserve { tubes: vec![DEFAULT_TUBE], poll: false });
    assert_eq!((client.got(), client.counts().waiting), (String::new(), 1));
    assert_eq!(client.connection.next_deadline(), None);
    client.answer(A, ticket, granted(1));
    assert_eq!(client.got(), "RESERVED 1 4\r\nbody\r\nUSING default\r\n");
    assert_eq!(client.counts().waiting, 0);
}

#[test]
fn a_reserve_with_timeout_ends_when_its_withdrawal_is_confirmed() {
    let mut client = Client::new(1);
    client.send("reserve-with-timeout 2\r\n");
    let (_, reserve, _) = client.asked_once();
    let deadline = START.saturating_add(Nanos::from_secs(2));
    assert_eq!(client.connection.next_deadline(), Some(deadline));
    client.connection.handle_time(Nanos(deadline.0 - 1));
    assert_eq!(client.asked(), []);
    client.connection.handle_time(deadline);
    assert_eq!(client.asked_once().2, Operation::Withdraw { ticket: reserve });
    assert_eq!(client.got(), "");
    client.answer(A, reserve, Answer::NothingReady);
    assert_eq!(client.got(), "TIMED_OUT\r\n");
    assert_eq!(client.counts().commands[Counted::ReserveWithTimeout as usize], 1);
}

#[test]
fn a_deadline_soon_is_told() {
    let mut client = Client::new(1);
    let operation = Operation::Reserve { tubes: vec![DEFAULT_TUBE], poll: false };
    assert_eq!(client.decide("reserve\r\n", Answer::DeadlineSoon), (operation, "DEADLINE_SOON\r\n".to_owned()));
}

#[test]
fn a_timeout_of_zero_polls() {
    let mut client = Client::new(1);
    let operation = Operation::Reserve { tubes: vec![DEFAULT_TUBE], poll: true };
    let told = |answer, client: &mut Client| client.decide("reserve-with-timeout 0\r\n", answer);
    assert_eq!(told(Answer::NothingReady, &mut client), (operation.clone(), "TIMED_OUT\r\n".to_owned()));
    assert_eq!(told(Answer::DeadlineSoon, &mut client), (operation.clone(), "DEADLINE_SOON\r\n".to_owned()));
    assert_eq!(told(granted(1), &mut client), (operation, "RESERVED 1 4\r\nbody\r\n".to_owned()));
}

#[test]
fn a_poll_over_several_shards_asks_one_after_the_other() {
    let mut client = Client::new(2);
    let (first, second) = (tube_on(0, 2), tube_on(1, 2));
    client.send(&format!("watch {first}\r\nwatch {second}\r\nignore default\r\n"));
    client.asked();
    client.got();
    client.send("reserve-with-timeout 0\r\n");
    let (shard_asked_first, ticket, _) = client.asked_once();
    client.answer(shard_asked_first, ticket, Answer::DeadlineSoon);
    let (shard_asked_second, ticket, operation) = client.asked_once();
    assert_ne!(shard_asked_first, shard_asked_second);
    assert!(matches!(operation, Operation::Reserve { poll: true, .. }));
    client.answer(shard_asked_second, ticket, Answer::NothingReady);
    assert_eq!(client.got(), "DEADLINE_SOON\r\n");
    client.send("reserve-with-timeout 0\r\n");
    assert_eq!(client.asked_once().0, shard_asked_second, "the next poll starts elsewhere");
}

#[test]
fn a_reserve_waits_on_each_shard_with_a_watched_tube_or_a_reservation() {
    let mut client = Client::new(3);
    let home = shard_of_tube(b"default", 3);
    let away = (home.0 + 1) % 3;
    let id = JobId(1).client_id(ShardId(away), 3);
    client.send(&format!("reserve-job {id}\r\n"));
    let (shard, ticket, _) = client.asked_once();
    assert_eq!(shard, ShardId(away));
    client.answer(shard, ticket, granted(1));
    client.got();

    client.send("reserve\r\n");
    let asked = client.asked();
    let reserve = |tubes| Operation::Reserve { tubes, poll: false };
    let operations: Vec<_> = asked.iter().map(|request| (request.shard, request.operation.clone())).collect();
    assert_eq!(operations, [(home, reserve(vec![DEFAULT_TUBE])), (ShardId(away), reserve(vec![]))]);
    client.answer(ShardId(away), asked[1].ticket, Answer::DeadlineSoon);
    assert_eq!(client.asked_once().2, Operation::Withdraw { ticket: asked[0].ticket });
    client.answer(home, asked[0].ticket, Answer::NothingReady);
    assert_eq!(client.got(), "DEADLINE_SOON\r\n");

    client.send(&format!("delete {id}\r\n"));
    let (shard, ticket, _) = client.asked_once();
    client.answer(shard, ticket, Answer::Deleted);
    client.send("reserve\r\n");
    assert_eq!(client.asked_once().0, home);
}

#[test]
fn a_half_closed_client_that_waits_times_out_and_is_closed() {
    let mut client = Client::new(1);
    client.send("reserve\r\nlist-tube-used\r\nstat");
    let (_, reserve, _) = client.asked_once();
    client.connection.handle_eof(START);
    assert_eq!(client.asked_once().2, Operation::Withdraw { ticket: reserve });
    assert!(!client.connection.wants_close());
    client.answer(A, reserve, Answer::NothingReady);
    assert_eq!(client.got(), "TIMED_OUT\r\nUSING default\r\n");
    assert!(client.connection.wants_close());
}

#[test]
fn a_half_closed_client_is_told_all_it_asked_for_but_waits_no_more() {
    let mut client = Client::new(1);
    client.send("put 0 0 1 1\r\na\r\nreserve\r\n");
    client.connection.handle_eof(START);
    let (_, ticket, _) = client.asked_once();
    assert!(!client.connection.wants_close());
    client.answer(A, ticket, inserted(1));
    let (_, ticket, operation) = client.asked_once();
    assert_eq!(operation, Operation::Reserve { tubes: vec![DEFAULT_TUBE], poll: true });
    client.answer(A, ticket, granted(1));
    assert_eq!(client.got(), "INSERTED 1\r\nRESERVED 1 4\r\nbody\r\n");
    assert!(client.connection.wants_close());
}

#[test]
fn quit_closes_behind_what_came_before_it() {
    let mut client = Client::new(1);
    client.send("put 0 0 1 1\r\na\r\nquit\r\nlist-tube-used\r\n");
    let (_, ticket, _) = client.asked_once();
    assert!(!client.connection.wants_close());
    client.answer(A, ticket, inserted(1));
    assert!(client.connection.wants_close());
    assert_eq!(client.got(), "INSERTED 1\r\n");
}

#[test]
fn a_hangup_ends_the_connection_without_a_word() {
    let mut client = Client::new(1);
    client.send("put 0 0 1 1\r\na\r\nput 0 0 1 1\r\nb\r\n");
    let asked = client.asked();
    client.answer(A, asked[0].ticket, inserted(1)).answer(A, asked[1].ticket, Answer::Hangup);
    assert!(client.connection.wants_close() && !client.connection.wants_read());
    assert_eq!(client.got(), "INSERTED 1\r\n");
    client.send("list-tube-used\r\n").connection.handle_eof(START);
    assert_eq!(client.got(), "");
}

#[test]
fn a_waiting_client_that_is_hung_up_on_is_told_nothing() {
    let mut client = Client::new(1);
    client.send("reserve-with-timeout 1\r\n");
    let (_, reserve, _) = client.asked_once();
    client.answer(A, 0, Answer::Hangup);
    client.connection.close();
    client.connection.handle_time(Nanos::from_secs(9));
    client.connection.handle_eof(Nanos::from_secs(9));
    client.answer(A, reserve, granted(1));
    assert_eq!((client.got(), client.counts().waiting), (String::new(), 0));
    assert_eq!(client.connection.next_deadline(), None);
}

#[test]
fn a_draining_node_refuses_puts_behind_their_bodies() {
    let mut client = Client::new(1);
    client.door.set_draining(true);
    client.send("put 0 0 1 1\r\na\r\nput 0 0 1 1\r\nabc");
    assert_eq!(client.got(), "DRAINING\r\nEXPECTED_CRLF\r\n");
    assert_eq!(client.asked(), []);
    assert_eq!(client.counts().commands[Counted::Put as usize], 2);
}

#[test]
fn use_watch_and_ignore_are_told_to_the_shards_when_they_change_something() {
    let mut client = Client::new(1);
    client.send("use a\r\nuse a\r\nwatch b\r\nwatch b\r\nignore c\r\nignore b\r\nignore default\r\n");
    assert_eq!(
        client.got(),
        "USING a\r\nUSING a\r\nWATCHING 2\r\nWATCHING 2\r\nWATCHING 2\r\nWATCHING 1\r\nNOT_IGNORED\r\n"
    );
    let references = |client: &mut Client| -> Vec<(String, ReferenceChange)> {
        let asked = client.asked();
        asked
            .into_iter()
            .map(|request| match request.operation {
                Operation::Reference { tube, change } => (String::from_utf8(tube.to_vec()).unwrap(), change),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let expected = [
        ("a", ReferenceChange::Use),
        ("default", ReferenceChange::Unuse),
        ("b", ReferenceChange::Watch),
        ("b", ReferenceChange::Unwatch),
    ];
    assert_eq!(references(&mut client), expected.map(|(tube, change)| (tube.to_owned(), change)));
    client.connection.close();
    let (_, _, left) = client.asked_once();
    assert_eq!(left, Operation::Leave { used: Some(name("a")), watched: vec![name("default")] });
    client.connection.close();
    assert_eq!(client.asked(), []);
}

#[test]
fn tubes_of_all_shards_are_listed_and_default_is_first() {
    let mut client = Client::new(2);
    client.send("list-tubes\r\n");
    let asked = client.asked();
    assert_eq!(asked.len(), 2);
    client.answer(ShardId(1), asked[1].ticket, Answer::Tubes([&name("x")].into_iter().collect()));
    client.answer(ShardId(0), asked[0].ticket, Answer::Tubes([&name("z"), &name("v")].into_iter().collect()));
    assert_eq!(client.got(), "OK 26\r\n---\n- default\n- z\n- v\n- x\n\r\n");
}

#[test]
fn stats_sum_up_the_shards_and_show_the_node() {
    let mut client = Client::new(2);
    client.now = Nanos::from_secs(90);
    client.send("stats\r\n");
    for (n, request) in client.asked().into_iter().enumerate() {
        let n = n as u64 + 1;
        let counts = Counts { urgent: n, ready: 2 * n, timeouts: 3 * n, total_jobs: 4 * n, ..Counts::default() };
        let stats = ShardStats { counts, tubes: n, segment_oldest: n, segment_newest: 10 * n, entries_written: n };
        client.answer(request.shard, request.ticket, Answer::ShardStats(Box::new(stats)));
    }
    let expected = "---\ncurrent-jobs-urgent: 3\ncurrent-jobs-ready: 6\ncurrent-jobs-reserved: 0\n\
        current-jobs-delayed: 0\ncurrent-jobs-buried: 0\ncmd-put: 0\ncmd-peek: 0\ncmd-peek-ready: 0\n\
        cmd-peek-delayed: 0\ncmd-peek-buried: 0\ncmd-reserve: 0\ncmd-reserve-with-timeout: 0\ncmd-delete: 0\n\
        cmd-release: 0\ncmd-use: 0\ncmd-watch: 0\ncmd-ignore: 0\ncmd-bury: 0\ncmd-kick: 0\ncmd-touch: 0\n\
        cmd-stats: 1\ncmd-stats-job: 0\ncmd-stats-tube: 0\ncmd-list-tubes: 0\ncmd-list-tube-used: 0\n\
        cmd-list-tubes-watched: 0\ncmd-pause-tube: 0\njob-timeouts: 9\ntotal-jobs: 12\nmax-job-size: 100\n\
        current-tubes: 2\ncurrent-connections: 1\ncurrent-producers: 0\ncurrent-workers: 0\ncurrent-waiting: 0\n\
        total-connections: 1\npid: 42\nversion: 1.2.3\nrusage-utime: 1.000002\nrusage-stime: 0.000003\n\
        uptime: 90\nbinlog-oldest-index: 1\nbinlog-current-index: 20\nbinlog-records-migrated: 0\n\
        binlog-records-written: 3\nbinlog-max-size: 67108864\ndraining: false\nid: 0000000000000abc\n\
        hostname: host\nos: \"#1 SMP\"\nplatform: x86_64\n";
    assert_eq!(client.got(), format!("OK {}\r\n{expected}\r\n", expected.len()));
}

/// As in beanstalkd without `-b`.
#[test]
fn a_server_without_a_binlog_shows_no_numbers_of_one() {
    let shown = |has_binlog| {
        let facts = NodeFacts { has_binlog, ..facts() };
        let mut client = Client::at(&Arc::new(FrontDoor::new(1, 1, bodies_up_to(100), roomy(), facts)));
        let view = JobView {
            job: JobId(1),
            tube: name("t"),
            state: JobState::Ready,
            priority: 0,
            age_s: 0,
            delay_s: 0,
            ttr_s: 1,
            time_left_s: 0,
            reserves: 0,
            timeouts: 0,
            releases: 0,
            buries: 0,
            kicks: 0,
        };
        let (_, job) = client.decide("stats-job 1\r\n", Answer::JobStats { view: Box::new(view), file: 7 });
        let stats = ShardStats { segment_oldest: 3, segment_newest: 7, entries_written: 9, ..ShardStats::default() };
        let (_, server) = client.decide("stats\r\n", Answer::ShardStats(Box::new(stats)));
        let lines = job.lines().chain(server.lines());
        let of_binlog = |line: &&str| line.starts_with("file: ") || line.starts_with("binlog-");
        lines.filter(of_binlog).map(str::to_owned).collect::<Vec<_>>()
    };
    let numbers = |file, oldest, current, written| {
        vec![
            format!("file: {file}"),
            format!("binlog-oldest-index: {oldest}"),
            format!("binlog-current-index: {current}"),
            "binlog-records-migrated: 0".to_owned(),
            format!("binlog-records-written: {written}"),
            "binlog-max-size: 67108864".to_owned(),
        ]
    };
    assert_eq!(shown(true), numbers(7, 3, 7, 9));
    assert_eq!(shown(false), numbers(0, 0, 0, 0));
}

#[test]
fn tube_stats_are_told() {
    let mut client = Client::new(1);
    let answer = Answer::TubeStats {
        tube: name("t"),
        counts: Box::new(TubeCounts { ready: 5, ..TubeCounts::default() }),
        references: TubeReferences { using: 1, watching: 2, waiting: 3 },
    };
    let (_, told) = client.decide("stats-tube t\r\n", answer);
    assert!(told.starts_with("OK ") && told.contains("name: t\n") && told.contains("current-watching: 2\n"));
}

#[test]
fn connections_producers_and_workers_are_counted_while_they_live() {
    let door = Arc::new(FrontDoor::new(1, 1, bodies_up_to(100), roomy(), facts()));
    let (mut producer, mut worker) = (Client::at(&door), Client::at(&door));
    producer.send("put 0 0 1 1\r\na\r\nput 0 0 1 1\r\na\r\n");
    worker.send("reserve\r\n");
    let counts = door.counts();
    assert_eq!((counts.connections, counts.connections_ever), (2, 2));
    assert_eq!((counts.producers, counts.workers, counts.waiting), (1, 1, 1));
    drop((producer, worker));
    let counts = door.counts();
    assert_eq!((counts.connections, counts.connections_ever), (0, 2));
    assert_eq!((counts.producers, counts.workers, counts.waiting), (0, 0, 0));
}

#[test]
fn no_more_puts_than_allowed_are_under_way_and_reading_stops() {
    let mut client = Client::new(1);
    let put = "put 0 0 1 9\r\n123456789\r\n";
    client.send(&put.repeat(OUTSTANDING_MAX + 10));
    let asked = client.asked();
    assert_eq!(asked.len(), OUTSTANDING_MAX);
    assert!(client.connection.wants_read());
    client.send(&put.repeat(INPUT_BYTES_MAX / put.len()));
    assert!(!client.connection.wants_read());
    client.answer(A, asked[0].ticket, inserted(1));
    assert_eq!(client.asked().len(), 1);
}

#[test]
fn no_more_body_bytes_than_allowed_are_under_way() {
    let door = Arc::new(FrontDoor::new(1, 1, bodies_up_to(1 << 20), roomy(), facts()));
    let mut client = Client::at(&door);
    let body = "x".repeat(OUTSTANDING_BYTES_MAX / 2);
    let put = format!("put 0 0 1 {}\r\n{body}\r\n", body.len());
    client.send(&put.repeat(4));
    let asked = client.asked();
    assert_eq!(asked.len(), 2);
    client.answer(A, asked[1].ticket, inserted(2));
    assert_eq!(client.asked().len(), 1, "an answer makes room, whatever its place in the order");
}

#[test]
fn bodies_of_all_clients_together_have_a_budget() {
    let limits = BodyLimits { bytes_max: 100, together_bytes_max: 150 };
    let door = Arc::new(FrontDoor::new(1, 1, limits, roomy(), facts()));
    let (mut first, mut second) = (Client::at(&door), Client::at(&door));
    let put = format!("put 0 0 1 100\r\n{}\r\n", "x".repeat(100));
    first.send(&put);
    let (_, ticket, _) = first.asked_once();
    second.send(&put).send("delete 7\r\n");
    assert_eq!(second.got(), "OUT_OF_MEMORY\r\n");
    assert_eq!(second.asked_once().2, Operation::Delete { job: JobId(7) });
    first.answer(A, ticket, inserted(1));
    second.send(&put);
    assert!(matches!(second.asked_once().2, Operation::Put { .. }), "an answer makes room");
    assert_eq!((door.counts().body_bytes, door.counts().puts_refused), (100, 1));
    drop(second);
    assert_eq!(door.counts().body_bytes, 0);
}

#[test]
fn a_client_that_does_not_read_is_not_served_further() {
    let door = Arc::new(FrontDoor::new(1, 1, bodies_up_to(1 << 20), roomy(), facts()));
    let mut client = Client::at(&door);
    client.send(&"peek 1\r\n".repeat(100));
    let body = Bytes::from(vec![b'x'; OUTPUT_BYTES_MAX / 2]);
    let mut served = 0;
    while let Some(request) = client.connection.poll_request() {
        client.answer(A, request.ticket, Answer::Found { job: JobId(1), body: body.clone() });
        served += 1;
    }
    assert_eq!(served, 2);
    client.connection.take_output();
    assert_eq!(client.asked(), [], "what was taken is not written yet");
    client.connection.handle_written(START);
    assert_eq!(client.asked().len(), 1);
}

/// Bodies and lines of one core thread have 100 bytes of output together.
fn little_room() -> OutputLimits {
    OutputLimits { together_bytes_max: 400, stall: Nanos::from_secs(30) }
}

fn door_with(outputs: OutputLimits) -> Arc<FrontDoor> {
    Arc::new(FrontDoor::new(1, 1, bodies_up_to(1 << 20), outputs, facts()))
}

#[test]
fn a_client_that_has_not_taken_its_output_waits_while_that_of_all_is_used_up() {
    let door = door_with(little_room());
    let (mut lazy, mut polite) = (Client::at(&door), Client::at(&door));
    lazy.send(&"list-tube-used\r\n".repeat(20));
    assert_eq!(door.counts().output_bytes, 105, "15 bytes each; none is begun beyond 100");
    polite.send("list-tube-used\r\nlist-tube-used\r\n");
    assert_eq!(polite.got(), "USING default\r\n", "one answer at a time");
    assert_eq!(polite.got(), "USING default\r\n");

    assert_eq!(lazy.connection.take_output().concat().len(), 105);
    assert_eq!(door.counts().output_bytes, 105, "it is not written yet");
    lazy.connection.handle_written(START);
    assert_eq!(door.counts().output_bytes, 105, "the next ones");
    drop(lazy);
    assert_eq!(door.counts().output_bytes, 0);
}

#[test]
fn a_list_of_tubes_for_which_there_is_no_room_is_not_asked_for_until_there_is() {
    let door = door_with(little_room());
    let (mut lazy, mut client) = (Client::at(&door), Client::at(&door));
    lazy.send(&"list-tube-used\r\n".repeat(20));
    client.send("list-tubes\r\nuse a\r\n");
    assert_eq!(client.asked(), []);
    let retry = client.connection.next_deadline().expect("it looks again");
    client.connection.handle_time(retry);
    assert_eq!(client.asked(), [], "nothing has changed");
    drop(lazy);
    let retry = client.connection.next_deadline().expect("it looks again");
    client.connection.handle_time(retry);
    let (_, ticket, operation) = client.asked_once();
    assert_eq!((operation, client.connection.next_deadline()), (Operation::ListTubes, None));
    client.answer(A, ticket, Answer::Tubes(TubeLines::default()));
    assert_eq!(client.got(), "OK 14\r\n---\n- default\n\r\nUSING a\r\n", "no other command has overtaken it");
}

#[test]
fn a_client_that_takes_nothing_of_its_output_for_too_long_is_closed() {
    let stall = roomy().stall;
    let door = door_with(roomy());
    let mut client = Client::at(&door);
    client.send("peek 1\r\npeek 2\r\n");
    let (_, ticket, _) = client.asked_once();
    client.answer(A, ticket, Answer::Found { job: JobId(1), body: Bytes::from(vec![b'x'; 1 << 20]) });
    assert_eq!(client.connection.next_deadline(), None, "nothing is being written yet");
    let _output = client.connection.take_output();
    client.connection.handle_writing(START);
    assert_eq!(client.connection.next_deadline(), Some(START.saturating_add(stall)));

    // Slow is no fault.
    let later = START.saturating_add(stall).saturating_sub(Nanos(1));
    client.connection.handle_progress(later);
    client.connection.handle_time(START.saturating_add(stall));
    assert!(!client.connection.has_stalled());

    client.connection.handle_time(later.saturating_add(stall));
    assert!(client.connection.has_stalled() && client.connection.wants_close());
    assert_eq!((client.connection.next_deadline(), door.counts().stalled), (None, 1));
    client.connection.close();
    drop(client);
    assert_eq!((door.counts().output_bytes, door.counts().stalled), (0, 1));
}

#[test]
fn a_client_that_quits_and_does_not_take_its_output_is_closed_in_time_too() {
    let mut client = Client::new(1);
    client.send("list-tube-used\r\nquit\r\n");
    let _output = client.connection.take_output();
    client.connection.handle_writing(START);
    assert!(client.connection.wants_close());
    client.connection.close();
    let deadline = client.connection.next_deadline().expect("somebody looks after what is left");
    client.connection.handle_time(deadline);
    assert!(client.connection.has_stalled());
}

#[test]
fn a_client_that_asks_for_nothing_may_be_silent_for_ever() {
    let mut client = Client::new(1);
    client.send("list-tube-used\r\nput 0 0 1 5\r\nab");
    let _output = client.connection.take_output();
    client.connection.handle_writing(START);
    client.connection.handle_written(START);
    assert_eq!(client.connection.next_deadline(), None);
    client.connection.handle_time(Nanos::from_secs(1 << 30));
    assert!(!client.connection.has_stalled() && !client.connection.wants_close());
}

#[test]
fn a_waiting_client_is_read_from_so_that_its_end_is_noticed() {
    let mut client = Client::new(1);
    client.send("reserve\r\n").send(&"stats\r\n".repeat(100));
    assert!(client.connection.wants_read());
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut client = Client::new(1);
    client.send("put 0 0 1 1\r\na\r\n");
    let (_, ticket, _) = client.asked_once();
    client.answer(A, ticket + 100, Answer::Undone).answer(A, ticket, inserted(1)).answer(A, ticket, inserted(2));
    assert_eq!(client.got(), "INSERTED 1\r\n");
}
