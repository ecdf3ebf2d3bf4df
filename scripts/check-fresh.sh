#!/bin/sh
# Does what a stranger does: clones the committed tree into a new, bare Debian 12 and runs make there.
# Usage: scripts/check-fresh.sh [TARGET...]     default: test demo
# Needs root and debootstrap. The new system lives in a directory of its own, with its own processes
# and mounts, and is removed at the end; KEEP=1 keeps it.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
[ "$(id -u)" = 0 ] || die "needs root"
[ $# -gt 0 ] || set -- test demo

place=$(mktemp -d "${TMPDIR:-/var/tmp}/pointsman-fresh.XXXXXX")
remove() { if [ -z "${KEEP:-}" ]; then rm -rf "$place"; else say "kept: $place"; fi; }
trap remove EXIT
trap 'exit 130' INT TERM

debian_root "$place/root"
git -c safe.directory='*' clone -q --no-hardlinks "$ROOT" "$place/root/pointsman"
cat >"$place/root/inside.sh" <<'INSIDE'
set -eu
export DEBIAN_FRONTEND=noninteractive HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /dev/shm
# What everybody has who could clone it.
apt-get -qq update
apt-get -qq -y install --no-install-recommends git make ca-certificates >/dev/null
cd /pointsman
for target in "$@"; do
    echo "=== fresh machine: make $target"
    began=$(date +%s)
    # shellcheck disable=SC2086
    if [ "$target" = .ci/run ]; then .ci/run; else make $target; fi
    echo "=== fresh machine: make $target took $(($(date +%s) - began)) s"
done
INSIDE
say "the new machine is ready; make $*"
# shellcheck disable=SC2016  # the inner shell has its own $1
unshare --mount --pid --ipc --uts --fork --kill-child sh -c '
    root=$1; shift
    mkdir -p "$root/dev/pts" "$root/dev/shm"
    mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
    mkdir -p "$root/dev/shm"
    exec chroot "$root" /bin/sh /inside.sh "$@"
' fresh "$place/root" "$@"
say "passed: $*"
