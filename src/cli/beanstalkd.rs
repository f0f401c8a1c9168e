//! `beaver-raft beanstalkd`, also by the name `beaver-beanstalkd`: takes the flags of the original, for drop-in use. What has
//! no meaning here is accepted and named in one log line.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};

use super::activation;
use super::config_flags::ConfigFlags;
use super::logging;
use super::output;
use super::privileges;
use super::run;
use crate::config::{Config, Draft, Key};
use crate::fatal::Fatal;
use crate::io::lock::holder_of;

/// How the names of directories begin that are removed with their server.
const TEMPORARY: &str = "beaver-beanstalkd-";

const HELP: &str = "\
Use: beaver-beanstalkd [OPTIONS]

Options:
 -b DIR   data directory (default is a new one under $TMPDIR or /var/tmp, removed when the
          server stops)
 -l ADDR  listen on address (default is 0.0.0.0); unix:/path for a Unix socket
 -p PORT  listen on port (default is 11300)
 -u USER  become user and group, before listening
 -z BYTES set the maximum job size in bytes (default is 65535);
          max allowed is 16777216 bytes
 -v       show version information
 -V       increase verbosity
 -h       show this help

Accepted, without a meaning here: -f MS, -F (every job is on disk before it is acknowledged),
-s BYTES, -c, -n.";

/// Run with the flags of beanstalkd, as a drop-in for it
#[derive(Debug, Clone, Args)]
#[command(override_help = HELP)]
pub struct BeanstalkdArgs {
    #[arg(short = 'l', default_value = "0.0.0.0")]
    address: String,
    #[arg(short = 'p', default_value = "11300")]
    port: String,
    #[arg(short = 'b')]
    directory: Option<PathBuf>,
    #[arg(short = 'z')]
    job_bytes_max: Option<String>,
    #[arg(short = 'u')]
    user: Option<String>,
    #[arg(short = 'f')]
    sync_every_ms: Option<String>,
    #[arg(short = 'F', action = ArgAction::SetTrue)]
    never_sync: bool,
    #[arg(short = 's')]
    log_file_bytes: Option<String>,
    #[arg(short = 'c', action = ArgAction::SetTrue)]
    compact: bool,
    #[arg(short = 'n', action = ArgAction::SetTrue)]
    no_compact: bool,
    #[arg(short = 'V', action = ArgAction::Count)]
    verbose: u8,
    #[arg(short = 'v', action = ArgAction::SetTrue)]
    version: bool,
    #[arg(short = 'h', long, action = ArgAction::SetTrue)]
    help: bool,
}

/// Runs until the node stops; gives the exit status.
pub fn run(args: &BeanstalkdArgs) -> u8 {
    if args.help {
        return u8::from(!output::print(&format!("{HELP}\n")));
    }
    if args.version {
        return u8::from(!output::print(concat!(
            "beaver-raft ",
            env!("CARGO_PKG_VERSION"),
            " (beanstalkd protocol)\n"
        )));
    }
    if let Some(user) = &args.user
        && let Err(why) = privileges::become_user(user)
    {
        return run::ended(Err(Fatal::System { what: format!("to become user {user}"), why }));
    }
    match &args.directory {
        Some(directory) => run::ended(serve(args, directory)),
        None => match temporary_directory() {
            Ok(directory) => {
                logging::say(&format!(
                    "without -b nothing is kept: the queue lives in {} and is removed with the server",
                    directory.display()
                ));
                let status = run::ended(serve(args, &directory));
                if let Err(why) = std::fs::remove_dir_all(&directory) {
                    logging::say(&format!("{} could not be removed: {why}", directory.display()));
                }
                status
            }
            Err(fatal) => run::ended(Err(fatal)),
        },
    }
}

fn serve(args: &BeanstalkdArgs, directory: &Path) -> Result<(), Fatal> {
    let meaningless = args.meaningless();
    if !meaningless.is_empty() {
        logging::say(&format!(
            "{} accepted without a meaning here: every job is on disk before it is acknowledged",
            meaningless.join(", ")
        ));
    }
    let inherited = activation::sockets()?;
    let addresses = activation::addresses(&inherited);
    let (args, directory) = (args.clone(), directory.to_owned());
    let read = move || args.config(&directory, &addresses);
    run::start(read()?, inherited, read)
}

impl BeanstalkdArgs {
    /// The environment may set what the original has no flag for, such as `BEAVER_RAFT_ADMIN`.
    fn config(&self, directory: &Path, inherited: &[String]) -> Result<Config, Fatal> {
        let mut draft = ConfigFlags::default().lay_over(Draft::default())?;
        let mut set = |key: &str, flag: &str, value: String| {
            draft.override_with_flag(Key::find(key).expect("the key is in the table"), flag, value);
        };
        set("data", "-b", directory.to_string_lossy().into_owned());
        set("clients", if self.listens_on_path() { "-l" } else { "-l or -p" }, self.listen());
        if let Some(bytes) = &self.job_bytes_max {
            set("job_bytes_max", "-z", bytes.clone());
        }
        match self.verbose {
            0 => {}
            1 => set("log", "-V", "debug".to_owned()),
            _ => set("log", "-V", "trace".to_owned()),
        }
        activation::lay_over(&mut draft, inherited);
        Ok(Config { temporary: self.directory.is_none(), ..draft.validate_embedded()? })
    }

    fn listens_on_path(&self) -> bool {
        self.address.starts_with("unix:")
    }

    fn listen(&self) -> String {
        let BeanstalkdArgs { address, port, .. } = self;
        if self.listens_on_path() {
            address.clone()
        } else if address.contains(':') && !address.starts_with('[') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }

    fn meaningless(&self) -> Vec<&'static str> {
        let flags = [
            (self.sync_every_ms.is_some(), "-f"),
            (self.never_sync, "-F"),
            (self.log_file_bytes.is_some(), "-s"),
            (self.compact, "-c"),
            (self.no_compact, "-n"),
        ];
        flags.into_iter().filter_map(|(given, flag)| given.then_some(flag)).collect()
    }
}

/// A new directory of this process alone. Not under /tmp by default: that is often a tmpfs, which has no direct I/O.
fn temporary_directory() -> Result<PathBuf, Fatal> {
    let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    remove_left_behind(&parent);
    let mut refusal = None;
    for attempt in 0..100 {
        let path = parent.join(format!("{TEMPORARY}{}-{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().create(&path) {
            Ok(()) => return Ok(path),
            Err(why) => refusal = Some(why),
        }
    }
    let why = refusal.map_or_else(String::new, |why| why.to_string());
    Err(Fatal::DirectoryNotWritable { path: parent, why })
}

/// Servers that were killed could not remove what nobody will use. What is not this user's stays, as does what a process holds, or
/// has yet to take: it has no lock file then.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_ours = name.to_string_lossy().starts_with(TEMPORARY) && path.join("LOCK").exists();
        if is_ours && matches!(holder_of(&path), Ok(None)) && std::fs::remove_dir_all(&path).is_ok() {
            logging::say(&format!("removed {}, which a server that was killed left", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::io::lock::DirectoryLock;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Alone {
        #[command(flatten)]
        args: BeanstalkdArgs,
    }

    fn parse(flags: &[&str]) -> BeanstalkdArgs {
        Alone::try_parse_from(std::iter::once(&"beanstalkd").chain(flags)).expect("parses").args
    }

    #[test]
    fn what_killed_servers_left_is_removed_and_what_others_use_is_not() {
        let parent = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).expect("a directory");
            path
        };
        let [left, held, new, other] =
            ["beaver-beanstalkd-1-0", "beaver-beanstalkd-2-0", "beaver-beanstalkd-3-0", "other"].map(make);
        drop(DirectoryLock::acquire(&left).expect("free"));
        let _lock = DirectoryLock::acquire(&held).expect("free");
        drop(DirectoryLock::acquire(&other).expect("free"));
        remove_left_behind(parent.path());
        assert_eq!([left, held, new, other].map(|path| path.exists()), [false, true, true, true]);
    }

    #[test]
    fn the_flags_of_the_original_make_a_configuration() {
        let config =
            parse(&["-l", "127.0.0.1", "-p", "4444", "-z", "1000"]).config(Path::new("d"), &[]).expect("valid");
        assert_eq!(config.clients[0].as_str(), "127.0.0.1:4444");
        assert_eq!(config.tunables.job_bytes_max, 1000);
        assert!(config.embedded);
        assert!(config.temporary, "without -b");
        assert!(!parse(&["-b", "d"]).config(Path::new("d"), &[]).expect("valid").temporary);
        assert_eq!(parse(&[]).listen(), "0.0.0.0:11300");
        assert_eq!(parse(&["-l", "unix:/tmp/x.sock", "-p", "1"]).listen(), "unix:/tmp/x.sock");
        assert_eq!(parse(&["-l::1", "-p9"]).listen(), "[::1]:9");
    }

    #[test]
    fn a_body_larger_than_any_node_takes_is_refused() {
        let told = parse(&["-z", "1073741824"]).config(Path::new("d"), &[]).expect_err("refused").to_string();
        assert_eq!(told, "flag -z: job_bytes_max must be 1 to 16777216 (bytes), not `1073741824`");
    }

    #[test]
    fn what_is_wrong_is_told_by_the_name_of_the_flag_that_was_given() {
        let told = |flags: &[&str]| parse(flags).config(Path::new("d"), &[]).expect_err("refused").to_string();
        assert_eq!(told(&["-p", "70000"]), "flag -l or -p: clients: 70000 is not a valid port (0 to 65535)");
        assert!(told(&["-l", "unix:"]).starts_with("flag -l: clients: "), "{}", told(&["-l", "unix:"]));
        assert!(told(&["-z", "1M"]).starts_with("flag -z: job_bytes_max must be "), "{}", told(&["-z", "1M"]));
    }

    #[test]
    fn flags_without_a_meaning_are_accepted_and_named() {
        assert_eq!(parse(&["-f0", "-F", "-s", "4096", "-c", "-n"]).meaningless(), ["-f", "-F", "-s", "-c", "-n"]);
        assert!(parse(&["-VV"]).meaningless().is_empty());
    }
}
