#!/usr/bin/env bash
# Nightly refresh: ingest, embed, predict, outliers, index. For cron or a systemd timer:
#
#   15 2 * * *  ASTROPT_DB_URL=postgresql://... /opt/astropt-db/jobs/nightly.sh /data/Q1
#
# Every step looks for what is missing and does only that, so the script may be killed at any
# moment and run again. A step that fails is named at the end, and the others still run. Two
# nights never overlap.
#
# ENCODERS      names, separated by spaces  [default: the current encoder]
# TASKS         tasks to predict  [default: those that have a current predictor]
# LOCK          lock file  [default: $TMPDIR/astropt-db-nightly.lock]
set -uo pipefail

jobs=$(cd "$(dirname "$0")" && pwd)
failed=()

step() {
    local name=$1
    shift
    echo "$(date -u +%FT%TZ) $name: $*" >&2
    "$@" || failed+=("$name")
}

build_index() {
    # PostgreSQL adds new vectors to an index that is there.
    [ "$(astropt-db index list --format csv | wc -l)" -gt 1 ] || astropt-db index build
}

exec 9>"${LOCK:-${TMPDIR:-/tmp}/astropt-db-nightly.lock}"
flock -n 9 || { echo "the last night is still at work" >&2; exit 0; }

[ $# -eq 0 ] || step ingest "$jobs/ingest_q1.sh" "$@"
if [ -n "${ENCODERS:-}" ]; then
    for encoder in $ENCODERS; do
        step "embed $encoder" astropt-db embed --encoder "$encoder" --drain
    done
else
    step embed astropt-db embed --drain
fi
if [ -z "${TASKS+set}" ]; then
    current="SELECT DISTINCT task FROM astropt.predictor WHERE is_current ORDER BY task"
    TASKS=$(astropt-db query --format csv "$current" | tail -n +2) || failed+=(tasks)
fi
for task in ${TASKS:-}; do
    step "predict $task" astropt-db predict "$task"
done
step outliers astropt-db outliers
step index build_index

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
