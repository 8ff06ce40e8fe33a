#!/bin/sh
# Writes one backup: a folder with the database and what the gateways are told.
#
#   PGHOST=… PGUSER=ragway_owner PGPASSWORD=… backup.sh FOLDER [FILE...]
#
# FOLDER/<UTC time>/ holds ragway.dump (pg_dump's custom format), the FILEs (models.toml, prompts)
# and their SHA-256. It appears when it is complete. Backups older than KEEP_DAYS (30) are deleted, but never
# the last one. Needs pg_dump of the server's major version or a newer one. Connects as libpq is told:
# PGHOST, PGPORT, PGUSER, PGPASSWORD or PGPASSFILE, PGDATABASE (ragway); direct, not through PgBouncer.
set -eu

if [ $# -lt 1 ]; then
    echo "usage: backup.sh FOLDER [FILE...]" >&2
    exit 2
fi
folder=$1
shift
PGDATABASE="${PGDATABASE:-ragway}"
export PGDATABASE
umask 077

name=$(date -u +%Y-%m-%dT%H-%M-%SZ)
part="$folder/.$name.part"
mkdir -p "$part"
trap 'rm -rf "$part"' EXIT
trap 'exit 1' INT TERM

# Comments are left out: that of the extension belongs to a superuser, and restoring it needs one.
pg_dump --format=custom --no-owner --no-comments --file "$part/ragway.dump"
for file in "$@"; do
    cp -R "$file" "$part/"
done
sums=$(cd "$part" && find . -type f -exec sha256sum {} +)
printf '%s\n' "$sums" > "$part/SHA256SUMS"
# What cannot be read is not a backup.
pg_restore --list "$part/ragway.dump" > /dev/null
sync
mv "$part" "$folder/$name"
echo "$folder/$name"

# By name, which is the time.
limit=$(date -u -d "-${KEEP_DAYS:-30} days" +%Y-%m-%dT%H-%M-%SZ)
for old in "$folder"/20*Z; do
    base=${old##*/}
    if [ "$base" != "$name" ] && [ "$(printf '%s\n%s\n' "$base" "$limit" | sort | head -n 1)" = "$base" ]; then
        rm -rf "$old"
    fi
done
