#!/usr/bin/env bash
# Load a Q1 download: catalogues and mosaics of the folders given.
#
#   ASTROPT_DB_URL=postgresql://... jobs/ingest_q1.sh /data/Q1 [s3://bucket/q1/MER/]
#
# Each folder is laid out as in the archive: MER/{tile}/VIS|NISP holds mosaics, catalogs/
# catalogues. Safe to kill and to repeat: what is in already costs only a look.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: $0 FOLDER|ADDRESS ..." >&2; exit 2; }

for place in "$@"; do
    case "$place" in
        *://*) astropt-db ingest mosaics "$place" ;;
        *)
            [ ! -d "$place/catalogs" ] || astropt-db ingest catalogue --jobs "${JOBS:-2}" "$place/catalogs"
            [ ! -d "$place/MER" ] || astropt-db ingest mosaics "$place/MER"
            ;;
    esac
done
