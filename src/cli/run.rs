//! `beaver-raft run` and `beaver-raft init`: from the configuration to a node.

use std::path::{Path, PathBuf};
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
A member is also who is given a cluster, node or members by the environment or
by flags; it needs no file then.

SIGTERM stops it: leadership moves, what is under way is finished. SIGUSR1 drains
it: puts are refused, the rest goes on. SIGHUP has it read the log's level again.
--help shows every key of the configuration as a flag.")]
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
    config: Option<PathBuf>,
    /// This is the first member to be prepared: draws the cluster's id, and prints it for the others
    #[arg(long, conflicts_with = "cluster_id")]
    first: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// Runs until the node stops; gives the exit status.
pub fn run(args: RunArgs) -> u8 {
    let RunArgs { config: file, flags } = args;
    let run = || {
        let inherited = activation::sockets()?;
        let addresses = activation::addresses(&inherited);
        let read = move || load(file.as_deref(), &flags, &addresses).map_err(Fatal::from);
        start(read()?, inherited, read)
    };
    ended(run())
}

/// Prepares the directory; gives the exit status.
pub fn init(args: &InitArgs) -> u8 {
    let loaded = draft(args.config.as_deref(), &args.flags).and_then(|draft| draft.validate());
    let prepared = loaded.map_err(Fatal::from).and_then(|config| {
        check_cluster_id(&config, args.first)?;
        let cluster_id = node::init(&config)?;
        let others = match (config.cluster_id, config.members.len()) {
            (None, 2..) => format!(
                "The cluster's id is {cluster_id}: set `cluster_id: {cluster_id}` in the configuration of all members, or \
                 prepare each of the others with `beaver-raft init --cluster-id {cluster_id}`\n"
            ),
            _ => String::new(),
        };
        let start = match &args.config {
            Some(file) => format!("beaver-raft run --config {}", file.display()),
            None => "beaver-raft run, and the same environment and flags".to_owned(),
        };
        output::print(&format!(
            "{} is prepared for node {} of cluster {}; start it with: {start}\n{others}",
            config.data.display(),
            config.node,
            config.cluster,
        ));
        Ok(())
    });
    ended(prepared)
}

/// Members that were prepared apart, each for a cluster of its own, would never find together.
fn check_cluster_id(config: &Config, is_first: bool) -> Result<(), ConfigError> {
    let (node, members) = (config.node, config.members.len());
    if is_first && config.cluster_id.is_some() {
        return Err(ConfigError::NotFirst);
    }
    if is_first || config.cluster_id.is_some() || members == 1 {
        return Ok(());
    }
    Err(ConfigError::WhichCluster { node, members })
}

/// Starts logging and runs a node until it stops. `inherited`: the sockets for clients, where a service manager passed some.
/// `read` reads its configuration again.
///
/// # Errors
/// The reason, where it did not stop because it was told to.
pub fn start(
    config: Config,
    inherited: Vec<BoundSocket>,
    read: impl Fn() -> Result<Config, Fatal> + Send + 'static,
) -> Result<(), Fatal> {
    let metrics = Arc::new(Metrics::new());
    logging::start(&config.log, &metrics.node);
    let clients: Vec<&str> = config.clients.iter().map(Address::as_str).collect();
    tracing::info!(
        "beaver-raft {}: node {} of cluster {}, data in {}, clients at {}",
        env!("CARGO_PKG_VERSION"),
        config.node,
        config.cluster,
        config.data.display(),
        clients.join(" and ")
    );
    let mut running = config.clone();
    node::run(config, metrics, inherited, move || reread(&read, &mut running))
}

/// Takes over what may change while a node runs: the log's level.
fn reread(read: &impl Fn() -> Result<Config, Fatal>, running: &mut Config) {
    let now = match read() {
        Ok(now) => now,
        Err(why) => return tracing::warn!("SIGHUP: nothing is changed, the configuration cannot be read again: {why}"),
    };
    if let Err(why) = logging::set_level(&now.log) {
        return tracing::warn!("SIGHUP: the log's level stays {}: {why}", running.log);
    }
    let level = match now.log == running.log {
        true => format!("stays {}", now.log),
        false => format!("is {}, after {}", now.log, running.log),
    };
    running.log.clone_from(&now.log);
    let rest = if now == *running { "" } else { "; what else was changed takes a restart" };
    tracing::info!("SIGHUP: the configuration was read again: the log's level {level}{rest}");
}

/// One clear line for the operator where something went wrong, and the exit status.
pub fn ended(result: Result<(), Fatal>) -> u8 {
    match result {
        Ok(()) => {
            logging::end(None);
            0
        }
        Err(fatal) => {
            logging::end(Some(&fatal.to_string()));
            fatal.exit_status()
        }
    }
}

/// A member of a cluster is who has a file, or a key that only a member has.
fn load(file: Option<&Path>, flags: &ConfigFlags, inherited: &[String]) -> Result<Config, ConfigError> {
    let mut draft = draft(file, flags)?;
    let is_member = file.is_some() || draft.is_of_member();
    activation::lay_over(&mut draft, inherited);
    if is_member { draft.validate() } else { draft.validate_embedded() }
}

fn draft(file: Option<&Path>, flags: &ConfigFlags) -> Result<Draft, ConfigError> {
    flags.lay_over(file.map_or_else(|| Ok(Draft::default()), Draft::read)?)
}
