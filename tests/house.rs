//! The house keeps its shape: rooms use only the rooms below them, and a pure room names no runtime, socket, file, clock or
//! chance. Read from the sources, so that a wrong `use` fails here and not in a review.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may use. Rooms that are not listed are the top of the house and may use all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("mutation", &[]),
    ("raft", &["types", "mutation"]),
    ("job", &["types", "mutation"]),
    ("io", &["types"]),
    ("wal", &["types", "mutation", "raft", "job", "io"]),
    ("snapshot", &["types", "raft", "job", "wal", "io"]),
    ("api", &["types", "job", "io"]),
    ("net", &["types", "mutation", "raft", "io", "wal", "api", "job"]),
    ("shard", &["types", "mutation", "raft", "job", "wal", "snapshot", "net", "api"]),
    ("config", &["types"]),
    ("metrics", &["types"]),
    ("status", &["types", "config", "metrics"]),
    (
        "node",
        &[
            "types", "raft", "job", "io", "wal", "snapshot", "api", "net", "shard", "config", "metrics", "status",
            "fatal",
        ],
    ),
];

/// Rooms that decide, or do only through the traits of `io`.
const PURE: &[&str] = &["types", "mutation", "raft", "job", "wal", "snapshot", "net", "api", "shard"];

/// What such a room never names.
const OUTSIDE_WORLD: &[&str] = &[
    "tokio::",
    "tokio_uring",
    "glommio",
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "rand::",
    "thread_rng",
];

struct Source {
    path: PathBuf,
    room: String,
    /// Lines of code without comments, and without the tests at the end of the file.
    lines: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut left = vec![root.clone()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("src can be listed").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                left.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    found.sort();
    found.into_iter().filter(|path| !is_test(path)).map(|path| read(&root, path)).collect()
}

/// Files of tests lie beside what they test, as `tests.rs` or in a directory `tests`.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.file_stem().is_some_and(|stem| stem == "tests")
}

fn read(root: &Path, path: PathBuf) -> Source {
    let inside = path.strip_prefix(root).expect("it was found there");
    let room = inside.iter().next().expect("a file has a name").to_string_lossy();
    let room = room.trim_end_matches(".rs").to_owned();
    let text = fs::read_to_string(&path).expect("sources are text");
    let code = text.lines().enumerate().map(|(number, line)| (number + 1, line.to_owned()));
    let lines = code
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .collect();
    Source { path, room, lines }
}

/// The rooms that a line names as `crate::room`.
fn rooms_named(line: &str) -> Vec<String> {
    let after = line.split("crate::").skip(1);
    after.map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()).collect()
}

#[test]
fn no_room_uses_a_room_above_it() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(room, _)| *room == source.room) else { continue };
        for (number, line) in &source.lines {
            for used in rooms_named(line) {
                let a_room =
                    MAY_USE.iter().any(|(room, _)| *room == used) || ["cli", "sim", "fatal"].contains(&used.as_str());
                if a_room && used != source.room && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}:{number}: {} uses {used}", source.path.display(), source.room));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that run backwards:\n{}", wrong.join("\n"));
}

#[test]
fn a_pure_room_names_nothing_of_the_outside_world() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.room.as_str())) {
        for (number, line) in &source.lines {
            for name in OUTSIDE_WORLD.iter().filter(|name| names(line, name)) {
                wrong.push(format!("{}:{number}: names {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "a pure room that is not:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_is_printed_in_a_way_that_panics_where_nobody_reads_it() {
    let mut wrong = Vec::new();
    // The simulator serves nobody.
    for source in sources().iter().filter(|source| source.room != "sim") {
        for (number, line) in &source.lines {
            for name in ["println!", "print!", "eprintln!", "eprint!", "dbg!"].iter().filter(|name| names(line, name)) {
                wrong.push(format!("{}:{number}: {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "use cli::output or cli::logging:\n{}", wrong.join("\n"));
}

/// Whether the line has the name as a word of its own, not as the end of a longer one.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn every_file_says_first_what_it_is() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|source| !fs::read_to_string(&source.path).expect("sources are text").starts_with("//!"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no //! at the top of:\n{}", silent.join("\n"));
}

#[test]
fn the_reading_of_sources_would_find_a_wrong_arrow() {
    assert_eq!(rooms_named("use crate::wal::entry::Entry; // crate::io"), ["wal", "io"]);
    assert!(names("let now = std::time::Instant::now();", "Instant::now"));
    assert!(!names("operand::new()", "rand::"));
    assert!(sources().len() > 20, "the sources are found");
}
