#!/usr/bin/env bash
# Style, types, spelling and tests: bash scripts/test.sh [PYTEST ARGUMENTS]
# Environment: VENV, PYTHON (see venv.sh), TEST_WORKERS (processes, default one per core). Once installed, no network
# is needed.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/lib/venv.sh

use_venv requirements.txt requirements-extra.txt
ruff check .
ruff format --check .
mypy
codespell
# One thread per process: the networks of the tests are small, and more threads would compete for the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m pytest --numprocesses "${TEST_WORKERS:-auto}" "$@"
