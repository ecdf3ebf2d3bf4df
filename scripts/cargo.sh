#!/bin/sh
# Runs cargo from the first toolchain on this machine that is new enough for Cargo.toml.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"

case ${1:-} in
    clippy | fmt) find_cargo "$1" || die "no toolchain with 'cargo $1'; try: scripts/setup.sh lint" ;;
    *) find_cargo || die "no Rust $(rust_wanted) or newer; try: scripts/setup.sh build" ;;
esac
cd "$ROOT"
exec "$CARGO" "$@"
