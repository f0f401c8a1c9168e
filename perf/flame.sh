#!/usr/bin/env bash
# Where the processor time of a node goes: runs a cluster of three under a load and draws a flame graph for each node.
#
#   perf/flame.sh --peerbench PROGRAM [--work latency|lifecycle|CONNECTIONSxOUTSTANDING] [--out DIR] [--secs N]
#
# Needs perf (Debian: linux-perf) and inferno (cargo install inferno). Frames are complete only where the program was built
# with frame pointers, which this does in a target directory of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
out='' secs=5 peerbench='' work=64x1
while [ $# -gt 0 ]; do
    case $1 in
        --peerbench) peerbench=$2; shift ;;
        --work) work=$2; shift ;;
        --out) out=$2; shift ;;
        --secs) secs=$2; shift ;;
        *) echo "unknown option $1, see the head of $0" >&2; exit 2 ;;
    esac
    shift
done
[ -x "$peerbench" ] || { echo "--peerbench must name the load generator's program" >&2; exit 2; }
for program in perf inferno-collapse-perf inferno-flamegraph; do
    command -v "$program" >/dev/null || { echo "$program is not there, see the head of $0" >&2; exit 2; }
done
case $work in
    latency) load=(put-latency) ;;
    lifecycle) load=(lifecycle --conns 64) ;;
    *) load=(put-throughput --shapes "$work") ;;
esac
out=${out:-$(mktemp -d -p /var/tmp beaver-raft-flame.XXXXXX)}
mkdir -p "$out"
export RUSTFLAGS="-C force-frame-pointers=yes" CARGO_TARGET_DIR=$PWD/target/flame
cargo build --release --quiet --bin beaver-raft
binary=$CARGO_TARGET_DIR/release/beaver-raft

pids=()
stop_all() {
    kill "${pids[@]}" 2>/dev/null || true
    wait
}
trap stop_all EXIT
for id in 1 2 3; do
    cat >"$out/node$id.yaml" <<YAML
cluster: flame
cluster_id: 000000000000000000000000c1c1c1c1
node: $id
data: $out/node$id
clients: 127.0.0.1:1512$id
admin: 127.0.0.1:1514$id
members: { 1: 127.0.0.1:15131, 2: 127.0.0.1:15132, 3: 127.0.0.1:15133 }
YAML
    "$binary" init --config "$out/node$id.yaml" >/dev/null
    "$binary" run --config "$out/node$id.yaml" 2>"$out/node$id.log" &
    pids+=($!)
done
for id in 1 2 3; do
    until curl -sf "http://127.0.0.1:1514$id/readyz" >/dev/null; do sleep 0.05; done
done
"$peerbench" --target beanstalkd://127.0.0.1:15121,127.0.0.1:15122,127.0.0.1:15123 \
    --secs $((secs + 1)) --warmup 1 "${load[@]}" >"$out/load" &
sleep 1.5
# A virtual machine often has no cycle counter: the clock will do.
perf record -q -e cpu-clock -F 997 -g -p "$(IFS=,; echo "${pids[*]}")" -o "$out/perf" -- sleep "$secs" 2>"$out/perf.log"
wait $!
for n in 0 1 2; do
    id=$((n + 1))
    role=$(curl -sf "http://127.0.0.1:1514$id/status" | grep -o '"role":"[a-z]*"' | head -1 | cut -d'"' -f4)
    perf script -i "$out/perf" --pid "${pids[$n]}" 2>/dev/null | inferno-collapse-perf >"$out/node$id.folded" 2>/dev/null
    inferno-flamegraph --title "node $id, $role, $work" <"$out/node$id.folded" >"$out/node$id.svg"
    echo "$out/node$id.svg ($role)"
done
cat "$out/load"
