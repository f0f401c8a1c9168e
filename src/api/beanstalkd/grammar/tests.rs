//! Lines and what Debian's beanstalkd 1.12 makes of them, as observed (the cases where 1.13 differs follow 1.13).

use super::*;

fn parse(line: &str) -> Parsed {
    match parse_line(line.as_bytes(), 65_535) {
        Line::Whole(parsed) => parsed,
        other => panic!("{line:?} is {other:?}"),
    }
}

fn request(line: &str) -> Request {
    parse(line).request
}

#[test]
fn malformed_lines_are_bad_format() {
    for line in [
        "put ",
        "put 0 0 1",
        "put 0 0 1 -1",
        "put -1 0 1 1",
        "put +1 0 1 1",
        "put 4294967296 0 1 1",
        "put 0 4294967296 1 1",
        "put 0 0 4294967296 1",
        "put 0 0 1 4294967296",
        "put 1 2 3 ",
        "put 1\t2 3 4",
        "put 1x 2 3 4",
        "peek 1x",
        "peek 1 ",
        "peek x",
        "peek -1",
        "peek 18446744073709551616",
        "peek-ready ",
        "peek-readyx",
        "peek-buriedx",
        "reserve x",
        "reserve-",
        "reservefoo",
        "reserve-with-timeout",
        "reserve-with-timeoutx",
        "reserve-with-timeout ",
        "reserve-with-timeout -1",
        "reserve-with-timeout 2147483648",
        "reserve-job",
        "reserve-job x",
        "reserve-job 9x",
        "delete 9x",
        "delete 9 1",
        "release 9",
        "release 9 1",
        "release 9 1 1 ",
        "release 9 1 1x",
        "release 9x 1 1",
        "bury 9",
        "bury 9 1x",
        "bury 9 1 2",
        "touch 9x",
        "touch ",
        "kick ",
        "kick x",
        "kick 99999999999999999999999999",
        "kick-job x",
        "kick-job 9x",
        "use ",
        "use  a",
        "use a ",
        "use -a",
        "use a{b}",
        "watch -",
        "ignore -x",
        "list-tubesx",
        "list-tubes ",
        "list-tube-usedx",
        "list-tubes-watchedx",
        "list-tubes-watch",
        "statsx",
        "stats ",
        "stats-job",
        "stats-job 1x",
        "stats-jobx",
        "stats-tube",
        "stats-tube ",
        "stats-tube -x",
        "stats-tubex",
        "pause-tube",
        "pause-tube ",
        "pause-tube default",
        "pause-tube default ",
        "pause-tube default x",
        "pause-tube default 0x",
        "pause-tube default 0 1",
        "pause-tube nope",
        "pause-tube default 4294967296",
        "pause-tube de@fault 0",
        "abc\0def",
        "use a\0b",
        "\0",
        "quit\0",
        "list-tubes\n",
        "use a\n",
        "use a\rb",
    ] {
        assert_eq!(parse(line), Parsed::refused(Refusal::BadFormat), "{line:?}");
    }
}

#[test]
fn lines_without_a_known_prefix_are_unknown() {
    for line in [
        "",
        " ",
        "put",
        "peek",
        "peekx",
        "peek-read",
        "delete",
        "release",
        "bury",
        "touch",
        "touchx",
        "kick",
        "kick-job",
        "kick-jobx",
        "use",
        "watch",
        "ignore",
        "list-tube",
        "qui",
        "PUT 0 0 1 1",
        " stats",
        "\n",
    ] {
        assert_eq!(parse(line), Parsed::refused(Refusal::UnknownCommand), "{line:?}");
    }
}

#[test]
fn what_is_tolerated_behind_a_number_is_tolerated() {
    assert_eq!(request("reserve-with-timeout 0x"), Request::Reserve { timeout_s: Some(0) });
    assert_eq!(request("reserve-with-timeout  3 x"), Request::Reserve { timeout_s: Some(3) });
    assert_eq!(request("reserve-with-timeout 2147483647"), Request::Reserve { timeout_s: Some(2_147_483_647) });
    assert_eq!(request("kick 1x"), Request::Kick { bound: 1 });
    assert_eq!(request("kick -1"), Request::Kick { bound: u32::MAX });
    assert_eq!(request("kick 4294967296"), Request::Kick { bound: 0 });
    assert_eq!(request("quitfoo"), Request::Quit);
}

#[test]
fn the_name_of_a_paused_tube_may_touch_the_command() {
    let default = Bytes::from_static(b"default");
    for line in ["pause-tube default 0", "pause-tube  default  0", "pause-tubedefault 0"] {
        assert_eq!(request(line), Request::PauseTube { tube: default.clone(), duration_s: 0 });
    }
}

#[test]
fn a_pause_of_an_illegal_name_is_counted_all_the_same() {
    for line in ["pause-tube -x 0".to_string(), format!("pause-tube {} 0", "a".repeat(201))] {
        let parsed = parse(&line);
        assert_eq!(parsed.counted, Some(Counted::PauseTube));
        assert_eq!(parsed.request, Request::Refused(Refusal::BadFormat));
    }
}

#[test]
fn names_are_one_to_two_hundred_legal_bytes() {
    let longest = "a".repeat(200);
    assert_eq!(request(&format!("use {longest}")), Request::Use { tube: longest.clone().into() });
    assert_eq!(request(&format!("use {longest}a")), Request::Refused(Refusal::BadFormat));
    assert_eq!(request("watch a+b/c;d.e$f_g(h)-"), Request::Watch { tube: "a+b/c;d.e$f_g(h)-".into() });
}

#[test]
fn a_put_line_says_what_follows() {
    assert_eq!(parse_line(b"put  1  2  3  4", 65_535), Line::Put { priority: 1, delay_s: 2, ttr_s: 3, bytes: 4 });
    assert_eq!(parse_line(b"put 1 2 0 65535", 65_535), Line::Put { priority: 1, delay_s: 2, ttr_s: 1, bytes: 65_535 });
    assert_eq!(parse_line(b"put 1 2 3 65536", 65_535), Line::PutTooBig { bytes: 65_538 });
    assert_eq!(parse_line(b"put 1 2 3 4294967295x", 65_535), Line::PutTooBig { bytes: 4_294_967_297 });
}

#[test]
fn a_put_with_something_behind_its_size_is_counted_and_refused() {
    for line in ["put 0 0 1 1x", "put 0 0 1 1 "] {
        let parsed = parse(line);
        assert_eq!(parsed.counted, Some(Counted::Put));
        assert_eq!(parsed.request, Request::Refused(Refusal::BadFormat));
    }
}
