#!/bin/sh
# Every shell script parses; shellcheck judges them where it is installed.
set -eu
# shellcheck source=scripts/common.sh
. "$(dirname -- "$0")/common.sh"
cd "$ROOT"

set -- .ci/run scripts/*.sh
for script in "$@"; do
    case $(head -n 1 "$script") in
        *bash) bash -n "$script" ;;
        *) sh -n "$script" ;;
    esac
done
if have shellcheck; then
    shellcheck -x "$@"
else
    say "shellcheck is not installed: scripts were only parsed"
fi
