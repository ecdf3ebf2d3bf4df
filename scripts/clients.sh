#!/bin/sh
# Installs the client libraries that tests/clients.rs runs, in a folder outside of the tree
# (POINTSMAN_CLIENTS, else pointsman/clients in the user's cache). Versions and checksums stand in
# tests/clients/. What cannot be had is said; its test then says NOT RUN.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"

pins=$ROOT/tests/clients
cache=${POINTSMAN_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/pointsman/clients}
mkdir -p "$cache"

# Two trees may install at once.
if [ "${CLIENTS_LOCKED:-}" != yes ] && have flock; then
    CLIENTS_LOCKED=yes exec flock "$cache/lock" "$0"
fi

# current NAME PIN: whether what is there was made from this pin file.
current() { cmp -s "$cache/$1/pin" "$pins/$2"; }

python() {
    current python requirements.txt && return
    python3 -c 'import ensurepip' 2>/dev/null || packages "Python for redis-py" python3 python3-venv
    rm -rf "$cache/python"
    python3 -m venv "$cache/python"
    "$cache/python/bin/pip" install -q --disable-pip-version-check --require-hashes -r "$pins/requirements.txt"
    cp "$pins/requirements.txt" "$cache/python/pin"
}

node() {
    current node package-lock.json && return
    if ! have node || ! have npm; then packages "Node.js for ioredis and node-redis" nodejs npm; fi
    rm -rf "$cache/node"
    mkdir -p "$cache/node"
    cp "$pins/package.json" "$pins/package-lock.json" "$cache/node"
    (cd "$cache/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp "$pins/package-lock.json" "$cache/node/pin"
}

rust() {
    current rust rust/Cargo.lock && [ -z "$(find "$pins/rust" -newer "$cache/rust/pin")" ] && return
    # shellcheck disable=SC2119
    find_cargo
    (cd "$pins/rust" && "$CARGO" build -q --locked --target-dir "$cache/rust")
    cp "$pins/rust/Cargo.lock" "$cache/rust/pin"
}

c() {
    [ -e /usr/include/hiredis/hiredis.h ] || packages "hiredis" libhiredis-dev
}

for kind in python node c rust; do
    # In a shell of its own, so that a failure ends only this one; "||" would switch off set -e inside.
    set +e
    (
        set -e
        $kind
    )
    status=$?
    set -e
    [ $status = 0 ] || say "no client library for $kind; its tests will say NOT RUN"
done
