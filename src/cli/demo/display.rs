//! What the audience sees: events that scroll by, and below them a block that is redrawn in place on a terminal, or a line
//! a second where there is none.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::cluster::View;
use super::load::Tally;
use crate::cli::output;
use crate::status::{RoleName, ShardStatus};

const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Samples in the picture of the last seconds.
const SAMPLES: usize = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug)]
pub struct Display {
    started: Instant,
    terminal: bool,
    /// Lines of the block that stand on the terminal.
    drawn: usize,
    block: Vec<String>,
    shown: Instant,
    sampled: Instant,
    puts_at_sample: u64,
    puts: VecDeque<u64>,
}

impl Display {
    pub fn new() -> Display {
        let now = Instant::now();
        Display {
            started: now,
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            block: Vec::new(),
            shown: now,
            sampled: now,
            puts_at_sample: 0,
            puts: VecDeque::new(),
        }
    }

    /// Something happened that stays on the screen.
    pub fn event(&mut self, what: &str) {
        self.erase();
        output::print(&format!("{:6.2} s  {what}\n", self.started.elapsed().as_secs_f64()));
        self.draw();
    }

    /// The state of things, as of now.
    pub fn show(&mut self, view: &View, tally: Option<&Tally>) {
        if let Some(tally) = tally {
            self.sample(tally);
        }
        if self.terminal {
            self.block = self.lines(view, tally);
            self.erase();
            self.draw();
        } else if self.shown.elapsed() >= LINE_EVERY {
            self.shown = Instant::now();
            output::print(&format!("{:6.2} s    {}\n", self.started.elapsed().as_secs_f64(), one_line(view, tally)));
        }
    }

    /// Leaves the last block standing.
    pub fn end(&mut self) {
        self.drawn = 0;
    }

    fn sample(&mut self, tally: &Tally) {
        let elapsed = self.sampled.elapsed();
        if elapsed < SAMPLE_EVERY {
            return;
        }
        let puts = tally.puts();
        let per_second = (puts - self.puts_at_sample) as f64 / elapsed.as_secs_f64();
        self.puts.push_back(per_second as u64);
        if self.puts.len() > SAMPLES {
            self.puts.pop_front();
        }
        self.puts_at_sample = puts;
        self.sampled = Instant::now();
    }

    fn lines(&self, view: &View, tally: Option<&Tally>) -> Vec<String> {
        let mut lines = vec![String::new()];
        for (id, pid, report) in &view.nodes {
            let shard = report.as_ref().and_then(|report| report.shards.first());
            lines.push(node_line(*id, *pid, shard, view.last_index()));
        }
        let Some(tally) = tally else { return lines };
        lines.push(String::new());
        let rate = self.puts.back().copied().unwrap_or(0);
        lines.push(format!("  puts acknowledged {:>9}   {rate:>6}/s  {}", tally.puts(), picture(&self.puts)));
        let depth = view.depth().map_or_else(|| "?".to_owned(), |depth| depth.to_string());
        lines.push(format!(
            "  jobs completed    {:>9}   in the queue {depth}, unknown outcomes {}",
            tally.completed(),
            tally.unknown()
        ));
        lines
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            output::print(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn draw(&mut self) {
        if self.terminal {
            output::print(&self.block.iter().map(|line| format!("{line}\n")).collect::<String>());
            self.drawn = self.block.len();
        }
    }
}

fn node_line(id: u8, pid: Option<u32>, shard: Option<&ShardStatus>, head: u64) -> String {
    match (pid, shard) {
        (None, _) => format!("  node {id}  \x1b[31mkilled\x1b[0m"),
        (Some(pid), None) => format!("  node {id}  starting    pid {pid}"),
        (Some(pid), Some(shard)) => {
            let role = match shard.role {
                RoleName::Leader => "\x1b[32mleader\x1b[0m    ",
                RoleName::Follower => "follower  ",
                RoleName::Candidate => "candidate ",
                RoleName::Learner => "learner   ",
                RoleName::Recovering => "recovering",
            };
            let behind = match head.saturating_sub(shard.applied) {
                0..=9 => String::new(),
                behind => format!("  behind {behind}"),
            };
            format!("  node {id}  {role}  term {:<3} applied {:<9} pid {pid}{behind}", shard.term, shard.applied)
        }
    }
}

fn one_line(view: &View, tally: Option<&Tally>) -> String {
    let leader = view.leader().map_or_else(|| "no leader".to_owned(), |leader| format!("node {leader} leads"));
    let running = view.nodes.iter().filter(|(_, pid, _)| pid.is_some()).count();
    let depth = view.depth().map_or_else(|| "?".to_owned(), |depth| depth.to_string());
    match tally {
        Some(tally) => format!(
            "{leader}, {running} of 3 run; {} puts acknowledged, {} completed, {depth} in the queue, {} unknown",
            tally.puts(),
            tally.completed(),
            tally.unknown()
        ),
        None => format!("{leader}, {running} of 3 run"),
    }
}

/// Bars for values, the tallest for the largest of them.
fn picture(values: &VecDeque<u64>) -> String {
    let most = values.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: u64| if value == 0 { ' ' } else { BARS[usize::try_from(value * 7 / most).unwrap_or(7)] };
    values.iter().map(|value| bar(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_a_gap_as_a_gap() {
        assert_eq!(picture(&VecDeque::from([8, 4, 0, 1, 8])), "█▄ ▁█");
        assert_eq!(picture(&VecDeque::new()), "");
    }
}
