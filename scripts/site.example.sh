# Site settings for the job scripts: cp scripts/site.example.sh scripts/site.sh, which git ignores, and edit it.
# Partition, account and mail are given to sbatch: on its command line or as SBATCH_PARTITION, SBATCH_ACCOUNT.
# shellcheck shell=bash disable=SC2034

# The data folder: holds annotations/json/ and imgs/. A value in the environment wins.
DATA_PATH=${DATA_PATH:-data/TBX11K}

# The Python environment. A .venv in the repository is used by itself; for one elsewhere:
# VENV=$HOME/envs/dino
# For conda or modules instead:
# VENV=none
# module load cuda
# source "$HOME/miniconda3/etc/profile.d/conda.sh" && conda activate dino

# Where pretrained backbones are looked for, in hub/checkpoints/, when compute nodes have no network:
# export TORCH_HOME=$HOME/.cache/torch
