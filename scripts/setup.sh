#!/bin/sh
# Installs what is missing to build, test or lint pointsman, and nothing that is there already.
# Usage: scripts/setup.sh build|test|lint
#   build  a C compiler and a Rust toolchain
#   test   that, redis-server with redis-cli, etcd, ZooKeeper, Consul, BIND with dig and nsupdate, ip and iptables,
#          and libfaketime
#   lint   that, and rustfmt, clippy, git, make
# Needs root or sudo only when something is missing. Uses apt, and rustup where apt has no Rust that
# is new enough.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"

# The version apt would install, without epoch and Debian's suffix.
apt_version() {
    LC_ALL=C apt-cache policy "$1" | awk '/Candidate:/ {print $2}' | sed 's/^[0-9]*://; s/[+~-].*//'
}

compiler() {
    have cc || packages "a C compiler" gcc libc6-dev
    [ -e /etc/ssl/certs/ca-certificates.crt ] || packages "certificates for the registry" ca-certificates
}

# Debian starts a service when it installs it. Ours must not, and must not start at the next boot;
# one that somebody installed before us is left as it is.
# without_service UNIT WHAT PACKAGE...
without_service() {
    unit=$1
    shift
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
    fi
    packages "$@"
    if [ -d /run/systemd/system ]; then
        as_root systemctl disable --quiet "$unit" || true
    fi
    as_root rm -f $policy
    trap - EXIT INT TERM
    say "$1 is installed; its service was not started"
}

redis() {
    have redis-server && have redis-cli && return
    without_service redis-server.service "Redis" redis-server redis-tools
}

# Tests of DNS want a real server and its tools; without them they say NOT RUN.
bind() {
    PATH=$PATH:/usr/sbin:/sbin
    if have named && have dig && have nsupdate; then return; fi
    (without_service named.service "BIND" bind9 bind9-dnsutils) || say "tests of DNS will not run"
}

# A clock that is wrong, for one process.
faketime() {
    for library in /usr/lib/*/faketime/libfaketimeMT.so.1; do
        if [ -e "$library" ]; then return; fi
    done
    (packages "a wrong clock" libfaketime) || say "tests of clocks that are wrong or jump will not run"
}

# Tests of a shared record want real coordinators; without one its tests say NOT RUN.
coordinators() {
    have etcd || (without_service etcd.service "etcd" etcd-server) || say "tests with etcd will not run"
    if ! have java || [ ! -e /usr/share/java/zookeeper.jar ]; then
        (packages "ZooKeeper" zookeeper default-jre-headless) || say "tests with ZooKeeper will not run"
    fi
    have openssl || (packages "certificates for tests" openssl) || say "tests with TLS will not run"
    have consul || "$ROOT/scripts/servers.sh" get consul || say "tests with Consul will not run"
}

# Tests that drop packets want these; without them they say NOT RUN.
network() {
    PATH=$PATH:/usr/sbin:/sbin
    if have ip && have iptables; then return; fi
    (packages "a network to break" iproute2 iptables) || say "tests that cut the network will not run"
}

# Tests of clocks that jump want this library; without it they say NOT RUN.
clocks() {
    [ -e "/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1" ] && return
    (packages "clocks that jump" libfaketime) || say "tests of clocks that jump will not run"
}

rust_by_rustup() {
    rustup=$(command -v rustup || echo "${CARGO_HOME:-$HOME/.cargo}/bin/rustup")
    [ -x "$rustup" ] || return 1
    say "Rust: rustup is here, installing its stable toolchain"
    "$rustup" toolchain install stable --profile minimal -c rustfmt -c clippy
}

# Debian 12 carries a current Rust for its browsers under the names cargo-web and rustc-web; later
# releases have a new enough cargo, or at least rustup.
rust_by_apt() {
    apt_update || return 1
    for set in "cargo-web rustc-web" "cargo rustc"; do
        version=$(apt_version "${set##* }")
        if [ -n "$version" ] && [ "$version" != "(none)" ] && at_least "$(rust_wanted)" "$version"; then
            say "Rust: installing $set ($version)"
            # shellcheck disable=SC2086
            apt install --no-install-recommends --no-remove $set && return 0
        fi
    done
    version=$(apt_version rustup)
    if [ -n "$version" ] && [ "$version" != "(none)" ] && ! have cargo; then
        apt install --no-install-recommends --no-remove rustup && rust_by_rustup && return 0
    fi
    return 1
}

rust_by_download() {
    case $(uname -m) in
        x86_64 | aarch64) triple=$(uname -m)-unknown-linux-gnu ;;
        *) return 1 ;;
    esac
    have curl || packages "a download tool for rustup" curl ca-certificates
    url=https://static.rust-lang.org/rustup/dist/$triple/rustup-init
    directory=$(mktemp -d)
    say "Rust: fetching $url"
    if curl -fsS --retry 3 -o "$directory/rustup-init" "$url" &&
        curl -fsS --retry 3 "$url.sha256" | awk '{print $1 "  rustup-init"}' >"$directory/sum" &&
        (cd "$directory" && sha256sum -c --quiet sum) &&
        chmod 755 "$directory/rustup-init" &&
        RUSTUP_INIT_SKIP_PATH_CHECK=yes "$directory/rustup-init" -y -q --no-modify-path --profile minimal -c rustfmt -c clippy; then
        rm -rf "$directory"
        return 0
    fi
    rm -rf "$directory"
    return 1
}

rust() {
    find_cargo && return
    rust_by_rustup && find_cargo && return
    rust_by_apt && find_cargo && return
    rust_by_download && find_cargo && return
    die "no Rust $(rust_wanted) or newer could be installed: apt has none that is new enough, and
static.rust-lang.org does not answer. Install rustup by hand (https://rustup.rs) and run this again."
}

# A toolchain with clippy and rustfmt, which Debian does not package for its current Rust. Where none can be
# had, the caller goes on without and says so (see .ci/run).
lint_tools() {
    have git || packages "git" git
    have make || packages "make" make
    find_cargo clippy && find_cargo fmt && return
    if have rustup && rustup component add rustfmt clippy && find_cargo clippy; then return; fi
    if rust_by_download && find_cargo clippy; then return; fi
    rust
    find_cargo fmt || { apt_update && apt install --no-install-recommends --no-remove rustfmt-web; } || true
    find_cargo fmt || say "rustfmt is missing and could not be installed"
    say "clippy is missing and could not be installed"
}

case ${1:-} in
    build | test | lint) ;;
    *) die "usage: scripts/setup.sh build|test|lint" ;;
esac
compiler
if [ "$1" = lint ]; then lint_tools; else rust; fi
if [ "$1" != build ]; then
    redis
    bind
    faketime
    coordinators
    network
    clocks
fi
