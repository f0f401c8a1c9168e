//! Thousands of tubes, and clients that ask for all of them while tubes come and go and leaders
//! change. What a list says must have been true while it was gathered: it holds every tube that was
//! there all the while, and none that was not there at all.

use std::collections::BTreeSet;

use super::stage::{Client, Heard, Stage, put};
use crate::sim::dialogue::{Asked, Said};
use crate::types::{Nanos, NodeId};

/// With one job each, from before the first question to the end.
const STEADY: usize = 2_500;
/// That come and go in each round.
const PASSING: usize = 120;
const ROUNDS: usize = 5;
/// A tube that nobody needs any more is forgotten by a command, which takes a leader.
const FORGOTTEN_WITHIN: Nanos = Nanos::from_secs(3);

/// A tube, and when it may be there at all and when it must be.
struct Passing {
    name: String,
    may: (Nanos, Nanos),
    must: (Nanos, Nanos),
}

fn leaked(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

/// Puts a job into each, in order; the answers.
fn fill(stage: &Stage, client: &Client<'_>, names: &[&'static str], meanwhile: impl FnOnce()) -> Vec<Heard> {
    let before = client.heard().len();
    for name in names {
        client.ask(Asked::Use(name));
        client.ask(put(b"x"));
    }
    meanwhile();
    stage.wait_for(30_000, "answers to all puts", || client.heard().len() == before + 2 * names.len());
    client.heard()[before..].iter().skip(1).step_by(2).cloned().collect()
}

/// Another node leads, and the one that led is back.
fn change_leader(stage: &Stage) {
    let (leader, term) = stage.leader_and_term();
    stage.isolate(leader);
    stage.wait_for(5_000, "new leader", || stage.cluster.oracle().leader().is_some_and(|led| led.1 > term));
    stage.pass(300);
    stage.heal();
}

fn text(heard: &Heard) -> Option<String> {
    match &heard.answer {
        Ok(Said::Okay(body)) => Some(String::from_utf8(body.to_vec()).expect("names are ASCII")),
        Ok(other) => panic!("a question was answered {other:?}"),
        Err(_) => None,
    }
}

/// What was there from the question to the answer, and what may have been there in between.
fn around<'a>(heard: &Heard, passing: &'a [Passing]) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let (asked, answered) = (heard.at.saturating_sub(heard.waited), heard.at);
    let must = passing.iter().filter(|tube| tube.must.0 <= asked && answered <= tube.must.1);
    let may = passing.iter().filter(|tube| tube.may.0 <= answered && asked <= tube.may.1);
    (must.map(|tube| &*tube.name).collect(), may.map(|tube| &*tube.name).collect())
}

fn check_list(heard: &Heard, steady: &[&'static str], passing: &[Passing]) {
    let Some(text) = text(heard) else { return };
    let names: Vec<&str> =
        text.lines().skip(1).map(|line| line.strip_prefix("- ").unwrap_or_else(|| panic!("{line}"))).collect();
    assert!(text.starts_with("---\n- default\n"), "{}", &text[..60]);
    let once: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(once.len(), names.len(), "a tube is listed twice, at {}", heard.at);
    let kept: Vec<&str> = names.iter().copied().filter(|name| name.starts_with("steady")).collect();
    assert!(kept == steady, "{} of {} tubes that never change, or not in their order", kept.len(), steady.len());
    let (must, may) = around(heard, passing);
    let missing: Vec<_> = must.difference(&once).collect();
    assert!(missing.is_empty(), "{missing:?} are missing, at {}", heard.at);
    let others = once.iter().filter(|name| !name.starts_with("steady") && **name != "default");
    let never: Vec<_> = others.filter(|name| !may.contains(**name)).collect();
    assert!(never.is_empty(), "{never:?} were not there, at {}", heard.at);
}

fn check_stats(heard: &Heard, steady: &[&'static str], passing: &[Passing]) {
    let Some(text) = text(heard) else { return };
    let line = text.lines().find_map(|line| line.strip_prefix("current-tubes: ")).expect("it is counted");
    let tubes: usize = line.parse().expect("a number");
    let (must, may) = around(heard, passing);
    let all = steady.len() + 1;
    let range = all + must.len()..=all + may.len();
    assert!(range.contains(&tubes), "{tubes} tubes are counted, of {range:?}, at {}", heard.at);
}

#[test]
fn a1_lists_of_thousands_of_tubes_are_true_while_tubes_come_and_go_and_leaders_change() {
    let stage = Stage::new(3);
    let steady: Vec<&'static str> = (0..STEADY).map(|number| leaked(format!("steady-{number:05}"))).collect();
    let client = stage.client(NodeId(1));
    fill(&stage, &client, &steady, || {});
    let pause = Nanos::from_millis(150);
    let lists: Vec<_> = [1, 2, 3, 1].map(|node| stage.asks_again(NodeId(node), Asked::ListTubes, pause)).into();
    let stats: Vec<_> = [1, 2, 3].map(|node| stage.asks_again(NodeId(node), Asked::Stats, pause)).into();

    let mut passing = Vec::new();
    for round in 0..ROUNDS {
        let names: Vec<&'static str> =
            (0..PASSING).map(|number| leaked(format!("round-{round}-{number:03}"))).collect();
        let begun = stage.now();
        let puts = fill(&stage, &client, &names, || change_leader(&stage));
        stage.pass(700);
        let deletes_begun = stage.now();
        let before = client.heard().len();
        for heard in &puts {
            let Ok(Said::Inserted(id)) = heard.answer else { panic!("a put was answered {:?}", heard.answer) };
            client.ask(Asked::Delete(id));
        }
        client.ask(Asked::Use("steady-00000"));
        if round % 2 == 0 {
            change_leader(&stage);
        }
        stage.wait_for(30_000, "answers to all deletes", || client.heard().len() == before + names.len() + 1);
        let end = stage.now().saturating_add(FORGOTTEN_WITHIN);
        passing.extend(names.iter().zip(&puts).map(|(name, put)| Passing {
            name: (*name).to_owned(),
            may: (begun, end),
            must: (put.at, deletes_begun),
        }));
    }
    let (mut answered, mut longest) = (0, Nanos::ZERO);
    for (loads, check) in [(&lists, check_list as fn(&Heard, &[&'static str], &[Passing])), (&stats, check_stats)] {
        for heard in loads.iter().flat_map(|load| load.since(Nanos::ZERO)) {
            check(&heard, &steady, &passing);
            answered += usize::from(heard.answer.is_ok());
            longest = longest.max(heard.waited);
        }
    }
    assert!(answered > 150, "{answered} questions were answered");
    assert!(longest > Nanos::from_millis(200), "some were asked while nobody led, and waited {longest:?} at most");
    lists.iter().chain(&stats).for_each(|load| load.ends());
    drop(client);
    stage.clear();
}
