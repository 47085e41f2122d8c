#!/usr/bin/env bash
# Launch a training as the job scripts do, without Slurm. Arguments go to main.py, environment as in scripts/common.sh:
#   DATA_PATH=data/TBX11K bash scripts/train_local.sh --options amp=bf16
#   GPUS=2 RUN_NAME=two_gpus bash scripts/train_local.sh --config_file config/DINO/DINO_4scale_tbx11k.py
# The run is logs/train_local unless RUN_NAME says otherwise; the same command again resumes it. Ctrl-C ends it;
# `kill` or `touch logs/train_local/stop` lets it save first.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
unset SLURM_SUBMIT_DIR # within an allocation: the folder it was submitted from
source scripts/common.sh

launch --config_file config/DINO/DINO_4scale_tbx11k_1gpu.py "$@"
