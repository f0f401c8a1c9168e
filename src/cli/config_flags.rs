//! One flag for each key of the configuration, made from the same list as everything else about keys.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::{ConfigError, Draft, Key, plain_numbers};

/// The flags of keys that were given.
#[derive(Debug, Default, Clone)]
pub struct ConfigFlags {
    given: Vec<(&'static Key, String)>,
}

impl ConfigFlags {
    /// Lays the environment and then the flags over what a file said.
    ///
    /// # Errors
    /// For a variable of the environment that names no key.
    pub fn lay_over(&self, mut draft: Draft) -> Result<Draft, ConfigError> {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        draft.override_with_environment(std::env::vars_os().filter_map(readable))?;
        for (key, value) in &self.given {
            draft.override_with_flag(key, format!("--{}", key.name.replace('_', "-")), value.clone());
        }
        Ok(draft)
    }
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        Key::all().fold(command, |command, key| {
            let mut arg = Arg::new(key.name)
                .long(key.name.replace('_', "-"))
                .value_name(key.unit.split(' ').next().unwrap_or("value").to_ascii_uppercase())
                .allow_hyphen_values(true)
                .help_heading("Configuration (docs/configuration.md)")
                .hide_short_help(!ALWAYS_SHOWN.contains(&key.name))
                .help(help(key));
            if key.name == "clients" {
                arg = arg.visible_alias("listen");
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

const ALWAYS_SHOWN: [&str; 6] = ["data", "clients", "admin", "shards", "job_bytes_max", "log"];

/// The documentation of a key in a line or two.
fn help(key: &Key) -> String {
    let doc: Vec<&str> = key.doc.split_whitespace().collect();
    format!("{} [{}; default: {}]", doc.join(" "), plain_numbers(key.range), plain_numbers(key.default))
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ConfigFlags, Error> {
        let given = |key: &'static Key| matches.get_one::<String>(key.name).map(|value| (key, value.clone()));
        Ok(ConfigFlags { given: Key::all().filter_map(given).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
