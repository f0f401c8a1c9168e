//! `beaver-raft status`: asks every member for its status and shows the cluster as one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::admin_client::AdminClient;
use super::output;
use crate::config::{Address, Draft};
use crate::status::{MemberStatus, RoleName, ShardStatus, StatusReport};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Show nodes, leaders, how far each is, and how deep the queues are
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The admin address of any one node is enough: it says where the others should be
(the host of each member, and an admin port as far from its peer port as on that
node). Where that is not so, name them all: --admin A,B,C.

Exits with 0 if every member is ready and every shard has a leader, else with 1.")]
pub struct StatusArgs {
    /// Admin addresses, with commas between them
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = Address::parse, conflicts_with = "config")]
    admin: Vec<Address>,
    /// The configuration of a member, instead of its admin address
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory of a node that runs on this host, instead of its admin address
    #[arg(long, value_name = "DIR", conflicts_with_all = ["admin", "config"])]
    data: Option<PathBuf>,
    /// The answers as JSON
    #[arg(long)]
    json: bool,
}

/// What one member said, or why it did not.
#[derive(Debug, Serialize)]
struct Answer {
    /// None where an address did not answer that was given without saying whose it is.
    node: Option<u8>,
    admin: Option<String>,
    report: Option<StatusReport>,
    error: Option<String>,
}

/// Asks, prints, and gives the exit status.
pub fn status(args: &StatusArgs) -> u8 {
    let mut answers = match (&args.data, addresses(args)) {
        (Some(data), _) => vec![ask_in(data)],
        (None, Ok(addresses)) => ask_all(addresses.into_iter().map(|address| (None, Some(address))).collect()),
        (None, Err(why)) => {
            output::complain(&format!("beaver-raft: {why}\n"));
            return 2;
        }
    };
    let others = unasked(&answers);
    answers.extend(ask_all(others));
    answers.sort_by_key(|answer| (answer.node.is_none(), answer.node));
    let text = match args.json {
        true => serde_json::to_string_pretty(&answers).map(|text| text + "\n"),
        false => Ok(table(&answers)),
    };
    let is_told = match text {
        Ok(text) => output::print(&text),
        Err(why) => {
            output::complain(&format!("beaver-raft: {why}\n"));
            false
        }
    };
    u8::from(!is_told || !healthy(&answers))
}

fn addresses(args: &StatusArgs) -> Result<Vec<String>, String> {
    let Some(file) = &args.config else {
        if args.admin.is_empty() {
            return Err("say whom to ask: --admin ADDR, --config FILE of a member, or --data DIR of a node".to_owned());
        }
        return Ok(args.admin.iter().map(Address::to_string).collect());
    };
    let config = Draft::read(file).and_then(|draft| draft.validate()).map_err(|e| e.to_string())?;
    let admin = config.admin.ok_or_else(|| format!("{} sets no admin address to ask", file.display()))?;
    Ok(vec![admin.to_string()])
}

/// Members that somebody named and nobody asked yet.
fn unasked(answers: &[Answer]) -> Vec<(Option<u8>, Option<String>)> {
    let asked: Vec<u8> = answers.iter().filter_map(|answer| answer.node).collect();
    let silent: Vec<&str> = answers.iter().filter(|a| a.report.is_none()).filter_map(|a| a.admin.as_deref()).collect();
    let named = answers.iter().find_map(|answer| answer.report.as_ref()).map_or(&[][..], |report| &report.members);
    let wanted = |member: &&MemberStatus| {
        let asked_in_vain = member.admin.as_deref().is_some_and(|admin| silent.contains(&admin));
        !asked.contains(&member.node) && !asked_in_vain
    };
    named.iter().filter(wanted).map(|member| (Some(member.node), member.admin.clone())).collect()
}

fn ask_all(whom: Vec<(Option<u8>, Option<String>)>) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = whom.into_iter().map(|(node, admin)| scope.spawn(move || ask(node, admin))).collect();
        asking.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

fn ask(node: Option<u8>, admin: Option<String>) -> Answer {
    let Some(address) = admin else {
        return Answer { node, admin: None, report: None, error: Some("its admin address is not known".to_owned()) };
    };
    match fetch(&address) {
        Ok(report) => Answer { node: Some(report.node), admin: Some(address), report: Some(report), error: None },
        Err(why) => Answer { node, admin: Some(address), report: None, error: Some(why) },
    }
}

/// Asks the node that runs in a data directory of this host.
fn ask_in(data: &Path) -> Answer {
    match report(&AdminClient::in_directory(data, ANSWER_TIMEOUT)) {
        Ok(report) => Answer { node: Some(report.node), admin: own_admin(&report), report: Some(report), error: None },
        Err(why) => Answer { node: None, admin: None, report: None, error: Some(why) },
    }
}

fn own_admin(report: &StatusReport) -> Option<String> {
    report.members.iter().find(|member| member.node == report.node)?.admin.clone()
}

/// The status of the node whose admin port is at `address`.
///
/// # Errors
/// Why there is none.
pub fn fetch(address: &str) -> Result<StatusReport, String> {
    report(&AdminClient::at(address, ANSWER_TIMEOUT))
}

fn report(client: &AdminClient) -> Result<StatusReport, String> {
    let answer = client.get("/status").map_err(|error| error.to_string())?;
    if answer.code != 200 {
        return Err(format!("http status: {}", answer.code));
    }
    serde_json::from_str(&answer.text).map_err(|error| format!("the answer is no status: {error}"))
}

fn reports(answers: &[Answer]) -> impl Iterator<Item = &StatusReport> {
    answers.iter().filter_map(|answer| answer.report.as_ref())
}

fn healthy(answers: &[Answer]) -> bool {
    answers.iter().all(|answer| answer.report.as_ref().is_some_and(|report| report.ready().is_ok()))
        && shards(answers).all(|shard| leading(answers, shard).is_some())
}

fn shards(answers: &[Answer]) -> std::ops::Range<u16> {
    0..reports(answers).map(|report| report.shards.len()).max().and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

/// The shard's status at its leader; of several that think they lead, the one of the highest term is right.
fn leading(answers: &[Answer], shard: u16) -> Option<(&StatusReport, &ShardStatus)> {
    of_shard(answers, shard).filter(|(_, status)| status.role == RoleName::Leader).max_by_key(|(_, status)| status.term)
}

fn of_shard(answers: &[Answer], shard: u16) -> impl Iterator<Item = (&StatusReport, &ShardStatus)> {
    reports(answers).filter_map(move |report| report.shards.iter().find(|s| s.shard == shard).map(|s| (report, s)))
}

fn table(answers: &[Answer]) -> String {
    let mut text = String::new();
    if let Some(report) = reports(answers).next() {
        let members = report.members.len();
        text.push_str(&format!(
            "cluster {}: {} of {members} members answer\n\n",
            report.cluster,
            reports(answers).count()
        ));
    }
    let mut nodes = Table::new(&["NODE", "ADMIN", "STATE", "UP", "CLIENTS", "VERSION"]);
    for answer in answers {
        nodes.row(node_row(answer));
    }
    text.push_str(&nodes.render());
    for shard in shards(answers) {
        text.push('\n');
        text.push_str(&shard_text(answers, shard));
    }
    text
}

fn node_row(answer: &Answer) -> Vec<String> {
    let node = answer.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    let admin = answer.admin.clone().unwrap_or_else(|| "-".to_owned());
    let Some(report) = &answer.report else {
        let why = answer.error.as_deref().unwrap_or("");
        return vec![node, admin, format!("no answer: {why}")];
    };
    let state = match report.ready() {
        Ok(()) if report.draining => "ready, draining".to_owned(),
        Ok(()) => "ready".to_owned(),
        Err(reasons) => reasons.join("; "),
    };
    vec![node, admin, state, span(report.uptime_s), report.connections.to_string(), report.version.clone()]
}

fn shard_text(answers: &[Answer], shard: u16) -> String {
    let leader = leading(answers, shard);
    let mut text = match leader {
        Some((report, status)) => format!(
            "shard {shard}: node {} leads term {}, committed {}\n  ready {}, reserved {}, delayed {}, buried {} in {} tubes; {} waiting workers; log {}{}\n",
            report.node,
            status.term,
            status.committed,
            status.jobs.ready,
            status.jobs.reserved,
            status.jobs.delayed,
            status.jobs.buried,
            status.jobs.tubes,
            status.waits,
            bytes(status.log_bytes),
            if status.cluster_room { "" } else { "; NO ROOM on a majority: puts are refused" },
        ),
        None => format!("shard {shard}: no leader among those that answer\n"),
    };
    let shut_out: BTreeSet<u8> = of_shard(answers, shard).flat_map(|(_, status)| status.shut_out.clone()).collect();
    for node in shut_out {
        text.push_str(&format!(
            "  NODE {node} CAME BACK WITH AN OLDER COPY OF ITS DATA and is refused: bring up all other members, then replace it\n"
        ));
    }
    if let Some((_, status)) = leader {
        text.push_str(&tubes_text(status));
    }
    let head = leader.map(|(_, status)| status.last_index);
    let mut table = Table::new(&["  NODE", "ROLE", "TERM", "DURABLE", "COMMITTED", "APPLIED", "BEHIND", "DISK"]);
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
        ]);
    }
    text.push_str(&table.render());
    if of_shard(answers, shard).any(|(_, status)| status.snapshot_index > 0 || status.install.is_some()) {
        text.push_str(&snapshots_text(answers, shard));
    }
    text
}

/// How deep the deepest tubes are.
fn tubes_text(status: &ShardStatus) -> String {
    if status.deepest_tubes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["  TUBE", "READY", "RESERVED", "DELAYED", "BURIED"]);
    for depth in &status.deepest_tubes {
        let name = format!("  {}{}", depth.tube, if depth.paused { " (paused)" } else { "" });
        table.row(vec![
            name,
            depth.ready.to_string(),
            depth.reserved.to_string(),
            depth.delayed.to_string(),
            depth.buried.to_string(),
        ]);
    }
    table.render()
}

/// How far back each node's log goes, what it would start from, and how much of what it keeps below the floor lives.
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

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Columns as wide as what is in them; a short row's last cell runs on to the right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let columns = self.rows[0].len();
        let whole = || self.rows.iter().filter(|row| row.len() == columns);
        let width = |column: usize| whole().map(|row| row[column].chars().count()).max().unwrap_or(0);
        // The first columns of short rows count too: only their last cell runs on.
        let short = |column: usize| {
            let cells = self.rows.iter().filter(|row| row.len() < columns && column + 1 < row.len());
            cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).max(short(column))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{InstallStatus, JobCounts, TubeStatus};

    fn member(node: u8) -> MemberStatus {
        MemberStatus { node, address: format!("10.0.0.{node}:7301"), admin: Some(format!("10.0.0.{node}:9301")) }
    }

    fn answer(node: u8, role: RoleName, durable: u64) -> Answer {
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
                TubeStatus { tube: "mail".to_owned(), ready: 9, buried: 1, paused: true, ..TubeStatus::default() },
                TubeStatus { tube: "images".to_owned(), ready: 3, reserved: 2, delayed: 4, ..TubeStatus::default() },
            ],
            ..ShardStatus::default()
        };
        let report = StatusReport {
            node,
            cluster: "orders".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 1,
            uptime_s: 3723,
            connections: 5,
            members: (1..=3).map(member).collect(),
            shards: vec![shard],
            ..StatusReport::default()
        };
        Answer { node: Some(node), admin: Some(format!("10.0.0.{node}:9301")), report: Some(report), error: None }
    }

    fn silent(node: Option<u8>, admin: &str) -> Answer {
        Answer { node, admin: Some(admin.to_owned()), report: None, error: Some("refused".to_owned()) }
    }

    #[test]
    fn the_table_shows_who_leads_who_lags_and_who_is_silent() {
        let answers =
            [answer(1, RoleName::Leader, 42), answer(2, RoleName::Follower, 40), silent(Some(3), "10.0.0.3:9301")];
        let expected = "\
cluster orders: 2 of 3 members answer

NODE  ADMIN          STATE  UP     CLIENTS  VERSION
1     10.0.0.1:9301  ready  1h02m  5        0.1.0
2     10.0.0.2:9301  ready  1h02m  5        0.1.0
3     10.0.0.3:9301  no answer: refused

shard 0: node 1 leads term 7, committed 40
  ready 12, reserved 0, delayed 0, buried 0 in 2 tubes; 0 waiting workers; log 0 B
  TUBE           READY  RESERVED  DELAYED  BURIED
  mail (paused)  9      0         0        1
  images         3      2         4        0
  NODE  ROLE      TERM  DURABLE  COMMITTED  APPLIED  BEHIND  DISK
  1     leader    7     42       40         40       0       room
  2     follower  7     40       40         40       2       room
";
        assert_eq!(table(&answers), expected);
        assert!(!healthy(&answers));
        assert!(healthy(&answers[..2]));
        assert!(!healthy(&answers[1..2]), "without its leader a shard is not healthy");
    }

    #[test]
    fn where_snapshots_are_kept_the_table_shows_them_and_who_pulls_one() {
        let mut answers = [answer(1, RoleName::Leader, 42), answer(2, RoleName::Follower, 40)];
        let shard = |answer: &mut Answer, change: fn(&mut ShardStatus)| {
            change(&mut answer.report.as_mut().expect("it answered").shards[0]);
        };
        shard(&mut answers[0], |status| {
            (status.floor, status.snapshot_index, status.snapshot_bytes) = (20, 35, 12_288);
            (status.snapshot_age_ms, status.kept_bytes, status.live_bytes) = (61_000, 2 << 20, 1 << 20);
        });
        shard(&mut answers[1], |status| {
            status.install = Some(InstallStatus { from: 1, index: 35, bytes: 4096, all_bytes: 12_288, jobs: 7 });
        });
        let expected = "
  NODE  FLOOR  SNAPSHOT  SIZE      AGE    BELOW FLOOR  OF IT LIVES
  1     20     35        12.0 KiB  1m01s  2.0 MiB      1.0 MiB
  2     0      pulls 35 from node 1: 4.0 KiB of 12.0 KiB, 7 jobs
";
        assert!(table(&answers).ends_with(expected), "{}", table(&answers));
    }

    #[test]
    fn members_are_asked_once_and_only_those_that_were_not() {
        let answers = [answer(1, RoleName::Leader, 1), silent(None, "10.0.0.3:9301")];
        assert_eq!(unasked(&answers), [(Some(2), Some("10.0.0.2:9301".to_owned()))]);
        assert_eq!(unasked(&[silent(None, "x:1")]), []);
    }
}
