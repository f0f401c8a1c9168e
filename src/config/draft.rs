//! Values as they were given, and by whom: the file first, then the environment over it, then the flags. Nothing is
//! believed yet but the names of the keys.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::key::Key;
use super::yaml::{self, YamlError};
use crate::types::NodeId;

/// The environment overrides a key by this and the key's name in capitals.
pub const ENVIRONMENT_PREFIX: &str = "BEAVER_RAFT_";

/// Keys that only a member of a cluster has.
pub(super) const MEMBER_KEYS: [&str; 5] = ["cluster", "cluster_id", "node", "peers", "members"];

/// Why a configuration is refused; each names the place and the key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{path} cannot be read: {why}")]
    Unreadable { path: String, why: String },
    #[error("{path} is not valid YAML: {why}")]
    NotYaml { path: String, why: String },
    #[error("{origin}: unknown key `{key}`{hint}")]
    Unknown { origin: String, key: String, hint: String },
    #[error("{path}:{line}: {key} is given twice")]
    Twice { path: String, line: u64, key: String },
    #[error("{origin}: {key} {why}")]
    Impossible { origin: String, key: &'static str, why: String },
    #[error("{origin}: {key}: {why}")]
    NoAddress { origin: String, key: &'static str, why: String },
    #[error("{}", missing(file.as_deref(), keys))]
    Missing { file: Option<PathBuf>, keys: Vec<&'static str> },
    #[error(
        "node {node} is one of {members} members, and which cluster they make up is not known: prepare one of them with \
         `beaver-raft init --first`, which prints the cluster's id, and the others with `--cluster-id ID` (or with \
         `cluster_id` in their configuration)"
    )]
    WhichCluster { node: NodeId, members: usize },
    #[error(
        "--first draws a new cluster's id, and the configuration names one already (cluster_id): leave --first away"
    )]
    NotFirst,
}

/// All keys that are missing, and where each can be set.
fn missing(file: Option<&Path>, keys: &[&'static str]) -> String {
    let list = |name: &dyn Fn(&str) -> String, joint: &str| match keys.split_last() {
        Some((last, [])) => name(last),
        Some((last, others)) => {
            let others: Vec<String> = others.iter().map(|key| name(key)).collect();
            format!("{} {joint} {}", others.join(", "), name(last))
        }
        None => String::new(),
    };
    let (are, they, them) = if keys.len() == 1 { ("is", "it has", "it") } else { ("are", "they have", "them") };
    let named = list(&|key| key.to_owned(), "and");
    let variables = list(&|key| format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase()), "and");
    let flags = list(&|key| format!("--{}", key.replace('_', "-")), "and");
    match file {
        Some(file) => format!(
            "{}: {named} {are} missing: {they} no default; set {them} there, as {variables}, or as {flags}",
            file.display()
        ),
        None => format!(
            "{named} {are} missing: {they} no default; set {them} as {flags}, as {variables}, or in a file (--config FILE)"
        ),
    }
}

/// A configuration under way.
#[derive(Debug, Default)]
pub struct Draft {
    pub(super) values: BTreeMap<&'static str, Given>,
    /// The file that was read, for messages.
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Given {
    pub value: Value,
    pub origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// `line` is where the value begins.
    File {
        path: PathBuf,
        line: u64,
    },
    Environment {
        name: String,
    },
    /// As it was given, dashes and all.
    Flag {
        name: String,
    },
}

/// A value in any of the shapes that YAML has for it. Scalars are text, as written, until their key says what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Absent,
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { name } => write!(f, "environment variable {name}"),
            Origin::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

impl Draft {
    /// Reads a YAML file.
    ///
    /// # Errors
    /// Where it cannot be read, is not YAML, or has a key that does not exist.
    pub fn read(path: &Path) -> Result<Draft, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Unreadable { path: path.display().to_string(), why: e.to_string() })?;
        Draft::from_yaml(&text, path)
    }

    /// As [`Draft::read`], from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Draft::read`].
    pub fn from_yaml(text: &str, path: &Path) -> Result<Draft, ConfigError> {
        let mut draft = Draft { file: Some(path.to_owned()), ..Draft::default() };
        let entries = yaml::read(text).map_err(|error| {
            let path = path.display().to_string();
            match error {
                YamlError::Form(why) => ConfigError::NotYaml { path, why },
                YamlError::Twice { name, line } => ConfigError::Twice { path, line, key: name },
            }
        })?;
        for yaml::Entry { name, name_line, value, value_line } in entries {
            let key = known(&name, &Origin::File { path: path.to_owned(), line: name_line })?;
            if value != Value::Absent {
                let origin = Origin::File { path: path.to_owned(), line: value_line };
                draft.values.insert(key.name, Given { value, origin });
            }
        }
        Ok(draft)
    }

    /// Lays the environment over what is there. Every variable that begins with the prefix must be a key's.
    ///
    /// # Errors
    /// For a variable that names no key.
    pub fn override_with_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let name = name.to_ascii_lowercase();
            let origin = Origin::Environment { name: variable };
            let key = known(&name, &origin)?;
            self.values.insert(key.name, Given { value: Value::Text(value), origin });
        }
        Ok(())
    }

    /// Whether a key is set that only a member of a cluster has.
    #[must_use]
    pub fn is_of_member(&self) -> bool {
        MEMBER_KEYS.iter().any(|key| self.values.contains_key(key))
    }

    /// Lays one flag over what is there. `name`: what the user calls it, as in `--heartbeat-ms` or `-z`.
    pub fn override_with_flag(&mut self, key: &'static Key, name: impl Into<String>, value: String) {
        self.values.insert(key.name, Given { value: Value::Text(value), origin: Origin::Flag { name: name.into() } });
    }
}

fn known(name: &str, origin: &Origin) -> Result<&'static Key, ConfigError> {
    Key::find(name).ok_or_else(|| ConfigError::Unknown {
        origin: origin.to_string(),
        key: name.to_owned(),
        hint: Key::nearest(name).map_or_else(String::new, |key| format!("; did you mean `{}`?", key.name)),
    })
}
