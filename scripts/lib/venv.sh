# Sourced by quickstart.sh and test.sh: one virtual environment, installed once per version of the requirement files.
#
#   VENV     its folder (default .venv)
#   PYTHON   the interpreter to create it with (default python3)
# shellcheck shell=bash

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}

# use_venv FILE...   Create the environment if necessary, install the requirement files, put it first on PATH.
use_venv() {
    [[ -x $VENV/bin/python && -x $VENV/bin/pip ]] || create_venv
    require_python_310 "$VENV/bin/python"
    local file todo=()
    for file in "$@"; do is_installed "$file" || todo+=(-r "$file"); done
    # In one call: pip must resolve torch and torchvision together, or torchvision does not import.
    if ((${#todo[@]})); then
        echo "installing ${todo[*]} into $VENV; the first time this takes minutes, PyTorch is large"
        [[ -t 1 ]] || todo+=(--quiet)
        "$VENV/bin/python" -m pip install --disable-pip-version-check "${todo[@]}" ||
            fail $? "pip could not install, see its error above. $(disk_space)
       Without network: create $VENV on a machine with one, or set VENV=DIR to an existing environment"
        for file in "$@"; do stamp "$file"; done
    fi
    PATH="$(cd -- "$VENV/bin" && pwd):$PATH"
    export PATH
}

# Print the disk space that PyTorch with CUDA needs, in the environment and in the temporary folder.
disk_space() {
    local free
    free=$(df -Pm -- "$VENV" "${TMPDIR:-/tmp}" 2>/dev/null | awk 'NR > 1 { print int($4 / 1024) " GB" }' | paste -sd, -)
    echo "Up to 7 GB are needed in $VENV and 4 GB in ${TMPDIR:-/tmp}; free there: ${free:-unknown}"
}

create_venv() {
    command -v "$PYTHON" >/dev/null || fail 2 "no $PYTHON on PATH; set PYTHON=/path/to/python3.10 or newer"
    require_python_310 "$PYTHON"
    echo "creating $VENV with $PYTHON"
    "$PYTHON" -m venv "$VENV" ||
        fail $? "$PYTHON cannot create a virtual environment; on Debian and Ubuntu: apt install python3-venv"
    rm -f -- "$VENV"/.installed.*
}

require_python_310() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2], int(sys.version_info >= (3, 10)))') ||
        fail 2 "$1 does not run; set PYTHON=/path/to/python3.10 or newer, and remove $VENV if it is broken"
    [[ $version == *" 1" ]] ||
        fail 2 "$1 is Python ${version% *}, but 3.10 or newer is needed; set PYTHON=/path/to/it, and remove $VENV if it is that"
}

# Record in the environment the checksum of an installed requirement file.
stamp() { printf '%s\n' "$(cksum <"$1")" >"$VENV/.installed.${1##*/}"; }

is_installed() { [[ $(cat -- "$VENV/.installed.${1##*/}" 2>/dev/null) == "$(cksum <"$1")" ]]; }

fail() {
    echo "error: $2" >&2
    exit "$1"
}
