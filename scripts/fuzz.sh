#!/bin/sh
# Builds the fuzz targets as cargo-fuzz does, without it, and runs each for some time.
# Usage: scripts/fuzz.sh [SECONDS [TARGET...]]     default: 60 seconds each
# What a target finds is kept in fuzz/artifacts; its corpus grows in fuzz/corpus.
# Exit 77: not run, for rustup's nightly toolchain or a C++ compiler is missing.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"

seconds=${1:-60}
[ $# = 0 ] || shift
[ $# -gt 0 ] || set -- info questions replies requests sentinel
rustup run nightly rustc --version >/dev/null 2>&1 || { say "NOT RUN: rustup has no nightly"; exit 77; }
have c++ || { say "NOT RUN: no C++ compiler"; exit 77; }
host=$(rustup run nightly rustc -vV | sed -n 's/^host: //p')

flags="-Cpasses=sancov-module --cfg fuzzing -Zsanitizer=address"
for option in sanitizer-coverage-level=4 sanitizer-coverage-inline-8bit-counters sanitizer-coverage-pc-table \
    sanitizer-coverage-trace-compares simplifycfg-branch-fold-threshold=0; do
    flags="$flags -Cllvm-args=-$option"
done
cd "$ROOT/fuzz"
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR
# Every overflow is an error; a little optimizing is all that pays within a minute.
RUSTFLAGS=$flags CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
    CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    rustup run nightly cargo build --release --target "$host" --bins

for target in "$@"; do
    say "$target for $seconds s"
    mkdir -p "corpus/$target" artifacts
    "$CARGO_TARGET_DIR/$host/release/$target" "-max_total_time=$seconds" "-artifact_prefix=artifacts/$target-" \
        -print_final_stats=1 "corpus/$target" "seeds/$target"
done
