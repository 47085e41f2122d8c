# Sourced by every job script, never run. A job script states its resources and calls `launch`; everything else about a
# job is in this file. Settings from the environment or scripts/site.sh (docs/cluster.md has more):
#
#   DATA_PATH      the data folder (required)
#   RUN_NAME       the run is logs/RUN_NAME (default JOBNAME_JOBID, so a new job never resumes another's run)
#   OUTPUT_DIR     the run folder, if elsewhere; the tasks of a job array add _TASK to either
#   GPUS           ranks per node (default: the GPUs of the allocation, and without any one rank on the CPU)
#   VENV           virtual environment to activate if it is there (default .venv)
#   MAX_REQUEUES   how often a training requeues itself; every restart of the job counts (default 20)
#   IMAGE_CACHE    folder of the cache of decoded images (scripts/build_cache.py), if any: image_cache=IMAGE_CACHE
#   STAGE_DATA=1   first copy the data folder, or IMAGE_CACHE if set, to the disk of each node
#   DRY_RUN=1      print the command instead of running it
# shellcheck shell=bash
set -euo pipefail

# Slurm's signal before the time limit may arrive at any moment; `start` handles it.
warned=0
trap 'warned=1' USR1

# fail CODE MESSAGE   Exit with an error message as the last line of the log.
fail() {
    echo "error: $2" >&2
    exit "$1"
}

# sbatch runs a copy of the job script from a spool directory, so paths start at the
# directory the job was submitted from, not at ${BASH_SOURCE[0]}.
cd -- "${SLURM_SUBMIT_DIR:-$PWD}"
[[ -f main.py ]] || fail 2 "submit from the repository root (no main.py in $PWD)"

# Site settings: module loads, conda environment, data folder. Not versioned.
if [[ -f scripts/site.sh ]]; then
    set +u -E # module and conda read unset variables; they are functions, in which the trap must work too
    trap 'echo "error: scripts/site.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
    # shellcheck source=scripts/site.example.sh
    source scripts/site.sh
    trap - ERR
    set -u +E
fi
[[ -z ${VENV:-} || $VENV == none || -f $VENV/bin/activate ]] || fail 2 "VENV: there is no environment in $VENV"
VENV=${VENV:-.venv}
if [[ -f $VENV/bin/activate ]]; then
    # shellcheck source=/dev/null
    source "$VENV/bin/activate"
fi

JOB=${SLURM_JOB_ID:-}
TASK=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_TASK_ID:-}}
RUN_NAME=${RUN_NAME:-${JOB:+${SLURM_JOB_NAME:-job}_${SLURM_ARRAY_JOB_ID:-$JOB}}}
RUN_NAME=${RUN_NAME:-$(basename -- "$0" | sed 's/\.[a-z]*$//')} # outside Slurm: the name of the script
NODES=${SLURM_JOB_NUM_NODES:-1}
GPUS=${GPUS:-${SLURM_GPUS_ON_NODE:-$([[ -n $JOB ]] && echo 0 || echo 1)}}
RANKS=$((GPUS > 0 ? GPUS : 1)) # per node
MAX_REQUEUES=${MAX_REQUEUES:-20}
RESTARTS=${SLURM_RESTART_COUNT:-0}

# launch ARGS...   Run main.py with ARGS on every GPU of the job, on all its nodes, and return its exit code
# (docs/resume.md). On Slurm's signal (#SBATCH --signal=B:USR1@SECONDS) a training saves and the job requeues itself.
launch() {
    take_paths "$@"
    command=(python scripts/lib/ranks.py)
    add_rendezvous
    command+=(main.py --data_path "$data" --output_dir "$OUTPUT_DIR")
    ((GPUS > 0)) || command+=(--device cpu) # an unrequested GPU belongs to another job
    add_options
    command+=(${arguments[@]+"${arguments[@]}"}) # bash before 4.4 treats an empty array as an unset variable
    print_job
    if [[ ${DRY_RUN:-0} == 1 ]]; then return; fi
    command -v python >/dev/null || fail 2 "no python on PATH; activate the environment in scripts/site.sh, or set VENV"
    if [[ -n $staged ]]; then "${each_node[@]}" bash scripts/lib/stage_data.sh "${IMAGE_CACHE:-$DATA_PATH}" "$staged"; fi

    local code=0 log_start
    log_start=$(log_size)
    start || code=$?
    if [[ -n $JOB ]] && ((code == 75 && warned)); then requeue; fi
    ((code == 0)) || print_outcome "$code" "$log_start" >&2
    return "$code"
}

# Take the paths out of the arguments, where main.py accepts them too. Sets `arguments` to all others, `data` and `cache`
# to the folders that the job reads, and `staged` to the one of them that is copied to the node.
take_paths() {
    arguments=() staged=
    while (($#)); do
        case $1 in
            --data_path | --coco_path) DATA_PATH=${2:-} ;;
            --data_path=* | --coco_path=*) DATA_PATH=${1#*=} ;;
            --output_dir) OUTPUT_DIR=${2:-} ;;
            --output_dir=*) OUTPUT_DIR=${1#*=} ;;
            *) arguments+=("$1") ;;
        esac
        case $1 in --data_path | --coco_path | --output_dir) (($# < 2)) || shift ;; esac
        shift
    done
    [[ -n ${DATA_PATH:-} ]] || fail 2 "set DATA_PATH to the TBX11K folder, in scripts/site.sh or in the environment"
    again="${JOB:+OUTPUT_DIR=${OUTPUT_DIR:-logs/$RUN_NAME} sbatch with }the same arguments"
    OUTPUT_DIR=${OUTPUT_DIR:-logs/$RUN_NAME}${TASK:+_$TASK}
    data=$DATA_PATH cache=${IMAGE_CACHE:-}
    [[ ${STAGE_DATA:-0} != 1 ]] || choose_staged
}

# Choose the folder of the copy: the same for all jobs that use the data, and private to the user, as /tmp is shared.
# With a cache the image files are checked but not read, so the cache is copied instead.
choose_staged() {
    local disk=${SLURM_TMPDIR:-${TMPDIR:-}} what=DATA_PATH source
    [[ -z ${IMAGE_CACHE:-} ]] || what=IMAGE_CACHE
    [[ -n $disk ]] || fail 2 "STAGE_DATA=1 needs SLURM_TMPDIR or TMPDIR: set TMPDIR in scripts/site.sh to the node's own disk"
    source=$(cd -- "${!what}" 2>/dev/null && pwd -P) || fail 2 "$what: there is no folder ${!what} to stage"
    staged=$disk/staged_$(id -u)_$(cksum <<<"$source" | cut -d ' ' -f 1)/${source##*/}
    if [[ -n $cache ]]; then cache=$staged; else data=$staged; fi
}

# Add the rendezvous of the ranks, and set `each_node` to the prefix that runs a command on every node. On one node
# torchrun chooses a free port; between nodes it is derived from the job id, so that jobs on one node do not collide.
add_rendezvous() {
    # A SIGUSR1 to the whole job is for the ranks; an ignored signal stays ignored in child processes.
    # shellcheck disable=SC2016
    each_node=(bash -c 'trap "" USR1; exec "$@"' ranks)
    if ((NODES == 1)); then
        command+=(--standalone --nproc_per_node "$RANKS")
        return
    fi
    each_node=(srun --export=ALL --nodes "$NODES" --ntasks "$NODES" --ntasks-per-node 1 --kill-on-bad-exit=1 "${each_node[@]}")
    local head
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    command+=(--nnodes "$NODES" --nproc_per_node "$RANKS" --max_restarts 0 --rdzv_backend c10d)
    command+=(--rdzv_endpoint "${head%%$'\n'*}:$((15000 + JOB % 15000))" --rdzv_id "$JOB.$RESTARTS")
}

# Add options that follow from the allocation, before the user's arguments, which override them.
add_options() {
    local cpus=${SLURM_CPUS_PER_TASK:-} options=() workers
    if [[ -n $cpus ]]; then
        export SRUN_CPUS_PER_TASK=$cpus # srun does not inherit it
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > RANKS ? cpus / RANKS : 1))}
        workers=$((cpus / RANKS - 1)) # one core is for the rank itself
        options+=("num_workers=$((workers < 1 ? 1 : workers > 8 ? 8 : workers))")
    fi
    [[ -z $cache ]] || options+=("image_cache=$cache")
    [[ -z $TASK || " ${arguments[*]-} " == *" --eval "* ]] || options+=("seed=$TASK")
    ((${#options[@]} == 0)) || command+=(--options "${options[@]}")
}

# Print the header of the log: what runs where, and how to follow it. Never the environment.
print_job() {
    local commit log time='?' memory='?'
    commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
    [[ -z $(git status --porcelain --untracked-files=no 2>/dev/null | head -n 1) ]] || commit+=", with changes"
    ((RESTARTS == 0)) || echo
    if [[ -n $JOB ]]; then
        read -r time memory < <(squeue --noheader --jobs "$JOB" --format '%l %m' 2>/dev/null) || true
        echo "job $JOB (${SLURM_JOB_NAME:-job}${TASK:+, task $TASK of array $SLURM_ARRAY_JOB_ID}) on" \
            "${SLURM_JOB_NODELIST:-$(hostname)}, requeued $RESTARTS times"
        echo "allocation: $NODES node(s), on each ${SLURM_GPUS_ON_NODE:-0} GPU(s), ${SLURM_CPUS_PER_TASK:-?} CPUs," \
            "${memory:-?} memory; time limit ${time:-?}"
    else
        echo "no Slurm job; $RANKS rank(s) on $(hostname)"
    fi
    echo "commit: $commit"
    printf 'command:' && printf ' %q' "${command[@]}" && echo
    echo "run folder: $OUTPUT_DIR"
    log=$(log_file)
    echo "follow: tail -f ${log:-$OUTPUT_DIR/info.txt}"
}

# Run the command and return its exit code. It runs in the background, as bash runs no trap during a command in the
# foreground. A training is asked to stop by a file in its folder: unlike a signal, it cannot arrive too early, and it
# reaches all nodes.
start() {
    local code_file=logs/.exit_code.${JOB:-$$} code=0 agent
    mkdir -p logs || fail 2 "cannot make the folder logs in $PWD"
    rm -f -- "$code_file" "$OUTPUT_DIR/stop" # of an earlier start
    export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR} # hides warnings about host names and closed connections
    EXIT_CODE_FILE=$code_file "${each_node[@]}" "${command[@]}" &
    agent=$!
    trap 'warned=1; ask_to_stop' USR1
    trap 'if [[ -n $JOB ]]; then ask_to_stop; else kill -TERM "$agent" 2>/dev/null || true; fi' TERM HUP
    trap 'kill -INT "$agent" 2>/dev/null || true' INT
    ((warned == 0)) || ask_to_stop
    # Not `wait` alone: if a trap interrupts it just as the command ends, bash (5.2) loses the exit code.
    while kill -0 "$agent" 2>/dev/null; do sleep 0.5 || true; done
    wait "$agent" || code=$?
    trap - TERM INT HUP
    ((code == 0)) || [[ ! -s $code_file ]] || code=$(<"$code_file")
    rm -f -- "$code_file" "$OUTPUT_DIR/stop"
    return "$code"
}

ask_to_stop() {
    echo "$(date '+%F %T') asking the run to save and to stop"
    { mkdir -p -- "$OUTPUT_DIR" && touch -- "$OUTPUT_DIR/stop"; } || true
}

# Requeue the job after everything is saved. Returns if that is not possible.
requeue() {
    if ((RESTARTS >= MAX_REQUEUES)); then
        echo "requeued $RESTARTS times already and MAX_REQUEUES is $MAX_REQUEUES: not again"
    elif echo "everything is saved; requeueing job $JOB, number $((RESTARTS + 1)) of at most $MAX_REQUEUES" &&
        scontrol requeue "$JOB"; then
        trap - USR1
        sleep 300 # Slurm ends this shell; exiting earlier could count as the end of the job
    fi
}

# print_outcome CODE LOG_START   Print the last line of the log: the outcome of the job, and what to do.
print_outcome() {
    local what="${JOB:+job $JOB}" why
    what=${what:-this run}
    case $1 in
        75) echo "$what: asked to stop, everything is saved. To resume: $again" ;;
        130) echo "$what: interrupted. To resume from the last checkpoint: $again" ;;
        *)
            why=$(last_error "$2")
            echo "$what: failed with exit code $1: ${why:-see above}"
            ;;
    esac
}

# last_error LOG_START   Print the last error in the log after that byte, as one line: an error message with its
# indented lines; else the last line of a traceback, or the signal that killed a rank.
last_error() {
    local file
    file=$(log_file)
    [[ -n $file ]] || return 0
    tail -c "+$(($1 + 1))" -- "$file" | awk -v again="$again" '
        /^error: / { message = substr($0, 8); is_open = 1; next }
        is_open && /^  / { sub(/^ +/, ""); message = message " | " $0; next }
        { is_open = 0; sub(/^\[rank[0-9]+\]: /, "") }
        /^[A-Za-z_][A-Za-z_.0-9]*(Error|Exception): / { crash = $0 }
        /^rank [0-9]+ on .* was killed by / { killed = $0 }
        END {
            if (message) print message
            else if (killed ~ /SIGKILL/) print killed ". Did it need more memory (sbatch --mem)? To resume from the last checkpoint: " again
            else if (crash) print crash " (traceback above). Once fixed, the run resumes from its last checkpoint, if it has one: " again
            else if (killed) print killed ". To resume from the last checkpoint: " again
        }'
}

# Print the file that standard output is redirected to, if any.
log_file() {
    local file
    file=$(readlink "/proc/$$/fd/1" 2>/dev/null) || true
    if [[ -f $file ]]; then echo "${file#"$PWD"/}"; fi
}

log_size() {
    local file
    file=$(log_file)
    if [[ -n $file ]]; then stat -c %s -- "$file"; else echo 0; fi
}
