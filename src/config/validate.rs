//! The gate: from values as they were given to a [`Config`] that cannot be wrong. Each refusal names the key, who set
//! it, and what would be allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::path::PathBuf;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::draft::{ConfigError, Draft, Given, MEMBER_KEYS, Value};
use super::{Address, Config, Tunables, quantity};
use crate::types::{ClusterId, NodeId};

const MEMBERS_MAX: usize = 7;
const SHARDS_MAX: u16 = 256;
const CORES_MAX: u16 = 1024;
const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// What a single node calls its cluster.
pub const EMBEDDED_CLUSTER: &str = "embedded";
const EMBEDDED_NODE: NodeId = NodeId(1);

impl Draft {
    /// The configuration of a member of a cluster.
    ///
    /// # Errors
    /// The first thing that is missing or impossible.
    pub fn validate(&self) -> Result<Config, ConfigError> {
        self.require(&["cluster", "node", "data", "clients", "members"])?;
        let node = self.node()?;
        let members = self.members()?;
        let Some(own_address) = members.get(&node) else {
            let ids: Vec<String> = members.keys().map(NodeId::to_string).collect();
            return Err(self.impossible("node", format!("{node} is not one of the members ({})", ids.join(", "))));
        };
        let peers = match self.address("peers")? {
            Some(address) if address.is_unix() => {
                return Err(self.impossible("peers", format!("must be host:port, not `{address}`")));
            }
            Some(address) => address,
            None => own_address.clone(),
        };
        self.finish(Config {
            cluster: self.cluster()?,
            cluster_id: self.cluster_id()?,
            node,
            data: self.data()?,
            clients: self.clients()?,
            peers: Some(peers),
            admin: None,
            clients_mode: None,
            members,
            shards: self.shards()?,
            cores: None,
            log: String::new(),
            embedded: false,
            temporary: false,
            tunables: Tunables::default(),
        })
    }

    /// The configuration of a complete single node that needs no file: `data` and `clients` are all it must be told.
    ///
    /// # Errors
    /// As [`Draft::validate`]; also where a key is set that only a member of a cluster has.
    pub fn validate_embedded(&self) -> Result<Config, ConfigError> {
        for key in MEMBER_KEYS {
            if self.values.contains_key(key) {
                return Err(self.impossible(key, "is for a member of a cluster, and this is a single node".to_owned()));
            }
        }
        self.require(&["data", "clients"])?;
        self.finish(Config {
            cluster: EMBEDDED_CLUSTER.to_owned(),
            cluster_id: None,
            node: EMBEDDED_NODE,
            data: self.data()?,
            clients: self.clients()?,
            peers: None,
            admin: None,
            clients_mode: None,
            members: BTreeMap::from([(EMBEDDED_NODE, Address::nowhere())]),
            shards: self.shards()?,
            cores: None,
            log: String::new(),
            embedded: true,
            temporary: false,
            tunables: Tunables::default(),
        })
    }

    /// What members and embedded nodes have in common.
    fn finish(&self, mut config: Config) -> Result<Config, ConfigError> {
        config.admin = self.address("admin")?;
        if config.admin.as_ref().is_some_and(Address::is_unix) {
            return Err(self.impossible("admin", "must be host:port".to_owned()));
        }
        config.clients_mode = self.clients_mode()?;
        config.cores = self.cores()?;
        config.log = self.log()?;
        for key in Tunables::KEYS {
            if let Some(text) = self.text(key.name)? {
                config.tunables.set(key.name, text).map_err(|why| self.impossible(key.name, why))?;
            }
        }
        self.check_together(&config)?;
        Ok(config)
    }

    /// What is possible one by one and yet not together.
    fn check_together(&self, config: &Config) -> Result<(), ConfigError> {
        let t = &config.tunables;
        if t.heartbeat_ms * 3 > t.election_timeout_ms {
            let why = format!(
                "must be at most a third of election_timeout_ms ({}), not {}: one late heartbeat would start an election",
                t.election_timeout_ms, t.heartbeat_ms
            );
            return Err(self.impossible("heartbeat_ms", why));
        }
        for (key, bytes) in [("segment_bytes_min", t.segment_bytes_min), ("segment_bytes_max", t.segment_bytes_max)] {
            if bytes % 4096 != 0 {
                return Err(self.impossible(key, format!("must be a multiple of 4096, not {bytes}")));
            }
        }
        if t.segment_bytes_min > t.segment_bytes_max {
            let why =
                format!("must be at most segment_bytes_max ({}), not {}", t.segment_bytes_max, t.segment_bytes_min);
            return Err(self.impossible("segment_bytes_min", why));
        }
        if t.disk_stall_exit_ms <= 4 * t.election_timeout_ms {
            let why = format!(
                "must be more than four times election_timeout_ms ({}), so that a leader can hand over first",
                t.election_timeout_ms
            );
            return Err(self.impossible("disk_stall_exit_ms", why));
        }
        let mut listeners: Vec<(&'static str, &Address)> = config.clients.iter().map(|a| ("clients", a)).collect();
        listeners.extend(config.peers.iter().map(|a| ("peers", a)));
        listeners.extend(config.admin.iter().map(|a| ("admin", a)));
        for (i, (key, address)) in listeners.iter().enumerate() {
            let twin = listeners[..i].iter().find(|(_, other)| other == address && address.port() != Some(0));
            if let Some((other, _)) = twin {
                return Err(self.impossible(key, format!("`{address}` is given twice (also as {other})")));
            }
        }
        Ok(())
    }

    fn impossible(&self, key: &'static str, why: String) -> ConfigError {
        ConfigError::Impossible { origin: self.origin(key), key, why }
    }

    fn origin(&self, key: &'static str) -> String {
        self.values.get(key).map_or_else(|| "configuration".to_owned(), |given| given.origin.to_string())
    }

    /// A single value; an empty one counts as none given.
    fn text(&self, key: &'static str) -> Result<Option<&str>, ConfigError> {
        match self.values.get(key).map(|given| &given.value) {
            None | Some(Value::Absent) => Ok(None),
            Some(Value::Text(text)) if text.is_empty() => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.impossible(key, "takes a single value".to_owned())),
        }
    }

    fn required(&self, key: &'static str) -> Result<&str, ConfigError> {
        self.text(key)?.ok_or_else(|| self.missing(vec![key]))
    }

    fn missing(&self, keys: Vec<&'static str>) -> ConfigError {
        ConfigError::Missing { file: self.file.clone(), keys }
    }

    /// All of these that are missing are told at once.
    fn require(&self, keys: &[&'static str]) -> Result<(), ConfigError> {
        let is_missing = |key: &&'static str| match self.values.get(key).map(|given| &given.value) {
            None | Some(Value::Absent) => true,
            Some(Value::Text(text)) => text.is_empty(),
            Some(Value::List(list)) => list.is_empty(),
            Some(Value::Map(map)) => map.is_empty(),
        };
        let missing: Vec<&'static str> = keys.iter().copied().filter(is_missing).collect();
        if missing.is_empty() { Ok(()) } else { Err(self.missing(missing)) }
    }

    fn no_address(&self, key: &'static str, why: String) -> ConfigError {
        ConfigError::NoAddress { origin: self.origin(key), key, why }
    }

    /// A number that counts something, from 1 to `max`.
    fn count(&self, key: &'static str, max: u16) -> Result<Option<NonZeroU16>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let number = quantity::whole(text);
        match number.clone().ok().and_then(|number| u16::try_from(number).ok()).and_then(NonZeroU16::new) {
            Some(count) if count.get() <= max => Ok(Some(count)),
            _ => {
                let why = number.err().filter(|why| !why.is_empty()).map_or_else(String::new, |why| format!(": {why}"));
                Err(self.impossible(key, format!("must be 1 to {max}, not `{text}`{why}")))
            }
        }
    }

    fn cluster(&self) -> Result<String, ConfigError> {
        let name = self.required("cluster")?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.len() > CLUSTER_NAME_BYTES_MAX || !name.chars().all(legal) {
            return Err(self.impossible("cluster", format!("must be 1 to 64 of A-Z a-z 0-9 - _ . , not `{name}`")));
        }
        Ok(name.to_owned())
    }

    fn cluster_id(&self) -> Result<Option<ClusterId>, ConfigError> {
        let Some(text) = self.text("cluster_id")? else { return Ok(None) };
        let id = if text.len() == 32 { u128::from_str_radix(text, 16).ok() } else { None };
        match id.filter(|id| *id != 0 && !text.starts_with('+')) {
            Some(id) => Ok(Some(ClusterId(id))),
            None => Err(self.impossible(
                "cluster_id",
                format!("must be 32 hexadecimal digits, as `init --first` prints them, not `{text}`"),
            )),
        }
    }

    fn node(&self) -> Result<NodeId, ConfigError> {
        let text = self.required("node")?;
        node_id(text).map_err(|why| self.impossible("node", format!("must be 1 to 255, not `{text}`{why}")))
    }

    fn data(&self) -> Result<PathBuf, ConfigError> {
        Ok(PathBuf::from(self.required("data")?))
    }

    fn address(&self, key: &'static str) -> Result<Option<Address>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        Address::parse(text).map(Some).map_err(|why| self.no_address(key, why))
    }

    fn clients(&self) -> Result<Vec<Address>, ConfigError> {
        let texts: Vec<&str> = match self.values.get("clients").map(|given| &given.value) {
            Some(Value::List(list)) => list.iter().map(String::as_str).collect(),
            _ => self.required("clients")?.split(',').map(str::trim).collect(),
        };
        texts.iter().map(|text| Address::parse(text).map_err(|why| self.no_address("clients", why))).collect()
    }

    fn clients_mode(&self) -> Result<Option<u32>, ConfigError> {
        let Some(text) = self.text("clients_mode")? else { return Ok(None) };
        // Written in full: digits alone might be meant as decimal, or be what is left of an octal number.
        let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3);
        match digits.and_then(|digits| u32::from_str_radix(digits, 8).ok()) {
            Some(mode) => Ok(Some(mode)),
            None => Err(self
                .impossible("clients_mode", format!("must be 0 and three octal digits, as in \"0660\", not `{text}`"))),
        }
    }

    fn members(&self) -> Result<BTreeMap<NodeId, Address>, ConfigError> {
        let given = self.values.get("members").ok_or_else(|| self.missing(vec!["members"]))?;
        let mut members = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for (id, address) in self.member_pairs(given)? {
            let node = node_id(id)
                .map_err(|why| self.impossible("members", format!("have ids from 1 to 255, not `{id}`{why}")))?;
            let address = Address::parse(address).map_err(|why| self.no_address("members", why))?;
            if address.port().is_none_or(|port| port == 0) {
                let why = format!("need an address host:port that peers can dial; {id} has `{address}`");
                return Err(self.impossible("members", why));
            }
            if !addresses.insert(address.clone()) {
                return Err(
                    self.impossible("members", format!("have addresses of their own; `{address}` is there twice"))
                );
            }
            if members.insert(node, address).is_some() {
                return Err(self.impossible("members", format!("name node {node} twice")));
            }
        }
        if members.is_empty() || members.len() > MEMBERS_MAX {
            return Err(self.impossible("members", format!("must be 1 to {MEMBERS_MAX}, not {}", members.len())));
        }
        Ok(members)
    }

    fn member_pairs<'a>(&self, given: &'a Given) -> Result<Vec<(&'a str, &'a str)>, ConfigError> {
        match &given.value {
            Value::Map(map) => Ok(map.iter().map(|(id, address)| (id.as_str(), address.as_str())).collect()),
            Value::Text(text) => text
                .split(',')
                .map(|pair| pair.trim().split_once('='))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| self.impossible("members", format!("must be 1=host:port,2=host:port, not `{text}`"))),
            _ => Err(self.impossible("members", "must be a map of id to address: { 1: host:port }".to_owned())),
        }
    }

    fn shards(&self) -> Result<u16, ConfigError> {
        Ok(self.count("shards", SHARDS_MAX)?.map_or(1, NonZeroU16::get))
    }

    fn cores(&self) -> Result<Option<NonZeroU16>, ConfigError> {
        self.count("cores", CORES_MAX)
    }

    fn log(&self) -> Result<String, ConfigError> {
        let text = self.text("log")?.unwrap_or("info");
        // A word alone would be a target of which everything is shown, and nothing of any other.
        let is_level = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
        match text.parse::<Targets>() {
            Ok(_) if text.split(',').all(is_level) => Ok(text.to_owned()),
            _ => Err(self.impossible(
                "log",
                format!("must be error, warn, info, debug, trace, or target=level pairs, not `{text}`"),
            )),
        }
    }
}

/// # Errors
/// What there is to add to "must be 1 to 255".
fn node_id(text: &str) -> Result<NodeId, String> {
    match quantity::whole(text) {
        Ok(number) => u8::try_from(number).ok().filter(|id| *id != 0).map(NodeId).ok_or_else(String::new),
        Err(why) if why.is_empty() => Err(why),
        Err(why) => Err(format!(": {why}")),
    }
}
