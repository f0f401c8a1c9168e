//! Values as they were given, and by whom: the file first, then the environment over it, then the flags. Nothing is
//! believed yet but the names of the keys.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use thiserror::Error;

use super::key::Key;

/// The environment overrides a key by this and the key's name in capitals.
pub const ENVIRONMENT_PREFIX: &str = "BEAVER_RAFT_";

/// Why a configuration is refused; each names the place and the key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{path} cannot be read: {why}")]
    Unreadable { path: String, why: String },
    #[error("{path} is not valid YAML: {why}")]
    NotYaml { path: String, why: String },
    #[error("{origin}: unknown key `{key}`{hint}")]
    Unknown { origin: String, key: String, hint: String },
    #[error("{origin}: {key} {why}")]
    Impossible { origin: String, key: &'static str, why: String },
    #[error("{key} is missing: it has no default; set it in the file, as {ENVIRONMENT_PREFIX}{upper}, or as --{key}", upper = key.to_ascii_uppercase())]
    Missing { key: &'static str },
}

/// A configuration under way.
#[derive(Debug, Default)]
pub struct Draft {
    pub(super) values: BTreeMap<&'static str, Given>,
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

/// A value in any of the shapes that YAML has for it. Scalars stay text until their key says what they mean.
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
        let mut draft = Draft::default();
        let only_comments = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        if only_comments {
            return Ok(draft);
        }
        let file: BTreeMap<String, Spanned<Value>> = serde_saphyr::from_str(text)
            .map_err(|e| ConfigError::NotYaml { path: path.display().to_string(), why: e.to_string() })?;
        for (name, spanned) in file {
            let origin = Origin::File { path: path.to_owned(), line: spanned.referenced.line() };
            let key = known(&name, &origin)?;
            if spanned.value != Value::Absent {
                draft.values.insert(key.name, Given { value: spanned.value, origin });
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

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list of values, or a map of values")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Text(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Text(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Text(number.to_string()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Text(truth.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Absent)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Absent)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        Value::deserialize(inner)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<String>()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry::<String, String>()? {
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}
