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
# when none does. One with clippy is preferred, so that tests and lints share what they build.
find_cargo() {
    if [ -n "${1:-}" ]; then
        first_cargo "$1"
    else
        first_cargo clippy || first_cargo ''
    fi
}

# rustup's stable toolchain is tried where its default one is too old.
first_cargo() {
    find_given=${RUSTUP_TOOLCHAIN:-}
    for found in "${CARGO:-}" "$(command -v cargo || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" /usr/bin/cargo; do
        if [ ! -x "$found" ]; then continue; fi
        for toolchain in "$find_given" stable; do
            RUSTUP_TOOLCHAIN=$toolchain
            export RUSTUP_TOOLCHAIN
            [ -n "$toolchain" ] || unset RUSTUP_TOOLCHAIN
            if cargo_fits "$found" "$1"; then
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

apt_updated=no

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "must be root (or have sudo) to run: $*"
    fi
}

# What apt says is shown only when it fails.
apt() {
    apt_log=$(mktemp)
    if as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$apt_log" 2>&1; then
        rm -f "$apt_log"
    else
        tail -n 30 "$apt_log" >&2
        rm -f "$apt_log"
        return 1
    fi
}

apt_update() {
    have apt-get || return 1
    [ "$apt_updated" = yes ] || apt update
    apt_updated=yes
}

# packages REASON PACKAGE...: installs, or says what somebody else has to install.
packages() {
    reason=$1
    shift
    say "$reason: installing $*"
    apt_update || die "$reason is missing and there is no apt here; install it and run this again"
    apt install --no-install-recommends --no-remove "$@" || die "could not install $* ($reason)"
}

# The mirror of Debian that this machine's apt uses, without a slash at the end; nothing when it uses none.
debian_mirror() {
    # shellcheck disable=SC2016  # apt fills in its own variables
    apt-get indextargets 'Created-By: Packages' --format '$(REPO_URI) $(LABEL)' 2>/dev/null |
        awk '$2 == "Debian" {sub("/$", "", $1); print $1; exit}'
}

# debian_root DIRECTORY: a bare Debian 12 below DIRECTORY, from the mirror this machine's apt uses, with
# updates and security as an installed Debian has them, and with this machine's extra certificates.
debian_root() {
    have debootstrap || packages "debootstrap" debootstrap
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "apt here knows no mirror of Debian to make a bare system from"
    say "debootstrap bookworm from $mirror"
    debootstrap --variant=minbase bookworm "$1" "$mirror" >"$1.log" 2>&1 || {
        tail -n 20 "$1.log" >&2
        die "debootstrap failed"
    }
    cat >"$1/etc/apt/sources.list" <<-SOURCES
		deb $mirror bookworm main
		deb $mirror bookworm-updates main
		deb $mirror-security bookworm-security main
	SOURCES
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    for file in /etc/apt/apt.conf.d/*proxy*; do
        if [ -e "$file" ]; then cp "$file" "$1/etc/apt/apt.conf.d/"; fi
    done
    if [ -d /usr/local/share/ca-certificates ]; then
        mkdir -p "$1/usr/local/share/ca-certificates"
        cp -R /usr/local/share/ca-certificates/. "$1/usr/local/share/ca-certificates/"
    fi
}
