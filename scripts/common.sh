# Sourced by the other scripts: paths, messages, and the search for a Rust toolchain.
# shellcheck shell=sh

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

say() { printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# The oldest Rust that Cargo.toml accepts.
rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# at_least WANTED FOUND: whether version FOUND is not older than WANTED.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# cargo_fits CARGO [SUBCOMMAND]: new enough, its rustc too, and it knows the subcommand.
cargo_fits() {
    fits_path=$(dirname -- "$1"):$PATH
    fits_version=$(PATH=$fits_path "$1" --version 2>/dev/null | awk '{print $2}') || return 1
    at_least "$(rust_wanted)" "${fits_version:-0}" || return 1
    fits_version=$(PATH=$fits_path rustc --version 2>/dev/null | awk '{print $2}') || return 1
    at_least "$(rust_wanted)" "${fits_version:-0}" || return 1
    [ -z "${2:-}" ] || PATH=$fits_path "$1" "$2" --version >/dev/null 2>&1
}

# find_cargo [SUBCOMMAND]: sets CARGO, PATH and RUSTUP_TOOLCHAIN to the first toolchain that fits; fails
# when none does. rustup's stable toolchain is tried where its default one is too old.
find_cargo() {
    find_given=${RUSTUP_TOOLCHAIN:-}
    for found in "${CARGO:-}" "$(command -v cargo || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" /usr/bin/cargo; do
        if [ ! -x "$found" ]; then continue; fi
        for toolchain in "$find_given" stable; do
            RUSTUP_TOOLCHAIN=$toolchain
            export RUSTUP_TOOLCHAIN
            [ -n "$toolchain" ] || unset RUSTUP_TOOLCHAIN
            if cargo_fits "$found" "${1:-}"; then
                CARGO=$found
                PATH=$(dirname -- "$found"):$PATH
                export CARGO PATH
                return 0
            fi
        done
    done
    unset RUSTUP_TOOLCHAIN
    return 1
}
