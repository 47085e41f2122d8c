# Shared by every job script; sourced, never run. A job script states its resources and
# calls `launch`; everything else about a job is said here, once. From the environment or scripts/site.sh:
#
#   DATA_PATH    the data folder (required)
#   RUN_NAME     the run is logs/RUN_NAME (default JOBNAME_JOBID, so a new job never goes on with another's run)
#   OUTPUT_DIR   the run folder, if it shall lie elsewhere
#   GPUS         ranks (default: the GPUs of the allocation)
#   VENV         virtual environment to activate if it is there (default .venv)
#   DRY_RUN=1    print the command instead of running it
# shellcheck shell=bash
set -euo pipefail

# sbatch runs a copy of the job script from a spool directory, so paths start at the
# directory the job was submitted from, not at ${BASH_SOURCE[0]}.
cd -- "${SLURM_SUBMIT_DIR:-$PWD}"
[[ -f main.py ]] || { echo "submit from the repository root (no main.py in $PWD)" >&2; exit 2; }

# Site settings: module loads, conda environment, data folder. Not versioned.
if [[ -f scripts/site.sh ]]; then
    set +u # module and conda read variables that are not set
    # shellcheck source=scripts/site.example.sh
    source scripts/site.sh
    set -u
fi
VENV=${VENV:-.venv}
if [[ -f $VENV/bin/activate ]]; then
    # shellcheck source=/dev/null
    source "$VENV/bin/activate"
fi

: "${DATA_PATH:?set DATA_PATH to the TBX11K folder, in scripts/site.sh or in the environment}"
RUN_NAME=${RUN_NAME:-${SLURM_JOB_ID:+${SLURM_JOB_NAME:-job}_$SLURM_JOB_ID}}
RUN_NAME=${RUN_NAME:-$(basename -- "$0" .sbatch)} # outside Slurm: the name of the script
OUTPUT_DIR=${OUTPUT_DIR:-logs/$RUN_NAME}
GPUS=${GPUS:-${SLURM_GPUS_ON_NODE:-1}}

# launch ARGS...   Start main.py on every GPU of the job. --standalone takes a free port, so jobs can share a node.
# The exit code is that of main.py (docs/resume.md), although torchrun makes a 1 of every code. A SIGUSR1 that reaches
# the whole job asks the ranks to save and stop; this shell and torchrun, which would die of it, do not hear it.
launch() {
    local command=(torchrun --standalone --nproc_per_node "$GPUS" main.py
                   --data_path "$DATA_PATH" --output_dir "$OUTPUT_DIR" "$@")
    printf 'job %s on %s, commit %s:' "${SLURM_JOB_ID:-none}" "$(hostname)" \
        "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    printf ' %q' "${command[@]}"
    echo
    if [[ ${DRY_RUN:-0} == 1 ]]; then return; fi
    command -v torchrun >/dev/null ||
        { echo "no torchrun on PATH; activate the environment in scripts/site.sh, or set VENV" >&2; exit 2; }
    trap '' USR1
    local code=0 told
    told=$(mktemp -d)
    EXIT_CODE_FILE=$told/code "${command[@]}" || code=$?
    ((code)) && [[ -s $told/code ]] && code=$(<"$told/code")
    rm -rf -- "$told"
    return "$code"
}
