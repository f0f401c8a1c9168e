#!/usr/bin/env bash
# Runs every fuzz target for the given number of seconds each (default 30), one at a time, and fails if one finds something.
# What it cannot run it names with the reason, and passes: `cargo test` holds a property test for each decoder.
#
#   tests/fuzz/run.sh [SECONDS] [TARGET...]
#   tests/fuzz/run.sh build                    compiles them, and runs none
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-30}
[ $# -eq 0 ] || shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | tail -n +2)
fi

skip() {
    echo "SKIPPED: fuzzing: $1"
    exit 0
}

rustup run nightly rustc --version >/dev/null 2>&1 || skip "the nightly toolchain is not there (rustup toolchain install nightly)"
cargo fuzz --version >/dev/null 2>&1 || skip "cargo-fuzz is not there (cargo install cargo-fuzz)"

# Nothing here is unsafe but what the program is, and its unsafe code is not reached: no sanitizer, several times the speed.
# One unit of code generation, which is the default of cargo-fuzz, leaves a machine's other processors without work.
options=(--fuzz-dir . --sanitizer none --codegen-units 16)
cargo +nightly fuzz build "${options[@]}"
[ "$seconds" != build ] || exit 0

failed=()
for target in "${targets[@]}"; do
    echo "== $target for $seconds s"
    # What a run finds goes into the first directory; the second is what every run begins with.
    mkdir -p "found/$target" "seeds/$target"
    cargo +nightly fuzz run "${options[@]}" "$target" "found/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=2048 -timeout=20 -rss_limit_mb=2000 -print_final_stats=0 -verbosity=0 ||
        failed+=("$target")
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}; the inputs are in $PWD/artifacts"
    exit 1
fi
