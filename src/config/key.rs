//! What can be configured: one list of keys, from which the file, the environment, the flags and
//! `docs/configuration.md` all take their names.

use super::tunables::Tunables;

/// One key of the configuration. The environment calls it `BEAVER_RAFT_<NAME>`, the command line `--<name>`.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// What a number counts; for other values, their form.
    pub unit: &'static str,
    pub default: &'static str,
    pub range: &'static str,
    pub doc: &'static str,
}

impl Key {
    /// All keys, in the order in which they are documented.
    pub fn all() -> impl Iterator<Item = &'static Key> {
        IDENTITY.iter().chain(Tunables::KEYS)
    }

    #[must_use]
    pub fn find(name: &str) -> Option<&'static Key> {
        Key::all().find(|key| key.name == name)
    }

    /// The key that a misspelt one probably means: the nearest within two edits, or one that begins or ends like it.
    #[must_use]
    pub fn nearest(wrong: &str) -> Option<&'static Key> {
        let near = Key::all().map(|key| (edits(key.name, wrong), key)).min_by_key(|(distance, _)| *distance)?;
        let allowed = if wrong.len() < 5 { 1 } else { 2 };
        if near.0 <= allowed {
            return Some(near.1);
        }
        Key::all().find(|key| wrong.len() >= 4 && (key.name.starts_with(wrong) || key.name.ends_with(wrong)))
    }
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// Who this node is and where it listens. The numbers follow in [`Tunables::KEYS`].
pub(super) const IDENTITY: &[Key] = &[
    Key {
        name: "cluster",
        unit: "name",
        default: "required",
        range: "1 to 64 of A-Z a-z 0-9 - _ .",
        doc: "Name of the cluster, for people to tell it from others. The same on every node; fixed at `init`.",
    },
    Key {
        name: "cluster_id",
        unit: "id",
        default: "the one of the data directory",
        range: "32 hexadecimal digits, as `init --first` prints them",
        doc: "Which cluster this is: a node of another one never talks to this one. `init --first` draws it for the first member; \
              `init` of every other takes it from here. Fixed at `init`.",
    },
    Key {
        name: "node",
        unit: "id",
        default: "required",
        range: "1 to 255, one of `members`",
        doc: "Which member this node is. Fixed at `init`.",
    },
    Key {
        name: "data",
        unit: "path",
        default: "required",
        range: "a directory on a local disk",
        doc: "Data directory, prepared once with `beaver-raft init`. The file system must support direct I/O (ext4 and xfs do, \
              tmpfs does not).",
    },
    Key {
        name: "clients",
        unit: "address or list",
        default: "required",
        range: "host:port or unix:/path",
        doc: "Where clients of the beanstalkd protocol are served. The protocol has no authentication: listen where only \
              your own programs can reach.",
    },
    Key {
        name: "clients_mode",
        unit: "permissions",
        default: "what the umask leaves",
        range: "0 and three octal digits",
        doc: "Permissions of a Unix socket for clients, as `\"0660\"`: who may connect. Under systemd's `UMask=0077` it is the \
              node's own user alone.",
    },
    Key {
        name: "peers",
        unit: "address",
        default: "this node's own in `members`",
        range: "host:port",
        doc: "Where this node listens for the other members, if that differs from the address that they dial (0.0.0.0, NAT).",
    },
    Key {
        name: "admin",
        unit: "address",
        default: "none",
        range: "host:port",
        doc: "HTTP port for `/metrics`, `/healthz`, `/readyz` and `/status`. Every node serves the same on the Unix \
              socket `admin.sock` in its data directory, for its own user; without this key, only there.",
    },
    Key {
        name: "members",
        unit: "map of id to address",
        default: "required",
        range: "1 to 7 members, ids 1 to 255, host:port, all different",
        doc: "The first members of the cluster and the addresses at which they reach each other; the same on every node. Three \
              survive the loss of one, five of two. In the environment and on the command line: `1=host:port,2=host:port`. \
              Who they are is fixed at `init`; an address may change while all nodes are stopped.",
    },
    Key {
        name: "shards",
        unit: "count",
        default: "1",
        range: "1 to 256",
        doc: "Raft groups over which tubes are spread; order is exact within one. Each shard runs on one core thread of each \
              node. The same on every node; fixed at `init`.",
    },
    Key {
        name: "cores",
        unit: "count",
        default: "one for each shard, at most the host's",
        range: "1 to 1024",
        doc: "Core threads. More than there are shards are not started.",
    },
    Key {
        name: "log",
        unit: "filter",
        default: "info",
        range: "error, warn, info, debug, trace, or target=level pairs with commas between them",
        doc: "How much is written to standard error.",
    },
];
