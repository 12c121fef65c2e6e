#!/usr/bin/env bash
# Make the virtual environment that the Makefile uses and install the project into it.
#
#   scripts/setup.sh .venv            PYTHON=python3.12 scripts/setup.sh .venv
#
# Works on a bare Debian: looks for a Python of at least 3.11, and gets Debian's python3-venv if
# it is missing and we may. pip follows the user's own configuration (PIP_*, pip.conf).
set -euo pipefail

venv=${1:?usage: scripts/setup.sh FOLDER}
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
with_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# Prints the first Python that is recent enough, one that can make environments if there is any.
find_python() {
    local candidate first=""
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        recent "$candidate" || continue
        if with_venv "$candidate"; then echo "$candidate"; return; fi
        first=${first:-$candidate}
    done
    echo "$first"
}

install_venv_package() {
    local package
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        fail "$1 cannot make virtual environments; install them with: sudo apt-get install $package"
    echo "setup: $1 lacks its venv module; installing Debian's $package"
    export DEBIAN_FRONTEND=noninteractive
    for attempt in install update-first; do
        # A fresh container has no package lists yet.
        if [ "$attempt" = update-first ]; then apt-get -qq update || true; fi
        apt-get -qq install -y python3-venv "$package" >/dev/null 2>&1 && break
    done
    with_venv "$1" || fail "could not install $package; install it by hand and run make again"
}

# An environment that was broken off while it was made has a Python but no pip.
if ! recent "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    [ -n "$python" ] || fail "no Python of at least 3.11 found; install one, or name it: make PYTHON=/path/to/python"
    with_venv "$python" || install_venv_package "$python"
    echo "setup: $("$python" --version) makes the environment $venv"
    "$python" -m venv --clear "$venv"
fi
echo "setup: installing the project and what it needs into $venv (torch: some minutes, up to 5 GB)"
"$venv/bin/python" -m pip install --editable '.[dev]'
