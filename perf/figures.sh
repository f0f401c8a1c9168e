#!/usr/bin/env bash
# Measures a cluster of three on this machine beside the ceiling of its hardware, in one run, with the project's load
# generator (peerbench, a program of its own that speaks the beanstalkd protocol). Prints the tables, or writes them into
# docs/figures.md:
#
#   perf/figures.sh --peerbench PROGRAM [--page docs/figures.md] [--out DIR] [--secs N] [--runs N] [--failovers N] [--quick]
#
# DIR (default: a new one under /var/tmp) holds the data of the nodes: it must be on a real disk. With the defaults it takes
# about 15 minutes; --quick leaves out the rarer shapes and the failovers.
set -euo pipefail
cd "$(dirname "$0")/.."
out='' secs=5 runs=3 failovers=20 peerbench='' quick='' page=''
while [ $# -gt 0 ]; do
    case $1 in
        --peerbench) peerbench=$2; shift ;;
        --out) out=$2; shift ;;
        --secs) secs=$2; shift ;;
        --runs) runs=$2; shift ;;
        --page) page=$2; shift ;;
        --failovers) failovers=$2; shift ;;
        --quick) quick=1 ;;
        *) echo "unknown option $1, see the head of $0" >&2; exit 2 ;;
    esac
    shift
done
[ -x "$peerbench" ] || { echo "--peerbench must name the load generator's program" >&2; exit 2; }
out=${out:-$(mktemp -d -p /var/tmp beaver-raft-figures.XXXXXX)}
mkdir -p "$out"
binary=$PWD/target/release/beaver-raft
[ -x "$binary" ] || cargo build --release --quiet

start() { # node
    "$binary" run --config "$out/node$1.yaml" 2>>"$out/node$1.log" &
    echo $! >"$out/node$1.pid"
}

stop_all() {
    local id
    for id in 1 2 3; do kill "$(cat "$out/node$id.pid" 2>/dev/null)" 2>/dev/null || true; done
    wait
}
trap stop_all EXIT

load() { cut -d' ' -f1 /proc/loadavg; }
fact() { echo "$@" >>"$out/facts"; }
fact load_begin "$(load)"

whole() { # all three are up to date
    local id
    for id in 1 2 3; do
        until curl -sf "http://127.0.0.1:1504$id/readyz" >/dev/null; do sleep 0.02; done
    done
}

# What the load generator calls: who leads, and how a killed node comes back.
cat >"$out/leader" <<'SH'
#!/usr/bin/env bash
for id in 1 2 3; do
    if curl -sf "http://127.0.0.1:1504$id/status" | grep -q '"role":"leader"'; then
        echo "$(cat "$(dirname "$0")/node$id.pid") 127.0.0.1:1502$id"
        exit
    fi
done
exit 1
SH
cat >"$out/rejoin" <<SH
#!/usr/bin/env bash
id=\${1##*:1502}
"$binary" run --config "$out/node\$id.yaml" 2>>"$out/node\$id.log" </dev/null >/dev/null &
echo \$! >"$out/node\$id.pid"
sleep 0.2
for id in 1 2 3; do until curl -sf "http://127.0.0.1:1504\$id/readyz" >/dev/null; do sleep 0.02; done; done
SH
chmod +x "$out/leader" "$out/rejoin"

for id in 1 2 3; do
    cat >"$out/node$id.yaml" <<YAML
cluster: figures
cluster_id: 000000000000000000000000c1c1c1c1
node: $id
data: $out/node$id
clients: 127.0.0.1:1502$id
admin: 127.0.0.1:1504$id
members: { 1: 127.0.0.1:15031, 2: 127.0.0.1:15032, 3: 127.0.0.1:15033 }
YAML
    "$binary" init --config "$out/node$id.yaml" >/dev/null
    start $id
done
whole

cpu() { # clock ticks that the three nodes have used
    local id sum=0
    for id in 1 2 3; do
        sum=$((sum + $(awk '{ print $14 + $15 }' "/proc/$(cat "$out/node$id.pid")/stat")))
    done
    echo $sum
}

before=$(cpu)
sleep 20
fact idle $(($(cpu) - before)) 20 "$(getconf CLK_TCK)"

bench() { "$peerbench" --out "$out/results.jsonl" --secs "$secs" --warmup 1 "$@"; }
ours=(--label beaver-raft --durability "3 nodes, Raft, write + fdatasync on a majority before ack"
    --target beanstalkd://127.0.0.1:15021,127.0.0.1:15022,127.0.0.1:15023 --leader-cmd "$out/leader")
limit=(--label limit --durability "leader + 2 followers, O_DSYNC, ack at 2 of 3")

# The ceiling and the cluster take turns, so that a change of the machine's mood hits both.
for _ in $(seq "$runs"); do
    bench "${limit[@]}" limit --dir "$out/limit" --shapes 64x1,8x32
    bench "${ours[@]}" put-latency
    bench "${ours[@]}" put-throughput --shapes 64x1,8x32
    bench "${ours[@]}" lifecycle --conns 64
done
if [ -z "$quick" ]; then
    bench "${limit[@]}" limit --dir "$out/limit" --shapes 8x1,256x1
    bench "${ours[@]}" put-throughput --shapes 1x1,8x1,256x1
    bench "${ours[@]}" --runs "$failovers" failover --after 2 --restart-cmd "$out/rejoin \$KILLED"
    fact transfer_ms "$(perf/transfer.py --dir "$out" --binary "$binary" --times "$failovers" | tr '\n' ' ')"
fi
rm -rf "$out/limit"
fact load_end "$(load)"
"$peerbench" report "$out/results.jsonl"
perf/page.py "$out" ${page:+"$page"}
