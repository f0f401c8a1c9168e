//! Shows what a shard tells about itself: on the status board, and in the metrics.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::contacts::Contacts;
use super::host::{DiskView, Observer};
use super::trends::{Sample, Trends};
use crate::metrics::{PeerMetrics, ShardMetrics};
use crate::raft::{ProgressState, RoleName as Role};
use crate::shard::Shard;
use crate::shard::status::{Counters, PeerPicture, Picture};
use crate::status::{Board, JobCounts, LinkStatus, PeerStatus, RateStatus, RoleName, ShardStatus, TubeStatus};
use crate::types::{Nanos, NodeId, ShardId, Term};

/// Tubes that are shown one by one.
const TUBES_MAX: usize = 20;

pub struct StatusObserver {
    /// This node.
    pub node: NodeId,
    pub shard: ShardId,
    pub board: Arc<Board>,
    pub contacts: Arc<Contacts>,
    pub metrics: ShardMetrics,
    pub peers: BTreeMap<NodeId, PeerMetrics>,
    /// What was counted when this was last shown.
    pub shown: RefCell<Shown>,
    /// The turn that took the most processor time, and the one that was the most work.
    pub longest: Cell<(Nanos, usize)>,
}

/// A shard without a leader for so many looks, a quarter of a second each, has lost its majority: an election takes less.
const LEADERLESS_LOOKS: u32 = 6;

#[derive(Debug, Default)]
pub struct Shown {
    counters: Counters,
    timeouts: u64,
    leader: Option<NodeId>,
    leadership: Leadership,
    trends: Trends,
}

/// What the log said last of who leads.
#[derive(Debug, Default)]
struct Leadership {
    said: Option<(NodeId, Term)>,
    /// Looks in a row that found no leader.
    leaderless: u32,
}

impl Leadership {
    /// A line of the log, where there is news. `own`: this node. `peers`: whether there is a connection to each.
    fn look(&mut self, own: NodeId, leader: Option<NodeId>, term: Term, peers: &[(NodeId, bool)]) -> Option<String> {
        let Some(leader) = leader else {
            self.leaderless += 1;
            return (self.leaderless == LEADERLESS_LOOKS).then(|| {
                self.said = None;
                format!("no node leads since term {term}, and nothing is answered until one does: {}", contact(peers))
            });
        };
        self.leaderless = 0;
        if self.said.replace((leader, term)) == Some((leader, term)) {
            return None;
        }
        let who = if leader == own { "this node".to_owned() } else { format!("node {leader}") };
        Some(format!("{who} leads in term {term}"))
    }
}

/// How far this node is in contact with a majority.
fn contact(peers: &[(NodeId, bool)]) -> String {
    let named = |is_connected: bool| {
        let nodes = peers.iter().filter(|(_, connected)| *connected == is_connected);
        nodes.map(|(node, _)| format!("node {node}")).collect::<Vec<_>>().join(", ")
    };
    let connected = peers.iter().filter(|(_, connected)| *connected).count();
    // Of all members, this node included.
    let majority = peers.len().div_ceil(2) + 1;
    if connected + 1 >= majority {
        return format!("this node is connected to a majority ({}), which has elected none", named(true));
    }
    let only = if connected == 0 { "none of the others".to_owned() } else { format!("{} only", named(true)) };
    format!("this node has no contact with a majority, it is connected to {only}, and not to {}", named(false))
}

fn milliseconds(span: Nanos) -> u64 {
    span.0 / Nanos::from_millis(1).0
}

impl Observer for StatusObserver {
    fn turned(&self, items: usize, took: Nanos) {
        self.metrics.turn_seconds.observe(took.duration().as_secs_f64());
        self.note_turn(items, took);
    }

    fn observe(&self, shard: &mut Shard, now: Nanos, disk: DiskView) {
        let picture = shard.picture();
        for latency in shard.take_commit_latencies() {
            self.metrics.commit_seconds.observe(latency.duration().as_secs_f64());
        }
        self.count(shard.counters(), &picture);
        self.tell_leadership(&picture);
        self.count_peers(&picture);
        let deepest = shard.deepest_tubes(TUBES_MAX);
        let tubes = deepest.into_iter().map(|depth| TubeStatus {
            tube: String::from_utf8_lossy(&depth.tube).into_owned(),
            ready: depth.ready,
            reserved: depth.reserved,
            delayed: depth.delayed,
            buried: depth.buried,
            paused: depth.is_paused,
            oldest_ready_ms: depth.oldest_ready.and_then(|job| shard.age(now, job)).map(milliseconds),
        });
        self.board.publish(ShardStatus { deepest_tubes: tubes.collect(), ..self.status(&picture, disk) });
        if let Some(clients) = self.board.begins_to_serve() {
            tracing::info!("serving clients at {clients}");
        }
    }
}

impl StatusObserver {
    fn note_turn(&self, items: usize, took: Nanos) {
        let (longest, most) = self.longest.get();
        if took > longest || items > most {
            self.longest.set((took.max(longest), items.max(most)));
            self.metrics.longest_turn_seconds.set(took.max(longest).duration().as_secs_f64());
            self.metrics.longest_turn_items.set(crate::metrics::gauge_value(items.max(most) as u64));
        }
    }

    fn count(&self, now: &Counters, picture: &Picture) {
        let mut shown = self.shown.borrow_mut();
        let metrics = &self.metrics;
        let before = &shown.counters;
        metrics.entries_appended.inc_by(now.entries_appended - before.entries_appended);
        metrics.bytes_appended.inc_by(now.bytes_appended - before.bytes_appended);
        metrics.enqueued.inc_by(now.enqueued - before.enqueued);
        metrics.reserved.inc_by(now.reserved - before.reserved);
        metrics.completed.inc_by(now.deleted - before.deleted);
        metrics.released.inc_by(now.released - before.released);
        metrics.buried.inc_by(now.buried - before.buried);
        metrics.kicked.inc_by(now.kicked - before.kicked);
        metrics.refused_outstanding.inc_by(now.refused_outstanding - before.refused_outstanding);
        metrics.refused_no_room.inc_by(now.refused_no_room - before.refused_no_room);
        let refused = now.commands_refused - before.commands_refused;
        if refused > 0 {
            tracing::warn!(shard = %self.shard, "{refused} commands of other nodes were refused: not well-formed, too long or not their own");
        }
        metrics.commands_refused.inc_by(refused);
        metrics.body_reads.inc_by(now.body_reads - before.body_reads);
        metrics.copies_sought.inc_by(now.copies_sought - before.copies_sought);
        let given_up = now.leaderships_given_up - before.leaderships_given_up;
        if given_up > 0 {
            tracing::warn!(
                shard = %self.shard,
                "leadership was given up: this node's own writing or applying stood still for two election timeouts"
            );
        }
        metrics.leaderships_given_up.inc_by(given_up);
        metrics.elections.inc_by(now.elections_won - before.elections_won);
        metrics.timed_out.inc_by(picture.counts.timeouts.saturating_sub(shown.timeouts));
        if picture.leader.is_some() && picture.leader != shown.leader {
            metrics.leader_changes.inc();
            shown.leader = picture.leader;
        }
        shown.timeouts = picture.counts.timeouts;
        shown.counters = now.totals();
    }

    fn tell_leadership(&self, picture: &Picture) {
        let peers: Vec<(NodeId, bool)> = picture.peers.iter().map(|peer| (peer.node, peer.connected)).collect();
        let leader = if picture.leader_reachable || picture.leads { picture.leader } else { None };
        let line = self.shown.borrow_mut().leadership.look(self.node, leader, picture.term, &peers);
        if let Some(line) = line {
            tracing::info!(shard = %self.shard, "{line}");
        }
    }

    fn count_peers(&self, picture: &Picture) {
        for peer in &picture.peers {
            let Some(metrics) = self.peers.get(&peer.node) else { continue };
            metrics.up.set(i64::from(peer.connected));
            let lag = peer.progress.as_ref().map_or(0, |progress| picture.last.0.saturating_sub(progress.matched.0));
            if peer.is_stuck && metrics.stuck.get() == 0 {
                tracing::warn!(
                    shard = %self.shard,
                    "node {} answers heartbeats and takes no entries: {lag} are not known to be durable there (its disk \
                     stands still, or its thread is busy)",
                    peer.node
                );
            }
            metrics.stuck.set(i64::from(peer.is_stuck));
            metrics.lag_entries.set(crate::metrics::gauge_value(lag));
        }
    }

    fn links(&self, picture: &Picture, now: Nanos) -> Vec<LinkStatus> {
        let (now_ms, mut shown) = (self.board.now_ms(), self.shown.borrow_mut());
        let link = |peer: &PeerPicture| {
            let lost = self.peers.get(&peer.node).map_or(0, |metrics| metrics.connections_lost.get());
            let since_ms = shown.trends.link_since(now_ms, peer.node, peer.connected, lost);
            let trouble = self.contacts.trouble(peer.node);
            let unreached_ms = trouble.as_ref().map_or(0, |(_, since)| milliseconds(now.saturating_sub(*since)));
            let why = trouble.map(|(why, _)| why);
            LinkStatus { node: peer.node.0, connected: peer.connected, since_ms, lost, why, unreached_ms }
        };
        picture.peers.iter().map(link).collect()
    }

    fn rates(&self) -> RateStatus {
        let metrics = &self.metrics;
        self.shown.borrow_mut().trends.rates(Sample {
            at_ms: self.board.now_ms(),
            puts: metrics.enqueued.get(),
            reserves: metrics.reserved.get(),
            deletes: metrics.completed.get(),
        })
    }

    fn status(&self, picture: &Picture, disk: DiskView) -> ShardStatus {
        let counts = &picture.counts;
        let peers = picture.peers.iter().filter_map(|peer| {
            let progress = peer.progress.as_ref()?;
            Some(PeerStatus {
                node: peer.node.0,
                connected: peer.connected,
                matched: progress.matched.0,
                in_flight: progress.in_flight_messages as u64,
                progress: match progress.state {
                    ProgressState::Probe { .. } => "probe",
                    ProgressState::Replicate => "replicate",
                    ProgressState::Behind => "snapshot",
                }
                .to_owned(),
                room: peer.room,
                stuck: peer.is_stuck,
            })
        });
        let stalled = disk.stalled.filter(|stalled| *stalled > Nanos::from_secs(1));
        if let Some(stalled) = stalled {
            tracing::warn!(shard = %self.shard, "the disk has not completed a write for {} ms", stalled.0 / 1_000_000);
        }
        ShardStatus {
            shard: self.shard.0,
            role: match picture.role {
                Role::Follower => RoleName::Follower,
                Role::PreCandidate | Role::Candidate => RoleName::Candidate,
                Role::Leader => RoleName::Leader,
            },
            leader: picture.leader.map(|leader| leader.0),
            term: picture.term.0,
            last_index: picture.last.0,
            durable: picture.durable.0,
            committed: picture.committed.0,
            applied: picture.applied.0,
            caught_up: picture.leader_reachable && picture.is_caught_up,
            leader_committed: picture.leader_committed.0,
            behind_ms: picture.behind.map_or(0, milliseconds),
            disk_stalled_ms: stalled.map_or(0, milliseconds),
            room: picture.own_room,
            cluster_room: picture.room,
            jobs: JobCounts {
                ready: counts.ready,
                reserved: counts.reserved,
                delayed: counts.delayed,
                buried: counts.buried,
                tubes: counts.tubes,
                total: counts.total_jobs,
                timeouts: counts.timeouts,
            },
            sessions: counts.sessions,
            waits: picture.waits,
            repaired: self.metrics.repaired_entries.get(),
            segments: disk.segments,
            log_bytes: disk.log_bytes,
            log_needs_bytes: disk.log_needs_bytes.unwrap_or(0),
            floor: disk.census.floor.0,
            stores: disk.census.stores,
            kept_bytes: disk.census.bytes,
            live_bytes: disk.census.live_bytes,
            moved_bytes: disk.census.moved_bytes,
            damaged_files: disk.census.damaged,
            dropped_files: disk.census.dropped_files,
            rewritten_files: disk.census.rewritten_files,
            snapshot_index: disk.snapshot.index.0,
            snapshot_bytes: disk.snapshot.bytes,
            snapshot_ms: milliseconds(disk.snapshot.took),
            snapshot_age_ms: if disk.snapshot.bytes > 0 { milliseconds(disk.snapshot_age) } else { 0 },
            snapshots_written: disk.snapshot.written,
            marker_index: picture.marker.map_or(0, |(index, _)| index.0),
            marker_fingerprint: picture.marker.map_or_else(String::new, |(_, digest)| format!("{digest:032x}")),
            install: disk.install,
            peers: peers.collect(),
            shut_out: picture.shut_out.iter().map(|node| node.0).collect(),
            links: self.links(picture, disk.at),
            rates: self.rates(),
            log_writes: disk.log_writes,
            ..ShardStatus::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_is_said_once_for_each_leader_and_term_and_a_majority_when_it_is_lost_and_back() {
        let (own, other) = (NodeId(1), NodeId(2));
        let mut leadership = Leadership::default();
        let both = [(NodeId(2), true), (NodeId(3), true)];
        let none = [(NodeId(2), false), (NodeId(3), false)];
        let mut looks = |leader, term: u64, peers: &[(NodeId, bool)], times: usize| -> Vec<String> {
            (0..times).filter_map(|_| leadership.look(own, leader, Term(term), peers)).collect()
        };
        assert_eq!(looks(None, 0, &both, 3), Vec::<String>::new(), "a start");
        assert_eq!(looks(Some(other), 1, &both, 100), ["node 2 leads in term 1"]);
        assert_eq!(looks(None, 1, &both, 2), Vec::<String>::new(), "an election");
        assert_eq!(looks(Some(own), 2, &both, 100), ["this node leads in term 2"]);
        let lost = looks(None, 2, &none, 1000);
        assert_eq!(lost.len(), 1);
        assert!(lost[0].contains("no contact with a majority, it is connected to none of the others"), "{lost:?}");
        assert_eq!(looks(Some(own), 2, &both, 100), ["this node leads in term 2"], "again, in the same term");
    }

    #[test]
    fn contact_with_a_majority_counts_this_node() {
        let one = [(NodeId(2), true), (NodeId(3), false)];
        assert_eq!(contact(&one), "this node is connected to a majority (node 2), which has elected none");
        let told = contact(&[(NodeId(2), true), (NodeId(3), false), (NodeId(4), false), (NodeId(5), false)]);
        assert!(told.contains("connected to node 2 only, and not to node 3, node 4, node 5"), "{told}");
    }
}
