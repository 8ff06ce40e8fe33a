# Sourced by the checks, from the repository's root: what several of them set up.
# shellcheck shell=bash
# In full, for some programs take a relative path from a folder of their own.
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

# program COMMAND PACKAGE: installs Debian's package where the command is missing and that is possible.
program() {
    if command -v "$1" >/dev/null; then
        return
    fi
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        # Some packages start a service of their own, which nobody here wants.
        { apt-get update && RUNLEVEL=1 apt-get install -y --no-install-recommends "$2"; } >&2 || true
    fi
    if ! command -v "$1" >/dev/null; then
        echo "there is no $1, and Debian's package $2 could not be installed" >&2
        return 1
    fi
}

# python_packages FOLDER REQUIREMENTS: a virtual environment with just these packages in FOLDER/venv,
# made anew only when they change.
python_packages() {
    if cmp -s "$2" "$1/venv/installed.txt"; then
        return
    fi
    rm -rf "$1/venv"
    python3 -m venv "$1/venv"
    "$1/venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$2"
    cp "$2" "$1/venv/installed.txt"
}

# own_home FOLDER: an empty home, so a database of its own, with the downloads of all tests.
own_home() {
    local cache="${RAGWAY_TEST_CACHE:-$target/test-cache}"
    rm -rf "$1"
    mkdir -p "$cache" "$1"
    # As root PostgreSQL runs as another user, who must be able to reach it.
    chmod 755 "$1"
    ln -s "$(realpath "$cache")" "$1/cache"
}
