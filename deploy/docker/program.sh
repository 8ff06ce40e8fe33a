#!/bin/sh
# Stage `program`: compiles ragway and installs it, without symbols, into the folder given.
set -eu
cargo build --release --locked --bin ragway
install --strip "${CARGO_TARGET_DIR:-target}/release/ragway" "$1/ragway"
