//! `beaver-raft status`: asks every member for its status and shows the cluster as one.

mod answers;
mod asking;
mod table;
mod text;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use self::answers::{Answer, healthy, judge};
use self::asking::Whom;
pub use self::asking::fetch;
use self::text::{TubeFilter, page};
use super::output;
use crate::config::Address;

/// On a terminal the page is drawn over the one before.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show nodes, leaders, how far each is, and how deep the queues are
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The admin address of any one node is enough: it says where the others should be
(the host of each member, and an admin port as far from its peer port as on that
node). Where that is not so, name them all: --admin A,B,C. With --config all
members are asked, whether this one runs or not. --data asks the node that runs
on that directory, which needs no admin port, and then the others.

Exits with 0 if every member is ready and every shard has a leader, else with 1.")]
pub struct StatusArgs {
    /// Admin addresses, with commas between them
    #[arg(
        long,
        value_name = "ADDR",
        value_delimiter = ',',
        value_parser = Address::parse,
        conflicts_with_all = ["config", "data"]
    )]
    pub admin: Vec<Address>,
    /// The configuration of a member, instead of its admin address
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub config: Option<PathBuf>,
    /// The data directory of a node that runs on this host
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Of the deepest tubes, only this one; NAME* is all whose names begin so
    #[arg(long, value_name = "NAME")]
    pub tube: Option<String>,
    /// Again and again, every so many seconds (2 if no number is given)
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub watch: Option<u64>,
    /// The answers as JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks, prints, and gives the exit status.
pub fn status(args: &StatusArgs) -> u8 {
    let mut whom = match Whom::of(args) {
        Ok(whom) => whom,
        Err(why) => {
            output::complain(&format!("beaver-raft: {why}\n"));
            return 2;
        }
    };
    loop {
        let answers = judge(whom.ask(), whom.cluster());
        let told = show(args, &answers);
        let Some(seconds) = args.watch else {
            return u8::from(!told || !healthy(&answers));
        };
        if !told {
            return 1;
        }
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Prints the answers; false where that failed.
fn show(args: &StatusArgs, answers: &[Answer]) -> bool {
    let text = if args.json {
        match serde_json::to_string_pretty(answers) {
            Ok(text) => text + "\n",
            Err(why) => {
                output::complain(&format!("beaver-raft: {why}\n"));
                return false;
            }
        }
    } else {
        page(answers, &TubeFilter::new(args.tube.as_deref()))
    };
    match args.watch {
        None => output::print(&text),
        // Whoever watches and no longer reads is gone.
        Some(_) if !args.json && io::stdout().is_terminal() => output::write(&format!("{CLEAR}{text}")).is_ok(),
        Some(_) => output::write(&format!("{text}\n")).is_ok(),
    }
}
