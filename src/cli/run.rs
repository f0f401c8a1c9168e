//! `beaver-raft run` and `beaver-raft init`: from the configuration to a node.

use std::path::PathBuf;
use std::sync::Arc;

use super::activation;
use super::config_flags::ConfigFlags;
use super::logging;
use super::output;
use crate::config::{Address, Config, ConfigError, Draft};
use crate::fatal::Fatal;
use crate::io::uring::BoundSocket;
use crate::metrics::Metrics;
use crate::node;

/// Start a node: a member of a cluster (--config), or a complete single one (--data and --listen)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A single node:       beaver-raft run --data /var/lib/queue --listen 127.0.0.1:11300
A cluster's member:  beaver-raft init --config node.yaml     (once)
                     beaver-raft run --config node.yaml

SIGTERM stops it: leadership moves, what is under way is finished. SIGUSR1 drains
it: puts are refused, the rest goes on. --help shows every key of the
configuration as a flag.")]
pub struct RunArgs {
    /// The member's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// Prepare the data directory of a cluster's member, once
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The member's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// Runs until the node stops; gives the exit status.
pub fn run(args: RunArgs) -> u8 {
    let run = || {
        let inherited = activation::sockets()?;
        start(load(args.config, &args.flags, &inherited)?, inherited)
    };
    ended(run())
}

/// Prepares the directory; gives the exit status.
pub fn init(args: &InitArgs) -> u8 {
    let prepared = load(Some(args.config.clone()), &args.flags, &[]).map_err(Fatal::from).and_then(|config| {
        node::init(&config)?;
        output::print(&format!(
            "{} is prepared for node {} of cluster {}; start it with: beaver-raft run --config {}\n",
            config.data.display(),
            config.node,
            config.cluster,
            args.config.display()
        ));
        Ok(())
    });
    ended(prepared)
}

/// Starts logging and runs a node until it stops. `inherited`: the sockets for clients, where a service manager passed some.
///
/// # Errors
/// The reason, where it did not stop because it was told to.
pub fn start(config: Config, inherited: Vec<BoundSocket>) -> Result<(), Fatal> {
    logging::start(&config.log);
    let clients: Vec<&str> = config.clients.iter().map(Address::as_str).collect();
    tracing::info!(
        "beaver-raft {}: node {} of cluster {}, data in {}, clients at {}",
        env!("CARGO_PKG_VERSION"),
        config.node,
        config.cluster,
        config.data.display(),
        clients.join(" and ")
    );
    node::run(config, Arc::new(Metrics::new()), inherited)
}

/// One clear line for the operator where something went wrong, and the exit status.
pub fn ended(result: Result<(), Fatal>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(fatal) => {
            eprintln!("beaver-raft: {fatal}");
            fatal.exit_status()
        }
    }
}

fn load(file: Option<PathBuf>, flags: &ConfigFlags, inherited: &[BoundSocket]) -> Result<Config, ConfigError> {
    let is_member = file.is_some();
    let mut draft = flags.lay_over(file.map_or_else(|| Ok(Draft::default()), |file| Draft::read(&file))?)?;
    activation::lay_over(&mut draft, inherited);
    if is_member { draft.validate() } else { draft.validate_embedded() }
}
