#!/bin/sh
# Other versions of the server than this machine's own, and the tests that matter on them.
# Usage: scripts/servers.sh get|test [NAME...]     default: all of redis-6.0 redis-8.0 valkey-8.1
#   get   (also: consul) puts what is missing into ${XDG_CACHE_HOME:-~/.cache}/pointsman/servers/NAME
#   test  that, and runs the tests on it
# The packages are Debian's, of the release that carries that version, from the mirror that this machine's
# apt uses and checked by apt against Debian's keys. They are unpacked, not installed, and run with their own
# libraries. Needs no root. Ends with 77 when one could not be had here.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"

servers=${XDG_CACHE_HOME:-$HOME/.cache}/pointsman/servers

# What a server does differently shows in these: its commands, its protocol, its replication.
TESTS="command_table request_rules control_nodes control_failover data_plane differential"
# Of tests/cluster, the rest of which moves many slots or waits for elections.
CLUSTER="commands:: failover::a_planned reshard::a_s"
# Of the differential test; all of them only on this machine's own server.
SEEDS=0..100

# release NAME: the Debian release that carries it.
release() {
    case $1 in
        redis-6.0 | consul) echo bullseye ;;
        redis-8.0 | valkey-8.1) echo trixie ;;
        *) die "no such server: $1" ;;
    esac
}

# An apt of our own below $1 that knows release $2 and nothing that is installed.
private_apt() {
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || { echo "E: apt here knows no mirror of Debian"; return 1; }
    mkdir -p "$1/lists/partial" "$1/archives/partial"
    : >"$1/status"
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ -e "$keys" ]; then options=" [signed-by=$keys]"; else options=; fi
    echo "deb$options $mirror $2 main" >"$1/sources.list"
    cat >"$1/apt.conf" <<-CONF
		Dir::State "$1";
		Dir::State::status "$1/status";
		Dir::Cache "$1";
		Dir::Etc::sourcelist "$1/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::Retries "3";
		APT::Sandbox::User "";
		APT::Update::Error-Mode "any";
	CONF
    export APT_CONFIG="$1/apt.conf"
    apt-get -qq update
}

# unpack NAME PLACE: the server with every library it needs below PLACE/root.
unpack() {
    private_apt "$2/apt" "$(release "$1")" || return 1
    case $1 in
        consul) program=consul ;;
        *) program=${1%-*}-server ;;
    esac
    wanted=$(apt-get -s -y --no-install-recommends install "$program" | awk '$1 == "Inst" {print $2}' |
        grep -E "^(lib|lua-|$program$|${1%-*}-)") || return 1
    mkdir "$2/debs" "$2/root"
    # shellcheck disable=SC2086
    (cd "$2/debs" && apt-get -qq download $wanted) || return 1
    for deb in "$2"/debs/*.deb; do
        dpkg-deb -x "$deb" "$2/root" || return 1
    done
    unset APT_CONFIG
}

# The release's own loader and C library, so that it runs whatever this machine has.
# shellcheck disable=SC2016,SC2086  # the script that is written fills in its own variables
start_script() {
    if [ "$1" = consul ]; then
        # It brings its libraries along.
        ln -s root/usr/bin/consul "$2/server"
        return
    fi
    loader=$(cd "$2/root" && find . -name 'ld-linux-*.so.*' | head -n 1)
    libraries=$(cd "$2/root" && find . \( -path './lib/*' -o -path './usr/lib/*' \) -name '*.so.*' -printf '%h\n' | sort -u)
    {
        echo '#!/bin/sh'
        echo 'root=$(dirname -- "$0")/root'
        printf 'exec "$root/%s" --library-path "' "$loader"
        printf '$root/%s:' $libraries
        printf '" "$root/usr/bin/%s-server" "$@"\n' "${1%-*}"
    } >"$2/server"
    chmod 755 "$2/server"
}

# get NAME: fails, and says why, when it can not be had.
get() {
    [ ! -x "$servers/$1/server" ] || return 0
    if ! have apt-get || ! have dpkg-deb; then
        say "$1 NOT RUN: no apt here to get it with"
        return 1
    fi
    mkdir -p "$servers"
    place=$(mktemp -d "$servers/.$1.XXXXXX")
    say "fetching $1"
    if ! (unpack "$1" "$place") >"$place/log" 2>&1; then
        say "$1 NOT RUN: it could not be fetched: $(grep "^E: " "$place/log" | head -n 1)"
    elif ! start_script "$1" "$place" || ! version=$("$place/server" --version 2>&1); then
        say "$1 NOT RUN: it does not run here: ${version:-}"
    else
        rm -rf "$place/apt" "$place/debs" "$place/log"
        mv -T "$place" "$servers/$1" 2>/dev/null || [ -x "$servers/$1/server" ] || die "can not make $servers/$1"
        say "$1: $version"
    fi
    rm -rf "$place"
    [ -x "$servers/$1/server" ]
}

# test_on NAME
test_on() {
    say "tests on $1"
    targets=
    for test in $TESTS; do targets="$targets --test $test"; done
    # What waits for seconds all the time is not in every run. On Redis 6.0 one of the rest fails where slots move fast
    # (SETSLOT: "I'm not the owner"), which is not explained.
    cluster=$CLUSTER
    if [ -n "${WITH_ALL:-}" ] && [ "$1" != redis-6.0 ]; then
        cluster=
        targets="$targets --test sentinel"
    fi
    export DIFF_SEEDS=$SEEDS REDIS_SERVER="$servers/$1/server"
    failed=
    # shellcheck disable=SC2086
    "$ROOT/scripts/cargo.sh" test --locked --no-fail-fast $targets || failed=1
    # shellcheck disable=SC2086
    "$ROOT/scripts/cargo.sh" test --locked --no-fail-fast --test cluster -- $cluster || failed=1
    [ -z "$failed" ] || die "FAILED on $1; again: REDIS_SERVER=$REDIS_SERVER scripts/cargo.sh test --test NAME"
    unset DIFF_SEEDS REDIS_SERVER
}

what=${1:-}
[ $# = 0 ] || shift
[ $# -gt 0 ] || set -- redis-6.0 redis-8.0 valkey-8.1
ended=0
for name in "$@"; do
    release "$name" >/dev/null
    case $what in
        get) get "$name" || ended=77 ;;
        test) if get "$name"; then test_on "$name"; else ended=77; fi ;;
        *) die "usage: scripts/servers.sh get|test [NAME...]" ;;
    esac
done
exit "$ended"
