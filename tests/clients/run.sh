#!/bin/sh
# Runs third-party clients and their own test suites, unmodified, against each server given as HOST:PORT.
#
#   tests/clients/run.sh 127.0.0.1:11301 [127.0.0.1:11302 ...]
#
# The suites of fivebeans (npm) and beanstalkc (crates.io) know one address only, 127.0.0.1:11300. For a server
# elsewhere a relay listens there, so that port has to be free. Packages come from their registries once and are kept
# in CLIENTS_DIR (default: target/clients). Needs node, npm, cargo and python3 with venv.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=${CLIENTS_DIR:-$here/../../target/clients}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
relay=

stop_relay() {
    [ -z "$relay" ] || kill "$relay" 2>/dev/null || true
    relay=
}
trap stop_relay EXIT INT TERM

fetch_fivebeans() {
    [ -d "$dir/fivebeans/node_modules/must" ] && return
    rm -rf "$dir/fivebeans" && mkdir "$dir/fivebeans"
    (
        cd "$dir/fivebeans"
        npm pack --silent fivebeans@1.5.0 >/dev/null
        tar xzf fivebeans-1.5.0.tgz --strip-components=1
        npm install --silent --ignore-scripts --no-audit --no-fund --omit=dev
        npm install --silent --ignore-scripts --no-audit --no-fund --no-save mocha@~3.0.2 must@~0.13.2
    )
}

fetch_beanstalkc() {
    [ -d "$dir/beanstalkc/src" ] && return
    rm -rf "$dir/beanstalkc" "$dir/fetch" && mkdir -p "$dir/fetch/src"
    (
        cd "$dir/fetch"
        printf '[package]\nname = "fetch"\nversion = "0.0.0"\n[dependencies]\nbeanstalkc = "=1.0.0"\n[workspace]\n' >Cargo.toml
        : >src/lib.rs
        cargo vendor --quiet vendor >/dev/null
    )
    # Vendored sources are checked against their sums as a dependency; as a package of its own it has no such file.
    mv "$dir/fetch/vendor/beanstalkc" "$dir/beanstalkc"
    rm -rf "$dir/fetch" "$dir/beanstalkc/.cargo-checksum.json"
    grep -q '^\[workspace\]' "$dir/beanstalkc/Cargo.toml" || printf '\n[workspace]\n' >>"$dir/beanstalkc/Cargo.toml"
}

fetch_calls() {
    cp "$here/beanstalkc_calls.rs" "$dir/beanstalkc/examples/"
    grep -q beanstalkc_calls "$dir/beanstalkc/Cargo.toml" ||
        printf '\n[[example]]\nname = "beanstalkc_calls"\n' >>"$dir/beanstalkc/Cargo.toml"
}

fetch_python() {
    [ -x "$dir/python/bin/python" ] || python3 -m venv "$dir/python"
    "$dir/python/bin/pip" install --quiet --disable-pip-version-check \
        greenstalk==2.1.1 aiostalk==1.3.1 PyYAML==6.0.3
}

run_suites() {
    echo "== greenstalk against $1"
    PYTHONDONTWRITEBYTECODE=1 "$dir/python/bin/python" "$here/greenstalk_calls.py" "$1"
    echo "== PyYAML against $1"
    "$dir/python/bin/python" "$here/yaml_calls.py" "$1"
    echo "== aiostalk against $1"
    PYTHONDONTWRITEBYTECODE=1 "$dir/python/bin/python" "$here/aiostalk_calls.py" "$1"

    if [ "$1" != 127.0.0.1:11300 ]; then
        python3 "$here/relay.py" "$1" &
        relay=$!
        sleep 1
        kill -0 "$relay" || { echo "port 11300 is taken: the suites that need it cannot run" >&2; exit 1; }
    fi
    echo "== fivebeans against $1"
    # The one case left out asks for no server: it expects how node 0.10 names a refused connection.
    (cd "$dir/fivebeans" && node_modules/.bin/mocha -t 8000 -R dot -g 'emits the error event on failure' -i test/)
    echo "== beanstalkc against $1"
    (cd "$dir/beanstalkc" && RUSTFLAGS=-Awarnings cargo test --quiet)
    stop_relay
    (cd "$dir/beanstalkc" && RUSTFLAGS=-Awarnings cargo run --quiet --example beanstalkc_calls -- "$1")
}

[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fetch_fivebeans
fetch_beanstalkc
fetch_calls
fetch_python
for server in "$@"; do
    run_suites "$server"
done
echo "all suites passed against: $*"
