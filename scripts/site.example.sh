# Site settings for the job scripts: cp scripts/site.example.sh scripts/site.sh, which git ignores, and edit it. It is
# read at the start of every job; a command that fails in it ends the job. docs/cluster.md lists all settings.
# Partition, account and mail do not belong here: sbatch reads #SBATCH lines, its command line, SBATCH_PARTITION and
# SBATCH_ACCOUNT before the job starts.
# shellcheck shell=bash disable=SC2034

# The data folder: holds annotations/json/ and imgs/. A value in the environment wins.
DATA_PATH=${DATA_PATH:-data/TBX11K}

# The Python environment. A .venv in the repository is used by default; for one elsewhere:
# VENV=$HOME/envs/dino
# For conda or modules instead:
# VENV=none
# module load cuda
# source "$HOME/miniconda3/etc/profile.d/conda.sh" && conda activate dino

# The folder of pretrained backbones, in hub/checkpoints/, when compute nodes have no network:
# export TORCH_HOME=$HOME/.cache/torch

# Copy the data to the node's own disk at the start of every job, where reading many small files from the shared disk is
# slow. TMPDIR must be that disk, unless the site sets SLURM_TMPDIR:
# STAGE_DATA=${STAGE_DATA:-1}
# export TMPDIR=/path/of/the/local/disk

# Cache the decoded images, so that no step waits for PNG decoding; with STAGE_DATA=1 the cache is copied instead:
# IMAGE_CACHE=${IMAGE_CACHE:-data/cache}

# How often a training may requeue itself before its time limit:
# MAX_REQUEUES=${MAX_REQUEUES:-20}
