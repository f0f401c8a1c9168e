//! The command line: what an operator types, and what it answers. It decides nothing of the protocol; it reads the
//! configuration, starts the node, or talks to one from outside like any other client.

mod activation;
pub(crate) mod admin_client;
mod beanstalkd;
mod client;
mod config_flags;
mod demo;
mod drain;
mod enqueue;
mod halt;
pub(crate) mod inspect;
mod jobs_file;
mod lanes;
mod output;
mod place;
mod ledger;
mod logging;
mod privileges;
mod reference;
mod run;
#[cfg(feature = "sim")]
mod sim;
mod status;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The name by which the program is a drop-in for the original.
const DROP_IN_NAME: &str = "beaver-beanstalkd";

/// A replicated job queue for people who run their own machines
#[derive(Debug, Parser)]
#[command(name = "beaver-raft", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Init(run::InitArgs),
    #[command(disable_help_flag = true)]
    Beanstalkd(beanstalkd::BeanstalkdArgs),
    Enqueue(enqueue::EnqueueArgs),
    Status(status::StatusArgs),
    Drain(drain::DrainArgs),
    Undrain(drain::UndrainArgs),
    Inspect(inspect::InspectArgs),
    Demo(demo::DemoArgs),
    Reference(reference::ReferenceArgs),
    #[cfg(feature = "sim")]
    Sim(sim::SimArgs),
}

/// Runs the program with the given arguments (the first is its name) and gives its exit status.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let called_as = arguments.first().and_then(|name| std::path::Path::new(name).file_name()?.to_str()).unwrap_or("");
    if called_as == DROP_IN_NAME {
        arguments.splice(0..1, ["beaver-raft".into(), "beanstalkd".into()]);
    }
    let status = match Cli::parse_from(arguments).command {
        Command::Run(args) => run::run(args),
        Command::Init(args) => run::init(&args),
        Command::Beanstalkd(args) => beanstalkd::run(&args),
        Command::Enqueue(args) => enqueue::enqueue(&args),
        Command::Status(args) => status::status(&args),
        Command::Drain(args) => drain::drain(&args),
        Command::Undrain(args) => drain::undrain(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Reference(args) => reference::reference(&args),
        #[cfg(feature = "sim")]
        Command::Sim(args) => sim::sim(&args),
    };
    ExitCode::from(status)
}
