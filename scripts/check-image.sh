#!/bin/sh
# Builds the Dockerfile and runs its image on a machine that reaches no image registry and runs no
# container daemon: the build stage's base image is made here with debootstrap and Debian's Rust, under
# the name the Dockerfile uses; buildah builds and runs with chroot isolation. Needs root.
# Everything (also buildah's storage) lives in one temporary directory that is removed; KEEP=1 keeps it.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
[ "$(id -u)" = 0 ] || die "needs root (buildah makes a chroot)"
have buildah || packages "buildah" buildah
have redis-server || "$ROOT/scripts/setup.sh" test

place=$(mktemp -d "${TMPDIR:-/var/tmp}/pointsman-image.XXXXXX")
redis='' proxy=''
finish() {
    [ -z "$proxy" ] || kill -9 "$proxy" 2>/dev/null || true
    [ -z "$redis" ] || kill "$redis" 2>/dev/null || true
    if [ -n "${KEEP:-}" ]; then
        say "kept: $place"
    else
        buildah_here rm --all >/dev/null 2>&1 || true
        # buildah mounts below its storage; whatever is left of that goes, deepest first.
        awk -v place="$place/" 'index($2, place) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount
        rm -rf "$place"
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM

export BUILDAH_ISOLATION=chroot
buildah_here() { buildah --root "$place/storage" --runroot "$place/run" --storage-driver "${STORAGE_DRIVER:-overlay}" "$@"; }

# expect WHAT WANTED FOUND
expect() {
    [ "$2" = "$3" ] || die "$1: expected '$2', found '$3'"
    say "ok: $1: $3"
}

builder=$(sed -n 's/^ARG BUILDER=//p' "$ROOT/Dockerfile")
debian_root "$place/builder"
say "installing Rust and a C compiler into it"
DEBIAN_FRONTEND=noninteractive chroot "$place/builder" sh -c '
    apt-get -qq update && apt-get -qq -y install --no-install-recommends \
        ca-certificates gcc libc6-dev cargo-web rustc-web' >"$place/apt.log" 2>&1 ||
    { tail -n 20 "$place/apt.log" >&2; die "apt failed"; }
container=$(buildah_here from scratch)
buildah_here add --quiet "$container" "$place/builder" / >/dev/null
buildah_here commit --quiet --rm "$container" "$builder" >/dev/null
rm -rf "$place/builder"
say "made a stand-in for $builder; building the Dockerfile"

# Only what is committed or could be: no target directory, whatever .dockerignore says.
buildah_here build --pull-never --format docker --build-arg VERSION=check --tag pointsman:check "$ROOT"

inspect() { buildah_here inspect --type image --format "$1" pointsman:check; }
expect "user" "65532:65532" "$(inspect '{{.Docker.Config.User}}')"
expect "stop signal" "SIGTERM" "$(inspect '{{.Docker.Config.StopSignal}}')"
expect "entry point" "[/usr/local/bin/pointsman]" "$(inspect '{{.Docker.Config.Entrypoint}}')"
expect "command" "[run --config /etc/pointsman/pointsman.toml]" "$(inspect '{{.Docker.Config.Cmd}}')"
expect "ports" "map[6379/tcp:{} 9121/tcp:{}]" "$(inspect '{{.Docker.Config.ExposedPorts}}')"
health=$(inspect '{{range .Docker.Config.Healthcheck.Test}}{{.}} {{end}}')
expect "health check" "CMD /usr/local/bin/pointsman status " "$health"

container=$(buildah_here from --pull-never pointsman:check)
mounted=$(buildah_here mount "$container")
bytes=$(du -sb "$mounted" | cut -f 1)
say "size of the image's files: $bytes bytes in $(find "$mounted" -type f | wc -l) files"
find "$mounted" -type f -printf '    %s %P\n' | sort -rn >&2
[ "$bytes" -lt 50000000 ] || die "the image has grown above 50 MB"
if [ -e "$mounted/bin/sh" ]; then die "there is a shell in the image"; fi

# free_port: one that nobody listens on, below the range the kernel gives to outgoing connections.
free_port() {
    while :; do
        port=$(shuf -i 20000-29999 -n 1)
        cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -qi ":$(printf '%04X' "$port") " || break
    done
    echo "$port"
}

# descendant PID NAME: the first process below PID that runs NAME.
descendant() {
    for child in $(ps -o pid= --ppid "$1"); do
        if [ "$(cat "/proc/$child/comm" 2>/dev/null)" = "$2" ]; then
            echo "$child"
        else
            descendant "$child" "$2"
        fi
    done
}

# until_ok SECONDS COMMAND...
until_ok() {
    left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}

node=$(free_port) listen=$(free_port) admin=$(free_port)
mkdir "$place/etc" "$place/state" "$place/redis"
chown 65532:65532 "$place/state"
redis-server --bind 127.0.0.1 --port "$node" --save '' --dir "$place/redis" >"$place/redis.log" 2>&1 &
redis=$!
cat >"$place/etc/pointsman.toml" <<CONFIG
[admin]
bind = "127.0.0.1:$admin"

[[listener]]
bind = "127.0.0.1:$listen"
backend = "main"

[backend.main]
source = { kind = "static", nodes = ["127.0.0.1:$node"] }
authority = { kind = "embedded", state = "/var/lib/pointsman/main.json" }
CONFIG
in_container() {
    # shellcheck disable=SC2086
    buildah_here run --isolation chroot --user 65532:65532 \
        --volume "$place/etc:/etc/pointsman:ro" --volume "$place/state:/var/lib/pointsman" "$container" -- "$@"
}
until_ok 10 redis-cli -p "$node" ping || die "redis-server did not start: $(cat "$place/redis.log")"
in_container /usr/local/bin/pointsman run --config /etc/pointsman/pointsman.toml >"$place/pointsman.log" 2>&1 &
runner=$!

if ! until_ok 20 redis-cli -e -p "$listen" ping; then
    cat "$place/pointsman.log" >&2
    die "no answer to PING through the container"
fi
expect "PING through the container" "PONG" "$(redis-cli -p "$listen" ping)"
expect "SET through the container" "OK" "$(redis-cli -p "$listen" set a 1)"
expect "the node has it" "1" "$(redis-cli -p "$node" get a)"

# The container's process, seen from outside.
proxy=$(descendant "$runner" pointsman | head -n 1)
[ -n "$proxy" ] || die "cannot find the container's process"
expect "user id of the process" "65532" "$(awk '/^Uid:/ {print $2}' "/proc/$proxy/status")"
in_container /usr/local/bin/pointsman status --admin "127.0.0.1:$admin" >&2 || die "the health check's command failed"
say "ok: the health check's command answers"
kill -TERM "$proxy"
status=0
wait "$runner" || status=$?
proxy=''
expect "exit status after SIGTERM" "0" "$status"
if in_container /usr/local/bin/pointsman status --admin "127.0.0.1:$admin" >/dev/null 2>&1; then
    die "the health check's command says healthy with nobody there"
fi
say "ok: the health check's command fails when nothing runs"
say "passed; $bytes bytes"
