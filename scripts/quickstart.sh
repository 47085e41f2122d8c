#!/usr/bin/env bash
# Install, train and evaluate a detector on synthetic X-rays:
#
#   bash scripts/quickstart.sh
#
# Environment: SEED (default 0), OUTPUT_DIR (default logs/quickstart, relative to the repository root), VENV, PYTHON.
# Run it again after an interruption: every step resumes.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/lib/venv.sh
# Waiting threads must not spin: beside another busy program a step would take 1.5 times as long.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

TRAIN_IMAGES=720
VAL_IMAGES=150
POSITIVE_PERCENT=60 # share of images with TB; in TBX11K it is 9 %, which takes longer to learn
PHANTOM_SEED=0
DATA=data/phantom_quickstart
CONFIG=config/DINO/DINO_tiny_phantom.py
SEED=${SEED:-0}
OUTPUT_DIR=${OUTPUT_DIR:-logs/quickstart}

# step TITLE COMMAND...   Run a step; if it fails, exit with its exit code.
step() {
    local code=0
    printf '\n== %s\n' "$1"
    "${@:2}" || code=$?
    ((code == 0)) || fail "$code" "quickstart stopped at '$1' (exit code $code): ${*:2}"
}

minutes() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

if [[ -f $OUTPUT_DIR/config.py ]] && ! grep -qx "seed = $SEED" "$OUTPUT_DIR/config.py"; then
    fail 2 "$OUTPUT_DIR holds a run of another seed than $SEED; set OUTPUT_DIR=logs/NAME for a new run, or remove it"
fi

printf '== Python environment\n'
use_venv requirements.txt
installed=$SECONDS
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores < 8 ? cores : 8))} # the network is too small for more

step "synthetic X-rays in $DATA" \
    python scripts/make_phantom.py --output_dir "$DATA" --train "$TRAIN_IMAGES" --val "$VAL_IMAGES" \
    --seed "$PHANTOM_SEED" --positive_fraction "$(printf '0.%02d' "$POSITIVE_PERCENT")"
step "training, log in $OUTPUT_DIR/info.txt" \
    python main.py --config_file "$CONFIG" --data_path "$DATA" --output_dir "$OUTPUT_DIR" --options "seed=$SEED"
# The last checkpoint, not the best one: that was chosen by its metrics on the same images. The results, in a separate
# folder, equal those of the last evaluation of the training.
step "evaluation of the last checkpoint" \
    python main.py --eval --resume "$OUTPUT_DIR/checkpoint.pth" --data_path "$DATA"
step "curves" python scripts/plot_run.py "$OUTPUT_DIR"
step "detections on X-rays" python scripts/show_detections.py "$OUTPUT_DIR" --data_path "$DATA"

printf '\n== result\n'
awk '/^evaluation after/ { table = "" } { table = table $0 "\n" } END { printf "%s", table }' "$OUTPUT_DIR/info.txt"
ap50=$(python -c 'import json, sys; print("%.3f" % json.load(open(sys.argv[1]))["all/agnostic/AP50"])' "$OUTPUT_DIR/report.json")
cat <<TEXT

$POSITIVE_PERCENT % of these synthetic images show TB; in the training list of TBX11K it is 9 %. The metrics show that the
code learns, not how well it detects tuberculosis.
plots: $OUTPUT_DIR/curves.png, $OUTPUT_DIR/detections.png (ground truth and detections on X-rays)
time: $(minutes $((SECONDS - installed))) after the installation, which took $(minutes "$installed"); seed $SEED
class-agnostic AP50 on held-out phantom images: $ap50 ($OUTPUT_DIR/report.json)
TEXT
