//! The counting of votes and of commits against the cases of another implementation, where a copy of them lies beside
//! this repository; without one there is nothing to compare with, and the test says so and passes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use beaver_raft::raft::quorum::{Tally, reached, tally};
use beaver_raft::types::NodeId;

fn reference() -> PathBuf {
    match std::env::var_os("BEAVER_REFERENCE_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference"),
    }
}

/// One case: a command with arguments like `cfg=(1,2,3)`, and the last line of what it must answer.
struct Case {
    command: String,
    arguments: BTreeMap<String, Vec<String>>,
    expected: String,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        if lines.next_if_eq(&"----").is_none() {
            continue;
        }
        let mut expected = String::new();
        while let Some(answer) = lines.next_if(|line| !line.trim().is_empty()) {
            expected = answer.trim().to_owned();
        }
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let arguments = rest.replace(", ", ",").split_whitespace().map(argument).collect();
        cases.push(Case { command: command.to_owned(), arguments, expected });
    }
    cases
}

fn argument(word: &str) -> (String, Vec<String>) {
    let (name, values) = word.split_once('=').expect("an argument has a value");
    let values = values.trim_matches(['(', ')']).split(',').filter(|value| *value != "zero");
    (name.to_owned(), values.map(str::to_owned).collect())
}

impl Case {
    fn nodes(&self, name: &str) -> Vec<NodeId> {
        let ids = self.arguments.get(name).into_iter().flatten();
        ids.map(|id| NodeId(id.parse().expect("a node"))).collect()
    }

    /// The values, in the order in which nodes are first named; `_` where there is none.
    fn values(&self, name: &str) -> BTreeMap<NodeId, String> {
        let mut nodes = Vec::new();
        for node in self.nodes("cfg").into_iter().chain(self.nodes("cfgj")) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        let values = self.arguments.get(name).into_iter().flatten();
        nodes.into_iter().zip(values.cloned()).filter(|(_, value)| value != "_").collect()
    }

    fn answer(&self) -> String {
        let (voters, outgoing) = (self.nodes("cfg"), self.nodes("cfgj"));
        if self.command == "vote" {
            let votes = self.values("votes");
            let vote = |node: NodeId| votes.get(&node).map(|vote| vote == "y");
            return match tally(&voters, vote).and(tally(&outgoing, vote)) {
                Tally::Won => "VoteWon",
                Tally::Lost => "VoteLost",
                Tally::Pending => "VotePending",
            }
            .to_owned();
        }
        let indexes = self.values("idx");
        let index = |node: NodeId| indexes.get(&node).map_or(0, |index| index.parse::<u64>().expect("an index"));
        match reached(&voters, index).into_iter().chain(reached(&outgoing, index)).min() {
            Some(index) => index.to_string(),
            None => "<empty majority quorum>∞".to_owned(),
        }
    }
}

#[test]
fn quorums_are_counted_as_another_implementation_counts_them() {
    let dir = reference().join("etcd-raft-testdata/quorum");
    let Ok(files) = std::fs::read_dir(&dir) else {
        println!("skipped: there are no cases in {}", dir.display());
        return;
    };
    let mut compared = 0;
    for file in files {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for case in cases(&text) {
            assert_eq!(case.answer(), case.expected, "{} {:?} in {}", case.command, case.arguments, path.display());
            compared += 1;
        }
    }
    println!("{compared} cases agree");
    assert!(compared > 50, "the files hold cases");
}
