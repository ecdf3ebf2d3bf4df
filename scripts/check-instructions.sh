#!/bin/bash
# Counts the instructions that a worker needs for a request, and fails when they have grown by more than 5 %
# over what docs/performance.md says.
# Usage: scripts/check-instructions.sh [--print]
#   --print   only print the figures, for the table in docs/performance.md
# Exit 77: not measured, for valgrind, redis-benchmark or the compiler of the table is missing.
set -euo pipefail
cd "$(dirname -- "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh
table=docs/performance.md
allowed=5

have valgrind || (packages "valgrind" valgrind) || true
for program in valgrind callgrind_control redis-server redis-benchmark redis-cli; do
    have "$program" || { say "NOT RUN: $program is missing"; exit 77; }
done
find_cargo '' || { say "NOT RUN: no Rust"; exit 77; }
compiler=$(rustc --version | awk '{print $2}')
recorded=$(sed -n 's/^| compiler | rustc \([0-9.]*\) |.*/\1/p' "$table")
if [[ ${1:-} != --print && $compiler != "$recorded" ]]; then
    say "NOT RUN: the figures were made by rustc $recorded, here is $compiler"
    exit 77
fi
"$CARGO" build --quiet --locked --release --bin pointsman

directory=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$directory"' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# until_answers PORT
until_answers() {
    local deadline=$((SECONDS + 60))
    until [[ $(redis-cli -p "$1" PING 2>/dev/null) == PONG ]]; do
        ((SECONDS < deadline)) || die "nobody answers on port $1"
        sleep 0.1
    done
}

node=$(free_port) port=$(free_port) admin=$(free_port)
redis-server --port "$node" --bind 127.0.0.1 --save '' --dir "$directory" >"$directory/redis.log" &
pids+=($!)
cat >"$directory/pointsman.toml" <<CONFIG
[admin]
bind = "127.0.0.1:$admin"
[[listener]]
bind = "127.0.0.1:$port"
backend = "main"
[proxy]
workers = 1
[backend.main]
source = { kind = "static", nodes = ["127.0.0.1:$node"] }
authority = { kind = "follow" }
CONFIG
until_answers "$node"
valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file="$directory/counts" \
    target/release/pointsman run --config "$directory/pointsman.toml" >"$directory/pointsman.log" 2>&1 &
valgrind=$!
pids+=("$valgrind")
until_answers "$port"

# load COMMAND PIPELINE REQUESTS
load() { redis-benchmark -p "$port" -t "$1" -c 50 -P "$2" -n "$3" -r 10000 -d 64 -q >/dev/null; }

# counted PART REQUESTS: of the thread that worked most, which is the worker.
counted() {
    awk -v requests="$2" '/^(totals|summary):/ && $2 > most {most = $2} END {print int(most / requests)}' \
        "$directory/counts.$1-"*
}

load set 16 100000
callgrind_control -z "$valgrind" >/dev/null
load get 1 40000
callgrind_control -d "get" "$valgrind" >/dev/null
load get 16 160000
callgrind_control -d "get16" "$valgrind" >/dev/null

failed=0
part=0
for case in "GET:1:40000" "GET, pipeline of 16:16:160000"; do
    IFS=: read -r name _ requests <<<"$case"
    part=$((part + 1))
    now=$(counted "$part" "$requests")
    ((now > 100)) || die "that can not be: $now instructions for: $name"
    if [[ ${1:-} == --print ]]; then
        printf '| %s | %d |\n' "$name" "$now"
        continue
    fi
    before=$(sed -n "s/^| $name | \([0-9]*\) |.*/\1/p" "$table")
    [[ -n $before ]] || die "$table has no line for: $name"
    if ((now * 100 > before * (100 + allowed))); then
        printf '%s: %d instructions, %d were recorded: more than %d %% above\n' "$name" "$now" "$before" "$allowed"
        failed=1
    else
        printf '%s: %d instructions, %d were recorded\n' "$name" "$now" "$before"
    fi
done
exit "$failed"
