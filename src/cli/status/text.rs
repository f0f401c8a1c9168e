//! The answers as a page for a terminal.

use std::collections::BTreeSet;

use super::answers::{Answer, committed, head, leading, of_shard, reports, shards};
use super::table::{Table, bytes, latency, rate, span};
use crate::status::{LatencyStatus, LinkStatus, RateStatus, RoleName, ShardStatus, StatusReport, TubeStatus};

/// Which tubes are shown.
#[derive(Debug)]
pub enum TubeFilter {
    All,
    Named(String),
    Beginning(String),
}

impl TubeFilter {
    /// `NAME`, or `NAME*` for all that begin so.
    pub fn new(text: Option<&str>) -> TubeFilter {
        match text.map(|text| text.strip_suffix('*').ok_or(text)) {
            None => TubeFilter::All,
            Some(Ok(beginning)) => TubeFilter::Beginning(beginning.to_owned()),
            Some(Err(name)) => TubeFilter::Named(name.to_owned()),
        }
    }

    fn takes(&self, tube: &str) -> bool {
        match self {
            TubeFilter::All => true,
            TubeFilter::Named(name) => tube == name,
            TubeFilter::Beginning(beginning) => tube.starts_with(beginning),
        }
    }
}

pub fn page(answers: &[Answer], tubes: &TubeFilter) -> String {
    let mut text = String::new();
    if let Some(report) = reports(answers).next() {
        text.push_str(&head_line(answers, report));
    }
    let mut nodes = Table::new(&["NODE", "ADMIN", "STATE", "UP", "CLIENTS", "MEMORY", "DISK FREE", "VERSION"]);
    for answer in answers {
        nodes.row(node_row(answer));
    }
    text.push_str(&nodes.render());
    for report in reports(answers) {
        for remark in report.remarks() {
            text.push_str(&format!("node {}: {remark}\n", report.node));
        }
        for refusal in &report.refused_by {
            text.push_str(&format!("node {} is refused by node {}: {}\n", report.node, refusal.node, refusal.why));
        }
    }
    text.push_str(&links_text(answers));
    for shard in shards(answers) {
        text.push('\n');
        text.push_str(&shard_text(answers, shard, tubes));
    }
    text
}

fn head_line(answers: &[Answer], report: &StatusReport) -> String {
    let members = report.members.len();
    let versions: BTreeSet<&str> = reports(answers).map(|report| report.version.as_str()).collect();
    let versions = match versions.len() {
        0 | 1 => String::new(),
        _ => format!("; versions differ: {}", versions.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let count = reports(answers).count();
    let well = answers.iter().filter(|answer| answer.is_well()).count();
    format!("cluster {}: {count} of {members} members answer, {well} well{versions}\n\n", report.cluster)
}

fn node_row(answer: &Answer) -> Vec<String> {
    let node = answer.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    let admin = answer.admin.clone().unwrap_or_else(|| "-".to_owned());
    let Some(report) = &answer.report else {
        let why = answer.error.as_deref().unwrap_or("");
        return vec![node, admin, format!("no answer: {why}")];
    };
    let stuck = answer.stuck.iter().map(|shard| format!("shard {shard}: STUCK, takes no entries of its leader"));
    let reasons: Vec<String> = stuck.chain(report.ready().err().into_iter().flatten()).collect();
    let state = if reasons.is_empty() { "ready".to_owned() } else { reasons.join("; ") };
    let known = |bytes_known: u64| if bytes_known == 0 { "?".to_owned() } else { bytes(bytes_known) };
    let disk = match report.disk.free_bytes {
        None => "?".to_owned(),
        Some(free) if report.disk.needed_bytes > 0 => format!("{}, FULL", bytes(free)),
        Some(free) => bytes(free),
    };
    let (up, clients) = (span(report.uptime_s), report.connections.to_string());
    vec![node, admin, state, up, clients, known(report.memory_bytes), disk, report.version.clone()]
}

/// Whom each node has dialled: a row for each, a column for each member.
fn links_text(answers: &[Answer]) -> String {
    let Some(first) = reports(answers).find(|report| report.shards.iter().any(|shard| !shard.links.is_empty())) else {
        return String::new();
    };
    let members: Vec<u8> = first.members.iter().map(|member| member.node).collect();
    let mut columns = vec!["LINKS".to_owned()];
    columns.extend(members.iter().map(|member| format!("TO {member}")));
    let mut table = Table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>());
    for report in reports(answers) {
        let mut row = vec![report.node.to_string()];
        row.extend(members.iter().map(|&member| link_cell(report, member)));
        table.row(row);
    }
    let mut text = format!("\n{}", table.render());
    for report in reports(answers) {
        let mut said = BTreeSet::new();
        for link in report.shards.iter().flat_map(|shard| &shard.links) {
            if let Some(why) = link.why.as_ref().filter(|_| said.insert(link.node)) {
                text.push_str(&format!("node {}: {why}, for {}\n", report.node, span(link.unreached_ms / 1000)));
            }
        }
    }
    text
}

/// The links of all shards to one peer, as one: it is up where all are.
fn link_cell(report: &StatusReport, to: u8) -> String {
    if report.node == to {
        return "-".to_owned();
    }
    let links: Vec<&LinkStatus> =
        report.shards.iter().flat_map(|shard| shard.links.iter().filter(|link| link.node == to)).collect();
    let down: Vec<&LinkStatus> = links.iter().copied().filter(|link| !link.connected).collect();
    let (word, of) = if down.is_empty() { ("up", &links) } else { ("DOWN", &down) };
    // Of those that say the same, what changed last.
    let Some(since_ms) = of.iter().map(|link| link.since_ms).min() else { return "?".to_owned() };
    let lost: u64 = links.iter().map(|link| link.lost).sum();
    let lost = if lost > 0 { format!(", lost {lost}x") } else { String::new() };
    format!("{word} {}{lost}", span(since_ms / 1000))
}

fn shard_text(answers: &[Answer], shard: u16, tubes: &TubeFilter) -> String {
    let leader = leading(answers, shard);
    let mut text = match leader {
        Some((report, status)) => format!(
            "shard {shard}: node {} leads term {}, committed {}\n  ready {}, reserved {}, delayed {}, buried {} in {} tubes; {} waiting workers; log {}{}\n{}",
            report.node,
            status.term,
            committed(answers, shard),
            status.jobs.ready,
            status.jobs.reserved,
            status.jobs.delayed,
            status.jobs.buried,
            status.jobs.tubes,
            status.waits,
            bytes(status.log_bytes),
            if status.cluster_room { "" } else { "; NO ROOM on a majority: puts are refused" },
            rates_text(&status.rates),
        ),
        None => leaderless_text(answers, shard),
    };
    let shut_out: BTreeSet<u8> = of_shard(answers, shard).flat_map(|(_, status)| status.shut_out.clone()).collect();
    for node in shut_out {
        text.push_str(&format!(
            "  NODE {node} CAME BACK WITH AN OLDER COPY OF ITS DATA and is refused: bring up all other members, then \
             replace it\n"
        ));
    }
    if let Some((_, status)) = leader {
        text.push_str(&tubes_text(status, tubes));
    }
    let head = head(answers, shard);
    let columns = ["  NODE", "ROLE", "TERM", "DURABLE", "COMMITTED", "APPLIED", "BEHIND", "DISK", "LOG WRITES", "AGE"];
    let mut table = Table::new(&columns);
    for (report, status) in of_shard(answers, shard) {
        let behind = head.map_or_else(|| "?".to_owned(), |head| head.saturating_sub(status.durable).to_string());
        table.row(vec![
            format!("  {}", report.node),
            role(status.role).to_owned(),
            status.term.to_string(),
            status.durable.to_string(),
            status.committed.to_string(),
            status.applied.to_string(),
            behind,
            if status.room { "room" } else { "FULL" }.to_owned(),
            writes(&status.log_writes),
            format!("{} ms", status.age_ms),
        ]);
    }
    text.push_str(&table.render());
    if of_shard(answers, shard).any(|(_, status)| status.snapshot_index > 0 || status.install.is_some()) {
        text.push_str(&snapshots_text(answers, shard));
    }
    text
}

/// Why nobody leads, as each node sees it.
fn leaderless_text(answers: &[Answer], shard: u16) -> String {
    let mut text = format!("shard {shard}: no leader among those that answer\n");
    for (report, status) in of_shard(answers, shard) {
        if let Some(why) = status.why_no_leader() {
            text.push_str(&format!("  node {}: {why}\n", report.node));
        }
    }
    text
}

/// What the leader applied of late.
fn rates_text(rates: &RateStatus) -> String {
    if rates.over_ms == 0 {
        return String::new();
    }
    let of = |count| rate(count, rates.over_ms);
    let seconds = rates.over_ms.div_ceil(1000);
    format!(
        "  a second, over the last {seconds} s: {} put, {} reserved, {} deleted\n",
        of(rates.puts),
        of(rates.reserves),
        of(rates.deletes)
    )
}

/// Half of the last writes took less than the first number, all but one of a hundred less than the
/// second.
fn writes(latencies: &LatencyStatus) -> String {
    if latencies.count == 0 {
        return "-".to_owned();
    }
    format!("{} / {}", latency(latencies.p50_us), latency(latencies.p99_us))
}

/// How deep the deepest tubes are.
fn tubes_text(status: &ShardStatus, filter: &TubeFilter) -> String {
    let shown: Vec<&TubeStatus> = status.deepest_tubes.iter().filter(|tube| filter.takes(&tube.tube)).collect();
    if shown.is_empty() {
        return match filter {
            TubeFilter::All => String::new(),
            _ => format!("  not one of the {} deepest tubes is named so\n", status.deepest_tubes.len()),
        };
    }
    let mut table = Table::new(&["  TUBE", "READY", "RESERVED", "DELAYED", "BURIED", "OLDEST READY"]);
    for depth in shown {
        let name = format!("  {}{}", depth.tube, if depth.paused { " (paused)" } else { "" });
        table.row(vec![
            name,
            depth.ready.to_string(),
            depth.reserved.to_string(),
            depth.delayed.to_string(),
            depth.buried.to_string(),
            depth.oldest_ready_ms.map_or("-".to_owned(), |ms| span(ms / 1000)),
        ]);
    }
    table.render()
}

/// How far back each node's log goes, what it would start from, and how much of what it keeps below
/// the floor lives.
fn snapshots_text(answers: &[Answer], shard: u16) -> String {
    let mut table = Table::new(&["  NODE", "FLOOR", "SNAPSHOT", "SIZE", "AGE", "BELOW FLOOR", "OF IT LIVES"]);
    for (report, status) in of_shard(answers, shard) {
        let node = format!("  {}", report.node);
        if let Some(install) = status.install {
            let (done, all, jobs) = (bytes(install.bytes), bytes(install.all_bytes), install.jobs);
            let pulling = format!("pulls {} from node {}: {done} of {all}, {jobs} jobs", install.index, install.from);
            table.row(vec![node, status.floor.to_string(), pulling]);
            continue;
        }
        table.row(vec![
            node,
            status.floor.to_string(),
            status.snapshot_index.to_string(),
            bytes(status.snapshot_bytes),
            span(status.snapshot_age_ms / 1000),
            bytes(status.kept_bytes),
            bytes(status.live_bytes),
        ]);
    }
    table.render()
}

fn role(role: RoleName) -> &'static str {
    match role {
        RoleName::Recovering => "recovering",
        RoleName::Follower => "follower",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
        RoleName::Learner => "learner",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::place::Place;
    use crate::cli::status::answers::tests::{answer, change};
    use crate::cli::status::answers::{healthy, judge};
    use crate::status::{DiskStatus, InstallStatus, PeerStatus, RefusalStatus};

    fn link(node: u8, connected: bool, since_ms: u64) -> LinkStatus {
        LinkStatus { node, connected, since_ms, ..LinkStatus::default() }
    }

    fn shown(answers: &[Answer]) -> String {
        page(answers, &TubeFilter::All)
    }

    #[test]
    fn the_page_shows_who_leads_who_lags_and_who_is_silent() {
        let silent = Answer::without(Some(3), Some(&Place::Port("10.0.0.3:9301".to_owned())), "refused".to_owned());
        let mut answers = [answer(1, RoleName::Leader, 42), answer(2, RoleName::Follower, 40), silent];
        change(&mut answers[0], |report| {
            (report.memory_bytes, report.disk.free_bytes) = (32 << 20, Some(5 << 30));
            let shard = &mut report.shards[0];
            shard.rates = RateStatus { over_ms: 10_000, puts: 25, reserves: 120, deletes: 0 };
            shard.log_writes = LatencyStatus { count: 3, p50_us: 150, p99_us: 2000, max_us: 2000 };
            let why = Some("cannot reach node 3 at 10.0.0.3:7301: connection refused".to_owned());
            let down = LinkStatus { lost: 2, why, unreached_ms: 5400, ..link(3, false, 5000) };
            shard.links = vec![link(2, true, 3_723_000), down];
        });
        let expected = "\
cluster orders: 2 of 3 members answer, 2 well

NODE  ADMIN          STATE  UP     CLIENTS  MEMORY    DISK FREE  VERSION
1     10.0.0.1:9301  ready  1h02m  5        32.0 MiB  5.0 GiB    0.1.0
2     10.0.0.2:9301  ready  1h02m  5        ?         ?          0.1.0
3     10.0.0.3:9301  no answer: refused

LINKS  TO 1  TO 2      TO 3
1      -     up 1h02m  DOWN 5s, lost 2x
2      ?     -         ?
node 1: cannot reach node 3 at 10.0.0.3:7301: connection refused, for 5s

shard 0: node 1 leads term 7, committed 40
  ready 12, reserved 0, delayed 0, buried 0 in 2 tubes; 0 waiting workers; log 0 B
  a second, over the last 10 s: 2.5 put, 12 reserved, 0.0 deleted
  TUBE           READY  RESERVED  DELAYED  BURIED  OLDEST READY
  mail (paused)  9      0         0        1       1m01s
  images         3      2         4        0       -
  NODE  ROLE      TERM  DURABLE  COMMITTED  APPLIED  BEHIND  DISK  LOG WRITES         AGE
  1     leader    7     42       40         40       0       room  0.15 ms / 2.00 ms  100 ms
  2     follower  7     40       40         40       2       room  -                  200 ms
";
        assert_eq!(shown(&answers), expected);
    }

    #[test]
    fn a_node_of_which_its_leader_says_that_it_takes_nothing_is_not_well_whatever_it_says_itself() {
        let mut answers = [answer(1, RoleName::Leader, 42), answer(2, RoleName::Follower, 40)];
        change(&mut answers[0], |report| {
            let peer = |node, stuck| PeerStatus { node, stuck, connected: true, ..PeerStatus::default() };
            report.shards[0].peers = vec![peer(2, true), peer(3, false)];
        });
        let mut answers = judge(answers.to_vec(), Some("orders"));
        let text = shown(&answers);
        assert!(text.starts_with("cluster orders: 2 of 3 members answer, 1 well\n"), "{text}");
        assert!(text.contains("2     10.0.0.2:9301  shard 0: STUCK, takes no entries of its leader  1h02m"), "{text}");
        let json = serde_json::to_value(&answers).expect("plain data");
        assert_eq!(
            (json[0]["stuck"].clone(), json[1]["stuck"].clone()),
            (serde_json::json!([]), serde_json::json!([0]))
        );
        assert!(!healthy(&answers));
        change(&mut answers[0], |report| report.shards[0].peers[0].stuck = false);
        assert!(healthy(&judge(answers, Some("orders"))));
    }

    #[test]
    fn where_snapshots_are_kept_the_page_shows_them_and_who_pulls_one() {
        let mut answers = [answer(1, RoleName::Leader, 42), answer(2, RoleName::Follower, 40)];
        change(&mut answers[0], |report| {
            let status = &mut report.shards[0];
            (status.floor, status.snapshot_index, status.snapshot_bytes) = (20, 35, 12_288);
            (status.snapshot_age_ms, status.kept_bytes, status.live_bytes) = (61_000, 2 << 20, 1 << 20);
        });
        change(&mut answers[1], |report| {
            report.shards[0].install =
                Some(InstallStatus { from: 1, index: 35, bytes: 4096, all_bytes: 12_288, jobs: 7 });
        });
        let expected = "
  NODE  FLOOR  SNAPSHOT  SIZE      AGE    BELOW FLOOR  OF IT LIVES
  1     20     35        12.0 KiB  1m01s  2.0 MiB      1.0 MiB
  2     0      pulls 35 from node 1: 4.0 KiB of 12.0 KiB, 7 jobs
";
        assert!(shown(&answers).ends_with(expected), "{}", shown(&answers));
    }

    #[test]
    fn a_follower_that_was_sampled_later_than_its_leader_is_no_contradiction() {
        let mut answers = [answer(1, RoleName::Leader, 23), answer(2, RoleName::Follower, 26)];
        for (nth, committed) in [(0, 23), (1, 26)] {
            change(&mut answers[nth], |report| {
                let status = &mut report.shards[0];
                (status.committed, status.applied) = (committed, committed);
            });
        }
        let text = shown(&answers);
        assert!(text.contains("node 1 leads term 7, committed 26\n"), "{text}");
        assert!(text.contains("  2     follower  7     26       26         26       0  "), "{text}");
    }

    #[test]
    fn a_shard_without_a_leader_says_why_node_by_node() {
        let mut answers = [answer(2, RoleName::Follower, 40), answer(3, RoleName::Candidate, 40)];
        for (nth, answer) in answers.iter_mut().enumerate() {
            change(answer, |report| {
                report.shards[0].leader = None;
                report.shards[0].links = vec![link(1, false, 9000), link(4, nth == 1, 9000)];
            });
        }
        let expected = "shard 0: no leader among those that answer\n  \
            node 2: no leader known: it is cut off, no other member is connected\n  \
            node 3: no leader known: an election is under way, for term 7\n";
        assert!(shown(&answers).contains(expected), "{}", shown(&answers));
    }

    #[test]
    fn a_full_disk_a_draining_node_and_one_that_is_refused_are_told() {
        let mut answers = [answer(1, RoleName::Leader, 40)];
        change(&mut answers[0], |report| {
            report.draining = true;
            report.disk = DiskStatus { free_bytes: Some(2048), reserve_bytes: 4096, needed_bytes: 4097 };
            report.refused_by = vec![RefusalStatus { node: 3, why: "another cluster".to_owned() }];
        });
        let text = shown(&answers);
        assert!(text.contains("draining: puts are refused"), "{text}");
        assert!(text.contains("2.0 KiB, FULL"), "{text}");
        let full = "node 1: the disk is full: 2048 bytes are free, 4097 are needed to take new jobs \
            (disk_reserve_bytes is 4096)\nnode 1 is refused by node 3: another cluster\n";
        assert!(text.contains(full), "{text}");
    }

    #[test]
    fn tubes_are_filtered_by_name_or_beginning() {
        let answers = [answer(1, RoleName::Leader, 40)];
        let text = |filter| page(&answers, &TubeFilter::new(Some(filter)));
        assert!(text("images").contains("  images  3 ") && !text("images").contains("mail"));
        assert!(text("ma*").contains("  mail (paused)  9 ") && !text("ma*").contains("images"));
        assert!(text("im").contains("  not one of the 2 deepest tubes is named so\n"));
    }
}
