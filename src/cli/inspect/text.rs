//! A data directory in words, for people.

use std::fmt::Write;

use super::{Install, NodeFound, Shard};
use crate::snapshot::inspection::SnapshotFound;
use crate::wal::inspection::{FileFound, FileKind, LogFound, ShardFound};

pub(super) fn of(found: &NodeFound) -> String {
    let mut text = format!("node {} of cluster {}, whose id is {}\n", found.node, found.cluster, found.cluster_id);
    for shard in &found.shards {
        // Writing to a string cannot fail.
        let _ = of_shard(&mut text, shard);
    }
    let faults: usize = found.shards.iter().map(|shard| shard.log.faults.len()).sum();
    let _ = match (faults, found.is_verified) {
        (0, true) => writeln!(text, "everything was read: no fault"),
        (0, false) => writeln!(text, "no fault at a first look; --verify reads everything"),
        (faults, _) => writeln!(text, "{faults} fault(s)"),
    };
    text
}

pub(crate) fn of_shard(text: &mut String, found: &Shard) -> std::fmt::Result {
    let Shard { log: shard, snapshots, markers, pulled_bytes, install } = found;
    write!(text, "shard {}: the log counts from entry {} on", shard.shard, shard.floor + 1)?;
    match (shard.term, shard.voted_for) {
        (Some(term), Some(node)) => writeln!(text, ", term {term}, voted for node {node}")?,
        (Some(term), None) => writeln!(text, ", term {term}")?,
        (None, _) => writeln!(text, ", and the vote cannot be read")?,
    }
    for snapshot in snapshots {
        writeln!(text, "  {}", of_snapshot(snapshot))?;
    }
    for file in &shard.files {
        writeln!(text, "  {}", of_file(file))?;
    }
    if *pulled_bytes > 0 {
        let what = "pulled of a snapshot of another node, which is not decided on and counts for nothing yet";
        writeln!(text, "  install/  {pulled_bytes} bytes {what}")?;
    }
    if let Some(Install { index, term, files_to_move, files_to_remove }) = install {
        writeln!(
            text,
            "  install/  the snapshot of entry {index}@{term} of another node takes the log's place: the next start completes it \
             (files to move: {files_to_move}, of the former log to remove: {files_to_remove}); all is shown as it will be then"
        )?;
    }
    sums(text, shard)?;
    if let Some(LogFound { last, committed, incomplete, .. }) = &shard.log {
        writeln!(text, "  the log ends at entry {last}, and knows that it was committed up to {committed}")?;
        if let Some(incomplete) = incomplete {
            writeln!(text, "  {incomplete}; the next start drops it, as after any power cut")?;
        }
    }
    if let Some(last) = markers.last() {
        let said = match (last.about, &last.fingerprint) {
            (Some(about), Some(fingerprint)) => {
                format!("at entry {about} the majority had the fingerprint {fingerprint}")
            }
            (Some(about), None) => format!("at entry {about} no majority agreed"),
            _ => "of the one before it too few had reported".to_owned(),
        };
        writeln!(text, "  the last marker is entry {}: {said}", last.index)?;
    }
    for fault in &shard.faults {
        writeln!(text, "  FAULT: shard {}, {fault}", shard.shard)?;
    }
    Ok(())
}

fn of_snapshot(found: &SnapshotFound) -> String {
    let SnapshotFound { name, bytes, index, term, chunks, .. } = found;
    let SnapshotFound { ready, reserved, delayed, buried, tubes, sessions, fingerprint, .. } = found;
    let counted = if found.is_recounted { ", counted again" } else { "" };
    format!(
        "{name}  {bytes:>12} bytes  snapshot of entry {index}@{term}, {chunks} chunk(s) whole: {ready} ready, {reserved} reserved, \
         {delayed} delayed, {buried} buried in {tubes} tubes, {sessions} sessions{counted}; fingerprint {fingerprint}"
    )
}

fn of_file(file: &FileFound) -> String {
    let kind = match (file.kind, file.below_floor) {
        (FileKind::LeftOver, _) => "not in use",
        (FileKind::Store, _) => "jobs moved out of segments",
        (FileKind::Segment, true) => "below the floor",
        (FileKind::Segment, false) => "log",
    };
    let mut line = format!("{}  {:>12} bytes  {kind}", file.name, file.bytes);
    if let Some(base) = file.base {
        let last = file.last.map_or_else(|| "?".to_owned(), |last| last.to_string());
        line.push_str(&format!(", entries {} to {last}", base + 1));
    }
    if let Some(jobs) = file.jobs {
        line.push_str(&format!(", {jobs} jobs put"));
    }
    if let (Some(jobs), Some(bytes)) = (file.live_jobs, file.live_bytes) {
        line.push_str(&format!(", of which {jobs} live ({bytes} bytes, {})", percent(bytes, file.bytes)));
    }
    line
}

fn sums(text: &mut String, shard: &ShardFound) -> std::fmt::Result {
    let below = || shard.files.iter().filter(|file| file.below_floor);
    let (kept, live) =
        below().fold((0, 0), |(kept, live), file| (kept + file.bytes, live + file.live_bytes.unwrap_or(0)));
    let all: u64 = shard.files.iter().map(|file| file.bytes).sum();
    if below().next().is_some() {
        writeln!(text, "  below the floor: {kept} bytes, of which {live} live ({})", percent(live, kept))?;
    }
    if !shard.files.is_empty() {
        writeln!(text, "  in all: {all} bytes in {} files", shard.files.len())?;
    }
    Ok(())
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        whole => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}
