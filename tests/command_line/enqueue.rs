//! `enqueue`: what it sends, and what it says of jobs that were not acknowledged.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::stand_in::{Answer, StandIn};
use crate::{BINARY, Ended, Running, run};

fn command(server: &str, more: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["enqueue", "--file", "-", "--server", server]).args(more);
    command
}

fn enqueue(server: &str, input: &str, more: &[&str]) -> Ended {
    run(&mut command(server, more), input)
}

/// The number in front of a word.
fn number(text: &str, before: &str) -> u64 {
    let end = text.find(before).unwrap_or_else(|| panic!("{before} in {text}"));
    let digits: String = text[..end].chars().rev().take_while(char::is_ascii_digit).collect();
    digits.chars().rev().collect::<String>().parse().expect("digits")
}

fn lines(count: usize) -> String {
    (1..=count).map(|n| format!("{{\"body\":\"job {n:04}\"}}\n")).collect()
}

#[test]
fn every_job_of_a_file_arrives_as_it_was_written() {
    let server = StandIn::start(|_| Answer::Inserted);
    let input = r#"[{"body":"a","tube":"mail","priority":7,"delay":3,"ttr":9},
        {"body":"b"}, {"body_base64":"/wA="}, {"body":"é","tube":"mail"}]"#;
    let ended = enqueue(&server.address, input, &["--ttr", "5", "--tube", "other"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(ended.stdout, "4 acknowledged, 0 not enqueued, 0 unknown\n");
    let mut puts = server.puts();
    // Two tubes have two connections: which of them is served first is open.
    puts.sort_by(|a, b| a.body.cmp(&b.body));
    let shown: Vec<_> = puts.iter().map(|put| (put.tube.as_str(), put.line.as_str(), put.body.as_slice())).collect();
    assert_eq!(
        shown,
        [
            ("mail", "put 7 3 9 1", &b"a"[..]),
            ("other", "put 1024 0 5 1", b"b"),
            ("mail", "put 1024 0 5 2", "é".as_bytes()),
            ("other", "put 1024 0 5 2", b"\xff\0"),
        ]
    );
}

#[test]
fn many_tubes_share_connections_and_each_keeps_its_order() {
    const JOBS: usize = 2000;
    const TUBES: usize = 50;
    let server = StandIn::start(|_| Answer::Inserted);
    let input: String = (0..JOBS).map(|n| format!("{{\"body\":\"{n:04}\",\"tube\":\"t{}\"}}\n", n % TUBES)).collect();
    let ended = enqueue(&server.address, &input, &[]);
    assert_eq!(ended.stdout, "2000 acknowledged, 0 not enqueued, 0 unknown\n");
    let puts = server.puts();
    for tube in 0..TUBES {
        let name = format!("t{tube}");
        let arrived: Vec<_> =
            puts.iter().filter(|put| put.tube == name).map(|put| String::from_utf8_lossy(&put.body)).collect();
        let sent: Vec<_> = (tube..JOBS).step_by(TUBES).map(|n| format!("{n:04}")).collect();
        assert_eq!(arrived, sent, "tube {name}");
    }
}

#[test]
fn a_job_that_is_too_large_is_named_and_the_rest_goes_on() {
    let server = StandIn::start(|n| if n == 3 { Answer::Line("JOB_TOO_BIG") } else { Answer::Inserted });
    let ended = enqueue(&server.address, &lines(10), &[]);
    assert_eq!(ended.status, Some(1));
    assert_eq!(ended.stdout, "9 acknowledged, 1 not enqueued, 0 unknown\n");
    assert_eq!(ended.stderr, "1 job not enqueued (JOB_TOO_BIG): 3\n");
}

#[test]
fn a_broken_connection_leaves_what_was_sent_unknown_and_the_rest_unsent() {
    let server = StandIn::start(|n| if n == 1001 { Answer::HangUp } else { Answer::Inserted });
    let ended = enqueue(&server.address, &lines(9000), &[]);
    assert_eq!(ended.status, Some(1));
    // Answers that were under way when the connection broke may be lost with it: then they are unknown.
    let acknowledged = number(&ended.stdout, " acknowledged");
    assert!((1..=1000).contains(&acknowledged), "{}", ended.stdout);
    let unknown = number(&ended.stdout, " unknown");
    // Acknowledged, unknown and unsent are together the whole file: nothing is left out, nothing counted twice.
    let (first_unknown, last_unknown) = (acknowledged + 1, acknowledged + unknown);
    let stopped_before = last_unknown + 1;
    assert!(last_unknown >= 1001, "{}", ended.stdout);
    assert!(ended.stderr.contains(&format!(": {first_unknown}-{last_unknown}\n")), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("stopped before job {stopped_before} ")), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("--from {stopped_before}\n")), "{}", ended.stderr);
}

#[test]
fn a_draining_server_is_sent_no_more_than_what_was_on_its_way() {
    let server = StandIn::start(|n| if n > 100 { Answer::Line("DRAINING") } else { Answer::Inserted });
    let ended = enqueue(&server.address, &lines(20_000), &[]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stdout.starts_with("100 acknowledged"), "{}", ended.stdout);
    assert!(ended.stdout.ends_with("0 unknown; the rest was not sent\n"), "{}", ended.stdout);
    assert!(ended.stderr.contains("; nothing was stored; try again): 101-"), "{}", ended.stderr);
    assert!(server.puts().len() < 10_000);
}

#[test]
fn a_run_can_go_on_where_an_earlier_one_stopped() {
    let server = StandIn::start(|_| Answer::Inserted);
    let ended = enqueue(&server.address, &lines(10), &["--from", "8"]);
    assert_eq!(ended.stdout, "3 acknowledged, 0 not enqueued, 0 unknown\n");
    assert_eq!(server.puts()[0].body, b"job 0008");
}

#[test]
fn bad_input_stops_before_the_bad_job_with_its_line() {
    let server = StandIn::start(|_| Answer::Inserted);
    let ended = enqueue(&server.address, "{\"body\":\"a\"}\n\n{\"body\":\"b\",\"pri\":1}\n{\"body\":\"c\"}\n", &[]);
    assert_eq!(ended.status, Some(1));
    assert_eq!(ended.stdout, "1 acknowledged, 0 not enqueued, 0 unknown; the rest was not sent\n");
    assert!(ended.stderr.starts_with("stopped before job 2 (line 3): unknown field `pri`"), "{}", ended.stderr);
    assert_eq!(server.puts().len(), 1);
}

#[test]
fn a_check_sends_nothing() {
    let server = StandIn::start(|_| Answer::Inserted);
    let ended = enqueue(&server.address, &lines(3), &["--check"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (Some(0), "3 jobs, all of them well-formed; none was sent\n"));
    let ended = enqueue(&server.address, "[{\"body\":\"a\"}", &["--check"]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("is it cut off?"), "{}", ended.stderr);
    assert_eq!(server.puts(), []);
}

#[test]
fn a_server_that_is_not_there_is_one_sentence() {
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").to_string();
    let ended = enqueue(&gone, &lines(3), &[]);
    assert_eq!(ended.status, Some(1));
    assert!(
        ended.stderr.starts_with(&format!("stopped before job 1 (line 1): cannot connect to {gone}: ")),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_file_or_address_that_is_none_is_one_sentence() {
    let ended = crate::beaver_raft(&["enqueue", "--file", "/nowhere/jobs.json"]);
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.starts_with("cannot read /nowhere/jobs.json: "), "{}", ended.stderr);
    let ended = crate::beaver_raft(&["enqueue", "--file", "x", "--server", "11300"]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.stderr.contains("`11300` is neither host:port nor unix:/path"), "{}", ended.stderr);
}

#[test]
fn an_interrupt_while_all_answers_are_missing_tells_which_jobs_are_unknown() {
    let server = StandIn::start(|n| if n > 2 { Answer::Silence } else { Answer::Inserted });
    let mut running = Running::start(&mut command(&server.address, &[]));
    running.write(&lines(5));
    running.close_input();
    server.wait_for_puts(5);
    running.interrupt();
    let ended = running.end();
    assert_eq!(ended.status, Some(1));
    assert_eq!(ended.stdout, "2 acknowledged, 0 not enqueued, 3 unknown\n");
    assert_eq!(
        ended.stderr, "3 jobs unknown (sent and not answered: in the queue or not): 3-5\ninterrupted\n",
        "all was sent: there is nothing to continue with"
    );
}

/// Nothing was answered: what may have been sent is unknown, the rest was not sent, and no job is in both or neither.
fn assert_all_jobs_are_accounted_for(ended: &Ended, why: &str) {
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let unknown = number(&ended.stdout, " unknown");
    assert_eq!(
        ended.stdout,
        format!("0 acknowledged, 0 not enqueued, {unknown} unknown; the rest was not sent\n"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains(&format!("in the queue or not): 1-{unknown}\n")), "{ended:?}");
    let next = unknown + 1;
    assert!(ended.stderr.contains(&format!("stopped before job {next} (line {next}): {why}\n")), "{ended:?}");
    assert!(ended.stderr.contains(&format!("--from {next}\n")), "{ended:?}");
}

#[test]
fn an_interrupt_while_too_many_answers_are_missing_ends_the_sending() {
    let server = StandIn::start(|_| Answer::Silence);
    let mut running = Running::start(&mut command(&server.address, &[]));
    running.write(&lines(1000));
    // No more than these go out without an answer.
    server.wait_for_puts(257);
    running.interrupt();
    assert_all_jobs_are_accounted_for(&running.end(), "interrupted");
}

/// More than all buffers between a program and a server that reads nothing can hold, and fewer than may be outstanding.
fn large_jobs() -> String {
    format!("{{\"body\":\"{}\"}}\n", "x".repeat(1 << 18)).repeat(200)
}

#[test]
fn an_interrupt_while_the_server_reads_nothing_ends_the_sending() {
    let stopped = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let mut running = Running::start(&mut command(&stopped.local_addr().expect("it is bound").to_string(), &[]));
    running.write(&large_jobs());
    let _connection = stopped.accept().expect("it connects");
    // Time to fill the buffers. If it were too short, this would show less, and fail no earlier.
    std::thread::sleep(Duration::from_millis(500));
    running.interrupt();
    assert_all_jobs_are_accounted_for(&running.end(), "interrupted");
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let silent = StandIn::start(|_| Answer::Silence);
    let ended = enqueue(&silent.address, &lines(1000), &["--timeout", "1"]);
    assert_all_jobs_are_accounted_for(&ended, "the server did not answer in time");
    let stopped = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = stopped.local_addr().expect("it is bound").to_string();
    let ended = enqueue(&address, &large_jobs(), &["--timeout", "1"]);
    assert_all_jobs_are_accounted_for(&ended, "the server did not answer in time");
}

#[test]
fn jobs_are_sent_while_the_next_one_is_long_in_coming_and_an_interrupt_ends_the_wait_for_it() {
    let server = StandIn::start(|_| Answer::Inserted);
    // With only the end of a line behind the third job, and with a part of the fourth.
    for (begun, puts) in [("", 3), ("{\"bo", 6)] {
        let mut running = Running::start(&mut command(&server.address, &[]));
        running.write(&(lines(3) + begun));
        server.wait_for_puts(puts);
        running.interrupt();
        let ended = running.end();
        assert_eq!(ended.status, Some(1));
        assert_eq!(ended.stdout, "3 acknowledged, 0 not enqueued, 0 unknown; the rest was not sent\n");
        assert_eq!(
            ended.stderr,
            "stopped before job 4 (line 4): interrupted\nto continue from there: the same command with --from 4\n"
        );
    }
}

#[test]
fn a_connection_that_breaks_while_the_next_job_is_long_in_coming_is_told_at_once() {
    let server = StandIn::start(|n| if n == 3 { Answer::HangUp } else { Answer::Inserted });
    let mut running = Running::start(&mut command(&server.address, &[]));
    running.write(&lines(3));
    let ended = running.end();
    assert_eq!(ended.status, Some(1));
    assert_eq!(number(&ended.stdout, " acknowledged") + number(&ended.stdout, " unknown"), 3, "{ended:?}");
    assert!(ended.stderr.contains("stopped before job 4 (line 4): the "), "{ended:?}");
}

#[test]
fn an_interrupt_leaves_the_server_the_time_to_answer() {
    let server = StandIn::start(|_| {
        std::thread::sleep(Duration::from_millis(100));
        Answer::Inserted
    });
    let mut running = Running::start(&mut command(&server.address, &[]));
    running.write(&lines(3));
    server.wait_for_puts(1);
    running.interrupt();
    let ended = running.end();
    assert_eq!(ended.stdout, "3 acknowledged, 0 not enqueued, 0 unknown; the rest was not sent\n", "{ended:?}");
}
