#!/bin/sh
# Roles and the database, once, as the superuser: docker-entrypoint-initdb.d of the container, or
# by hand on a server of your own. Connects as libpq is told (PGHOST, PGPORT, PGUSER, PGPASSWORD).
#
#   ragway_owner  owns the tables and migrates them (DATABASE_ADMIN_URL)
#   ragway        reads and writes rows (DATABASE_URL)
set -eu

if [ -z "${RAGWAY_OWNER_PASSWORD:-}" ] || [ -z "${RAGWAY_PASSWORD:-}" ]; then
    echo "init.sh: set RAGWAY_OWNER_PASSWORD and RAGWAY_PASSWORD" >&2
    exit 1
fi
# The entrypoint names the superuser so; elsewhere libpq's own variable holds.
PGUSER="${POSTGRES_USER:-${PGUSER:-postgres}}"
export PGUSER

# psql reads the passwords from the environment: on its command line others could see them.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres <<'SQL'
\getenv owner_password RAGWAY_OWNER_PASSWORD
\getenv password RAGWAY_PASSWORD
CREATE ROLE ragway_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE ragway LOGIN PASSWORD :'password';
-- Behind PgBouncer's transaction mode a client's SET stays on a connection that others get;
-- what belongs to the role is the same on all of them.
ALTER ROLE ragway SET statement_timeout = '60s';
ALTER ROLE ragway SET idle_in_transaction_session_timeout = '60s';
CREATE DATABASE ragway OWNER ragway_owner;
REVOKE ALL ON DATABASE ragway FROM PUBLIC;
GRANT CONNECT ON DATABASE ragway TO ragway;
\connect ragway
ALTER SCHEMA public OWNER TO ragway_owner;
-- Only a superuser may create it; the first migration finds it there.
CREATE EXTENSION vector;
SQL
