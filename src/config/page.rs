//! `docs/configuration.md`, written from the list of keys, so that the two cannot differ.

use std::fmt::Write;

use super::draft::ENVIRONMENT_PREFIX;
use super::key::{IDENTITY, Key};
use super::tunables::Tunables;

const HEAD: &str = "\
# Configuration

A member of a cluster is told who it is by a YAML file:

```yaml
cluster: orders            # name, for people
node: 1
data: /var/lib/beaver-raft
clients: 127.0.0.1:11301   # beanstalkd protocol
peers: 127.0.0.1:7301
admin: 127.0.0.1:9301
members: { 1: 127.0.0.1:7301, 2: 127.0.0.1:7302, 3: 127.0.0.1:7303 }
shards: 1
```

`beaver-raft init --config FILE` prepares its data directory, once; `beaver-raft run --config FILE` starts it. Which cluster the
node is a member of goes by an id that `init --first` draws and prints on the first member. All others are told: by
`init --cluster-id ID`, or by `cluster_id: ID` in the file, which then is the same on all of them but for `node` and addresses.
Who keeps files in a repository may draw the id beforehand (`openssl rand -hex 16`). A single node
needs no file: `beaver-raft run --data DIR --listen ADDR`. A member needs none either where the
environment or flags give the keys: whoever is given `cluster`, `node`, `members` or `peers` is one.

Values stay as they are written: `cluster: 0123` and `cluster: yes` are names like any other, and
what YAML would make of them does not count. Numbers are decimal; one with a leading zero is
refused, since it is octal to some.

Sizes in bytes take `B`, `KiB`, `MiB`, `GiB` and `TiB`, times in milliseconds `ms`, `s`, `min` and `h`
(`job_bytes_max: 1MiB`, `election_timeout_ms: 1s`); a number alone counts bytes or milliseconds. What
may mean two things (`16M`, `16MB`, `5m`) is refused, with what to write instead. The same holds for
the environment and for flags.
";

/// The whole page.
#[must_use]
pub fn reference_page() -> String {
    let mut page = HEAD.to_owned();
    let _ = write!(
        page,
        "\nEvery key may be overridden by the environment (`{ENVIRONMENT_PREFIX}<KEY>`, as in `{ENVIRONMENT_PREFIX}HEARTBEAT_MS=100`), and that \
         by a flag of `run` and `init`\n(`--heartbeat-ms 100`; `--listen` is another name of `--clients`). A key that does not exist or a value \
         that is impossible is refused\nat the start, by name.\n\nThis page is generated: `beaver-raft reference configuration > docs/configuration.md`.\n"
    );
    section(&mut page, "Identity and addresses", IDENTITY);
    section(&mut page, "Numbers", Tunables::KEYS);
    page
}

fn section(page: &mut String, title: &str, keys: &[Key]) {
    let _ = write!(
        page,
        "\n## {title}\n\n| key, environment | unit or form | default | range | |\n|---|---|---|---|---|\n"
    );
    for key in keys {
        let doc: Vec<&str> = key.doc.split_whitespace().collect();
        let _ = writeln!(
            page,
            "| `{}` `{ENVIRONMENT_PREFIX}{}` | {} | {} | {} | {} |",
            key.name,
            key.name.to_ascii_uppercase(),
            key.unit,
            plain_numbers(key.default),
            plain_numbers(key.range),
            doc.join(" ")
        );
    }
}

/// Ranges of numbers come from source text, where digits stand in groups.
#[must_use]
pub fn plain_numbers(range: &str) -> String {
    let mut plain = String::with_capacity(range.len());
    let mut after_digit = false;
    for c in range.chars() {
        if !(c == '_' && after_digit) {
            plain.push(c);
        }
        after_digit = c.is_ascii_digit();
    }
    plain
}
