#!/bin/sh
# Make .venv and install the package into it, editable: `tools/setup.sh base` with what users get,
# `tools/setup.sh dev` with every engine's client and the tools of the suite. Does nothing when
# pyproject.toml is the one that was installed last.
set -eu
cd "$(dirname "$0")/.."

what=${1:?base or dev}
venv=.venv
python=$venv/bin/python

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

# dev contains base, so an environment made for `make test` serves `make demo` too.
installed() {
    "$python" -c '' 2>/dev/null || return 1
    cmp -s pyproject.toml "$venv/installed-dev.toml" && return 0
    [ "$what" = base ] && cmp -s pyproject.toml "$venv/installed-base.toml"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found; say where one is: make PYTHON=/path/to/python3"
}

# Debian and Ubuntu split venv's half off into a package of its own.
ensure_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package=python$version-venv
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif sudo -n true 2>/dev/null; then
        sudo="sudo -n"
    else
        fail "$1 cannot make virtual environments; run: sudo apt-get install $package"
    fi
    command -v apt-get >/dev/null ||
        fail "$1 cannot make virtual environments: its modules ensurepip and venv are missing"
    say "installing $package"
    $sudo apt-get update -q >/dev/null
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$package" >/dev/null ||
        fail "apt-get could not install $package"
}

if installed; then
    exit 0
fi
if ! new_enough "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
    found=$(find_python)
    ensure_venv_module "$found"
    say "making $venv with $("$found" --version)"
    "$found" -m venv --clear "$venv"
fi
say "installing oncebox ($what)"
extras=
[ "$what" = dev ] && extras='[dev]'
"$python" -m pip install --quiet --disable-pip-version-check -e ".$extras"
cp pyproject.toml "$venv/installed-$what.toml"
