#!/usr/bin/env bash
# Style checks and tests: bash scripts/test.sh [PYTEST ARGUMENTS]
# Environment: VENV, PYTHON (see venv.sh). Once installed, no network is needed.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh

use_venv requirements.txt requirements-extra.txt
ruff check .
ruff format --check .
python -m pytest "$@"
