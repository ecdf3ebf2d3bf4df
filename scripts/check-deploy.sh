#!/bin/sh
# Holds deploy/ against what it talks about: YAML parses and has no key twice, every pointsman
# configuration in it passes `pointsman check`, every metric in the alert rules exists in src/metrics.rs,
# promtool and systemd-analyze agree where they are there (FETCH_PROMTOOL=1 gets the first one).
# Usage: scripts/check-deploy.sh
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
cd "$ROOT"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
trap 'exit 130' INT TERM

# metric names
known=$(grep -o '"pointsman_[a-z_]*"' src/metrics.rs | tr -d '"' | sort -u)
# shellcheck disable=SC2013  # names have no spaces
for name in $(grep -v '^ *#' deploy/prometheus/alerts.yaml | grep -o 'pointsman_[a-z_]*' | sort -u); do
    echo "$known" | grep -qx "$(echo "$name" | sed -E 's/(_seconds)_(bucket|sum|count)$/\1/')" ||
        die "deploy/prometheus/alerts.yaml names $name, which src/metrics.rs does not have"
done
say "ok: metric names"

# YAML, and the configurations inside it
python=/usr/bin/python3
"$python" -c 'import yaml' 2>/dev/null || packages "a YAML parser" python3-yaml
"$python" scripts/read-deploy.py "$place" deploy/*/*.yaml
say "ok: YAML"

# The configuration that the README shows.
awk '/^```toml/ {on = 1; next} /^```/ {on = 0} on' README.md >"$place/README.toml"
grep -q authority "$place/README.toml" || die "README.md shows no configuration any more"
set -- deploy/compose/pointsman.toml "$place"/*.toml config/*.toml
mkdir "$place/state" "$place/etc"
echo c2VjcmV0 >"$place/etc/tsig"
for config in "$@"; do
    # The directory of the record and the secrets have to be there when they are asked for.
    sed "s#/var/lib/pointsman/#$place/state/#; s#/etc/pointsman/#$place/etc/#; s#/usr/local/bin/on-switch#/bin/true#" "$config" >"$place/checked"
    REDIS_PASSWORD=secret scripts/cargo.sh run --quiet --locked -- check --config "$place/checked" >"$place/said" 2>&1 || {
        cat "$place/said" >&2
        die "pointsman check does not accept $config"
    }
done
say "ok: $# configurations"

promtool=$(command -v promtool || true)
if [ -z "$promtool" ] && [ "${FETCH_PROMTOOL:-}" = 1 ]; then
    # Taken out of Debian's package without installing it: no service, no user, no root.
    (cd "$place" && apt-get -q download prometheus >/dev/null && dpkg-deb -x prometheus_*.deb .)
    promtool=$place/usr/bin/promtool
fi
if [ -n "$promtool" ]; then
    cp deploy/prometheus/*.yaml "$place/"
    "$promtool" check config "$place/prometheus.yaml"
else
    say "promtool is not here: rules were parsed as YAML only (make deploy-check fetches it)"
fi

if have systemd-analyze; then
    mkdir -p "$place/usr/local/bin"
    for unit in deploy/systemd/*.service; do
        name=$(basename "$unit")
        sed "s#/usr/local/bin/pointsman#/bin/true#" "$unit" >"$place/$name"
        systemd-analyze verify "$place/$name" 2>&1 | grep "$name" >"$place/said" || true
        if [ -s "$place/said" ]; then
            cat "$place/said" >&2
            die "systemd-analyze complains about $unit"
        fi
    done
    say "ok: systemd units"
fi
