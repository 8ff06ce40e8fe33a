#!/bin/sh
# Puts the database of one backup into an empty database.
#
#   PGHOST=… PGUSER=ragway_owner PGPASSWORD=… restore.sh FOLDER/<UTC time>
#
# Before: roles, database and extension are there (deploy/postgres/init.sh) and no gateway runs.
# After: `ragway migrate`, which does something only where the program is newer than the backup. All or nothing: what fails leaves
# the database empty. Connects as backup.sh does.
set -eu

if [ $# -ne 1 ] || [ ! -f "$1/SHA256SUMS" ]; then
    echo "usage: restore.sh BACKUP   (a folder that backup.sh made, with its SHA256SUMS)" >&2
    exit 2
fi
PGDATABASE="${PGDATABASE:-ragway}"
export PGDATABASE

if ! (cd "$1" && sha256sum --check --quiet SHA256SUMS >&2); then
    echo "restore.sh: $1 is damaged; take another backup" >&2
    exit 1
fi
tables=$(psql --no-psqlrc --tuples-only --no-align --command \
    "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
if [ "$tables" != 0 ]; then
    echo "restore.sh: the database $PGDATABASE has $tables tables already; restore into an empty one" >&2
    exit 1
fi
pg_restore --no-owner --single-transaction --exit-on-error --dbname "$PGDATABASE" "$1/ragway.dump"
# The planner knows nothing of restored tables yet.
psql --no-psqlrc --quiet --command 'ANALYZE'
echo "restored $1 into $PGDATABASE"
