//! What the members said, taken together: who belongs to the cluster that was asked, and whether
//! all is well.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::place::Place;
use crate::status::{RoleName, ShardStatus, StatusReport};

/// What one member said, or why it did not.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// None where an address did not answer that was given without saying whose it is.
    pub node: Option<u8>,
    pub admin: Option<String>,
    /// Only of a member of the cluster that was asked for.
    pub report: Option<StatusReport>,
    pub error: Option<String>,
    /// The shards whose leaders say that this node answers heartbeats and takes no entries.
    pub stuck: Vec<u16>,
}

impl Answer {
    /// `node`: who was asked, where that is known.
    pub fn with(node: Option<u8>, place: &Place, report: StatusReport) -> Answer {
        let node = node.or(Some(report.node));
        Answer { node, admin: Some(place.to_string()), report: Some(report), error: None, stuck: Vec::new() }
    }

    pub fn without(node: Option<u8>, place: Option<&Place>, why: String) -> Answer {
        Answer { node, admin: place.map(Place::to_string), report: None, error: Some(why), stuck: Vec::new() }
    }

    /// Whether the node answers, is ready, and takes part.
    pub fn is_well(&self) -> bool {
        self.stuck.is_empty() && self.report.as_ref().is_some_and(|report| report.ready().is_ok())
    }

    fn reject(&mut self, why: String) {
        self.report = None;
        self.error = Some(why);
    }
}

/// Takes away the reports of nodes that do not belong to the cluster that was asked, or that are
/// there twice, and says so instead. `cluster`: the one that is meant, where it is known. The
/// answers come out in the order of their nodes.
pub fn judge(mut answers: Vec<Answer>, cluster: Option<&str>) -> Vec<Answer> {
    if let Some((name, id)) = meant(&answers, cluster) {
        for answer in &mut answers {
            if let Some(why) = answer.report.as_ref().and_then(|report| foreign(answer.node, report, &name, &id)) {
                answer.reject(why);
            }
        }
    }
    let mut first: BTreeMap<u8, usize> = BTreeMap::new();
    for nth in 0..answers.len() {
        let Some(report) = &answers[nth].report else { continue };
        let earlier = *first.entry(report.node).or_insert(nth);
        if earlier != nth
            && let Some(why) = twice(&answers[earlier], report)
        {
            answers[nth].reject(why);
        }
    }
    answers.sort_by_key(|answer| (answer.node.is_none(), answer.node));
    note_stuck(&mut answers);
    answers
}

/// Name and id of the cluster that was asked for: what most answers say of those with the right
/// name, and of equals what the first says.
fn meant(answers: &[Answer], cluster: Option<&str>) -> Option<(String, String)> {
    let identity = |report: &StatusReport| (report.cluster.clone(), report.cluster_id.clone());
    let mut counts: Vec<((String, String), usize)> = Vec::new();
    for report in reports(answers).filter(|report| cluster.is_none_or(|name| name == report.cluster)) {
        let identity = identity(report);
        match counts.iter_mut().find(|(known, _)| *known == identity) {
            Some((_, count)) => *count += 1,
            None => counts.push((identity, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max();
    let found = counts.into_iter().find(|(_, count)| Some(*count) == most).map(|(identity, _)| identity);
    // Nobody answers who belongs to it: whoever answers does not.
    found.or_else(|| cluster.map(|name| (name.to_owned(), String::new())))
}

/// Why a report is not of the member that was asked, or not of this cluster.
fn foreign(asked: Option<u8>, report: &StatusReport, name: &str, id: &str) -> Option<String> {
    let node = report.node;
    if report.cluster != name {
        return Some(format!("node {node} of another cluster answers there, {}", report.cluster));
    }
    // A node that has not opened its directory yet has none.
    if !report.cluster_id.is_empty() && !id.is_empty() && report.cluster_id != id {
        let text = "answers there, of another cluster of the same name (other members or shards)";
        return Some(format!("node {node} {text}"));
    }
    if let Some(asked) = asked.filter(|asked| *asked != node) {
        return Some(format!("node {node} answers there, not node {asked}: is the address right?"));
    }
    None
}

/// Why a second answer of one node does not count.
fn twice(first: &Answer, second: &StatusReport) -> Option<String> {
    let known = first.report.as_ref()?;
    let (node, place) = (second.node, first.admin.as_deref().unwrap_or("another address"));
    Some(if (known.pid, known.started_unix_ms) == (second.pid, second.started_unix_ms) {
        format!("this is node {node} again, which answers at {place}, too")
    } else if known.incarnation == second.incarnation {
        format!(
            "a second process is node {node}, with a copy of its data directory: stop one of the two ({place} is the other)"
        )
    } else {
        format!("a second process says that it is node {node}: stop one of the two ({place} is the other)")
    })
}

pub fn reports(answers: &[Answer]) -> impl Iterator<Item = &StatusReport> {
    answers.iter().filter_map(|answer| answer.report.as_ref())
}

pub fn healthy(answers: &[Answer]) -> bool {
    answers.iter().all(Answer::is_well) && shards(answers).all(|shard| leading(answers, shard).is_some())
}

/// Notes of whom their leaders say that they take no entries. Those may not answer, or believe that
/// all is well.
pub fn note_stuck(answers: &mut [Answer]) {
    let stuck: Vec<(u8, u16)> = shards(answers)
        .filter_map(|shard| leading(answers, shard))
        .flat_map(|(_, status)| status.peers.iter().filter(|peer| peer.stuck).map(|peer| (peer.node, status.shard)))
        .collect();
    for answer in answers {
        let shards = stuck.iter().filter(|(node, _)| Some(*node) == answer.node).map(|(_, shard)| *shard);
        answer.stuck = shards.collect();
    }
}

pub fn shards(answers: &[Answer]) -> std::ops::Range<u16> {
    0..reports(answers).map(|report| report.shards.len()).max().and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

/// The shard's status at its leader; of several that think they lead, the one of the highest term
/// is right.
pub fn leading(answers: &[Answer], shard: u16) -> Option<(&StatusReport, &ShardStatus)> {
    of_shard(answers, shard).filter(|(_, status)| status.role == RoleName::Leader).max_by_key(|(_, status)| status.term)
}

pub fn of_shard(answers: &[Answer], shard: u16) -> impl Iterator<Item = (&StatusReport, &ShardStatus)> {
    reports(answers).filter_map(move |report| report.shards.iter().find(|s| s.shard == shard).map(|s| (report, s)))
}

/// Up to where the shard's log is committed. Samples are some 100 ms apart, and a follower's may be
/// the newer one; what one node knows to be committed is.
pub fn committed(answers: &[Answer], shard: u16) -> u64 {
    of_shard(answers, shard).map(|(_, status)| status.committed).max().unwrap_or(0)
}

/// The end of the shard's log, as far as the answers know; a follower's sample may be newer than
/// the leader's.
pub fn head(answers: &[Answer], shard: u16) -> Option<u64> {
    let (_, leader) = leading(answers, shard)?;
    Some(leader.last_index.max(committed(answers, shard)))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::status::{JobCounts, MemberStatus, TubeStatus};

    fn member(node: u8) -> MemberStatus {
        MemberStatus { node, address: format!("10.0.0.{node}:7301"), admin: Some(format!("10.0.0.{node}:9301")) }
    }

    pub fn answer(node: u8, role: RoleName, durable: u64) -> Answer {
        let shard = ShardStatus {
            role,
            leader: Some(1),
            term: 7,
            last_index: durable,
            durable,
            committed: 40,
            applied: 40,
            caught_up: true,
            room: true,
            cluster_room: true,
            jobs: JobCounts { ready: 12, tubes: 2, ..JobCounts::default() },
            deepest_tubes: vec![
                TubeStatus {
                    tube: "mail".to_owned(),
                    ready: 9,
                    buried: 1,
                    paused: true,
                    oldest_ready_ms: Some(61_500),
                    ..TubeStatus::default()
                },
                TubeStatus { tube: "images".to_owned(), ready: 3, reserved: 2, delayed: 4, ..TubeStatus::default() },
            ],
            age_ms: 100 * u64::from(node),
            ..ShardStatus::default()
        };
        let report = StatusReport {
            node,
            cluster: "orders".to_owned(),
            cluster_id: "77".to_owned(),
            incarnation: node.to_string(),
            version: "0.1.0".to_owned(),
            pid: u32::from(node),
            uptime_s: 3723,
            connections: 5,
            members: (1..=3).map(member).collect(),
            shards: vec![shard],
            ..StatusReport::default()
        };
        Answer::with(None, &Place::Port(format!("10.0.0.{node}:9301")), report)
    }

    pub fn change(answer: &mut Answer, change: impl FnOnce(&mut StatusReport)) {
        change(answer.report.as_mut().expect("it answered"));
    }

    fn three() -> Vec<Answer> {
        let role = |node| if node == 1 { RoleName::Leader } else { RoleName::Follower };
        (1..=3).map(|node| answer(node, role(node), 40)).collect()
    }

    fn errors(answers: &[Answer]) -> Vec<Option<&str>> {
        answers.iter().map(|answer| answer.error.as_deref()).collect()
    }

    #[test]
    fn members_of_one_cluster_are_taken_as_they_are() {
        let answers = judge(three(), Some("orders"));
        assert_eq!(errors(&answers), [None; 3]);
        assert!(healthy(&answers));
    }

    #[test]
    fn a_node_of_another_cluster_does_not_count_as_a_member() {
        let mut answers = three();
        change(&mut answers[2], |report| report.cluster = "billing".to_owned());
        let judged = judge(answers, None);
        assert_eq!(errors(&judged), [None, None, Some("node 3 of another cluster answers there, billing")]);
        assert_eq!(reports(&judged).count(), 2);
        assert!(!healthy(&judged));
    }

    #[test]
    fn the_cluster_that_is_meant_is_the_configurations_and_else_that_of_most() {
        let mut answers = three();
        change(&mut answers[0], |report| report.cluster_id = "78".to_owned());
        let says = "node 1 answers there, of another cluster of the same name (other members or shards)";
        assert_eq!(errors(&judge(answers.clone(), None)), [Some(says), None, None]);
        for answer in &mut answers[1..] {
            change(answer, |report| report.cluster = "billing".to_owned());
        }
        let judged = judge(answers, Some("orders"));
        assert_eq!(reports(&judged).map(|report| report.node).collect::<Vec<_>>(), [1]);
        let mut foreign = three();
        for answer in &mut foreign {
            change(answer, |report| report.cluster = "billing".to_owned());
        }
        assert_eq!(reports(&judge(foreign, Some("orders"))).count(), 0);
    }

    #[test]
    fn a_node_that_has_not_opened_its_directory_yet_belongs_by_its_name() {
        let mut answers = three();
        change(&mut answers[1], |report| report.cluster_id.clear());
        assert_eq!(errors(&judge(answers, None)), [None; 3]);
    }

    #[test]
    fn an_address_that_leads_to_another_member_is_told() {
        let mut answers = three();
        answers[1].node = Some(2);
        change(&mut answers[1], |report| report.node = 3);
        let judged = judge(answers, None);
        assert_eq!(judged[1].error.as_deref(), Some("node 3 answers there, not node 2: is the address right?"));
    }

    #[test]
    fn a_node_that_is_there_twice_counts_once_and_says_what_it_is() {
        let twice = |changed: fn(&mut StatusReport)| {
            let mut answers = vec![answer(1, RoleName::Leader, 40), answer(1, RoleName::Leader, 40)];
            change(&mut answers[1], changed);
            let judged = judge(answers, None);
            (reports(&judged).count(), judged[1].error.clone().expect("it does not count"))
        };
        let (count, says) = twice(|_| ());
        assert_eq!((count, says.as_str()), (1, "this is node 1 again, which answers at 10.0.0.1:9301, too"));
        let (_, says) = twice(|report| report.started_unix_ms = 5);
        assert!(says.contains("with a copy of its data directory"), "{says}");
        let (_, says) = twice(|report| {
            report.started_unix_ms = 5;
            report.incarnation = "other".to_owned();
        });
        assert!(says.starts_with("a second process says that it is node 1"), "{says}");
    }

    #[test]
    fn what_one_member_knows_to_be_committed_is_and_no_sample_lags_behind_itself() {
        let mut answers = three();
        change(&mut answers[0], |report| {
            (report.shards[0].committed, report.shards[0].last_index) = (37, 38);
        });
        assert_eq!(committed(&answers, 0), 40);
        assert_eq!(head(&answers, 0), Some(40));
    }

    #[test]
    fn without_its_leader_a_shard_is_not_healthy() {
        let answers = three();
        assert!(healthy(&answers[..2]));
        assert!(!healthy(&answers[1..2]));
    }
}
