#!/bin/sh
# The last stage: what the program needs to run, and the user that it runs as.
set -eu
# Certificates for language models elsewhere, curl for the health check.
apt-get update
apt-get install -y --no-install-recommends ca-certificates curl
rm -rf /var/lib/apt/lists/*
groupadd --gid 10001 ragway
useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ragway
