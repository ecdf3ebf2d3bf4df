#!/bin/sh
# What can be said about the dependencies without an advisory database: every one comes from
# crates.io with a checksum, carries a licence we accept, is in Cargo.lock as Cargo.toml asks, and
# which ones are there in two versions. It does NOT find known vulnerabilities; `cargo audit` does,
# where the network allows it.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
# shellcheck disable=SC2119
find_cargo || die "no Rust toolchain; try: scripts/setup.sh build"
cd "$ROOT"

accepted='MIT|MIT-0|Apache-2\.0|Apache-2\.0 WITH LLVM-exception|BSD-2-Clause|BSD-3-Clause|ISC|Zlib|Unlicense|CC0-1\.0|0BSD|Unicode-3\.0|BSL-1\.0'
bad=0

# name, version, licence, source, one line for each crate that is really used on this platform
crates=$("$CARGO" tree --locked --workspace --edges normal,build,dev --prefix none --no-dedupe \
    --format '{p}|{l}' | sed 's/ (proc-macro)//; s/ (\*)//' | sort -u)

echo "$crates" | grep -v "($ROOT)" | while IFS='|' read -r crate licence; do
    # An expression is accepted when one of its OR parts is made of accepted names only.
    echo "$licence" | sed 's#/# OR #g; s/[()]//g; s/ OR /\n/g' |
        grep -Eqx "($accepted)( AND ($accepted))*" || echo "$crate: licence '$licence' is not in the accepted list"
done >"${TMPDIR:-/tmp}/pointsman-licences.$$"
if [ -s "${TMPDIR:-/tmp}/pointsman-licences.$$" ]; then
    cat "${TMPDIR:-/tmp}/pointsman-licences.$$"
    bad=1
fi
rm -f "${TMPDIR:-/tmp}/pointsman-licences.$$"

# Everything but ourselves comes from crates.io and has a checksum.
awk '
    /^\[\[package\]\]/ { check(); name = ""; source = ""; sum = "" }
    /^name = /     { name = $3 }
    /^source = /   { source = $3 }
    /^checksum = / { sum = $3 }
    END { check(); exit bad }
    function check() {
        if (name == "" || name == "\"pointsman\"") return
        if (source !~ /registry\+https:\/\/github.com\/rust-lang\/crates.io-index/) { print name ": not from crates.io: " source; bad = 1 }
        if (sum == "") { print name ": no checksum in Cargo.lock"; bad = 1 }
    }' Cargo.lock || bad=1

echo "$(echo "$crates" | grep -cv "($ROOT)") crates in use, $(grep -c '^\[\[package\]\]' Cargo.lock) in Cargo.lock"
duplicates=$("$CARGO" tree --locked --duplicates --edges normal --depth 0 --prefix none 2>/dev/null | grep . | sort -u || true)
if [ -n "$duplicates" ]; then
    echo "built in more than one version (a cost, no failure):"
    echo "$duplicates" | sed 's/^/  /'
fi
exit $bad
