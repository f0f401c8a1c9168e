//! `beaver-raft drain` and `beaver-raft undrain`: whether a node takes new jobs, told to it on the socket in its data
//! directory. The admin port changes nothing, so that it can be shown to more people than the
//! node's own user.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::output;
use super::place::Place;
use crate::config::Draft;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Have a node on this host refuse new jobs, and finish what is in the queue
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Puts at this node are answered DRAINING, everything else goes on, and /readyz says
503. The other nodes go on taking jobs. It ends with `undrain`, or with the next
start of the node. To be run as the node's own user, or as root.")]
pub struct DrainArgs {
    #[command(flatten)]
    node: NodeHere,
}

/// Have a node on this host take new jobs again
#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    #[command(flatten)]
    node: NodeHere,
}

/// A node that runs on this host.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct NodeHere {
    /// Its data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Its configuration, which names the directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What the node says it does now.
#[derive(Debug, Deserialize)]
struct Now {
    node: u8,
    cluster: String,
    draining: bool,
    changed: bool,
}

pub fn drain(args: &DrainArgs) -> u8 {
    switch(&args.node, "/drain")
}

pub fn undrain(args: &UndrainArgs) -> u8 {
    switch(&args.node, "/undrain")
}

fn switch(node: &NodeHere, path: &str) -> u8 {
    let data = match node.directory() {
        Ok(data) => data,
        Err(why) => {
            output::complain(&format!("beaver-raft: {why}\n"));
            return 2;
        }
    };
    match ask(&Place::Directory(data), path) {
        Ok(now) => u8::from(!output::print(&now.told())),
        Err(why) => {
            output::complain(&format!("beaver-raft: {why}\n"));
            1
        }
    }
}

fn ask(node: &Place, path: &str) -> Result<Now, String> {
    let answer = node.client(ANSWER_TIMEOUT).post(path).map_err(|error| error.to_string())?;
    if answer.code != 200 {
        return Err(answer.text.trim_end().to_owned());
    }
    serde_json::from_str(&answer.text).map_err(|error| format!("what the node in {node} answers is unknown: {error}"))
}

impl NodeHere {
    fn directory(&self) -> Result<PathBuf, String> {
        match (&self.data, &self.config) {
            (Some(data), _) => Ok(data.clone()),
            (None, Some(file)) => {
                let config = Draft::read(file).and_then(|draft| draft.validate()).map_err(|error| error.to_string())?;
                Ok(config.data)
            }
            (None, None) => Err("say which node: --data DIR or --config FILE".to_owned()),
        }
    }
}

impl Now {
    fn told(&self) -> String {
        let Now { node, cluster, .. } = self;
        let before = if self.changed { "" } else { " already" };
        if self.draining {
            format!("node {node} of cluster {cluster} drains{before}: puts are refused, everything else goes on\n")
        } else {
            format!("node {node} of cluster {cluster} takes new jobs{before}\n")
        }
    }
}
