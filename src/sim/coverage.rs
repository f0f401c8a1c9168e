//! What runs were made of: every fault and every way to recover from one that must have come up, or the runs prove
//! nothing about it.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::faults::{FaultKind, Swarm};
use super::lasting::Lasting;
use super::network::Network;
use crate::metrics::{Gauge, ShardMetrics};
use crate::shard::markers::Verdict;
use crate::wal::decision::{Found, Row, TABLE};
use crate::wal::entry::{Entry, EntryKind};

const DECIDED_INSTALL: &str = "a start with such a snapshot decided on, and not in its place";

/// How often each of the things that must come up did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// Of one run.
    #[must_use]
    pub fn of(
        cluster: &Cluster,
        network: &Network,
        swarm: &Swarm,
        faults: &BTreeMap<FaultKind, u64>,
        log: &[Entry],
    ) -> Coverage {
        let (group, starts, streams) = (cluster.oracle().counts(), cluster.start_counts(), network.counts());
        let mut coverage = Coverage::default();
        for member in cluster.members() {
            let disk = member.disk().counts();
            coverage.count("a sector torn by a power cut", disk.sectors_torn);
            coverage.count("a sector garbled by a power cut", disk.sectors_garbled);
            coverage.count("a write or sync that failed", disk.failed);
        }
        coverage.count("a log cut by another leader's", group.cuts);
        coverage.count("an incomplete end dropped at a start", starts.cuts);
        coverage.count("a log of several segments recovered", starts.with_segments);
        coverage.count("a new leader while commands were under way", group.leaders_with_commands);
        coverage.count("an answer held against what was committed", group.questions);
        coverage.count("a stream cut with bytes under way", streams.cut_with_bytes);
        coverage.count("a writer held up by its reader", streams.back_pressure);
        coverage.count("a stream that timed out", streams.timed_out);
        for (row, count) in TABLE.iter().zip(starts.rows) {
            coverage.count(&row_name(row), count);
        }
        // Without snapshots nothing lies below a log.
        let has_cold = swarm.cluster.tunables.snapshot_every_bytes > 0;
        if has_cold {
            coverage.count_cold(cluster, log);
        }
        for kind in FaultKind::ALL.iter().filter(|kind| has_cold || **kind != FaultKind::RotCold) {
            coverage.count(&format!("fault {kind}"), faults.get(kind).copied().unwrap_or_default());
        }
        for lasting in Lasting::ALL {
            coverage.count(&format!("a node {lasting} for good"), u64::from(swarm.lasting == Some(*lasting)));
        }
        coverage
    }

    /// What nodes do with what lies below their logs.
    fn count_cold(&mut self, cluster: &Cluster, log: &[Entry]) {
        let gauges = |of: fn(&ShardMetrics) -> &Gauge| {
            cluster.sum(|counted| u64::try_from(of(counted).get()).unwrap_or_default())
        };
        let starts = cluster.start_counts();
        let is_agreed = |entry: &&Entry| {
            entry.kind == EntryKind::Marker && matches!(Verdict::decode(entry.payload()), Some(Verdict::Agreed { .. }))
        };
        self.count("a marker with a majority's fingerprint", log.iter().filter(is_agreed).count() as u64);
        self.count("a snapshot written", gauges(|counted| &counted.snapshots_written));
        self.count("a start from a snapshot", starts.from_snapshots);
        self.count("a file given up in which nothing lived", gauges(|counted| &counted.dropped_files));
        self.count("a file whose living jobs were moved", gauges(|counted| &counted.rewritten_files));
        self.count("a snapshot of another node in the place of a log", cluster.oracle().counts().installs);
        self.count("a start with a part of such a snapshot", starts.cut_off_pulls);
        self.count(DECIDED_INSTALL, starts.decided_installs);
        self.count("a damaged file mended", cluster.sum(|counted| counted.mended_files.get()));
        self.count("a copy of a damaged job looked for", cluster.sum(|counted| counted.copies_sought.get()));
    }

    fn count(&mut self, what: &str, count: u64) {
        *self.0.entry(what.to_owned()).or_default() += count;
    }

    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.0 {
            self.count(what, *count);
        }
    }

    /// What never came up, and must. The rows for strays are exempt: a whole record of the very place whose entry does not
    /// follow the one before comes of no fault of a disk, since a place is written once in an epoch and each record is bound
    /// to its place. Only a forged one is such; the tests of `wal::recovery` forge them, for both rows. So is an install that a
    /// start completes: it takes a dozen changes of a disk out of thousands, and the scenario S5 stops at each of them.
    #[must_use]
    pub fn missing(&self) -> Vec<&str> {
        let mut exempt: Vec<String> = TABLE.iter().filter(|row| row.found == [Found::Stray]).map(row_name).collect();
        exempt.push(DECIDED_INSTALL.to_owned());
        let missing = self.0.iter().filter(|(what, count)| **count == 0 && !exempt.contains(what));
        missing.map(|(what, _)| what.as_str()).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, count)| (what.as_str(), *count))
    }
}

fn row_name(row: &Row) -> String {
    let found: Vec<String> = row.found.iter().map(|found| format!("{found:?}")).collect();
    let evidence = match row.evidence {
        None => "",
        Some(true) => ", evidence",
        Some(false) => ", no evidence",
    };
    let superseded = if row.superseded { ", superseded" } else { "" };
    format!("recovery: {}{superseded}{evidence} -> {:?}", found.join("/"), row.decision)
}
